//! From the results of checks to the state of a server, and to that of its group.

use std::fmt;
use std::num::NonZeroU32;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// All tests hold.
    Passed,
    /// One does not, or there was no response.
    Failed,
    /// Nothing was learned of the server.
    Inconclusive,
}

/// How a server stands, by one check or by all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It gets requests.
    #[default]
    Healthy,
    /// It gets none.
    Unhealthy,
    /// It is new, its check is mandatory, and there was no result yet: it gets none.
    Checking,
}

/// So many results of one kind in a row change a server's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// `fails=`
    pub fails: NonZeroU32,
    /// `passes=`
    pub passes: NonZeroU32,
}

/// What is remembered of the results of one check of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How the server stands.
    pub standing: Standing,
    /// The kind of the last conclusive results; before the first, nothing has failed.
    pub failing: bool,
    /// So many of that kind in a row, at most [`MOST`].
    pub in_a_row: u32,
    /// So many inconclusive ones since the last conclusive one, at most [`MOST_INCONCLUSIVE`].
    pub inconclusive: u32,
}

/// What a result has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictChange {
    /// Nothing.
    Nothing,
    /// It is healthy now, and was not.
    Healthy,
    /// It is unhealthy now, and was not.
    Unhealthy,
    /// The first of a row of inconclusive results.
    Inconclusive,
    /// Inconclusive for the third time in a row, and nothing else before: it goes on getting no requests.
    StillChecking,
}

/// More in a row are not told apart; as many as `fails=` and `passes=` may ask for.
pub const MOST: u32 = 1_000_000;
/// More in a row are not told apart.
pub const MOST_INCONCLUSIVE: u32 = 65_535;
/// So many inconclusive results are too many for a server that gets no requests before its first.
pub const STILL_CHECKING: u32 = 3;

impl Verdict {
    /// That of a server without results.
    pub fn first(standing: Standing) -> Self {
        Self { standing, ..Self::default() }
    }

    /// What it is after this result.
    #[must_use]
    pub fn after(self, outcome: CheckOutcome, thresholds: Thresholds) -> (Self, VerdictChange) {
        let failing = match outcome {
            CheckOutcome::Inconclusive => return self.after_inconclusive(),
            CheckOutcome::Failed => true,
            CheckOutcome::Passed => false,
        };
        let before = if self.failing == failing { self.in_a_row } else { 0 };
        let in_a_row = before.saturating_add(1).min(MOST);
        let needed = if failing { thresholds.fails } else { thresholds.passes };
        let standing = match (self.standing, failing) {
            (Standing::Checking, true) => Standing::Unhealthy,
            (Standing::Checking, false) => Standing::Healthy,
            (_, true) if in_a_row >= needed.get() => Standing::Unhealthy,
            (_, false) if in_a_row >= needed.get() => Standing::Healthy,
            (standing, _) => standing,
        };
        let change = match standing {
            same if same == self.standing => VerdictChange::Nothing,
            Standing::Unhealthy => VerdictChange::Unhealthy,
            _ => VerdictChange::Healthy,
        };
        (Self { standing, failing, in_a_row, inconclusive: 0 }, change)
    }

    fn after_inconclusive(self) -> (Self, VerdictChange) {
        let inconclusive = self.inconclusive.saturating_add(1).min(MOST_INCONCLUSIVE);
        let change = match inconclusive {
            1 => VerdictChange::Inconclusive,
            STILL_CHECKING if self.standing == Standing::Checking => VerdictChange::StillChecking,
            _ => VerdictChange::Nothing,
        };
        (Self { inconclusive, ..self }, change)
    }

    /// Whether it is checking for too long.
    pub fn is_still_checking(&self) -> bool {
        self.standing == Standing::Checking && self.inconclusive >= STILL_CHECKING
    }
}

/// How a server stands by all of its checks; healthy without any.
pub fn of_all(checks: impl IntoIterator<Item = Standing>) -> Standing {
    let worst = checks.into_iter().max_by_key(|standing| match standing {
        Standing::Healthy => 0,
        Standing::Checking => 1,
        Standing::Unhealthy => 2,
    });
    worst.unwrap_or_default()
}

/// The servers of a group that are not configured `down`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthyShare {
    /// How many of them are healthy.
    pub healthy: usize,
    /// How many there are.
    pub of: usize,
}

