//! One server to which a run's request goes, and to no other.
//!
//! ```text
//!   before_content ─> before_upstream ─> enter ─> get ─> ... ─> free ─> finalize ─> the run ends
//!                      (own settings)   (instead of              (judges)
//!                                       the balancer)
//! ```

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use ngx::ffi::{
    ngx_http_request_t, ngx_http_upstream_conf_t, ngx_http_upstream_srv_conf_t, ngx_int_t,
    ngx_peer_connection_t, ngx_uint_t,
};

use super::end::{CheckEnd, Cut};
use super::group::Group;
use super::kept::{self, KeptKey};
use super::own;
use super::response::Judge;
use super::server::{PeerInPool, Server};
use super::uri;
use crate::nginx::core::guard::guard;
use crate::nginx::core::{bits, rc};
use crate::nginx::run::connect::has_free_connection;
use crate::nginx::run::{Flow, Inside, NextFilter, Receiver, ResponseHead, RunConnection};
use crate::os::memory::{self, NoMemory};

pub(super) type ProcessHeader = unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t;
pub(super) type Finalize = unsafe extern "C" fn(*mut ngx_http_request_t, ngx_int_t);

const ELSEWHERE: &str = "the location passes to another upstream";

/// What a check is about, and what has happened to it.
///
/// # Invariants
///
/// `peer` is in the pool of the request that has entered, or null.
pub(super) struct Pin {
    group: Group,
    server: Server,
    uri: Vec<u8>,
    /// Whether the location's rewrite rules have made another URI.
    rewritten: Cell<bool>,
    peer: Cell<*mut PeerInPool>,
    body_limit: usize,
    /// How long a connection may serve checks, and whose.
    kept: Option<(KeptKey, Duration)>,
    /// With what the module reads the first line of the response.
    pub(super) process_header: Cell<Option<ProcessHeader>>,
    /// What the module did at the end of its request.
    pub(super) finalize: Cell<Option<Finalize>>,
    pub(super) judge: Cell<Option<Judge>>,
    pub(super) end: Cell<Option<CheckEnd>>,
    pub(super) cut: Cell<Option<Cut>>,
    /// Why nothing can be said of the server.
    pub(super) why_not: Cell<Option<&'static str>>,
    /// The status with which the location has answered by itself.
    pub(super) own_status: Cell<Option<u16>>,
    entered: Cell<bool>,
    is_tried: Cell<bool>,
    has_conf: Cell<bool>,
    /// Whether nginx has given the server up.
    pub(super) failed: Cell<bool>,
    /// Whether what came is no HTTP.
    pub(super) invalid: Cell<bool>,
    /// Whether all is there that is looked at.
    pub(super) enough: Cell<bool>,
    pub(super) body: RefCell<Vec<u8>>,
    /// The last line that nginx wrote of an error.
    pub(super) line: RefCell<String>,
}

impl Pin {
    pub(super) fn new(
        group: Group,
        server: &Server,
        uri: &[u8],
        body_limit: usize,
        kept: Option<(KeptKey, Duration)>,
        judge: Judge,
    ) -> Rc<Self> {
        Rc::new(Self {
            group,
            server: server.clone(),
            uri: uri.to_vec(),
            rewritten: Cell::new(false),
            // INVARIANT: none yet.
            peer: Cell::new(ptr::null_mut()),
            body_limit,
            kept,
            process_header: Cell::new(None),
            finalize: Cell::new(None),
            judge: Cell::new(Some(judge)),
            end: Cell::new(None),
            cut: Cell::new(None),
            why_not: Cell::new(None),
            own_status: Cell::new(None),
            entered: Cell::new(false),
            is_tried: Cell::new(false),
            has_conf: Cell::new(false),
            failed: Cell::new(false),
            invalid: Cell::new(false),
            enough: Cell::new(false),
            body: RefCell::new(Vec::new()),
            line: RefCell::new(String::new()),
        })
    }

    /// It is cut off, for this reason if for no other before.
    pub(super) fn cut(&self, why: Cut) {
        self.cut.set(Some(self.cut.get().unwrap_or(why)));
    }

    /// That of the run which `r` belongs to, if its server is pinned.
    ///
    /// # Safety
    ///
    /// `r` is an open request.
    pub(super) unsafe fn of(r: *mut ngx_http_request_t) -> Option<Rc<Self>> {
        // SAFETY: the caller's promise.
        let inside = unsafe { RunConnection::inside_of(r) }?;
        inside.into_any().downcast().ok()
    }

