//! What is to be done about a timer now: a pure function of its record, its schedule and the
//! clock. Everything it says is decided once more under the run lock.

use std::time::Duration;

use crate::schedule::{UnixMs, stable_hash};
use crate::state::record::control::Presence;
use crate::state::record::gaps::LeftOut;
use crate::state::record::run::{Outcome, Progress, RunId, Trigger};

use super::due::{DueTimes, Reading};
use super::look::{Due, Look, newest_started};

/// What `timer_missed` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissedPolicy {
    /// One run for all, for the newest, if that is not older than this.
    Run {
        /// The age up to which the newest missed due time still gets its run.
        within: Duration,
    },
    /// They are counted and left out.
    Skip,
}

/// What `timer_overlap` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlapPolicy {
    /// The due time is left out.
    Skip,
    /// It gets one run as soon as the last has ended.
    Queue,
}

/// What is to be done about a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing before this instant; `None`: nothing at all.
    Sleep {
        /// When to look again.
        until: Option<UnixMs>,
    },
    /// Claim this.
    Claim(Wanted),
    /// A missed due time gets its run at an instant that spreads such runs: come back at `until`
    /// and hand `run_at` to [`decide`] again.
    CatchUp {
        /// When the run may start.
        run_at: UnixMs,
        /// When to look again: then, or when the next due time starts and replaces it.
        until: UnixMs,
    },
    /// Due times up to here get no run: [`Store::leave_out`](crate::state::Store::leave_out).
    LeaveOut {
        /// The newest of them.
        up_to: UnixMs,
        /// Why.
        kind: LeftOut,
    },
    /// What waits for its next attempt is to be ended, by a pause, a cancel or the next due time:
    /// [`Store::recover`](crate::state::Store::recover).
    EndWaiting,
    /// The order has had its 10 s: [`Store::drop_order`](crate::state::Store::drop_order).
    DropOrder {
        /// Which.
        number: u64,
        /// The run that will not be.
        run: RunId,
    },
    /// An instant of the record lies ahead of the clock:
    /// [`Store::set_back`](crate::state::Store::set_back).
    ClockSetBack,
}

/// What a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The first attempt for a due time.
    Due {
        /// The due time, or the instant of `first=now`.
        due: UnixMs,
        /// When it starts.
        start: UnixMs,
        /// Why it runs.
        trigger: Trigger,
    },
    /// The next attempt of a run that waits for it.
    Next {
        /// The run.
        run: RunId,
        /// The attempt.
        attempt: u32,
    },
    /// A run by hand.
    Order {
        /// The order's number.
        number: u64,
    },
    /// The next attempt of a run whose host in the fleet has died.
    Repetition {
        /// The run.
        run: RunId,
        /// Its due time.
        due: UnixMs,
        /// Why it took place.
        trigger: Trigger,
        /// The attempt.
        attempt: u32,
    },
}

/// What the configuration says, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `timer_missed`.
    pub missed: MissedPolicy,
    /// Whether the timer runs by schedule.
    pub schedule: Scheduled,
}

/// `enabled=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduled {
    /// It does.
    On,
    /// Only by hand.
    Off,
}

/// How long a first run may be late where `timer_missed` says nothing of it.
const FIRST_WITHIN: Duration = Duration::from_secs(60 * 60);
/// How long an order may wait for a worker.
const ORDER_WITHIN: Duration = Duration::from_secs(10);
/// How often to look for the end of a run in another process.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The longest time over which missed runs are spread.
const LONGEST_SPREAD_MS: i64 = 10_000;

/// Decides what is to be done about a timer.
///
/// `catch_up_at` is what the last [`Decision::CatchUp`] of this timer said, `None` after any
/// claim.
pub fn decide(
    reading: &Reading,
    look: &Look<'_>,
    policy: Policy,
    catch_up_at: Option<UnixMs>,
) -> Decision {
    let (due_times, now) = (look.due_times, look.now);
    if matches!(reading.control.presence, Presence::Unloaded) {
        return Decision::Sleep { until: None };
    }
    if reading.is_ahead(due_times, now) {
        return Decision::ClockSetBack;
    }
    if matches!(reading.claim.progress, Progress::Claiming(..)) {
        // Nothing follows from it before it has been decided.
        return Decision::Sleep { until: Some(now.plus(LOOK_EVERY)) };
    }
    let stopped = policy.schedule == Scheduled::Off || reading.is_paused(now);
    if let Some(ended) = reading.waiting_ends(due_times, now) {
        let takes_over =
            |decision: &Decision| matches!(decision, Decision::Claim(Wanted::Due { .. }));
        let scheduled = (!stopped && ended.outcome != Outcome::Cancelled)
            .then(|| decide_schedule(reading, look, policy.missed, catch_up_at));
        return scheduled.filter(takes_over).unwrap_or(Decision::EndWaiting);
    }
    let order = decide_order(reading, look);
    if let Some(decision @ (Decision::Claim(_) | Decision::DropOrder { .. })) = order {
        return decision;
    }
    if let Some(since) = reading.paused_since(now) {
        // What came due before the pause and was not taken would be forgotten with its end.
        let before = newest_started(due_times, since.min(now));
        if let Some(up_to) = before.filter(|due| *due > reading.handled_up_to(now)) {
            return Decision::LeaveOut { up_to, kind: LeftOut::Missed };
        }
    }
    let scheduled = if stopped {
        let end = |paused: Option<crate::state::Paused>| paused.and_then(|paused| paused.until);
        let until = end(reading.control.paused).max(end(reading.header.paused));
        Decision::Sleep { until: until.filter(|until| *until > now) }
    } else {
        decide_schedule(reading, look, policy.missed, catch_up_at)
    };
    let retry = match reading.claim.progress {
        Progress::Waiting(attempt, wait) => {
            let next = Wanted::Next { run: attempt.run, attempt: attempt.number.saturating_add(1) };
            let may_start = reading.may_start(next, due_times, now);
            let until = Some(wait.next_at);
            Some(if may_start { Decision::Claim(next) } else { Decision::Sleep { until } })
        }
        _ => None,
    };
    // A due time takes over from a run that waits; an order waits for the end of any.
    [retry, order].into_iter().flatten().fold(scheduled, sooner)
}

