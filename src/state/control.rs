//! The control part of a record: what others want of the timer, and what was left out.

use crate::schedule::UnixMs;

use super::fields::{Fields, FieldsMut};
use super::format::{CONTROL, GAPS};
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

/// Why due times had no run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// Nobody was there to take them.
    Missed,
    /// The last run was still in progress, or a newer one took their place in the queue.
    Overlap,
}

/// A stretch of due times that were left out and are still to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// All of them are later than this,
    pub(super) after: UnixMs,
    /// and none is later than this.
    pub(super) up_to: UnixMs,
    pub(super) kind: LeftOut,
    /// How many before `after` the counters contain already.
    pub(super) counted: u32,
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
    pub(super) serial: u64,
    /// Whose record it is.
    pub(super) name: Box<str>,
    /// The hash of the schedule that was last loaded.
    pub(super) schedule_hash: u64,
    /// What the last load said.
    pub presence: Presence,
    /// When the timer was first loaded: the due time of `first=now`. `None` after damage.
    pub created_at: Option<UnixMs>,
    /// When a load last saw it, or the record was allocated.
    pub(super) last_seen_at: Option<UnixMs>,
    /// The hash of the pid file's name of the instance that loaded it last.
    pub(super) seen_by: u64,
    /// Due times up to here are none of the timer's.
    pub not_before: Option<UnixMs>,
    /// Due times up to here that were not taken are left out for good.
    pub left_out_up_to: Option<UnixMs>,
    /// The due time that waits for the end of the run before it. It is pending while it has not
    /// been dealt with.
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
    /// Left-out due times that the two counters do not contain yet, oldest first.
    pub(super) gaps: Vec<Gap>,
}

const FOR_EVER: UnixMs = UnixMs(i64::MAX);
const LOADED: u8 = 1;
const PRESENT: u8 = 2;
const ENABLED: u8 = 4;

impl Control {
    /// A record of `name` that no load has seen yet.
    pub(super) fn new(name: &str) -> Self {
        Self {
            serial: 0,
            name: name.into(),
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
            gaps: Vec::new(),
        }
    }

    /// What takes the place of a damaged part, or of one that no file has room for: a timer that
    /// starts anew at `now`. It is not a new one: nobody knows since when it has been there, and
    /// `first=now` is not for it.
    pub(super) fn anew(name: &str, now: UnixMs) -> Self {
        Self {
            presence: Presence::Enabled,
            last_seen_at: Some(now),
            not_before: Some(now),
            ..Self::new(name)
        }
    }

    /// The order to run, if one is pending.
    pub fn pending_order(&self, orders_done: u64) -> Option<Order> {
        Some(self.order).filter(|order| order.number > orders_done && order.run != RunId::default())
    }

    /// The part as it stands in the file.
    pub(super) fn encode(&self) -> [u8; CONTROL.bytes] {
        let mut bytes = [0; CONTROL.bytes];
        let mut to = FieldsMut(&mut bytes);
        to.u64(8, self.serial);
        to.name(16, &self.name);
        to.u64(144, self.schedule_hash);
        to.u8(
            152,
            match self.presence {
                Presence::Unloaded => 0,
                Presence::Enabled => LOADED | PRESENT | ENABLED,
                Presence::Disabled => LOADED | PRESENT,
                Presence::Absent => LOADED,
            },
        );
        to.some_instant(160, self.created_at);
        to.some_instant(168, self.last_seen_at);
        to.u64(176, self.seen_by);
        to.some_instant(184, self.not_before);
        to.some_instant(192, self.left_out_up_to);
        to.some_instant(200, self.queued);
        put_pause(&mut to, 208, self.paused);
        to.u64(224, self.order.number);
        to.put(232, &self.order.run.0);
        to.instant(248, self.order.at);
        to.put(256, &self.cancel.unwrap_or_default().0);
        to.u64(272, self.overlaps);
        to.u64(280, self.missed);
        to.count(288, self.gaps.len());
        for (at, gap) in (296..).step_by(24).zip(&self.gaps).take(GAPS) {
            to.instant(at, gap.after);
            to.instant(at + 8, gap.up_to);
            to.u8(at + 16, u8::from(gap.kind == LeftOut::Overlap));
            to.u32(at + 20, gap.counted);
        }
        CONTROL.seal(&mut bytes);
        bytes
    }

