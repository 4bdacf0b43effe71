//! What all processes of an nginx know of a fleet: in memory that the master makes, and hands on by fork and at
//! a reload.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::conf::{FleetConf, MainConf};
use crate::fleet::{BootMs, Denial, Header, Newest, Revision, RevisionSays, judge_header};
use crate::os::SharedMemory;
use crate::schedule::UnixMs;

/// The words of a fleet.
#[derive(Clone, Copy)]
pub(super) struct FleetShared(&'static [AtomicU64]);

/// Whether the engine of a fleet does what it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FleetState {
    /// Nobody has asked yet.
    #[default]
    Unknown,
    /// It does.
    Up,
    /// It does not answer.
    Unreachable,
    /// It refuses.
    Refused,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestResult {
    /// It was answered.
    Ok,
    /// It was refused.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What is logged at most once a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Unreachable,
    Refused,
    ClockAhead,
    ClockBehind,
    LastAhead,
    ForeignKeys,
    NoDate,
}

/// What is shown of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetFigures {
    /// Whether its engine does what it is asked.
    pub state: FleetState,
    /// Whether nothing is asked for until it is reset: its engine was restored, or is another one.
    pub needs_reset: bool,
    /// Why it does not.
    pub why: String,
    /// By how much the clock of this host is ahead of the engine's, negative if it is behind; `None` if that is
    /// not known.
    pub skew_ms: Option<i64>,
    /// How many requests had which result.
    pub requests: [(RequestResult, u64); 3],
    /// How long all of them took together.
    pub took: Duration,
}

const STATE: usize = 0;
const CLUSTER: usize = 1;
const REVISION: usize = 2;
/// Why nothing is asked for until somebody resets it: revisions have gone back (1), another cluster (2).
const NEEDS_RESET: usize = 3;
const SKEW: usize = 4;
const HAS_SKEW: usize = 5;
const REQUESTS: usize = 6;
const TOOK_US: usize = 9;
/// Whether the log says that it does not do what it is asked.
const IS_TOLD: usize = 10;
const LINES: usize = 11;
/// Up to when due times are not run since the last reset.
const RESET_AT: usize = 19;
/// Odd while the text is written.
const TEXT_VERSION: usize = 20;
const TEXT_LEN: usize = 21;
const TEXT: usize = 22;
const TEXT_WORDS: usize = 32;
const WORDS: usize = TEXT + TEXT_WORDS;

/// Between two lines of a kind.
const LINES_EVERY_MS: u64 = 60_000;

thread_local! {
    /// Those that were made, by prefix and name.
    static MADE: RefCell<Vec<(String, FleetShared)>> = const { RefCell::new(Vec::new()) };
    /// For a fleet whose memory could not be had.
    static NONE: FleetShared = FleetShared(Vec::leak((0..WORDS).map(|_| AtomicU64::new(0)).collect()));
}

/// Makes room for the fleets of a configuration that has timers which use them; what was there before stays.
///
/// # Errors
///
/// What mmap(2) reports.
pub fn prepare(main: &MainConf) -> io::Result<()> {
    for fleet in main.fleets() {
        let key = key(fleet);
        let is_made = MADE.with_borrow(|made| made.iter().any(|(other, _)| *other == key));
        if !is_made {
            let words = SharedMemory::new(WORDS)?.leak();
            MADE.with_borrow_mut(|made| made.push((key, FleetShared(words))));
        }
    }
    Ok(())
}

/// What is shown of a fleet.
pub fn figures(fleet: &FleetConf) -> FleetFigures {
    FleetShared::of(fleet).figures()
}

fn key(fleet: &FleetConf) -> String {
    format!("{}{}", fleet.prefix, fleet.name)
}

impl FleetShared {
    /// That of this fleet.
    pub(super) fn of(fleet: &FleetConf) -> Self {
        let key = key(fleet);
        let made = MADE.with_borrow(|made| {
            made.iter().find(|(other, _)| *other == key).map(|(_, shared)| *shared)
        });
        made.unwrap_or_else(|| NONE.with(|none| *none))
    }

