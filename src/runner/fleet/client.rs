//! What a worker asks the engine of a fleet: one client for all its timers.
//!
//! ```text
//!   exchange ──> [waits for a permit] ──> a run of the location ──> decoded ──> told to who has asked
//!                                            ^                        │
//!                                            └── authenticated <──────┘ has to be
//! ```
//!
//! An exchange whose end is not known makes the client ask once more by itself at once; if that comes to nothing,
//! too, the engine is unreachable, and the client asks every few seconds until it is back.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::exchanges::{Call, Times, What};
use super::shared::{FleetShared, FleetState, Line};
use crate::conf::Fleet;
use crate::fleet::{AHEAD_MS, Answer, Ask, BootMs, EngineClock, Etcd, Header, MOST_READ, Revision};
use crate::nginx::event::{EventTimer, Hold, Next};
use crate::nginx::log::Level;
use crate::nginx::upstream::Exchange;
use crate::os::{boot_time, wall_clock};
use crate::schedule::UnixMs;

/// Who is told of an answer: with when it was asked for, and when it came.
pub type Told = Box<dyn FnOnce(Answer, BootMs, BootMs)>;

/// A worker's client of a fleet.
pub struct Client {
    pub(super) me: Weak<Self>,
    pub(super) fleet: Fleet,
    pub(super) engine: Etcd,
    pub(super) shared: FleetShared,
    pub(super) standing: Cell<FleetState>,
    /// How many exchanges in a row have come to nothing.
    pub(super) doubts: Cell<u32>,
    /// Whether it has refused to write: that something can be read says nothing then.
    pub(super) writes_nothing: Cell<bool>,
    pub(super) token: RefCell<Option<Rc<str>>>,
    /// Those that wait for a token, while one is asked for.
    pub(super) unauthenticated: RefCell<Option<Vec<Call>>>,
    pub(super) clock: RefCell<EngineClock>,
    pub(super) in_progress: RefCell<HashMap<u64, Exchange>>,
    pub(super) number: Cell<u64>,
    /// Claims that are in progress, and those that wait for one of them to end.
    pub(super) claims: Cell<usize>,
    pub(super) waiting: RefCell<VecDeque<Call>>,
    pub(super) reads: RefCell<Vec<(Box<str>, Told)>>,
    /// Sends the reads that have come together.
    pub(super) read_timer: OnceCell<EventTimer>,
    /// Asks again, while nothing is known or it does not do what it is asked.
    pub(super) probe_timer: OnceCell<EventTimer>,
    pub(super) probes: Cell<usize>,
    pub(super) probing: Cell<Probing>,
    /// The timer that was asked for last.
    pub(super) timer: RefCell<Box<str>>,
    pub(super) back: RefCell<Vec<Box<dyn FnOnce()>>>,
}

/// Whether the engine is asked only to see what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probing {
    Rests,
    /// It is to be.
    IsDue,
    Asks,
}

/// So many claims may be in progress at once; what keeps a run alive waits for none of them.
pub(super) const MOST_CLAIMS: usize = 32;
/// Reads that come within this time are sent together.
const TOGETHER: Duration = Duration::from_millis(10);
/// After how many seconds the engine is asked again; the last one goes on.
pub(super) const PROBE_AFTER_S: [u64; 6] = [1, 1, 1, 2, 3, 5];
/// A revision that no key was made at.
pub(super) const NEVER: Revision = Revision(u64::MAX / 2);

thread_local! {
    /// The clients of this process.
    static CLIENTS: RefCell<Vec<Weak<Client>>> = const { RefCell::new(Vec::new()) };
}

/// The process is about to end.
pub(in crate::runner) fn end() {
    let clients = CLIENTS.take();
    for client in clients.iter().filter_map(Weak::upgrade) {
        let in_progress = client.in_progress.take();
        in_progress.values().for_each(Exchange::cut_off);
    }
}

pub(super) fn boot_now() -> BootMs {
    BootMs(u64::try_from(boot_time().as_millis()).unwrap_or(u64::MAX))
}

impl Client {
    /// That of this fleet, in this process.
    pub fn of(fleet: &Fleet) -> Rc<Self> {
        let known = CLIENTS.with_borrow_mut(|clients| {
            clients.retain(|client| client.strong_count() > 0);
            let mut known = clients.iter().filter_map(Weak::upgrade);
            known.find(|client| client.fleet.is(fleet))
        });
        if let Some(client) = known {
            return client;
        }
        let client = Self::new(fleet);
        CLIENTS.with_borrow_mut(|clients| clients.push(Rc::downgrade(&client)));
        client
    }

