//! The parameters of a directive: `name=value`, each at most once.

use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::nginx::conf::Refused;
use crate::nginx::escaped;

/// A parameter of the directive that is being read.
#[derive(Clone, Copy)]
pub(super) struct Parameter<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a [u8],
}

/// The parameters that were given, in their order.
pub(super) struct Parameters<'a>(Vec<Parameter<'a>>);

impl<'a> Parameters<'a> {
    /// Reads `words`, of which each must be one of `known`.
    ///
    /// # Errors
    ///
    /// A word that is no parameter, or one that was given before.
    pub(super) fn read(
        words: impl Iterator<Item = &'a [u8]>,
        known: &[&'a str],
    ) -> Result<Self, Refused> {
        let mut parameters: Vec<Parameter<'a>> = Vec::new();
        for word in words {
            let parameter = split(word, known).ok_or_else(|| Refused::parameter(word))?;
            if parameters.iter().any(|other| other.name == parameter.name) {
                let name = parameter.name;
                return Err(Refused::Because(format!("duplicate \"{name}\" parameter")));
            }
            parameters.push(parameter);
        }
        Ok(Self(parameters))
    }

    /// Whether the parameter `name` was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|parameter| parameter.name == name)
    }

    /// The parameter `name`, read by `parse`; `None` if it was not given.
    ///
    /// # Errors
    ///
    /// `parse` could make nothing of the value; the message says `hint` too.
    pub(super) fn get<T>(
        &self,
        name: &str,
        hint: &str,
        parse: impl FnOnce(&'a [u8]) -> Option<T>,
    ) -> Result<Option<T>, Refused> {
        let Some(parameter) = self.0.iter().find(|parameter| parameter.name == name) else {
            return Ok(None);
        };
        match parse(parameter.value) {
            Some(value) => Ok(Some(value)),
            None => Err(invalid(parameter.value, name, "parameter", hint)),
        }
    }
}

/// `invalid value "VALUE" in "NAME" KIND, it must be HINT`, as nginx says of a flag.
pub(super) fn invalid(value: &[u8], name: &str, kind: &str, hint: &str) -> Refused {
    let value = escaped(value);
    Refused::Because(format!("invalid value \"{value}\" in \"{name}\" {kind}, it must be {hint}"))
}

/// Reads a number of digits only.
pub(super) fn number<T: FromStr>(word: &[u8]) -> Option<T> {
    let digits = word.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(word).ok().filter(|_| digits)?.parse().ok()
}

/// Reads `code` or `from-to`, of status codes among `known`.
pub(super) fn status_range(word: &[u8], known: RangeInclusive<u16>) -> Option<RangeInclusive<u16>> {
    let code = |word: &[u8]| number(word).filter(|code| word.len() == 3 && known.contains(code));
    let dash = word.iter().position(|byte| *byte == b'-');
    let (from, to) = match dash {
        Some(at) => (word.get(..at)?, word.get(at + 1..)?),
        None => (word, word),
    };
    let range = code(from)?..=code(to)?;
    (!range.is_empty()).then_some(range)
}

fn split<'a>(word: &'a [u8], known: &[&'a str]) -> Option<Parameter<'a>> {
    let at = word.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (word.get(..at)?, word.get(at + 1..)?);
    let name = known.iter().find(|known| known.as_bytes() == name)?;
    Some(Parameter { name, value })
}
