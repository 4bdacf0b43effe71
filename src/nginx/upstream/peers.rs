//! The servers of a group: read, and marked so that no balancer chooses them.

use ngx::ffi::ngx_http_upstream_srv_conf_t;

use super::group::Group;
pub use super::list::UnknownLayout;
use super::list::{DownBits, PeerEntry, PeerList};
use crate::os::memory::{NoMemory, fallible};

/// Why a server of ours gets no requests: a bit for each reason, in a field in which nginx and other
/// modules have theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// None.
    #[default]
    Nothing,
    /// Its checks fail.
    Unhealthy,
    /// There was no check yet.
    Checking,
}

const UNHEALTHY: usize = 1 << 28;
const CHECKING: usize = 1 << 29;
const OURS: usize = UNHEALTHY | CHECKING;
/// `down` in the configuration.
const CONFIGURED: usize = 1;
/// `drain`, since nginx 1.29.6.
const DRAINING: usize = 8;

impl Mark {
    fn wanted(self) -> DownBits {
        let bits = match self {
            Self::Nothing => 0,
            Self::Unhealthy => UNHEALTHY,
            Self::Checking => CHECKING,
        };
        DownBits { of: OURS, bits }
    }
}

/// Why a server gets no requests, whoever says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Down(usize);

impl Down {
    /// `down` in the configuration.
    pub fn is_configured(self) -> bool {
        self.0 & CONFIGURED != 0
    }

    /// It only gets requests of sessions that it has.
    pub fn is_draining(self) -> bool {
        self.0 & DRAINING != 0
    }

    /// For a reason that is neither ours nor nginx's.
    pub fn by_unknown(self) -> bool {
        self.0 & !(OURS | CONFIGURED | DRAINING) != 0
    }

    /// What of it is ours.
    pub fn mark(self) -> Mark {
        match self.0 & OURS {
            0 => Mark::Nothing,
            CHECKING => Mark::Checking,
            _ => Mark::Unhealthy,
        }
    }
}

/// A copy of what a list says of a server.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    name: Short<255>,
    server: Short<255>,
    address: Short<128>,
    /// Whether it is in the list of the `backup` servers.
    pub backup: bool,
    /// Why it gets no requests.
    pub down: Down,
    /// `weight=`
    pub weight: isize,
    /// Requests in progress.
    pub conns: usize,
    /// `max_conns=`; 0 for none.
    pub max_conns: usize,
    /// Failed attempts of clients' requests.
    pub fails: usize,
    /// `max_fails=`; 0 for none.
    pub max_fails: usize,
    /// `fail_timeout=` in seconds.
    pub fail_timeout: i64,
    /// When it was last tried after failures, by nginx's clock.
    pub checked: i64,
}

impl Peer {
    fn of(entry: &PeerEntry<'_>, backup: bool) -> Self {
        Self {
            name: Short::of(entry.name()),
            server: Short::of(entry.server()),
            address: Short::of(entry.address()),
            backup,
            down: Down(entry.down()),
            weight: entry.weight(),
            conns: entry.conns(),
            max_conns: entry.max_conns(),
            fails: entry.fails(),
            max_fails: entry.max_fails(),
            fail_timeout: entry.fail_timeout(),
            checked: entry.checked(),
        }
    }

    /// Its address, as nginx prints it.
    pub fn name(&self) -> &[u8] {
        self.name.bytes()
    }

    /// What the configuration, or an SRV record, calls it.
    pub fn server(&self) -> &[u8] {
        self.server.bytes()
    }

    /// The bytes of its `sockaddr`.
    pub fn address(&self) -> &[u8] {
        self.address.bytes()
    }
}

/// A copy of a string without an allocation; longer ones are cut.
#[derive(Clone, Copy, Debug)]
struct Short<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Short<N> {
    fn of(from: &[u8]) -> Self {
        let mut bytes = [0; N];
        let mut len = 0;
        for (to, from) in bytes.iter_mut().zip(from).take(255) {
            *to = *from;
            len += 1;
        }
        Self { bytes, len }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// Which servers a group has: another value when servers have come or gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Membership([Option<(usize, usize)>; 2]);

/// The servers of a group, as they were.
#[derive(Debug, Default)]
pub struct Peers {
    /// The primary ones, then those that are `backup`, each in the order of its list.
    pub peers: Vec<Peer>,
    /// Which these are.
    pub membership: Membership,
}

/// Why the servers of a group could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeersUnreadable {
    /// Its configuration is gone.
    Gone,
    /// Its lists are not as the headers have them.
    UnknownLayout,
    /// There is no memory for a copy.
    NoMemory,
}

impl From<UnknownLayout> for PeersUnreadable {
    fn from(_: UnknownLayout) -> Self {
        Self::UnknownLayout
    }
}

impl From<NoMemory> for PeersUnreadable {
    fn from(_: NoMemory) -> Self {
        Self::NoMemory
    }
}

/// The result of the marking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// So many servers had other marks.
    Changed(usize),
    /// Servers have come or gone: they are to be read again.
    OtherServers,
}

