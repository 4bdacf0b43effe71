//! What a load writes, and what a refused one does not.

use crate::schedule::UnixMs;

use super::bench::*;
use super::*;

#[test]
fn the_records_of_timers_that_are_gone_are_kept_for_30_days() {
    const DAY: i64 = 24 * 60 * 60 * 1000;
    let mut bench = Bench::file(&["a"]);
    let page = bench.places[0].page;
    bench.reload(&[]).unwrap();
    bench.now += 29 * DAY;
    bench.reload(&["b"]).unwrap();
    assert_ne!(bench.places[0].page, page);
    bench.now += 2 * DAY;
    bench.reload(&["b", "c"]).unwrap();
    assert_eq!(bench.places[1].page, page);
}

#[test]
fn a_reload_that_is_refused_after_opening_has_changed_nothing() {
    let mut bench = Bench::file(&["a"]);
    run_once(&mut bench, "a");
    let before = bench.worker(1).read(&bench.places[0]).unwrap();
    bench.now += 100_000;
    drop(bench.open(&["b", "c"]).unwrap());
    assert_eq!(bench.worker(1).read(&bench.places[0]).unwrap(), before);
}

#[test]
fn the_watermark_starts_anew_with_a_new_schedule_or_a_comeback() {
    let every = secondly();
    let next = |bench: &Bench| {
        let reading = bench.worker(1).read(&bench.places[0]).unwrap();
        reading.next_due(&every, UnixMs(bench.now)).unwrap().0
    };
    let mut bench = Bench::file(&["a"]);
    bench.now += 100_000;
    bench.reload(&["a"]).unwrap();
    assert_eq!(next(&bench), 1_001_000, "the same schedule: what is missed is missed");
    bench.hash = 2;
    assert!(matches!(bench.reload(&["a"]).unwrap()[..], [Notice::ScheduleChanged { .. }]));
    assert_eq!(next(&bench), 1_101_000);
    bench.now += 100_000;
    bench.reload(&[]).unwrap();
    bench.now += 100_000;
    bench.reload(&["a"]).unwrap();
    assert_eq!(next(&bench), 1_301_000);
    bench.reload_as(&["a"], Scheduled::Off).unwrap();
    bench.now += 100_000;
    bench.reload(&["a"]).unwrap();
    assert_eq!(next(&bench), 1_401_000);
}

#[test]
fn nothing_is_missed_by_timers_that_come_back_with_their_module() {
    let every = secondly();
    let next = |bench: &Bench| {
        let reading = bench.worker(1).read(&bench.places[0]).unwrap();
        reading.next_due(&every, UnixMs(bench.now)).unwrap().0
    };
    let mut bench = Bench::file(&["a"]);
    bench.state = None;
    bench.now += 100_000;
    bench.reload(&["a"]).unwrap();
    assert_eq!(next(&bench), 1_001_000, "nginx was stopped: what is missed is missed");
    bench.leave();
    bench.now += 100_000;
    bench.reload(&["a"]).unwrap();
    assert_eq!(next(&bench), 1_201_000, "taken out, and back");
    // Stopped with it, started without it, and back by a reload.
    bench.state = None;
    bench.now += 100_000;
    bench.before = Before::Out;
    bench.reload(&["a"]).unwrap();
    assert_eq!(next(&bench), 1_301_000);
    // Another nginx has had them all the time.
    bench.before = Before::Loaded;
    bench.reload(&["a"]).unwrap();
    bench.state = None;
    bench.pid_file = PidFile::new(b"/run/other.pid");
    bench.now += 100_000;
    bench.before = Before::Out;
    bench.reload(&["a"]).unwrap();
    assert_eq!(next(&bench), 1_301_000);
}

#[test]
fn an_instance_marks_absent_only_what_it_loaded_last() {
    let mut bench = Bench::file(&["a"]);
    let mine = (bench.state.take(), bench.places.clone());
    bench.pid_file = PidFile::new(b"/run/other.pid");
    bench.reload(&["b"]).unwrap();
    let reading = bench.worker(1).read(&mine.1[0]).unwrap();
    assert_eq!(reading.control.presence, Presence::Enabled);
    bench.reload(&[]).unwrap();
    let presence = |place| bench.worker(1).read(place).unwrap().control.presence;
    assert_eq!(presence(&mine.1[0]), Presence::Enabled);
}

#[test]
fn a_pause_is_told_at_the_next_load() {
    let mut bench = Bench::file(&["a"]);
    let every = secondly();
    let worker = bench.worker(1);
    let now = UnixMs(bench.now);
    assert_eq!(worker.pause(timer(&bench.places[0], &every), None, now), Edited::Done(()));
    assert_eq!(worker.pause_all(None, now), Edited::Done(()));
    let notices = bench.reload(&["a"]).unwrap();
    assert!(
        matches!(
            &notices[..],
            [Notice::IsPaused { name: Some(_), .. }, Notice::IsPaused { name: None, .. }]
        ),
        "{notices:?}"
    );
}
