//! The ring of results: the places of the last runs of a timer, each written by itself.

use std::time::Duration;

use super::claim_part::ms;
use super::codec::{Decoder, Encoder};
use super::format::{RESULTS, RING_AT, RING_BYTES, result as at, result_part};
use super::run::{Attempt, BootId, Ended, Outcome, RunId, RunResult, Trigger};

impl RunResult {
    /// The place of the ring in which it is the one of this number.
    pub(in crate::state) fn encode(&self, number: u64) -> [u8; result_part(0).bytes] {
        let mut bytes = [0; result_part(0).bytes];
        let mut to = Encoder(&mut bytes);
        to.u64(at::NUMBER, number);
        to.instant(at::DUE, self.attempt.due);
        to.instant(at::STARTED_AT, self.attempt.started_at);
        to.put(at::RUN, self.attempt.run.0);
        to.u32(at::DURATION, ms(self.ended.duration));
        to.u32(at::ATTEMPT, self.attempt.number);
        to.u32(at::PID, self.attempt.pid);
        to.u16(at::STATUS, self.ended.status);
        to.u8(at::OUTCOME, self.ended.outcome.code());
        to.u8(at::TRIGGER, self.attempt.trigger.code());
        result_part(number).seal(&mut bytes);
        bytes
    }

    /// Reads a place of the ring; `None` if its checksum is wrong, or if it is of another number.
    fn decode(bytes: &[u8], number: u64) -> Option<Self> {
        let from = Decoder(bytes);
        if !result_part(number).is_whole(bytes) || from.u64(at::NUMBER) != number {
            return None;
        }
        Some(Self {
            attempt: Attempt {
                run: RunId(from.bytes(at::RUN)),
                due: from.instant(at::DUE),
                trigger: Trigger::from_code(from.u8(at::TRIGGER)),
                number: from.u32(at::ATTEMPT),
                pid: from.u32(at::PID),
                boot: BootId::default(),
                started_at: from.instant(at::STARTED_AT),
            },
            ended: Ended {
                outcome: Outcome::from_code(from.u8(at::OUTCOME)),
                status: from.u16(at::STATUS),
                duration: Duration::from_millis(from.u32(at::DURATION).into()),
            },
        })
    }
}

/// The results that a ring holds, newest first, of which the newest has the number `ever`. What is torn,
/// or of another number, is left out.
pub(in crate::state) fn decode_ring(
    ring: &[u8; RING_BYTES],
    ever: u64,
) -> impl Iterator<Item = (u64, RunResult)> {
    let kept = ever.min(RESULTS as u64);
    (0..kept).filter_map(move |back| {
        let number = ever - back;
        let part = result_part(number);
        let record = ring.get(part.at - RING_AT..part.at - RING_AT + part.bytes)?;
        RunResult::decode(record, number).map(|result| (number, result))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::UnixMs;
    use crate::state::record::run::OUTCOMES;

    fn result(number: u64) -> RunResult {
        let at = i64::try_from(number).unwrap();
        RunResult {
            attempt: Attempt {
                run: RunId([0xab; 16]),
                due: UnixMs(at * 1000),
                trigger: Trigger::Queue,
                number: 3,
                pid: 4242,
                boot: BootId::default(),
                started_at: UnixMs(at * 1000 + 17),
            },
            ended: Ended {
                outcome: OUTCOMES[usize::try_from(number % 6).unwrap()],
                status: 502,
                duration: Duration::from_millis(12),
            },
        }
    }

    fn put(ring: &mut [u8; RING_BYTES], number: u64) {
        let at = result_part(number).at - RING_AT;
        let bytes = result(number).encode(number);
        ring[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    fn numbers(ring: &[u8; RING_BYTES], ever: u64) -> Vec<i64> {
        decode_ring(ring, ever).map(|(_, result)| result.attempt.due.0 / 1000).collect()
    }

    #[test]
    fn the_newest_come_first_and_take_the_places_of_the_oldest() {
        let mut ring = [0; RING_BYTES];
        assert!(numbers(&ring, 0).is_empty());
        (1..=3).for_each(|number| put(&mut ring, number));
        assert_eq!(numbers(&ring, 3), [3, 2, 1]);
        assert_eq!(decode_ring(&ring, 3).next(), Some((3, result(3))));
        (4..=40).for_each(|number| put(&mut ring, number));
        assert_eq!(numbers(&ring, 40), (9..=40).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_place_that_is_torn_or_of_another_number_costs_itself_only() {
        let mut ring = [0; RING_BYTES];
        (1..=40).for_each(|number| put(&mut ring, number));
        // Its end was written, and the claim part not yet.
        put(&mut ring, 41);
        assert_eq!(numbers(&ring, 40), (10..=40).rev().collect::<Vec<_>>());
        for at in 0..RING_BYTES {
            ring[at] ^= 4;
            assert_eq!(decode_ring(&ring, 41).count(), 31, "{at}");
            ring[at] ^= 4;
        }
        assert_eq!(numbers(&ring, 41).len(), 32);
        assert!(numbers(&[0xff; RING_BYTES], u64::MAX).is_empty());
    }
}
