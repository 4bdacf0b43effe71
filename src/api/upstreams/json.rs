//! Groups as JSON, by the names that NGINX Plus' API has, and by ours beside them.

use serde::Serialize;

use super::view::{CheckView, GroupView, Recorded, ServerState, ServerView};
use crate::api::json::{self, some_instant};
use crate::health::records::{Last, Strip};
use crate::health::verdict::{CheckOutcome, Standing};
use crate::schedule::UnixMs;

#[derive(Serialize)]
struct GroupJson<'a> {
    checks: &'a [CheckView],
    healthy: usize,
    fail_open: bool,
}

#[derive(Serialize)]
struct PeerJson<'a> {
    id: usize,
    server: &'a str,
    name: &'a str,
    backup: bool,
    weight: u64,
    state: ServerState,
    active: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_conns: Option<u64>,
    health_checks: HealthChecks,
    downtime: u64,
    #[serde(serialize_with = "some_instant", skip_serializing_if = "Option::is_none")]
    downstart: Option<UnixMs>,
    passes: u64,
    inconclusive: u64,
    consecutive_passes: u32,
    consecutive_fails: u32,
    last: Option<LastCheck<'a>>,
    recent: String,
    checks: Vec<CheckOfPeer<'a>>,
}

#[derive(Serialize)]
struct HealthChecks {
    checks: u64,
    fails: u64,
    unhealthy: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_passed: Option<bool>,
}

#[derive(Serialize)]
struct LastCheck<'a> {
    #[serde(serialize_with = "some_instant")]
    time: Option<UnixMs>,
    duration_ms: u64,
    result: &'static str,
    reason: &'a str,
}

#[derive(Serialize)]
struct CheckOfPeer<'a> {
    check: &'a str,
    state: &'static str,
    passes: u64,
    fails: u64,
    inconclusive: u64,
    consecutive_passes: u32,
    consecutive_fails: u32,
    last: Option<LastCheck<'a>>,
    recent: String,
}

/// Appends a group up to the list of its servers.
pub(super) fn begin_group(group: &GroupView, out: &mut Vec<u8>) {
    let (healthy, _) = group.share();
    json::write(&GroupJson { checks: &group.checks, healthy, fail_open: group.fails_open }, out);
    if out.last() == Some(&b'}') {
        out.pop();
    }
    out.extend_from_slice(b",\"peers\":[");
}

/// Appends a server.
pub(super) fn write_server(group: &GroupView, server: &ServerView, out: &mut Vec<u8>) {
    let (counters, downtime) = (server.counters(), server.downtime());
    let worst = |of: fn(&Recorded) -> u32| server.recorded().map(of).max().unwrap_or(0);
    let peer = PeerJson {
        id: server.id,
        server: &server.server,
        name: &server.name,
        backup: server.backup,
        weight: server.weight,
        state: server.state(),
        active: server.active,
        max_conns: (server.max_conns > 0).then_some(server.max_conns),
        health_checks: HealthChecks {
            checks: counters.passed + counters.failed + counters.inconclusive,
            fails: counters.failed,
            unhealthy: counters.became_unhealthy,
            last_passed: server.last_passed(),
        },
        downtime: u64::try_from(downtime.total.as_millis()).unwrap_or(u64::MAX),
        downstart: downtime.since,
        passes: counters.passed,
        inconclusive: counters.inconclusive,
        consecutive_passes: server.recorded().map(Recorded::passes_in_a_row).min().unwrap_or(0),
        consecutive_fails: worst(Recorded::fails_in_a_row),
        last: server.last().map(LastCheck::of),
        recent: server.recorded().next().map(|it| recent(it.strip)).unwrap_or_default(),
        checks: group.checks.iter().zip(&server.checks).map(of_peer).collect(),
    };
    json::write(&peer, out);
}

