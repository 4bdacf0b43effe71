//! Patterns of file names, as in glob(7): `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before what stands for itself.

/// A pattern for the whole of a name. A leading period is a character like others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    Any,
    Many,
    OneOf { ranges: Vec<(u8, u8)>, is_negated: bool },
}

impl Glob {
    /// Reads a pattern; `None` for one that no name can have: empty, with a slash, a `[` without its `]`, or a `\`
    /// at its end.
    pub fn parse(pattern: &[u8]) -> Option<Self> {
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let Some((byte, behind)) = rest.split_first() {
            rest = behind;
            parts.push(match byte {
                b'/' => return None,
                b'*' if parts.last() == Some(&Part::Many) => continue,
                b'*' => Part::Many,
                b'?' => Part::Any,
                b'[' => set(&mut rest)?,
                b'\\' => Part::Byte(take(&mut rest)?),
                byte => Part::Byte(*byte),
            });
        }
        (!parts.is_empty()).then_some(Self(parts))
    }

    /// Whether the whole name is like this. Takes as many steps as the product of both lengths at most, whatever
    /// they are.
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut part, mut at) = (0, 0);
        // The last `*`, and what the name is matched with behind it: all else is tried from there.
        let mut last_many = None;
        loop {
            match (self.0.get(part), name.get(at)) {
                (Some(Part::Many), _) => {
                    last_many = Some((part + 1, at));
                    part += 1;
                }
                (Some(one), Some(byte)) if one.is(*byte) => {
                    part += 1;
                    at += 1;
                }
                (None, None) => return true,
                _ => {
                    let Some((behind, from)) = last_many.filter(|(_, from)| *from < name.len())
                    else {
                        return false;
                    };
                    last_many = Some((behind, from + 1));
                    (part, at) = (behind, from + 1);
                }
            }
        }
    }
}

impl Part {
    fn is(&self, byte: u8) -> bool {
        match self {
            Self::Byte(own) => *own == byte,
            Self::Any => true,
            Self::Many => false,
            Self::OneOf { ranges, is_negated } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&byte)) != *is_negated
            }
        }
    }
}

fn take(rest: &mut &[u8]) -> Option<u8> {
    let (byte, behind) = rest.split_first()?;
    *rest = behind;
    (*byte != b'/').then_some(*byte)
}

/// The set whose `[` was read; a `]` that comes first is one of its characters.
fn set(rest: &mut &[u8]) -> Option<Part> {
    let negated = rest.strip_prefix(b"!").or_else(|| rest.strip_prefix(b"^"));
    let is_negated = negated.is_some();
    *rest = negated.unwrap_or(rest);
    let mut ranges = Vec::new();
    loop {
        let from = match take(rest)? {
            b']' if !ranges.is_empty() => return Some(Part::OneOf { ranges, is_negated }),
            b'\\' => take(rest)?,
            byte => byte,
        };
        let to = match rest {
            [b'-', to, ..] if *to != b']' => {
                take(rest)?;
                match take(rest)? {
                    b'\\' => take(rest)?,
                    to => to,
                }
            }
            _ => from,
        };
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &[u8]) -> bool {
        Glob::parse(pattern.as_bytes()).unwrap().matches(name)
    }

    #[test]
    fn a_name_is_matched_as_in_a_shell() {
        for (pattern, name) in [
            ("*.part", "a.part"),
            ("*.part", ".part"),
            ("*", "anything"),
            ("a*b*c", "aXXbYYbZc"),
            ("a**c", "ac"),
            ("sess_????", "sess_1234"),
            ("[a-c]x", "bx"),
            ("[!a-c]x", "dx"),
            ("[^a]", "b"),
            ("[]]", "]"),
            ("[!]]", "a"),
            ("[a-]", "-"),
            ("[\\]a]", "]"),
            ("\\*", "*"),
            ("*.[jJ][pP]g", "x.jpg"),
            ("plain", "plain"),
        ] {
            assert!(matches(pattern, name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*.part", "a.parts"),
            ("*.part", "apart"),
            ("?", ""),
            ("?", "ab"),
            ("[a-c]x", "dx"),
            ("[!a-c]x", "bx"),
            ("\\*", "a"),
            ("a*b", "ab\n"),
            ("[c-a]", "b"),
            ("plain", "Plain"),
        ] {
            assert!(!matches(pattern, name.as_bytes()), "{pattern} {name}");
        }
    }

    #[test]
    fn names_are_bytes() {
        assert!(matches("*.tmp", b"\xff\n\xfe.tmp"));
        assert!(matches("?", b"\xff"));
        assert!(matches("[!a]", b"\xff"));
    }

    #[test]
    fn what_no_name_can_be_like_is_refused() {
        for pattern in ["", "a/b", "[a", "[", "[]", "[!]", "a\\", "[a-", "[a/b]", "\\/"] {
            assert_eq!(Glob::parse(pattern.as_bytes()), None, "{pattern}");
        }
    }

    #[test]
    fn many_stars_take_no_longer() {
        let pattern = "*a".repeat(100) + "*b";
        assert!(!matches(&pattern, &[b'a'; 255]));
    }
}
