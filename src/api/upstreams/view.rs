//! What there is to be seen of a group: its lists, its records and the clock.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::health::records::{CheckCounters, Downtime, Last, Strip};
use crate::health::verdict::{Standing, Verdict, of_all};
use crate::schedule::UnixMs;

/// A group with health checks.
#[derive(Clone, Debug, Default)]
pub(in crate::api) struct GroupView {
    pub(in crate::api) name: String,
    pub(in crate::api) checks: Vec<CheckView>,
    pub(in crate::api) servers: Vec<ServerView>,
    /// Whether too few servers are healthy, so that all get requests.
    pub(in crate::api) fails_open: bool,
    /// Whether its servers cannot be read.
    pub(in crate::api) unreadable: bool,
    /// Whether servers of it are found by name.
    pub(in crate::api) has_names: bool,
    /// The instant at which that is.
    pub(in crate::api) now: UnixMs,
}

/// A check of a group, as configured.
#[derive(Clone, Debug, Serialize)]
pub(in crate::api) struct CheckView {
    #[serde(rename = "check")]
    pub(in crate::api) asks: String,
    pub(in crate::api) location: String,
    /// `FILE:LINE`
    pub(in crate::api) config: String,
    pub(in crate::api) interval_ms: u64,
    pub(in crate::api) timeout_ms: u64,
    pub(in crate::api) fails: u32,
    pub(in crate::api) passes: u32,
    pub(in crate::api) mandatory: bool,
    pub(in crate::api) persistent: bool,
    pub(in crate::api) fail_open: u8,
}

/// A server of a group.
#[expect(clippy::struct_excessive_bools, reason = "each holds or not, whatever the others do")]
#[derive(Clone, Debug)]
pub(in crate::api) struct ServerView {
    pub(in crate::api) id: usize,
    /// Its address.
    pub(in crate::api) server: String,
    /// What the configuration calls it.
    pub(in crate::api) name: String,
    pub(in crate::api) backup: bool,
    pub(in crate::api) weight: u64,
    pub(in crate::api) active: u64,
    pub(in crate::api) max_conns: u64,
    pub(in crate::api) is_configured_down: bool,
    pub(in crate::api) is_draining: bool,
    /// For other reasons than ours and these.
    pub(in crate::api) is_down: bool,
    /// Clients' requests have failed so often that it gets none for a while.
    pub(in crate::api) is_unavailable: bool,
    /// Whether the same address was in the list before.
    pub(in crate::api) is_repeated: bool,
    /// By check of the group; `None` where there was no room for a record.
    pub(in crate::api) checks: Vec<Option<Recorded>>,
}

/// What is recorded of a check of a server.
#[derive(Clone, Debug)]
pub(in crate::api) struct Recorded {
    pub(in crate::api) verdict: Verdict,
    pub(in crate::api) counters: CheckCounters,
    pub(in crate::api) downtime: Downtime,
    pub(in crate::api) last: Option<Last>,
    pub(in crate::api) strip: Strip,
    /// How long ago the last check was started.
    pub(in crate::api) since: Duration,
}

/// How a server is, the first that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::api) enum ServerState {
    /// By the configuration, or by another module.
    Down,
    /// Its checks fail.
    Unhealthy,
    /// There was no result yet.
    Checking,
    /// It gets requests of sessions that it has.
    Draining,
    /// Clients' requests to it have failed.
    Unavail,
    /// None of these.
    Up,
}

impl ServerState {
    pub(in crate::api) const ALL: [Self; 6] =
        [Self::Up, Self::Draining, Self::Down, Self::Unavail, Self::Checking, Self::Unhealthy];
}

/// So many intervals without a check are not well.
const INTERVALS: u32 = 3;

impl GroupView {
    /// How many of the servers that are not configured `down` are healthy, and how many those are.
    pub(in crate::api) fn share(&self) -> (usize, usize) {
        let servers = self.servers.iter().filter(|server| !server.is_configured_down);
        let healthy = servers.clone().filter(|server| server.standing() == Standing::Healthy);
        (healthy.count(), servers.count())
    }

    /// Whether the configuration has taken it out of use: all of its servers are `down` there.
    pub(in crate::api) fn is_out_of_use(&self) -> bool {
        !self.servers.is_empty()
            && !self.has_names
            && self.servers.iter().all(|server| server.is_configured_down)
    }

    /// The group with these servers.
    pub(in crate::api) fn with(mut self, servers: Vec<ServerView>) -> Self {
        self.servers = servers;
        let mut seen = HashSet::new();
        for server in &mut self.servers {
            server.is_repeated = !seen.insert((server.server.clone(), server.backup));
        }
        self
    }

