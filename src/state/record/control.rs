//! The control part of a record: what others want of the timer, and what was left out.

use crate::schedule::UnixMs;

use super::codec::{Decoder, Encoder};
use super::format::{CONTROL, Field, GAPS, control as at, gap};
use super::gaps::{Gap, Gaps, LeftOut};
use super::receivers::{self, Receivers};
use super::run::RunId;

/// A stop until further notice, or until an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Since when.
    pub since: UnixMs,
    /// Until when; `None` for ever.
    pub until: Option<UnixMs>,
}

impl Paused {
    /// Whether it has ended by itself.
    pub fn has_expired(&self, now: UnixMs) -> bool {
        !self.holds(now)
    }

    /// Whether it holds at `now`.
    pub fn holds(&self, now: UnixMs) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// The order to run once by hand. It is pending while its number is above the newest done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Its number in this record; kept when the order is dropped.
    pub number: u64,
    /// The id that the run will have; zero if the order was dropped.
    pub run: RunId,
    /// When it was given.
    pub at: UnixMs,
}

/// Why a control part is not that of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum NotIts {
    /// Its checksum or its name is wrong.
    Damaged,
    /// It is another timer's.
    Others,
}

/// What a load has said of the timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing yet: the record has been allocated, and that is all.
    Unloaded,
    /// It is configured and runs.
    Enabled,
    /// It is configured with `enabled=off`.
    Disabled,
    /// It is no longer configured.
    Absent,
}

/// The control part of a record: written under the edit lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// How often it was written.
    pub(in crate::state) serial: u64,
    /// The hash of the schedule that was last loaded.
    pub(in crate::state) schedule_hash: u64,
    /// What the last load said.
    pub presence: Presence,
    /// When the timer was first loaded: the due time of `first=now`. `None` after damage.
    pub created_at: Option<UnixMs>,
    /// When a load last saw it, or the record was allocated.
    pub(in crate::state) last_seen_at: Option<UnixMs>,
    /// The hash of the pid file's name of the instance that loaded it last.
    pub(in crate::state) seen_by: u64,
    /// Due times up to here are none of the timer's.
    pub not_before: Option<UnixMs>,
    /// Due times up to here that were not taken are left out for good.
    pub left_out_up_to: Option<UnixMs>,
    /// The due time that waits for the end of the run before it. It is pending while it has not
    /// been handled.
    pub queued: Option<UnixMs>,
    /// The pause, if there is one; it may have expired.
    pub paused: Option<Paused>,
    /// The newest order to run.
    pub order: Order,
    /// The run that is to be cancelled; without effect when that has ended.
    pub cancel: Option<RunId>,
    /// Due times left out because a run was in progress.
    pub overlaps: u64,
    /// Due times left out because nobody was there.
    pub missed: u64,
    /// Due times that the fleet has dealt with.
    pub elsewhere: u64,
    /// Left-out due times that the counters do not contain yet, oldest first.
    pub(in crate::state) gaps: Gaps,
    /// What those who are told of its events have been told.
    pub(in crate::state) receivers: Receivers,
}

const FOR_EVER: UnixMs = UnixMs(i64::MAX);
const LOADED: u8 = 1;
const PRESENT: u8 = 2;
const ENABLED: u8 = 4;

impl Control {
    /// That of a record that no load has seen yet.
    pub(in crate::state) fn new() -> Self {
        Self {
            serial: 0,
            schedule_hash: 0,
            presence: Presence::Unloaded,
            created_at: None,
            last_seen_at: None,
            seen_by: 0,
            not_before: None,
            left_out_up_to: None,
            queued: None,
            paused: None,
            order: Order::default(),
            cancel: None,
            overlaps: 0,
            missed: 0,
            elsewhere: 0,
            gaps: Gaps::default(),
            receivers: Receivers::default(),
        }
    }

    /// What takes the place of a damaged part, or of one that no file has room for: a timer that
    /// starts anew at `now`. It is not a new one: nobody knows since when it has been there, and
    /// `first=now` is not for it.
    pub(in crate::state) fn anew(now: UnixMs) -> Self {
        Self {
            presence: Presence::Enabled,
            last_seen_at: Some(now),
            not_before: Some(now),
            ..Self::new()
        }
    }

    /// The order to run, if one is pending.
    pub fn pending_order(&self, orders_done: u64) -> Option<Order> {
        Some(self.order).filter(|order| order.number > orders_done && order.run != RunId::default())
    }