/// The decision that has to be acted on first; of two that do not sleep, the first one.
fn sooner(one: Decision, other: Decision) -> Decision {
    match (one, other) {
        (Decision::Sleep { until: None }, other) => other,
        (one, Decision::Sleep { until: None }) => one,
        (Decision::Sleep { until: Some(one) }, Decision::Sleep { until: Some(other) }) => {
            Decision::Sleep { until: Some(one.min(other)) }
        }
        (Decision::CatchUp { run_at, until: one }, Decision::Sleep { until: Some(other) }) => {
            Decision::CatchUp { run_at, until: one.min(other) }
        }
        (Decision::Sleep { .. }, other) => other,
        (one, _) => one,
    }
}

fn decide_order(reading: &Reading, look: &Look<'_>) -> Option<Decision> {
    let now = look.now;
    let order = reading.control.pending_order(reading.claim.orders_done)?;
    let wanted = Wanted::Order { number: order.number };
    if !reading.may_start(wanted, look.due_times, now) {
        return Some(Decision::Sleep { until: Some(now.plus(LOOK_EVERY)) });
    }
    let ended_at = reading.claim.last_result.map(|last| last.ended_at());
    let waits_since = ended_at.map_or(order.at, |ended_at| ended_at.max(order.at));
    Some(if now > waits_since.plus(ORDER_WITHIN) {
        Decision::DropOrder { number: order.number, run: order.run }
    } else {
        Decision::Claim(wanted)
    })
}

/// The timer may run by schedule.
fn decide_schedule(
    reading: &Reading,
    look: &Look<'_>,
    policy: MissedPolicy,
    catch_up_at: Option<UnixMs>,
) -> Decision {
    let (due_times, now) = (look.due_times, look.now);
    let handled = reading.handled_up_to(now);
    let newest = look.around.started.filter(|newest| newest.due > handled);
    let first_within = match policy {
        MissedPolicy::Run { within } => within,
        MissedPolicy::Skip => FIRST_WITHIN,
    };
    let late_ms = newest.map_or(0, |newest| now.ms_since(newest.start));
    if let Some(created_at) = reading.first(now, first_within) {
        // What was missed is made up for by one run, which then is not this.
        if late_ms <= look.missed_after_ms() || newest.is_none_or(|newest| newest.due <= created_at)
        {
            let (due, start) = (created_at, created_at);
            return Decision::Claim(Wanted::Due { due, start, trigger: Trigger::First });
        }
    }
    let Some(Due { due, start }) = newest else {
        return Decision::Sleep { until: look.first_after(handled).map(|next| next.start) };
    };
    let claim = |trigger| Decision::Claim(Wanted::Due { due, start, trigger });
    let running = matches!(reading.claim.progress, Progress::Running(_));
    if reading.queued(now) == Some(due) {
        return if running {
            Decision::Sleep { until: Some(now.plus(LOOK_EVERY)) }
        } else {
            claim(Trigger::Queue)
        };
    }
    if late_ms <= look.missed_after_ms() {
        return claim(Trigger::Schedule);
    }
    match policy {
        MissedPolicy::Run { within } if catch_up_at.is_some() || now <= start.plus(within) => {
            let latest = now.0.saturating_add(spread_ms(reading.claim.name_hash, due_times, now));
            let run_at = catch_up_at.map_or(latest, |at| at.0.min(latest));
            if run_at <= now.0 {
                return claim(Trigger::Missed);
            }
            let next = look.around.next.map_or(run_at, |next| next.start.0);
            Decision::CatchUp { run_at: UnixMs(run_at), until: UnixMs(run_at.min(next)) }
        }
        _ => {
            let kind = if running { LeftOut::Overlap } else { LeftOut::Missed };
            Decision::LeaveOut { up_to: due, kind }
        }
    }
}

/// How long the run of a missed due time is put off: by a hash of the name, over half the period,
/// at most 10 s.
fn spread_ms(name_hash: u64, due_times: &dyn DueTimes, now: UnixMs) -> i64 {
    let over = (due_times.period_ms(now) / 2).min(LONGEST_SPREAD_MS);
    let hash = stable_hash(&[b"spread", &name_hash.to_le_bytes()]);
    i64::try_from(hash % over.max(1).unsigned_abs()).unwrap_or(0)
}
