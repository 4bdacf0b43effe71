//! Variables whose value is what something else has for a key that is made of other variables.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::slice;

use ngx::ffi::{
    __BindgenBitfieldUnit, NGX_HTTP_VAR_CHANGEABLE, NGX_HTTP_VAR_NOHASH, ngx_http_add_variable,
    ngx_http_complex_value, ngx_http_get_flushed_variable, ngx_http_get_variable_index,
    ngx_http_request_t, ngx_http_variable_value_t, ngx_int_t, ngx_pnalloc, ngx_pool_t, ngx_str_t,
};

use super::parsing::{Parsing, Refused, Template};
use crate::nginx::core::guard::guard;
use crate::nginx::core::string::{borrowed, bytes};
use crate::nginx::core::{pool, rc};
use crate::os::memory::NoMemory;

/// What has values for keys.
pub trait Lookup: 'static {
    /// Puts the value of `key` into `room`, and answers whether it has one. `kept` is a word that a request keeps from its
    /// first look-up to its last, and is 0 at first.
    ///
    /// # Errors
    ///
    /// There is no memory.
    fn look_up(
        &self,
        key: &[u8],
        kept: &Cell<usize>,
        room: &mut ValueRoom<'_>,
    ) -> Result<bool, NoMemory>;
}

/// Where a value is put: memory of a request.
///
/// # Invariants
///
/// `pool` is alive for `'p`.
pub struct ValueRoom<'p> {
    pool: *mut ngx_pool_t,
    value: &'p [u8],
}

impl ValueRoom<'_> {
    /// # Safety
    ///
    /// `pool` is alive for `'p`.
    unsafe fn new(pool: *mut ngx_pool_t) -> Self {
        // INVARIANT: the caller's promise.
        Self { pool, value: &[] }
    }

    /// Puts a value of so many bytes, which are in these words, in the place of what was put before.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn fill(&mut self, len: usize, words: impl Iterator<Item = u64>) -> Result<(), NoMemory> {
        let count = len.div_ceil(8);
        let size = count.checked_mul(8).ok_or(NoMemory)?;
        // SAFETY: the invariant; HOST-13: may be null.
        let start = NonNull::new(unsafe { ngx_pnalloc(self.pool, size) }).ok_or(NoMemory)?;
        let mut end = start.cast::<[u8; 8]>();
        words.take(count).for_each(|word| {
            // SAFETY: one of `count`, which are nobody else's.
            unsafe { end.write(word.to_le_bytes()) };
            // SAFETY: at most behind the last one.
            end = unsafe { end.add(1) };
        });
        let len = len.min(end.addr().get() - start.addr().get());
        // SAFETY: so many were written at least, and nothing writes to them again; the invariant.
        self.value = unsafe { slice::from_raw_parts(start.cast::<u8>().as_ptr(), len) };
        Ok(())
    }
}

/// A variable of the configuration, in its pool.
struct Registered<L> {
    key: Key,
    /// The index of the word that requests keep.
    kept: usize,
    lookup: L,
}

/// What is looked up.
enum Key {
    /// The value of one variable, by its index.
    Variable(usize),
    Template(Template),
}

