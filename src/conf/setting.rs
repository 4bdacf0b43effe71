//! Directives that set one value.

use std::ffi::CStr;

use super::parameters::invalid;
use super::{LocationConf, MainConf};
use crate::TimerModule;
use crate::nginx::conf::{Arguments, Context, LocationDirective, Parsing, Refused};

/// A directive that sets one value of a block, at most once; the blocks in it inherit it.
pub trait Setting {
    /// What it sets.
    type Value;
    /// Its name.
    const NAME: &'static CStr;
    /// How many arguments it takes.
    const ARGUMENTS: Arguments;

    /// Where the value is kept.
    fn value(conf: &mut LocationConf) -> &mut Option<Self::Value>;

    /// Reads its arguments.
    ///
    /// # Errors
    ///
    /// Why the configuration is refused.
    fn read(words: &[&[u8]], main: &MainConf) -> Result<Self::Value, Refused>;

    /// The first argument, read by `parse`; a refusal says `hint` too.
    ///
    /// # Errors
    ///
    /// `parse` could make nothing of it.
    fn first<T>(
        words: &[&[u8]],
        hint: &str,
        parse: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, Refused> {
        let word = words.first().copied().unwrap_or_default();
        parse(word).ok_or_else(|| Self::invalid(word, hint))
    }

    /// Why this argument is refused.
    fn invalid(word: &[u8], hint: &str) -> Refused {
        invalid(word, &Self::NAME.to_string_lossy(), "directive", hint)
    }
}

impl<S: Setting> LocationDirective for S {
    type Module = TimerModule;
    const NAME: &'static CStr = S::NAME;
    const CONTEXT: Context = Context::Inherited;
    const ARGUMENTS: Arguments = S::ARGUMENTS;

    fn set(
        conf: &mut LocationConf,
        main: &mut MainConf,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused> {
        let value = S::value(conf);
        if value.is_some() {
            return Err(Refused::IsDuplicate);
        }
        let words: Vec<&[u8]> = parsing.arguments().collect();
        *value = Some(S::read(&words, main)?);
        Ok(())
    }
}
