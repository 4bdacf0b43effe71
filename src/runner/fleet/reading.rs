//! What is known of the fleet, and that `last` is read before a due time is claimed or counted as missed.

use std::time::Duration;

use super::FleetJob;
use crate::fleet::{Answer, BootMs, Do, Last, Observed, Revision, View, repetition};
use crate::nginx::log::Level;
use crate::os::wall_clock;
use crate::runner::job::Job;
use crate::runner::look::NextStep;
use crate::schedule::UnixMs;
use crate::state::{DueTimes, Look, Outcome};

/// What is known of the fleet about a timer.
#[derive(Default)]
pub(super) struct Known {
    /// What was seen last.
    pub(super) view: Option<View>,
    /// Due times up to this one had started when that was asked for.
    up_to: Option<UnixMs>,
    /// The due time that this host has won, if nobody is known to have had one since.
    pub(super) won: Option<UnixMs>,
    is_reading: bool,
    /// Whether a due time was read to be open, and no claim has followed yet: where answers take long, the next
    /// one may have come meanwhile, and is claimed without another read.
    is_open: bool,
    /// Whether `last` was there, or was put there.
    is_begun: bool,
    /// What the fleet has handled, and this host has not noted yet.
    pub(super) elsewhere: Option<UnixMs>,
    /// What may be repeated.
    pub(super) repeats: Option<(Last, Revision)>,
    /// When what is repeated was written.
    pub(super) repeated: Option<Revision>,
}

/// What is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadFor {
    /// A due time is to be claimed.
    Claim,
    /// It is to be counted as missed.
    Account,
}

/// How far the newest due time may lie ahead of the fleet's clock.
const AHEAD: Duration = Duration::from_secs(60);
/// How far a due time may lie ahead of the fleet's clock.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);
/// What lies further ahead, or is not readable, is read again after this time.
const LOOKS_AGAIN: Duration = Duration::from_secs(5);

impl FleetJob {
    /// Whether the fleet is to be asked before `due` is claimed or counted as missed; what to do meanwhile.
    pub(super) fn read_first(
        &self,
        job: &Job,
        due: UnixMs,
        hold_back_from: Option<UnixMs>,
        what: ReadFor,
        look: &Look<'_>,
    ) -> Option<NextStep> {
        if !self.client.is_up() {
            self.wait_for_client();
            return Some(NextStep::Rest);
        }
        {
            let known = self.known.borrow();
            let follows = |won: UnixMs| job.conf.due_times.next(won) == Some(due);
            let is_known = known.up_to.is_some_and(|up_to| up_to >= due);
            if is_known
                || known.won.is_some_and(follows)
                || (known.is_open && what == ReadFor::Claim)
            {
                return None;
            }
        }
        if let Some(start) = hold_back_from {
            let at = start.plus(self.hold_back(look.period_ms()));
            if look.now < at && at.since(look.now) < Duration::from_secs(1) {
                return Some(NextStep::LookAfter(at.since(look.now)));
            }
        }
        self.read(look);
        Some(NextStep::Rest)
    }

    /// What the fleet knows is read when the job begins, and until that was answered.
    pub(super) fn begin_reading(&self, look: &Look<'_>) {
        self.note_reset();
        if self.known.borrow().is_begun {
            return;
        }
        if self.client.is_up() { self.read(look) } else { self.wait_for_client() }
    }

    /// Reads what the fleet knows of the timer.
    pub(super) fn read(&self, look: &Look<'_>) {
        if std::mem::replace(&mut self.known.borrow_mut().is_reading, true) {
            return;
        }
        let started = look.around.started.map(|started| started.due);
        let me = self.me.clone();
        let then = move |answer, _sent, arrived| {
            let Some(job) = me.upgrade() else { return };
            if let Some(fleet) = job.fleet() {
                fleet.known.borrow_mut().is_reading = false;
                fleet.was_read(&job, answer, started, arrived);
            }
            job.drive();
        };
        self.client.read(&self.name, Box::new(then));
    }

    fn was_read(&self, job: &Job, answer: Answer, started: Option<UnixMs>, arrived: BootMs) {
        if job.is_over() {
            return;
        }
        let Answer::Seen(view) = answer else {
            // Unreachable, or refused: whoever waits for it looks again when it is not any more.
            if self.client.is_up() {
                // What somebody else has written stays there for a while.
                let is_denied = matches!(answer, Answer::Denied(_));
                let later = super::LATER.saturating_mul(5);
                job.set_alarm(if is_denied { LOOKS_AGAIN } else { later });
            } else {
                self.wait_for_client();
            }
            return;
        };
        self.seen(job, &view, arrived);
        if self.is_last_ahead(&view) {
            // Nothing is handled, nor missed, by what lies so far ahead.
            return job.set_alarm(LOOKS_AGAIN);
        }
        if view.last.is_none() && !self.known.borrow().is_begun {
            return self.begin(job, &view);
        }
        let mut known = self.known.borrow_mut();
        known.is_begun = true;
        let is_open = started.is_some_and(|due| view.due().is_none_or(|last| last < due));
        (known.up_to, known.is_open) = (started, is_open);
        drop(known);
        job.post();
    }

