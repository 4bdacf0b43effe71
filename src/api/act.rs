//! Orders: a timer is run, cancelled, paused or resumed by hand.

use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;

use super::fleet_act::{self, FleetOrder};
use super::fleets::{self, Which};
use super::json::Pause;
use super::query_args::{Plus, QueryArgs, Reach};
use super::response::{error, not_found, value};
use super::route::{Action, ActionOnAll};
use crate::nginx::conf::parse_time;
use crate::nginx::http::ClientRequest;
use crate::nginx::http::response::{Answer, Response};
use crate::nginx::log::Level;
use crate::os::wall_clock;
use crate::runner::{Registry, Wake, new_run_id};
use crate::schedule::UnixMs;
use crate::state::{Edited, Ordered, Owner, Paused, Recovered, RunId, Steps};

/// An order, and what result of it so far.
struct OrderRequest {
    registry: Rc<Registry>,
    what: OrderKind,
    steps: Steps,
    /// How often it may still be tried when the steps have run out.
    last_tries: u32,
}

#[derive(Clone, Copy)]
enum OrderKind {
    Run(usize, RunId),
    Cancel(usize),
    Pause(usize, Option<UnixMs>),
    Resume(usize),
    PauseAll(Option<UnixMs>),
    ResumeAll,
}

/// What an order result to.
enum OrderResult {
    Ordered(Ordered),
    Paused(Paused),
    Resumed,
}

/// Does something with a timer.
pub(super) fn act(
    request: &ClientRequest<'_>,
    registry: &Rc<Registry>,
    name: &str,
    action: Action,
) -> Answer {
    let Some(number) = registry.find(name) else { return Answer::Now(not_found()) };
    let for_fleet = match QueryArgs(request.arguments()).scope() {
        Ok(reach) => reach == Some(Reach::Fleet),
        Err(why) => return Answer::Now(error(400, &why)),
    };
    match action {
        Action::Pause if for_fleet => {
            return match until(request) {
                Ok(until) => fleet_act::give(registry, Some(number), FleetOrder::Pause(until)),
                Err(why) => Answer::Now(error(400, &why)),
            };
        }
        Action::Resume if for_fleet => {
            return fleet_act::give(registry, Some(number), FleetOrder::Resume);
        }
        Action::Reset => return fleet_act::give(registry, Some(number), FleetOrder::Reset),
        Action::Run | Action::Cancel | Action::Pause | Action::Resume => {}
    }
    let what = match action {
        Action::Run => OrderKind::Run(number, new_run_id(name)),
        Action::Reset => return Answer::Now(not_found()),
        Action::Cancel => OrderKind::Cancel(number),
        Action::Resume => OrderKind::Resume(number),
        Action::Pause => match until(request) {
            Ok(until) => OrderKind::Pause(number, until),
            Err(why) => return Answer::Now(error(400, &why)),
        },
    };
    let order = OrderRequest::new(registry, what);
    match action {
        // What runs elsewhere is in the way of a run, and nothing that can be cancelled here.
        Action::Run | Action::Cancel => {
            fleets::after_reads(registry, Which::One(number), move || order.after_reads())
        }
        _ => order.give(request),
    }
}

/// Does something with all timers.
pub(super) fn act_on_all(
    request: &ClientRequest<'_>,
    registry: &Rc<Registry>,
    action: ActionOnAll,
) -> Answer {
    match QueryArgs(request.arguments()).scope() {
        Ok(Some(Reach::Fleet)) => {
            let order = match action {
                ActionOnAll::Resume => Ok(FleetOrder::Resume),
                ActionOnAll::Pause => until(request).map(FleetOrder::Pause),
            };
            return match order {
                Ok(order) => fleet_act::give(registry, None, order),
                Err(why) => Answer::Now(error(400, &why)),
            };
        }
        Ok(_) => {}
        Err(why) => return Answer::Now(error(400, &why)),
    }
    let what = match action {
        ActionOnAll::Resume => OrderKind::ResumeAll,
        ActionOnAll::Pause => match until(request) {
            Ok(until) => OrderKind::PauseAll(until),
            Err(why) => return Answer::Now(error(400, &why)),
        },
    };
    OrderRequest::new(registry, what).give(request)
}

