//! A check in progress: from the claim that was won to the result in the record.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use crate::conf::{HealthCheck, Kind};
use crate::health::lanes::LaneOf;
use crate::health::matching::{self, BODY_LIMIT, judge_by_default};
use crate::health::pulse::StoodStill;
use crate::health::records::{CheckClaim, CheckResult, RecordedResult};
use crate::health::verdict::{CheckOutcome, Thresholds};
use crate::health::{grpc, matching::TestedResponse as _};
use crate::nginx::conf::Variable;
use crate::nginx::escaped;
use crate::nginx::run::{Method, Origin, StartError};
use crate::nginx::upstream::{
    self, CheckEnd, CheckInProgress, CheckRequest, Cut, Server, UpstreamResponse,
};
use crate::nth::Nth;
use crate::os::wall_clock;

/// A check in progress.
pub(super) struct RunningCheck {
    /// Taken when it ends.
    claim: Cell<Option<CheckClaim<'static>>>,
    pub(super) lane: LaneOf,
    since: Instant,
    pub(super) stood_still: StoodStill,
    /// Unset while it starts.
    check: OnceCell<CheckInProgress>,
}

/// Who makes the request, for its log lines.
struct ByCheck {
    group: Vec<u8>,
    server: Vec<u8>,
}

impl Origin for ByCheck {
    fn write_context(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let (group, server) = (escaped(&self.group), escaped(&self.server));
        write!(out, "health check of upstream: \"{group}\", peer: {server}")
    }
}

impl RunningCheck {
    /// It begins.
    pub(super) fn new(claim: CheckClaim<'static>, lane: LaneOf) -> Rc<Self> {
        Rc::new(Self {
            claim: Cell::new(Some(claim)),
            lane,
            since: Instant::now(),
            stood_still: StoodStill::default(),
            check: OnceCell::new(),
        })
    }

    /// Has nginx request the location from the server.
    ///
    /// # Errors
    ///
    /// It could not; `on_end` is not called.
    pub(super) fn start(
        &self,
        check: &Nth<HealthCheck>,
        server: &Server,
        on_end: impl FnOnce(CheckEnd) + 'static,
    ) -> Result<(), StartError> {
        let origin = Rc::new(ByCheck { group: check.group.name(), server: server.name.clone() });
        let asked = Asked::by(check);
        let request = CheckRequest {
            group: check.group,
            server,
            method: &asked.method,
            uri: &asked.uri,
            host: &check.host,
            headers: asked.headers,
            body: asked.body.as_deref(),
            body_limit: BODY_LIMIT,
            timeout: check.timeout,
            keepalive: check.keepalive_time,
        };
        let judged = check.clone();
        let judge = move |response: &UpstreamResponse<'_>| judge(&judged, response);
        let started = upstream::check(check.location, &request, origin, judge, on_end)?;
        let _ = self.check.set(started);
        Ok(())
    }

    /// How long it has been in progress.
    pub(super) fn since(&self, now: Instant) -> std::time::Duration {
        now.saturating_duration_since(self.since)
    }

    /// Ends it, unless it has ended.
    pub(super) fn cut_off(&self) {
        if let Some(check) = self.check.get() {
            check.cut_off(Cut::Leaving);
        }
    }

    /// Writes the result into the record; `None` if it counts no more.
    pub(super) fn end(
        &self,
        check: &HealthCheck,
        outcome: CheckOutcome,
        reason: &str,
    ) -> Option<RecordedResult> {
        let result = CheckResult {
            outcome,
            reason,
            at: wall_clock(),
            duration: self.since.elapsed(),
            thresholds: Thresholds { fails: check.fails, passes: check.passes },
        };
        self.claim.take()?.end(&result)
    }
}

/// What is asked of the server.
struct Asked {
    method: Method,
    uri: Vec<u8>,
    headers: &'static [(&'static [u8], &'static [u8])],
    body: Option<Vec<u8>>,
}

impl Asked {
    fn by(check: &HealthCheck) -> Self {
        match &check.kind {
            Kind::Http => {
                Self { method: Method::default(), uri: check.uri.clone(), headers: &[], body: None }
            }
            Kind::Grpc { service, .. } => Self {
                method: Method::parse(b"POST").unwrap_or_default(),
                uri: grpc::URI.to_vec(),
                headers: &grpc::HEADERS,
                body: Some(grpc::request(service)),
            },
        }
    }
}

/// A response, for the tests of `match`.
struct Judged<'a, 'b>(&'a UpstreamResponse<'b>);

impl matching::TestedResponse for Judged<'_, '_> {
    type Variable = Variable;

    fn status(&self) -> u16 {
        self.0.status()
    }

    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.headers()
    }

    fn body(&self) -> &[u8] {
        self.0.body()
    }

    fn variable(&self, variable: &Variable) -> Vec<u8> {
        self.0.variable(*variable)
    }
}

/// Whether the response passes; if not, why.
fn judge(check: &Nth<HealthCheck>, response: &UpstreamResponse<'_>) -> Result<(), String> {
    let judged = Judged(response);
    match (&check.kind, &check.matching) {
        (Kind::Grpc { status, .. }, _) => {
            let all = response.trailers().chain(response.headers());
            let mut status_of_call =
                all.filter(|(name, _)| name.eq_ignore_ascii_case(grpc::STATUS));
            let value = status_of_call.next().map(|(_, value)| value);
            let body = response.body();
            grpc::judge(judged.status(), value, body, *status).map_err(|why| why.to_string())
        }
        (Kind::Http, Some(tests)) => tests.judge(&judged).map_err(|why| why.to_string()),
        (Kind::Http, None) => judge_by_default(judged.status()).map_err(|why| why.to_string()),
    }
}
