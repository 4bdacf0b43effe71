//! The servers of a worker's groups come and go.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::group::{CheckedGroup, Makes};
use super::target::Target;
use super::worker::{CheckWorker, DeadlineFor};
use crate::conf::HealthCheck;
use crate::health::verdict::CheckOutcome;
use crate::nginx::process;
use crate::nginx::upstream::Peer;
use crate::nth::Nth;
use crate::os::memory::{NoMemory, push};

/// How often the records and marks of all servers are looked at.
const TICK: Duration = Duration::from_secs(1);

impl CheckWorker {
    /// Looks whether servers have come or gone, or are to be marked; once a second looks at their records and
    /// marks, too.
    pub(super) fn look_at_group(&self, number: usize) {
        let Some(watched) = self.groups.get(number) else { return };
        let is_due = watched.refreshed.get().is_none_or(|last| last.elapsed() >= TICK);
        let is_other = |group: &CheckedGroup| group.has_changed() || group.has_news();
        if is_due || watched.group.try_borrow().is_ok_and(|group| is_other(&group)) {
            self.refresh(number);
            watched.refreshed.set(Some(Instant::now()));
        }
    }

    /// Reads the group's servers, and puts their marks.
    pub(super) fn refresh(&self, number: usize) {
        self.mark(number);
        self.tell_of_group(number);
        if process::is_leaving() {
            self.running().for_each(|(_, running)| running.cut_off());
        } else if self.note_servers(number).is_err() {
            self.tell_no_memory();
        }
    }

    /// Puts the marks of the group's servers.
    pub(super) fn mark(&self, number: usize) {
        let Some(watched) = self.groups.get(number) else { return };
        let makes = if process::is_leaving() { Makes::Nothing } else { Makes::Slots };
        let Ok(mut group) = watched.group.try_borrow_mut() else { return };
        if group.has_changed() {
            // The new servers are for who looks at the group next, soon.
            watched.refreshed.set(None);
        }
        group.refresh(makes);
    }

    /// A server of the group has changed its standing: marks it, here and in all other workers.
    pub(super) fn note_change(&self, number: usize) {
        let Some(watched) = self.groups.get(number) else { return };
        if let Ok(group) = watched.group.try_borrow() {
            group.note_change();
        }
        self.mark(number);
    }

    /// Tells what has happened to the group.
    pub(super) fn tell_of_group(&self, number: usize) {
        let Some(watched) = self.groups.get(number) else { return };
        if let Ok(mut group) = watched.group.try_borrow_mut() {
            group.tell();
        }
    }

    /// Compares the checks that there are with the servers of the group.
    fn note_servers(&self, number: usize) -> Result<(), NoMemory> {
        let Some(watched) = self.groups.get(number) else { return Ok(()) };
        let group = watched.group.borrow();
        let mut listed: HashSet<Box<[u8]>> = HashSet::new();
        for server in group.servers() {
            for (index, (check, slot)) in group.checks().iter().zip(&server.slots).enumerate() {
                if server.peer.down.is_configured() {
                    continue;
                }
                let key = key(index, server.peer.backup, server.peer.name());
                let known = watched.targets.borrow().get(&key).map(Rc::clone);
                let target = if let Some(target) = known {
                    target
                } else {
                    let target = self.begin_target(number, group.name(), check, &server.peer)?;
                    let Some(target) = target else { continue };
                    watched.targets.borrow_mut().insert(key.clone(), Rc::clone(&target));
                    target
                };
                if target.note_slot(*slot) {
                    self.set(target.number, Duration::ZERO);
                }
                listed.insert(key);
            }
        }
        drop(group);
        let mut gone = Vec::new();
        watched.targets.borrow_mut().retain(|key, target| {
            let stays = listed.contains(key);
            if !stays {
                gone.push(Rc::clone(target));
            }
            stays
        });
        for target in &gone {
            self.forget(target);
        }
        Ok(())
    }

    /// Begins with a check of a server; `None` if that has an address of no known kind.
    fn begin_target(
        &self,
        group: usize,
        name: &[u8],
        check: &Nth<HealthCheck>,
        peer: &Peer,
    ) -> Result<Option<Rc<Target>>, NoMemory> {
        let number = self.entry()?;
        let target = Target::new(number, group, name, check.clone(), peer).map(Rc::new);
        self.put(number, target.clone().map_or(DeadlineFor::Nothing, DeadlineFor::Target));
        Ok(target)
    }

    /// The server is in no list any more: of a check in progress nothing is learned.
    fn forget(&self, target: &Target) {
        target.is_gone.set(true);
        self.deadlines.borrow_mut().clear(target.number);
        match target.running() {
            Some(running) => {
                let _ = running.end(
                    &target.check,
                    CheckOutcome::Inconclusive,
                    "server is no longer in the group",
                );
                running.cut_off();
            }
            None if target.is_idle() => self.put(target.number, DeadlineFor::Nothing),
            // It is found gone when its turn comes.
            None => {}
        }
    }

    /// The number of an entry that is for nothing.
    fn entry(&self) -> Result<usize, NoMemory> {
        if let Some(number) = self.unused.borrow_mut().pop() {
            return Ok(number);
        }
        let number = self.deadlines.borrow_mut().join()?;
        push(&mut self.entries.borrow_mut(), DeadlineFor::Nothing)?;
        Ok(number)
    }

    pub(super) fn put(&self, number: usize, entry: DeadlineFor) {
        let is_unused = matches!(entry, DeadlineFor::Nothing);
        let before =
            self.entries.borrow_mut().get_mut(number).map(|it| std::mem::replace(it, entry));
        drop(before);
        if is_unused {
            // Without memory it stays unused for ever.
            let _ = push(&mut self.unused.borrow_mut(), number);
        }
    }
}

/// What a check of a group is known by in this worker.
fn key(check: usize, backup: bool, name: &[u8]) -> Box<[u8]> {
    [check.to_le_bytes().as_slice(), [u8::from(backup)].as_slice(), name].concat().into()
}
