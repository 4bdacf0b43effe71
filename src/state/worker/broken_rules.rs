//! The rules of the protocol (docs/protocol.md) that the simulator breaks, one at a time. It changes
//! what workers read and write, lets go of what they have locked, or uses them wrongly. What is
//! tested knows nothing of it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::state::policy::decide::Wanted;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::control::Control;
use crate::state::record::format::{CLAIM, CONTROL, PAGE_BYTES, Part};
use crate::state::record::run::{Progress, RunId};

use super::shared_claims::dead;

/// A rule without which a promise breaks; the simulator's tests say which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Rule {
    RereadUnderLock,
    OverlapIsSeenThrice,
    OverlapHasAProcess,
    TableOfClaims,
    LockIsHeld,
    AttemptIsClaimed,
    OrderIsDone,
    LeftOutIsHandled,
    LeftOutIsCounted,
    ClockSetBack,
    ClockUnderLock,
    InterruptedIsCounted,
    NotBefore,
}

thread_local! {
    static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    /// The attempt that is being claimed, of a run that waits for its next one.
    static WANTED: Cell<Option<(RunId, u32)>> = const { Cell::new(None) };
    /// Whether the master writes into the records what the configuration says.
    static LOADS: Cell<bool> = const { Cell::new(false) };
}

/// Whether this rule is broken in this thread.
pub(in crate::state) fn is_broken(rule: Rule) -> bool {
    BROKEN.get() == Some(rule)
}

/// Does `work` while `rule` is broken.
pub(in crate::state) fn without<T>(rule: Rule, work: impl FnOnce() -> T) -> T {
    BROKEN.set(Some(rule));
    let answer = work();
    BROKEN.set(None);
    answer
}

/// Does `work` while this is being claimed.
pub(in crate::state) fn claiming<T>(wanted: Wanted, work: impl FnOnce() -> T) -> T {
    let next = match wanted {
        Wanted::Next { run, attempt } => Some((run, attempt)),
        _ => None,
    };
    let before = WANTED.replace(next);
    let answer = work();
    WANTED.set(before);
    answer
}

/// Does `work` as a load.
pub(in crate::state) fn loading<T>(work: impl FnOnce() -> T) -> T {
    LOADS.set(true);
    let answer = work();
    LOADS.set(false);
    answer
}

/// What one description has read and locked.
#[derive(Debug, Default)]
pub(in crate::state) struct ReadsAndLocks {
    locked: RefCell<HashSet<u64>>,
    before: RefCell<Vec<u8>>,
}

impl ReadsAndLocks {
    pub(in crate::state) fn locked(&self, offset: u64) {
        self.locked.borrow_mut().insert(offset);
    }

    pub(in crate::state) fn unlocked(&self, offset: u64) {
        self.locked.borrow_mut().remove(&offset);
    }

    /// `bytes` were read at `offset`.
    pub(in crate::state) fn read(&self, bytes: &mut [u8], offset: u64) {
        let Some(claim) = part(CLAIM, bytes, offset) else { return };
        if is_broken(Rule::RereadUnderLock) {
            let mut before = self.before.borrow_mut();
            if self.locked.borrow().contains(&offset) && !before.is_empty() {
                claim.copy_from_slice(&before);
            } else {
                *before = claim.to_vec();
            }
        }
        let Some(mut decoded) = ClaimPart::decode(claim) else { return };
        match (&mut decoded.progress, WANTED.get()) {
            (Progress::Waiting(last, _), Some((run, next)))
                if is_broken(Rule::AttemptIsClaimed) && last.run == run =>
            {
                last.number = next - 1;
                claim.copy_from_slice(&decoded.encode());
            }
            (Progress::Running(attempt), _)
                if is_broken(Rule::InterruptedIsCounted) && dead::has(attempt.pid) =>
            {
                decoded.progress = Progress::Nothing;
                claim.copy_from_slice(&decoded.encode());
            }
            _ => {}
        }
    }
}

/// `bytes` are about to be written into `file` at `offset`.
pub(in crate::state) fn written(file: &File, bytes: &[u8], offset: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if BROKEN.get().is_none() {
        return bytes;
    }
    let mut old = vec![0; bytes.len()];
    file.read_at(&mut old, offset).unwrap();
    if bytes.len() == CLAIM.bytes {
        if let Some(claim) = part(CLAIM, &mut bytes, offset) {
            claim_written(claim, &old);
        }
    }
    if bytes.len() == CONTROL.bytes {
        if let Some(control) = part(CONTROL, &mut bytes, offset) {
            control_written(control, &old);
        }
    }
    bytes
}

fn claim_written(claim: &mut [u8], old: &[u8]) {
    let Some((mut new, old)) = ClaimPart::decode(claim).zip(ClaimPart::decode(old)) else { return };
    if is_broken(Rule::OrderIsDone) {
        new.orders_done = old.orders_done;
    }
    claim.copy_from_slice(&new.encode());
}

fn control_written(control: &mut [u8], old: &[u8]) {
    let Some((mut new, old)) = decode(control).zip(decode(old)) else { return };
    if is_broken(Rule::LeftOutIsHandled) {
        new.left_out_up_to = old.left_out_up_to;
    }
    if is_broken(Rule::LeftOutIsCounted) {
        (new.missed, new.overlaps, new.elsewhere) = (old.missed, old.overlaps, old.elsewhere);
    }
    if is_broken(Rule::NotBefore) && LOADS.get() {
        new.not_before = old.not_before;
    }
    control.copy_from_slice(&new.encode(NAME));
}

fn decode(control: &[u8]) -> Option<Control> {
    Control::decode(control, NAME).ok()
}

/// The simulator's timer.
pub(in crate::state) const NAME: &str = "a";

/// A part of a record among bytes that begin where it does.
fn part(part: Part, bytes: &mut [u8], offset: u64) -> Option<&mut [u8]> {
    let page_bytes = PAGE_BYTES as u64;
    let begins = offset >= page_bytes && offset % page_bytes == part.at as u64;
    bytes.get_mut(..part.bytes).filter(|_| begins)
}
