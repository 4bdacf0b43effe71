//! The arguments of a request.

use crate::schedule::UnixMs;

/// The part of a URI behind the `?`.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryArgs<'a>(pub(super) &'a [u8]);

/// Whether a `+` stands for a blank, as in forms, or for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plus {
    Blank,
    Itself,
}

/// For whom something is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// This host.
    Host,
    /// All hosts of a fleet.
    Fleet,
}

/// How many due times are listed by default, and at most.
const COUNT: usize = 5;
const LARGEST_COUNT: usize = 100;
/// So much of an unknown name is repeated.
const LONGEST_NAME: usize = 64;
/// A longer value is none.
const LONGEST: usize = 4096;

impl QueryArgs<'_> {
    /// The decoded value of the first argument `name`.
    ///
    /// # Errors
    ///
    /// It is too long, not UTF-8, or has a `%` that no two hex digits follow.
    pub(super) fn get(self, name: &str, plus: Plus) -> Result<Option<String>, String> {
        let value = self.0.split(|byte| *byte == b'&').find_map(|argument| {
            let value = argument.strip_prefix(name.as_bytes())?;
            if value.is_empty() { Some(value) } else { value.strip_prefix(b"=") }
        });
        let decoded = |value: &[u8]| {
            let value = Some(value).filter(|value| value.len() <= LONGEST);
            value
                .and_then(|value| decode(value, plus))
                .and_then(|value| String::from_utf8(value).ok())
                .ok_or_else(|| format!("invalid \"{name}\" argument"))
        };
        value.map(decoded).transpose()
    }

    /// Refuses all arguments but one each of these: who mistypes a name wants something else than what
    /// would be done without.
    ///
    /// # Errors
    ///
    /// There is another one, or one of them twice.
    pub(super) fn only(self, names: &[&str]) -> Result<(), String> {
        let mut seen = Vec::new();
        for argument in self.0.split(|byte| *byte == b'&').filter(|it| !it.is_empty()) {
            let name = argument.split(|byte| *byte == b'=').next().unwrap_or_default();
            if !names.iter().any(|known| known.as_bytes() == name) {
                let name = name.get(..LONGEST_NAME).unwrap_or(name);
                return Err(format!("unknown \"{}\" argument", String::from_utf8_lossy(name)));
            }
            if seen.contains(&name) {
                return Err(format!("duplicate \"{}\" argument", String::from_utf8_lossy(name)));
            }
            seen.push(name);
        }
        Ok(())
    }

    /// `after`: an instant as RFC 3339 or as Unix seconds; `now` if it is not given.
    pub(super) fn after(self, now: UnixMs) -> Result<UnixMs, String> {
        let Some(word) = self.get("after", Plus::Itself)? else { return Ok(now) };
        instant(&word).filter(|after| after.is_in_calendar()).ok_or_else(|| {
            "invalid \"after\" argument, it must be an RFC 3339 instant or Unix seconds".to_owned()
        })
    }

    /// `scope`.
    pub(super) fn scope(self) -> Result<Option<Reach>, String> {
        match self.get("scope", Plus::Itself)?.as_deref() {
            None => Ok(None),
            Some("host") => Ok(Some(Reach::Host)),
            Some("fleet") => Ok(Some(Reach::Fleet)),
            Some(_) => {
                Err("invalid \"scope\" argument, it must be \"host\" or \"fleet\"".to_owned())
            }
        }
    }

    /// `count`.
    pub(super) fn count(self) -> Result<usize, String> {
        let Some(word) = self.get("count", Plus::Itself)? else { return Ok(COUNT) };
        let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        word.parse().ok().filter(|count| digits && (1..=LARGEST_COUNT).contains(count)).ok_or_else(
            || format!("invalid \"count\" argument, it must be between 1 and {LARGEST_COUNT}"),
        )
    }
}

fn instant(word: &str) -> Option<UnixMs> {
    if let Some(instant) = UnixMs::parse_rfc3339(word) {
        return Some(instant);
    }
    let (seconds, fraction) = word.split_once('.').unwrap_or((word, "0"));
    let digits = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    Some(UnixMs(seconds.checked_mul(1000)?.checked_add(ms)?))
}

