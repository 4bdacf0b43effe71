//! What a load says of the timers: written in `init_module`, when nothing can refuse the cycle
//! any more.

use std::collections::HashSet;
use std::mem;

use crate::schedule::UnixMs;
use crate::state::policy::decide::Scheduled;
use crate::state::record::claim_part::ClaimPart;
use crate::state::record::control::{Control, NotIts, Presence};
use crate::state::record::format::{CLAIM, CONTROL, HEADER_CONTROL, Part, RECEIVERS, name_hash};
use crate::state::record::header::{HeaderControl, Newness};
use crate::state::worker::locked::Locked;
use crate::state::worker::notice::{Action, Notice};
use crate::state::worker::paged_file::{PagedFile, read_identity};
use crate::state::worker::store::{Record, Steps};

use super::allocate::try_lock;
use super::file::Opener;
use super::quota::Quota;
use super::state::State;

/// `first=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// A timer that the state has never seen runs at once.
    Now,
    /// It runs at its first due time.
    Due,
}

/// A timer as the configuration has it.
#[derive(Clone, Copy, Debug)]
pub struct Loaded<'a> {
    /// Its record.
    pub record: &'a Record,
    /// A stable hash of `every`, `offset`, `cron` and `tz`.
    pub schedule_hash: u64,
    /// `enabled=`.
    pub scheduled: Scheduled,
    /// `first=`.
    pub first: First,
    /// The ids of those who are told of its events; 0 for none.
    pub receivers: [u32; RECEIVERS],
}

/// Where the timers that are loaded were before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// In the configuration that this instance had last, which may be long ago.
    Loaded,
    /// Out of the configuration: this nginx runs, and had no timers until now.
    Out,
}

/// A load in progress, with one instant for all: its opener's. Never fails; what could not be written is a
/// notice.
#[derive(Debug)]
pub(in crate::state) struct Loading {
    newness: Newness,
    before: Before,
    /// The hashes of the names of all timers.
    names: HashSet<u64>,
    next: usize,
    /// The next page that is looked at for a record that is absent now.
    page: u32,
    pages: u32,
    notices: Vec<Notice>,
}

impl Loading {
    pub(in crate::state) fn new(pages: &PagedFile, before: Before) -> Self {
        let identity = read_identity(pages).ok().and_then(Result::ok);
        let newness = identity.as_ref().map_or(Newness::Recovered, |seen| seen.newness);
        let pages = identity.map_or(0, |identity| identity.pages);
        Self {
            newness,
            before,
            names: HashSet::new(),
            next: 0,
            page: 1,
            pages,
            notices: Vec::new(),
        }
    }

    /// Writes as many records as `quota` says; answers whether all are written. `timer` answers the timers
    /// by their numbers.
    pub(in crate::state) fn go_on<'a>(
        &mut self,
        pages: &PagedFile,
        timer: &dyn Fn(usize) -> Option<Loaded<'a>>,
        opener: &mut Opener<'_>,
        quota: &mut Quota,
    ) -> bool {
        while let Some(timer) = timer(self.next) {
            if !quota.take() {
                return false;
            }
            load(pages, &timer, self.newness, self.before, opener, &mut self.notices);
            if self.names.try_reserve(1).is_ok() {
                self.names.insert(timer.record.name_hash);
            } else {
                // Without all names nothing is known to be absent.
                self.page = self.pages;
            }
            self.next += 1;
        }
        while self.page < self.pages {
            if !quota.take() {
                return false;
            }
            mark_absent(pages, self.page, &self.names, opener);
            self.page += 1;
        }
        true
    }

    /// What there is to log. `names` are those of all timers.
    pub(in crate::state) fn end(
        &mut self,
        state: &State,
        pages: &PagedFile,
        names: &HashSet<&str>,
        opener: &mut Opener<'_>,
    ) -> Vec<Notice> {
        if self.newness == Newness::Recovered {
            end_recovery(pages, opener, &mut self.notices);
        }
        let header = pages.read_part::<{ HEADER_CONTROL.bytes }>(HEADER_CONTROL, 0);
        let header = header.ok().and_then(|bytes| HeaderControl::decode(&bytes));
        if let Some(paused) = header.and_then(|header| header.paused) {
            if paused.holds(opener.now) {
                self.notices.push(Notice::IsPaused { name: None, since: paused.since });
            }
        }
        let failed = |notice: &Notice| matches!(notice, Notice::Failed { .. });
        state.note_load(names, self.notices.iter().any(failed));
        mem::take(&mut self.notices)
    }
}

