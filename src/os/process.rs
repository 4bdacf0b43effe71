//! Which process it is, and whether it lives.

use std::fs;
use std::io;

/// When the process was started, in clock ticks since boot, cut to 32 bits; 0 if that cannot be read.
/// A pid means something only together with it. See `proc_pid_stat(5)`.
pub fn start_time(pid: u32) -> u32 {
    stat(pid).map_or(0, |stat| stat.started)
}

/// Whether the process lives that has this pid and was started at this instant (0: at any); a zombie
/// does not, as it holds no descriptors and no locks any more.
pub fn is_alive(pid: u32, started: u32) -> bool {
    if let Some(stat) = stat(pid) {
        return !stat.is_zombie && (started == 0 || started == stat.started);
    }
    exists(pid)
}

/// Whether a process has this pid, be it a zombie: costs one system call.
pub fn exists(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: takes plain numbers; signal 0 is none.
    let answer = unsafe { libc::kill(pid, 0) };
    answer == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

struct Stat {
    is_zombie: bool,
    started: u32,
}

/// What `/proc` says of a process; `None` where it says nothing.
fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(stat: &str) -> Option<Stat> {
    // The name, in parentheses, may contain anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    // Field 22; the state is field 3.
    let started: u64 = fields.nth(18)?.parse().ok()?;
    let started = u32::try_from(started & u64::from(u32::MAX)).ok()?;
    Some(Stat { is_zombie: matches!(state, "Z" | "X"), started })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_pid_and_start() {
        let own = std::process::id();
        let started = start_time(own);
        assert!(started > 0);
        assert!(is_alive(own, started) && is_alive(own, 0));
        assert!(!is_alive(own, started + 1));
        assert!(!is_alive(u32::MAX, 0));
        assert!(exists(own) && !exists(u32::MAX));
    }

    #[test]
    fn a_name_may_look_like_fields() {
        let fields = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        let stat = parse(&format!("42 (a) R 7 (b) {fields}")).unwrap();
        assert_eq!((stat.started, stat.is_zombie), (4711, false));
        assert!(parse("42 (a) Z 1").is_none());
    }
}
