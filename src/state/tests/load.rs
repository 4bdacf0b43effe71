//! What a load writes, and what a refused one does not.

use crate::schedule::UnixMs;
use crate::state::*;

use super::fixture::*;

#[test]
fn the_records_of_timers_that_are_gone_are_kept_for_30_days() {
    const DAY: i64 = 24 * 60 * 60 * 1000;
    let mut fixture = Fixture::file(&["a"]);
    let page = fixture.records[0].page;
    fixture.reload(&[]).unwrap();
    fixture.now += 29 * DAY;
    fixture.reload(&["b"]).unwrap();
    assert_ne!(fixture.records[0].page, page);
    fixture.now += 2 * DAY;
    fixture.reload(&["b", "c"]).unwrap();
    assert_eq!(fixture.records[1].page, page);
}

#[test]
fn a_reload_that_is_refused_after_opening_has_changed_nothing() {
    let mut fixture = Fixture::file(&["a"]);
    run_once(&mut fixture, "a");
    let before = fixture.worker(1).read(&fixture.records[0]).unwrap();
    fixture.now += 100_000;
    drop(fixture.open(&["b", "c"]).unwrap());
    assert_eq!(fixture.worker(1).read(&fixture.records[0]).unwrap(), before);
}

#[test]
fn the_watermark_starts_anew_with_a_new_schedule_or_a_comeback() {
    let every = secondly();
    let next = |fixture: &Fixture| {
        let reading = fixture.worker(1).read(&fixture.records[0]).unwrap();
        reading.next_due(&every, UnixMs(fixture.now)).unwrap().0
    };
    let mut fixture = Fixture::file(&["a"]);
    fixture.now += 100_000;
    fixture.reload(&["a"]).unwrap();
    assert_eq!(next(&fixture), 1_001_000, "the same schedule: what is missed is missed");
    fixture.hash = 2;
    assert!(matches!(fixture.reload(&["a"]).unwrap()[..], [Notice::ScheduleChanged { .. }]));
    assert_eq!(next(&fixture), 1_101_000);
    fixture.now += 100_000;
    fixture.reload(&[]).unwrap();
    fixture.now += 100_000;
    fixture.reload(&["a"]).unwrap();
    assert_eq!(next(&fixture), 1_301_000);
    fixture.reload_as(&["a"], Scheduled::Off).unwrap();
    fixture.now += 100_000;
    fixture.reload(&["a"]).unwrap();
    assert_eq!(next(&fixture), 1_401_000);
}

#[test]
fn nothing_is_missed_by_timers_that_come_back_with_their_module() {
    let every = secondly();
    let next = |fixture: &Fixture| {
        let reading = fixture.worker(1).read(&fixture.records[0]).unwrap();
        reading.next_due(&every, UnixMs(fixture.now)).unwrap().0
    };
    let mut fixture = Fixture::file(&["a"]);
    fixture.state = None;
    fixture.now += 100_000;
    fixture.reload(&["a"]).unwrap();
    assert_eq!(next(&fixture), 1_001_000, "nginx was stopped: what is missed is missed");
    fixture.leave();
    fixture.now += 100_000;
    fixture.reload(&["a"]).unwrap();
    assert_eq!(next(&fixture), 1_201_000, "taken out, and back");
    // Stopped with it, started without it, and back by a reload.
    fixture.state = None;
    fixture.now += 100_000;
    fixture.before = Before::Out;
    fixture.reload(&["a"]).unwrap();
    assert_eq!(next(&fixture), 1_301_000);
    // Another nginx has had them all the time.
    fixture.before = Before::Loaded;
    fixture.reload(&["a"]).unwrap();
    fixture.state = None;
    fixture.pid_file = PidFile::new(b"/run/other.pid");
    fixture.now += 100_000;
    fixture.before = Before::Out;
    fixture.reload(&["a"]).unwrap();
    assert_eq!(next(&fixture), 1_301_000);
}

#[test]
fn an_instance_marks_absent_only_what_it_loaded_last() {
    let mut fixture = Fixture::file(&["a"]);
    let local = (fixture.state.take(), fixture.records.clone());
    fixture.pid_file = PidFile::new(b"/run/other.pid");
    fixture.reload(&["b"]).unwrap();
    let reading = fixture.worker(1).read(&local.1[0]).unwrap();
    assert_eq!(reading.control.presence, Presence::Enabled);
    fixture.reload(&[]).unwrap();
    let presence = |record| fixture.worker(1).read(record).unwrap().control.presence;
    assert_eq!(presence(&local.1[0]), Presence::Enabled);
}

#[test]
fn a_pause_is_told_at_the_next_load() {
    let mut fixture = Fixture::file(&["a"]);
    let every = secondly();
    let worker = fixture.worker(1);
    let now = UnixMs(fixture.now);
    assert_eq!(worker.pause(timer(&fixture.records[0], &every), None, now), Edited::Done(()));
    assert_eq!(worker.pause_all(None, now), Edited::Done(()));
    let notices = fixture.reload(&["a"]).unwrap();
    assert!(
        matches!(
            &notices[..],
            [Notice::IsPaused { name: Some(_), .. }, Notice::IsPaused { name: None, .. }]
        ),
        "{notices:?}"
    );
}
