//! Telling others of a timer's events: each is claimed in the record before it is sent, and locked while it
//! is being sent. Rules "event is claimed" and "event is locked".

use std::rc::Rc;
use std::time::Duration;

use crate::schedule::UnixMs;
use crate::state::policy::due::Reading;
use crate::state::policy::events::{Happened, Subscription};
use crate::state::record::control::Control;
use crate::state::record::format::{RESULTS, event_lock};
use crate::state::record::receivers::ReceiverRecord;
use crate::state::record::run::RunResult;

use super::access::Lock;
use super::edit::{Change, Edited};
use super::locked::Locked;
use super::store::{Inner, Owner, Record, Store, TimerRef, Unread};

/// How often a receiver is told of an event before that is given up.
pub const EVENT_TRIES: u8 = 3;
/// After the first try that failed, and after the second one.
const DISTANCES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];
/// So many results of which there is nothing to be told are passed over without a write.
const UNWRITTEN: u64 = RESULTS as u64 / 2;

/// The right to tell a receiver of an event once. While it lives, no other process does.
pub struct EventClaim {
    place: usize,
    id: u32,
    happened: Happened,
    try_number: u8,
    _locked: Option<Locked<Rc<Inner>>>,
}

/// What came of a look for an event.
pub enum EventStep {
    /// This worker is to tell of it.
    Won(EventClaim),
    /// There is none.
    Nothing,
    /// There is one, which is tried again then.
    NotBefore(UnixMs),
    /// Another process is telling of it.
    Elsewhere,
    /// Others were in the way: to be called again after one of [`Steps`](crate::state::Steps).
    Again,
    /// It was begun as often as may be, each time by a process that died. There may be another one.
    GaveUp(Happened),
    /// It cannot be claimed, or falls to another worker.
    LeftToOwner,
}

/// What becomes of an event after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterTry {
    /// It was told.
    Told,
    /// It is tried again then.
    NotBefore(UnixMs),
    /// It was the last try.
    GaveUp,
}

impl EventClaim {
    /// What to tell of.
    pub fn happened(&self) -> &Happened {
        &self.happened
    }

    /// The number of this try, from 1.
    #[cfg(test)]
    pub(in crate::state) fn try_number(&self) -> u8 {
        self.try_number
    }

    /// Its process dies: the kernel lets go of the lock, and nothing else happens.
    #[cfg(test)]
    pub(in crate::state) fn die(self) {
        drop(self);
    }
}

impl Store {
    /// Claims the next event that a receiver is to be told of. Not while this worker has a claim for it.
    pub fn claim_event(&self, timer: TimerRef<'_>, what: Subscription, now: UnixMs) -> EventStep {
        let inner = &self.inner;
        let reading = match self.read_for(timer) {
            Ok(reading) => reading,
            Err(Unread::Torn) => return EventStep::Again,
            Err(Unread::Lost) => return EventStep::LeftToOwner,
        };
        let Some(place) = place_of(&reading.control, what.id) else {
            return step(self.add_receiver(timer, what, now));
        };
        let before = reading.control.receivers.get(place).copied().unwrap_or_default();
        let mut after = before;
        if after.next(what, &reading, &inner.numbered_results(timer.record, &reading)).is_none() {
            // A record that has started anew has fewer results; so has what is known of one that cannot be read.
            let is_new = after.told < before.told && self.read(timer.record).is_ok();
            if !is_new && after.told.saturating_sub(before.told) < UNWRITTEN {
                return EventStep::Nothing;
            }
        } else if let Some(not_before) = waits_until(&before, now) {
            return EventStep::NotBefore(not_before);
        }
        // Rule "event is locked".
        let lock = match inner.try_lock(event_lock(place), timer.record.page) {
            Lock::Taken(lock) => Some(lock),
            Lock::Refused => return EventStep::Elsewhere,
            Lock::Unknown if timer.owner == Owner::Other => return EventStep::LeftToOwner,
            Lock::Unknown => None,
        };
        let mut won = None;
        let edited = self.edit(timer, now, |reading| {
            let results = inner.numbered_results(timer.record, reading);
            let mut receiver = reading.control.receivers.get(place).copied().unwrap_or_default();
            if receiver.id != what.id {
                return Change::Leave(EventStep::Again);
            }
            let happened = receiver.next(what, reading, &results);
            let claimed = claim(&mut receiver, happened, now, &mut won);
            if let Some(place) = reading.control.receivers.get_mut(place) {
                *place = receiver;
            }
            claimed
        });
        let step = step(edited);
        match (step, won) {
            (EventStep::Nothing, Some((happened, try_number))) => {
                let locked = lock.map(|lock| lock.keep(inner));
                EventStep::Won(EventClaim {
                    place,
                    id: what.id,
                    happened,
                    try_number,
                    _locked: locked,
                })
            }
            (step, _) => step,
        }
    }

