//! What a worker remembers of a timer: what it could not write, and what happens while there is no
//! record, or it cannot be read.

use crate::state::policy::due::Reading;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::control::{Control, Presence};
use crate::state::record::format::{CLAIM, CONTROL, Part, RECORD_BYTES};
use crate::state::record::run::{Progress, RunResult};

use super::access::{Lock, Unreadable};
use super::shared_claims::{Claimant, SharedClaim};
use super::store::{Claimed, Inner, LocalRecord, Owner, Record, Store, TimerRef};

impl Inner {
    /// What this worker would have written, if that is newer than what is in the file or nothing
    /// whole is there; with what has happened since it could be read last.
    pub(in crate::state) fn newest_claim(
        &self,
        record: &Record,
        mut claim: Option<Box<ClaimPart>>,
    ) -> Option<Box<ClaimPart>> {
        self.local_record(record, |local| {
            let unwritten = local.claim.as_ref().map(|unwritten| unwritten.serial);
            match (unwritten, claim.as_ref().map(|claim| claim.serial)) {
                (Some(unwritten), Some(serial)) if unwritten <= serial => local.forget_claim(),
                (Some(_), _) => claim.clone_from(&local.claim),
                (None, _) => {}
            }
            let Some(claim) = &mut claim else { return };
            local.taken_over = None;
            if let Some(apart) = &local.apart {
                local.taken_over = claim.absorb(apart, &local.results).map(Box::new);
            }
        });
        if let Some(claim) = &mut claim {
            add_shared(record, claim);
        }
        claim
    }

    /// The same of the control part.
    pub(in crate::state) fn newest_control(
        &self,
        record: &Record,
        mut control: Option<Box<Control>>,
    ) -> Option<Box<Control>> {
        self.local_record(record, |local| {
            let Some(unwritten) = &mut local.control else { return };
            match &control {
                Some(written) if unwritten.serial <= written.serial => {
                    let counts = unwritten.counts();
                    if counts == written.counts() || local.known.is_none() {
                        local.control = None;
                        return;
                    }
                    unwritten.clone_from(written);
                    unwritten.set_counts(counts);
                }
                _ => {}
            }
            control.clone_from(&local.control);
        });
        if let Some(control) = &mut control {
            self.load(control);
            add_left_out(record, control);
        }
        control
    }

    /// Workers come after the load. A record that this one could not write starts with the worker.
    fn load(&self, control: &mut Control) {
        if control.presence == Presence::Unloaded {
            control.not_before = control.not_before.max(Some(self.attached_at));
            control.presence = Presence::Enabled;
        }
    }

    /// What its owner goes on with, where the record is lost or cannot be read.
    pub(in crate::state) fn local_reading(&self, record: &Record) -> Reading {
        let (mut claim, mut control) = self.local_record(record, |local| {
            let known = local.known.as_deref();
            let unwritten = local.claim.as_deref().cloned();
            let before = || unwritten.or_else(|| Some(ClaimPart::decode_whole(CLAIM.of(known?))));
            let claim = match &local.apart {
                Some(apart) => apart.clone(),
                None => Box::new(match before() {
                    Some(claim) => claim.without_history(),
                    None => ClaimPart::new(record.name_hash, self.attached_at),
                }),
            };
            let before = || Some(Box::new(Control::decode_whole(CONTROL.of(known?))));
            let control = local.control.clone().or_else(before);
            (claim, control.unwrap_or_else(|| Box::new(Control::anew(self.attached_at))))
        });
        self.load(&mut control);
        add_left_out(record, &mut control);
        add_shared(record, &mut claim);
        let header = self.header.get().unwrap_or_else(|| self.known_header.get());
        let holder = record.claims.as_ref().and_then(SharedClaim::holder);
        let is_another = |it: Claimant| it != self.process.holder() && it.lives();
        if let Progress::Running(attempt) = claim.progress {
            if attempt.pid != self.process.pid && !holder.is_some_and(|(it, _)| is_another(it)) {
                // It was in progress when the record could be read last. How it has ended is not known.
                claim.progress = Progress::Nothing;
            }
        }
        Reading { claim, control, header }
    }

