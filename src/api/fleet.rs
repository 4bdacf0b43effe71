//! What there is to be seen of a timer's fleet: where it ran last, where it runs now, and whether the fleet's
//! engine does what it is asked. All that was read there is data of others.

use serde::Serialize;

use super::json::{AsString, instant, some_instant};
use crate::fleet::{LastResult as FleetResult, Pause, Scope, View as Seen};
use crate::schedule::UnixMs;
use crate::state::{Ended, LastResult, Paused};

/// Whether the engine of a fleet does what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Standing {
    /// It does.
    Ok,
    /// It does not answer.
    Unreachable,
    /// It refuses.
    Refused,
}

/// The fleet of a timer, as an answer sees it.
#[derive(Clone, Debug)]
pub(super) struct FleetView {
    pub(super) name: String,
    /// What this host is called.
    pub(super) node: String,
    pub(super) standing: Standing,
    /// Whether that is so for this timer only.
    pub(super) is_own: bool,
    /// Why it does not do what it is asked; empty if it does.
    pub(super) why: String,
    /// By how much the clock of this host is ahead of the engine's.
    pub(super) skew_ms: Option<i64>,
    /// What was read of the timer lately.
    pub(super) seen: Option<Box<Seen>>,
}

/// What metrics show of a fleet.
#[derive(Clone, Debug)]
pub(super) struct FleetSample {
    pub(super) name: String,
    pub(super) is_up: bool,
    /// By what became of them.
    pub(super) requests: [(&'static str, u64); 3],
    pub(super) took: std::time::Duration,
    pub(super) skew_ms: Option<i64>,
}

/// Where a timer of a fleet runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Whereabouts {
    /// Where the last run was.
    pub(super) last: Option<String>,
    /// Where one is in progress.
    pub(super) now: Option<String>,
    /// Whether it is paused in the fleet.
    pub(super) is_paused: bool,
}

impl FleetView {
    /// The last run that has ended, wherever it was.
    pub(super) fn result(&self) -> Option<&FleetResult> {
        Some(&self.seen.as_ref()?.result.as_ref()?.value)
    }

    /// The same, as far as most want to know it; its status is not known.
    pub(super) fn last(&self) -> Option<LastResult> {
        let result = self.result()?;
        let ended = Ended { outcome: result.outcome, status: 0, duration: result.duration };
        Some(LastResult { started_at: result.started_at, ended })
    }

    /// The node on which a run is in progress.
    pub(super) fn holder(&self) -> Option<&str> {
        Some(self.seen.as_ref()?.run.as_ref()?.value.node.as_str())
    }

    /// The pause that keeps the fleet from running it.
    fn pause(&self, now: UnixMs) -> Option<(&Pause, Scope)> {
        let seen = self.seen.as_ref()?;
        let both = [(&seen.fleet_pause, Scope::Fleet), (&seen.pause, Scope::Timer)];
        both.into_iter().find_map(|(pause, scope)| {
            let pause = pause.as_ref().map(|pause| &pause.value)?;
            pause.until.is_none_or(|until| now < until).then_some((pause, scope))
        })
    }

    /// The same, as one of this host.
    pub(super) fn paused(&self, now: UnixMs) -> Option<Paused> {
        let (Pause { since, until, .. }, _) = self.pause(now)?;
        Some(Paused { since: in_calendar(*since), until: until.map(in_calendar) })
    }

    /// Where it runs.
    pub(super) fn whereabouts(&self, now: UnixMs) -> Whereabouts {
        Whereabouts {
            last: self.result().map(|result| result.node.as_str().to_owned()),
            now: self.holder().map(str::to_owned),
            is_paused: self.pause(now).is_some(),
        }
    }

    /// The fence of the newest attempt, as far as what was read tells.
    fn fence(&self) -> Option<u64> {
        let seen = self.seen.as_ref()?;
        let last = seen.last.as_ref().filter(|last| last.value.run.is_some());
        let fence = match (&seen.run, last) {
            (Some(run), Some(last)) if last.value.claim == Some(run.value.claim) => last.modified,
            (Some(run), _) => run.created,
            (None, Some(last)) => last.modified,
            (None, None) => return None,
        };
        Some(fence.0)
    }

    /// What `health` says of it, without an end of line; `None` if it does what it is asked.
    pub(super) fn complaint(&self) -> Option<String> {
        let Self { name, why, .. } = self;
        match self.standing {
            Standing::Ok => None,
            Standing::Unreachable => Some(format!("fleet \"{name}\" is unreachable: {why}")),
            Standing::Refused => Some(format!("fleet \"{name}\" refuses: {why}")),
        }
    }
}

/// The fleet in the JSON of a timer.
#[derive(Serialize)]
pub(super) struct FleetJson<'a> {
    name: &'a str,
    state: Standing,
    why: Option<&'a str>,
    node: &'a str,
    holder: Option<HolderJson<'a>>,
    last: Option<LastJson<'a>>,
    fence: Option<u64>,
    paused: Option<PauseJson<'a>>,
    skew_ms: Option<i64>,
}