impl Group {
    /// Copies of its servers.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub fn peers(self) -> Result<Peers, PeersUnreadable> {
        let (first, backup) = self.lists()?;
        loop {
            let expected = first.len() + backup.map_or(0, PeerList::len);
            let mut room = Vec::new();
            fallible(|| room.try_reserve_exact(expected))?;
            let mut peers = Peers { peers: room, ..Peers::default() };
            let (room, mut fits) = (&mut peers.peers, true);
            let mut membership = peers.membership.0.iter_mut();
            for (list, backup) in [(Some(first), false), (backup, true)] {
                let (Some(list), Some(of)) = (list, membership.next()) else { continue };
                // Nothing is allocated while it is locked.
                let locked = list.read();
                locked.each(|entry| {
                    fits = room.len() < room.capacity();
                    if fits {
                        room.push(Peer::of(&entry, backup));
                    }
                    fits
                })?;
                *of = Some(list.membership());
            }
            if fits {
                return Ok(peers);
            }
        }
    }

    /// Whether servers have come or gone since; takes no lock.
    pub fn has_changed(self, membership: Membership) -> bool {
        self.lists().is_ok_and(|(first, backup)| {
            [Some(first), backup].map(|list| list.map(PeerList::membership)) != membership.0
        })
    }

    /// Whether its servers have these marks; `None` if they are others.
    fn is_marked(
        self,
        membership: Membership,
        wanted: &[Mark],
    ) -> Result<Option<bool>, PeersUnreadable> {
        let (first, backup) = self.lists()?;
        let mut wanted = wanted.iter();
        let mut same = true;
        for (list, of) in [Some(first), backup].into_iter().zip(membership.0) {
            let Some(list) = list else { continue };
            let locked = list.read();
            if of != Some(list.membership()) {
                return Ok(None);
            }
            locked.each(|entry| {
                let mark = wanted.next().copied().unwrap_or_default().wanted();
                same &= mark.in_place(entry.down()) == entry.down();
                true
            })?;
        }
        Ok(Some(same))
    }

    /// Gives its servers these marks, in the order in which they were read.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn mark(self, membership: Membership, wanted: &[Mark]) -> Result<Marked, PeersUnreadable> {
        match self.is_marked(membership, wanted)? {
            None => return Ok(Marked::OtherServers),
            Some(true) => return Ok(Marked::Changed(0)),
            Some(false) => {}
        }
        let (first, backup) = self.lists()?;
        let (mut from, mut changed) = (0, 0);
        for (list, of) in [Some(first), backup].into_iter().zip(membership.0) {
            let Some(list) = list else { continue };
            let exclusive = list.write();
            if of != Some(list.membership()) {
                return Ok(Marked::OtherServers);
            }
            changed += exclusive.put(|_, at| wanted.get(from + at).map(|mark| mark.wanted()))?;
            from += list.len();
        }
        Ok(Marked::Changed(changed))
    }

    /// Gives all servers that `resolve` finds from now on this mark.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn mark_new(self, mark: Mark) -> Result<(), PeersUnreadable> {
        let (first, backup) = self.lists()?;
        for list in [Some(first), backup].into_iter().flatten() {
            let wanted = mark.wanted();
            let mut same = true;
            list.read().each_template(|entry| {
                same &= wanted.in_place(entry.down()) == entry.down();
            })?;
            if !same {
                list.write().put_into_templates(wanted)?;
            }
        }
        Ok(())
    }

    /// How many servers of it are found by `resolve`.
    ///
    /// # Errors
    ///
    /// Why they cannot be counted.
    pub fn templates(self) -> Result<usize, PeersUnreadable> {
        let (first, backup) = self.lists()?;
        let mut count = 0;
        for list in [Some(first), backup].into_iter().flatten() {
            list.read().each_template(|_| count += 1)?;
        }
        Ok(count)
    }

    fn lists<'a>(self) -> Result<(PeerList<'a>, Option<PeerList<'a>>), PeersUnreadable> {
        let conf: std::ptr::NonNull<ngx_http_upstream_srv_conf_t> =
            self.conf().ok_or(PeersUnreadable::Gone)?;
        // The lists are used within one call into this module, in which no configuration goes.
        // SAFETY: a group that is there; before its zone was made its list is in no shared memory,
        // which is found out.
        let first = unsafe { PeerList::first(conf) }?;
        Ok((first, first.backup()?))
    }
}