/// The end of the pause that is asked for; none without one.
fn until(request: &ClientRequest<'_>) -> Result<Option<UnixMs>, String> {
    let Some(word) = QueryArgs(request.arguments()).get("for", Plus::Itself)? else {
        return Ok(None);
    };
    let time = parse_time(word.as_bytes()).filter(|time| *time > Duration::ZERO);
    let time = time.ok_or("invalid \"for\" argument, it must be a time above 0")?;
    let until = wall_clock().plus(time);
    let until = Some(until).filter(|until| until.is_in_calendar());
    until.ok_or("invalid \"for\" argument, it is too long").map(Some).map_err(str::to_owned)
}

impl OrderRequest {
    fn new(registry: &Rc<Registry>, what: OrderKind) -> Self {
        Self { registry: Rc::clone(registry), what, steps: Steps::default(), last_tries: 2 }
    }

    /// The node of the fleet on which a run of the timer is in progress, if that is another one.
    fn elsewhere(&self) -> Option<String> {
        let view = fleets::view(&self.registry, self.number()?)?;
        view.holder().filter(|node| *node != view.node).map(str::to_owned)
    }

    /// What another host does is known.
    fn after_reads(self) -> Answer {
        match (self.what, self.elsewhere()) {
            (OrderKind::Run(..), Some(node)) => {
                Answer::Now(error(409, &format!("a run is in progress on node \"{node}\"")))
            }
            _ => Answer::Later(Duration::ZERO, Box::new(|request| self.give(request))),
        }
    }

    /// Writes the order down; where somebody else is writing, a little later.
    fn give(mut self, request: &ClientRequest<'_>) -> Answer {
        let (result, written) = match self.write() {
            None => return Answer::Now(error(503, "there is no state")),
            Some(Edited::Done(result)) => (result, true),
            Some(Edited::NotWritten(result)) => (result, self.is_own()),
            Some(Edited::Failed) => {
                self.registry.report();
                return Answer::Now(error(503, "state cannot be read or written"));
            }
            Some(Edited::Again) => {
                let after = self.steps.next().or_else(|| self.repair());
                return match after {
                    Some(after) => Answer::Later(after, Box::new(|request| self.give(request))),
                    None => Answer::Now(error(503, "record is locked for too long")),
                };
            }
        };
        self.registry.report();
        if !written {
            return Answer::Now(error(503, "state cannot be written"));
        }
        Answer::Now(self.done(request, &result))
    }

    /// Writes a damaged record anew, as who runs the timer would not before its next due time, and says
    /// when to come again: later if somebody else is about to do it, or is in the way.
    fn repair(&mut self) -> Option<Duration> {
        let number = self.number()?;
        self.last_tries = self.last_tries.checked_sub(1)?;
        // One that can be read by now may have been written anew since the last try.
        let repaired = match self.registry.read(number) {
            Some(_) => Recovered::Nothing,
            None => {
                self.registry.store()?.repair(self.registry.timer(number)?.record, wall_clock())
            }
        };
        Some(Duration::from_millis(if repaired == Recovered::Again { 64 } else { 1 }))
    }

    fn write(&self) -> Option<Edited<OrderResult>> {
        let store = self.registry.store()?;
        let now = wall_clock();
        let paused = |until| OrderResult::Paused(Paused { since: now, until });
        Some(match self.what {
            OrderKind::Run(number, run) => {
                map(store.order_run(self.registry.timer(number)?, run, now), OrderResult::Ordered)
            }
            OrderKind::Cancel(number) => {
                map(store.order_cancel(self.registry.timer(number)?, now), OrderResult::Ordered)
            }
            OrderKind::Pause(number, until) => {
                map(store.pause(self.registry.timer(number)?, until, now), |()| paused(until))
            }
            OrderKind::Resume(number) => {
                map(store.resume(self.registry.timer(number)?, now), |()| OrderResult::Resumed)
            }
            OrderKind::PauseAll(until) => map(store.pause_all(until, now), |()| paused(until)),
            OrderKind::ResumeAll => map(store.resume_all(now), |()| OrderResult::Resumed),
        })
    }

