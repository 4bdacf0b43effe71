//! The claim part of a record: what has been taken, what is in progress, and how runs have ended in
//! sum.

use std::time::Duration;

use crate::schedule::UnixMs;

use super::codec::{Decoder, Encoder};
use super::counters::Counters;
use super::format::{CLAIM, Field, claim as at};
use super::run::{
    Asked, Attempt, BootId, ClaimId, ClaimKind, Ended, FleetClaim, Outcome, Progress, RunId,
    RunResult, Trigger, Wait, Watermark,
};

/// The claim part of a record: written by the holder of the run lock only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPart {
    /// How often it was written.
    pub(in crate::state) serial: u64,
    /// Whose record it is.
    pub(in crate::state) name_hash: u64,
    /// What has been taken.
    pub watermark: Watermark,
    /// What is in progress.
    pub progress: Progress,
    /// The claim in a fleet that what runs or waits has.
    pub fleet: Option<FleetClaim>,
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
    /// How many results there have been: the number of the newest one.
    pub(in crate::state) results_ever: u64,
    /// The newest result, as far as most want to know it.
    pub last_result: Option<LastResult>,
    /// The serial of the text of the last failure: the number of that result; 0 for none.
    pub(in crate::state) failure_text: u64,
}

/// How the last run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastResult {
    /// Start of its last attempt.
    pub started_at: UnixMs,
    /// How that ended.
    pub ended: Ended,
}

impl LastResult {
    /// When it ended, by the wall clock at its start.
    pub fn ended_at(&self) -> UnixMs {
        self.started_at.plus(self.ended.duration)
    }
}

impl From<&RunResult> for LastResult {
    fn from(result: &RunResult) -> Self {
        let duration = Duration::from_millis(ms(result.ended.duration).into());
        let ended = Ended { duration, ..result.ended };
        Self { started_at: result.attempt.started_at, ended }
    }
}

impl ClaimPart {
    /// That of a timer, by the hash of its name, of which nothing has happened yet.
    pub(in crate::state) fn new(name_hash: u64, watermark: UnixMs) -> Self {
        Self {
            serial: 0,
            name_hash,
            watermark: Watermark { due: watermark, attempt: 0 },
            progress: Progress::Nothing,
            fleet: None,
            orders_done: 0,
            counters: Counters::default(),
            duration_sum_ms: 0,
            last_success_at: None,
            last_start_at: None,
            last_lateness_ms: 0,
            consecutive_failures: 0,
            results_ever: 0,
            last_result: None,
            failure_text: 0,
        }
    }

    /// Runs so far, the one in progress included.
    pub fn runs(&self) -> u64 {
        let is_run = matches!(self.progress, Progress::Running(_) | Progress::Waiting(..));
        self.counters.ended().saturating_add(is_run.into())
    }

    /// Notes that `attempt` starts.
    pub(in crate::state) fn start(&mut self, attempt: Attempt) {
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

    /// The same in a fleet, for a due time that this host may have accounted for already.
    pub(in crate::state) fn start_in_fleet(
        &mut self,
        attempt: Attempt,
        fleet: FleetClaim,
        is_accounted: bool,
    ) {
        let watermark = self.watermark;
        self.start(attempt);
        self.watermark = self.watermark.max(watermark);
        self.fleet = Some(fleet);
        if is_accounted {
            self.counters.unscheduled = self.counters.unscheduled.saturating_add(1);
        }
    }

    /// Whether it says of something that it is in progress which a process that died may have left.
    pub fn may_be_left(&self) -> bool {
        matches!(self.progress, Progress::Running(_) | Progress::Claiming(..))
            || self.fleet.is_some()
    }

    /// Notes that the run in progress has ended with its attempt, as `ended` says; its result is to be
    /// written with this part.
    #[must_use]
    pub(in crate::state) fn close(&mut self, attempt: Attempt, ended: Ended) -> RunResult {
        let result = RunResult { attempt: Attempt { boot: BootId::default(), ..attempt }, ended };
        self.results_ever = self.results_ever.saturating_add(1);
        self.last_result = Some(LastResult::from(&result));
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
            _ => {
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                // Whoever has written one says so.
                self.failure_text = 0;
            }
        }
        (self.progress, self.fleet) = (Progress::Nothing, None);
        result
    }

