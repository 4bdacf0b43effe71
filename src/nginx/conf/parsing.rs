//! The reading of a configuration, and why it is refused.

use std::ffi::{OsStr, c_char};
use std::fmt;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::NonNull;

use ngx::core::{NGX_CONF_ERROR, Pool};
use ngx::ffi::{
    ngx_conf_log_error, ngx_conf_t, ngx_http_compile_complex_value,
    ngx_http_compile_complex_value_t, ngx_http_complex_value_t, ngx_str_t, ngx_uint_t,
};

use super::location::Location;
use crate::nginx::core::cycle::Cycle;
use crate::nginx::core::log::{Level, Log};
use crate::nginx::core::rc;
use crate::nginx::core::string::{bytes, escaped};
use crate::nginx::core::text::Text;
use crate::os::memory::NoMemory;

/// Why a configuration is refused.
#[derive(Debug)]
pub enum Refused {
    /// nginx says `"NAME" directive is duplicate in FILE:LINE`.
    IsDuplicate,
    /// A sentence in nginx's words, to which it adds file and line.
    Because(String),
    /// The same, about a call that failed: nginx adds the text of `errno`, too.
    Errno(i32, String),
    /// A sentence that names its own file and line, since the place was read before.
    At(ConfPosition, String),
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
        Self::Because(format!("invalid parameter \"{}\"", escaped(word)))
    }

    /// `invalid value "WORD"`.
    pub fn value(word: &[u8]) -> Self {
        Self::Because(format!("invalid value \"{}\"", escaped(word)))
    }
}

/// Where in the configuration a directive stands: `FILE:LINE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfPosition {
    file: String,
    line: usize,
}

impl fmt::Display for ConfPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
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
    pub(in crate::nginx) fn as_ptr(self) -> Option<*mut ngx_http_complex_value_t> {
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
    pub(in crate::nginx) unsafe fn new(cf: NonNull<ngx_conf_t>) -> Self {
        // INVARIANT: the caller's promise.
        Self { cf, handler: PhantomData }
    }

    pub(in crate::nginx) fn cf(&self) -> &'a ngx_conf_t {
        // SAFETY: the invariant; nothing changes it while a handler runs (HOST-1).
        unsafe { self.cf.as_ref() }
    }

    pub(in crate::nginx) fn as_ptr(&self) -> *mut ngx_conf_t {
        self.cf.as_ptr()
    }

    /// The directive's name.
    pub fn name(&self) -> &'a [u8] {
        self.words().next().unwrap_or_default()
    }

    /// The directive's arguments, without its name.
    pub fn arguments(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        self.words().skip(1)
    }

    fn words(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        // SAFETY: HOST-2: the array of a directive's words, valid in its handler.
        let words = unsafe { &*self.cf().args };
        // SAFETY: its elements are of this type (`ngx_conf_parse`).
        let words = unsafe { words.as_slice::<ngx_str_t>() };
        // SAFETY: HOST-2: the words live in the cycle's pool.
        words.iter().map(|word| unsafe { bytes(*word) })
    }

    /// The file and line that are being read.
    pub fn position(&self) -> ConfPosition {
        let file = self.cf().conf_file;
        if file.is_null() {
            return ConfPosition { file: String::new(), line: 0 };
        }
        // SAFETY: HOST-2: set while a file is being read.
        let file = unsafe { &*file };
        // SAFETY: the name lives in the cycle's pool.
        let name = unsafe { bytes(file.file.name) };
        ConfPosition { file: String::from_utf8_lossy(name).into_owned(), line: file.line }
    }

    /// The location in whose block the directive stands.
    pub fn location(&self) -> Location {
        // SAFETY: a location's directive is read with the context of its block.
        unsafe { Location::of(self.cf(), Cycle::newest()) }
    }

    /// nginx's prefix.
    pub fn prefix(&self) -> &'a [u8] {
        // SAFETY: HOST-2: the cycle that is being made; set before (`ngx_init_cycle`).
        let prefix = unsafe { (*self.cf().cycle).prefix };
        // SAFETY: it lives in the cycle's pool.
        unsafe { bytes(prefix) }
    }

    /// The path of the main configuration file.
    pub fn main_file(&self) -> &'a [u8] {
        // SAFETY: as above.
        let file = unsafe { (*self.cf().cycle).conf_file };
        // SAFETY: as above.
        unsafe { bytes(file) }
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
        // SAFETY: HOST-2: the cycle that is being made.
        let prefix = unsafe { &raw mut (*self.cf().cycle).prefix };
        // SAFETY: as above.
        unsafe { self.path_in(prefix, path) }
    }

    /// The same for what belongs to the configuration: relative to where that lies.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn conf_path(&self, path: &[u8]) -> Result<PathBuf, Refused> {
        // SAFETY: HOST-2: the cycle that is being made.
        let prefix = unsafe { &raw mut (*self.cf().cycle).conf_prefix };
        // SAFETY: as above.
        unsafe { self.path_in(prefix, path) }
    }

    /// # Safety
    ///
    /// A string of the cycle that is being made.
    unsafe fn path_in(&self, prefix: *mut ngx_str_t, path: &[u8]) -> Result<PathBuf, Refused> {
        // nginx's function wants a C string.
        let path = [path, b"\0"].concat();
        let mut name = ngx_str_t { len: path.len() - 1, data: path.as_ptr().cast_mut() };
        // SAFETY: HOST-2: the cycle that is being made.
        let pool = unsafe { (*self.cf().cycle).pool };
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
        // SAFETY: HOST-2: the pool is there, here and below.
        let pool = unsafe { Pool::from_ngx_pool(self.cf().pool) };
        let compiled = NonNull::new(pool.alloc_type::<ngx_http_complex_value_t>());
        let Some(compiled) = compiled else { return Err(Refused::AlreadyLogged) };
        // The compiled value leads to it: it lives as long.
        // SAFETY: as above.
        let value = unsafe { ngx_str_t::from_bytes(pool.as_ptr(), value) };
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

    /// The log of the configuration that is being read.
    #[expect(clippy::unused_self, reason = "it is asked of the reading")]
    pub fn log(&self) -> Log {
        // As `ngx_init_cycle` has it: that of the cycle before.
        Log::cycle()
    }

    /// Says why the configuration is refused, as nginx's own handlers do.
    pub(in crate::nginx) fn refuse(&self, refused: Refused) -> *mut c_char {
        let mut text = Text::<1024>::new();
        let mut errno = 0;
        match refused {
            // nginx adds the directive's name, file and line.
            Refused::IsDuplicate => return c"is duplicate".as_ptr().cast_mut(),
            Refused::Because(why) => text.push(why.as_bytes()),
            Refused::Errno(of, why) => {
                errno = of;
                text.push(why.as_bytes());
            }
            Refused::NoMemory => text.push(b"no memory"),
            Refused::At(position, why) => {
                self.log().write(Level::Emerg, format_args!("{why} in {position}"));
                return NGX_CONF_ERROR;
            }
            Refused::AlreadyLogged => return NGX_CONF_ERROR,
        }
        let (level, text) = (ngx::ffi::NGX_LOG_EMERG as ngx_uint_t, text.as_bytes());
        let format = c"%*s".as_ptr();
        // SAFETY: the invariant; "%*s" takes a size_t and a pointer (`ngx_vslprintf`).
        unsafe {
            ngx_conf_log_error(level, self.as_ptr(), errno, format, text.len(), text.as_ptr());
        };
        NGX_CONF_ERROR
    }
}
