//! The run of somebody else: whether its holder is alive, and its removal if not.

use std::time::Duration;

use super::engine::{Answer, Ask, View};
use super::instant::{BootMs, Do, Spread};
use super::values::{ClaimId, LastResult, Outcome, Revision, Run, Versioned};

/// What observing comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// A dead run was removed: an open due time can be claimed at once, or the run be repeated.
    Removed(Box<Run>),
    /// The run has ended, or was removed by somebody else.
    Gone,
}

/// The observer of one timer.
///
/// ```text
///                 a run is seen                   a ttl later           the same
///    Nothing --------------------> Observed ------------------> Read --------------> Remove
///       ^                          ^      |                      |                     |
///       +--------------------------+------+----------------------+---------------------+
///          (Gone), (Removed)       it has been written: from anew
/// ```
///
/// No clock is compared with another's: the ttl is counted by this host's own clock, from the *arrival* of the
/// answer in which the run's last write was seen first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observing {
    spread: Spread,
    ours: Option<ClaimId>,
    /// The newest revision that was read: what was read before it says nothing.
    revision: Revision,
    observed: Option<Sighting>,
    asking: Option<Asking>,
    not_before: BootMs,
    news: Option<News>,
    view: Option<View>,
}

/// A run of others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Sighting {
    run: Versioned<Run>,
    /// When it counts as dead if it is not written until then.
    dead_at: BootMs,
    /// When it was seen to have been written since it was seen first.
    changed_at: Option<BootMs>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asking {
    Read,
    Remove,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum News {
    Removed(Box<Run>),
    Gone,
}

/// How soon it is asked again after there was no answer.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

impl Observing {
    /// Observes nothing yet.
    pub fn new(seed: u64) -> Self {
        Self {
            spread: Spread::new(seed),
            ours: None,
            revision: Revision(0),
            observed: None,
            asking: None,
            not_before: BootMs(0),
            news: None,
            view: None,
        }
    }

    /// This was read: by a claim, or for whatever reason. `ours` is the claim of this host that holds a run, or
    /// is under way.
    pub fn seen(&mut self, view: &View, ours: Option<ClaimId>, arrived: BootMs) {
        self.ours = ours;
        self.has_read(view, arrived);
    }

    /// The engine is another one, or an older copy of itself: what was read of it does not count any more.
    pub fn forget(&mut self) {
        (self.revision, self.observed, self.view) = (Revision(0), None, None);
    }

    fn has_read(&mut self, view: &View, arrived: BootMs) {
        if view.revision < self.revision {
            return;
        }
        self.revision = view.revision;
        let run = view.run.as_ref().filter(|run| Some(run.value.claim) != self.ours);
        let before = self.observed.take();
        let Some(run) = run else {
            if before.is_some() && self.news.is_none() {
                self.news = Some(News::Gone);
            }
            return;
        };
        let same = before.filter(|before| before.run.created == run.created);
        self.observed = Some(match same {
            Some(same) if same.run.modified == run.modified => same,
            same => {
                let ttl = run.value.ttl;
                Sighting {
                    run: run.clone(),
                    dead_at: arrived.plus(self.spread.between(ttl, ttl * 6 / 5)),
                    changed_at: same.map(|_| arrived),
                }
            }
        });
    }

    /// What is to be done now.
    pub fn step(&mut self, now: BootMs) -> Do<Observed> {
        match self.news.take() {
            Some(News::Removed(run)) => return Do::Say(Observed::Removed(run)),
            Some(News::Gone) => return Do::Say(Observed::Gone),
            None => {}
        }
        let Some(observed) = &self.observed else { return Do::Wait(BootMs::NEVER) };
        if self.asking.is_some() {
            return Do::Wait(BootMs::NEVER);
        }
        let at = observed.dead_at.max(self.not_before);
        if now < at {
            return Do::Wait(at);
        }
        // What was read for this removal is of this very revision, and of now.
        let read = self.view.take().filter(|view| view.run.as_ref() == Some(&observed.run));
        if let Some(view) = read {
            self.asking = Some(Asking::Remove);
            return Do::Send(removal(&observed.run, &view));
        }
        self.asking = Some(Asking::Read);
        Do::Send(Ask::Read)
    }

    /// The answer to what was sent.
    pub fn answered(&mut self, answer: Answer, _sent: BootMs, arrived: BootMs) {
        let asking = self.asking.take();
        match answer {
            Answer::Applied(_) if asking == Some(Asking::Remove) => {
                let removed = self.observed.take();
                self.news = removed.map(|removed| News::Removed(Box::new(removed.run.value)));
            }
            Answer::Seen(view) => {
                self.has_read(&view, arrived);
                let is_dead = |observed: &Sighting| observed.dead_at <= arrived;
                self.view = self.observed.as_ref().is_some_and(is_dead).then_some(*view);
            }
            _ => {
                let (least, most) = AGAIN;
                self.not_before = arrived.plus(self.spread.between(least, most));
            }
        }
    }

    /// When the run was made that has been written since it was seen first, not longer ago than its ttl: its
    /// holder lives.
    pub fn alive(&self, now: BootMs) -> Option<Revision> {
        let observed = self.observed.as_ref()?;
        let since = observed.changed_at?;
        (now <= since.plus(observed.run.value.ttl)).then_some(observed.run.created)
    }
}

/// The removal of a run; `done` says it only if it is still the newest one.
fn removal(run: &Versioned<Run>, view: &View) -> Ask {
    let Run { claim, started_at, .. } = run.value;
    let before = view.result.as_ref().map(|result| &result.value);
    let (outcome, duration) = (Outcome::Interrupted, Duration::ZERO);
    Ask::Remove {
        modified: run.modified,
        result: LastResult::of(&run.value, before, outcome, started_at, duration),
        is_last: view.is_last(claim),
    }
}