    /// Takes the place of the group's balancer (UPSTREAM-1 to UPSTREAM-5); `finalize` is called at the end of the request instead
    /// of the module's function, which it finds in `self`.
    ///
    /// # Safety
    ///
    /// `r` is an open request that has an upstream, and has come to this group.
    pub(super) unsafe fn enter(
        self: &Rc<Self>,
        r: *mut ngx_http_request_t,
        group: *mut ngx_http_upstream_srv_conf_t,
        finalize: Finalize,
    ) -> ngx_int_t {
        let is_own = self.group.conf().is_some_and(|own| ptr::eq(own.as_ptr(), group));
        // SAFETY: the caller's promise.
        let is_main = ptr::eq(r, unsafe { (*r).main });
        if !is_own || !is_main || self.entered.replace(true) {
            self.why_not.set(Some(ELSEWHERE));
            return rc::ERROR;
        }
        // SAFETY: as above.
        let Some(place) = (unsafe { self.prepare(r) }) else {
            self.why_not.set(Some("no memory"));
            return rc::ERROR;
        };
        // INVARIANT: made just now.
        self.peer.set(place);
        // SAFETY: as above.
        let upstream = unsafe { (*r).upstream };
        // SAFETY: as above; ends here.
        let upstream = unsafe { &mut *upstream };
        self.finalize.set(upstream.finalize_request);
        upstream.finalize_request = Some(finalize);

        let peer = &mut upstream.peer;
        peer.get = Some(get);
        peer.free = Some(free);
        peer.notify = None;
        #[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
        {
            peer.set_session = Some(set_session);
            peer.save_session = Some(save_session);
        }
        peer.tries = 1;
        peer.data = r.cast();
        // SAFETY: made just now.
        peer.name = unsafe { &raw mut (*place).name };
        rc::OK
    }

    /// What needs memory; `None` without it.
    ///
    /// # Safety
    ///
    /// As for [`enter`](Self::enter).
    unsafe fn prepare(&self, r: *mut ngx_http_request_t) -> Option<*mut PeerInPool> {
        // SAFETY: the caller's promise.
        unsafe { self.set_conf(r) }?;
        // SAFETY: as above.
        let upstream = unsafe { (*r).upstream };
        // What variables make is what the location wants to be sent.
        // SAFETY: as above.
        let has_variables = !unsafe { (*upstream).resolved }.is_null();
        if !self.rewritten.get() && !has_variables {
            // SAFETY: as above: its request was made before it has come to a group.
            unsafe { uri::ask_for(r, &self.uri) }?;
        }
        // SAFETY: as above.
        let pool = unsafe { (*r).pool };
        // SAFETY: an open request has its pool.
        unsafe { self.server.place_in(pool) }
    }

    /// Gives the request settings of its own, with which it makes no other request, and of which
    /// nothing is stored; once.
    ///
    /// # Safety
    ///
    /// `r` is an open request that has an upstream.
    unsafe fn set_conf(&self, r: *mut ngx_http_request_t) -> Option<()> {
        const NEVER: ngx_uint_t = ngx::ffi::NGX_HTTP_UPSTREAM_FT_OFF as ngx_uint_t;
        /// Over another connection where one that was kept has broken; else no try is left.
        const ONCE_MORE: ngx_uint_t = (ngx::ffi::NGX_HTTP_UPSTREAM_FT_ERROR
            | ngx::ffi::NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT)
            as ngx_uint_t;

        if self.has_conf.get() {
            return Some(());
        }
        let next_upstream = if self.kept.is_some() { ONCE_MORE } else { NEVER };
        let change = |conf: &mut ngx_http_upstream_conf_t| {
            conf.next_upstream = next_upstream;
            own::forget_session(conf);
        };
        // SAFETY: the caller's promise.
        unsafe { own::set_conf(r, change) }?;
        self.has_conf.set(true);
        Some(())
    }
}

impl Inside for Pin {
    unsafe fn before_content(&self, r: *mut ngx_http_request_t) {
        // SAFETY: the caller's promise; ends before nginx is called.
        let request = unsafe { &mut *r };
        bits::set_error_page(request, 1);
        self.rewritten.set(bits::valid_unparsed_uri(request) == 0);
    }

