//! A request to the servers that a location passes to, and the response to it, which nobody else sees.
//!
//! It may carry secrets: it is logged neither as a request nor by what nginx writes for those who debug.

use std::cell::{Cell, RefCell};
use std::mem;
use std::rc::Rc;
use std::time::Duration;

use ngx::ffi::{ngx_http_request_t, ngx_http_upstream_conf_t, ngx_uint_t};

use super::own;
use crate::nginx::conf::location::Location;
use crate::nginx::core::bits;
use crate::nginx::core::event::{EventTimer, Hold, Next, Posted};
use crate::nginx::run::{
    self, Access, Attached, Flow, Inside, Method, NextFilter, Origin, Place, Receiver, Request,
    RequestEnd, ResponseHead, StartError, Started, Uri,
};
use crate::os::memory;

/// What is asked: a POST.
pub struct ExchangeRequest<'a> {
    /// The path.
    pub path: &'a str,
    /// The headers, each a name and a value.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// The body.
    pub body: &'a [u8],
    /// How many bytes of a response's body are taken: a longer one is none.
    pub body_limit: usize,
    /// How long all may take.
    pub limit: Duration,
}

/// The response of a server.
#[derive(Clone, Debug, Default)]
pub struct Exchanged {
    /// Its status.
    pub status: u16,
    /// Its `Date`, if it has one.
    pub date: Option<Vec<u8>>,
    /// Its body.
    pub body: Vec<u8>,
}

/// An exchange in progress. Dropping it lets its run go on, without a limit on time, and nobody is told of
/// its end.
pub struct Exchange {
    stage: Stage,
    _timeout: EventTimer,
}

enum Stage {
    Runs(run::InProgress),
    /// It has ended with its start, of which is still to be told.
    Ended {
        _tells: Posted,
    },
}

/// What the run of an exchange has come to.
struct Taken {
    connect_timeout: Duration,
    read_timeout: Duration,
    body_limit: usize,
    response: RefCell<Exchanged>,
    /// Whether a server has answered.
    is_answered: Cell<bool>,
    /// Why its answer is none.
    why_not: Cell<Option<&'static str>>,
    /// The status with which nginx has answered by itself.
    own_status: Cell<Option<u16>>,
    timed_out: Cell<bool>,
    /// The last line that nginx wrote of an error.
    line: RefCell<String>,
}

/// One that was cut off is cut off again after this time.
const CUT_OFF_AGAIN: Duration = Duration::from_secs(1);

/// Has nginx request `location`; `on_end` is told later, from a posted event, what a server has answered, or
/// why there is nothing that it has. A worker that exits waits for that.
///
/// # Errors
///
/// It could not start; `on_end` is not called.
pub fn exchange(
    location: Location,
    request: &ExchangeRequest<'_>,
    origin: Rc<dyn Origin>,
    on_end: impl FnOnce(Result<Exchanged, String>) + 'static,
) -> Result<Exchange, StartError> {
    let limit = request.limit;
    let taken = Rc::new(Taken {
        connect_timeout: limit / 2,
        read_timeout: limit * 9 / 10,
        body_limit: request.body_limit,
        response: RefCell::default(),
        is_answered: Cell::new(false),
        why_not: Cell::new(None),
        own_status: Cell::new(None),
        timed_out: Cell::new(false),
        line: RefCell::default(),
    });
    let run_request = Request {
        method: &Method::post(),
        uri: &Uri::Constant(request.path.as_bytes().to_vec()),
        place: Place::Anywhere,
        host: None,
        access: Access::LeftOut,
        headers: request.headers,
        body: Some(request.body),
    };
    let attached = Attached {
        receiver: Some(taken.clone()),
        inside: Some(taken.clone()),
        ..Attached::default()
    };
    let started = run::start_attached(location, &run_request, origin, attached)?;

    let handle = match &started {
        Started::InProgress(run) => Some(run.handle()),
        Started::Ended(_) => None,
    };
    let late = Rc::clone(&taken);
    let timeout = EventTimer::new(Hold::HoldsExit, move || {
        late.timed_out.set(true);
        let Some(handle) = &handle else { return Next::Stop };
        handle.cut_off();
        Next::After(CUT_OFF_AGAIN)
    });
    let stage = match started {
        Started::InProgress(run) => {
            timeout.arm(limit);
            run.on_end(move |end| on_end(taken.outcome(end, limit)));
            Stage::Runs(run)
        }
        Started::Ended(end) => {
            let mut on_end = Some(on_end);
            let tells = Posted::new(move || {
                if let Some(on_end) = on_end.take() {
                    on_end(taken.outcome(end, limit));
                }
            });
            tells.post();
            Stage::Ended { _tells: tells }
        }
    };
    Ok(Exchange { stage, _timeout: timeout })
}