#[derive(Serialize)]
struct HolderJson<'a> {
    node: &'a str,
    #[serde(serialize_with = "instant")]
    since: UnixMs,
    run: String,
    #[serde(serialize_with = "instant")]
    due: UnixMs,
}

#[derive(Serialize)]
struct LastJson<'a> {
    node: &'a str,
    #[serde(serialize_with = "instant")]
    due: UnixMs,
    outcome: AsString<crate::state::Outcome>,
    duration_ms: u64,
}

#[derive(Serialize)]
struct PauseJson<'a> {
    #[serde(serialize_with = "instant")]
    since: UnixMs,
    #[serde(serialize_with = "some_instant")]
    until: Option<UnixMs>,
    scope: &'static str,
    node: &'a str,
}

impl<'a> FleetJson<'a> {
    pub(super) fn of(fleet: &'a FleetView, now: UnixMs) -> Self {
        let seen = fleet.seen.as_ref();
        Self {
            name: &fleet.name,
            state: fleet.standing,
            why: Some(fleet.why.as_str()).filter(|why| !why.is_empty()),
            node: &fleet.node,
            holder: seen.and_then(|seen| seen.run.as_ref()).map(|run| HolderJson {
                node: run.value.node.as_str(),
                since: in_calendar(run.value.started_at),
                run: run.value.id.to_string(),
                due: in_calendar(run.value.due),
            }),
            last: fleet.result().map(|result| LastJson {
                node: result.node.as_str(),
                due: in_calendar(result.due),
                outcome: AsString(result.outcome),
                duration_ms: u64::try_from(result.duration.as_millis()).unwrap_or(u64::MAX),
            }),
            fence: fleet.fence(),
            paused: fleet.pause(now).map(|(pause, scope)| PauseJson {
                since: in_calendar(pause.since),
                until: pause.until.map(in_calendar),
                scope: if scope == Scope::Fleet { "fleet" } else { "timer" },
                node: pause.node.as_str(),
            }),
            skew_ms: fleet.skew_ms,
        }
    }
}

