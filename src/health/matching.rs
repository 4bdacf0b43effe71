//! The tests that a response must pass: `match`.

use std::fmt;
use std::ops::RangeInclusive;

/// A regular expression.
pub trait Pattern {
    /// Whether it matches; `None` if that is not known.
    fn is_match(&self, text: &[u8]) -> Option<bool>;
}

/// A response, as the server has sent it.
pub trait TestedResponse {
    /// What stands for a variable.
    type Variable;

    /// Its status.
    fn status(&self) -> u16;
    /// Its headers, each line by itself.
    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])>;
    /// The first bytes of its body.
    fn body(&self) -> &[u8];
    /// The value of a variable now.
    fn variable(&self, variable: &Self::Variable) -> Vec<u8>;
}

/// How many bytes of a body are examined.
pub const BODY_LIMIT: usize = 256 * 1024;

/// Tests, of which all must hold.
#[derive(Debug)]
pub struct MatchTests<P, V> {
    /// At most one of the status.
    pub status: Option<StatusTest>,
    /// Any number of headers.
    pub headers: Vec<HeaderTest<P>>,
    /// At most one of the body.
    pub body: Option<BodyTest<P>>,
    /// Variables, by their names: none may be empty or `0`.
    pub require: Vec<(Vec<u8>, V)>,
}

impl<P, V> Default for MatchTests<P, V> {
    fn default() -> Self {
        Self { status: None, headers: Vec::new(), body: None, require: Vec::new() }
    }
}

/// A test of the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusTest {
    /// Whether it must be one of these, or none.
    pub sense: Sense,
    /// Statuses.
    pub ranges: Vec<RangeInclusive<u16>>,
}

/// Whether something must hold or must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sense {
    /// It must.
    Is,
    /// It must not.
    IsNot,
}

/// A test of the headers of one name.
#[derive(Debug)]
pub struct HeaderTest<P> {
    /// The name, in any case.
    pub name: Vec<u8>,
    /// What is asked.
    pub test: Test<P>,
}

/// What is asked of a header.
#[derive(Debug)]
pub enum Test<P> {
    /// That it is there, or is not.
    Present(Sense),
    /// That one of its lines has this value; that it is there and none has.
    Value(Sense, Vec<u8>),
    /// That one of its lines matches; that it is there and none matches.
    Matches(Sense, P, Vec<u8>),
}

/// A test of the body.
#[derive(Debug)]
pub struct BodyTest<P> {
    /// Whether it must match.
    pub sense: Sense,
    /// The regular expression.
    pub pattern: P,
    /// The same as text.
    pub source: Vec<u8>,
}

/// Why a response is not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The status.
    Status(u16),
    /// A header is not there.
    HeaderMissing(Vec<u8>),
    /// A header is there.
    HeaderPresent(Vec<u8>),
    /// A header has not the value that it must have, or has one that it must not have.
    Header(Vec<u8>),
    /// The body does not match, or matches.
    Body(Sense, Vec<u8>),
    /// PCRE gave up.
    Pattern(Vec<u8>),
    /// A variable is empty or `0`.
    Variable(Vec<u8>),
}

impl<P: Pattern, V> MatchTests<P, V> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.status.is_none()
            && self.headers.is_empty()
            && self.body.is_none()
            && self.require.is_empty()
    }

    /// Whether all tests hold.
    ///
    /// # Errors
    ///
    /// The first that does not.
    pub fn judge<R: TestedResponse<Variable = V>>(&self, response: &R) -> Result<(), Mismatch> {
        if let Some(test) = &self.status {
            test.judge(response.status())?;
        }
        self.headers.iter().try_for_each(|test| test.judge(response))?;
        if let Some(test) = &self.body {
            test.judge(response.body())?;
        }
        for (name, variable) in &self.require {
            if matches!(response.variable(variable).as_slice(), b"" | b"0") {
                return Err(Mismatch::Variable(name.clone()));
            }
        }
        Ok(())
    }
}

/// Without `match`: the status is 2xx or 3xx.
///
/// # Errors
///
/// It is not.
pub fn judge_by_default(status: u16) -> Result<(), Mismatch> {
    if (200..400).contains(&status) { Ok(()) } else { Err(Mismatch::Status(status)) }
}

impl StatusTest {
    fn judge(&self, status: u16) -> Result<(), Mismatch> {
        let found = self.ranges.iter().any(|range| range.contains(&status));
        if self.sense.holds(found) { Ok(()) } else { Err(Mismatch::Status(status)) }
    }
}

impl Sense {
    fn holds(self, found: bool) -> bool {
        found == (self == Self::Is)
    }
}