    /// Its servers, each address once: what is recorded of it is the same.
    pub(in crate::api) fn distinct(&self) -> impl Iterator<Item = &ServerView> {
        self.servers.iter().filter(|server| !server.is_repeated)
    }

    /// The check that was not made for the most intervals, with its record; `None` of a server without
    /// records.
    pub(in crate::api) fn latest<'a>(
        &'a self,
        server: &'a ServerView,
    ) -> Option<(&'a CheckView, &'a Recorded)> {
        let recorded = |(check, recorded): (&'a CheckView, &'a Option<Recorded>)| {
            recorded.as_ref().map(|recorded| (check, recorded))
        };
        let made = self.checks.iter().zip(&server.checks).filter_map(recorded);
        made.max_by_key(|(check, it)| it.since.as_millis() / u128::from(check.interval_ms.max(1)))
    }
}

impl CheckView {
    pub(in crate::api) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

impl Recorded {
    /// For how long the check was not made, if that is too long.
    pub(in crate::api) fn overdue(&self, check: &CheckView) -> Option<Duration> {
        // A check that takes its time makes the next one wait; and a moment belongs to any.
        let limit = check.interval().saturating_mul(INTERVALS);
        let limit = limit.max(Duration::from_millis(check.timeout_ms)) + Duration::from_secs(1);
        (self.since > limit).then_some(self.since)
    }

    /// So many failures in a row, up to now.
    pub(in crate::api) fn fails_in_a_row(&self) -> u32 {
        if self.verdict.failing { self.verdict.in_a_row } else { 0 }
    }

    /// So many passes.
    pub(in crate::api) fn passes_in_a_row(&self) -> u32 {
        if self.verdict.failing { 0 } else { self.verdict.in_a_row }
    }
}

impl ServerView {
    /// How it stands by all of its checks.
    pub(in crate::api) fn standing(&self) -> Standing {
        of_all(self.recorded().map(|it| it.verdict.standing))
    }

    /// What is recorded of its checks.
    pub(in crate::api) fn recorded(&self) -> impl Iterator<Item = &Recorded> {
        self.checks.iter().flatten()
    }

    /// Whether a check of it has no record, and so is not made.
    pub(in crate::api) fn is_unchecked(&self) -> bool {
        !self.is_configured_down && self.checks.iter().any(Option::is_none)
    }

    /// How it is.
    pub(in crate::api) fn state(&self) -> ServerState {
        match self.standing() {
            _ if self.is_configured_down || self.is_down => ServerState::Down,
            Standing::Unhealthy => ServerState::Unhealthy,
            Standing::Checking => ServerState::Checking,
            Standing::Healthy if self.is_draining => ServerState::Draining,
            Standing::Healthy if self.is_unavailable => ServerState::Unavail,
            Standing::Healthy => ServerState::Up,
        }
    }

    /// What all of its checks count.
    pub(in crate::api) fn counters(&self) -> CheckCounters {
        self.recorded().fold(CheckCounters::default(), |sum, it| CheckCounters {
            passed: sum.passed + it.counters.passed,
            failed: sum.failed + it.counters.failed,
            inconclusive: sum.inconclusive + it.counters.inconclusive,
            became_unhealthy: sum.became_unhealthy + it.counters.became_unhealthy,
            changes: sum.changes + it.counters.changes,
            duration: sum.duration + it.counters.duration,
        })
    }

    /// Since when it gets no requests, and for how long altogether: by the check by which that is longest.
    pub(in crate::api) fn downtime(&self) -> Downtime {
        let since = self.recorded().filter_map(|it| it.downtime.since).min();
        let total = self.recorded().map(|it| it.downtime.total).max();
        Downtime { since, total: total.unwrap_or_default() }
    }

    /// Whether the last results of all of its checks are passes; `None` before the first.
    pub(in crate::api) fn last_passed(&self) -> Option<bool> {
        let results = self.recorded().filter_map(|it| it.strip.last_passed());
        results.reduce(|all, passed| all && passed)
    }

    /// The result of the last check: of one that keeps it from getting requests, if there is one.
    pub(in crate::api) fn last(&self) -> Option<&Last> {
        let lasts = self.recorded().filter_map(|it| it.last.as_ref().map(|last| (it, last)));
        lasts
            .max_by_key(|(it, last)| (it.verdict.standing == Standing::Unhealthy, last.at))
            .map(|(_, last)| last)
    }
}

/// When a client's failed requests count no more, as the balancers have it.
pub(in crate::api) fn is_unavailable(
    fails: usize,
    max_fails: usize,
    fail_timeout: i64,
    checked: i64,
    now: UnixMs,
) -> bool {
    let since = now.0.div_euclid(1000).saturating_sub(checked);
    max_fails > 0 && fails >= max_fails && since <= fail_timeout
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "down",
            Self::Unhealthy => "unhealthy",
            Self::Checking => "checking",
            Self::Draining => "draining",
            Self::Unavail => "unavail",
            Self::Up => "up",
        })
    }
}