    #[expect(clippy::indexing_slicing, reason = "all numbers are constants below the count")]
    fn word(self, number: usize) -> &'static AtomicU64 {
        &self.0[number.min(WORDS - 1)]
    }

    fn get(self, number: usize) -> u64 {
        self.word(number).load(Ordering::SeqCst)
    }

    fn set(self, number: usize, value: u64) {
        self.word(number).store(value, Ordering::SeqCst);
    }

    pub(super) fn state(self) -> FleetState {
        match self.get(STATE) {
            1 => FleetState::Up,
            2 => FleetState::Unreachable,
            3 => FleetState::Refused,
            _ => FleetState::Unknown,
        }
    }

    pub(super) fn set_state(self, state: FleetState, why: &str) {
        self.set_text(why);
        self.set(
            STATE,
            match state {
                FleetState::Unknown => 0,
                FleetState::Up => 1,
                FleetState::Unreachable => 2,
                FleetState::Refused => 3,
            },
        );
    }

    /// Notes a request that took so long.
    pub(super) fn count(self, result: RequestResult, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.word(REQUESTS + result as usize).fetch_add(1, Ordering::SeqCst);
        self.word(TOOK_US).fetch_add(us, Ordering::SeqCst);
    }

    pub(super) fn set_skew(self, skew_ms: i64) {
        self.set(SKEW, u64::from_ne_bytes(skew_ms.to_ne_bytes()));
        self.set(HAS_SKEW, 1);
    }

    /// The cluster that answered last; 0 if none did.
    pub(super) fn cluster(self) -> u64 {
        self.get(CLUSTER)
    }

    /// The newest that was seen.
    pub(super) fn newest(self) -> Newest {
        Newest { cluster: self.cluster(), revision: Revision(self.get(REVISION)) }
    }

    /// An answer has come to a request that was sent when `seen` was the newest.
    ///
    /// # Errors
    ///
    /// Why it does not count.
    pub(super) fn note(self, header: &Header, seen: Newest) -> Result<(), Denial> {
        self.needs_reset().map_or(Ok(()), Err)?;
        if self.cluster() == 0 {
            let cluster = self.word(CLUSTER);
            // Another process may be quicker.
            let _ = cluster.compare_exchange(0, header.cluster, Ordering::SeqCst, Ordering::SeqCst);
        }
        match judge_header(header, seen, self.newest()) {
            RevisionSays::WentBack => self.set(NEEDS_RESET, 1),
            RevisionSays::OtherCluster => self.set(NEEDS_RESET, 2),
            RevisionSays::BeforeReset => return Err(Denial::OtherCluster),
            RevisionSays::Newest => {
                self.word(REVISION).fetch_max(header.revision.0, Ordering::SeqCst);
            }
            RevisionSays::Nothing => {}
        }
        self.needs_reset().map_or(Ok(()), Err)
    }

    /// Why nothing is asked for until somebody decides that this engine counts.
    pub(super) fn needs_reset(self) -> Option<Denial> {
        match self.get(NEEDS_RESET) {
            0 => None,
            1 => Some(Denial::RevisionsWentBack),
            _ => Some(Denial::OtherCluster),
        }
    }

    /// Somebody has decided that this engine counts from here. Nobody knows which due times were run up to `at`.
    pub(super) fn reset(self, header: &Header, at: UnixMs) {
        self.set(RESET_AT, u64::try_from(at.0).unwrap_or(0));
        self.set(REVISION, header.revision.0);
        self.set(CLUSTER, header.cluster);
        self.set(NEEDS_RESET, 0);
    }

    /// Up to when due times are not run since the last reset.
    pub(super) fn reset_at(self) -> UnixMs {
        UnixMs(i64::try_from(self.get(RESET_AT)).unwrap_or(i64::MAX))
    }

    /// Whether a line of this kind may be written now.
    pub(super) fn passes(self, line: Line, now: BootMs) -> bool {
        let word = self.word(LINES + line as usize);
        let last = word.load(Ordering::SeqCst);
        let once = line == Line::NoDate;
        if last != 0 && (once || now.0.saturating_sub(last) < LINES_EVERY_MS) {
            return false;
        }
        word.compare_exchange(last, now.0.max(1), Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The log says that it does not do what it is asked.
    pub(super) fn tell(self) {
        self.set(IS_TOLD, 1);
    }

    /// Whether the log has said so, and nothing else since.
    pub(super) fn take_told(self) -> bool {
        self.word(IS_TOLD).swap(0, Ordering::SeqCst) != 0
    }

    fn set_text(self, text: &str) {
        let version = self.get(TEXT_VERSION) | 1;
        self.set(TEXT_VERSION, version);
        let text = text.as_bytes();
        let text = text.get(..text.len().min(TEXT_WORDS * 8)).unwrap_or_default();
        for (number, chunk) in text.chunks(8).enumerate() {
            let mut bytes = [0; 8];
            bytes.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.set(TEXT + number, u64::from_le_bytes(bytes));
        }
        self.set(TEXT_LEN, u64::try_from(text.len()).unwrap_or(0));
        self.set(TEXT_VERSION, version.wrapping_add(1));
    }

    /// The text; empty while it is being changed.
    fn text(self) -> String {
        let version = self.get(TEXT_VERSION);
        let bytes: Vec<u8> =
            (0..TEXT_WORDS).flat_map(|number| self.get(TEXT + number).to_le_bytes()).collect();
        let len = usize::try_from(self.get(TEXT_LEN)).unwrap_or(0);
        if version % 2 != 0 || self.get(TEXT_VERSION) != version {
            return String::new();
        }
        String::from_utf8_lossy(bytes.get(..len).unwrap_or_default()).into_owned()
    }

    fn figures(self) -> FleetFigures {
        let requests = [RequestResult::Ok, RequestResult::Refused, RequestResult::Unknown];
        FleetFigures {
            state: self.state(),
            needs_reset: self.needs_reset().is_some(),
            why: self.text(),
            skew_ms: (self.get(HAS_SKEW) != 0)
                .then(|| i64::from_ne_bytes(self.get(SKEW).to_ne_bytes())),
            requests: requests.map(|result| (result, self.get(REQUESTS + result as usize))),
            took: Duration::from_micros(self.get(TOOK_US)),
        }
    }
}

impl RequestResult {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}