impl Exchange {
    /// Ends it, if it is not over: its connection is closed.
    pub fn cut_off(&self) {
        if let Stage::Runs(run) = &self.stage {
            run.cut_off();
        }
    }
}

impl Taken {
    fn outcome(&self, end: RequestEnd, limit: Duration) -> Result<Exchanged, String> {
        let line = mem::take(&mut *self.line.borrow_mut());
        let or = |otherwise: String| if line.is_empty() { otherwise } else { line.clone() };
        if self.timed_out.get() {
            return Err(format!("timed out after {}ms", limit.as_millis()));
        }
        if end.closed {
            return Err("worker was told to stop".to_owned());
        }
        if let Some(why) = self.why_not.get() {
            return Err(why.to_owned());
        }
        if !self.is_answered.get() {
            let status = self.own_status.get().unwrap_or(end.status);
            return Err(or(format!("the location answers by itself: status {status}")));
        }
        if !end.complete {
            return Err(or("response incomplete".to_owned()));
        }
        Ok(self.response.take())
    }
}

impl Inside for Taken {
    unsafe fn before_content(&self, r: *mut ngx_http_request_t) {
        // SAFETY: the caller's promise; ends before nginx is called.
        let request = unsafe { &mut *r };
        bits::set_error_page(request, 1);
    }

    unsafe fn before_upstream(&self, r: *mut ngx_http_request_t) -> bool {
        // SAFETY: the caller's promise.
        if unsafe { (*r).upstream }.is_null() {
            return true;
        }
        // One that does not answer leaves time for another, and counts as failed (max_fails): who ends the
        // request before nginx has waited for long enough says nothing of the server.
        let ms = |time: Duration| usize::try_from(time.as_millis()).unwrap_or(usize::MAX);
        let (connecting, reading) = (ms(self.connect_timeout), ms(self.read_timeout));
        let change = |conf: &mut ngx_http_upstream_conf_t| {
            conf.connect_timeout = conf.connect_timeout.min(connecting);
            conf.read_timeout = conf.read_timeout.min(reading);
        };
        // SAFETY: as above.
        let has_conf = unsafe { own::set_conf(r, change) }.is_some();
        if !has_conf {
            self.why_not.set(Some("no memory"));
        }
        has_conf
    }

    fn leaves(&self) -> bool {
        false
    }

    fn is_logged(&self) -> bool {
        false
    }

    fn line(&self, level: ngx_uint_t, message: &[u8]) -> ngx_uint_t {
        if own::is_for_debugging(level) {
            // It shows headers and more.
            return ngx_uint_t::MAX;
        }
        own::keep_line(&self.line, level, message);
        own::level_of(level, message)
    }
}

impl Receiver for Taken {
    fn head(&self, head: &ResponseHead<'_>) -> Flow {
        if !head.is_of_server() {
            self.own_status.set(Some(head.status()));
            return Flow::Enough;
        }
        if head.status() < 200 {
            self.why_not.set(Some("invalid response"));
            return Flow::Enough;
        }
        let mut dates = head.headers().filter(|(name, _)| name.eq_ignore_ascii_case(b"Date"));
        let date = dates.next().map(|(_, value)| value.to_vec());
        self.response.replace(Exchanged { status: head.status(), date, body: Vec::new() });
        self.is_answered.set(true);
        Flow::More
    }

    fn body(&self, piece: &[u8]) -> Flow {
        let body = &mut self.response.borrow_mut().body;
        if body.len() + piece.len() > self.body_limit {
            self.why_not.set(Some("response is too large"));
            return Flow::Enough;
        }
        if memory::fallible(|| body.try_reserve(piece.len())).is_err() {
            self.why_not.set(Some("no memory"));
            return Flow::Enough;
        }
        body.extend_from_slice(piece);
        Flow::More
    }

    fn then(&self) -> NextFilter {
        NextFilter::Skipped
    }
}