#[cfg(test)]
pub(in crate::api) mod samples {
    use super::*;
    use crate::health::verdict::CheckOutcome;

    /// A group of one check, at intervals of 5 s, whose servers stand so.
    pub(in crate::api) fn group(standings: &[Standing]) -> GroupView {
        let check = CheckView {
            asks: "uri=/".to_owned(),
            location: "/".to_owned(),
            config: "nginx.conf:7".to_owned(),
            interval_ms: 5000,
            timeout_ms: 5000,
            fails: 1,
            passes: 1,
            mandatory: false,
            persistent: false,
            fail_open: 0,
        };
        let servers = standings.iter().enumerate().map(|(id, standing)| server(id, *standing));
        let name = "back\"end".to_owned();
        GroupView { name, checks: vec![check], ..GroupView::default() }.with(servers.collect())
    }

    pub(in crate::api) fn server(id: usize, standing: Standing) -> ServerView {
        let failing = standing == Standing::Unhealthy;
        let known = standing != Standing::Checking;
        let last = Last {
            at: UnixMs(1_800_000_000_000),
            duration: Duration::from_millis(3),
            outcome: if failing { CheckOutcome::Failed } else { CheckOutcome::Passed },
            reason: if failing { "status \"503\"".to_owned() } else { String::new() },
        };
        let in_a_row = u32::from(known);
        let recorded = Recorded {
            verdict: Verdict { standing, failing, in_a_row, inconclusive: 0 },
            counters: CheckCounters {
                passed: u64::from(!failing && known),
                failed: u64::from(failing),
                became_unhealthy: u64::from(failing),
                changes: u64::from(failing),
                duration: Duration::from_millis(3),
                ..CheckCounters::default()
            },
            downtime: Downtime {
                since: (standing != Standing::Healthy).then_some(UnixMs(1_800_000_000_000)),
                total: Duration::from_secs(2),
            },
            last: known.then_some(last),
            strip: Strip::default(),
            since: Duration::from_secs(1),
        };
        ServerView {
            id,
            server: format!("127.0.0.1:{}", 8000 + id),
            name: format!("app{id}:8000"),
            backup: false,
            weight: 1,
            active: 0,
            max_conns: 0,
            is_configured_down: false,
            is_draining: false,
            is_down: false,
            is_unavailable: false,
            is_repeated: false,
            checks: vec![Some(recorded)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{group, server};
    use super::*;

    #[test]
    fn the_first_state_that_fits_is_told() {
        let mut it = server(0, Standing::Healthy);
        assert_eq!(it.state(), ServerState::Up);
        it.is_unavailable = true;
        assert_eq!(it.state(), ServerState::Unavail);
        it.is_draining = true;
        assert_eq!(it.state(), ServerState::Draining);
        let unhealthy = server(1, Standing::Unhealthy);
        it.checks.extend(unhealthy.checks);
        assert_eq!(it.state(), ServerState::Unhealthy);
        it.is_down = true;
        assert_eq!(it.state(), ServerState::Down);
    }

    #[test]
    fn an_address_that_is_there_twice_is_told_once() {
        let mut group = group(&[Standing::Healthy; 3]);
        group.servers[2].server = group.servers[0].server.clone();
        let mut group = group.clone().with(group.servers);
        assert_eq!(group.distinct().count(), 2);
        group.servers[2].backup = true;
        let group = group.clone().with(group.servers);
        assert_eq!(group.distinct().count(), 3);
    }

    #[test]
    fn a_server_is_unavailable_for_as_long_as_nginx_has_it() {
        let now = UnixMs(1_000_000);
        assert!(is_unavailable(1, 1, 10, 995, now));
        assert!(!is_unavailable(1, 1, 10, 980, now));
        assert!(!is_unavailable(1, 2, 10, 995, now));
        assert!(!is_unavailable(5, 0, 10, 995, now));
    }

    #[test]
    fn a_check_is_overdue_after_three_intervals() {
        let group = group(&[Standing::Healthy]);
        let (check, recorded) = group.latest(&group.servers[0]).unwrap();
        assert_eq!(recorded.overdue(check), None);
        let late = Recorded { since: Duration::from_secs(17), ..recorded.clone() };
        assert_eq!(late.overdue(check), Some(Duration::from_secs(17)));
    }
}