impl Parsing<'_> {
    /// Adds the variable `name`, without its `$`: what `lookup` has for `key`. Those of the same `number` share the
    /// word that a request keeps.
    ///
    /// # Errors
    ///
    /// nginx has said why: there is a variable of this name that nothing else may set, or no memory.
    pub fn keyed_variable<L: Lookup>(
        &mut self,
        name: &[u8],
        key: &[u8],
        lookup: L,
        number: usize,
    ) -> Result<(), Refused> {
        let (key, kept) = (self.key(key)?, self.kept(number)?);
        let mut name = borrowed(name);
        let flags = NGX_HTTP_VAR_CHANGEABLE as usize;
        // SAFETY: HOST-2; nginx copies the name.
        let variable = unsafe { ngx_http_add_variable(self.as_ptr(), &raw mut name, flags) };
        let Some(variable) = NonNull::new(variable) else { return Err(Refused::AlreadyLogged) };
        let registered = Box::into_raw(Box::new(Registered { key, kept, lookup }));
        // SAFETY: HOST-2: the cycle's pool.
        let added = unsafe { pool::on_destroy(self.cf().pool, forget::<L>, registered.cast()) };
        if added.is_none() {
            // SAFETY: made of a box just now, and nobody else has it.
            drop(unsafe { Box::from_raw(registered) });
            return Err(Refused::AlreadyLogged);
        }
        // SAFETY: a variable of the configuration that is being read; ends here.
        let variable = unsafe { &mut *variable.as_ptr() };
        variable.get_handler = Some(get::<L>);
        variable.data = registered.expose_provenance();
        Ok(())
    }

    /// The index of a word that each request keeps, with this number: the place of a variable that has no value, and
    /// a name that no configuration can have (REQUEST-1).
    fn kept(&mut self, number: usize) -> Result<usize, Refused> {
        let name = format!("timer {number}");
        let mut name = borrowed(name.as_bytes());
        let flags = (NGX_HTTP_VAR_CHANGEABLE | NGX_HTTP_VAR_NOHASH) as usize;
        // SAFETY: HOST-2; nginx copies the name.
        let variable = unsafe { ngx_http_add_variable(self.as_ptr(), &raw mut name, flags) };
        // SAFETY: a variable of the configuration that is being read, or null.
        let Some(variable) = (unsafe { variable.as_mut() }) else {
            return Err(Refused::AlreadyLogged);
        };
        variable.get_handler = Some(no_value);
        // SAFETY: HOST-2; nginx copies the name.
        let index = unsafe { ngx_http_get_variable_index(self.as_ptr(), &raw mut name) };
        usize::try_from(index).map_err(|_| Refused::AlreadyLogged)
    }

    fn key(&mut self, word: &[u8]) -> Result<Key, Refused> {
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let name = word.strip_prefix(b"$").filter(|name| name.iter().all(is_name));
        // A capture of a pattern, such as $1, is none.
        let first = name.and_then(<[u8]>::first).filter(|first| !first.is_ascii_digit());
        let (Some(name), Some(_)) = (name, first) else {
            return Ok(Key::Template(self.template(word)?));
        };
        let mut name = borrowed(name);
        // SAFETY: HOST-2; nginx copies the name.
        let index = unsafe { ngx_http_get_variable_index(self.as_ptr(), &raw mut name) };
        usize::try_from(index).map(Key::Variable).map_err(|_| Refused::AlreadyLogged)
    }
}

impl Key {
    /// Its value, in the request's pool or in the configuration's; `None` if it cannot be had.
    ///
    /// # Safety
    ///
    /// `r` is an open request of the configuration that the key is of.
    unsafe fn evaluate(&self, r: *mut ngx_http_request_t) -> Option<ngx_str_t> {
        match self {
            Self::Variable(index) => {
                // SAFETY: the caller's promise; an index that nginx gave.
                let value = unsafe { ngx_http_get_flushed_variable(r, *index) };
                // SAFETY: a value of the request, or null.
                let value = unsafe { value.as_ref() }?;
                let bits = bits_of(value);
                if bits & NOT_FOUND != 0 {
                    return Some(ngx_str_t { len: 0, data: ptr::null_mut() });
                }
                let len = usize::try_from(bits & LEN).unwrap_or(0);
                Some(ngx_str_t { len, data: value.data })
            }
            Self::Template(template) => {
                let mut key = ngx_str_t { len: 0, data: ptr::null_mut() };
                // SAFETY: the caller's promise.
                let rc = unsafe { ngx_http_complex_value(r, template.as_ptr()?, &raw mut key) };
                (rc == rc::OK).then_some(key)
            }
        }
    }
}

