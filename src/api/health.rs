//! What `health` says of a timer.

use super::view::{TimerHealth, View};

/// A timer that is not `ok`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) health: TimerHealth,
    /// The word for that, and all that is wrong.
    pub(super) text: String,
}

impl Complaint {
    /// That of a timer, without its name; `None` if it is `ok`.
    pub(super) fn of(view: &View<'_>) -> Option<Self> {
        let health = view.health();
        let mut wrong = Vec::new();
        if health == TimerHealth::Unknown {
            wrong.push("unknown, record cannot be read".to_owned());
        }
        if let Some(since) = view.stuck_for() {
            wrong.push(format!("stuck, attempt in progress for {}s", since.as_secs()));
        }
        if view.is_late() {
            wrong.push(format!("late by {}s", view.late_by().as_secs()));
        }
        if health == TimerHealth::Failing {
            wrong.push("failing".to_owned());
        }
        match view.failures() {
            0 => {}
            1 => wrong.push("failed once".to_owned()),
            failures => wrong.push(format!("failed {failures} times in a row")),
        }
        if let Some(fleet) = view.fleet.filter(|fleet| fleet.is_own) {
            wrong.push(format!("refused by its fleet, {}", fleet.why));
        }
        (!wrong.is_empty()).then(|| Self { health, text: wrong.join(", ") })
    }
}