    /// Has what is read and written of the record from now on remembered, for the time in which it cannot
    /// be read, and so that what is read again need not be checked again.
    pub(in crate::state) fn remember(&self, record: &Record, reading: &Reading) {
        self.local_record(record, |local| {
            local.known.get_or_insert_with(|| {
                let (claim, control) =
                    (reading.claim.encode(), reading.control.encode(&record.name));
                let mut known = Box::new([0; RECORD_BYTES]);
                CLAIM.put(&mut *known, &claim);
                CONTROL.put(&mut *known, &control);
                known
            });
        });
    }

    /// Another control part than before was read, and is whole. What others have counted meanwhile
    /// goes with what this worker alone has counted.
    pub(in crate::state) fn know_control(&self, record: &Record, bytes: &[u8], control: &Control) {
        self.local_record(record, |local| {
            let Some(unwritten) = &mut local.control else { return };
            if unwritten.encode(&record.name) == *bytes {
                // It was written, whatever was said of it.
                local.control = None;
                return;
            }
            let Some(known) = &local.known else { return };
            let before = Control::decode_whole(CONTROL.of(&**known)).counts();
            unwritten.set_counts(unwritten.counts().plus(control.counts()).less(before));
        });
        self.know(record, CONTROL, bytes);
    }

    /// A part of the record was read or written, and is whole.
    pub(in crate::state) fn know(&self, record: &Record, part: Part, bytes: &[u8]) {
        self.local_record(record, |local| {
            if let Some(known) = &mut local.known {
                part.put(&mut **known, bytes);
            }
        });
    }

    /// Whether a part of the record is what it was when it was read or written last.
    pub(in crate::state) fn is_known(&self, record: &Record, part: Part, bytes: &[u8]) -> bool {
        self.local_record(record, |local| {
            local.known.as_deref().is_some_and(|known| part.of(known) == bytes)
        })
    }

    /// Writes a claim part that could not be written before.
    fn write_claim_again(&self, record: &Record) {
        let Lock::Taken(_lock) = self.try_lock(CLAIM, record.page) else { return };
        if self.try_read_claim(record) == Err(Unreadable::Lost) {
            return;
        }
        let claim = self.local_record(record, |local| local.claim.as_deref().cloned());
        if let Some(mut claim) = claim {
            self.write_claim(record, &mut claim, None);
        }
    }

    /// The same of a control part.
    fn write_control_again(&self, record: &Record) {
        let Lock::Taken(_lock) = self.try_lock(CONTROL, record.page) else { return };
        if self.try_read_control(record) == Err(Unreadable::Lost) {
            return;
        }
        let control = self.local_record(record, |local| local.control.as_deref().cloned());
        if let Some(mut control) = control {
            self.write_control(record, &mut control);
        }
    }

    /// Forgets a claim part that could not be written.
    pub(in crate::state) fn forget_claim(&self, record: &Record) {
        self.local_record(record, LocalRecord::forget_claim);
    }

    /// The same of a control part.
    pub(in crate::state) fn forget_control(&self, record: &Record) {
        self.local_record(record, |local| local.control = None);
    }
}

impl Store {
    /// Whether this worker has something of the timer that could not be written.
    pub fn has_unwritten(&self, record: &Record) -> bool {
        self.inner.local_record(record, |local| local.has_unwritten())
    }

    /// The same of any timer.
    pub fn has_any_unwritten(&self) -> bool {
        let Inner { timers, unwritten, .. } = &*self.inner;
        if unwritten.get() {
            unwritten.set(timers.borrow().iter().any(LocalRecord::has_unwritten));
        }
        unwritten.get()
    }

    /// Gives up what could not be written; for a worker that leaves, whose successor is not to wait.
    pub fn give_up(&self, record: &Record) {
        if self.inner.claimed(record) == Claimed::No {
            self.inner.forget_claim(record);
            self.inner.release(record);
        }
    }