    /// The part as it stands in the file.
    pub(in crate::state) fn encode(&self) -> [u8; CLAIM.bytes] {
        let mut bytes = [0; CLAIM.bytes];
        self.encode_to(&mut bytes);
        bytes
    }

    /// The same, into bytes that are all zero.
    pub(in crate::state) fn encode_to(&self, bytes: &mut [u8; CLAIM.bytes]) {
        let mut to = Encoder(bytes);
        to.u64(at::SERIAL, self.serial);
        to.u64(at::NAME_HASH, self.name_hash);
        to.instant(at::WATERMARK, self.watermark.due);
        to.u32(at::WATERMARK_ATTEMPT, self.watermark.attempt);
        let (code, attempt, wait) = match &self.progress {
            Progress::Nothing => (0, None, None),
            Progress::Running(attempt) => (1, Some(attempt), None),
            Progress::Waiting(attempt, wait) => (2, Some(attempt), Some(wait)),
            Progress::Claiming(attempt, asked) => {
                to.put(at::CLAIM_ID, asked.id.0);
                to.u64(at::REVISION, asked.kind.revision());
                (3, Some(attempt), None)
            }
        };
        if let Some(fleet) = &self.fleet {
            to.put(at::CLAIM_ID, fleet.id.0);
            to.u64(at::REVISION, fleet.created);
            to.u64(at::FENCE, fleet.fence);
        }
        to.u8(at::PROGRESS, code);
        if let Some(attempt) = attempt {
            to.u8(at::TRIGGER, attempt.trigger.code());
            to.put(at::RUN, attempt.run.0);
            to.put(at::BOOT, attempt.boot.0);
            to.instant(at::DUE, attempt.due);
            to.instant(at::STARTED_AT, attempt.started_at);
            to.u32(at::PID, attempt.pid);
            to.u32(at::ATTEMPT, attempt.number);
        }
        if let Some(wait) = wait {
            to.u8(at::LAST_OUTCOME, wait.last.outcome.code());
            to.instant(at::NEXT_AT, wait.next_at);
            to.u32(at::LAST_DURATION, ms(wait.last.duration));
            to.u16(at::LAST_STATUS, wait.last.status);
        }
        to.u64(at::ORDERS_DONE, self.orders_done);
        for (number, counter) in self.counters.all().into_iter().enumerate() {
            to.item(at::COUNTERS, number, 8).u64(Field(0), counter);
        }
        to.u64(at::LOST, self.counters.ended_with(Outcome::Lost));
        to.u64(at::DURATION_SUM, self.duration_sum_ms);
        to.some_instant(at::LAST_SUCCESS_AT, self.last_success_at);
        to.some_instant(at::LAST_START_AT, self.last_start_at);
        to.i64(at::LAST_LATENESS, self.last_lateness_ms);
        to.u32(at::FAILURES, self.consecutive_failures);
        to.u64(at::RESULTS_EVER, self.results_ever);
        to.u64(at::FAILURE_TEXT, self.failure_text);
        to.some_instant(at::RESULT_STARTED_AT, self.last_result.map(|last| last.started_at));
        if let Some(last) = self.last_result {
            to.u8(at::RESULT_OUTCOME, last.ended.outcome.code());
            to.u16(at::RESULT_STATUS, last.ended.status);
            to.u32(at::RESULT_DURATION, ms(last.ended.duration));
        }
        CLAIM.seal(bytes);
    }

    /// Reads the part; `None` if its checksum is wrong.
    pub(in crate::state) fn decode(bytes: &[u8]) -> Option<Self> {
        CLAIM.is_whole(bytes).then(|| Self::decode_whole(bytes))
    }

