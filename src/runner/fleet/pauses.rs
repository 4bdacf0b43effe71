//! Pauses of the fleet that are over: who finds one ends it, so that what came due meanwhile is nobody's.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::client::{Client, boot_now};
use crate::conf::Fleet;
use crate::fleet::{Answer, Ask, BootMs, Last, Node, Pause, Revision, Scope, Versioned, View};
use crate::runner::Registry;
use crate::schedule::UnixMs;
use crate::state::DueTimes as _;

/// So many timers are in one transaction: etcd takes 128 operations.
const CHUNK: usize = 50;
/// One that could not be ended is tried again after this time.
const AGAIN_MS: u64 = 2000;

thread_local! {
    /// Until when somebody in this worker is about to end one.
    static UNTIL: Cell<BootMs> = const { Cell::new(BootMs(0)) };
}

/// A timer of the fleet: its number, and how `last` was found.
type Found = (usize, Option<Versioned<Last>>);

/// A pause that is being ended.
struct Ending {
    client: Rc<Client>,
    fleet: Fleet,
    registry: Rc<Registry>,
    scope: Scope,
    /// When it was over.
    over_at: UnixMs,
    left: RefCell<VecDeque<Found>>,
}

/// Ends the pauses of a timer that are over by the fleet's clock.
pub(super) fn end_those_over(client: &Rc<Client>, fleet: &Fleet, timer: &str, view: &View) {
    let pauses = [(&view.fleet_pause, Scope::Fleet), (&view.pause, Scope::Timer)];
    let Some(time) = client.time() else { return };
    let is_over = |pause: &Pause| pause.until.filter(|until| *until <= time);
    let over = pauses.into_iter().find_map(|(pause, scope)| {
        let over_at = is_over(&pause.as_ref()?.value)?;
        Some((over_at, scope))
    });
    let Some((over_at, scope)) = over else { return };
    let Some(registry) = Registry::current() else { return };
    let now = boot_now();
    if UNTIL.get() > now {
        return;
    }
    UNTIL.set(BootMs(now.0.saturating_add(AGAIN_MS)));
    let numbers: Vec<usize> = match scope {
        Scope::Timer => registry.find(timer).into_iter().collect(),
        Scope::Fleet => {
            let timers = registry.timers().iter().enumerate();
            let its = timers.filter(|(_, it)| it.fleet.as_ref().is_some_and(|its| its.is(fleet)));
            its.map(|(number, _)| number).collect()
        }
    };
    let (client, fleet) = (Rc::clone(client), fleet.clone());
    let left = RefCell::default();
    let ending = Rc::new(Ending { client, fleet, registry, scope, over_at, left });
    ending.read(&numbers);
}

impl Ending {
    fn name(&self, number: usize) -> String {
        let timer = self.registry.timers().get(number);
        timer.map_or_else(String::new, |timer| timer.name.as_str().to_owned())
    }

    /// Reads what stands there of each; once all are known, the pause is ended.
    fn read(self: &Rc<Self>, numbers: &[usize]) {
        let missing = Rc::new(Cell::new(numbers.len()));
        for number in numbers.iter().copied() {
            let (me, missing) = (Rc::clone(self), Rc::clone(&missing));
            let told = move |answer, _, _| {
                // Without all of them it is not ended now.
                let Answer::Seen(view) = answer else { return };
                let view: View = *view;
                let pause = match me.scope {
                    Scope::Timer => &view.pause,
                    Scope::Fleet => &view.fleet_pause,
                };
                if pause.as_ref().is_none_or(|it| it.value.until != Some(me.over_at)) {
                    // Somebody else was quicker.
                    return;
                }
                me.left.borrow_mut().push_back((number, view.last));
                missing.set(missing.get() - 1);
                if missing.get() == 0 {
                    me.end();
                }
            };
            self.client.read(&self.name(number), Box::new(told));
        }
    }

    /// Ends it, a chunk of timers at a time.
    fn end(self: &Rc<Self>) {
        let (found, ends) = {
            let mut left = self.left.borrow_mut();
            let count = left.len().min(CHUNK);
            let found: Vec<Found> = left.drain(..count).collect();
            (found, left.is_empty())
        };
        let Some((first, _)) = found.first() else { return };
        let first = self.name(*first);
        let Some(node) = Node::parse(&self.fleet.node) else { return };
        let last = |(number, last): &Found| {
            let due_times = &self.registry.timers().get(*number)?.due_times;
            let taken = last.as_ref().map(|last| last.value.due).unwrap_or_default();
            let due = due_times.newest(self.over_at)?.max(taken);
            let modified = last.as_ref().map_or(Revision(0), |last| last.modified);
            let last = Last::without_run(due, node.clone(), due_times.schedule.stable_hash());
            Some((self.name(*number), modified, last))
        };
        let timers = found.iter().filter_map(last).collect();
        let ask = Ask::Resume { scope: self.scope, timers, ends };
        let me = Rc::clone(self);
        let told = move |answer, _, _| {
            if matches!(answer, Answer::Applied(_)) && !ends {
                me.end();
            }
        };
        self.client.exchange(&first, ask, Box::new(told));
    }
}
