//! The run part of a record: what has been taken, what is in progress, and how runs have ended.

use std::time::Duration;

use crate::schedule::UnixMs;

use super::fields::{Fields, FieldsMut};
use super::format::{RESULTS, RUN};
use super::run::{
    Attempt, BootId, Ended, Outcome, Progress, RunId, RunResult, Trigger, Wait, Watermark,
};

/// Counters of outcomes; each run counts once, when it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Runs by outcome, in the order of [`Outcome`].
    ended: [u64; 6],
    /// Attempts after the first of their run.
    pub retries: u64,
    /// Manual and first runs, counted when they start.
    pub unscheduled: u64,
}

impl Counters {
    /// How many runs ended with `outcome`.
    pub fn ended_with(&self, outcome: Outcome) -> u64 {
        self.ended.get(usize::from(outcome.code())).copied().unwrap_or(0)
    }

    /// Adds those of another time.
    pub(super) fn add(&mut self, others: &Self) {
        for (sum, other) in self.ended.iter_mut().zip(others.ended) {
            *sum = sum.saturating_add(other);
        }
        self.retries = self.retries.saturating_add(others.retries);
        self.unscheduled = self.unscheduled.saturating_add(others.unscheduled);
    }

    /// How many runs have ended.
    pub fn ended(&self) -> u64 {
        self.ended.iter().fold(0, |sum, ended| sum.saturating_add(*ended))
    }
}

/// The run part of a record: written by the holder of the run lock only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPart {
    /// How often it was written.
    pub(super) serial: u64,
    /// Whose record it is.
    pub(super) name: Box<str>,
    /// What has been taken.
    pub watermark: Watermark,
    /// What is in progress.
    pub progress: Progress,
    /// The number of the newest order that was carried out.
    pub orders_done: u64,
    /// Counters.
    pub counters: Counters,
    /// Sum of the durations of all runs in milliseconds.
    pub duration_sum_ms: u64,
    /// Start of the last success.
    pub last_success_at: Option<UnixMs>,
    /// Start of the last attempt.
    pub last_start_at: Option<UnixMs>,
    /// How late that was, in milliseconds.
    pub last_lateness_ms: i64,
    /// Runs since the last success that ended otherwise, cancelled ones left out.
    pub consecutive_failures: u32,
    /// The newest results, newest first, at most [`RESULTS`].
    pub results: Vec<RunResult>,
}

impl RunPart {
    /// A record of `name` in which nothing has happened yet.
    pub(super) fn new(name: &str, watermark: UnixMs) -> Self {
        Self {
            serial: 0,
            name: name.into(),
            watermark: Watermark { due: watermark, attempt: 0 },
            progress: Progress::Nothing,
            orders_done: 0,
            counters: Counters::default(),
            duration_sum_ms: 0,
            last_success_at: None,
            last_start_at: None,
            last_lateness_ms: 0,
            consecutive_failures: 0,
            results: Vec::new(),
        }
    }

    /// Runs so far, the one in progress included.
    pub fn runs(&self) -> u64 {
        self.counters.ended().saturating_add((self.progress != Progress::Nothing).into())
    }

    /// The attempt that is being made by a process of this `boot`, as far as the record tells.
    pub fn running_in(&self, boot: BootId) -> Option<&Attempt> {
        match &self.progress {
            Progress::Running(attempt) if attempt.boot == boot => Some(attempt),
            _ => None,
        }
    }

    /// Notes that `attempt` starts.
    pub(super) fn start(&mut self, attempt: Attempt) {
        if attempt.number > 1 {
            self.counters.retries = self.counters.retries.saturating_add(1);
        } else if attempt.trigger.is_unscheduled() {
            self.counters.unscheduled = self.counters.unscheduled.saturating_add(1);
        }
        if attempt.trigger != Trigger::Manual {
            self.watermark = Watermark { due: attempt.due, attempt: attempt.number };
        }
        self.last_start_at = Some(attempt.started_at);
        self.last_lateness_ms = attempt.started_at.ms_since(attempt.due);
        self.progress = Progress::Running(attempt);
    }