    /// Whether what this worker alone remembers is enough: it is the one that acts on it.
    fn is_own(&self) -> bool {
        self.number()
            .and_then(|number| self.registry.timer(number))
            .is_some_and(|timer| timer.owner == Owner::This)
    }

    fn number(&self) -> Option<usize> {
        match self.what {
            OrderKind::Run(number, _)
            | OrderKind::Cancel(number)
            | OrderKind::Pause(number, _)
            | OrderKind::Resume(number) => Some(number),
            OrderKind::PauseAll(_) | OrderKind::ResumeAll => None,
        }
    }

    /// Wakes the workers concerned, logs the order, and answers.
    fn done(&self, request: &ClientRequest<'_>, result: &OrderResult) -> Response {
        #[derive(Serialize)]
        struct RunIdJson {
            run: String,
        }
        #[derive(Serialize)]
        struct IsPaused {
            paused: Option<Pause>,
        }

        let why = match self.what {
            OrderKind::Run(..) => "a run is in progress",
            _ => "no run is in progress",
        };
        if matches!(result, OrderResult::Ordered(Ordered::Conflict)) {
            return match self.elsewhere() {
                Some(node) => error(409, &format!("the run in progress is on node \"{node}\"")),
                None => error(409, why),
            };
        }
        match (self.number(), self.what) {
            (Some(number), OrderKind::Run(..)) => self.registry.wake(number, Wake::One),
            (Some(number), _) => self.registry.wake(number, Wake::All),
            (None, _) => self.registry.wake_all(),
        }
        self.tell(request, result);
        match *result {
            OrderResult::Ordered(Ordered::Pending(run)) => {
                value(202, &RunIdJson { run: run.to_string() })
            }
            OrderResult::Ordered(Ordered::Conflict) => error(409, why),
            OrderResult::Paused(paused) => {
                let seen = match self.number() {
                    Some(number) => self.registry.read(number).and_then(|it| it.control.paused),
                    None => self.registry.header().paused,
                };
                let paused = Pause::of(seen.or(Some(paused)), wall_clock());
                value(200, &IsPaused { paused })
            }
            OrderResult::Resumed => value(200, &IsPaused { paused: None }),
        }
    }

    fn tell(&self, request: &ClientRequest<'_>, result: &OrderResult) {
        let done = match self.what {
            OrderKind::Run(..) => Action::Run,
            OrderKind::Cancel(_) => Action::Cancel,
            OrderKind::Pause(..) | OrderKind::PauseAll(_) => Action::Pause,
            OrderKind::Resume(_) | OrderKind::ResumeAll => Action::Resume,
        };
        let timer = self.number().and_then(|number| self.registry.timers().get(number));
        let log = |message: std::fmt::Arguments<'_>| request.log(Level::Notice, message);
        match (timer, result) {
            (Some(timer), OrderResult::Ordered(Ordered::Pending(run))) => {
                log(format_args!("timer \"{}\": {done}, run: {run}", timer.name));
            }
            (Some(timer), _) => log(format_args!("timer \"{}\": {done}", timer.name)),
            (None, _) => log(format_args!("timer: all timers {done}")),
        }
    }
}

fn map<T, U>(edited: Edited<T>, to: impl FnOnce(T) -> U) -> Edited<U> {
    match edited {
        Edited::Done(value) => Edited::Done(to(value)),
        Edited::NotWritten(value) => Edited::NotWritten(to(value)),
        Edited::Again => Edited::Again,
        Edited::Failed => Edited::Failed,
    }
}
