//! A file of format 1 while masters of an older module use it.

use std::fs::{self, File};
use std::time::Duration;

use crate::os::file::open_existing;
use crate::os::lock::{Holder, LockKind, Tried, try_lock, unlock};
use crate::schedule::UnixMs;
use crate::state::master::quota::RECORDS_OF_A_TURN;
use crate::state::record::codec::Encoder;
use crate::state::record::format::{Field, HEADER_LOCK, IDENTITY, PAGE_BYTES, USE_LOCK};
use crate::state::record::version1;
use crate::state::*;

use super::bounded::calls;
use super::convert::{NAMES, OLD, WRITTEN, judge, old_file, path};
use super::fixture::*;

/// A master of the older module, which shares the use lock for as long as it lives.
struct OldMaster(File);

impl OldMaster {
    fn new(fixture: &Fixture) -> Self {
        Self::try_new(fixture).unwrap()
    }

    /// `None` if another has it alone.
    fn try_new(fixture: &Fixture) -> Option<Self> {
        let file = open_existing(&path(fixture)).unwrap();
        let locked = try_lock(&file, Holder::Description, USE_LOCK, LockKind::Shared).unwrap();
        (locked == Tried::Taken).then_some(Self(file))
    }

    /// As it does at its start, to see whether it has the file alone.
    fn is_alone(&self) -> bool {
        let alone = try_lock(&self.0, Holder::Description, USE_LOCK, LockKind::Exclusive).unwrap();
        if alone == Tried::Taken {
            unlock(&self.0, Holder::Description, USE_LOCK).unwrap();
        }
        alone == Tried::Taken
    }
}

/// What the configuration says of a timer.
#[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
fn loaded_as(_number: usize, record: &Record) -> Option<Loaded<'_>> {
    let first = First::Due;
    Some(Loaded {
        record,
        schedule_hash: 1,
        scheduled: Scheduled::On,
        first,
        receivers: [0; RECEIVERS],
    })
}

/// A call of a worker of the waiting master.
fn step(fixture: &Fixture, taking: &mut Option<TakeOver>, names: &[&str]) -> TakenOver {
    let mut opener = Opener {
        pid_file: &fixture.pid_file,
        workers: fixture.workers,
        now: UnixMs(fixture.now),
        wait: &mut |_| panic!("a worker does not wait"),
        patience: Duration::ZERO,
    };
    fixture.state.as_ref().unwrap().take_over(taking, names, &mut opener, &loaded_as)
}

/// What a worker of the waiting master tries once a second.
fn take_over(fixture: &mut Fixture, names: &[&str]) -> bool {
    let mut taking = None;
    loop {
        match step(fixture, &mut taking, names) {
            TakenOver::Yes(taken, _) => {
                assert!(taken.notices.is_empty(), "{:?}", taken.notices);
                fixture.state = Some(taken.state);
                fixture.records = taken.records;
                return true;
            }
            TakenOver::GoesOn(after) => std::thread::sleep(after),
            TakenOver::NotYet => return false,
            TakenOver::Failed(notice) => panic!("{notice:?}"),
        }
    }
}

/// A waiting master beside an old one.
fn waiting() -> (Fixture, OldMaster) {
    let mut fixture = old_file();
    let old = OldMaster::new(&fixture);
    let notices = fixture.reload(&NAMES).unwrap();
    assert!(matches!(notices[..], [Notice::Waits]), "{notices:?}");
    let state = fixture.state.as_ref().unwrap();
    assert!(state.waits());
    assert_eq!((state.backing(), state.health()), (Backing::File, Health::Degraded));
    assert!(fixture.records.iter().all(|record| record.page.is_none()));
    (fixture, old)
}

#[test]
fn nothing_is_changed_while_the_old_master_lives_and_if_the_new_one_goes() {
    let (mut fixture, old) = waiting();
    for _ in 0..3 {
        assert!(!take_over(&mut fixture, &NAMES));
        fixture.now += 1000;
    }
    assert_eq!(fixture.worker(1).health(), Health::Degraded);
    assert!(matches!(fixture.reload(&NAMES).unwrap()[..], [Notice::Waits]), "a reload");
    fixture.leave();
    assert!(fs::read(path(&fixture)).unwrap() == OLD, "byte for byte");
    assert!(old.is_alone());
}

#[test]
fn the_first_worker_that_finds_the_old_master_gone_converts_for_all() {
    let (mut fixture, old) = waiting();
    assert!(!take_over(&mut fixture, &NAMES));
    drop(old);
    // As the master has it, and another worker.
    let (master, records) = (fixture.state.clone(), fixture.records.clone());
    assert!(take_over(&mut fixture, &NAMES));
    judge(&fixture);
    assert!(!fixture.state.as_ref().unwrap().waits());
    let converted = fs::read(path(&fixture)).unwrap();
    let other = OldMaster::new(&fixture);
    assert!(!other.is_alone(), "the waiting master uses it now");
    drop(other);
    (fixture.state, fixture.records) = (master, records);
    assert!(take_over(&mut fixture, &NAMES));
    judge(&fixture);
    assert!(fs::read(path(&fixture)).unwrap() == converted, "once");
    assert_eq!(fixture.worker(1).health(), Health::Ok);
    // A due time that came meanwhile is caught up with, and none is taken twice.
    fixture.now = WRITTEN + 10_000;
    run_once(&mut fixture, "history");
    let control = fixture.worker(1).read(record(&fixture, "history")).unwrap().control;
    assert_eq!(control.missed, 11);
    assert!(fixture.reload(&NAMES).unwrap().len() == 1, "the pause");
}

