//! Directives: from nginx's words to values of ours.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{self, NonNull};
use std::time::Duration;

use ngx::core::{NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::ffi::{
    NGX_CONF_1MORE, NGX_CONF_ANY, NGX_CONF_BLOCK, NGX_CONF_TAKE1, NGX_CONF_TAKE3,
    NGX_HTTP_LOC_CONF, NGX_HTTP_LOC_CONF_OFFSET, NGX_HTTP_MAIN_CONF, NGX_HTTP_MAIN_CONF_OFFSET,
    NGX_HTTP_SRV_CONF, ngx_command_t, ngx_conf_t, ngx_uint_t,
};

use super::parsing::{Parsing, Refused};
use crate::nginx::core::guard::guard;
use crate::nginx::core::module::{Module, main_of};
use crate::nginx::core::string::{borrowed, constant};
use crate::os::memory::{self, NoMemory};

/// A directive of the `http` block: its words become part of the module's main configuration.
pub trait HttpDirective {
    /// The module whose directive it is.
    type Module: Module;
    /// Its name.
    const NAME: &'static CStr;
    /// How many arguments it takes.
    const ARGUMENTS: Arguments;

    /// Reads the directive's arguments.
    ///
    /// # Errors
    ///
    /// Why the configuration is refused.
    fn set(
        conf: &mut <Self::Module as Module>::Main,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused>;
}

/// A directive whose words become part of a location's configuration.
pub trait LocationDirective {
    /// The module whose directive it is.
    type Module: Module;
    /// Its name.
    const NAME: &'static CStr;
    /// Where it may stand.
    const CONTEXT: Context;
    /// How many arguments it takes.
    const ARGUMENTS: Arguments;

    /// Reads the directive's arguments; `main` is the module's main configuration.
    ///
    /// # Errors
    ///
    /// Why the configuration is refused.
    fn set(
        conf: &mut <Self::Module as Module>::Location,
        main: &mut <Self::Module as Module>::Main,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused>;
}

/// The blocks in which a directive may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// `http`, `server` and `location`, each inheriting from the one before.
    Inherited,
    /// `location` alone.
    Location,
}

/// How many arguments a directive takes; nginx checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// Exactly one.
    One,
    /// One or more.
    Some,
    /// Any number, none included.
    Any,
    /// Exactly three.
    Three,
    /// Exactly one, and a block: see [`Parsing::block`].
    OneAndBlock,
}

/// Reads a time as nginx writes it: `10ms`, `1h30m`, `30` (seconds); `None` if it is none.
pub fn parse_time(word: &[u8]) -> Option<Duration> {
    let mut word = borrowed(word);
    // SAFETY: reads the word's bytes only (src/core/ngx_parse.c).
    let ms = unsafe { ngx::ffi::ngx_parse_time(&raw mut word, 0) };
    u64::try_from(ms).ok().map(Duration::from_millis)
}

/// Reads a size as nginx writes it: `4096`, `8k`, `1m`; `None` if it is none.
pub fn parse_size(word: &[u8]) -> Option<usize> {
    let mut word = borrowed(word);
    // SAFETY: reads the word's bytes only (src/core/ngx_parse.c).
    let bytes = unsafe { ngx::ffi::ngx_parse_size(&raw mut word) };
    usize::try_from(bytes).ok()
}

/// The command table's entry for a directive of the `http` block.
pub const fn http_command<D: HttpDirective>() -> ngx_command_t {
    command(
        D::NAME,
        NGX_HTTP_MAIN_CONF | flag(D::ARGUMENTS),
        set_http::<D>,
        NGX_HTTP_MAIN_CONF_OFFSET,
    )
}

/// The command table's entry for a directive of a location.
pub const fn location_command<D: LocationDirective>() -> ngx_command_t {
    let context = match D::CONTEXT {
        Context::Inherited => NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF,
        Context::Location => NGX_HTTP_LOC_CONF,
    };
    command(D::NAME, context | flag(D::ARGUMENTS), set_location::<D>, NGX_HTTP_LOC_CONF_OFFSET)
}

/// What closes a table of commands.
pub const fn no_command() -> ngx_command_t {
    ngx_command_t::empty()
}

/// A table of commands, closed by nginx's empty one.
#[repr(transparent)]
pub struct Commands<const N: usize>(pub [ngx_command_t; N]);

// SAFETY: nginx reads the table and never writes it, from one thread (HOST-1).
unsafe impl<const N: usize> Sync for Commands<N> {}

type Set = unsafe extern "C" fn(*mut ngx_conf_t, *mut ngx_command_t, *mut c_void) -> *mut c_char;

const fn command(name: &'static CStr, flags: u32, set: Set, conf: usize) -> ngx_command_t {
    ngx_command_t {
        name: constant(name),
        type_: flags as ngx_uint_t,
        set: Some(set),
        conf,
        offset: 0,
        post: ptr::null_mut(),
    }
}

const fn flag(arguments: Arguments) -> u32 {
    match arguments {
        Arguments::One => NGX_CONF_TAKE1,
        Arguments::Some => NGX_CONF_1MORE,
        Arguments::Any => NGX_CONF_ANY,
        Arguments::Three => NGX_CONF_TAKE3,
        Arguments::OneAndBlock => NGX_CONF_TAKE1 | NGX_CONF_BLOCK,
    }
}

unsafe extern "C" fn set_http<D: HttpDirective>(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(NGX_CONF_ERROR, || {
        let body = |parsing: &mut Parsing<'_>| {
            // SAFETY: what `create_main_conf` made for this module; no other reference to it is
            // alive while a handler runs.
            let main = unsafe { &mut *conf.cast::<<D::Module as Module>::Main>() };
            D::set(main, parsing)
        };
        // SAFETY: HOST-2.
        unsafe { handle(cf, body) }
    })
}

unsafe extern "C" fn set_location<D: LocationDirective>(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(NGX_CONF_ERROR, || {
        let body = |parsing: &mut Parsing<'_>| {
            // SAFETY: what `create_loc_conf` made for this module; no other reference to it is
            // alive while a handler runs.
            let location = unsafe { &mut *conf.cast::<<D::Module as Module>::Location>() };
            // SAFETY: HOST-2: a handler in `http` has the context of its block.
            let main = unsafe { main_of::<D::Module>(parsing.cf()) };
            let mut main = main.ok_or(Refused::AlreadyLogged)?;
            // SAFETY: another object than `location`; no other reference to it is alive either.
            D::set(location, unsafe { main.as_mut() }, parsing)
        };
        // SAFETY: HOST-2.
        unsafe { handle(cf, body) }
    })
}

/// Has `body` read a directive.
///
/// # Safety
///
/// `cf` is what nginx passed to the handler that is running.
unsafe fn handle(
    cf: *mut ngx_conf_t,
    body: impl FnOnce(&mut Parsing<'_>) -> Result<(), Refused>,
) -> *mut c_char {
    let Some(cf) = NonNull::new(cf) else { return NGX_CONF_ERROR };
    // SAFETY: the caller's promise.
    let mut parsing = unsafe { Parsing::new(cf) };
    let read = if memory::enough() { body(&mut parsing) } else { Err(NoMemory.into()) };
    read.map_or_else(|refused| parsing.refuse(refused), |()| NGX_CONF_OK)
}
