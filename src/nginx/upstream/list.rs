//! The list of a group's servers in shared memory: walked and changed under nginx's own locks.
//!
//! A process that dies while it has such a lock keeps all others waiting for ever (HOST-14): inside of
//! them nothing is done but loads and stores.

use std::ptr::NonNull;

use ngx::ffi::{
    ngx_http_upstream_rr_peer_t, ngx_http_upstream_rr_peers_t, ngx_http_upstream_srv_conf_t,
    ngx_str_t, ngx_uint_t,
};

unsafe extern "C" {
    fn ngx_http_timer_peers_shared(peers: *const ngx_http_upstream_rr_peers_t) -> ngx_uint_t;
    fn ngx_http_timer_peers_rlock(peers: *mut ngx_http_upstream_rr_peers_t);
    fn ngx_http_timer_peers_wlock(peers: *mut ngx_http_upstream_rr_peers_t);
    fn ngx_http_timer_peers_unlock(peers: *mut ngx_http_upstream_rr_peers_t);
    fn ngx_http_timer_peers_config(peers: *const ngx_http_upstream_rr_peers_t)
    -> *const ngx_uint_t;
    fn ngx_http_timer_peers_resolve(
        peers: *const ngx_http_upstream_rr_peers_t,
    ) -> *mut ngx_http_upstream_rr_peer_t;
    fn ngx_http_timer_group_memory(
        group: *const ngx_http_upstream_srv_conf_t,
        start: *mut *mut u8,
        size: *mut usize,
    );
}

/// The lists are not as the headers have them, or not in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownLayout;

/// The shared memory of a group's `zone`.
#[derive(Clone, Copy, Debug)]
struct Memory {
    start: usize,
    end: usize,
}

/// A list of a group's servers: the primary ones, or those that are `backup`.
///
/// # Invariants
///
/// `head` is one of nginx's in `memory`, which is there for `'a`; if `is_fixed`, no server comes or goes
/// (UPSTREAM-8).
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerList<'a> {
    head: NonNull<ngx_http_upstream_rr_peers_t>,
    memory: Memory,
    is_fixed: bool,
    group: std::marker::PhantomData<&'a ()>,
}

/// A list in which no server comes or goes: one whose lock this process has, or for reading one that is fixed.
pub(super) struct LockedPeers<'a> {
    list: PeerList<'a>,
    is_locked: bool,
}

/// A list that nobody else reads or writes.
pub(super) struct Exclusive<'a>(LockedPeers<'a>);

/// More servers than any zone has room for: a list that goes on in a circle.
const MOST: usize = 1 << 24;

impl Memory {
    /// `at`, if a `T` is there.
    fn hold<T>(self, at: *mut T) -> Option<NonNull<T>> {
        let end = at.addr().checked_add(size_of::<T>())?;
        let inside = self.start <= at.addr() && end <= self.end;
        NonNull::new(at).filter(|_| inside && at.is_aligned())
    }

    /// The bytes of a string, if they are there.
    fn bytes<'a>(self, string: ngx_str_t) -> Option<&'a [u8]> {
        let end = string.data.addr().checked_add(string.len)?;
        if string.data.addr() < self.start || end > self.end {
            return None;
        }
        // SAFETY: in the memory; strings stay as they are for as long as their server is there.
        Some(unsafe { std::slice::from_raw_parts(string.data, string.len) })
    }
}

impl<'a> PeerList<'a> {
    /// The first list of a group.
    ///
    /// # Safety
    ///
    /// A group of a configuration whose zones were made, and which is there for `'a`.
    pub(super) unsafe fn first(
        group: NonNull<ngx_http_upstream_srv_conf_t>,
    ) -> Result<Self, UnknownLayout> {
        let (mut start, mut size) = (std::ptr::null_mut::<u8>(), 0_usize);
        // SAFETY: the caller's promise; writes to two values of ours.
        unsafe { ngx_http_timer_group_memory(group.as_ptr(), &raw mut start, &raw mut size) };
        let memory = Memory { start: start.addr(), end: start.addr().saturating_add(size) };
        // SAFETY: the caller's promise. It is read each time: the zone replaces it.
        let list = unsafe { (*group.as_ptr()).peer.data };
        let first = Self::at(list.cast(), memory).ok_or(UnknownLayout)?;
        let backup = first.backup()?;
        // What the first one finds by SRV records goes into the other one, too.
        let is_fixed = !first.has_templates() && backup.is_none_or(|list| !list.has_templates());
        // INVARIANT: UPSTREAM-8.
        Ok(Self { is_fixed, ..first })
    }

