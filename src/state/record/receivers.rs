//! What those who are to be told of a timer's events have been told.

use crate::schedule::UnixMs;

use super::codec::{Decoder, Encoder};
use super::control::{Control, Presence};
use super::format::{RECEIVERS, control, receiver as at};

/// What happens to a timer, as far as others are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many runs in a row have failed.
    Failed,
    /// A run has succeeded after that.
    Recovered,
    /// Due times were left out, or are caught up.
    Missed,
    /// A run has succeeded.
    Success,
}

impl Event {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::Failed, Self::Recovered, Self::Missed, Self::Success];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Recovered => "recovered",
            Self::Missed => "missed",
            Self::Success => "success",
        }
    }

    fn code(event: Option<Self>) -> u8 {
        let code = Self::ALL.into_iter().zip(1..).find(|(one, _)| Some(*one) == event);
        code.map_or(0, |(_, code)| code)
    }

    fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

/// What one receiver has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::state) struct ReceiverRecord {
    /// Whose: a hash of its URI, which is not 0; 0 for none.
    pub(in crate::state) id: u32,
    /// How many due times were missed that it was told of: the lower half of the counter.
    pub(in crate::state) missed: u32,
    /// The number of the newest result that it needs to be told nothing of any more.
    pub(in crate::state) told: u64,
    /// How many runs in a row had failed then.
    pub(in crate::state) row: u16,
    /// Whether it was told that so many have.
    pub(in crate::state) failed_told: bool,
    /// Whether it was told of the run in progress, which makes up for missed due times.
    pub(in crate::state) catching_up_told: bool,
    /// What it is being told.
    pub(in crate::state) event: Option<Event>,
    /// How often that was begun.
    pub(in crate::state) tries: u8,
    /// Before this it is not tried again.
    pub(in crate::state) next_at: UnixMs,
}

/// Those of one timer, each in a place of its own.
pub(in crate::state) type Receivers = [ReceiverRecord; RECEIVERS];

const FAILED_TOLD: u8 = 16;
const CATCHING_UP_TOLD: u8 = 32;
const EVENT: u8 = 15;

impl Control {
    /// Forgets what others than these have been told; of a timer that comes back, what all have.
    pub(in crate::state) fn keep_receivers(&mut self, ids: &[u32]) {
        let is_there = matches!(self.presence, Presence::Enabled | Presence::Disabled);
        for receiver in &mut self.receivers {
            if !is_there || !ids.contains(&receiver.id) {
                *receiver = ReceiverRecord::default();
            }
        }
    }
}

pub(super) fn encode(receivers: &Receivers, to: &mut Encoder<'_>) {
    for (number, receiver) in receivers.iter().enumerate().filter(|(_, it)| it.id != 0) {
        let mut to = to.item(control::RECEIVERS, number, at::BYTES);
        to.u32(at::ID, receiver.id);
        to.u32(at::MISSED, receiver.missed);
        to.u64(at::TOLD, receiver.told);
        to.instant(at::NEXT_AT, receiver.next_at);
        to.u8(at::TRIES, receiver.tries);
        let failed = if receiver.failed_told { FAILED_TOLD } else { 0 };
        let catching_up = if receiver.catching_up_told { CATCHING_UP_TOLD } else { 0 };
        to.u8(at::EVENT, Event::code(receiver.event) | failed | catching_up);
        to.u16(at::ROW, receiver.row);
    }
}

pub(super) fn decode(from: Decoder<'_>) -> Receivers {
    std::array::from_fn(|number| {
        let from = from.item(control::RECEIVERS, number, at::BYTES);
        let id = from.u32(at::ID);
        if id == 0 {
            return ReceiverRecord::default();
        }
        let bits = from.u8(at::EVENT);
        ReceiverRecord {
            id,
            missed: from.u32(at::MISSED),
            told: from.u64(at::TOLD),
            row: from.u16(at::ROW),
            failed_told: bits & FAILED_TOLD != 0,
            catching_up_told: bits & CATCHING_UP_TOLD != 0,
            event: Event::of_code(bits & EVENT),
            tries: from.u8(at::TRIES),
            next_at: from.instant(at::NEXT_AT),
        }
    })
}
