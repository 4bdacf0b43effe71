//! What a new configuration needs before a worker serves a request by it: room for the records, and
//! the marks of the servers in its zones.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use super::group::{CheckedGroup, Makes, first_standing};
use crate::conf::{MainConf, Mandatory, tell_of_timeouts};
use crate::health::records::{Key, Records, Slot};
use crate::health::shared;
use crate::health::verdict::Standing;
use crate::nginx::conf::{Opening, Purpose, Unusable};
use crate::nginx::process::{is_leaving, is_reload};
use crate::nginx::upstream::PeersUnreadable;
use crate::os::wall_clock;

/// So many servers a name may have at a time.
const RESOLVED: usize = 256;

thread_local! {
    /// The configuration in use.
    static IN_USE: RefCell<Option<Rc<()>>> = const { RefCell::new(None) };
}

/// Makes room for a configuration that was read; looks only, for a test of it.
///
/// # Errors
///
/// There is no memory, or the lists of this nginx are not as the module knows them.
pub fn open(main: &MainConf, opening: &Opening) -> Result<(), Unusable> {
    tell_of_timeouts(main, opening);
    let mut slots = 0_usize;
    for group in CheckedGroup::all(main) {
        let count = count(&group).map_err(|why| match why {
            PeersUnreadable::UnknownLayout | PeersUnreadable::Gone => {
                unusable("\"health_check\" is not supported by this nginx: unknown upstream layout")
            }
            PeersUnreadable::NoMemory => unusable("timer: no memory"),
        })?;
        slots = slots.saturating_add(count.saturating_mul(group.checks().len())).saturating_add(1);
    }
    if opening.purpose == Purpose::Test {
        return Ok(());
    }
    shared::prepare(slots).map_err(|error| Unusable {
        why: "timer: no memory for the records of health checks".to_owned(),
        errno: error.raw_os_error().unwrap_or(0),
    })
}

fn count(group: &CheckedGroup) -> Result<usize, PeersUnreadable> {
    let servers = group.group().peers()?.peers.len();
    let names = group.group().templates()?;
    Ok(servers.saturating_add(names.saturating_mul(RESOLVED)))
}

fn unusable(why: &str) -> Unusable {
    Unusable { why: why.to_owned(), errno: 0 }
}

/// Takes the configuration up: what is of none of its checks is forgotten, and the marks are put into its
/// zones.
pub(super) fn load(main: &MainConf) {
    let was_loaded = shared::records().is_some() && is_reload();
    shared::take_up();
    let by = Rc::new(());
    IN_USE.set(Some(Rc::clone(&by)));
    main.at_end(move || has_gone(&by));
    let Some(records) = shared::records() else { return };
    let mut groups = CheckedGroup::all(main);
    forget_others(records, &groups);
    if was_loaded {
        for group in &groups {
            begin_anew(records, group);
        }
    }
    for group in &mut groups {
        group.refresh(Makes::Slots);
        group.tell();
    }
}

/// A configuration has gone. If none of ours has followed it, and nginx goes on, there is no `http` block any
/// more, or the module was taken out: all checks are gone.
fn has_gone(by: &Rc<()>) {
    if is_leaving() {
        return;
    }
    let in_use = IN_USE.with_borrow_mut(|in_use| in_use.take_if(|in_use| Rc::ptr_eq(in_use, by)));
    if in_use.is_some() {
        super::end();
        if let Some(records) = shared::records() {
            records.retire_unless(|_| false);
        }
    }
}

/// Gives up the slots of checks that are gone, and of servers that are configured no more.
fn forget_others(records: Records<'_>, groups: &[CheckedGroup]) {
    let mut wanted: HashSet<Key> = HashSet::new();
    // Of servers that are found by name only those are known that are there now.
    let mut of_names: HashSet<u64> = HashSet::new();
    for group in groups {
        wanted.insert(Key::of_group(group.name()));
        let servers = group.group().peers().map(|peers| peers.peers);
        let by_name = group.group().templates().map_or(true, |count| count > 0) || servers.is_err();
        for check in group.checks() {
            let identity = check.identity.to_bytes();
            if by_name {
                of_names.insert(Key::of_server(group.name(), &identity, b"", false).check());
            }
            for peer in servers.iter().flatten().filter(|peer| !peer.down.is_configured()) {
                wanted.insert(group.key(peer, check));
            }
        }
    }
    records.retire_unless(|slot: &Slot<'_>| {
        let key = slot.key();
        wanted.contains(&key) || of_names.contains(&key.check())
    });
}

/// Servers of a check that is mandatory are checked before they get requests, after a reload too.
fn begin_anew(records: Records<'_>, group: &CheckedGroup) {
    let Ok(peers) = group.group().peers() else { return };
    for check in group.checks() {
        let standing = first_standing(check);
        for peer in &peers.peers {
            let Some(slot) = records.find(&group.key(peer, check)) else { continue };
            let keeps = match check.mandatory {
                Mandatory::No => true,
                Mandatory::Yes => false,
                Mandatory::Persistent => slot.verdict().standing == Standing::Healthy,
            };
            if !keeps {
                slot.begin_anew(standing, wall_clock());
            }
        }
    }
}