    fn at(list: *mut ngx_http_upstream_rr_peers_t, memory: Memory) -> Option<Self> {
        let head = memory.hold(list)?;
        // SAFETY: a list in the memory.
        let shared = unsafe { ngx_http_timer_peers_shared(head.as_ptr()) };
        let group = std::marker::PhantomData;
        // INVARIANT: just looked at.
        (shared != 0).then_some(Self { head, memory, is_fixed: false, group })
    }

    fn has_templates(self) -> bool {
        // SAFETY: the invariant; it is set before the zone is used.
        !unsafe { ngx_http_timer_peers_resolve(self.head.as_ptr()) }.is_null()
    }

    /// The list of the `backup` servers.
    pub(super) fn backup(self) -> Result<Option<Self>, UnknownLayout> {
        // SAFETY: the invariant; it is set before the zone is used.
        let next = unsafe { (*self.head.as_ptr()).next };
        if next.is_null() {
            return Ok(None);
        }
        let next = Self::at(next, self.memory).ok_or(UnknownLayout)?;
        // INVARIANT: that of the first list is for both.
        Ok(Some(Self { is_fixed: self.is_fixed, ..next }))
    }

    /// How many servers it has; what lasts only while it is locked.
    pub(super) fn len(self) -> usize {
        // SAFETY: the invariant.
        let number = unsafe { &raw const (*self.head.as_ptr()).number };
        // SAFETY: as above.
        unsafe { number.read_volatile() }
    }

    /// Which servers it has: another value when some have come or gone.
    pub(super) fn membership(self) -> (usize, usize) {
        // SAFETY: the invariant.
        let config = unsafe { ngx_http_timer_peers_config(self.head.as_ptr()) };
        let config = self.memory.hold(config.cast_mut());
        // SAFETY: a number in the memory.
        let config = config.map_or(0, |config| unsafe { config.as_ptr().read_volatile() });
        (config, self.len())
    }

    /// For reading. A list that is fixed is not locked: what is not held is not left held by a crash.
    pub(super) fn read(self) -> LockedPeers<'a> {
        if !self.is_fixed {
            // SAFETY: the invariant.
            unsafe { ngx_http_timer_peers_rlock(self.head.as_ptr()) };
        }
        LockedPeers { list: self, is_locked: !self.is_fixed }
    }

    /// For writing.
    pub(super) fn write(self) -> Exclusive<'a> {
        // SAFETY: the invariant.
        unsafe { ngx_http_timer_peers_wlock(self.head.as_ptr()) };
        Exclusive(LockedPeers { list: self, is_locked: true })
    }
}

impl Drop for LockedPeers<'_> {
    fn drop(&mut self) {
        if self.is_locked {
            // SAFETY: this process has the lock.
            unsafe { ngx_http_timer_peers_unlock(self.list.head.as_ptr()) };
        }
    }
}

/// A server of a list, which stays there meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerEntry<'a> {
    peer: NonNull<ngx_http_upstream_rr_peer_t>,
    memory: Memory,
    list: std::marker::PhantomData<&'a ()>,
}

impl LockedPeers<'_> {
    /// Calls `look` with each server, until it answers `false`.
    ///
    /// # Errors
    ///
    /// The list is not as long as it says, or leads elsewhere.
    pub(super) fn each(
        &self,
        look: impl FnMut(PeerEntry<'_>) -> bool,
    ) -> Result<(), UnknownLayout> {
        // SAFETY: the invariant of the list.
        let first = unsafe { (*self.list.head.as_ptr()).peer };
        self.walk(first, Some(self.list.len()), look)
    }

    /// Calls `look` with each template of servers that are found by `resolve`.
    ///
    /// # Errors
    ///
    /// As above.
    pub(super) fn each_template(
        &self,
        mut look: impl FnMut(PeerEntry<'_>),
    ) -> Result<(), UnknownLayout> {
        // SAFETY: the invariant of the list.
        let first = unsafe { ngx_http_timer_peers_resolve(self.list.head.as_ptr()) };
        self.walk(first, None, |entry| {
            look(entry);
            true
        })
    }

    fn walk(
        &self,
        first: *mut ngx_http_upstream_rr_peer_t,
        len: Option<usize>,
        mut look: impl FnMut(PeerEntry<'_>) -> bool,
    ) -> Result<(), UnknownLayout> {
        let memory = self.list.memory;
        let (mut next, mut count) = (first, 0_usize);
        while !next.is_null() {
            let peer = memory.hold(next).ok_or(UnknownLayout)?;
            let entry = PeerEntry { peer, memory, list: std::marker::PhantomData };
            count += 1;
            if !entry.is_plausible() || count > len.unwrap_or(MOST) {
                return Err(UnknownLayout);
            }
            if !look(entry) {
                return Ok(());
            }
            // SAFETY: a server of the list, in which none goes.
            next = unsafe { (*peer.as_ptr()).next };
        }
        if len.is_some_and(|len| len != count) { Err(UnknownLayout) } else { Ok(()) }
    }
}

/// A field of a server.
macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        impl PeerEntry<'_> {
            $($(#[$doc])* pub(super) fn $name(&self) -> $type {
                // SAFETY: a server of a list in which none goes.
                let field = unsafe { &raw const (*self.peer.as_ptr()).$name };
                // SAFETY: as above; balancers may change it meanwhile, under another lock.
                unsafe { field.read_volatile() }
            })*
        }
    };
}

