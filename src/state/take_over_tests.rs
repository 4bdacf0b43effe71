//! A file of format 1 while masters of an older module use it.

use std::fs::{self, File};

use crate::os::file::open_existing;
use crate::os::lock::{Holder, Kind, Tried, try_lock, unlock};
use crate::schedule::UnixMs;

use super::bench::*;
use super::convert_tests::{NAMES, OLD, WRITTEN, judge, old_file, path};
use super::format::USE_LOCK;
use super::*;

/// A master of the older module, which shares the use lock for as long as it lives.
struct OldMaster(File);

impl OldMaster {
    fn new(bench: &Bench) -> Self {
        let file = open_existing(&path(bench)).unwrap();
        let locked = try_lock(&file, Holder::Description, USE_LOCK, Kind::Shared).unwrap();
        assert_eq!(locked, Tried::Taken);
        Self(file)
    }

    /// As it does at its start, to see whether it has the file alone.
    fn is_alone(&self) -> bool {
        let alone = try_lock(&self.0, Holder::Description, USE_LOCK, Kind::Exclusive).unwrap();
        if alone == Tried::Taken {
            unlock(&self.0, Holder::Description, USE_LOCK).unwrap();
        }
        alone == Tried::Taken
    }
}

/// What a worker of the waiting master tries once a second.
fn take_over(bench: &mut Bench, names: &[&str]) -> bool {
    let loaded = |opened: &Opened, opener: &mut Opener<'_>| {
        let timers: Vec<Loaded<'_>> = opened
            .places
            .iter()
            .map(|place| Loaded {
                place,
                schedule_hash: 1,
                scheduled: Scheduled::On,
                first: First::Due,
            })
            .collect();
        opened.state.load(&timers, Before::Loaded, opener);
    };
    let mut opener = Opener {
        pid_file: &bench.pid_file,
        workers: bench.workers,
        now: UnixMs(bench.now),
        wait: &mut |_| panic!("a worker does not wait"),
        patience: std::time::Duration::ZERO,
    };
    match bench.state.as_ref().unwrap().take_over(names, &mut opener, loaded) {
        TakenOver::Yes(taken) => {
            assert!(taken.notices.is_empty(), "{:?}", taken.notices);
            bench.state = Some(taken.state);
            bench.places = taken.places;
            true
        }
        TakenOver::NotYet => false,
        TakenOver::Failed(notice) => panic!("{notice:?}"),
    }
}

/// A waiting master beside an old one.
fn waiting() -> (Bench, OldMaster) {
    let mut bench = old_file();
    let old = OldMaster::new(&bench);
    let notices = bench.reload(&NAMES).unwrap();
    assert!(matches!(notices[..], [Notice::Waits]), "{notices:?}");
    let state = bench.state.as_ref().unwrap();
    assert!(state.waits());
    assert_eq!((state.backing(), state.health()), (Backing::File, Health::Degraded));
    assert!(bench.places.iter().all(|place| place.page.is_none()));
    (bench, old)
}

#[test]
fn nothing_is_changed_while_the_old_master_lives_and_if_the_new_one_goes() {
    let (mut bench, old) = waiting();
    for _ in 0..3 {
        assert!(!take_over(&mut bench, &NAMES));
        bench.now += 1000;
    }
    assert_eq!(bench.worker(1).health(), Health::Degraded);
    assert!(matches!(bench.reload(&NAMES).unwrap()[..], [Notice::Waits]), "a reload");
    bench.leave();
    assert!(fs::read(path(&bench)).unwrap() == OLD, "byte for byte");
    assert!(old.is_alone());
}

#[test]
fn the_first_worker_that_finds_the_old_master_gone_converts_for_all() {
    let (mut bench, old) = waiting();
    assert!(!take_over(&mut bench, &NAMES));
    drop(old);
    // As the master has it, and another worker.
    let (master, places) = (bench.state.clone(), bench.places.clone());
    assert!(take_over(&mut bench, &NAMES));
    judge(&bench);
    assert!(!bench.state.as_ref().unwrap().waits());
    let converted = fs::read(path(&bench)).unwrap();
    let other = OldMaster::new(&bench);
    assert!(!other.is_alone(), "the waiting master uses it now");
    drop(other);
    (bench.state, bench.places) = (master, places);
    assert!(take_over(&mut bench, &NAMES));
    judge(&bench);
    assert!(fs::read(path(&bench)).unwrap() == converted, "once");
    assert_eq!(bench.worker(1).health(), Health::Ok);
    // A due time that came meanwhile is caught up with, and none is taken twice.
    bench.now = WRITTEN + 10_000;
    run_once(&mut bench, "history");
    let control = bench.worker(1).read(place(&bench, "history")).unwrap().control;
    assert_eq!(control.missed, 11);
    assert!(bench.reload(&NAMES).unwrap().len() == 1, "the pause");
}

#[test]
fn a_timer_that_is_new_with_the_new_module_gets_a_record_when_the_file_is_taken_over() {
    let (mut bench, old) = waiting();
    drop(old);
    let names: Vec<String> = (0..30).map(|n| format!("new-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain(NAMES).collect();
    let master = bench.state.clone();
    assert!(take_over(&mut bench, &names));
    judge(&bench);
    assert!(bench.places.iter().all(|place| place.page.is_some()));
    run_once(&mut bench, "new-29");
    bench.state = master;
    assert!(take_over(&mut bench, &names));
    run_once(&mut bench, "new-29");
    assert_eq!(counts(&bench, "new-29"), 2);
}

#[test]
fn a_reload_of_the_waiting_master_takes_over_too() {
    let (mut bench, old) = waiting();
    drop(old);
    assert!(matches!(bench.reload(&NAMES).unwrap()[..], [Notice::IsPaused { .. }]));
    assert_eq!(bench.state.as_ref().unwrap().health(), Health::Ok);
    judge(&bench);
    assert!(!OldMaster::new(&bench).is_alone());
}

#[test]
fn of_two_old_masters_both_have_to_go() {
    let (mut bench, old) = waiting();
    let other = OldMaster::new(&bench);
    drop(old);
    assert!(!take_over(&mut bench, &NAMES));
    drop(other);
    assert!(take_over(&mut bench, &NAMES));
}

#[test]
fn another_instance_at_the_default_path_is_refused_as_ever() {
    let mut bench = Bench::closed(StatePath::Default);
    fs::write(path(&bench), OLD).unwrap();
    let old = OldMaster::new(&bench);
    bench.pid_file = PidFile::new(b"/run/other.pid");
    assert!(bench.open(&NAMES).unwrap_err().to_string().contains("is in use by the nginx of"));
    drop(old);
    assert!(bench.open(&NAMES).is_ok());
}

#[test]
fn without_descriptions_of_their_own_workers_take_over_all_the_same() {
    let (mut bench, old) = waiting();
    let moved = crate::os::file::with_suffix(&path(&bench), ".moved");
    drop(old);
    // Neither by /proc nor by its path.
    let fault = crate::os::fault::Fault {
        call: Some(Action::Open),
        after: 0,
        repeat: crate::os::fault::Repeat::FromThenOn,
        effect: crate::os::fault::Effect::Errno(13),
    };
    fs::rename(path(&bench), &moved).unwrap();
    let taken = crate::os::fault::with(fault, || take_over(&mut bench, &NAMES));
    assert!(taken);
    fs::rename(&moved, path(&bench)).unwrap();
    judge(&bench);
    assert!(!OldMaster::new(&bench).is_alone());
}
