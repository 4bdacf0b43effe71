//! Directives: from nginx's words to values of ours.

use std::ffi::OsStr;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::time::Duration;

use ngx::ffi::{
    NGX_CONF_1MORE, NGX_CONF_ANY, NGX_CONF_TAKE1, NGX_HTTP_LOC_CONF, NGX_HTTP_LOC_CONF_OFFSET,
    NGX_HTTP_MAIN_CONF, NGX_HTTP_MAIN_CONF_OFFSET, NGX_HTTP_SRV_CONF, ngx_command_t,
    ngx_conf_log_error, ngx_conf_t, ngx_http_compile_complex_value,
    ngx_http_compile_complex_value_t, ngx_http_complex_value_t, ngx_palloc, ngx_str_t, ngx_uint_t,
};

use super::cycle::Cycle;
use super::guard::guard;
use super::location::Location;
use super::log::Log;
use super::module::{self, HttpModule};
use super::text::Text;
use super::{borrowed, bytes, pool, rc};
use crate::os::memory::{self, NoMemory};

/// A directive of the `http` block: its words become part of the module's main configuration.
pub trait HttpDirective {
    /// The module whose directive it is.
    type Module: HttpModule;
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
        conf: &mut <Self::Module as HttpModule>::Main,
        parsing: &mut Parsing<'_>,
    ) -> Result<(), Refused>;
}

/// A directive whose words become part of a location's configuration.
pub trait LocationDirective {
    /// The module whose directive it is.
    type Module: HttpModule;
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
        conf: &mut <Self::Module as HttpModule>::Location,
        main: &mut <Self::Module as HttpModule>::Main,
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
}

/// Why a configuration is refused.
#[derive(Debug)]
pub enum Refused {
    /// nginx says `"NAME" directive is duplicate in FILE:LINE`.
    IsDuplicate,
    /// A sentence in nginx's words, to which it adds file and line.
    Because(String),
    /// A sentence that names its own file and line, since the place was read before.
    At(Place, String),
    /// There is no memory.
    NoMemory,
    /// nginx itself has said why.
    AlreadyLogged,
}

impl From<NoMemory> for Refused {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl Refused {
    /// `invalid parameter "WORD"`.
    pub fn parameter(word: &[u8]) -> Self {
        Self::Because(format!("invalid parameter \"{}\"", Shown(word)))
    }

    /// `invalid value "WORD"`.
    pub fn value(word: &[u8]) -> Self {
        Self::Because(format!("invalid value \"{}\"", Shown(word)))
    }
}

/// Where in the configuration a directive stands: `FILE:LINE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    file: String,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Bytes from a configuration, shown in a message: what is not UTF-8 is replaced.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&String::from_utf8_lossy(self.0), f)
    }
}

/// A value with variables, compiled once and evaluated for each request.
///
/// # Invariants
///
/// Points to a compiled value in the pool of the cycle.
#[derive(Clone, Copy, Debug)]
pub struct Template(NonNull<ngx_http_complex_value_t>, Cycle);

impl Template {
    /// `None` once its configuration is gone.
    pub(super) fn as_ptr(self) -> Option<*mut ngx_http_complex_value_t> {
        self.1.is_alive().then_some(self.0.as_ptr())
    }
}

/// The reading of the configuration, as a directive's handler sees it.
///
/// # Invariants
///
/// `cf` is what nginx passed to the handler that is running (HOST-2).
pub struct Parsing<'a> {
    cf: NonNull<ngx_conf_t>,
    handler: PhantomData<&'a mut ngx_conf_t>,
}

impl<'a> Parsing<'a> {
    /// # Safety
    ///
    /// `cf` is what nginx passed to the handler that is running, which lasts for `'a`.
    pub(super) unsafe fn new(cf: NonNull<ngx_conf_t>) -> Self {
        // INVARIANT: the caller's promise.
        Self { cf, handler: PhantomData }
    }

