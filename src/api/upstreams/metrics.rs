//! The metrics of groups, in Prometheus' text format 0.0.4.

use std::io::Write as _;

use super::view::{GroupView, ServerState, ServerView};
use super::{Then, Upstreams};
use crate::api::metrics::{escape, head, seconds};
use crate::schedule::UnixMs;

/// A family of samples.
struct GroupFamily {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    write: GroupLines,
}

#[derive(Clone, Copy)]
enum GroupLines {
    /// One sample of each server.
    Server(fn(&GroupView, &ServerView) -> Option<String>),
    /// Several samples of each server: what is behind the family's name, further labels, and the value.
    Servers(fn(&ServerView) -> Vec<(&'static str, String, String)>),
    /// One sample of each group.
    Group(fn(&GroupView) -> String),
}

const FAMILIES: &[GroupFamily] = &[
    GroupFamily {
        name: "nginx_upstream_peer_up",
        kind: "gauge",
        help: "Whether no health check has found the server unhealthy, and it is not configured down.",
        write: GroupLines::Server(|_, server| {
            let up = !matches!(
                server.state(),
                ServerState::Down | ServerState::Unhealthy | ServerState::Checking
            );
            Some(u8::from(up).to_string())
        }),
    },
    GroupFamily {
        name: "nginx_upstream_peer_state",
        kind: "gauge",
        help: "Whether the server is in this state.",
        write: GroupLines::Servers(|server| {
            let state = server.state();
            let sample = |it: ServerState| {
                ("", format!(",state=\"{it}\""), u8::from(it == state).to_string())
            };
            ServerState::ALL.into_iter().map(sample).collect()
        }),
    },
    GroupFamily {
        name: "nginx_upstream_checks_total",
        kind: "counter",
        help: "Health checks that have ended, by their result.",
        write: GroupLines::Servers(|server| {
            let counters = server.counters();
            let sample = |name, count: u64| ("", format!(",result=\"{name}\""), count.to_string());
            vec![
                sample("pass", counters.passed),
                sample("fail", counters.failed),
                sample("inconclusive", counters.inconclusive),
            ]
        }),
    },
    GroupFamily {
        name: "nginx_upstream_check_last_timestamp_seconds",
        kind: "gauge",
        help: "Start of the last health check, of the check that is most behind; since when the \
               server is known before the first.",
        write: GroupLines::Server(|group, server| {
            let (_, recorded) = group.latest(server)?;
            Some(UnixMs(group.now.0.saturating_sub(millis(recorded.since))).to_string())
        }),
    },
    GroupFamily {
        name: "nginx_upstream_check_interval_seconds",
        kind: "gauge",
        help: "From the start of one health check to the start of the next, of the check that is \
               most behind.",
        write: GroupLines::Server(|group, server| {
            let (check, _) = group.latest(server)?;
            Some(seconds(check.interval()).to_string())
        }),
    },
    GroupFamily {
        name: "nginx_upstream_check_duration_seconds",
        kind: "summary",
        help: "Durations of health checks.",
        write: GroupLines::Servers(|server| {
            let counters = server.counters();
            let count = counters.passed + counters.failed + counters.inconclusive;
            vec![
                ("_sum", String::new(), seconds(counters.duration).to_string()),
                ("_count", String::new(), count.to_string()),
            ]
        }),
    },
    GroupFamily {
        name: "nginx_upstream_state_changes_total",
        kind: "counter",
        help: "How often health checks have changed the state of the server.",
        write: GroupLines::Server(|_, server| Some(server.counters().changes.to_string())),
    },
    GroupFamily {
        name: "nginx_upstream_peers_unchecked",
        kind: "gauge",
        help: "Servers that are not checked, since there is no room for their records.",
        write: GroupLines::Group(|group| {
            let unchecked = group.servers.iter().filter(|server| server.is_unchecked());
            unchecked.count().to_string()
        }),
    },
    GroupFamily {
        name: "nginx_upstream_fail_open",
        kind: "gauge",
        help: "Whether requests are passed to all servers, since too few are healthy.",
        write: GroupLines::Group(|group| u8::from(group.fails_open).to_string()),
    },
];

/// The metrics, one family after the other.
#[derive(Debug, Default)]
pub(in crate::api) struct GroupMetrics {
    family: usize,
    /// The group that is next, and the first of its servers that was not written.
    next: (usize, usize),
    view: Option<GroupView>,
}

/// So many servers are written at a time.
const SERVERS: usize = 16;

impl GroupMetrics {
    /// Appends what comes next.
    pub(in crate::api) fn write(&mut self, groups: &impl Upstreams, out: &mut Vec<u8>) -> Then {
        let Some(family) = FAMILIES.get(self.family).filter(|_| groups.count() > 0) else {
            return Then::End;
        };
        let (number, first) = self.next;
        if (number, first) == (0, 0) {
            head(out, family.name, family.kind, family.help);
        }
        // Each family has the same servers, read anew: what is kept meanwhile is one group.
        if first == 0 {
            self.view = groups.view(number);
        }
        let Some(group) = &self.view else {
            *self = Self { family: self.family + 1, ..Self::default() };
            return Then::More;
        };
        let mut servers = group.distinct().skip(first).peekable();
        for server in servers.by_ref().take(SERVERS) {
            family.write_server(group, server, out);
        }
        if servers.peek().is_some() {
            self.next = (number, first + SERVERS);
        } else {
            family.write_group(group, out);
            self.next = (number + 1, 0);
        }
        Then::More
    }
}

impl GroupFamily {
    fn write_server(&self, group: &GroupView, server: &ServerView, out: &mut Vec<u8>) {
        let (name, upstream, peer) = (self.name, escape(&group.name), escape(&server.server));
        let backup = server.backup;
        let samples = match self.write {
            GroupLines::Server(value) => {
                value(group, server).map(|value| vec![("", String::new(), value)])
            }
            GroupLines::Servers(samples) => Some(samples(server)),
            GroupLines::Group(_) => None,
        };
        for (behind, more, value) in samples.into_iter().flatten() {
            // Writing to memory cannot fail.
            let _ = writeln!(
                out,
                "{name}{behind}{{upstream=\"{upstream}\",peer=\"{peer}\",backup=\"{backup}\"{more}}} {value}"
            );
        }
    }

    fn write_group(&self, group: &GroupView, out: &mut Vec<u8>) {
        if let GroupLines::Group(value) = self.write {
            let (name, upstream, value) = (self.name, escape(&group.name), value(group));
            let _ = writeln!(out, "{name}{{upstream=\"{upstream}\"}} {value}");
        }
    }
}

fn millis(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::view::samples::group;
    use super::*;
    use crate::health::verdict::Standing;

    struct These(Vec<GroupView>);

    impl Upstreams for These {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn view(&self, number: usize) -> Option<GroupView> {
            self.0.get(number).cloned()
        }
    }

    fn written(groups: Vec<GroupView>) -> String {
        let (mut metrics, mut out, groups) = (GroupMetrics::default(), Vec::new(), These(groups));
        while metrics.write(&groups, &mut out) == Then::More {}
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn there_is_nothing_without_groups() {
        assert_eq!(written(Vec::new()), "");
    }

    #[test]
    fn each_family_has_all_servers_once() {
        let mut large = group(&[Standing::Healthy; 40]);
        large.servers[39].server = large.servers[0].server.clone();
        let mut large = large.clone().with(large.servers);
        large.name = "large".to_owned();
        let text = written(vec![group(&[Standing::Unhealthy]), large]);
        for family in FAMILIES {
            let heads = text.matches(&format!("# TYPE {} ", family.name)).count();
            assert_eq!(heads, 1, "{}", family.name);
        }
        assert_eq!(text.matches("\nnginx_upstream_peer_up{").count(), 40);
        assert_eq!(text.matches("\nnginx_upstream_peers_unchecked{").count(), 2);
        let mut series: Vec<&str> =
            text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name).collect();
        let count = series.len();
        series.sort_unstable();
        series.dedup();
        assert_eq!(series.len(), count, "each sample is there once");
        let line = "nginx_upstream_peer_state{upstream=\"back\\\"end\",peer=\"127.0.0.1:8000\",\
                    backup=\"false\",state=\"unhealthy\"} 1\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("_duration_seconds_sum{upstream=\"large\",peer=\"127.0.0.1:8001\","));
    }
}
