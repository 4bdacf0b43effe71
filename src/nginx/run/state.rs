//! What a run's connection shares with who has started it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr;
use std::rc::Rc;

use ngx::ffi::{ngx_chain_t, ngx_event_get_peer_pt, ngx_http_request_t, off_t};

use super::held::Held;
use super::inside::Inside;
use super::receiver::Receiver;
use super::request::Access;
use crate::nginx::core::as_any::AsAny;
use crate::nginx::core::event::Posted;

/// Who has a location run: known to the run's log lines and variables.
pub trait Origin: AsAny {
    /// Writes the context of the run's log lines, `name: value, name: value`.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    fn write_context(&self, out: &mut dyn fmt::Write) -> fmt::Result;
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestEnd {
    /// The response's status; 0 if there was none.
    pub status: u16,
    /// Whether the response's last buffer came: a response that was cut short has its header's
    /// status all the same (RUN-11).
    pub complete: bool,
    /// Whether nginx closed the run's connection since the worker had to leave.
    pub closed: bool,
}

/// Who decides whether a run goes on. Is called from within nginx, and starts nothing there.
pub trait Guard {
    /// Asked before each connection to a server of a group, and at each piece of the response: the run is
    /// cut off where it does not go on.
    fn goes_on(&self) -> bool;
}

/// Who has to do with a run while it is in progress.
#[derive(Clone, Default)]
pub(in crate::nginx) struct Attached {
    /// Who takes its response.
    pub(in crate::nginx) receiver: Option<Rc<dyn Receiver>>,
    /// Who decides whether it goes on.
    pub(in crate::nginx) guard: Option<Rc<dyn Guard>>,
    /// What the nginx layer does within it.
    pub(in crate::nginx) inside: Option<Rc<dyn Inside>>,
}

/// The body of a run's request, kept until it is read.
#[derive(Clone, Copy)]
pub(super) struct KeptBody {
    /// Its buffers, in the request's pool; null if it has none.
    pub(super) chain: *mut ngx_chain_t,
    /// Its length as in `headers_in`.
    pub(super) length: off_t,
}

/// The state of a run.
///
/// # Invariants
///
/// `request` is the run's main request while it is open, and null before and after.
pub(super) struct RunState {
    origin: Rc<dyn Origin>,
    access: Access,
    attached: Attached,
    body: Cell<Option<KeptBody>>,
    held: Held,
    /// What the balancer gets a server with.
    get: Cell<ngx_event_get_peer_pt>,
    request: Cell<*mut ngx_http_request_t>,
    complete: Cell<bool>,
    end: Cell<Option<RequestEnd>>,
    /// Tells of the end; made for a run that has not ended with its start.
    posted: RefCell<Option<Posted>>,
}

impl RunState {
    pub(super) fn new(origin: Rc<dyn Origin>, access: Access, attached: Attached) -> Self {
        Self {
            origin,
            access,
            attached,
            body: Cell::new(None),
            held: Held::new(),
            get: Cell::new(None),
            request: Cell::new(ptr::null_mut()),
            complete: Cell::new(false),
            end: Cell::new(None),
            posted: RefCell::new(None),
        }
    }

    /// Has `on_end` called at the end, from a posted event.
    pub(super) fn tell(self: &Rc<Self>, on_end: impl FnOnce(RequestEnd) + 'static) {
        let weak = Rc::downgrade(self);
        let mut on_end = Some(on_end);
        let posted = Posted::new(move || {
            let Some(end) = weak.upgrade().and_then(|state| state.take_end()) else { return };
            if let Some(on_end) = on_end.take() {
                on_end(end);
            }
        });
        self.posted.replace(Some(posted));
    }

    /// The end is not reported any more.
    pub(super) fn tell_nobody(&self) {
        drop(self.posted.take());
    }

    pub(super) fn origin(&self) -> Rc<dyn Origin> {
        Rc::clone(&self.origin)
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    pub(super) fn receiver(&self) -> Option<Rc<dyn Receiver>> {
        self.attached.receiver.clone()
    }

    pub(super) fn inside(&self) -> Option<Rc<dyn Inside>> {
        self.attached.inside.clone()
    }

    /// Whether it goes on.
    pub(super) fn goes_on(&self) -> bool {
        self.attached.guard.as_ref().is_none_or(|guard| guard.goes_on())
    }

    /// Whether somebody decides that.
    pub(super) fn is_guarded(&self) -> bool {
        self.attached.guard.is_some()
    }

    /// What the balancer gets a server with, of the group that the run has come to last.
    pub(super) fn get_of_balancer(&self) -> &Cell<ngx_event_get_peer_pt> {
        &self.get
    }

    /// What of its response was not taken yet.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    pub(super) fn keep_body(&self, body: KeptBody) {
        self.body.set(Some(body));
    }

    /// What was kept, once.
    pub(super) fn take_body(&self) -> Option<KeptBody> {
        self.body.take()
    }

    /// The run's request, null if it is not open.
    pub(super) fn request(&self) -> *mut ngx_http_request_t {
        self.request.get()
    }

    /// # Safety
    ///
    /// `r` is the run's main request, and [`end`](Self::end) is called before it is gone.
    pub(super) unsafe fn begin(&self, r: *mut ngx_http_request_t) {
        // INVARIANT: open from now on.
        self.request.set(r);
    }

    /// The response's last buffer came.
    pub(super) fn complete(&self) {
        self.complete.set(true);
    }

    /// The request is being closed, with this status.
    pub(super) fn end(&self, status: u16, closed: bool) {
        // INVARIANT: closed from now on.
        self.request.set(ptr::null_mut());
        self.held.forget();
        self.end.set(Some(RequestEnd { status, complete: self.complete.get(), closed }));
        if let Some(posted) = &*self.posted.borrow() {
            posted.post();
        }
    }

    /// How it ended, if it did.
    pub(super) fn take_end(&self) -> Option<RequestEnd> {
        self.end.take()
    }
}