    unsafe fn before_upstream(&self, r: *mut ngx_http_request_t) -> bool {
        // SAFETY: the caller's promise.
        let upstream = unsafe { (*r).upstream };
        if upstream.is_null() {
            return true;
        }
        // SAFETY: as above; ends before nginx is called.
        let resolved = unsafe { (*upstream).resolved };
        // SAFETY: what a module has made of variables, or null.
        if unsafe { resolved.as_ref() }.is_some_and(|name| !self.group.is_called(name)) {
            // It would be looked up, or is an address, with which no balancer is asked.
            self.why_not.set(Some(ELSEWHERE));
            return false;
        }
        // SAFETY: as above.
        unsafe { self.set_conf(r) }.is_some()
    }

    fn line(&self, level: ngx_uint_t, message: &[u8]) -> ngx_uint_t {
        own::keep_line(&self.line, level, message);
        own::level_of(level, message)
    }
}

impl Receiver for Pin {
    fn head(&self, head: &ResponseHead<'_>) -> Flow {
        if !self.entered.get() {
            // The location answers by itself.
            self.own_status.set(Some(head.status()));
            return Flow::Enough;
        }
        match head.status() {
            0 => {
                self.invalid.set(true);
                Flow::Enough
            }
            // No body follows that would end.
            100..200 => {
                self.enough.set(true);
                Flow::Enough
            }
            _ => Flow::More,
        }
    }

    fn body(&self, piece: &[u8]) -> Flow {
        let mut body = self.body.borrow_mut();
        let room = self.body_limit.saturating_sub(body.len());
        let wanted = piece.get(..piece.len().min(room)).unwrap_or_default();
        if memory::fallible(|| body.try_reserve(wanted.len())) == Err(NoMemory) {
            self.why_not.set(Some("no memory"));
            return Flow::Enough;
        }
        body.extend_from_slice(wanted);
        if body.len() >= self.body_limit {
            self.enough.set(true);
            return Flow::Enough;
        }
        Flow::More
    }

    fn then(&self) -> NextFilter {
        NextFilter::Skipped
    }
}

unsafe extern "C" fn get(peer: *mut ngx_peer_connection_t, r: *mut c_void) -> ngx_int_t {
    guard(rc::ERROR, || {
        // SAFETY: `enter` has set it; the peer is that of the open request.
        let Some(pin) = (unsafe { Pin::of(r.cast()) }) else { return rc::ERROR };
        let was_tried = pin.is_tried.replace(true);
        // What a connection that was kept has come to does not count.
        pin.failed.set(false);
        pin.line.borrow_mut().clear();
        // SAFETY: as above; ends before nginx is called.
        let peer = unsafe { &mut *peer };
        // SAFETY: the invariant: `enter` has made it, in the pool of the open request.
        peer.sockaddr = unsafe { PeerInPool::sockaddr(pin.peer.get()) };
        peer.socklen = pin.server.address.size();
        peer.connection = ptr::null_mut();
        peer.set_cached(0);
        if let Some((key, _)) = &pin.kept {
            // SAFETY: as above.
            if !was_tried && unsafe { kept::take(peer, key) } {
                return rc::DONE;
            }
        }
        if !has_free_connection() {
            // `ngx_get_connection` would write an alert (RUN-1).
            pin.why_not.set(Some("no free connection"));
            peer.sockaddr = ptr::null_mut();
            return rc::BUSY;
        }
        rc::OK
    })
}

unsafe extern "C" fn free(peer: *mut ngx_peer_connection_t, r: *mut c_void, state: ngx_uint_t) {
    const FAILED: ngx_uint_t = ngx::ffi::NGX_PEER_FAILED as ngx_uint_t;

    // SAFETY: as for `get`.
    unsafe { (*peer).tries = 0 };
    guard((), || {
        let r = r.cast::<ngx_http_request_t>();
        // SAFETY: as above.
        let Some(pin) = (unsafe { Pin::of(r) }) else { return };
        // SAFETY: as above; ends before nginx is called.
        let peer = unsafe { &mut *peer };
        if state & FAILED != 0 {
            pin.failed.set(true);
        } else if let Some((key, lasts)) = &pin.kept {
            // SAFETY: as above.
            let upstream = unsafe { (*r).upstream };
            // SAFETY: as above: its upstream.
            unsafe { kept::keep(peer, upstream, key, *lasts) };
        }
    });
}

/// A check's session is that of no client.
#[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
unsafe extern "C" fn set_session(_: *mut ngx_peer_connection_t, _: *mut c_void) -> ngx_int_t {
    guard(rc::ERROR, || rc::OK)
}

#[cfg(any(ngx_feature = "ssl", ngx_feature = "compat"))]
unsafe extern "C" fn save_session(_: *mut ngx_peer_connection_t, _: *mut c_void) {
    guard((), || ());
}