unsafe extern "C" fn forget<L: Lookup>(registered: *mut c_void) {
    guard((), || {
        // SAFETY: made of a box by `keyed_variable`; a pool runs each cleanup once.
        drop(unsafe { Box::from_raw(registered.cast::<Registered<L>>()) });
    });
}

unsafe extern "C" fn get<L: Lookup>(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    data: usize,
) -> ngx_int_t {
    guard(rc::ERROR, || {
        let registered = ptr::with_exposed_provenance::<Registered<L>>(data);
        // SAFETY: what `keyed_variable` has set; it lives as long as the request's configuration.
        let registered = unsafe { &*registered };
        // SAFETY: nginx evaluates variables for open requests.
        let Some(key) = (unsafe { registered.key.evaluate(r) }) else { return rc::ERROR };
        // SAFETY: as above; REQUEST-1: as many places as there are indices.
        let place = unsafe { (*r).variables }.wrapping_add(registered.kept);
        // SAFETY: as above; nobody else knows of the variable.
        let kept = Cell::new(unsafe { (*place).data }.addr());
        // SAFETY: an open request has its pool.
        let pool = unsafe { (*r).pool };
        // SAFETY: as above; what is in the pool is there for as long as the request.
        let mut room = unsafe { ValueRoom::new(pool) };
        // SAFETY: evaluated just now, and not changed.
        let found = registered.lookup.look_up(unsafe { bytes(key) }, &kept, &mut room);
        // SAFETY: as above.
        unsafe { (*place).data = ptr::without_provenance_mut(kept.get()) };
        let Ok(found) = found else { return rc::ERROR };
        let found = if found { valid(room.value) } else { none() };
        // SAFETY: nginx passes the value that is to be set.
        unsafe { value.write(found) };
        rc::OK
    })
}

unsafe extern "C" fn no_value(
    _: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    guard(rc::ERROR, || {
        // SAFETY: nginx passes the value that is to be set.
        unsafe { value.write(none()) };
        rc::OK
    })
}

/// A value that is there.
fn valid(text: &[u8]) -> ngx_http_variable_value_t {
    let len = u32::try_from(text.len() & LEN as usize).unwrap_or(0);
    value_of(len | VALID, text.as_ptr().cast_mut())
}

/// There is no value, for the whole request.
fn none() -> ngx_http_variable_value_t {
    value_of(NOT_FOUND, ptr::null_mut())
}

// What `set_len` and the like do is done at once: these look at each bit by itself, which takes longer than to find a
// value.

/// The bits of a value (`ngx_variable_value_t`), from the lowest on where they are packed so.
const LEN: u32 = (1 << 28) - 1;
const VALID: u32 = 1 << 28;
const NOT_FOUND: u32 = 1 << 30;

type Bits = __BindgenBitfieldUnit<[u8; 4]>;
const _: () = assert!(size_of::<Bits>() == 4);

fn value_of(bits: u32, data: *mut u8) -> ngx_http_variable_value_t {
    let bits = if cfg!(target_endian = "little") {
        Bits::new(bits.to_le_bytes())
    } else {
        let flag = |flag: u32| u32::from(bits & flag != 0);
        ngx_http_variable_value_t::new_bitfield_1(bits & LEN, flag(VALID), 0, flag(NOT_FOUND), 0)
    };
    ngx_http_variable_value_t { _bitfield_align_1: [], _bitfield_1: bits, data }
}

fn bits_of(value: &ngx_http_variable_value_t) -> u32 {
    if cfg!(target_endian = "little") {
        // SAFETY: as many bytes, which hold nothing but these bits.
        let bytes = unsafe { (&raw const value._bitfield_1).cast::<[u8; 4]>().read() };
        u32::from_le_bytes(bytes)
    } else {
        value.len() | if value.not_found() == 0 { 0 } else { NOT_FOUND }
    }
}
