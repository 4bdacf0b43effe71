//! How much of a long work is done in one go.

use crate::os::Share;

/// What may be done before others have their turn.
#[derive(Clone, Copy, Debug)]
pub(in crate::state) enum Quota {
    /// All of it: a master has nothing else to do.
    All,
    /// So many records, within the share of a turn of the event loop.
    OfATurn {
        /// How many are left.
        records: usize,
        /// The time for them.
        share: Share,
    },
}

/// How many records a worker looks at in one turn.
pub(in crate::state) const RECORDS_OF_A_TURN: usize = 128;

impl Quota {
    /// That of a turn, which begins now.
    pub(in crate::state) fn of_a_turn() -> Self {
        Self::OfATurn { records: RECORDS_OF_A_TURN, share: Share::begin() }
    }

    /// Whether one more record is done now; the first of each turn is.
    pub(in crate::state) fn take(&mut self) -> bool {
        match self {
            Self::All => true,
            Self::OfATurn { records, share } => {
                let takes = *records == RECORDS_OF_A_TURN || (*records > 0 && !share.is_spent());
                *records = records.saturating_sub(1);
                takes
            }
        }
    }

    /// How many more records may be done now, at most.
    pub(in crate::state) fn left(&self) -> usize {
        match self {
            Self::All => usize::MAX,
            Self::OfATurn { records, .. } => *records,
        }
    }
}