impl HealthyShare {
    /// Whether a group with `fail_open=percent`, whose marks are lifted or not so far, is to have them
    /// lifted: below that share; no more above it.
    pub fn lifts_marks(self, percent: u8, lifted: bool) -> bool {
        let (share, limit) =
            (self.healthy.saturating_mul(100), self.of.saturating_mul(percent.into()));
        share < limit || lifted && percent > 0 && share == limit && self.healthy < self.of
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Checking => "checking",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thresholds(fails: u32, passes: u32) -> Thresholds {
        Thresholds {
            fails: NonZeroU32::new(fails).unwrap(),
            passes: NonZeroU32::new(passes).unwrap(),
        }
    }

    /// The standings after each of the results: `P`, `F`, `I`.
    fn standings(first: Standing, results: &str, thresholds: Thresholds) -> String {
        let mut verdict = Verdict::first(first);
        let letter = |standing| match standing {
            Standing::Healthy => 'h',
            Standing::Unhealthy => 'u',
            Standing::Checking => 'c',
        };
        let outcome = |letter| match letter {
            'P' => CheckOutcome::Passed,
            'F' => CheckOutcome::Failed,
            _ => CheckOutcome::Inconclusive,
        };
        let next = |letter_of| {
            verdict = verdict.after(outcome(letter_of), thresholds).0;
            letter(verdict.standing)
        };
        results.chars().map(next).collect()
    }

    #[test]
    fn only_results_in_a_row_count() {
        let at = |results| standings(Standing::Healthy, results, thresholds(3, 2));
        assert_eq!(at("FFPFFPFFP"), "hhhhhhhhh");
        assert_eq!(at("FFFPFPPF"), "hhuuuuhh");
        // What is inconclusive neither counts nor interrupts.
        assert_eq!(at("FIFIIF"), "hhhhhu");
        assert_eq!(at("FFFPIP"), "hhuuuh");
    }

    #[test]
    fn the_first_result_decides_whatever_the_thresholds_are() {
        let at = |results| standings(Standing::Checking, results, thresholds(3, 3));
        assert_eq!(at("P"), "h");
        assert_eq!(at("IIF"), "ccu");
        assert_eq!(at("PFFF"), "hhhu");
        assert_eq!(at("FPPP"), "uuuh");
    }

    #[test]
    fn a_row_without_end_is_counted_to_its_limit() {
        let mut verdict = Verdict { in_a_row: MOST, failing: true, ..Verdict::default() };
        verdict = verdict.after(CheckOutcome::Failed, thresholds(MOST, 1)).0;
        assert_eq!((verdict.in_a_row, verdict.standing), (MOST, Standing::Unhealthy));
        verdict.inconclusive = MOST_INCONCLUSIVE;
        let (after, change) = verdict.after(CheckOutcome::Inconclusive, thresholds(1, 1));
        assert_eq!((after, change), (verdict, VerdictChange::Nothing));
    }

    #[test]
    fn each_change_is_told_once() {
        use {CheckOutcome as O, VerdictChange as C};

        let changes = |first, results: &[CheckOutcome]| {
            let mut verdict = Verdict::first(first);
            let mut changes = Vec::new();
            for outcome in results {
                let (after, change) = verdict.after(*outcome, thresholds(1, 1));
                verdict = after;
                changes.push(change);
            }
            changes
        };
        assert_eq!(
            changes(Standing::Healthy, &[O::Failed, O::Failed, O::Passed, O::Passed]),
            [C::Unhealthy, C::Nothing, C::Healthy, C::Nothing],
        );
        assert_eq!(
            changes(Standing::Checking, &[O::Inconclusive; 4]),
            [C::Inconclusive, C::Nothing, C::StillChecking, C::Nothing],
        );
        assert_eq!(
            changes(
                Standing::Healthy,
                &[O::Inconclusive, O::Inconclusive, O::Passed, O::Inconclusive]
            ),
            [C::Inconclusive, C::Nothing, C::Nothing, C::Inconclusive],
        );
    }

    #[test]
    fn the_worst_of_all_checks_counts() {
        use Standing::{Checking, Healthy, Unhealthy};
        assert_eq!(of_all([]), Healthy);
        assert_eq!(of_all([Healthy, Healthy]), Healthy);
        assert_eq!(of_all([Healthy, Checking]), Checking);
        assert_eq!(of_all([Unhealthy, Checking, Healthy]), Unhealthy);
    }

    #[test]
    fn marks_are_lifted_below_the_share_and_back_above_it() {
        let lifts = |healthy, of, percent, lifted| {
            HealthyShare { healthy, of }.lifts_marks(percent, lifted)
        };
        assert!(!lifts(0, 4, 0, false) && !lifts(0, 0, 50, false) && !lifts(0, 0, 50, true));
        assert!(!lifts(2, 4, 50, false) && lifts(1, 4, 50, false));
        assert!(lifts(2, 4, 50, true) && !lifts(3, 4, 50, true));
        assert!(!lifts(0, 4, 0, true), "no more than was asked for");
        assert!(lifts(3, 4, 100, false) && !lifts(4, 4, 100, true));
    }
}