fields! {
    /// Why it gets no requests; 0 if it does.
    down: usize;
    /// `weight=`
    weight: isize;
    /// Requests in progress.
    conns: usize;
    /// `max_conns=`
    max_conns: usize;
    /// Failed attempts of clients' requests.
    fails: usize;
    /// `max_fails=`
    max_fails: usize;
    /// `fail_timeout=`
    fail_timeout: i64;
    /// When it was last tried after failures.
    checked: i64;
}

impl PeerEntry<'_> {
    /// Its name, as nginx prints the address.
    pub(super) fn name(&self) -> &[u8] {
        // SAFETY: as for the other fields.
        let name = unsafe { (*self.peer.as_ptr()).name };
        self.memory.bytes(name).unwrap_or_default()
    }

    /// What the configuration, or an SRV record, calls it.
    pub(super) fn server(&self) -> &[u8] {
        // SAFETY: as above.
        let server = unsafe { (*self.peer.as_ptr()).server };
        self.memory.bytes(server).unwrap_or_default()
    }

    /// The bytes of its address.
    pub(super) fn address(&self) -> &[u8] {
        // SAFETY: as above.
        let data = unsafe { (*self.peer.as_ptr()).sockaddr };
        // SAFETY: as above.
        let len = unsafe { (*self.peer.as_ptr()).socklen };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.memory.bytes(ngx_str_t { len, data: data.cast() }).unwrap_or_default()
    }

    /// Whether its fields are where they are looked for.
    fn is_plausible(&self) -> bool {
        let (address, name) = (self.address(), self.name());
        let family = address.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
        let known = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];
        let is_known = family.is_some_and(|family| known.contains(&i32::from(family)));
        is_known && address.len() <= 128 && name.len() <= 255
    }
}

/// What is set and cleared in `down`: bits of ours, and never another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DownBits {
    pub(super) of: usize,
    pub(super) bits: usize,
}

impl DownBits {
    /// `down` with our bits as they are wanted.
    pub(super) fn in_place(self, down: usize) -> usize {
        down & !self.of | self.bits & self.of
    }
}

impl<'a> std::ops::Deref for Exclusive<'a> {
    type Target = LockedPeers<'a>;

    fn deref(&self) -> &LockedPeers<'a> {
        &self.0
    }
}

impl Exclusive<'_> {
    /// Puts what `wanted` says of each server into its `down`, and keeps the number of those that get
    /// requests right; where it gets them again, its failures are forgotten. Answers how many had other bits.
    ///
    /// # Errors
    ///
    /// The list is not as long as it says, or leads elsewhere.
    pub(super) fn put(
        &self,
        mut wanted: impl FnMut(&PeerEntry<'_>, usize) -> Option<DownBits>,
    ) -> Result<usize, UnknownLayout> {
        let (mut at, mut changed, mut more, mut fewer) = (0, 0, 0_usize, 0_usize);
        let walked = self.each(|entry| {
            let before = entry.down();
            if let Some(wanted) = wanted(&entry, at) {
                let after = wanted.in_place(before);
                changed += usize::from(after != before);
                more += usize::from(before != 0 && after == 0);
                fewer += usize::from(before == 0 && after != 0);
                if before & wanted.of != 0 && after & wanted.of == 0 {
                    // SAFETY: a server of a list that nobody else reads or writes.
                    unsafe { (*entry.peer.as_ptr()).fails = 0 };
                }
                if after != before {
                    // SAFETY: as above.
                    unsafe { (*entry.peer.as_ptr()).down = after };
                }
            }
            at += 1;
            true
        });
        // SAFETY: the list is this process's now.
        let tries = unsafe { &raw mut (*self.0.list.head.as_ptr()).tries };
        // SAFETY: as above.
        let before = unsafe { tries.read() };
        // SAFETY: as above.
        unsafe { tries.write(before.wrapping_add(more).wrapping_sub(fewer)) };
        walked.map(|()| changed)
    }

    /// The same for the templates, of which the bits are copied to all servers to come.
    ///
    /// # Errors
    ///
    /// As above.
    pub(super) fn put_into_templates(&self, wanted: DownBits) -> Result<(), UnknownLayout> {
        self.each_template(|entry| {
            let after = wanted.in_place(entry.down());
            // SAFETY: as above.
            unsafe { (*entry.peer.as_ptr()).down = after };
        })
    }
}
