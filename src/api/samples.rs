//! What was read of the timers lately, for all answers of this worker that are being made.
//!
//! An answer that goes through all timers more than once would have to read each record as often, or to
//! keep all of them for as long as its client takes. So what was read is kept once, for all answers, and
//! given up when no answer has needed it for a while; what is missing then is read again.

use std::time::Duration;

use super::view::{Status, TimerHealth, View};
use crate::os::memory::{NoMemory, fallible};
use crate::schedule::UnixMs;
use crate::state::{Outcome, Progress, Scheduled};

/// What the metrics and the table show of a timer, except its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) ended: [u64; 6],
    pub(super) retries: u64,
    pub(super) unscheduled: u64,
    pub(super) overlaps: u64,
    pub(super) missed: u64,
    /// Runs that were lost, and due times that were dealt with elsewhere, of a timer of a fleet.
    pub(super) fleet: Option<(u64, u64)>,
    pub(super) running: bool,
    pub(super) paused: bool,
    pub(super) enabled: bool,
    pub(super) last_start: UnixMs,
    pub(super) last_success: UnixMs,
    /// 0 for none.
    pub(super) next_due: UnixMs,
    pub(super) duration_sum: UnixMs,
    pub(super) last_duration: Duration,
    /// Start, outcome and status of the last attempt of the last run.
    pub(super) last: Option<(UnixMs, Outcome, u16)>,
    pub(super) status: Status,
    pub(super) health: TimerHealth,
    /// By how much, if it is late.
    pub(super) late: Option<Duration>,
    pub(super) last_lateness: UnixMs,
    pub(super) consecutive_failures: u32,
    pub(super) timeout: Duration,
}

/// All outcomes, in the order of the metrics.
pub(super) const OUTCOMES: [Outcome; 6] = [
    Outcome::Success,
    Outcome::Failure,
    Outcome::Timeout,
    Outcome::Cancelled,
    Outcome::Interrupted,
    Outcome::Error,
];

impl Sample {
    /// `None` if the record cannot be read: a counter that is absent once is no harm, one that goes
    /// back is.
    pub(super) fn of(view: &View<'_>) -> Option<Self> {
        let reading = view.reading.as_ref()?;
        let (run, control, last) = (&reading.claim, &reading.control, view.last());
        Some(Self {
            ended: OUTCOMES.map(|outcome| run.counters.ended_with(outcome)),
            retries: run.counters.retries,
            unscheduled: run.counters.unscheduled,
            overlaps: control.overlaps,
            missed: control.missed,
            fleet: view.fleet.map(|_| (run.counters.ended_with(Outcome::Lost), control.elsewhere)),
            running: matches!(run.progress, Progress::Running(_) | Progress::Waiting(..)),
            paused: reading.is_paused(view.now) || view.fleet_pause().is_some(),
            enabled: view.timer.scheduled == Scheduled::On,
            last_start: run.last_start_at.unwrap_or_default(),
            last_success: view.last_success().unwrap_or_default(),
            next_due: view.next_due().unwrap_or_default(),
            duration_sum: UnixMs(i64::try_from(run.duration_sum_ms).unwrap_or(i64::MAX)),
            last_duration: last.map_or(Duration::ZERO, |it| it.ended.duration),
            last: last.map(|it| (it.started_at, it.ended.outcome, it.ended.status)),
            status: view.status(),
            health: view.health(),
            late: view.is_late().then(|| view.late_by()),
            last_lateness: UnixMs(run.last_lateness_ms),
            consecutive_failures: view.failures(),
            timeout: view.timer.timeout,
        })
    }
}

/// What was read of a timer; `None` if its record could not be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read(pub(super) Option<Sample>);

/// When something was read, or an answer began: counted in answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

/// The samples.
#[derive(Debug)]
pub(super) struct Samples {
    /// One for each timer, or none at all.
    rows: Vec<CachedSample>,
    timers: usize,
    now: Moment,
}

#[derive(Clone, Copy, Debug)]
struct CachedSample {
    read: Moment,
    sample: Read,
}

impl Samples {
    /// Those of so many timers, of which none was read yet.
    pub(super) fn new(timers: usize) -> Self {
        Self { rows: Vec::new(), timers, now: Moment::default() }
    }

    /// An answer begins: what was read before is not new enough for it.
    pub(super) fn begin(&mut self) -> Moment {
        self.now.0 += 1;
        self.now
    }

    /// The sample of a timer, if it was read after `began`.
    pub(super) fn get(&self, number: usize, began: Moment) -> Option<Read> {
        let row = self.rows.get(number).filter(|row| row.read >= began)?;
        Some(row.sample)
    }

    /// Keeps what was read just now, if there is memory for it.
    pub(super) fn put(&mut self, number: usize, sample: Read) {
        if self.rows.is_empty() && self.make_room().is_err() {
            return;
        }
        if let Some(row) = self.rows.get_mut(number) {
            *row = CachedSample { read: self.now, sample };
        }
    }

    fn make_room(&mut self) -> Result<(), NoMemory> {
        fallible(|| self.rows.try_reserve_exact(self.timers))?;
        self.rows.resize(self.timers, CachedSample { read: Moment::default(), sample: Read(None) });
        Ok(())
    }

    /// Gives all of them up.
    pub(super) fn forget(&mut self) {
        self.rows = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_gets_what_was_read_since_it_began() {
        let mut samples = Samples::new(2);
        let one = samples.begin();
        assert!(samples.get(0, one).is_none());
        samples.put(0, Read(None));
        samples.put(7, Read(None));
        assert_eq!(samples.get(0, one).map(|read| read.0.is_none()), Some(true));
        assert!(samples.get(1, one).is_none());

        let two = samples.begin();
        assert!(samples.get(0, two).is_none(), "it may have changed before this one was asked for");
        samples.put(0, Read(None));
        assert!(samples.get(0, two).is_some());
        assert!(samples.get(0, one).is_some());

        samples.forget();
        assert!(samples.get(0, one).is_none());
        samples.put(1, Read(None));
        assert!(samples.get(1, one).is_some());
    }
}