    /// Notes that a receiver is to be told of what happens from now on, if the record does not know it.
    pub fn expect_events(&self, timer: TimerRef<'_>, what: Subscription, now: UnixMs) {
        let known = |reading: Reading| place_of(&reading.control, what.id).is_some();
        if !self.read_for(timer).is_ok_and(known) {
            // Who is in the way does the same.
            let _ = self.add_receiver(timer, what, now);
        }
    }

    fn add_receiver(
        &self,
        timer: TimerRef<'_>,
        what: Subscription,
        now: UnixMs,
    ) -> Edited<EventStep> {
        self.edit(timer, now, |reading| {
            let new = ReceiverRecord::new(what.id, reading);
            if place_of(&reading.control, what.id).is_some() {
                return Change::Leave(EventStep::Nothing);
            }
            match reading.control.receivers.iter_mut().find(|it| it.id == 0) {
                Some(free) => *free = new,
                None => return Change::Leave(EventStep::Nothing),
            }
            Change::Write(EventStep::Nothing)
        })
    }

    /// Records what came of a try. The claim is to be kept until that is done.
    pub fn end_event(
        &self,
        timer: TimerRef<'_>,
        claim: &EventClaim,
        is_told: bool,
        now: UnixMs,
    ) -> Edited<AfterTry> {
        let is_last = claim.try_number >= EVENT_TRIES;
        let distance = DISTANCES.get(usize::from(claim.try_number).saturating_sub(1));
        let next_at = now.plus(distance.copied().unwrap_or_default());
        let after = match (is_told, is_last) {
            (true, _) => AfterTry::Told,
            (false, true) => AfterTry::GaveUp,
            (false, false) => AfterTry::NotBefore(next_at),
        };
        self.edit(timer, now, |reading| {
            let receiver = reading.control.receivers.get_mut(claim.place);
            let its = receiver.filter(|it| {
                it.id == claim.id
                    && it.event == Some(claim.happened.event)
                    && it.tries == claim.try_number
            });
            // A load may have made a new one of it.
            let Some(receiver) = its else { return Change::Leave(after) };
            if let AfterTry::NotBefore(next_at) = after {
                receiver.next_at = next_at;
            } else {
                receiver.done(&claim.happened, is_told);
            }
            Change::Write(after)
        })
    }

    /// Whether one who is to be told of a timer's events may have something to be told.
    pub fn may_have_events(reading: &Reading) -> bool {
        reading.control.receivers.iter().any(|it| {
            it.id != 0
                && (it.told != reading.claim.results_ever
                    || u64::from(it.missed) != reading.control.missed & u64::from(u32::MAX)
                    || it.event.is_some())
        })
    }
}

/// Notes in the record that a try begins: who dies during it has made it. Rule "event is claimed".
fn claim(
    receiver: &mut ReceiverRecord,
    happened: Option<Happened>,
    now: UnixMs,
    won: &mut Option<(Happened, u8)>,
) -> Change<EventStep> {
    let Some(happened) = happened else {
        (receiver.event, receiver.tries) = (None, 0);
        return Change::Write(EventStep::Nothing);
    };
    if receiver.event != Some(happened.event) {
        (receiver.event, receiver.tries, receiver.next_at) = (Some(happened.event), 0, now);
    }
    if let Some(not_before) = waits_until(receiver, now) {
        return Change::Leave(EventStep::NotBefore(not_before));
    }
    if receiver.tries >= EVENT_TRIES {
        receiver.done(&happened, false);
        return Change::Write(EventStep::GaveUp(happened));
    }
    receiver.tries += 1;
    receiver.next_at = now;
    *won = Some((happened, receiver.tries));
    Change::Write(EventStep::Nothing)
}

/// Until when an event is not tried again. A clock that was set back does not make it wait for longer.
fn waits_until(receiver: &ReceiverRecord, now: UnixMs) -> Option<UnixMs> {
    let longest = DISTANCES.into_iter().max().unwrap_or_default();
    let is_to_come = receiver.event.is_some() && receiver.next_at > now;
    (is_to_come && receiver.next_at <= now.plus(longest)).then_some(receiver.next_at)
}

fn place_of(control: &Control, id: u32) -> Option<usize> {
    control.receivers.iter().position(|receiver| receiver.id == id)
}

fn step(edited: Edited<EventStep>) -> EventStep {
    match edited {
        Edited::Done(step) | Edited::NotWritten(step) => step,
        Edited::Again => EventStep::Again,
        Edited::Failed => EventStep::LeftToOwner,
    }
}

impl Inner {
    /// The last results, newest first, each with its number.
    fn numbered_results(&self, record: &Record, reading: &Reading) -> Vec<(u64, RunResult)> {
        self.read_numbered(record, &reading.claim)
    }
}