impl<P: Pattern> HeaderTest<P> {
    fn judge<R: TestedResponse>(&self, response: &R) -> Result<(), Mismatch> {
        let name = || self.name.clone();
        let lines = || {
            let own = |(name, _): &(&[u8], &[u8])| name.eq_ignore_ascii_case(&self.name);
            response.headers().filter(own).map(|(_, value)| value)
        };
        let is_there = lines().next().is_some();
        let (sense, found) = match &self.test {
            Test::Present(sense) => {
                return match sense {
                    _ if sense.holds(is_there) => Ok(()),
                    Sense::Is => Err(Mismatch::HeaderMissing(name())),
                    Sense::IsNot => Err(Mismatch::HeaderPresent(name())),
                };
            }
            _ if !is_there => return Err(Mismatch::HeaderMissing(name())),
            Test::Value(sense, value) => (sense, lines().any(|line| line == value.as_slice())),
            Test::Matches(sense, pattern, source) => {
                let mut found = false;
                for line in lines() {
                    let matched = pattern.is_match(line);
                    found |= matched.ok_or_else(|| Mismatch::Pattern(source.clone()))?;
                }
                (sense, found)
            }
        };
        if sense.holds(found) { Ok(()) } else { Err(Mismatch::Header(name())) }
    }
}

