//! A group's servers with their records, and its marks.

use crate::conf::{HealthCheck, MainConf, Mandatory};
use crate::health::records::{Flag, Key, NoSlot, Records, Slot};
use crate::health::shared;
use crate::health::verdict::{HealthyShare, Standing, of_all};
use crate::nginx::escaped;
use crate::nginx::log::{Level, Log};
use crate::nginx::upstream::{Group, Mark, Marked, Membership, Peer, PeersUnreadable};
use crate::nth::Nth;
use crate::os::{monotonic, wall_clock};

/// Whether slots are made for servers that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Makes {
    /// They are.
    Slots,
    /// Not by a worker that leaves, whose configuration is not the newest.
    Nothing,
}

/// A group with health checks, as one process sees it.
pub struct CheckedGroup {
    group: Group,
    name: Vec<u8>,
    checks: Vec<Nth<HealthCheck>>,
    servers: Vec<CheckedServer>,
    /// Which servers these are; `None` before they were read.
    membership: Option<Membership>,
    /// Its slot, and how often its servers had changed their standing when they were marked.
    marked: Option<(Slot<'static>, u64)>,
    /// What has happened to `fail_open`, until it is told.
    lifted: Option<(HealthyShare, bool)>,
    /// Where this cannot work: told once.
    unknown_layout: bool,
}

/// A server of a group.
#[derive(Clone, Debug)]
pub struct CheckedServer {
    /// What the group's list says of it.
    pub peer: Peer,
    /// Its slots, in the order of the group's checks; none where there is no room, and none of a server
    /// that is configured `down`.
    pub slots: Vec<Option<Slot<'static>>>,
    /// The mark that it has while its slots are being made.
    mark: Mark,
}

impl CheckedGroup {
    /// All groups that have checks, in the order of their first check.
    pub fn all(main: &MainConf) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for check in main.each_health_check() {
            match groups.iter_mut().find(|group| group.group == check.group) {
                Some(group) => group.checks.push(check),
                None => groups.push(Self {
                    group: check.group,
                    name: check.group.name(),
                    checks: vec![check],
                    servers: Vec::new(),
                    membership: None,
                    marked: None,
                    lifted: None,
                    unknown_layout: false,
                }),
            }
        }
        groups
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The group.
    pub fn group(&self) -> Group {
        self.group
    }

    /// Its checks.
    pub fn checks(&self) -> &[Nth<HealthCheck>] {
        &self.checks
    }

    /// Its servers when it was refreshed last.
    pub fn servers(&self) -> &[CheckedServer] {
        &self.servers
    }

    /// The server of this name.
    pub fn server(&self, name: &[u8], backup: bool) -> Option<&CheckedServer> {
        self.servers.iter().find(|it| it.peer.backup == backup && it.peer.name() == name)
    }

    /// The key of a server's slot for a check.
    pub fn key(&self, peer: &Peer, check: &HealthCheck) -> Key {
        Key::of_server(&self.name, &check.identity.to_bytes(), peer.name(), peer.backup)
    }

