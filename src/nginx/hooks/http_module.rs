//! What a module is called for: nginx's hooks as safe methods.

use crate::nginx::conf::opening::{Opening, Unusable};
use crate::nginx::conf::parsing::{Parsing, Refused};
use crate::nginx::conf::wholly_read::WhollyRead;
use crate::nginx::core::log::{Level, Log};
use crate::nginx::core::module::Module;
use crate::nginx::core::process::Role;
use crate::nginx::http::handler::Block;
use crate::os::memory;

/// What an http module does.
pub trait HttpModule: Module {
    /// Before the `http` block is read: the place to add variables.
    ///
    /// # Errors
    ///
    /// Why the configuration is refused.
    fn before_configuration(parsing: &mut Parsing<'_>) -> Result<(), Refused>;

    /// Gives `conf`, that of `block`, what it has not set itself from the enclosing block.
    fn inherit(conf: &mut Self::Location, from: &Self::Location, block: &Block);

    /// After the `http` block was read and all was inherited.
    ///
    /// # Errors
    ///
    /// Why the configuration is refused.
    fn after_configuration(main: &mut Self::Main, read: &WhollyRead<'_>) -> Result<(), Refused>;

    /// A configuration was read, and is about to be taken up: what it needs is opened, and nothing
    /// is changed that the configuration in use relies on.
    ///
    /// # Errors
    ///
    /// Why the configuration is refused.
    fn open(main: &Self::Main, opening: &Opening) -> Result<(), Unusable>;

    /// A configuration for so many `workers` is taken up, in the process that has read it; not for
    /// a test of it.
    fn loaded(main: &Self::Main, workers: usize, log: Log);

    /// A process begins its work.
    fn process_begins(main: &Self::Main, process: InitProcess);

    /// A process is about to end.
    fn process_ends();
}

/// A process that begins its work.
#[derive(Clone, Copy, Debug)]
pub struct InitProcess {
    /// What it is.
    pub role: Role,
    /// How many workers there are.
    pub workers: usize,
}

/// Whether a hook may begin that has to do with the reading of a configuration; if not, says why it
/// is refused.
pub(in crate::nginx) fn has_memory() -> bool {
    let enough = memory::enough();
    if !enough {
        Log::cycle().write(Level::Emerg, format_args!("timer: no memory"));
    }
    enough
}
