//! Whether a group is well.

use std::fmt::Write as _;

use super::view::GroupView;

/// Lines that say what is wrong with a group; none if all is well.
pub(in crate::api) fn complaints(group: &GroupView) -> String {
    let (mut lines, name) = (String::new(), &group.name);
    // Writing to memory cannot fail.
    if group.unreadable {
        let _ = writeln!(lines, "upstream {name}: servers cannot be read");
        return lines;
    }
    match group.share() {
        (0, 0) if group.is_out_of_use() => {}
        (0, 0) => {
            let _ = writeln!(lines, "upstream {name}: no servers");
        }
        (0, of) => {
            let _ = writeln!(lines, "upstream {name}: no healthy server of {of}");
        }
        _ => {}
    }
    for server in group.servers.iter().filter(|server| !server.is_configured_down) {
        let address = &server.server;
        if server.is_unchecked() {
            let _ = writeln!(lines, "upstream {name}: {address} is not checked");
        }
        for (check, recorded) in group.checks.iter().zip(&server.checks) {
            let Some(recorded) = recorded else { continue };
            if let Some(since) = recorded.overdue(check) {
                let seconds = since.as_secs();
                let _ = writeln!(lines, "upstream {name}: {address} not checked for {seconds}s");
            }
            if recorded.verdict.is_still_checking() {
                let count = recorded.verdict.inconclusive;
                let _ = writeln!(
                    lines,
                    "upstream {name}: {address} is checking, {count} checks were inconclusive"
                );
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::view::samples::group;
    use super::*;
    use crate::health::verdict::Standing;

    #[test]
    fn one_healthy_server_is_enough() {
        assert_eq!(complaints(&group(&[Standing::Healthy, Standing::Unhealthy])), "");
        let none = complaints(&group(&[Standing::Checking, Standing::Unhealthy]));
        assert_eq!(none, "upstream back\"end: no healthy server of 2\n");
    }

    #[test]
    fn what_is_not_checked_is_told() {
        let mut group = group(&[Standing::Healthy; 3]);
        group.servers[0].checks = vec![None];
        group.servers[1].checks[0].as_mut().unwrap().since = Duration::from_secs(20);
        assert_eq!(
            complaints(&group),
            "upstream back\"end: 127.0.0.1:8000 is not checked\n\
             upstream back\"end: 127.0.0.1:8001 not checked for 20s\n"
        );
    }

    #[test]
    fn a_group_without_servers_is_told_unless_all_are_down_on_purpose() {
        let mut group = group(&[Standing::Healthy, Standing::Unhealthy]);
        group.servers.iter_mut().for_each(|server| server.is_configured_down = true);
        assert_eq!(complaints(&group), "");
        group.has_names = true;
        assert_eq!(complaints(&group), "upstream back\"end: no servers\n");
        group.has_names = false;
        group.servers.clear();
        assert_eq!(complaints(&group), "upstream back\"end: no servers\n");
    }

    #[test]
    fn three_inconclusive_checks_of_a_new_server_are_too_many() {
        let mut group = group(&[Standing::Healthy, Standing::Checking]);
        group.servers[1].checks[0].as_mut().unwrap().verdict.inconclusive = 3;
        let told = "upstream back\"end: 127.0.0.1:8001 is checking, 3 checks were inconclusive\n";
        assert_eq!(complaints(&group), told);
    }
}