    /// The part as it stands in the file, in the record of `name`.
    pub(in crate::state) fn encode(&self, name: &str) -> [u8; CONTROL.bytes] {
        let mut bytes = [0; CONTROL.bytes];
        let mut to = Encoder(&mut bytes);
        to.u64(at::SERIAL, self.serial);
        to.name(at::NAME, name);
        to.u64(at::SCHEDULE_HASH, self.schedule_hash);
        to.u8(at::BITS, self.presence.bits());
        to.some_instant(at::CREATED_AT, self.created_at);
        to.some_instant(at::LAST_SEEN_AT, self.last_seen_at);
        to.u64(at::SEEN_BY, self.seen_by);
        to.some_instant(at::NOT_BEFORE, self.not_before);
        to.some_instant(at::LEFT_OUT_UP_TO, self.left_out_up_to);
        to.some_instant(at::QUEUED, self.queued);
        put_pause(&mut to, at::PAUSED_SINCE, at::PAUSED_UNTIL, self.paused);
        to.u64(at::ORDER_NUMBER, self.order.number);
        to.put(at::ORDER_RUN, self.order.run.0);
        to.instant(at::ORDER_AT, self.order.at);
        to.put(at::CANCEL, self.cancel.unwrap_or_default().0);
        to.u64(at::OVERLAPS, self.overlaps);
        to.u64(at::MISSED, self.missed);
        to.u64(at::ELSEWHERE, self.elsewhere);
        to.count(at::GAP_COUNT, self.gaps.len());
        for (number, stretch) in self.gaps.as_slice().iter().enumerate() {
            let mut to = to.item(at::GAPS, number, gap::BYTES);
            to.instant(gap::AFTER, stretch.after);
            to.instant(gap::UP_TO, stretch.up_to);
            to.u8(gap::KIND, stretch.kind.code());
            to.u32(gap::COUNTED, stretch.counted);
        }
        receivers::encode(&self.receivers, &mut Encoder(&mut bytes));
        CONTROL.seal(&mut bytes);
        bytes
    }

    /// Reads the part of the record of `name`.
    ///
    /// # Errors
    ///
    /// It is damaged, or that of another timer.
    pub(in crate::state) fn decode(bytes: &[u8], name: &str) -> Result<Self, NotIts> {
        match Self::name_in(bytes) {
            Some(its) if its == name => Ok(Self::decode_whole(bytes)),
            Some(_) => Err(NotIts::Others),
            None => Err(NotIts::Damaged),
        }
    }

    /// Whose part it is; `None` if its checksum or its name is wrong.
    pub(in crate::state) fn name_in(bytes: &[u8]) -> Option<&str> {
        if CONTROL.is_whole(bytes) { Decoder(bytes).name(at::NAME) } else { None }
    }

    /// Reads a part that is whole.
    pub(in crate::state) fn decode_whole(bytes: &[u8]) -> Self {
        let from = Decoder(bytes);
        Self {
            serial: from.u64(at::SERIAL),
            schedule_hash: from.u64(at::SCHEDULE_HASH),
            presence: Presence::of_bits(from.u8(at::BITS)),
            created_at: from.some_instant(at::CREATED_AT),
            last_seen_at: from.some_instant(at::LAST_SEEN_AT),
            seen_by: from.u64(at::SEEN_BY),
            not_before: from.some_instant(at::NOT_BEFORE),
            left_out_up_to: from.some_instant(at::LEFT_OUT_UP_TO),
            queued: from.some_instant(at::QUEUED),
            paused: get_pause(from, at::PAUSED_SINCE, at::PAUSED_UNTIL),
            order: Order {
                number: from.u64(at::ORDER_NUMBER),
                run: RunId(from.bytes(at::ORDER_RUN)),
                at: from.instant(at::ORDER_AT),
            },
            cancel: Some(RunId(from.bytes(at::CANCEL))).filter(|run| *run != RunId::default()),
            overlaps: from.u64(at::OVERLAPS),
            missed: from.u64(at::MISSED),
            elsewhere: from.u64(at::ELSEWHERE),
            gaps: (0..from.count(at::GAP_COUNT, GAPS))
                .map(|number| from.item(at::GAPS, number, gap::BYTES))
                .map(|from| Gap {
                    after: from.instant(gap::AFTER),
                    up_to: from.instant(gap::UP_TO),
                    kind: LeftOut::from_code(from.u8(gap::KIND)),
                    counted: from.u32(gap::COUNTED),
                })
                .collect(),
            receivers: receivers::decode(from),
        }
    }
}

impl Presence {
    fn bits(self) -> u8 {
        match self {
            Self::Unloaded => 0,
            Self::Enabled => LOADED | PRESENT | ENABLED,
            Self::Disabled => LOADED | PRESENT,
            Self::Absent => LOADED,
        }
    }