    /// Writes what could not be written before; to be called once a second while there is such.
    pub fn write_again(&self, timer: TimerRef<'_>) {
        let inner = &self.inner;
        let record = timer.record;
        inner.release_left();
        if inner.claimed(record) == Claimed::No {
            inner.write_claim_again(record);
        }
        inner.write_control_again(record);
        let Some(claims) = &record.claims else { return };
        if inner.local_record(record, |local| local.claim.is_none() && local.claimed == Claimed::No)
        {
            claims.release(inner.process.holder());
        } else if timer.owner == Owner::This {
            claims.touch();
        }
    }
}

/// Adds what the workers of this master have claimed, which the file may not know.
fn add_shared(record: &Record, claim: &mut ClaimPart) {
    if let Some(claims) = &record.claims {
        claim.orders_done = claim.orders_done.max(claims.orders_done());
        if let Some(taken) = claims.taken().filter(|taken| *taken > claim.watermark.due) {
            claim.watermark.due = taken;
            claim.watermark.attempt = 1;
        }
        if let Progress::Waiting(last, _) = claim.progress {
            if claims.attempted(last.run).is_some_and(|number| number > last.number) {
                // Another worker has made the attempt that it waits for.
                claim.progress = Progress::Nothing;
            }
        }
    }
}

/// The same of what they have left out.
fn add_left_out(record: &Record, control: &mut Control) {
    let left_out = record.claims.as_ref().and_then(SharedClaim::left_out);
    control.left_out_up_to = control.left_out_up_to.max(left_out);
}

impl LocalRecord {
    fn has_unwritten(&self) -> bool {
        self.claim.is_some() || self.control.is_some()
    }

    /// Forgets a claim part that could not be written, and its results.
    fn forget_claim(&mut self) {
        if self.claim.take().is_some() {
            self.results.drain(..self.before_local());
        }
    }

    /// How many of the results are not those of `apart`.
    fn before_local(&self) -> usize {
        let apart = self.apart.as_ref().map_or(0, |apart| apart.results_ever);
        self.results.len().saturating_sub(usize::try_from(apart).unwrap_or(usize::MAX))
    }

    /// All results that are to be written with the newest claim part, oldest first.
    pub(in crate::state) fn unwritten_results(&self) -> Vec<RunResult> {
        let mut results = self.results.clone();
        if let Some(taken_over) = &self.taken_over {
            results.insert(self.before_local(), **taken_over);
        }
        results
    }
}

impl ClaimPart {
    /// Without counters and results: what happens from here on.
    pub(in crate::state) fn without_history(&self) -> Self {
        Self {
            watermark: self.watermark,
            progress: self.progress,
            fleet: self.fleet,
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
            Progress::Nothing | Progress::Claiming(..) => false,
        };
        if let Progress::Running(now) | Progress::Waiting(now, _) = local.progress {
            if let Progress::Waiting(last, wait) = self.progress {
                if last.run != now.run && !ended(&self.progress) {
                    // Another run has taken over from it.
                    taken_over = Some(self.close(last, wait.last));
                }
            }
            (self.progress, self.fleet) = (local.progress, local.fleet);
        } else if ended(&self.progress) {
            (self.progress, self.fleet) = (Progress::Nothing, None);
        }
        self.counters.add(&local.counters);
        self.duration_sum_ms = self.duration_sum_ms.saturating_add(local.duration_sum_ms);
        self.consecutive_failures = local.consecutive_failures;
        self.last_success_at = self.last_success_at.max(local.last_success_at);
        self.last_start_at = local.last_start_at;
        self.last_lateness_ms = local.last_lateness_ms;
        if local.results_ever > 0 {
            self.last_result = local.last_result;
            // The text of what was before is that of no newer failure.
            self.failure_text = 0;
        }
        self.results_ever = self.results_ever.saturating_add(local.results_ever);
        taken_over
    }
}