    /// Notes that the run in progress has ended with its attempt, as `ended` says.
    pub(super) fn close(&mut self, attempt: Attempt, ended: Ended) -> RunResult {
        let result = RunResult { attempt: Attempt { boot: BootId::default(), ..attempt }, ended };
        self.results.insert(0, result);
        self.results.truncate(RESULTS);
        if let Some(counter) = self.counters.ended.get_mut(usize::from(ended.outcome.code())) {
            *counter = counter.saturating_add(1);
        }
        self.duration_sum_ms = self.duration_sum_ms.saturating_add(ms(ended.duration).into());
        match ended.outcome {
            Outcome::Success => {
                self.last_success_at = Some(attempt.started_at);
                self.consecutive_failures = 0;
            }
            Outcome::Cancelled => {}
            _ => self.consecutive_failures = self.consecutive_failures.saturating_add(1),
        }
        self.progress = Progress::Nothing;
        result
    }

    /// The part as it stands in the file.
    pub(super) fn encode(&self) -> [u8; RUN.bytes] {
        let mut bytes = [0; RUN.bytes];
        let mut to = FieldsMut(&mut bytes);
        to.u64(8, self.serial);
        to.name(16, &self.name);
        to.instant(144, self.watermark.due);
        to.u32(152, self.watermark.attempt);
        let (code, attempt, wait) = match &self.progress {
            Progress::Nothing => (0, None, None),
            Progress::Running(attempt) => (1, Some(attempt), None),
            Progress::Waiting(attempt, wait) => (2, Some(attempt), Some(wait)),
        };
        to.u8(156, code);
        if let Some(attempt) = attempt {
            to.u8(157, attempt.trigger.code());
            to.put(160, &attempt.run.0);
            to.put(176, &attempt.boot.0);
            to.instant(192, attempt.due);
            to.instant(200, attempt.started_at);
            to.u32(216, attempt.pid);
            to.u32(220, attempt.number);
        }
        if let Some(wait) = wait {
            to.u8(158, wait.last.outcome.code());
            to.instant(208, wait.next_at);
            to.u32(224, ms(wait.last.duration));
            to.u16(228, wait.last.status);
        }
        to.u64(232, self.orders_done);
        for (at, counter) in (240..).step_by(8).zip(self.counters.ended) {
            to.u64(at, counter);
        }
        to.u64(288, self.counters.retries);
        to.u64(296, self.counters.unscheduled);
        to.u64(304, self.duration_sum_ms);
        to.some_instant(312, self.last_success_at);
        to.some_instant(320, self.last_start_at);
        to.i64(328, self.last_lateness_ms);
        to.u32(336, self.consecutive_failures);
        to.count(340, self.results.len());
        for (at, result) in (512..).step_by(48).zip(&self.results).take(RESULTS) {
            to.instant(at, result.attempt.due);
            to.instant(at + 8, result.attempt.started_at);
            to.put(at + 16, &result.attempt.run.0);
            to.u32(at + 32, ms(result.ended.duration));
            to.u32(at + 36, result.attempt.number);
            to.u32(at + 40, result.attempt.pid);
            to.u16(at + 44, result.ended.status);
            to.u8(at + 46, result.ended.outcome.code());
            to.u8(at + 47, result.attempt.trigger.code());
        }
        RUN.seal(&mut bytes);
        bytes
    }

    /// Reads the part; `None` if its checksum or its name is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if !RUN.is_whole(bytes) {
            return None;
        }
        let from = Fields(bytes);
        let attempt = Attempt {
            run: RunId(from.bytes(160)),
            due: from.instant(192),
            trigger: Trigger::from_code(from.u8(157)),
            number: from.u32(220),
            pid: from.u32(216),
            boot: BootId(from.bytes(176)),
            started_at: from.instant(200),
        };
        let last = Ended {
            outcome: Outcome::from_code(from.u8(158)),
            status: from.u16(228),
            duration: Duration::from_millis(from.u32(224).into()),
        };
        Some(Self {
            serial: from.u64(8),
            name: from.name(16)?.into(),
            watermark: Watermark { due: from.instant(144), attempt: from.u32(152) },
            progress: match from.u8(156) {
                1 => Progress::Running(attempt),
                2 => Progress::Waiting(attempt, Wait { next_at: from.instant(208), last }),
                _ => Progress::Nothing,
            },
            orders_done: from.u64(232),
            counters: Counters {
                ended: std::array::from_fn(|outcome| from.u64(240 + 8 * outcome)),
                retries: from.u64(288),
                unscheduled: from.u64(296),
            },
            duration_sum_ms: from.u64(304),
            last_success_at: from.some_instant(312),
            last_start_at: from.some_instant(320),
            last_lateness_ms: from.i64(328),
            consecutive_failures: from.u32(336),
            results: (0..from.count(340, RESULTS))
                .map(|number| decode_result(from.from(512 + 48 * number)))
                .collect(),
        })
    }
}