fn decode(value: &[u8], plus: Plus) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' if plus == Plus::Blank => b' ',
            b'%' => {
                let high = char::from(*bytes.next()?).to_digit(16)?;
                let low = char::from(*bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => *other,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(arguments: &str, name: &str) -> Result<Option<String>, String> {
        QueryArgs(arguments.as_bytes()).get(name, Plus::Blank)
    }

    #[test]
    fn values_are_decoded() {
        let all = "a=1&cron=*/5+*%20%2a&b&ab=2&a=3&%";
        assert_eq!(get(all, "cron"), Ok(Some("*/5 * *".to_owned())));
        assert_eq!(get(all, "a"), Ok(Some("1".to_owned())));
        assert_eq!(get(all, "b"), Ok(Some(String::new())));
        assert_eq!(get(all, "c"), Ok(None));
        assert_eq!(get("", "c"), Ok(None));
        let long = |len: usize| format!("x={}", "a".repeat(len));
        assert!(get(&long(LONGEST), "x").is_ok());
        assert!(get(&long(LONGEST + 1), "x").is_err());
        for bad in ["x=%", "x=%2", "x=%zz", "x=%ff", "x=%+1"] {
            assert!(get(bad, "x").is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_unknown_or_there_twice_is_named() {
        let only = |arguments: &str| QueryArgs(arguments.as_bytes()).only(&["for", "by"]);
        for good in ["", "&", "for", "for=", "for=1h", "by=x&for=1h&"] {
            assert_eq!(only(good), Ok(()), "{good}");
        }
        for (bad, name) in [
            ("fro=2h", "unknown \"fro\""),
            ("for=1h&_=123", "unknown \"_\""),
            ("For=1h", "unknown \"For\""),
            ("=1h", "unknown \"\""),
            ("for%3d1h", "unknown \"for%3d1h\""),
            ("for=1h&for=2h", "duplicate \"for\""),
        ] {
            assert_eq!(only(bad), Err(format!("{name} argument")), "{bad}");
        }
        let long = only(&"x".repeat(10_000)).unwrap_err();
        assert!(long.len() < 100, "{long}");
    }

    #[test]
    fn instants() {
        let after = |word: &str| QueryArgs(format!("after={word}").as_bytes()).after(UnixMs(7));
        let noon = Ok(UnixMs(1_795_435_200_123));
        assert_eq!(after("2026-11-23T12:00:00.123Z"), noon);
        assert_eq!(after("2026-11-23T13:00:00.123%2B01:00"), noon);
        assert_eq!(after("2026-11-23T13:00:00.123+01:00"), noon);
        assert_eq!(after("1795435200.123"), noon);
        assert_eq!(after("1795435200.1239"), noon);
        assert_eq!(after("0"), Ok(UnixMs(0)));
        assert_eq!(after("253402207200"), Ok(UnixMs(253_402_207_200_000)));
        assert_eq!(after("9999-12-30T22:00:00Z"), Ok(UnixMs(253_402_207_200_000)));
        assert_eq!(QueryArgs(b"").after(UnixMs(7)), Ok(UnixMs(7)));
        for bad in ["", "x", "1.", ".1", "-1", "1e3", "9223372036854775807", "99999999999999999999"]
        {
            assert!(after(bad).is_err(), "{bad}");
        }
        // What RFC 3339 cannot write, in whatever zone.
        for bad in ["9999-12-31T00:00:00Z", "253402207201"] {
            assert!(after(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_are_bounded() {
        let count = |word: &str| QueryArgs(format!("count={word}").as_bytes()).count();
        assert_eq!(QueryArgs(b"").count(), Ok(5));
        assert_eq!(count("1"), Ok(1));
        assert_eq!(count("100"), Ok(100));
        for bad in ["", "0", "101", "-1", "+1", "1e9", "99999999999999999999"] {
            assert!(count(bad).is_err(), "{bad}");
        }
    }
}