impl<P: Pattern> BodyTest<P> {
    fn judge(&self, body: &[u8]) -> Result<(), Mismatch> {
        let body = body.get(..BODY_LIMIT).unwrap_or(body);
        match self.pattern.is_match(body) {
            None => Err(Mismatch::Pattern(self.source.clone())),
            Some(found) if self.sense.holds(found) => Ok(()),
            Some(_) => Err(Mismatch::Body(self.sense, self.source.clone())),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::HeaderMissing(name) => write!(f, "header \"{}\" is missing", text(name)),
            Self::HeaderPresent(name) => write!(f, "header \"{}\" is present", text(name)),
            Self::Header(name) => write!(f, "header \"{}\" does not match", text(name)),
            Self::Body(Sense::Is, source) => write!(f, "body does not match \"{}\"", text(source)),
            Self::Body(Sense::IsNot, source) => write!(f, "body matches \"{}\"", text(source)),
            Self::Pattern(source) => {
                write!(f, "regex \"{}\" could not be executed", text(source))
            }
            Self::Variable(name) => write!(f, "variable \"${}\" is empty or 0", text(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Matches what contains the text; `!` cannot be told.
    #[derive(Debug)]
    struct Contains(&'static [u8]);

    impl Pattern for Contains {
        fn is_match(&self, text: &[u8]) -> Option<bool> {
            let found = text.windows(self.0.len()).any(|window| window == self.0);
            (self.0 != b"!").then_some(found)
        }
    }

    #[derive(Default)]
    struct Fixed {
        status: u16,
        headers: Vec<(&'static str, &'static str)>,
        body: Vec<u8>,
    }

    impl TestedResponse for Fixed {
        type Variable = &'static str;

        fn status(&self) -> u16 {
            self.status
        }
        fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
            self.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        }
        fn body(&self) -> &[u8] {
            &self.body
        }
        fn variable(&self, variable: &&'static str) -> Vec<u8> {
            variable.as_bytes().to_vec()
        }
    }

    type Tests = MatchTests<Contains, &'static str>;

    fn status(sense: Sense, ranges: &[RangeInclusive<u16>]) -> Tests {
        MatchTests {
            status: Some(StatusTest { sense, ranges: ranges.to_vec() }),
            ..MatchTests::default()
        }
    }

    fn header(test: Test<Contains>) -> Tests {
        MatchTests {
            headers: vec![HeaderTest { name: b"X-One".to_vec(), test }],
            ..MatchTests::default()
        }
    }

    fn body(sense: Sense, text: &'static [u8]) -> Tests {
        let body = BodyTest { sense, pattern: Contains(text), source: text.to_vec() };
        MatchTests { body: Some(body), ..MatchTests::default() }
    }

    #[test]
    fn default_is_2xx_and_3xx() {
        let good = |status: &u16| judge_by_default(*status).is_ok();
        assert_eq!((0..=999).filter(good).collect::<Vec<_>>(), (200..=399).collect::<Vec<_>>());
    }

    #[test]
    fn status_is_one_of_ranges_or_none() {
        let ranges = [301..=303, 307..=307];
        for (sense, listed) in [(Sense::Is, true), (Sense::IsNot, false)] {
            for status_is in [200, 300, 301, 302, 303, 304, 306, 307, 308] {
                let found = matches!(status_is, 301..=303 | 307);
                let judged =
                    status(sense, &ranges).judge(&Fixed { status: status_is, ..Fixed::default() });
                assert_eq!(judged.is_ok(), found == listed, "{sense:?} {status_is}");
                if let Err(why) = judged {
                    assert_eq!(why.to_string(), format!("status {status_is}"));
                }
            }
        }
    }

    #[test]
    fn a_header_of_several_lines() {
        use Sense::{Is, IsNot};

        let none: &[(&str, &str)] = &[("X-Two", "a")];
        let one: &[(&str, &str)] = &[("x-one", "a")];
        let two: &[(&str, &str)] = &[("X-ONE", "b"), ("X-Two", "a"), ("X-One", "a")];
        let other: &[(&str, &str)] = &[("X-One", "A"), ("X-One", "aa")];
        let value = |sense| header(Test::Value(sense, b"a".to_vec()));
        let pattern = |sense| header(Test::Matches(sense, Contains(b"a"), b"a".to_vec()));
        let cases: [(&str, Tests, [bool; 4]); 6] = [
            ("header X", header(Test::Present(Is)), [false, true, true, true]),
            ("header ! X", header(Test::Present(IsNot)), [true, false, false, false]),
            ("=", value(Is), [false, true, true, false]),
            ("!=", value(IsNot), [false, false, false, true]),
            ("~", pattern(Is), [false, true, true, true]),
            ("!~", pattern(IsNot), [false, false, false, false]),
        ];
        for (name, tests, expected) in cases {
            let judged = [none, one, two, other].map(|headers| {
                tests.judge(&Fixed { headers: headers.to_vec(), ..Fixed::default() }).is_ok()
            });
            assert_eq!(judged, expected, "{name}");
        }
    }

    #[test]
    fn body_up_to_the_limit_and_no_further() {
        let mut text = vec![b'.'; BODY_LIMIT - 1];
        text.extend_from_slice(b"xy");
        let response = Fixed { body: text, ..Fixed::default() };
        assert!(body(Sense::Is, b".x").judge(&response).is_ok());
        let why = body(Sense::Is, b"xy").judge(&response).unwrap_err();
        assert_eq!(why.to_string(), "body does not match \"xy\"");
        assert!(body(Sense::IsNot, b"xy").judge(&response).is_ok());
        let why = body(Sense::IsNot, b"x").judge(&response).unwrap_err();
        assert_eq!(why.to_string(), "body matches \"x\"");
    }

    #[test]
    fn what_pcre_cannot_tell_does_not_hold() {
        for sense in [Sense::Is, Sense::IsNot] {
            let why = body(sense, b"!").judge(&Fixed::default()).unwrap_err();
            assert_eq!(why.to_string(), "regex \"!\" could not be executed");
            let tests = header(Test::Matches(sense, Contains(b"!"), b"!".to_vec()));
            let response = Fixed { headers: vec![("X-One", "a")], ..Fixed::default() };
            assert_eq!(tests.judge(&response), Err(Mismatch::Pattern(b"!".to_vec())));
        }
    }

    #[test]
    fn required_variables_are_neither_empty_nor_0() {
        for (value, good) in [("", false), ("0", false), ("00", true), ("no", true), ("1", true)] {
            let require = vec![(b"one".to_vec(), "1"), (b"two".to_vec(), value)];
            let tests: Tests = MatchTests { require, ..MatchTests::default() };
            let judged = tests.judge(&Fixed::default());
            assert_eq!(judged.is_ok(), good, "{value:?}");
            if let Err(why) = judged {
                assert_eq!(why.to_string(), "variable \"$two\" is empty or 0");
            }
        }
    }

    #[test]
    fn all_tests_must_hold() {
        let tests = MatchTests {
            status: Some(StatusTest { sense: Sense::Is, ranges: vec![200..=200] }),
            headers: vec![
                HeaderTest { name: b"A".to_vec(), test: Test::Present(Sense::Is) },
                HeaderTest { name: b"B".to_vec(), test: Test::Present(Sense::IsNot) },
            ],
            body: Some(BodyTest {
                sense: Sense::Is,
                pattern: Contains(b"ok"),
                source: b"ok".to_vec(),
            }),
            require: vec![(b"v".to_vec(), "1")],
        };
        let good = || Fixed { status: 200, headers: vec![("A", "")], body: b"is ok".to_vec() };
        assert_eq!(tests.judge(&good()), Ok(()));
        assert_eq!(tests.judge(&Fixed { status: 204, ..good() }), Err(Mismatch::Status(204)));
        let why = tests.judge(&Fixed { headers: vec![], ..good() }).unwrap_err();
        assert_eq!(why.to_string(), "header \"A\" is missing");
        let why =
            tests.judge(&Fixed { headers: vec![("A", ""), ("b", "")], ..good() }).unwrap_err();
        assert_eq!(why.to_string(), "header \"B\" is present");
        assert!(tests.judge(&Fixed { body: b"o k".to_vec(), ..good() }).is_err());
        assert_eq!(Tests::default().judge(&Fixed::default()), Ok(()), "no test at all");
    }
}