#[test]
fn a_timer_that_is_new_with_the_new_module_gets_a_record_when_the_file_is_taken_over() {
    let (mut fixture, old) = waiting();
    drop(old);
    let names: Vec<String> = (0..30).map(|n| format!("new-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain(NAMES).collect();
    let master = fixture.state.clone();
    assert!(take_over(&mut fixture, &names));
    judge(&fixture);
    assert!(fixture.records.iter().all(|record| record.page.is_some()));
    run_once(&mut fixture, "new-29");
    fixture.state = master;
    assert!(take_over(&mut fixture, &names));
    run_once(&mut fixture, "new-29");
    assert_eq!(counts(&fixture, "new-29"), 2);
}

#[test]
fn a_reload_of_the_waiting_master_takes_over_too() {
    let (mut fixture, old) = waiting();
    drop(old);
    assert!(matches!(fixture.reload(&NAMES).unwrap()[..], [Notice::IsPaused { .. }]));
    assert_eq!(fixture.state.as_ref().unwrap().health(), Health::Ok);
    judge(&fixture);
    assert!(!OldMaster::new(&fixture).is_alone());
}

#[test]
fn of_two_old_masters_both_have_to_go() {
    let (mut fixture, old) = waiting();
    let other = OldMaster::new(&fixture);
    drop(old);
    assert!(!take_over(&mut fixture, &NAMES));
    drop(other);
    assert!(take_over(&mut fixture, &NAMES));
}

#[test]
fn another_instance_at_the_default_path_is_refused_as_ever() {
    let mut fixture = Fixture::closed(StatePath::Default);
    fs::write(path(&fixture), OLD).unwrap();
    let old = OldMaster::new(&fixture);
    fixture.pid_file = PidFile::new(b"/run/other.pid");
    assert!(fixture.open(&NAMES).unwrap_err().to_string().contains("is in use by the nginx of"));
    drop(old);
    assert!(fixture.open(&NAMES).is_ok());
}

#[test]
fn without_descriptions_of_their_own_workers_take_over_all_the_same() {
    let (mut fixture, old) = waiting();
    let moved = crate::os::file::with_suffix(&path(&fixture), ".moved");
    drop(old);
    fs::rename(path(&fixture), &moved).unwrap();
    let taken = without_own_description(|| take_over(&mut fixture, &NAMES));
    assert!(taken);
    fs::rename(&moved, path(&fixture)).unwrap();
    judge(&fixture);
    assert!(!OldMaster::new(&fixture).is_alone());
}

/// What a worker without a description of its own does: neither /proc nor the path leads to the file.
fn without_own_description<T>(work: impl FnOnce() -> T) -> T {
    let fault = crate::os::fault::CallFault {
        call: Some(Action::Open),
        after: 0,
        repeat: crate::os::fault::Repeat::FromThenOn,
        effect: crate::os::fault::Effect::Errno(13),
    };
    crate::os::fault::with(fault, work)
}

#[test]
fn without_a_description_of_its_own_no_worker_waits_within_a_turn() {
    let (mut fixture, old) = waiting();
    drop(old);
    let orphan = open_existing(&path(&fixture)).unwrap();
    let moved = crate::os::file::with_suffix(&path(&fixture), ".moved");
    fs::rename(path(&fixture), &moved).unwrap();
    // Begins to convert, and finds a run in progress.
    let (begun, begins) = std::sync::mpsc::channel::<()>();
    let converted = std::thread::scope(|scope| {
        let mut opener = Opener {
            pid_file: &fixture.pid_file,
            workers: fixture.workers,
            now: UnixMs(fixture.now),
            wait: &mut |_| panic!("a worker does not wait"),
            patience: Duration::ZERO,
        };
        let header = try_lock(&orphan, Holder::Description, HEADER_LOCK, LockKind::Exclusive);
        assert_eq!(header.unwrap(), Tried::Taken);
        scope.spawn(move || {
            let _ = begins.recv_timeout(Duration::from_secs(10));
            drop(orphan);
        });
        let state = fixture.state.as_ref().unwrap();
        let mut taking = None;
        let taken = without_own_description(|| {
            state.take_over(&mut taking, &[NAMES[0], "new"], &mut opener, &loaded_as)
        });
        let _ = begun.send(());
        assert!(matches!(taken, TakenOver::GoesOn(_)), "{taken:?}");
        taking.is_none()
    });
    assert!(converted, "nothing is held until the next turn");
    let taken = without_own_description(|| take_over(&mut fixture, &NAMES));
    assert!(taken);
    fs::rename(&moved, path(&fixture)).unwrap();
    judge(&fixture);
}

/// A file of format 1 with so many records more, and their names.
fn many(count: usize) -> (Fixture, Vec<String>) {
    let mut fixture = old_file();
    let mut bytes = OLD.to_vec();
    let names: Vec<String> = (0..count).map(|number| format!("many-{number}")).collect();
    for name in &names {
        let mut page = OLD[PAGE_BYTES..2 * PAGE_BYTES].to_vec();
        for part in [version1::RUN, version1::RECORD_CONTROL] {
            let part_bytes = &mut page[part.at..part.at + part.bytes];
            Encoder(part_bytes).name(Field(16), name);
            part.seal(part_bytes);
        }
        bytes.extend(page);
    }
    let pages = u32::try_from(bytes.len() / PAGE_BYTES).unwrap();
    bytes[24..28].copy_from_slice(&pages.to_le_bytes());
    IDENTITY.seal(&mut bytes[IDENTITY.at..IDENTITY.at + IDENTITY.bytes]);
    fs::write(path(&fixture), bytes).unwrap();
    let old = OldMaster::new(&fixture);
    fixture.reload(&NAMES).unwrap();
    drop(old);
    (fixture, names)
}

#[test]
fn in_no_turn_are_more_than_a_few_records_taken_over() {
    let (fixture, old) = many(1000);
    let new: Vec<String> = (0..1000).map(|number| format!("new-{number}")).collect();
    let names: Vec<&str> = old.iter().chain(&new).map(String::as_str).collect();
    let (mut taking, mut turns) = (None, 0);
    let taken = loop {
        let mut taken = TakenOver::NotYet;
        let needed = calls(|| taken = step(&fixture, &mut taking, &names));
        // Two locks are taken and released for a record, which is read and written.
        let most = u32::try_from(RECORDS_OF_A_TURN).unwrap() * 10 + 100;
        assert!(needed <= most, "{needed} calls in turn {turns}: {taking:?}");
        turns += 1;
        match taken {
            TakenOver::GoesOn(after) => std::thread::sleep(after),
            taken => break taken,
        }
    };
    let TakenOver::Yes(taken, _) = taken else { panic!("{taken:?}") };
    assert!(taken.records.iter().all(|record| record.page.is_some()));
    // Converted, found, added, loaded, and looked at for those that are absent.
    assert!(turns > (1000 + 1000 + 1000 + 2000 + 2000) / RECORDS_OF_A_TURN, "{turns} turns");
    let store =
        taken.state.attach(Master::This, Process { pid: 1, started: 1, boot: BOOT }, UnixMs(0));
    for record in &taken.records[..1000] {
        assert_eq!(store.read(record).unwrap().claim.counters.ended(), 40);
    }
}

#[test]
fn a_worker_that_goes_in_any_turn_leaves_a_file_that_the_next_one_takes_over() {
    let names: Vec<&str> = NAMES.iter().copied().chain(["new"]).collect();
    for turns in 0.. {
        let (mut fixture, old) = waiting();
        drop(old);
        let mut taking = None;
        // How many turns it takes to sync is not known.
        let taken = (0..=turns).find_map(|_| {
            let taken = step(&fixture, &mut taking, &names);
            let another = OldMaster::try_new(&fixture).is_some();
            assert_eq!(another, taking.is_none(), "it has the file alone");
            let others = step(&fixture, &mut None, &names);
            assert!(taking.is_none() || matches!(others, TakenOver::GoesOn(_)), "{others:?}");
            matches!(taken, TakenOver::Yes(..)).then_some(taken)
        });
        if taken.is_some() {
            assert!(turns > 4);
            break;
        }
        drop(taking);
        while !take_over(&mut fixture, &names) {
            // The thread that syncs for the first one lets go of the file at its end.
            std::thread::sleep(Duration::from_millis(1));
        }
        judge(&fixture);
        run_once(&mut fixture, "new");
        assert_eq!(counts(&fixture, "new"), 1);
    }
}

#[test]
fn a_run_that_begins_while_a_file_is_converted_is_waited_for() {
    let (fixture, old) = many(1000);
    let names: Vec<&str> = old.iter().map(String::as_str).collect();
    let mut taking = None;
    assert!(matches!(step(&fixture, &mut taking, &names), TakenOver::GoesOn(_)));
    let orphan = open_existing(&path(&fixture)).unwrap();
    let byte = 900 * PAGE_BYTES as u64;
    let locked = try_lock(&orphan, Holder::Description, byte, LockKind::Exclusive);
    assert_eq!(locked.unwrap(), Tried::Taken);
    let before = fs::read(path(&fixture)).unwrap();
    for _ in 0..3 {
        assert!(matches!(step(&fixture, &mut taking, &names), TakenOver::GoesOn(_)));
    }
    assert!(fs::read(path(&fixture)).unwrap() == before);
    drop(orphan);
    let taken = loop {
        match step(&fixture, &mut taking, &names) {
            TakenOver::GoesOn(after) => std::thread::sleep(after),
            taken => break taken,
        }
    };
    assert!(matches!(taken, TakenOver::Yes(..)), "{taken:?}");
}