    pub(in crate::state) fn of_bits(bits: u8) -> Self {
        match (bits & LOADED, bits & PRESENT, bits & ENABLED) {
            (0, ..) => Self::Unloaded,
            (_, 0, _) => Self::Absent,
            (_, _, 0) => Self::Disabled,
            _ => Self::Enabled,
        }
    }
}

/// Writes a pause as two instants.
pub(in crate::state) fn put_pause(
    to: &mut Encoder<'_>,
    since: Field<8>,
    until: Field<8>,
    paused: Option<Paused>,
) {
    to.some_instant(since, paused.map(|paused| paused.since));
    to.some_instant(until, paused.map(|paused| paused.until.unwrap_or(FOR_EVER)));
}

/// Reads what [`put_pause`] wrote.
pub(in crate::state) fn get_pause(
    from: Decoder<'_>,
    since: Field<8>,
    until: Field<8>,
) -> Option<Paused> {
    let until = Some(from.instant(until)).filter(|until| *until != FOR_EVER);
    Some(Paused { since: from.some_instant(since)?, until })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::record::receivers::{Event, ReceiverRecord};

    #[test]
    fn everything_survives_the_file() {
        let gap =
            |after, kind| Gap { after: UnixMs(after), up_to: UnixMs(after + 5), kind, counted: 3 };
        let none = ReceiverRecord::default();
        let mut control = Control {
            serial: 9,
            schedule_hash: 0xdead_beef,
            seen_by: 3,
            left_out_up_to: Some(UnixMs(11)),
            queued: Some(UnixMs(12)),
            paused: Some(Paused { since: UnixMs(1), until: None }),
            order: Order { number: 4, run: RunId([1; 16]), at: UnixMs(5) },
            cancel: Some(RunId([2; 16])),
            overlaps: 6,
            missed: 7,
            elsewhere: 8,
            gaps: [LeftOut::Missed, LeftOut::Overlap, LeftOut::Elsewhere]
                .map(|kind| gap(9, kind))
                .into_iter()
                .collect(),
            receivers: [
                ReceiverRecord { id: 7, missed: 6, told: 5, row: 4, tries: 3, ..none },
                none,
                ReceiverRecord {
                    id: u32::MAX,
                    failed_told: true,
                    event: Some(Event::Success),
                    next_at: UnixMs(-2),
                    ..none
                },
                ReceiverRecord {
                    id: 1,
                    catching_up_told: true,
                    event: Some(Event::Failed),
                    ..none
                },
            ],
            ..Control::anew(UnixMs(-3))
        };
        for presence in
            [Presence::Unloaded, Presence::Enabled, Presence::Disabled, Presence::Absent]
        {
            control.presence = presence;
            assert_eq!(Control::decode(&control.encode("reindex"), "reindex"), Ok(control.clone()));
        }
        control.paused = Some(Paused { since: UnixMs(1), until: Some(UnixMs(2)) });
        assert_eq!(Control::decode(&control.encode("reindex"), "reindex"), Ok(control.clone()));
        let fresh = Control::new();
        let bytes = fresh.encode("reindex");
        assert_eq!(Control::decode(&bytes, "reindex"), Ok(fresh));
        assert_eq!(Control::decode(&bytes, "reinde"), Err(NotIts::Others));
    }

    #[test]
    fn a_flipped_bit_is_seen_anywhere() {
        let mut bytes = Control::new().encode("a");
        for at in 0..CONTROL.bytes {
            bytes[at] ^= 1;
            assert_eq!(Control::decode(&bytes, "a"), Err(NotIts::Damaged), "{at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn foreign_values_behind_a_right_checksum_are_no_panic() {
        let mut bytes = [0xff; CONTROL.bytes];
        bytes[16..144].fill(0);
        CONTROL.seal(&mut bytes);
        assert_eq!(Control::decode(&bytes, "").unwrap().gaps.len(), GAPS);
        bytes[16..19].copy_from_slice(&[2, 0xc3, 0x28]);
        CONTROL.seal(&mut bytes);
        assert_eq!(Control::name_in(&bytes), None, "the name is no UTF-8");
    }

    #[test]
    fn a_pause_ends_at_its_instant() {
        let paused = Paused { since: UnixMs(0), until: Some(UnixMs(10)) };
        assert!(paused.holds(UnixMs(9)) && !paused.holds(UnixMs(10)));
        assert!(Paused { since: UnixMs(0), until: None }.holds(UnixMs(i64::MAX)));
    }

    #[test]
    fn a_dropped_order_is_not_pending() {
        let mut control = Control::new();
        control.order = Order { number: 4, run: RunId([1; 16]), at: UnixMs(5) };
        assert_eq!(control.pending_order(3), Some(control.order));
        assert_eq!(control.pending_order(4), None);
        control.order.run = RunId::default();
        assert_eq!(control.pending_order(3), None);
    }
}