impl State {
    /// Writes into the records what this configuration says. Never fails; what could not be written is a
    /// notice.
    pub fn load(
        &self,
        timers: &[Loaded<'_>],
        before: Before,
        opener: &mut Opener<'_>,
    ) -> Vec<Notice> {
        if self.waits() {
            return Vec::new();
        }
        let names = timers.iter().map(|timer| timer.record.name()).collect();
        let loaded = self.with_pages(|pages| {
            let mut loading = Loading::new(pages, before);
            loading.go_on(pages, &|number| timers.get(number).copied(), opener, &mut Quota::All);
            loading.end(self, pages, &names, opener)
        });
        loaded.unwrap_or_else(|| {
            self.note_load(&names, false);
            Vec::new()
        })
    }

    /// Writes into the records that this instance has no timers here any more.
    pub fn leave(&self, opener: &mut Opener<'_>) {
        if self.waits() {
            return;
        }
        self.with_pages(|pages| {
            if let Ok(Ok(identity)) = read_identity(pages) {
                for page in 1..identity.pages {
                    mark_absent(pages, page, &HashSet::new(), opener);
                }
            }
        });
    }
}

fn load(
    pages: &PagedFile,
    timer: &Loaded<'_>,
    newness: Newness,
    before: Before,
    opener: &mut Opener<'_>,
    notices: &mut Vec<Notice>,
) {
    let name = || timer.record.name.clone();
    let Some(page) = timer.record.page else { return };
    let Some(_edit) = lock(pages, CONTROL, page, opener) else {
        return notices.push(Notice::NotLoaded { name: name() });
    };
    let now = opener.now;
    let bytes = pages.read_part::<{ CONTROL.bytes }>(CONTROL, page);
    let mut control = match bytes.map(|bytes| Control::decode(&bytes, timer.record.name())) {
        Ok(Ok(control)) => control,
        Ok(Err(NotIts::Others)) => return notices.push(Notice::Lost { name: name() }),
        Ok(Err(NotIts::Damaged)) => {
            notices.push(Notice::Damaged { name: name() });
            Control::anew(now)
        }
        Err(error) => return notices.push(Notice::Failed { action: Action::Read, error }),
    };
    let presence = match timer.scheduled {
        Scheduled::On => Presence::Enabled,
        Scheduled::Off => Presence::Disabled,
    };
    control.keep_receivers(&timer.receivers);
    let changed = control.schedule_hash != timer.schedule_hash;
    // Whatever the record says: nobody was there to say otherwise.
    let was_out = before == Before::Out && control.seen_by == opener.pid_file.hash();
    match control.presence {
        Presence::Unloaded => {
            // The watermark is born at the same instant, or just before it, so that `created` is
            // a due time.
            let never_seen = newness == Newness::Ordinary && presence == Presence::Enabled;
            let first = timer.first == First::Now && never_seen;
            let born = if first { UnixMs(now.0.saturating_sub(1)) } else { now };
            let Some(_run) = lock(pages, CLAIM, page, opener) else {
                return notices.push(Notice::NotLoaded { name: name() });
            };
            let mut claim = ClaimPart::new(timer.record.name_hash, born);
            // Above what an allocation writes.
            claim.serial = 1;
            if let Err(error) = pages.write_part(CLAIM, page, &claim.encode()) {
                notices.push(Notice::Failed { action: Action::Write, error });
            }
            control.created_at = Some(now);
        }
        was if changed || was_out || was != Presence::Enabled => {
            // Rule "not before".
            control.not_before = control.not_before.max(Some(now));
            if changed && was != Presence::Absent && control.schedule_hash != 0 {
                notices.push(Notice::ScheduleChanged { name: name() });
            }
        }
        _ => {}
    }
    if let Some(paused) = control.paused.filter(|paused| paused.holds(now)) {
        notices.push(Notice::IsPaused { name: Some(name()), since: paused.since });
    }
    control.presence = presence;
    control.schedule_hash = timer.schedule_hash;
    control.last_seen_at = Some(now);
    control.seen_by = opener.pid_file.hash();
    write(pages, page, timer.record.name(), &mut control, notices);
}

/// Marks a record as absent that this instance loaded last and now no longer has. What cannot be read or
/// locked stays as it is.
fn mark_absent(pages: &PagedFile, page: u32, names: &HashSet<u64>, opener: &mut Opener<'_>) {
    let by = opener.pid_file.hash();
    let read = || pages.read_part::<{ CONTROL.bytes }>(CONTROL, page);
    let gone = |bytes: &[u8]| {
        let name = Control::name_in(bytes).filter(|name| !names.contains(&name_hash(name)))?;
        let control = Control::decode_whole(bytes);
        let is_gone = matches!(control.presence, Presence::Enabled | Presence::Disabled)
            && control.seen_by == by;
        is_gone.then(|| (Box::<str>::from(name), control))
    };
    if !read().is_ok_and(|bytes| gone(&bytes).is_some()) {
        return;
    }
    let Some(_edit) = lock(pages, CONTROL, page, opener) else { return };
    let Ok(bytes) = read() else { return };
    if let Some((name, mut control)) = gone(&bytes) {
        control.presence = Presence::Absent;
        control.last_seen_at = Some(opener.now);
        write(pages, page, &name, &mut control, &mut Vec::new());
    }
}

fn end_recovery(pages: &PagedFile, opener: &mut Opener<'_>, notices: &mut Vec<Notice>) {
    let Ok(Some(_locked)) = opener.lock_header(pages) else { return };
    let Ok(Ok(mut identity)) = read_identity(pages) else { return };
    identity.newness = Newness::Ordinary;
    if let Err(error) = pages.write(&identity.encode_part(), 0) {
        notices.push(Notice::Failed { action: Action::Write, error });
    }
}

fn write(
    pages: &PagedFile,
    page: u32,
    name: &str,
    control: &mut Control,
    notices: &mut Vec<Notice>,
) {
    control.serial = control.serial.saturating_add(1);
    if let Err(error) = pages.write_part(CONTROL, page, &control.encode(name)) {
        notices.push(Notice::Failed { action: Action::Write, error });
    }
}

/// Takes a lock that others hold for one read and one write; `None` if that takes them 127 ms, or
/// the opener has waited for long enough.
fn lock<'a>(
    pages: &'a PagedFile,
    part: Part,
    page: u32,
    opener: &mut Opener<'_>,
) -> Option<Locked<&'a PagedFile>> {
    let mut steps = Steps::default();
    loop {
        if let Some(locked) = try_lock(pages, part, page) {
            return Some(locked);
        }
        opener.wait_for(steps.next()?)?;
    }
}
