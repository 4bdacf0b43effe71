//! What can be asked of a configuration only once all of it was read.

use super::location::Location;
use super::parsing::Parsing;
use crate::nginx::core::module::Module;

/// A configuration that was read whole, before it is taken up: no configuration of a location is
/// changed any more, and what nginx drops when it has read everything is still there.
pub struct WhollyRead<'a>(&'a Parsing<'a>);

impl<'a> WhollyRead<'a> {
    /// # Safety
    ///
    /// `parsing` is that of the `postconfiguration` hook.
    pub(in crate::nginx) unsafe fn new(parsing: &'a Parsing<'a>) -> Self {
        // INVARIANT: the caller's promise.
        Self(parsing)
    }

    /// The reading, for what can be asked at any time of it.
    pub fn parsing(&self) -> &'a Parsing<'a> {
        self.0
    }

    /// The module's configuration of a location; `None` for one of another configuration.
    pub fn configuration<M: Module>(&self, location: Location) -> Option<&'a M::Location> {
        let location = self.own(location)?;
        // SAFETY: a location of the configuration at hand, which changes no more.
        unsafe { location.configuration::<M>() }
    }

    /// The first `server_name` of a location's server, if that is a plain one: not empty, no
    /// wildcard, no regular expression.
    pub fn server_name(&self, location: Location) -> Option<&'a [u8]> {
        let location = self.own(location)?;
        // SAFETY: ANSWER-3: the names are there until the hook has returned.
        unsafe { location.server_name() }
    }

    /// The location, if it is of this configuration.
    fn own(&self, location: Location) -> Option<Location> {
        // SAFETY: `postconfiguration` has the context of the `http` block.
        unsafe { location.is_in(self.0.cf().ctx.cast()) }.then_some(location)
    }
}
