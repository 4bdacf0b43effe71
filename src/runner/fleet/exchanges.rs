//! The exchanges of a client: what is sent, what came of it, and who is told.

use std::cell::Cell;
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::client::{Client, MOST_CLAIMS, Told, boot_now};
use super::shared::RequestResult;
use crate::conf::Fleet;
use crate::fleet::{
    AHEAD_MS, Answer, Ask, BootMs, Decoded, Denial, Engine as _, Header, MOST_BYTES, Newest,
    Request, Response,
};
use crate::nginx::run::Origin;
use crate::nginx::upstream::{self, ExchangeRequest, Exchanged};
use crate::os::wall_clock;
use crate::schedule::UnixMs;

/// Something that is asked.
pub(super) struct Call {
    pub(super) what: What,
    /// Whether it was asked already, with a token.
    pub(super) is_authenticated: bool,
}

/// What is asked.
pub(super) enum What {
    Ask { timer: Box<str>, ask: Ask, told: Told },
    Read(Vec<(Box<str>, Told)>),
    Probe { timer: Box<str>, ask: Ask },
    Authenticate,
}

/// Who makes the requests, for their log lines.
struct ByClient {
    fleet: Fleet,
}

/// When an exchange was made.
struct Sending {
    number: u64,
    token: Option<Rc<str>>,
    /// The newest that was seen then.
    seen: Newest,
    at: BootMs,
}

/// When something was asked, and when the answer came.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) sent: BootMs,
    pub(super) arrived: BootMs,
}

impl Origin for ByClient {
    fn write_context(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "fleet: \"{}\"", self.fleet.name)
    }
}

impl Client {
    pub(super) fn start(&self, call: Call) {
        if let Some(why) = self.shared.needs_reset().filter(|_| call.changes() && !call.is_reset())
        {
            // What is written to a copy brings its revisions to where the others were.
            let now = boot_now();
            let times = Times { sent: now, arrived: now };
            return self.tell(call, Answer::Denied(why), times);
        }
        if call.is_claim() {
            self.claims.set(self.claims.get() + 1);
        }
        let request = self.request(&call);
        let token = self.token.borrow().clone();
        let mut headers: Vec<(&[u8], &[u8])> = vec![(b"Content-Type", b"application/json")];
        if let Some(token) = token.as_deref().filter(|_| !matches!(call.what, What::Authenticate)) {
            headers.push((b"Authorization", token.as_bytes()));
        }
        let asked = ExchangeRequest {
            path: request.path,
            headers: &headers,
            body: request.body.as_bytes(),
            body_limit: MOST_BYTES,
            limit: self.fleet.limit(),
        };
        let number = self.number.get() + 1;
        self.number.set(number);
        let sending =
            Sending { number, token: token.clone(), seen: self.shared.newest(), at: boot_now() };
        let call = Rc::new(Cell::new(Some(call)));
        let (me, ended) = (Weak::clone(&self.me), Rc::clone(&call));
        let at = sending.at;
        let on_end = move |result| {
            if let Some((client, call)) = me.upgrade().zip(ended.take()) {
                client.ended(call, &sending, result);
            }
        };
        let by = Rc::new(ByClient { fleet: self.fleet.clone() });
        match upstream::exchange(self.fleet.location, &asked, by, on_end) {
            Ok(exchange) => {
                let before = self.in_progress.borrow_mut().insert(number, exchange);
                drop(before);
            }
            Err(why) => {
                let Some(call) = call.take() else { return };
                let sending = Sending { number, token, seen: Newest::default(), at };
                self.ended(call, &sending, Err(why.to_string()));
            }
        }
    }

    fn request(&self, call: &Call) -> Request {
        match &call.what {
            What::Ask { timer, ask, .. } => {
                self.timer.replace(timer.clone());
                self.engine.request(timer, ask)
            }
            What::Probe { timer, ask } => self.engine.request(timer, ask),
            What::Read(asked) => {
                let names: Vec<&str> = asked.iter().map(|(timer, _)| &**timer).collect();
                if let Some(first) = names.first() {
                    self.timer.replace((*first).into());
                }
                self.engine.read_many(&names)
            }
            What::Authenticate => match &self.fleet.credentials {
                Some(it) => self.engine.authenticate(&it.user, it.password.reveal()),
                None => self.engine.authenticate("", ""),
            },
        }
    }

    fn ended(&self, call: Call, sending: &Sending, result: Result<Exchanged, String>) {
        let exchange = self.in_progress.borrow_mut().remove(&sending.number);
        drop(exchange);
        if call.is_claim() {
            self.claims.set(self.claims.get().saturating_sub(1));
        }
        let now = boot_now();
        let times = Times { sent: sending.at, arrived: now };
        let took = Duration::from_millis(now.0.saturating_sub(sending.at.0));
        match result {
            Ok(exchanged) => self.answered(call, sending, &exchanged, times, took),
            Err(why) => {
                self.shared.count(RequestResult::Unknown, took);
                self.doubt(&why);
                self.tell(call, Answer::Unknown, times);
            }
        }
        while self.claims.get() < MOST_CLAIMS {
            let next = self.waiting.borrow_mut().pop_front();
            let Some(next) = next else { break };
            self.start(next);
        }
    }

