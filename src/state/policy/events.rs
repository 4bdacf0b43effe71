//! Which event a receiver is to be told of next: a pure function of the record, its results, and what it
//! was told before. So no event is written when it happens, and none is lost with the process that saw it.

use crate::state::record::format::RESULTS;
use crate::state::record::receivers::{Event, ReceiverRecord};
use crate::state::record::run::{Attempt, Outcome, Progress, RunResult, Trigger};

use super::due::Reading;

/// Who is told of which events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Whose it is: a hash of the receiver's URI, which is not 0.
    pub id: u32,
    /// Of which events, by their bits.
    pub events: Events,
    /// So many failures in a row are `failed`.
    pub after: u16,
}

/// A set of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u8);

impl Events {
    /// Adds one; answers whether it was not there.
    pub fn insert(&mut self, event: Event) -> bool {
        let before = self.0;
        self.0 |= 1 << event as u8;
        self.0 != before
    }

    /// Whether it is there.
    pub fn contains(self, event: Event) -> bool {
        self.0 & 1 << event as u8 != 0
    }
}

impl FromIterator<Event> for Events {
    fn from_iter<T: IntoIterator<Item = Event>>(events: T) -> Self {
        let mut all = Self::default();
        for event in events {
            all.insert(event);
        }
        all
    }
}

/// Something that a receiver is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened {
    /// What.
    pub event: Event,
    /// How the run ended that it is told of; `None` for due times that were missed.
    pub result: Option<RunResult>,
    /// The run that makes up for missed due times, if one does.
    pub catching_up: Option<Attempt>,
    /// The number of that result.
    pub(in crate::state) number: u64,
    /// How many runs in a row have failed; of `recovered`, how many had.
    pub failures: u32,
    /// How many due times were missed, that of the run which makes up for them included.
    pub missed: u32,
    /// The counter's lower half at that time.
    pub(in crate::state) missed_up_to: u32,
}

impl ReceiverRecord {
    /// One that is told of nothing that was before.
    pub(in crate::state) fn new(id: u32, reading: &Reading) -> Self {
        Self {
            id,
            missed: low(reading.control.missed),
            told: reading.claim.results_ever,
            row: row(reading),
            catching_up_told: catching_up(reading).is_some(),
            ..Self::default()
        }
    }

    /// What it is to be told next; moves on over what it need not be told. `results` are the last ones,
    /// newest first, each with its number.
    pub(in crate::state) fn next(
        &mut self,
        what: Subscription,
        reading: &Reading,
        results: &[(u64, RunResult)],
    ) -> Option<Happened> {
        let ever = reading.claim.results_ever;
        if self.told > ever {
            // The record has started anew.
            *self = Self::new(self.id, reading);
        }
        let lost = ever.saturating_sub(RESULTS as u64);
        self.told = self.told.max(lost);
        // What it is being told comes first, also if something else has happened meanwhile.
        let may_be_missed = self.event.is_none_or(|event| event == Event::Missed);
        loop {
            let number = self.told + 1;
            if number > ever {
                return self.next_missed(what, reading, results).filter(|_| may_be_missed);
            }
            let found = results.iter().find(|(its, _)| *its == number).map(|(_, result)| *result);
            let Some(result) = found else {
                // Torn, or gone.
                self.told = number;
                if number == ever {
                    self.row = row(reading);
                }
                continue;
            };
            let event = self.event_of(what, &result);
            let catches_up = result.attempt.trigger == Trigger::Missed
                && !self.catching_up_told
                && what.events.contains(Event::Missed);
            if event.is_none() && !catches_up && self.event != Some(Event::Missed) {
                self.pass(number, &result, false);
                continue;
            }
            let missed = self.next_missed(what, reading, results).filter(|_| may_be_missed);
            if missed.is_some() || event.is_none() {
                return missed;
            }
            return event.map(|event| Happened {
                event,
                result: Some(result),
                catching_up: None,
                number,
                failures: match event {
                    Event::Success => 0,
                    _ => self.row_after(&result).into(),
                },
                missed: 0,
                missed_up_to: self.missed,
            });
        }
    }

