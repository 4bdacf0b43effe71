//! A file of format 1 while masters of an older module use it.

use std::fs::{self, File};

use crate::os::file::open_existing;
use crate::os::lock::{Holder, LockKind, Tried, try_lock, unlock};
use crate::schedule::UnixMs;
use crate::state::record::format::USE_LOCK;
use crate::state::*;

use super::convert::{NAMES, OLD, WRITTEN, judge, old_file, path};
use super::fixture::*;

/// A master of the older module, which shares the use lock for as long as it lives.
struct OldMaster(File);

impl OldMaster {
    fn new(fixture: &Fixture) -> Self {
        let file = open_existing(&path(fixture)).unwrap();
        let locked = try_lock(&file, Holder::Description, USE_LOCK, LockKind::Shared).unwrap();
        assert_eq!(locked, Tried::Taken);
        Self(file)
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

/// What a worker of the waiting master tries once a second.
fn take_over(fixture: &mut Fixture, names: &[&str]) -> bool {
    let loaded = |opened: &Opened, opener: &mut Opener<'_>| {
        let timers: Vec<Loaded<'_>> = opened
            .records
            .iter()
            .map(|record| Loaded {
                record,
                schedule_hash: 1,
                scheduled: Scheduled::On,
                first: First::Due,
            })
            .collect();
        opened.state.load(&timers, Before::Loaded, opener);
    };
    let mut opener = Opener {
        pid_file: &fixture.pid_file,
        workers: fixture.workers,
        now: UnixMs(fixture.now),
        wait: &mut |_| panic!("a worker does not wait"),
        patience: std::time::Duration::ZERO,
    };
    match fixture.state.as_ref().unwrap().take_over(names, &mut opener, loaded) {
        TakenOver::Yes(taken) => {
            assert!(taken.notices.is_empty(), "{:?}", taken.notices);
            fixture.state = Some(taken.state);
            fixture.records = taken.records;
            true
        }
        TakenOver::NotYet => false,
        TakenOver::Failed(notice) => panic!("{notice:?}"),
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
    // Neither by /proc nor by its path.
    let fault = crate::os::fault::CallFault {
        call: Some(Action::Open),
        after: 0,
        repeat: crate::os::fault::Repeat::FromThenOn,
        effect: crate::os::fault::Effect::Errno(13),
    };
    fs::rename(path(&fixture), &moved).unwrap();
    let taken = crate::os::fault::with(fault, || take_over(&mut fixture, &NAMES));
    assert!(taken);
    fs::rename(&moved, path(&fixture)).unwrap();
    judge(&fixture);
    assert!(!OldMaster::new(&fixture).is_alone());
}
