//! What a host knows for good.

use super::oracle::{Oracle, Promise};
use super::world::Config;
use crate::fleet::AttemptEnded;
use crate::fleet::values::{ClaimRequest, Revision};

/// How a due time was accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Category {
    Run,
    Lost,
    Overlap,
    Missed,
    Elsewhere,
    Unknown,
    Paused,
}

/// What outlives a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) watermark: i64,
    pub(super) accounted: Vec<(i64, Category)>,
    pub(super) progress: Progress,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Progress {
    #[default]
    Nothing,
    Claiming(ClaimRequest),
    Running(ClaimRequest, Revision),
    Waiting(ClaimRequest, Revision, AttemptEnded),
}

impl Record {
    /// Accounts for all due times up to `due`, which is `category`; those before it are what the fleet says.
    pub(super) fn account(
        &mut self,
        config: &Config,
        due: i64,
        category: Category,
        fleet: i64,
        oracle: &mut Oracle,
    ) {
        for of in config.dues.iter().copied().filter(|of| *of <= due) {
            let known = self.accounted.iter().any(|(known, _)| *known == of);
            let category = match of {
                _ if of == due => category,
                _ if of <= fleet => of_elsewhere(category == Category::Unknown),
                _ => Category::Missed,
            };
            if !known {
                self.accounted.push((of, category));
            } else if of == due && of > 0 {
                oracle.breaks(Promise::Account, format!("{of} is counted again as {category:?}"));
            }
        }
        self.watermark = self.watermark.max(due);
    }
}

pub(super) fn of_elsewhere(unknown: bool) -> Category {
    if unknown { Category::Unknown } else { Category::Elsewhere }
}
