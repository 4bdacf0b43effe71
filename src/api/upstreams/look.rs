//! The groups of this process' configuration, as an answer sees them.

use super::Upstreams;
use super::view::{CheckView, GroupView, Recorded, ServerView, is_unavailable};
use crate::TimerModule;
use crate::checker::group::CheckedGroup;
use crate::conf::{HealthCheck, Mandatory};
use crate::health::records::{Flag, Records, Slot};
use crate::health::shared;
use crate::nginx::hooks::with_main;
use crate::nginx::upstream::Peer;
use crate::os::{monotonic, wall_clock};

/// All groups with health checks.
pub(in crate::api) struct Groups(Vec<CheckedGroup>);

impl Groups {
    pub(in crate::api) fn now() -> Self {
        Self(with_main::<TimerModule, _>(CheckedGroup::all).unwrap_or_default())
    }

    /// The number of the group of this name.
    pub(in crate::api) fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|group| group.name() == name.as_bytes())
    }
}

impl Upstreams for Groups {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn view(&self, number: usize) -> Option<GroupView> {
        self.0.get(number).map(view)
    }
}

fn view(group: &CheckedGroup) -> GroupView {
    let records = shared::records();
    let peers = group.group().peers();
    let unreadable = peers.is_err() || records.is_none();
    let servers = peers.map(|peers| peers.peers).unwrap_or_default();
    let flag = |flag| records.and_then(|it| group.slot(it)).is_some_and(|slot| slot.flag(flag));
    let servers = servers.iter().enumerate().map(|(id, peer)| server(group, id, peer, records));
    let view = GroupView {
        name: String::from_utf8_lossy(group.name()).into_owned(),
        checks: group.checks().iter().map(|check| configured(check)).collect(),
        servers: Vec::new(),
        fails_open: flag(Flag::FailOpen),
        unreadable,
        has_names: group.group().templates().is_ok_and(|count| count > 0),
        now: wall_clock(),
    };
    view.with(servers.collect())
}

fn configured(check: &HealthCheck) -> CheckView {
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    CheckView {
        asks: check.identity.to_string(),
        location: String::from_utf8_lossy(&check.location.name()).into_owned(),
        config: check.position.to_string(),
        interval_ms: ms(check.interval),
        timeout_ms: ms(check.timeout),
        fails: check.fails.get(),
        passes: check.passes.get(),
        mandatory: check.mandatory != Mandatory::No,
        persistent: check.mandatory == Mandatory::Persistent,
        fail_open: check.fail_open,
    }
}

fn server(
    group: &CheckedGroup,
    id: usize,
    peer: &Peer,
    records: Option<Records<'static>>,
) -> ServerView {
    let number = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    let record =
        |check: &HealthCheck| records?.find(&group.key(peer, check)).map(|it| recorded(&it));
    let is_configured_down = peer.down.is_configured();
    ServerView {
        id,
        server: String::from_utf8_lossy(peer.name()).into_owned(),
        name: String::from_utf8_lossy(peer.server()).into_owned(),
        backup: peer.backup,
        weight: u64::try_from(peer.weight).unwrap_or(0),
        active: number(peer.conns),
        max_conns: number(peer.max_conns),
        is_configured_down,
        is_draining: peer.down.is_draining(),
        is_down: peer.down.by_unknown(),
        is_unavailable: is_unavailable(
            peer.fails,
            peer.max_fails,
            peer.fail_timeout,
            peer.checked,
            wall_clock(),
        ),
        is_repeated: false,
        checks: group.checks().iter().map(|check| record(check)).collect(),
    }
}

fn recorded(slot: &Slot<'_>) -> Recorded {
    Recorded {
        verdict: slot.verdict(),
        counters: slot.counters(),
        downtime: slot.downtime(wall_clock()),
        last: slot.last(),
        strip: slot.strip(),
        since: monotonic().saturating_sub(slot.started()),
    }
}