fn decode_result(from: Fields<'_>) -> RunResult {
    RunResult {
        attempt: Attempt {
            run: RunId(from.bytes(16)),
            due: from.instant(0),
            trigger: Trigger::from_code(from.u8(47)),
            number: from.u32(36),
            pid: from.u32(40),
            boot: BootId::default(),
            started_at: from.instant(8),
        },
        ended: Ended {
            outcome: Outcome::from_code(from.u8(46)),
            status: from.u16(44),
            duration: Duration::from_millis(from.u32(32).into()),
        },
    }
}

/// Whole milliseconds, at most 49 days.
fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::run::OUTCOMES;
    use super::*;

    fn attempt(number: u32) -> Attempt {
        Attempt {
            run: RunId([0xab; 16]),
            due: UnixMs(1_764_000_000_000),
            trigger: Trigger::Queue,
            number,
            pid: 4242,
            boot: BootId([7; 16]),
            started_at: UnixMs(1_764_000_000_017),
        }
    }

    fn ended(outcome: Outcome) -> Ended {
        Ended { outcome, status: 502, duration: Duration::from_millis(12) }
    }

    #[test]
    fn everything_survives_the_file() {
        let mut run = RunPart::new("wp-cron.shop.example.org", UnixMs(5));
        run.serial = 77;
        run.orders_done = 3;
        for number in 0..40 {
            run.start(attempt(number % 3 + 1));
            let outcome = OUTCOMES[usize::try_from(number).unwrap() % 6];
            run.close(attempt(number % 3 + 1), ended(outcome));
        }
        for progress in [
            Progress::Nothing,
            Progress::Running(attempt(1)),
            Progress::Waiting(
                attempt(2),
                Wait { next_at: UnixMs(9), last: ended(Outcome::Timeout) },
            ),
        ] {
            run.progress = progress;
            assert_eq!(RunPart::decode(&run.encode()), Some(run.clone()));
        }
        assert_eq!(run.results.len(), RESULTS);
        assert_eq!(run.runs(), 41);
    }

    #[test]
    fn a_flipped_bit_is_seen_anywhere() {
        let mut bytes = RunPart::new("a", UnixMs(0)).encode();
        for at in 0..RUN.bytes {
            bytes[at] ^= 0x10;
            assert_eq!(RunPart::decode(&bytes), None, "{at}");
            bytes[at] ^= 0x10;
        }
        assert_eq!(RunPart::decode(&[0; RUN.bytes]), None);
        assert_eq!(RunPart::decode(&bytes[..100]), None);
    }

    #[test]
    fn foreign_values_behind_a_right_checksum_are_no_panic() {
        let mut bytes = [0xff; RUN.bytes];
        RUN.seal(&mut bytes);
        assert_eq!(RunPart::decode(&bytes), None, "the name is too long");
        bytes[16..144].fill(0);
        RUN.seal(&mut bytes);
        let run = RunPart::decode(&bytes).unwrap();
        assert_eq!(run.results.len(), RESULTS);
        assert_eq!(run.results[0].ended.outcome, Outcome::Error);
    }

    #[test]
    fn a_pid_of_another_boot_is_not_running() {
        let mut run = RunPart::new("a", UnixMs(0));
        run.progress = Progress::Running(attempt(1));
        assert!(run.running_in(BootId([7; 16])).is_some());
        assert!(run.running_in(BootId([8; 16])).is_none());
    }

    #[test]
    fn cancelled_runs_neither_make_nor_mend_a_row_of_failures() {
        let mut run = RunPart::new("a", UnixMs(0));
        for (outcome, row) in [
            (Outcome::Failure, 1),
            (Outcome::Cancelled, 1),
            (Outcome::Interrupted, 2),
            (Outcome::Success, 0),
        ] {
            run.close(attempt(1), ended(outcome));
            assert_eq!(run.consecutive_failures, row);
        }
        assert_eq!(run.counters.ended_with(Outcome::Cancelled), 1);
        assert_eq!(run.last_success_at, Some(UnixMs(1_764_000_000_017)));
    }

    #[test]
    fn manual_runs_leave_the_watermark() {
        let mut run = RunPart::new("a", UnixMs(5));
        run.start(Attempt { trigger: Trigger::Manual, ..attempt(1) });
        assert_eq!(run.watermark.due, UnixMs(5));
        assert_eq!(run.counters.unscheduled, 1);
        run.start(attempt(2));
        assert_eq!(run.watermark, Watermark { due: attempt(2).due, attempt: 2 });
        assert_eq!(run.counters.retries, 1);
    }
}
