//! The answers of `health`: 200 if all timers are well, else 503; each timer that is not `ok` has a line.
//!
//! The status depends on all of them, and no answer is kept in memory: so they are looked at once for the status,
//! up to the first that is not well, and from the first that is not `ok` once more for the lines.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::fleet::FleetView;
use super::fleets;
use super::health::Complaint;
use super::lists::no_memory;
use super::piece::Then;
use super::query_args::Reach;
use super::response::{self, body_by, response};
use super::snapshot::Snapshot;
use super::upstreams::{Groups, Upstreams as _, complaints};
use super::view::TimerHealth;
use crate::nginx::http::response::Answer;
use crate::nginx::turn::time_is_up;
use crate::os::memory;
use crate::runner::Registry;
use crate::state::Health;

/// Whether all timers and groups are well.
pub(super) fn health_of_all(registry: &Rc<Registry>, reach: Reach) -> Answer {
    let all = TimersAndGroups::now(registry, reach);
    let left = 0..all.timers() + all.groups.count() + all.fleets.len();
    Check { all, end: left.end, left, first: None }.go_on()
}

/// Whether one timer is well.
pub(super) fn health_of(registry: &Rc<Registry>, number: usize, reach: Reach) -> Answer {
    let left = number..number + 1;
    Check { all: TimersAndGroups::now(registry, reach), end: left.end, left, first: None }.go_on()
}

/// The timers, by their numbers, and behind them the groups and the fleets.
struct TimersAndGroups {
    snapshot: Snapshot,
    groups: Groups,
    /// None if they are left out.
    fleets: Vec<FleetView>,
    reach: Reach,
}

/// What is not `ok`.
struct Line {
    /// Whether the status is 200 none the less.
    is_well: bool,
    text: String,
}

struct Check {
    all: TimersAndGroups,
    end: usize,
    /// What was not looked at yet.
    left: Range<usize>,
    /// The first that is not `ok`.
    first: Option<usize>,
}

impl Check {
    fn go_on(mut self) -> Answer {
        while !self.left.is_empty() {
            if !memory::enough() {
                return no_memory();
            }
            let number = self.left.start;
            let after = match self.all.line(number) {
                Err(after) => after,
                Ok(line) => {
                    self.left.start += 1;
                    if let Some(line) = line {
                        let from = *self.first.get_or_insert(number);
                        if !line.is_well {
                            return self.lines(503, from, Some((number, line)));
                        }
                    }
                    if !time_is_up() {
                        continue;
                    }
                    Duration::ZERO
                }
            };
            return Answer::Later(after, Box::new(|_| self.go_on()));
        }
        let status = if self.all.state().is_some() { 503 } else { 200 };
        let from = self.first.unwrap_or(self.end);
        self.lines(status, from, None)
    }

    /// Lists what is not `ok` from number `from` on; `found` is what is known of one of them already.
    fn lines(self, status: u16, from: usize, mut found: Option<(usize, Line)>) -> Answer {
        let Self { mut all, end, .. } = self;
        let is_well = status == 200;
        if is_well && from >= end {
            return response::text(200, "ok\n".to_owned());
        }
        let (mut left, mut head) = (from..end, if is_well { "ok\n" } else { "" });
        let body = body_by(move |piece| {
            piece.extend_from_slice(std::mem::take(&mut head).as_bytes());
            let number = left.start;
            if left.is_empty() {
                piece.extend_from_slice(all.state().unwrap_or_default().as_bytes());
                return Then::End;
            }
            let line = match found.take_if(|(found, _)| *found == number) {
                Some((_, line)) => Some(line),
                None => match all.line(number) {
                    Err(after) => return Then::MoreAfter(after),
                    Ok(line) => line,
                },
            };
            left.start += 1;
            // What has turned bad since the status was decided is for the next answer.
            if let Some(line) = line.filter(|line| !is_well || line.is_well) {
                piece.extend_from_slice(line.text.as_bytes());
            }
            Then::More
        });
        Answer::Now(response(status, response::TEXT, body))
    }
}

impl TimersAndGroups {
    fn now(registry: &Rc<Registry>, reach: Reach) -> Self {
        let fleets = match reach {
            Reach::Host => Vec::new(),
            Reach::Fleet => fleets::views(registry),
        };
        Self { snapshot: Snapshot::now(registry), groups: Groups::now(), fleets, reach }
    }

    fn timers(&self) -> usize {
        self.snapshot.registry.timers().len()
    }

    fn line(&mut self, number: usize) -> Result<Option<Line>, Duration> {
        let groups = self.timers() + self.groups.count();
        if let Some(fleet) = number.checked_sub(groups) {
            let complaint = self.fleets.get(fleet).and_then(FleetView::complaint);
            return Ok(complaint.map(|text| Line { is_well: false, text: text + "\n" }));
        }
        if let Some(group) = number.checked_sub(self.timers()) {
            let text = self.groups.view(group).map(|view| complaints(&view)).unwrap_or_default();
            return Ok((!text.is_empty()).then_some(Line { is_well: false, text }));
        }
        let reach = self.reach;
        let line = self.snapshot.look(number, |view| {
            let complaint = Complaint::of(view)?;
            let is_its = matches!(complaint.health, TimerHealth::Unknown | TimerHealth::Stuck);
            if reach == Reach::Host && view.fleet.is_some() && !is_its {
                // What the fleet does not do is no fault of this host.
                return None;
            }
            let text = format!("{}: {}\n", view.timer.name, complaint.text);
            Some(Line { is_well: complaint.health.is_well(), text })
        })?;
        Ok(line.flatten())
    }

    /// What is wrong with the state.
    fn state(&self) -> Option<&'static str> {
        let degraded = self.snapshot.registry.health() == Health::Degraded;
        degraded.then_some("the state is degraded\n")
    }
}
