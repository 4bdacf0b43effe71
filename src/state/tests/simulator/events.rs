//! What happens in the simulator: time, exits, reloads, orders, pauses, steps of the clock.

use super::*;

impl Simulator {
    pub(in crate::state) fn any_slot(&mut self) -> usize {
        let slots = self.workers.len() as u64;
        usize::try_from(self.rng.below(slots)).unwrap()
    }

    /// Something happens.
    pub(in crate::state) fn happen(&mut self) {
        let slot = self.any_slot();
        let event = match self.rng.below(60) {
            // In every other seed nobody interferes, and workers meet more often.
            event @ 48.. if self.undisturbed && event != 53 => event % 30,
            event => event,
        };
        match event {
            0..=29 => self.turn(slot),
            30..=37 => {
                let ms = self.rng.ms(self.period / 3);
                self.pass(ms);
            }
            38..=46 => self.end(slot),
            47 => {
                if let Some(worker) = self.workers[slot].take() {
                    self.kill(worker);
                }
            }
            48 | 49 => {
                if self.workers[slot].is_none() {
                    self.spawn(slot);
                }
            }
            50 => {
                let ms = self.rng.ms(6 * self.period);
                self.pass(ms);
            }
            51 | 52 => self.reload(),
            53 => self.order(slot),
            54..=56 => self.pause(slot),
            57 => self.step_clock(),
            _ => self.exit(slot),
        }
    }

    fn exit(&mut self, slot: usize) {
        if let Some(worker) = &mut self.workers[slot] {
            worker.exiting = true;
            worker.attempt = None;
            if worker.claim.is_none() {
                self.workers[slot] = None;
            }
        }
    }

    /// A reload: as it was, with another schedule, without the timer and back, or disabled and
    /// back. Workers of the old generation finish and start nothing.
    fn reload(&mut self) {
        (0..self.workers.len()).for_each(|slot| self.exit(slot));
        let (mut names, mut scheduled): (&[&str], _) = (&["a"], Scheduled::On);
        let was = self.period;
        match self.rng.below(4) {
            0 => self.period = if self.period == 1000 { 700 } else { 1000 },
            1 => names = &[],
            2 => scheduled = Scheduled::Off,
            _ => {}
        }
        if self.period != was || names.is_empty() || scheduled == Scheduled::Off {
            // What nobody has taken so far is nobody's any more.
            self.forget_late(was);
        }
        self.fixture.hash = self.period.unsigned_abs();
        self.policy.schedule = if names.is_empty() { Scheduled::Off } else { scheduled };
        broken_rules::loading(|| self.fixture.reload_as(names, scheduled)).unwrap();
        if self.policy.schedule == Scheduled::Off {
            let ms = self.rng.ms(4 * self.period);
            self.pass(ms);
            self.policy.schedule = Scheduled::On;
            broken_rules::loading(|| self.fixture.reload(&["a"])).unwrap();
            self.reloaded_at = self.now;
        } else if self.period != was {
            self.reloaded_at = self.now;
        }
        assert_eq!(self.fixture.records[0].page, self.record.page, "a name keeps its record");
        for slot in 0..self.workers.len() {
            if self.workers[slot].is_none() {
                self.spawn(slot);
            }
        }
    }

    /// Takes out of the account what has come due and has not been handled.
    fn forget_late(&mut self, period: i64) {
        let state = self.fixture.state.as_ref().unwrap();
        let process = Process { pid: 0, started: 1, boot: BOOT };
        let store = state.attach(Master::This, process, UnixMs(self.now));
        let reading = store.read(&self.record).unwrap();
        let now = std::mem::replace(&mut self.period, period);
        let late = self.late(&reading);
        self.period = now;
        self.expected = self.expected.saturating_sub(late);
    }

    pub(in crate::state) fn late(&self, reading: &Reading) -> u64 {
        let now = UnixMs(self.now);
        let until = reading.paused_since(now).unwrap_or(now);
        let newest = newest_started(&self.due_times(), until).unwrap();
        let mut due = reading.handled_up_to(UnixMs(self.now));
        let mut late = 0;
        while let Some(next) = self.due_times().next(due).filter(|next| *next <= newest) {
            due = next;
            late += 1;
        }
        late
    }

    fn order(&mut self, slot: usize) {
        self.runs += 1;
        let run = run_id(self.runs);
        let (record, due_times) = (self.record.clone(), self.due_times());
        let timer = timer(&record, &due_times);
        let Some(worker) = &self.workers[slot] else { return };
        let now = UnixMs(self.now);
        let _ = if self.rng.one_in(3) {
            worker.store.order_cancel(timer, now)
        } else {
            worker.store.order_run(timer, run, now)
        };
    }

    fn pause(&mut self, slot: usize) {
        let (record, due_times) = (self.record.clone(), self.due_times());
        let timer = timer(&record, &due_times);
        let now = UnixMs(self.now);
        let Some(worker) = &self.workers[slot] else { return };
        match self.rng.below(4) {
            0 if worker.store.pause(timer, None, now) == Edited::Done(()) => self.paused = true,
            1 if worker.store.resume(timer, now) == Edited::Done(()) => self.paused = false,
            2 if worker.store.pause_all(None, now) == Edited::Done(()) => {
                self.all_paused = true;
                // Somebody looks before it ends.
                self.look_all();
            }
            3 if worker.store.resume_all(now) == Edited::Done(()) => self.all_paused = false,
            _ => {}
        }
    }

    fn look_all(&mut self) {
        let now = UnixMs(self.now);
        for worker in self.workers.iter().flatten() {
            let (record, due_times) = (self.record.clone(), self.due_times());
            let timer = timer(&record, &due_times);
            let reading = worker.store.read(&record).unwrap();
            if let Decision::LeaveOut { up_to, kind } =
                decide(&reading, &Look::at(&due_times, now), self.policy, None)
            {
                let _ = worker.store.leave_out(timer, up_to, kind, now);
            }
        }
    }

    fn step_clock(&mut self) {
        if self.rng.one_in(2) {
            let ms = self.rng.ms(50 * self.period);
            return self.pass(ms);
        }
        if !self.clock_goes_back {
            return;
        }
        self.now -= self.rng.ms(50 * self.period);
        self.fixture.now = self.now;
        // A clock that is set back brings due times again, and the account does not come out.
        self.clock_was_back = true;
        self.taken.clear();
        self.reloaded_at = 0;
    }
}