    /// Reads a part that is whole.
    pub(in crate::state) fn decode_whole(bytes: &[u8]) -> Self {
        let from = Decoder(bytes);
        let attempt = || Attempt {
            run: RunId(from.bytes(at::RUN)),
            due: from.instant(at::DUE),
            trigger: Trigger::from_code(from.u8(at::TRIGGER)),
            number: from.u32(at::ATTEMPT),
            pid: from.u32(at::PID),
            boot: BootId(from.bytes(at::BOOT)),
            started_at: from.instant(at::STARTED_AT),
        };
        let last = || Ended {
            outcome: Outcome::from_code(from.u8(at::LAST_OUTCOME)),
            status: from.u16(at::LAST_STATUS),
            duration: Duration::from_millis(from.u32(at::LAST_DURATION).into()),
        };
        let code = from.u8(at::PROGRESS);
        let id = ClaimId(from.bytes(at::CLAIM_ID));
        let has_claim = matches!(code, 1 | 2) && id != ClaimId::default();
        Self {
            serial: from.u64(at::SERIAL),
            name_hash: from.u64(at::NAME_HASH),
            watermark: Watermark {
                due: from.instant(at::WATERMARK),
                attempt: from.u32(at::WATERMARK_ATTEMPT),
            },
            progress: match code {
                1 => Progress::Running(attempt()),
                2 => Progress::Waiting(
                    attempt(),
                    Wait { next_at: from.instant(at::NEXT_AT), last: last() },
                ),
                3 => {
                    let attempt = attempt();
                    let kind = ClaimKind::of(attempt.trigger, from.u64(at::REVISION));
                    Progress::Claiming(attempt, Asked { id, kind })
                }
                _ => Progress::Nothing,
            },
            fleet: has_claim.then(|| FleetClaim {
                id,
                created: from.u64(at::REVISION),
                fence: from.u64(at::FENCE),
            }),
            orders_done: from.u64(at::ORDERS_DONE),
            counters: Counters::of(
                std::array::from_fn(|number| from.item(at::COUNTERS, number, 8).u64(Field(0))),
                from.u64(at::LOST),
            ),
            duration_sum_ms: from.u64(at::DURATION_SUM),
            last_success_at: from.some_instant(at::LAST_SUCCESS_AT),
            last_start_at: from.some_instant(at::LAST_START_AT),
            last_lateness_ms: from.i64(at::LAST_LATENESS),
            consecutive_failures: from.u32(at::FAILURES),
            results_ever: from.u64(at::RESULTS_EVER),
            failure_text: from.u64(at::FAILURE_TEXT),
            last_result: from.some_instant(at::RESULT_STARTED_AT).map(|started_at| LastResult {
                started_at,
                ended: Ended {
                    outcome: Outcome::from_code(from.u8(at::RESULT_OUTCOME)),
                    status: from.u16(at::RESULT_STATUS),
                    duration: Duration::from_millis(from.u32(at::RESULT_DURATION).into()),
                },
            }),
        }
    }
}

