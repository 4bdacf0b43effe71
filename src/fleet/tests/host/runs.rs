//! The runs that a host holds.

use super::super::broken_rules::{Rule, is_broken};
use super::super::oracle::Oracle;
use super::super::record::Progress;
use super::super::world::{Config, Who};
use super::{Host, Stepped, ended};
use crate::fleet::Held;
use crate::fleet::instant::{BootMs, Do};
use crate::fleet::values::{ClaimKind, Outcome};

impl Host {
    pub(super) fn step_runs(
        &mut self,
        now: u64,
        config: &Config,
        oracle: &mut Oracle,
        stepped: &mut Stepped,
    ) -> bool {
        for index in 0..self.runs.len() {
            let run = &mut self.runs[index];
            if let Some((until, attempt)) = run.running {
                if now >= until {
                    run.running = None;
                    let has_more = attempt < config.attempts;
                    let failed = attempt <= config.fails;
                    let outcome = if failed { Outcome::Failure } else { Outcome::Success };
                    let next = (failed && has_more).then_some(BootMs(now + config.pause_ms));
                    let last = ended(outcome, next);
                    run.holding.attempt_ended(last);
                    if next.is_some() {
                        run.claim.attempt = attempt;
                        self.record.progress =
                            Progress::Waiting(run.claim.clone(), run.holding.created(), last);
                    }
                    return true;
                }
                stepped.wake = stepped.wake.min(until);
            }
            let asked = run.holding.step(BootMs(now));
            match asked {
                Do::Wait(at) => stepped.wake = stepped.wake.min(at.0),
                Do::Send(ask) => {
                    stepped.asks.push((Who::Holding(run.claim.id), ask));
                    return true;
                }
                Do::Say(held) => {
                    self.held(index, &held, now, config, oracle);
                    return true;
                }
            }
        }
        false
    }

    fn held(&mut self, index: usize, held: &Held, now: u64, config: &Config, oracle: &mut Oracle) {
        let run = &mut self.runs[index];
        let claim = run.claim.clone();
        match *held {
            Held::Start { attempt, fence } => {
                let is_scheduled = claim.kind != ClaimKind::ByHand;
                oracle.starts(claim.due.0, is_scheduled, claim.run, attempt, fence);
                run.running = Some((now + config.run_ms, attempt));
                self.record.progress = Progress::Running(claim, run.holding.created());
            }
            Held::GiveUp if is_broken(Rule::GiveUp) => {}
            Held::GiveUp => {
                run.running = None;
                if std::mem::take(&mut run.is_active) {
                    self.record.progress = Progress::Nothing;
                }
            }
            Held::Ended(_) => {
                if run.is_active {
                    self.record.progress = Progress::Nothing;
                }
                self.runs.remove(index);
            }
        }
    }
}