    /// The slot of the group itself.
    pub fn slot(&self, records: Records<'static>) -> Option<Slot<'static>> {
        records.find(&Key::of_group(&self.name))
    }

    /// Whether servers have come or gone since it was refreshed; takes no lock.
    pub fn has_changed(&self) -> bool {
        self.membership.is_none_or(|membership| self.group.has_changed(membership))
    }

    /// Whether servers have changed their standing since they were marked: by the check of a worker that has
    /// marked them in a zone of its own alone, if that is one of another configuration.
    pub fn has_news(&self) -> bool {
        self.marked.is_some_and(|(slot, changes)| slot.changes() != changes)
    }

    /// A server has changed its standing: all workers are to mark it.
    pub fn note_change(&self) {
        if let Some((slot, _)) = self.marked {
            slot.note_change();
        }
    }

    /// Looks for new servers and for lost slots, and puts the marks that the servers are to have; once a
    /// second, and when one of them has changed its standing. What [`Self::tell`] has to tell comes of it.
    pub fn refresh(&mut self, makes: Makes) {
        let Some(records) = shared::records() else { return };
        // Servers that come and go without end are looked at again in a second.
        for _ in 0..3 {
            let refreshed = self.read().and_then(|()| {
                self.find_slots(records, makes);
                self.mark(records, makes)
            });
            match refreshed {
                Ok(Marked::OtherServers) => self.membership = None,
                Ok(Marked::Changed(_)) | Err(PeersUnreadable::Gone | PeersUnreadable::NoMemory) => {
                    return;
                }
                Err(PeersUnreadable::UnknownLayout) => return self.tell_of_layout(),
            }
        }
    }

    /// Reads the servers, if they are others than before.
    fn read(&mut self) -> Result<(), PeersUnreadable> {
        if !self.has_changed() {
            return Ok(());
        }
        let peers = self.group.peers()?;
        let checks = self.checks.len();
        let servers = peers.peers.into_iter().map(|peer| {
            let known = self.server(peer.name(), peer.backup);
            let slots = known.map_or_else(|| vec![None; checks], |known| known.slots.clone());
            CheckedServer { peer, slots, mark: peer.down.mark() }
        });
        self.servers = servers.collect();
        self.membership = Some(peers.membership);
        Ok(())
    }

    fn find_slots(&mut self, records: Records<'static>, makes: Makes) {
        let (now, wall) = (monotonic(), wall_clock());
        let slot_of = |key: &Key, standing| match makes {
            Makes::Slots => records.find_or_make(key, standing, now, wall),
            Makes::Nothing => records.find(key).ok_or(NoSlot::Busy),
        };
        let group = slot_of(&Key::of_group(&self.name), Standing::Healthy).ok();
        if let Some(slot) = group {
            slot.seen(now);
        }
        // Before the verdicts are read: what changes meanwhile is news.
        self.marked = group.map(|slot| (slot, slot.changes()));

        let mut full = false;
        for server in &mut self.servers {
            if server.peer.down.is_configured() {
                server.slots.fill(None);
                continue;
            }
            for (slot, check) in server.slots.iter_mut().zip(&self.checks) {
                if let Some(slot) = slot.filter(Slot::is_current) {
                    slot.seen(now);
                    continue;
                }
                let (identity, backup) = (check.identity.to_bytes(), server.peer.backup);
                let key = Key::of_server(&self.name, &identity, server.peer.name(), backup);
                let made = slot_of(&key, first_standing(check));
                full |= made.err() == Some(NoSlot::Full);
                *slot = made.ok();
            }
        }
        if makes == Makes::Slots
            && group.is_some_and(|slot| slot.set_flag(Flag::NoSlot, full))
            && full
        {
            let name = escaped(&self.name);
            self.log().write(Level::Error, format_args!(
                "no room for all servers of upstream \"{name}\" in the records of health checks, \
                 some are not checked"
            ));
        }
    }

    fn mark(&mut self, records: Records<'static>, makes: Makes) -> Result<Marked, PeersUnreadable> {
        let Some(membership) = self.membership else { return Ok(Marked::OtherServers) };
        let lifted = self.are_marks_lifted(records, makes);
        let no_slot = self.slot(records).is_some_and(|slot| slot.flag(Flag::NoSlot));
        for server in &mut self.servers {
            server.mark = if lifted { Mark::Nothing } else { wanted(server, makes, no_slot) };
        }
        let marks: Vec<Mark> = self.servers.iter().map(|server| server.mark).collect();
        let marked = self.group.mark(membership, &marks)?;
        let mandatory = self.checks.iter().any(|check| check.mandatory != Mandatory::No);
        let checking = mandatory && !lifted && !no_slot;
        self.group.mark_new(if checking { Mark::Checking } else { Mark::Nothing })?;
        Ok(marked)
    }

    /// Whether too few servers are healthy, so that all get requests.
    fn are_marks_lifted(&mut self, records: Records<'static>, makes: Makes) -> bool {
        let Some(slot) = self.slot(records) else { return false };
        let before = slot.flag(Flag::FailOpen);
        let percent = self.fail_open();
        if makes == Makes::Nothing {
            return before;
        }
        let share = self.share();
        let lifted = share.lifts_marks(percent, before);
        if slot.set_flag(Flag::FailOpen, lifted) {
            self.lifted = Some((share, lifted));
        }
        lifted
    }

    /// Tells whether all servers get requests now, if that has changed: behind the line of the server that
    /// has changed it.
    pub fn tell(&mut self) {
        let Some((share, lifted)) = self.lifted.take() else { return };
        let (HealthyShare { healthy, of }, name) = (share, escaped(&self.name));
        if lifted {
            let percent = self.fail_open();
            self.log().write(
                Level::Crit,
                format_args!(
                    "{healthy} of {of} servers in upstream \"{name}\" are healthy, less than \
                     {percent}%, requests are passed to all"
                ),
            );
        } else {
            self.log().write(
                Level::Notice,
                format_args!(
                    "{healthy} of {of} servers in upstream \"{name}\" are healthy, requests are \
                     passed to these"
                ),
            );
        }
    }

    /// The share of healthy servers, in percent, below which all get requests.
    pub fn fail_open(&self) -> u8 {
        self.checks.iter().map(|check| check.fail_open).max().unwrap_or(0)
    }

    /// How many of its servers are healthy.
    pub fn share(&self) -> HealthyShare {
        let servers = self.servers.iter().filter(|server| !server.peer.down.is_configured());
        let healthy = servers.clone().filter(|server| server.standing() == Standing::Healthy);
        HealthyShare { healthy: healthy.count(), of: servers.count() }
    }

    fn log(&self) -> Log {
        self.checks.first().map_or_else(Log::cycle, |check| check.location.log())
    }

    fn tell_of_layout(&mut self) {
        if !std::mem::replace(&mut self.unknown_layout, true) {
            let name = escaped(&self.name);
            self.log().write(
                Level::Emerg,
                format_args!(
                    "the servers of upstream \"{name}\" cannot be marked: unknown upstream layout"
                ),
            );
        }
    }
}

impl CheckedServer {
    /// How it stands by all of its checks.
    pub fn standing(&self) -> Standing {
        of_all(self.slots.iter().flatten().map(|slot| slot.verdict().standing))
    }
}

/// How a server stands by a check that knows nothing of it.
pub(super) fn first_standing(check: &HealthCheck) -> Standing {
    match check.mandatory {
        Mandatory::No => Standing::Healthy,
        Mandatory::Yes | Mandatory::Persistent => Standing::Checking,
    }
}

/// The mark that a server is to have.
fn wanted(server: &CheckedServer, makes: Makes, no_slot: bool) -> Mark {
    if server.peer.down.is_configured() {
        return Mark::Nothing;
    }
    // A slot that another worker is just making says nothing yet.
    let unknown = makes == Makes::Slots && !no_slot && server.slots.iter().any(Option::is_none);
    match server.standing() {
        Standing::Unhealthy => Mark::Unhealthy,
        Standing::Checking => Mark::Checking,
        Standing::Healthy if unknown => server.mark,
        Standing::Healthy => Mark::Nothing,
    }
}