/// Whole milliseconds, at most 49 days.
pub(in crate::state) fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::record::run::OUTCOMES;

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
        let mut claim = ClaimPart::new(0x1234, UnixMs(5));
        claim.serial = 77;
        claim.orders_done = 3;
        claim.failure_text = 0x77;
        let text = claim.failure_text;
        assert_eq!(ClaimPart::decode(&claim.encode()).map(|claim| claim.failure_text), Some(text));
        for number in 0..40 {
            claim.start(attempt(number % 3 + 1));
            let outcome = OUTCOMES[usize::try_from(number).unwrap() % OUTCOMES.len()];
            let _ = claim.close(attempt(number % 3 + 1), ended(outcome));
        }
        for progress in [
            Progress::Nothing,
            Progress::Running(attempt(1)),
            Progress::Waiting(
                attempt(2),
                Wait { next_at: UnixMs(9), last: ended(Outcome::Timeout) },
            ),
        ] {
            claim.progress = progress;
            assert_eq!(ClaimPart::decode(&claim.encode()), Some(claim.clone()));
        }
        for kind in [
            ClaimKind::Due,
            ClaimKind::Manual { result: 0 },
            ClaimKind::Manual { result: 8 },
            ClaimKind::Repetition { last: u64::MAX },
        ] {
            let manual = matches!(kind, ClaimKind::Manual { .. });
            let trigger = if manual { Trigger::Manual } else { Trigger::Missed };
            let attempt = Attempt { trigger, ..attempt(3) };
            claim.progress = Progress::Claiming(attempt, Asked { id: ClaimId([3; 16]), kind });
            assert_eq!(ClaimPart::decode(&claim.encode()), Some(claim.clone()));
            assert_eq!(claim.runs(), 40);
        }
        claim.progress = Progress::Running(attempt(3));
        claim.fleet = Some(FleetClaim { id: ClaimId([3; 16]), created: u64::MAX, fence: 1 << 60 });
        assert_eq!(ClaimPart::decode(&claim.encode()), Some(claim.clone()));
        assert_eq!(claim.counters.ended_with(Outcome::Lost), 5);
        assert_eq!(claim.results_ever, 40);
        assert_eq!(claim.last_result.map(|last| last.ended), Some(ended(Outcome::Interrupted)));
        let ended_at = claim.last_result.map(|last| last.ended_at());
        assert_eq!(ended_at, Some(UnixMs(1_764_000_000_029)));
        assert_eq!(claim.runs(), 41);
    }

    #[test]
    fn a_flipped_bit_is_seen_anywhere() {
        let mut bytes = ClaimPart::new(1, UnixMs(0)).encode();
        for at in 0..CLAIM.bytes {
            bytes[at] ^= 0x10;
            assert_eq!(ClaimPart::decode(&bytes), None, "{at}");
            bytes[at] ^= 0x10;
        }
        assert_eq!(ClaimPart::decode(&[0; CLAIM.bytes]), None);
        assert_eq!(ClaimPart::decode(&bytes[..100]), None);
    }

    #[test]
    fn foreign_values_behind_a_right_checksum_are_no_panic() {
        let mut bytes = [0xff; CLAIM.bytes];
        CLAIM.seal(&mut bytes);
        assert_eq!(ClaimPart::decode(&bytes).unwrap().progress, Progress::Nothing);
        bytes[at::PROGRESS.0] = 2;
        CLAIM.seal(&mut bytes);
        let claim = ClaimPart::decode(&bytes).unwrap();
        let Progress::Waiting(_, wait) = claim.progress else { panic!("it does not wait") };
        assert_eq!(wait.last.outcome, Outcome::Error);
    }

    #[test]
    fn cancelled_runs_neither_make_nor_mend_a_row_of_failures() {
        let mut claim = ClaimPart::new(1, UnixMs(0));
        for (outcome, row) in [
            (Outcome::Failure, 1),
            (Outcome::Cancelled, 1),
            (Outcome::Interrupted, 2),
            (Outcome::Success, 0),
        ] {
            let _ = claim.close(attempt(1), ended(outcome));
            assert_eq!(claim.consecutive_failures, row);
        }
        assert_eq!(claim.counters.ended_with(Outcome::Cancelled), 1);
        assert_eq!(claim.last_success_at, Some(UnixMs(1_764_000_000_017)));
    }

    #[test]
    fn manual_runs_leave_the_watermark() {
        let mut claim = ClaimPart::new(1, UnixMs(5));
        claim.start(Attempt { trigger: Trigger::Manual, ..attempt(1) });
        assert_eq!(claim.watermark.due, UnixMs(5));
        assert_eq!(claim.counters.unscheduled, 1);
        claim.start(attempt(2));
        assert_eq!(claim.watermark, Watermark { due: attempt(2).due, attempt: 2 });
        assert_eq!(claim.counters.retries, 1);
    }
}
