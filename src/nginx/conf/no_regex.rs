//! Regular expressions, of an nginx without PCRE.

use super::parsing::{Parsing, Refused};
use crate::nginx::core::string::escaped;

/// A regular expression of the configuration: there is none without PCRE.
#[derive(Clone, Copy, Debug)]
pub enum Regex {}

impl Regex {
    /// Whether it matches.
    pub fn is_match(self, _: &[u8]) -> Option<bool> {
        match self {}
    }
}

impl Parsing<'_> {
    /// Compiles a regular expression.
    ///
    /// # Errors
    ///
    /// This nginx was built without PCRE.
    pub fn regex(&mut self, pattern: &[u8]) -> Result<Regex, Refused> {
        let pattern = escaped(pattern);
        let why = format!("using regex \"{pattern}\" requires PCRE library");
        Err(Refused::Because(why))
    }
}