fn of_peer<'a>((check, recorded): (&'a CheckView, &'a Option<Recorded>)) -> CheckOfPeer<'a> {
    let it = recorded.as_ref();
    let count = |of: fn(&Recorded) -> u64| it.map_or(0, of);
    CheckOfPeer {
        check: &check.asks,
        state: match it.map(|it| it.verdict.standing) {
            Some(Standing::Healthy) => "healthy",
            Some(Standing::Unhealthy) => "unhealthy",
            Some(Standing::Checking) => "checking",
            None => "unchecked",
        },
        passes: count(|it| it.counters.passed),
        fails: count(|it| it.counters.failed),
        inconclusive: count(|it| it.counters.inconclusive),
        consecutive_passes: it.map_or(0, Recorded::passes_in_a_row),
        consecutive_fails: it.map_or(0, Recorded::fails_in_a_row),
        last: it.and_then(|it| it.last.as_ref()).map(LastCheck::of),
        recent: it.map(|it| recent(it.strip)).unwrap_or_default(),
    }
}

impl<'a> LastCheck<'a> {
    fn of(last: &'a Last) -> Self {
        Self {
            time: Some(last.at),
            duration_ms: u64::try_from(last.duration.as_millis()).unwrap_or(u64::MAX),
            result: result(last.outcome),
            reason: &last.reason,
        }
    }
}

/// The word for the result of a check.
pub(super) fn result(outcome: CheckOutcome) -> &'static str {
    match outcome {
        CheckOutcome::Passed => "pass",
        CheckOutcome::Failed => "fail",
        CheckOutcome::Inconclusive => "inconclusive",
    }
}

/// The last results by their first letters, oldest first.
fn recent(strip: Strip) -> String {
    let letter = |outcome| match outcome {
        CheckOutcome::Passed => 'P',
        CheckOutcome::Failed => 'F',
        CheckOutcome::Inconclusive => 'I',
    };
    strip.outcomes().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::view::samples::group;
    use super::*;

    fn peer(standing: Standing) -> Value {
        let group = group(&[standing]);
        let mut out = Vec::new();
        write_server(&group, &group.servers[0], &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_group_is_closed_by_whoever_writes_its_servers() {
        let mut out = Vec::new();
        begin_group(&group(&[Standing::Healthy, Standing::Unhealthy]), &mut out);
        out.extend_from_slice(b"]}");
        let group: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&group["healthy"], &group["fail_open"]), (&1.into(), &false.into()));
        assert_eq!(group["checks"][0]["interval_ms"], 5000);
    }

    #[test]
    fn a_server_has_the_names_of_nginx_plus() {
        let unhealthy = peer(Standing::Unhealthy);
        assert_eq!(unhealthy["server"], "127.0.0.1:8000");
        assert_eq!(
            (&unhealthy["name"], &unhealthy["state"]),
            (&"app0:8000".into(), &"unhealthy".into())
        );
        let checks = serde_json::json!(
            {"checks": 1, "fails": 1, "unhealthy": 1}
        );
        assert_eq!(unhealthy["health_checks"], checks);
        assert_eq!(unhealthy["downstart"], "2027-01-15T08:00:00.000Z");
        assert_eq!(unhealthy["downtime"], 2000);
        assert_eq!(unhealthy["last"]["reason"], "status \"503\"");
        assert_eq!((&unhealthy["consecutive_fails"], &unhealthy["passes"]), (&1.into(), &0.into()));

        let healthy = peer(Standing::Healthy);
        assert_eq!(healthy["state"], "up");
        for absent in ["downstart", "max_conns", "requests", "responses"] {
            assert!(healthy.get(absent).is_none(), "{absent}");
        }
        assert!(peer(Standing::Checking)["last"].is_null());
    }

    #[test]
    fn what_has_no_record_is_unchecked() {
        let mut group = group(&[Standing::Healthy]);
        group.servers[0].checks = vec![None];
        let mut out = Vec::new();
        write_server(&group, &group.servers[0], &mut out);
        let peer: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(peer["checks"][0]["state"], "unchecked");
        assert_eq!(peer["health_checks"]["checks"], 0);
    }
}