    /// The fleet does not know the timer: what was due when it was loaded, or when somebody has decided that this
    /// engine counts, is none of its due times.
    fn begin(&self, job: &Job, view: &View) {
        let due_times = &job.conf.due_times;
        // The clock of this host may be ahead of all others'.
        let latest = self.client.time().map(|now| now.plus(CLOCKS_DIFFER));
        let since = self.loaded_at.max(self.reset_at.get());
        let since = latest.map_or(since, |latest| since.min(latest));
        let due = due_times.newest(since).filter(|due| due.0 > 0).unwrap_or(UnixMs(1));
        // It may be one that was removed.
        let due = view.newest_run().map_or(due, |newest| newest.max(due));
        let last = Last::without_run(due, self.node.clone(), self.schedule);
        self.exchange(view.init(last), |job, fleet, answer, _, arrived| {
            match answer {
                Answer::Applied(_) => fleet.known.borrow_mut().is_begun = true,
                Answer::Seen(view) => {
                    fleet.seen(job, &view, arrived);
                    fleet.known.borrow_mut().is_begun = view.last.is_some();
                }
                Answer::Denied(_) | Answer::Unknown => {}
            }
            // What has come due since is open, and read once more.
            if !job.is_over() {
                job.post();
            }
        });
    }

    /// Notes what follows from what was seen.
    pub(super) fn note(&self, job: &Job, view: &View) {
        let mut known = self.known.borrow_mut();
        if let Some(last) = &view.last {
            known.is_begun = true;
            if known.won != Some(last.value.due) {
                known.won = None;
            }
            known.elsewhere = Some(last.value.due).filter(|_| !self.is_last_ahead(view));
        }
        let more = self.most_attempts(job);
        known.repeats = more.and_then(|attempts| repetition(view, attempts));
        known.view = Some(view.clone());
        drop(known);
        super::pauses::end_those_over(&self.client, &self.fleet, &self.name, view);
        if let Some(last) = &view.last {
            self.tell_schedule(job, &last.value);
        }
    }

    /// Logs once that another host has another schedule. The two may take turns, each of them seeing of the other
    /// no more than what its own claim has replaced.
    pub(super) fn tell_schedule(&self, job: &Job, last: &Last) {
        let differs =
            last.schedule != self.schedule && last.claim.is_some() && last.node != self.node;
        if !differs || self.told_of_schedule.replace(true) {
            return;
        }
        let (name, node) = (&self.name, last.node.as_str());
        job.conf.location.log().write(
            Level::Warn,
            format_args!("timer \"{name}\": schedule differs from that of node \"{node}\""),
        );
    }

    /// Whether `last` lies so far ahead of the fleet's clock that it cannot be right.
    fn is_last_ahead(&self, view: &View) -> bool {
        let ahead = view.due().zip(self.client.time()).filter(|(due, now)| *due > now.plus(AHEAD));
        if let Some((due, _)) = ahead {
            self.client.last_ahead(&self.name, due);
        }
        ahead.is_some()
    }

    /// How many attempts a run has, if what was interrupted is repeated.
    fn most_attempts(&self, job: &Job) -> Option<u32> {
        let retry = &job.conf.retry;
        let repeats = retry.more > 0 && retry.on.contains(&Outcome::Interrupted);
        let ttl = i64::try_from(self.fleet.ttl.as_millis()).unwrap_or(i64::MAX);
        let is_long = || job.conf.due_times.period_ms(wall_clock()) > ttl;
        (repeats && is_long()).then(|| retry.more.saturating_add(1))
    }

    /// Has the record looked at when the fleet can be reached again.
    pub(super) fn wait_for_client(&self) {
        if self.waits_for_client.replace(true) {
            return;
        }
        let me = self.me.clone();
        self.client.when_back(Box::new(move || {
            let Some(job) = me.upgrade() else { return };
            if let Some(fleet) = job.fleet() {
                fleet.waits_for_client.set(false);
                // What others have done meanwhile is read first.
                fleet.forget();
            }
            if !job.is_over() {
                job.post();
            }
        }));
    }

    /// A claim is made from what was read.
    pub(super) fn use_reading(&self) {
        self.known.borrow_mut().is_open = false;
    }

    /// What was known is not relied on any more.
    pub(super) fn forget(&self) {
        let mut known = self.known.borrow_mut();
        (known.up_to, known.won, known.is_open) = (None, None, false);
    }

    /// What was known before a reset is of another engine: its timers may be unknown to this one, and its revisions
    /// are none that can be compared.
    pub(super) fn note_reset(&self) {
        let at = self.client.reset_at();
        if self.reset_at.replace(at) == at {
            return;
        }
        let mut known = self.known.borrow_mut();
        let (is_reading, repeated) = (known.is_reading, known.repeated);
        *known = Known { is_reading, repeated, ..Known::default() };
        drop(known);
        self.observing.borrow_mut().forget();
        self.forgets_runs.set(true);
    }

    /// This host has taken a due time.
    pub(super) fn has_won(&self, due: UnixMs) {
        let mut known = self.known.borrow_mut();
        known.won = Some(due);
        (known.is_begun, known.repeats) = (true, None);
    }

    /// Has the observer do what it is to do now.
    pub(super) fn observe(&self, job: &Job, now: BootMs) -> Option<BootMs> {
        for _ in 0..super::STEPS {
            if !self.observes.get() || job.is_over() {
                return None;
            }
            let next = self.observing.borrow_mut().step(now);
            match next {
                Do::Wait(until) => return Some(until),
                Do::Send(ask) => self.exchange(ask, |job, fleet, answer, sent, arrived| {
                    fleet.note_reset();
                    if let Answer::Seen(view) = &answer {
                        fleet.note(job, view);
                    }
                    fleet.observing.borrow_mut().answered(answer, sent, arrived);
                }),
                Do::Say(observed) => {
                    self.observes.set(false);
                    if let Observed::Removed(run) = observed {
                        let (name, node, id) = (&self.name, run.node.as_str(), run.id);
                        job.conf.location.log().write(
                            Level::Warn,
                            format_args!(
                                "timer \"{name}\": run of node \"{node}\" has ended without a word, \
                                 removed, timer: \"{name}\", run: {id}"
                            ),
                        );
                    }
                    self.forget();
                    self.run_has_gone();
                    job.post();
                }
            }
        }
        Some(now.plus(super::LATER))
    }
}
