//! What a worker remembers of a timer: what it could not write, and what happens while there is no
//! record, or it cannot be read.

use super::access::{Lock, Unreadable};
use super::claim_part::ClaimPart;
use super::control::{Control, Presence};
use super::due::Reading;
use super::format::{CLAIM, CONTROL};
use super::run::{Progress, RunResult};
use super::shared_claims::{Claimant, SharedClaim};
use super::store::{Claimed, Inner, Mine, Owner, Place, Store, Timer};

impl Inner {
    /// What this worker would have written, if that is newer than what is in the file or nothing
    /// whole is there; with what has happened since it could be read last.
    pub(super) fn newest_claim(
        &self,
        place: &Place,
        claim: Option<ClaimPart>,
    ) -> Option<ClaimPart> {
        self.mine(place, |mine| {
            if let (Some(unwritten), Some(claim)) = (&mine.run, &claim)
                && unwritten.serial <= claim.serial
            {
                mine.forget_run();
            }
            let mut run = mine.run.as_deref().cloned().or(claim)?;
            mine.taken_over = None;
            if let Some(local) = &mine.local {
                mine.taken_over = run.absorb(local, &mine.results).map(Box::new);
            }
            Some(run)
        })
        .map(|run| with_shared(place, run))
    }

    /// The same of the control part.
    pub(super) fn newest_control(
        &self,
        place: &Place,
        control: Option<Control>,
    ) -> Option<Control> {
        self.mine(place, |mine| {
            if let (Some(unwritten), Some(control)) = (&mine.control, &control)
                && unwritten.serial <= control.serial
            {
                mine.control = None;
            }
            mine.control.as_deref().cloned().or(control)
        })
        .map(|control| self.loaded(control))
    }

    /// Workers come after the load. A record that this one could not write starts with the worker.
    fn loaded(&self, control: Control) -> Control {
        if control.presence != Presence::Unloaded {
            return control;
        }
        let not_before = control.not_before.max(Some(self.attached_at));
        Control { presence: Presence::Enabled, not_before, ..control }
    }

    /// What its owner goes on with, where the record is lost or cannot be read.
    pub(super) fn local_reading(&self, place: &Place) -> Reading {
        let (run, control) = self.mine(place, |mine| {
            let run = match (&mine.local, &mine.known) {
                (Some(local), _) => (**local).clone(),
                (None, Some(known)) => known.0.clone(),
                (None, None) => ClaimPart::new(place.name_hash, self.attached_at),
            };
            let control = match (&mine.control, &mine.known) {
                (Some(control), _) => (**control).clone(),
                (None, Some(known)) => known.1.clone(),
                (None, None) => Control::anew(self.attached_at),
            };
            (run, control)
        });
        let header = self.header.get().unwrap_or_else(|| self.known_header.get());
        let mut run = with_shared(place, run);
        let holder = place.claims.as_ref().and_then(SharedClaim::holder);
        let is_another = |it: Claimant| it != self.process.holder() && it.lives();
        if let Progress::Running(attempt) = run.progress
            && attempt.pid != self.process.pid
            && !holder.is_some_and(|(it, _)| is_another(it))
        {
            // It was in progress when the record could be read last. How it has ended is not known.
            run.progress = Progress::Nothing;
        }
        Reading { run, control, header }
    }

    /// Remembers what was read, for the time in which it cannot be.
    pub(super) fn remember(&self, place: &Place, reading: &Reading) {
        self.mine(place, |mine| {
            if let Some((run, control)) = mine.known.as_deref()
                && (run.serial, control.serial) == (reading.run.serial, reading.control.serial)
            {
                return;
            }
            let known = (reading.run.without_history(), reading.control.clone());
            mine.known = Some(Box::new(known));
        });
    }

    /// Forgets a claim part that could not be written.
    pub(super) fn forget_run(&self, place: &Place) {
        self.mine(place, Mine::forget_run);
    }

    /// The same of a control part.
    pub(super) fn forget_control(&self, place: &Place) {
        self.mine(place, |mine| mine.control = None);
    }
}

impl Store {
    /// Whether this worker has something of the timer that could not be written.
    pub fn has_unwritten(&self, place: &Place) -> bool {
        self.inner.mine(place, |mine| mine.run.is_some() || mine.control.is_some())
    }

    /// Gives up what could not be written; for a worker that leaves, whose successor is not to wait.
    pub fn give_up(&self, place: &Place) {
        if self.inner.claimed(place) == Claimed::No {
            self.inner.forget_run(place);
            self.inner.release(place);
        }
    }

