//! Whether a timer is well.

use super::view::View;

/// What is wrong with a timer, if anything is; without its name.
pub(super) fn complaint(view: &View<'_>) -> Option<String> {
    if view.reading.is_none() {
        return Some("record cannot be read".to_owned());
    }
    let mut wrong = Vec::new();
    if let Some(since) = view.stuck_for() {
        wrong.push(format!("stuck, attempt in progress for {}s", since.as_secs()));
    }
    if view.is_late() {
        wrong.push(format!("late by {}s", view.late_by().as_secs()));
    }
    if let Some(failures) = view.failing() {
        wrong.push(format!("failed {failures} times in a row"));
    }
    (!wrong.is_empty()).then(|| wrong.join(", "))
}
