//! Due times that had no run, and are still to be counted.

use crate::schedule::UnixMs;

use super::format::GAPS;

/// Why due times had no run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeftOut {
    /// Nobody was there to take them.
    #[default]
    Missed,
    /// The last run was still in progress, or a newer one took their place in the queue.
    Overlap,
    /// The fleet has dealt with them.
    Elsewhere,
}

impl LeftOut {
    pub(in crate::state) fn code(self) -> u8 {
        self as u8
    }

    pub(in crate::state) fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Missed,
            2 => Self::Elsewhere,
            _ => Self::Overlap,
        }
    }
}

/// A stretch of due times that were left out and are still to be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::state) struct Gap {
    /// All of them are later than this,
    pub(in crate::state) after: UnixMs,
    /// and none is later than this.
    pub(in crate::state) up_to: UnixMs,
    pub(in crate::state) kind: LeftOut,
    /// How many before `after` the counters contain already.
    pub(in crate::state) counted: u32,
}

/// Such stretches, as many as may wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::state) struct Gaps {
    /// The first `len` of them count, the others are empty.
    gaps: [Gap; GAPS],
    len: u8,
}

impl Gaps {
    pub(in crate::state) fn as_slice(&self) -> &[Gap] {
        self.gaps.get(..self.len.into()).unwrap_or_default()
    }

    pub(in crate::state) fn len(&self) -> usize {
        self.len.into()
    }

    pub(in crate::state) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(in crate::state) fn is_full(&self) -> bool {
        self.len() == GAPS
    }

    pub(in crate::state) fn first_mut(&mut self) -> Option<&mut Gap> {
        self.gaps.get_mut(..self.len.into())?.first_mut()
    }

    pub(in crate::state) fn last_mut(&mut self) -> Option<&mut Gap> {
        self.gaps.get_mut(..self.len.into())?.last_mut()
    }

    /// Adds one, if there is room for it.
    pub(in crate::state) fn push(&mut self, gap: Gap) {
        if let Some(record) = self.gaps.get_mut(usize::from(self.len)) {
            *record = gap;
            self.len += 1;
        }
    }

    pub(in crate::state) fn retain(&mut self, keep: impl Fn(&Gap) -> bool) {
        *self = self.as_slice().iter().copied().filter(keep).collect();
    }

    pub(in crate::state) fn remove_first(&mut self) {
        *self = self.as_slice().iter().skip(1).copied().collect();
    }
}

impl FromIterator<Gap> for Gaps {
    fn from_iter<T: IntoIterator<Item = Gap>>(gaps: T) -> Self {
        let mut all = Self::default();
        gaps.into_iter().for_each(|gap| all.push(gap));
        all
    }
}