    /// Writes what could not be written before; to be called once a second while there is such.
    pub fn write_again(&self, timer: Timer<'_>) {
        let inner = &self.inner;
        let place = timer.place;
        inner.release_left();
        if inner.claimed(place) == Claimed::No
            && let Lock::Taken(_lock) = inner.try_lock(CLAIM, place.page)
            && inner.try_read_claim(place) != Err(Unreadable::Lost)
            && let Some(mut run) = inner.mine(place, |mine| mine.run.as_deref().cloned())
        {
            inner.write_claim(place, &mut run, None);
        }
        if let Lock::Taken(_lock) = inner.try_lock(CONTROL, place.page)
            && inner.try_read_control(place) != Err(Unreadable::Lost)
            && let Some(mut control) = inner.mine(place, |mine| mine.control.as_deref().cloned())
        {
            inner.write_control(place, &mut control);
        }
        let Some(claims) = &place.claims else { return };
        if inner.mine(place, |mine| mine.run.is_none() && mine.claimed == Claimed::No) {
            claims.release(inner.process.holder());
        } else if timer.owner == Owner::This {
            claims.touch();
        }
    }
}

/// With what the workers of this master have claimed, which the file may not know.
fn with_shared(place: &Place, mut run: ClaimPart) -> ClaimPart {
    if let Some(claims) = &place.claims {
        run.orders_done = run.orders_done.max(claims.orders_done());
        if let Some(taken) = claims.taken().filter(|taken| *taken > run.watermark.due) {
            run.watermark.due = taken;
            run.watermark.attempt = 1;
        }
        if let Progress::Waiting(last, _) = run.progress
            && claims.attempted(last.run).is_some_and(|number| number > last.number)
        {
            // Another worker has made the attempt that it waits for.
            run.progress = Progress::Nothing;
        }
    }
    run
}

impl Mine {
    /// Forgets a claim part that could not be written, and its results.
    fn forget_run(&mut self) {
        if self.run.take().is_some() {
            self.results.drain(..self.before_local());
        }
    }

    /// How many of the results are not those of `local`.
    fn before_local(&self) -> usize {
        let locals = self.local.as_ref().map_or(0, |local| local.results_ever);
        self.results.len().saturating_sub(usize::try_from(locals).unwrap_or(usize::MAX))
    }

    /// All results that are to be written with the newest claim part, oldest first.
    pub(super) fn unwritten_results(&self) -> Vec<RunResult> {
        let mut results = self.results.clone();
        if let Some(taken_over) = &self.taken_over {
            results.insert(self.before_local(), **taken_over);
        }
        results
    }
}

impl ClaimPart {
    /// Without counters and results: what happens from here on.
    pub(super) fn without_history(&self) -> Self {
        Self {
            watermark: self.watermark,
            progress: self.progress,
            orders_done: self.orders_done,
            serial: self.serial,
            last_success_at: self.last_success_at,
            consecutive_failures: self.consecutive_failures,
            last_result: self.last_result,
            ..Self::new(self.name_hash, self.watermark.due)
        }
    }

    /// Adds what happened while this record could not be read; the newest of `results` are those of then.
    /// Answers the result of a run that one of those took over from.
    fn absorb(&mut self, local: &Self, results: &[RunResult]) -> Option<RunResult> {
        local.last_start_at?;
        let mut taken_over = None;
        let ended = |progress: &Progress| match progress {
            Progress::Running(attempt) | Progress::Waiting(attempt, _) => {
                results.iter().any(|result| result.attempt.run == attempt.run)
            }
            Progress::Nothing => false,
        };
        if let Progress::Running(now) | Progress::Waiting(now, _) = local.progress {
            if let Progress::Waiting(last, wait) = self.progress
                && last.run != now.run
                && !ended(&self.progress)
            {
                // Another run has taken over from it.
                taken_over = Some(self.close(last, wait.last));
            }
            self.progress = local.progress;
        } else if ended(&self.progress) {
            self.progress = Progress::Nothing;
        }
        self.counters.add(&local.counters);
        self.duration_sum_ms = self.duration_sum_ms.saturating_add(local.duration_sum_ms);
        self.consecutive_failures = local.consecutive_failures;
        self.last_success_at = self.last_success_at.max(local.last_success_at);
        self.last_start_at = local.last_start_at;
        self.last_lateness_ms = local.last_lateness_ms;
        if local.results_ever > 0 {
            self.last_result = local.last_result;
        }
        self.results_ever = self.results_ever.saturating_add(local.results_ever);
        taken_over
    }
}