    fn answered(
        &self,
        call: Call,
        sending: &Sending,
        it: &Exchanged,
        times: Times,
        took: Duration,
    ) {
        let response = Response { status: it.status, body: &it.body };
        let (header, answers) = match &call.what {
            What::Ask { ask, .. } | What::Probe { ask, .. } => {
                let Decoded { header, answer } = self.engine.decode(ask, response);
                (header, vec![answer])
            }
            What::Read(asked) => match self.engine.decode_many(asked.len(), response) {
                (header, Ok(answers)) => (header, answers),
                (header, Err(answer)) => (header, vec![answer; asked.len()]),
            },
            What::Authenticate => return self.authenticated(response, took),
        };
        if let Some(header) = &header {
            self.note_clock(header, it.date.as_deref(), times);
        }
        let answers = match header {
            Some(header) if call.is_reset() => {
                // One that finds something else says what that is.
                if let Some(Answer::Applied(_)) = answers.first() {
                    self.reset(&header);
                }
                answers
            }
            Some(header) => match self.shared.note(&header, sending.seen) {
                Ok(()) => answers,
                Err(why) => vec![Answer::Denied(why); answers.len()],
            },
            None => answers,
        };
        let first = answers.first().cloned().unwrap_or(Answer::Unknown);
        let asks_who = match &first {
            Answer::Denied(Denial::Unauthenticated) => true,
            // A request without a token is made as who the certificate of etcd's own gateway names.
            Answer::Denied(Denial::Forbidden(_)) => sending.token.is_none(),
            _ => false,
        };
        if asks_who && self.fleet.credentials.is_some() {
            self.shared.count(RequestResult::Refused, took);
            if !call.is_authenticated {
                return self.authenticate(call, sending);
            }
            self.token.replace(None);
        } else {
            self.shared.count(result_of(&first), took);
        }
        match &first {
            Answer::Applied(_) => self.is_back(true),
            Answer::Seen(_) => self.is_back(call.is_write()),
            Answer::Denied(why) => self.denied(why),
            Answer::Unknown => self.doubt(&unknown(it)),
        }
        self.tell_each(call, answers, times);
    }

    /// Somebody has decided that this engine counts. Whoever has claimed a due time has not done so earlier than
    /// a host may.
    fn reset(&self, header: &Header) {
        if self.shared.needs_reset().is_some() {
            let now = self.time().unwrap_or_else(wall_clock);
            self.shared.reset(header, UnixMs(now.0.saturating_add(AHEAD_MS)));
        }
    }

    /// What is asked for was authenticated.
    fn authenticated(&self, response: Response<'_>, took: Duration) {
        let calls = self.unauthenticated.take().unwrap_or_default();
        let answer = match self.engine.token(response) {
            Ok(token) => {
                self.shared.count(RequestResult::Ok, took);
                self.token.replace(Some(token.into()));
                for call in calls {
                    self.start(call);
                }
                return;
            }
            Err(answer) => answer,
        };
        self.shared.count(result_of(&answer), took);
        match &answer {
            Answer::Denied(why) => self.denied(why),
            _ => self.doubt("cannot be authenticated"),
        }
        let now = boot_now();
        let times = Times { sent: now, arrived: now };
        for call in calls {
            self.tell(call, answer.clone(), times);
        }
    }

    /// Asks once more, with another token than before.
    fn authenticate(&self, mut call: Call, sending: &Sending) {
        call.is_authenticated = true;
        let has_another = {
            let token = self.token.borrow();
            token.is_some() && *token != sending.token
        };
        if has_another {
            return self.start(call);
        }
        let is_first = {
            let mut waiting = self.unauthenticated.borrow_mut();
            let is_first = waiting.is_none();
            waiting.get_or_insert_default().push(call);
            is_first
        };
        if is_first {
            self.start(Call { what: What::Authenticate, is_authenticated: true });
        }
    }

    fn tell(&self, call: Call, answer: Answer, times: Times) {
        let count = if let What::Read(asked) = &call.what { asked.len() } else { 1 };
        self.tell_each(call, vec![answer; count], times);
    }

    fn tell_each(&self, call: Call, answers: Vec<Answer>, Times { sent, arrived }: Times) {
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or(Answer::Unknown);
        match call.what {
            What::Ask { told, .. } => told(next(), sent, arrived),
            What::Read(asked) => {
                for (_, told) in asked {
                    told(next(), sent, arrived);
                }
            }
            What::Probe { .. } => self.probed(),
            What::Authenticate => {
                // Those that wait for it: nothing has come of that.
                let calls = self.unauthenticated.take().unwrap_or_default();
                let times = Times { sent, arrived };
                for call in calls {
                    self.tell(call, Answer::Unknown, times);
                }
            }
        }
    }
}

impl Call {
    /// Whether it counts as a claim: those wait for each other.
    fn is_claim(&self) -> bool {
        let What::Ask { ask, .. } = &self.what else { return false };
        matches!(
            ask,
            Ask::Claim { .. } | Ask::ClaimAgain { .. } | Ask::Init { .. } | Ask::Close { .. }
        )
    }

    /// Whether somebody decides with it that the engine counts.
    fn is_reset(&self) -> bool {
        matches!(&self.what, What::Ask { ask: Ask::Reset { .. }, .. })
    }

    /// Whether something is to be changed.
    fn changes(&self) -> bool {
        matches!(&self.what, What::Ask { ask, .. } if !matches!(ask, Ask::Read))
    }

    /// Whether it would have been refused if nothing could be written.
    fn is_write(&self) -> bool {
        match &self.what {
            What::Ask { ask, .. } | What::Probe { ask, .. } => !matches!(ask, Ask::Read),
            What::Read(_) | What::Authenticate => false,
        }
    }
}

fn result_of(answer: &Answer) -> RequestResult {
    match answer {
        Answer::Applied(_) | Answer::Seen(_) => RequestResult::Ok,
        Answer::Denied(_) => RequestResult::Refused,
        Answer::Unknown => RequestResult::Unknown,
    }
}

/// Why a response says nothing.
fn unknown(exchanged: &Exchanged) -> String {
    match exchanged.status {
        200 => "invalid response".to_owned(),
        status => format!("status {status}"),
    }
}