    fn next_missed(
        &mut self,
        what: Subscription,
        reading: &Reading,
        results: &[(u64, RunResult)],
    ) -> Option<Happened> {
        let counter = low(reading.control.missed);
        if !what.events.contains(Event::Missed) {
            self.missed = counter;
            return None;
        }
        if reading.control.has_uncounted() {
            return None;
        }
        let left_out = counter.wrapping_sub(self.missed);
        let next = results.iter().find(|(number, _)| *number == self.told + 1);
        let next = next.map(|(_, result)| result.attempt);
        let run = match next {
            Some(attempt) => Some(attempt).filter(|attempt| attempt.trigger == Trigger::Missed),
            None if self.told == reading.claim.results_ever => catching_up(reading),
            None => None,
        };
        let catching_up = run.filter(|_| !self.catching_up_told);
        let missed = left_out.saturating_add(catching_up.is_some().into());
        (missed > 0).then_some(Happened {
            event: Event::Missed,
            result: None,
            catching_up,
            number: self.told,
            failures: self.row.into(),
            missed,
            missed_up_to: counter,
        })
    }

    /// What there is to be told of a result, if anything.
    fn event_of(&self, what: Subscription, result: &RunResult) -> Option<Event> {
        let wants = |event| Some(event).filter(|event| what.events.contains(*event));
        match result.ended.outcome {
            Outcome::Success => {
                // Who is not told of failures is told of the end of such a row all the same.
                let unasked = wants(Event::Failed).is_none() && self.row >= what.after;
                let recovered = wants(Event::Recovered).filter(|_| self.failed_told || unasked);
                recovered.or(wants(Event::Success))
            }
            Outcome::Cancelled => None,
            _ => {
                let makes_it = self.row < what.after && self.row_after(result) >= what.after;
                wants(Event::Failed).filter(|_| makes_it)
            }
        }
    }

    fn row_after(&self, result: &RunResult) -> u16 {
        match result.ended.outcome {
            Outcome::Success | Outcome::Cancelled => self.row,
            _ => self.row.saturating_add(1),
        }
    }

    /// A result of which there is nothing more to be told.
    fn pass(&mut self, number: u64, result: &RunResult, failed_told: bool) {
        self.told = number;
        if result.attempt.trigger == Trigger::Missed {
            self.catching_up_told = false;
        }
        match result.ended.outcome {
            Outcome::Success => (self.row, self.failed_told) = (0, false),
            Outcome::Cancelled => {}
            _ => {
                self.row = self.row_after(result);
                self.failed_told |= failed_told;
            }
        }
    }

    /// It was told, or that was given up.
    pub(in crate::state) fn done(&mut self, happened: &Happened, is_told: bool) {
        match (happened.event, happened.result) {
            (Event::Missed, _) => {
                self.missed = happened.missed_up_to;
                self.catching_up_told |= happened.catching_up.is_some();
            }
            // It may be told of the success, too.
            (Event::Recovered, _) => (self.row, self.failed_told) = (0, false),
            (event, Some(result)) => {
                self.pass(happened.number, &result, is_told && event == Event::Failed);
            }
            (_, None) => {}
        }
        (self.event, self.tries, self.next_at) = (None, 0, crate::schedule::UnixMs(0));
    }
}

/// The run in progress that makes up for missed due times.
fn catching_up(reading: &Reading) -> Option<Attempt> {
    match reading.claim.progress {
        Progress::Running(attempt) | Progress::Waiting(attempt, _) => {
            Some(attempt).filter(|attempt| attempt.trigger == Trigger::Missed)
        }
        Progress::Nothing | Progress::Claiming(..) => None,
    }
}

fn row(reading: &Reading) -> u16 {
    u16::try_from(reading.claim.consecutive_failures).unwrap_or(u16::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
fn low(counter: u64) -> u32 {
    counter as u32
}