    fn new(fleet: &Fleet) -> Rc<Self> {
        let client = Rc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            engine: Etcd::new(&fleet.prefix, fleet.name.as_str()),
            shared: FleetShared::of(fleet),
            fleet: fleet.clone(),
            standing: Cell::new(FleetState::Unknown),
            doubts: Cell::new(0),
            writes_nothing: Cell::new(false),
            token: RefCell::default(),
            unauthenticated: RefCell::default(),
            clock: RefCell::default(),
            in_progress: RefCell::default(),
            number: Cell::new(0),
            claims: Cell::new(0),
            waiting: RefCell::default(),
            reads: RefCell::default(),
            read_timer: OnceCell::new(),
            probe_timer: OnceCell::new(),
            probes: Cell::new(0),
            probing: Cell::new(Probing::Rests),
            timer: RefCell::default(),
            back: RefCell::default(),
        });
        let of = |act: fn(&Self)| {
            let me = Weak::clone(&client.me);
            EventTimer::new(Hold::Cancelable, move || {
                if let Some(client) = me.upgrade() {
                    act(&client);
                }
                Next::Stop
            })
        };
        let _ = client.read_timer.set(of(Self::send_reads));
        let _ = client.probe_timer.set(of(Self::probe));
        client
    }

    /// Asks the engine about a timer; `told` is called once, maybe at once. No borrow may be held.
    pub fn exchange(&self, timer: &str, ask: Ask, told: Told) {
        let is_claim = matches!(
            ask,
            Ask::Claim { .. } | Ask::ClaimAgain { .. } | Ask::Init { .. } | Ask::Close { .. }
        );
        let what = What::Ask { timer: timer.into(), ask, told };
        let call = Call { what, is_authenticated: false };
        if is_claim && self.claims.get() >= MOST_CLAIMS {
            return self.waiting.borrow_mut().push_back(call);
        }
        self.start(call);
    }

    /// Reads a timer, together with those that are read at about the same time; as [`Self::exchange`].
    pub fn read(&self, timer: &str, told: Told) {
        self.reads.borrow_mut().push((timer.into(), told));
        if let Some(reads) = self.read_timer.get() {
            reads.arm(TOGETHER);
        }
    }

    /// Whether the engine does what it is asked, as far as is known.
    pub fn is_up(&self) -> bool {
        let is_down = matches!(self.standing.get(), FleetState::Unreachable | FleetState::Refused);
        !is_down && self.shared.needs_reset().is_none()
    }

    /// Has `then` called once it does again.
    pub fn when_back(&self, then: Box<dyn FnOnce()>) {
        if self.is_up() {
            return then();
        }
        self.back.borrow_mut().push(then);
        self.probe_later();
    }

    /// Whether nobody knows if this due time was run: the engine was restored since, or is another one.
    pub(super) fn is_before_reset(&self, due: UnixMs) -> bool {
        due <= self.reset_at()
    }

    /// Up to when due times are not run since the last reset.
    pub(super) fn reset_at(&self) -> UnixMs {
        self.shared.reset_at()
    }

    /// The engine's time.
    pub fn time(&self) -> Option<UnixMs> {
        self.clock.borrow().time(boot_now())
    }

    /// By how much a due time lies ahead of the engine's time, if it is too far ahead to be claimed, which is
    /// logged.
    pub fn ahead(&self, due: UnixMs) -> Option<Duration> {
        let now = boot_now();
        let ahead = self.clock.borrow().ahead(due, now)?;
        if self.shared.passes(Line::ClockAhead, now) {
            let skew = self.clock.borrow().skew_ms(wall_clock(), now);
            let (skew, name) = (skew.unwrap_or_default().max(ahead), &self.fleet.name);
            self.log(
                Level::Error,
                format_args!("clock is {skew}ms ahead of fleet \"{name}\", due time not claimed"),
            );
        }
        Some(Duration::from_millis(u64::try_from(ahead).unwrap_or_default()))
    }

    /// The newest due time that was taken lies too far ahead of the engine's time, which is logged.
    pub fn last_ahead(&self, timer: &str, due: UnixMs) {
        if self.shared.passes(Line::LastAhead, boot_now()) {
            let name = &self.fleet.name;
            self.log(Level::Error, format_args!(
                "timer \"{timer}\": newest due time in fleet \"{name}\" is {due}, more than 60s ahead \
                 of its time, due time not claimed"
            ));
        }
    }

    /// The cluster that answers.
    pub fn cluster(&self) -> u64 {
        self.shared.cluster()
    }

    pub(super) fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        self.fleet.location.log().write(level, line);
    }

    fn send_reads(&self) {
        let mut reads = self.reads.take();
        while !reads.is_empty() {
            let rest = reads.split_off(reads.len().min(MOST_READ));
            self.start(Call { what: What::Read(reads), is_authenticated: false });
            reads = rest;
        }
    }

    pub(super) fn note_clock(&self, header: &Header, date: Option<&[u8]>, times: Times) {
        let Times { sent, arrived } = times;
        let name = &self.fleet.name;
        let is_noted = date
            .is_some_and(|date| self.clock.borrow_mut().note(header.member, date, sent, arrived));
        if !is_noted {
            if self.shared.passes(Line::NoDate, arrived) {
                self.log(
                    Level::Warn,
                    format_args!(
                        "fleet \"{name}\" sends no \"Date\", clocks are not compared with its time"
                    ),
                );
            }
            return;
        }
        let Some(skew) = self.clock.borrow().skew_ms(wall_clock(), arrived) else { return };
        self.shared.set_skew(skew);
        if skew < -AHEAD_MS && self.shared.passes(Line::ClockBehind, arrived) {
            let behind = skew.unsigned_abs();
            self.log(Level::Warn, format_args!("clock is {behind}ms behind fleet \"{name}\""));
        }
    }
}