    pub(super) fn cf(&self) -> &'a ngx_conf_t {
        // SAFETY: the invariant; nothing changes it while a handler runs (HOST-1).
        unsafe { self.cf.as_ref() }
    }

    pub(super) fn as_ptr(&self) -> *mut ngx_conf_t {
        self.cf.as_ptr()
    }

    /// The directive's arguments, without its name.
    pub fn arguments(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        // SAFETY: HOST-2: the array of a directive's words, valid in its handler.
        let words = unsafe { &*self.cf().args };
        // SAFETY: its elements are of this type (`ngx_conf_parse`).
        let words = unsafe { words.as_slice::<ngx_str_t>() };
        // SAFETY: HOST-2: the words live in the cycle's pool.
        words.iter().skip(1).map(|word| unsafe { bytes(*word) })
    }

    /// The file and line that are being read.
    pub fn place(&self) -> Place {
        let file = self.cf().conf_file;
        if file.is_null() {
            return Place { file: String::new(), line: 0 };
        }
        // SAFETY: HOST-2: set while a file is being read.
        let file = unsafe { &*file };
        // SAFETY: the name lives in the cycle's pool.
        let name = unsafe { bytes(file.file.name) };
        Place { file: String::from_utf8_lossy(name).into_owned(), line: file.line }
    }

    /// The location in whose block the directive stands.
    pub fn location(&self) -> Location {
        // SAFETY: a location's directive is read with the context of its block.
        unsafe { Location::from_context(self.cf().ctx.cast(), Cycle::newest()) }
    }

    /// This host's name.
    pub fn host_name(&self) -> Vec<u8> {
        // SAFETY: HOST-2: the cycle that is being made; its host name is set before
        // (`ngx_init_cycle`).
        let host_name = unsafe { (*self.cf().cycle).hostname };
        // SAFETY: it lives in the cycle's pool.
        unsafe { bytes(host_name) }.to_vec()
    }

    /// `path` as nginx takes it: relative to its prefix.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn full_path(&self, path: &[u8]) -> Result<PathBuf, Refused> {
        // nginx's function wants a C string.
        let path = [path, b"\0"].concat();
        let mut name = ngx_str_t { len: path.len() - 1, data: path.as_ptr().cast_mut() };
        // SAFETY: HOST-2: the cycle that is being made.
        let pool = unsafe { (*self.cf().cycle).pool };
        // SAFETY: as above.
        let prefix = unsafe { &raw mut (*self.cf().cycle).prefix };
        // SAFETY: reads both strings, and sets `name` to one in the pool if it was relative.
        if unsafe { ngx::ffi::ngx_get_full_name(pool, prefix, &raw mut name) } != rc::OK {
            return Err(Refused::AlreadyLogged);
        }
        // SAFETY: the words above, or a string in the pool.
        Ok(OsStr::from_bytes(unsafe { bytes(name) }).into())
    }

    /// `name` in the directory that holds the compiled-in client body temp path: one that nginx's
    /// packages make, and that workers may look into.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn state_path(&self, name: &str) -> Result<PathBuf, Refused> {
        let temp = ngx::ffi::NGX_HTTP_CLIENT_TEMP_PATH.to_bytes();
        let slash = temp.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let directory = temp.get(..slash).unwrap_or_default();
        self.full_path(&[directory, name.as_bytes()].concat())
    }

    /// Compiles a value that may contain variables.
    ///
    /// # Errors
    ///
    /// nginx has said why: an invalid variable name, or no memory.
    pub fn template(&mut self, value: &[u8]) -> Result<Template, Refused> {
        let cf = self.cf.as_ptr();
        let size = size_of::<ngx_http_complex_value_t>();
        // SAFETY: HOST-2: the pool is valid; HOST-13: aligned, or null.
        let compiled = unsafe { ngx_palloc(self.cf().pool, size) };
        let Some(compiled) = NonNull::new(compiled.cast()) else {
            return Err(Refused::AlreadyLogged);
        };
        // The compiled value leads to it: it lives as long.
        // SAFETY: as above.
        let value = unsafe { pool::copy(self.cf().pool, value) };
        let Some(mut value) = value else { return Err(Refused::AlreadyLogged) };
        // SAFETY: plain C data, which nginx itself zeroes before use.
        let mut compile: ngx_http_compile_complex_value_t = unsafe { std::mem::zeroed() };
        compile.cf = cf;
        compile.value = &raw mut value;
        compile.complex_value = compiled.as_ptr();
        // SAFETY: all that it reads is set, and lives in the cycle's pool.
        if unsafe { ngx_http_compile_complex_value(&raw mut compile) } != rc::OK {
            return Err(Refused::AlreadyLogged);
        }
        // INVARIANT: compiled, and in the cycle's pool.
        Ok(Template(compiled, Cycle::newest()))
    }

    /// The log to which the reading tells.
    pub fn log(&self) -> Log {
        // As `ngx_init_cycle` has it: that of the cycle before.
        Log::cycle()
    }

    /// Says why the configuration is refused, as nginx's own handlers do.
    pub(super) fn refuse(&self, refused: Refused) -> *mut c_char {
        let mut text = Text::<1024>::new();
        match refused {
            // nginx adds the directive's name, file and line.
            Refused::IsDuplicate => return c"is duplicate".as_ptr().cast_mut(),
            Refused::Because(why) => text.push(why.as_bytes()),
            Refused::NoMemory => text.push(b"no memory"),
            Refused::At(place, why) => {
                let line = format_args!("{why} in {place}");
                self.log().write(super::log::Level::Emerg, line);
                return CONF_ERROR;
            }
            Refused::AlreadyLogged => return CONF_ERROR,
        }
        let (level, text) = (ngx::ffi::NGX_LOG_EMERG as ngx_uint_t, text.as_bytes());
        let format = c"%*s".as_ptr();
        // SAFETY: the invariant; "%*s" takes a size_t and a pointer (`ngx_vslprintf`).
        unsafe {
            ngx_conf_log_error(level, self.as_ptr(), 0, format, text.len(), text.as_ptr());
        };
        CONF_ERROR
    }
}

