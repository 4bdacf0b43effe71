//! What a host makes of an answer.

use super::super::broken_rules::{Rule, is_broken};
use super::super::oracle::Oracle;
use super::super::record::{Category, Progress};
use super::super::signed;
use super::super::world::{Config, Who};
use super::{Host, Init, Reading};
use crate::fleet::engine::{Answer, Ask, View};
use crate::fleet::instant::BootMs;
use crate::fleet::repetition;
use crate::fleet::values::{ClaimKind, ClaimRequest, Revision};
use crate::schedule::UnixMs;

impl Host {
    /// `last` was to be made; where it is not there, it is to be made as things are now.
    fn begun(&mut self, answer: &Answer) {
        self.init = match answer {
            Answer::Applied(_) => Init::Done,
            Answer::Seen(view) if view.last.is_some() => Init::Done,
            Answer::Seen(view) => {
                self.found = (
                    view.run.as_ref().map_or(Revision(0), |run| run.created),
                    view.result.as_ref().map_or(Revision(0), |result| result.modified),
                );
                Init::IsDue
            }
            _ => Init::IsDue,
        };
    }

    /// The answer to what was asked.
    pub(in crate::fleet::tests) fn answered(
        &mut self,
        (who, ask): (Who, &Ask),
        answer: Answer,
        sent: u64,
        now: u64,
        config: &Config,
        oracle: &mut Oracle,
    ) {
        let (sent, arrived) = (BootMs(sent), BootMs(now));
        let counted = if is_broken(Rule::DeadlineFromSending) { arrived } else { sent };
        if let Answer::Seen(view) = &answer {
            self.seen(view, sent, arrived, who, config, oracle);
        }
        let lost = answer == Answer::Unknown;
        match who {
            Who::Init => self.begun(&answer),
            Who::Reading if lost => {
                if let Reading::Asking { due } = self.reading {
                    self.reading = Reading::Wanted { at: now + 1000, due };
                }
            }
            Who::Reading => {}
            Who::Observing => self.observing.answered(answer, sent, arrived),
            Who::Claiming => {
                let Some(claiming) = &mut self.claiming else { return };
                if lost && is_broken(Rule::SameClaimAgain) {
                    // Another claim of the same due time.
                    self.claiming = None;
                    self.record.progress = Progress::Nothing;
                    return;
                }
                let is_closing = matches!(ask, Ask::Close { created, .. } if created.0 > 0);
                if is_closing && is_broken(Rule::CloseBeforeOverlap) {
                    let applied = crate::fleet::engine::Applied::default();
                    return claiming.answered(
                        Answer::Applied(Box::new(applied)),
                        sent,
                        arrived,
                        None,
                    );
                }
                let engine_time = Some(UnixMs(signed(now)));
                if is_broken(Rule::OverlapIsAlive) && matches!(answer, Answer::Seen(_)) {
                    claiming.answered(an_earlier(&answer), counted, arrived, engine_time);
                }
                claiming.answered(answer, counted, arrived, engine_time);
            }
            Who::Holding(id) => {
                if let Some(run) = self.runs.iter_mut().find(|run| run.claim.id == id) {
                    run.holding.answered(answer, counted, arrived);
                }
            }
        }
    }

    fn seen(
        &mut self,
        view: &View,
        sent: BootMs,
        arrived: BootMs,
        who: Who,
        config: &Config,
        oracle: &mut Oracle,
    ) {
        let since = if is_broken(Rule::TtlFromArrival) { sent } else { arrived };
        if who != Who::Observing {
            let ours = self.ours();
            self.observing.seen(view, ours, since);
        }
        if who != Who::Reading {
            return;
        }
        let due = view.due().map_or(0, |due| due.0);
        if let Reading::Asking { due: for_due } = self.reading {
            self.reading = Reading::Done { due: for_due.max(due) };
        }
        if self.claiming.is_some() || self.runs.iter().any(|run| run.is_active) {
            return;
        }
        let handled = config.newest(due);
        if handled > self.record.watermark {
            self.record.account(config, handled, Category::Elsewhere, handled, oracle);
        }
        let mut view = view.clone();
        if is_broken(Rule::DoneIsRead) {
            view.done = None;
        }
        if let Some((last, modified)) =
            repetition(&view, config.attempts).filter(|_| config.repeats)
        {
            let kind = ClaimKind::Repetition { last_modified: modified };
            let claim = self.request(config, kind, last.due.0, arrived.0);
            let (run, attempt) = (last.run.unwrap(), last.attempt + 1);
            self.claims(ClaimRequest { run, attempt, ..claim }, arrived.0);
        }
    }
}

/// The same with an earlier beat, as if the holder had been seen to live.
fn an_earlier(answer: &Answer) -> Answer {
    let mut answer = answer.clone();
    if let Answer::Seen(view) = &mut answer {
        if let Some(run) = &mut view.run {
            run.modified.0 -= 1;
        }
    }
    answer
}
