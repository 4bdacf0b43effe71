//! One check of one server: a run of a location whose request goes to that server, and to no other.

use std::rc::Rc;
use std::time::Duration;

use super::end::{CheckEnd, Cut};
use super::group::Group;
use super::kept::KeptKey;
use super::pin::Pin;
use super::response::UpstreamResponse;
use super::server::Server;
use crate::nginx::conf::location::Location;
use crate::nginx::core::event::{EventTimer, Hold, Next, Posted};
use crate::nginx::core::process;
use crate::nginx::run::{
    self, Access, Attached, Method, Origin, Place, Request, RequestEnd, StartError, Started, Uri,
};

/// What is asked of a server.
pub struct CheckRequest<'a> {
    /// The group to which the location passes.
    pub group: Group,
    /// The server.
    pub server: &'a Server,
    /// The method.
    pub method: &'a Method,
    /// The URI, with its arguments.
    pub uri: &'a [u8],
    /// The `Host` header.
    pub host: &'a str,
    /// Other headers, each a name and a value.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// The body.
    pub body: Option<&'a [u8]>,
    /// How many bytes of the response's body are taken; more of it is not waited for.
    pub body_limit: usize,
    /// How long all may take.
    pub timeout: Duration,
    /// For how long the connection is kept for the next check; not at all if `None`.
    pub keepalive: Option<Duration>,
}

/// A check in progress. Dropping it lets its run go on, without a limit on time, and nobody is told of
/// its end.
pub struct CheckInProgress {
    stage: Stage,
    pin: Rc<Pin>,
    _timeout: EventTimer,
}

enum Stage {
    Runs(run::InProgress),
    /// It has ended with its start, of which is still to be told.
    Ended {
        _tells: Posted,
    },
}

/// Has nginx request `location` from this server; `judge` is shown a response that is complete, or
/// fills `body_limit`, and says why it does not pass. `on_end` is told its result, later, from a
/// posted event.
///
/// # Errors
///
/// The check could not start; `on_end` is not called.
pub fn check(
    location: Location,
    request: &CheckRequest<'_>,
    origin: Rc<dyn Origin>,
    judge: impl FnOnce(&UpstreamResponse<'_>) -> Result<(), String> + 'static,
    on_end: impl FnOnce(CheckEnd) + 'static,
) -> Result<CheckInProgress, StartError> {
    let key = KeptKey::new(request.group, location, request.server.address);
    let pin = Pin::new(
        request.group,
        request.server,
        request.uri,
        request.body_limit,
        request.keepalive.map(|lasts| (key, lasts)),
        Box::new(judge),
    );
    let agent = format!("nginx/{} (health check)", process::nginx_version());
    let mut headers = vec![(b"User-Agent".as_slice(), agent.as_bytes())];
    headers.extend_from_slice(request.headers);
    let run_request = Request {
        method: request.method,
        uri: &Uri::Constant(request.uri.to_vec()),
        place: Place::Anywhere,
        host: Some(request.host),
        access: Access::LeftOut,
        headers: &headers,
        body: request.body,
    };
    let attached =
        Attached { receiver: Some(pin.clone()), inside: Some(pin.clone()), ..Attached::default() };
    let started = run::start_attached(location, &run_request, origin, attached)?;

    let handle = match &started {
        Started::InProgress(run) => Some(run.handle()),
        Started::Ended(_) => None,
    };
    let late = Rc::clone(&pin);
    let timeout = EventTimer::new(Hold::Cancelable, move || {
        late.cut(Cut::Timeout);
        if let Some(handle) = &handle {
            handle.cut_off();
        }
        Next::Stop
    });
    timeout.arm(request.timeout);

    let ended = Rc::clone(&pin);
    let stage = match started {
        Started::InProgress(run) => {
            run.on_end(move |end| on_end(outcome(&ended, end)));
            Stage::Runs(run)
        }
        Started::Ended(end) => {
            let mut on_end = Some(on_end);
            let tells = Posted::new(move || {
                if let Some(on_end) = on_end.take() {
                    on_end(outcome(&ended, end));
                }
            });
            tells.post();
            Stage::Ended { _tells: tells }
        }
    };
    Ok(CheckInProgress { stage, pin, _timeout: timeout })
}

impl CheckInProgress {
    /// Ends the check, if it is not over: its connection is closed, and the end is told as ever.
    pub fn cut_off(&self, why: Cut) {
        self.pin.cut(why);
        if let Stage::Runs(run) = &self.stage {
            run.cut_off();
        }
    }
}

/// What is told of a run that has ended.
fn outcome(pin: &Pin, end: RequestEnd) -> CheckEnd {
    if let Some(end) = pin.end.take() {
        return end;
    }
    if end.closed || pin.cut.get() == Some(Cut::Leaving) {
        return CheckEnd::Inconclusive("interrupted".to_owned());
    }
    if let Some(why) = pin.why_not.get() {
        return CheckEnd::Inconclusive(why.to_owned());
    }
    if let Some(status) = pin.own_status.get() {
        return CheckEnd::Inconclusive(format!("the location answers by itself: status {status}"));
    }
    CheckEnd::Inconclusive("the location passes to no server".to_owned())
}