/// What can be written as an instant: others may have written any number.
pub(super) fn in_calendar(at: UnixMs) -> UnixMs {
    if at.is_in_calendar() { at } else { UnixMs(0) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::api::health::Complaint;
    use crate::api::json::{self, Extent};
    use crate::api::page::PageRow;
    use crate::api::samples::Sample;
    use crate::api::tests::{at, attempt, ended, reading, timer};
    use crate::api::view::{TimerHealth, View};
    use crate::fleet::{ClaimId, Last, Node, Revision, Run, Versioned};
    use crate::state::{Outcome, Reading, RunId, RunResult, Trigger};

    fn node(name: &str) -> Node {
        Node::parse(name).unwrap()
    }

    fn versioned<T>(value: T, modified: u64) -> Versioned<T> {
        Versioned { value, created: Revision(modified - 1), modified: Revision(modified) }
    }

    fn result(outcome: Outcome, failures: u32) -> FleetResult {
        FleetResult {
            claim: ClaimId([1; 16]),
            run: RunId([0xcd; 16]),
            node: node("web2"),
            due: at(60),
            attempt: 2,
            trigger: Trigger::Missed,
            outcome,
            started_at: at(61),
            duration: Duration::from_millis(8312),
            last_success_at: Some(at(1)),
            consecutive_failures: failures,
        }
    }

    fn run() -> Run {
        Run {
            claim: ClaimId([2; 16]),
            id: RunId([0xef; 16]),
            node: node("web3"),
            due: at(120),
            attempt: 1,
            trigger: Trigger::Schedule,
            ttl: Duration::from_secs(30),
            beat: 7,
            started_at: UnixMs(i64::MAX),
        }
    }

    fn fleet(seen: Option<Seen>) -> FleetView {
        FleetView {
            name: "prod".to_owned(),
            node: "web1".to_owned(),
            standing: Standing::Ok,
            is_own: false,
            why: String::new(),
            skew_ms: Some(-3),
            seen: seen.map(Box::new),
        }
    }

    fn shown<T>(fleet: &FleetView, mut reading: Reading, look: impl FnOnce(&View<'_>) -> T) -> T {
        let own = RunResult { attempt: attempt(30), ended: ended(Outcome::Success, 204) };
        let timer = timer();
        reading.claim.watermark.due = at(120);
        look(&View {
            timer: &timer,
            reading: Some(reading),
            now: at(130),
            results: &|_| vec![own],
            failure_text: &|_| None,
            fleet: Some(fleet),
        })
    }

    fn json_of(fleet: &FleetView) -> Value {
        let mut out = Vec::new();
        shown(fleet, reading(), |view| json::write_timer(view, Extent::Listed, &mut out));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn what_others_do_is_shown_and_bounded() {
        let last = Last {
            due: at(120),
            attempt: 1,
            run: Some(RunId([0xef; 16])),
            claim: Some(ClaimId([2; 16])),
            node: node("web3"),
            schedule: 1,
        };
        let pause = Pause { node: node("web9"), since: at(5), until: None };
        let seen = Seen {
            run: Some(versioned(run(), 90)),
            last: Some(versioned(last, 77)),
            result: Some(versioned(result(Outcome::Failure, 4), 60)),
            fleet_pause: Some(versioned(Pause { until: Some(at(9)), ..pause.clone() }, 7)),
            pause: Some(versioned(pause, 8)),
            ..Seen::default()
        };
        let fleet = fleet(Some(seen));
        let shown_json = json_of(&fleet);
        let (due, start) = (at(120).rfc3339().to_string(), at(61).rfc3339().to_string());
        assert_eq!(
            shown_json["fleet"],
            json!({
                "name": "prod", "state": "ok", "why": null, "node": "web1",
                // An instant that no calendar has.
                "holder": {"node": "web3", "since": UnixMs(0).rfc3339().to_string(),
                    "run": "ef".repeat(16), "due": due},
                "last": {"node": "web2", "due": at(60).rfc3339().to_string(),
                    "outcome": "failure", "duration_ms": 8312},
                "fence": 77,
                // That of the fleet is over.
                "paused": {"since": at(5).rfc3339().to_string(), "until": null, "scope": "timer",
                    "node": "web9"},
                "skew_ms": -3,
            })
        );
        assert_eq!(shown_json["consecutive_failures"], 4);
        assert_eq!(shown_json["health"], "failing");
        assert_eq!(shown_json["last"]["outcome"], "failure");
        assert_eq!(shown_json["last"]["start"], start);
        assert_eq!(shown_json["counters"]["elsewhere"], 0);
        assert_eq!(shown_json["counters"]["lost"], 0);
        let nodes =
            Whereabouts { last: Some("web2".into()), now: Some("web3".into()), is_paused: true };
        assert_eq!(fleet.whereabouts(at(10)), nodes);
        shown(&fleet, reading(), |view| {
            assert_eq!(view.health(), TimerHealth::Failing);
            let sample = Sample::of(view).unwrap();
            assert_eq!((sample.consecutive_failures, sample.last_success), (4, at(1)));
            assert_eq!(sample.fleet, Some((0, 0)));
            let row = format!("{:?}", PageRow::of(view));
            assert!(row.contains("running on web3") && row.contains("failure, web2"), "{row}");
        });
    }

    #[test]
    fn what_this_host_ran_last_keeps_its_status_and_what_is_not_known_is_its_own() {
        let seen =
            Seen { result: Some(versioned(result(Outcome::Success, 0), 60)), ..Seen::default() };
        let older = Seen {
            result: Some(versioned(
                FleetResult { started_at: at(3), ..result(Outcome::Error, 1) },
                60,
            )),
            ..Seen::default()
        };
        assert_eq!(json_of(&fleet(Some(seen)))["last"]["status"], 0);
        for fleet in [fleet(Some(older)), fleet(None)] {
            assert_eq!(json_of(&fleet)["last"]["status"], 204);
        }
        let mut reading = reading();
        reading.claim.consecutive_failures = 2;
        shown(&fleet(None), reading, |view| assert_eq!(view.failures(), 2));
        assert_eq!(json_of(&fleet(None))["fleet"]["holder"], Value::Null);
    }

    #[test]
    fn a_fleet_that_does_not_do_what_it_is_asked_is_named() {
        let mut fleet = fleet(None);
        assert_eq!(fleet.complaint(), None);
        (fleet.standing, fleet.why) = (Standing::Unreachable, "timed out".to_owned());
        assert_eq!(fleet.complaint().unwrap(), "fleet \"prod\" is unreachable: timed out");
        assert_eq!(json_of(&fleet)["fleet"]["state"], "unreachable");
        (fleet.standing, fleet.is_own) = (Standing::Refused, true);
        assert_eq!(fleet.complaint().unwrap(), "fleet \"prod\" refuses: timed out");
        shown(&fleet, reading(), |view| {
            let complaint = Complaint::of(view).unwrap();
            assert!(complaint.text.contains("refused by its fleet, timed out"), "{complaint:?}");
        });
    }
}