    /// Reads the part; `None` if its checksum or its name is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if !CONTROL.is_whole(bytes) {
            return None;
        }
        let from = Fields(bytes);
        let bits = from.u8(152);
        Some(Self {
            serial: from.u64(8),
            name: from.name(16)?.into(),
            schedule_hash: from.u64(144),
            presence: match (bits & LOADED, bits & PRESENT, bits & ENABLED) {
                (0, ..) => Presence::Unloaded,
                (_, 0, _) => Presence::Absent,
                (_, _, 0) => Presence::Disabled,
                _ => Presence::Enabled,
            },
            created_at: from.some_instant(160),
            last_seen_at: from.some_instant(168),
            seen_by: from.u64(176),
            not_before: from.some_instant(184),
            left_out_up_to: from.some_instant(192),
            queued: from.some_instant(200),
            paused: get_pause(from, 208),
            order: Order {
                number: from.u64(224),
                run: RunId(from.bytes(232)),
                at: from.instant(248),
            },
            cancel: Some(RunId(from.bytes(256))).filter(|run| *run != RunId::default()),
            overlaps: from.u64(272),
            missed: from.u64(280),
            gaps: (0..from.count(288, GAPS))
                .map(|number| from.from(296 + 24 * number))
                .map(|from| Gap {
                    after: from.instant(0),
                    up_to: from.instant(8),
                    kind: if from.u8(16) == 0 { LeftOut::Missed } else { LeftOut::Overlap },
                    counted: from.u32(20),
                })
                .collect(),
        })
    }
}

/// Writes a pause as two instants.
pub(super) fn put_pause(to: &mut FieldsMut<'_>, at: usize, paused: Option<Paused>) {
    to.some_instant(at, paused.map(|paused| paused.since));
    to.some_instant(at + 8, paused.map(|paused| paused.until.unwrap_or(FOR_EVER)));
}

/// Reads what [`put_pause`] wrote.
pub(super) fn get_pause(from: Fields<'_>, at: usize) -> Option<Paused> {
    let until = Some(from.instant(at + 8)).filter(|until| *until != FOR_EVER);
    Some(Paused { since: from.some_instant(at)?, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_survives_the_file() {
        let gap =
            |after, kind| Gap { after: UnixMs(after), up_to: UnixMs(after + 5), kind, counted: 3 };
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
            gaps: vec![gap(1, LeftOut::Missed), gap(9, LeftOut::Overlap)],
            ..Control::anew("reindex", UnixMs(-3))
        };
        for presence in
            [Presence::Unloaded, Presence::Enabled, Presence::Disabled, Presence::Absent]
        {
            control.presence = presence;
            assert_eq!(Control::decode(&control.encode()), Some(control.clone()));
        }
        control.paused = Some(Paused { since: UnixMs(1), until: Some(UnixMs(2)) });
        assert_eq!(Control::decode(&control.encode()), Some(control.clone()));
        let fresh = Control::new("reindex");
        assert_eq!(Control::decode(&fresh.encode()), Some(fresh));
    }

    #[test]
    fn a_flipped_bit_is_seen_anywhere() {
        let mut bytes = Control::new("a").encode();
        for at in 0..CONTROL.bytes {
            bytes[at] ^= 1;
            assert_eq!(Control::decode(&bytes), None, "{at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn foreign_values_behind_a_right_checksum_are_no_panic() {
        let mut bytes = [0xff; CONTROL.bytes];
        bytes[16..144].fill(0);
        CONTROL.seal(&mut bytes);
        assert_eq!(Control::decode(&bytes).unwrap().gaps.len(), GAPS);
        bytes[16..19].copy_from_slice(&[2, 0xc3, 0x28]);
        CONTROL.seal(&mut bytes);
        assert_eq!(Control::decode(&bytes), None, "the name is no UTF-8");
    }

    #[test]
    fn a_pause_ends_at_its_instant() {
        let paused = Paused { since: UnixMs(0), until: Some(UnixMs(10)) };
        assert!(paused.holds(UnixMs(9)) && !paused.holds(UnixMs(10)));
        assert!(Paused { since: UnixMs(0), until: None }.holds(UnixMs(i64::MAX)));
    }

    #[test]
    fn a_dropped_order_is_not_pending() {
        let mut control = Control::new("a");
        control.order = Order { number: 4, run: RunId([1; 16]), at: UnixMs(5) };
        assert_eq!(control.pending_order(3), Some(control.order));
        assert_eq!(control.pending_order(4), None);
        control.order.run = RunId::default();
        assert_eq!(control.pending_order(3), None);
    }
}