/// Reads a time as nginx writes it: `10ms`, `1h30m`, `30` (seconds); `None` if it is none.
pub fn parse_time(word: &[u8]) -> Option<Duration> {
    let mut word = borrowed(word);
    // SAFETY: reads the word's bytes only (src/core/ngx_parse.c).
    let ms = unsafe { ngx::ffi::ngx_parse_time(&raw mut word, 0) };
    u64::try_from(ms).ok().map(Duration::from_millis)
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

/// A table of commands, closed by nginx's empty one.
#[repr(transparent)]
pub struct Commands<const N: usize>(pub [ngx_command_t; N]);

// SAFETY: nginx reads the table and never writes it, from one thread (HOST-1).
unsafe impl<const N: usize> Sync for Commands<N> {}

type Set = unsafe extern "C" fn(*mut ngx_conf_t, *mut ngx_command_t, *mut c_void) -> *mut c_char;

/// `NGX_CONF_ERROR`.
const CONF_ERROR: *mut c_char = ptr::without_provenance_mut(usize::MAX);

const fn command(name: &'static CStr, flags: u32, set: Set, conf: usize) -> ngx_command_t {
    ngx_command_t {
        name: ngx_str_t { len: name.count_bytes(), data: name.as_ptr().cast_mut().cast() },
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
    }
}

unsafe extern "C" fn set_http<D: HttpDirective>(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(CONF_ERROR, || {
        let Some(cf) = NonNull::new(cf) else { return CONF_ERROR };
        // SAFETY: HOST-2.
        let mut parsing = unsafe { Parsing::new(cf) };
        if !memory::enough() {
            return parsing.refuse(NoMemory.into());
        }
        // SAFETY: what `create_main_conf` made for this module; no other reference to it is alive
        // while a handler runs.
        let main = unsafe { &mut *conf.cast::<<D::Module as HttpModule>::Main>() };
        D::set(main, &mut parsing).map_or_else(|refused| parsing.refuse(refused), |()| OK)
    })
}

unsafe extern "C" fn set_location<D: LocationDirective>(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    guard(CONF_ERROR, || {
        let Some(cf) = NonNull::new(cf) else { return CONF_ERROR };
        // SAFETY: HOST-2.
        let mut parsing = unsafe { Parsing::new(cf) };
        if !memory::enough() {
            return parsing.refuse(NoMemory.into());
        }
        // SAFETY: what `create_loc_conf` made for this module; no other reference to it is alive
        // while a handler runs.
        let location = unsafe { &mut *conf.cast::<<D::Module as HttpModule>::Location>() };
        // SAFETY: HOST-2: a handler in `http` has the context of its block.
        let main = unsafe { module::main_of::<D::Module>(parsing.cf().ctx.cast()) };
        // SAFETY: another object than `location`; no other reference to it is alive either.
        let Some(main) = (unsafe { main.as_mut() }) else { return CONF_ERROR };
        D::set(location, main, &mut parsing).map_or_else(|refused| parsing.refuse(refused), |()| OK)
    })
}

/// `NGX_CONF_OK`.
const OK: *mut c_char = ptr::null_mut();
