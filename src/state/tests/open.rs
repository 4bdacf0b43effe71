//! Opening, moving aside, sharing and loading: the sentences of the manual about paths and
//! content.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use crate::os::file::with_suffix;
use crate::schedule::UnixMs;
use crate::state::worker::paged_file::WriteFault;
use crate::state::*;

use super::fixture::*;

fn path(fixture: &Fixture) -> PathBuf {
    fixture.configured.path().unwrap().into()
}

#[test]
fn a_new_file_is_the_owners_alone_and_has_one_link() {
    let fixture = Fixture::file(&["a"]);
    let metadata = fs::metadata(path(&fixture)).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o600, 1));
    assert_eq!(fs::read_dir(path(&fixture).parent().unwrap()).unwrap().count(), 1);
    assert_eq!(metadata.len() % 4096, 0);
    assert_eq!(fixture.state.as_ref().unwrap().backing(), Backing::File);
}

#[test]
fn each_name_keeps_its_record_over_reloads_in_any_order() {
    let mut fixture = Fixture::file(&["a", "b"]);
    run_once(&mut fixture, "a");
    run_once(&mut fixture, "b");
    run_once(&mut fixture, "b");
    fixture.reload(&["c", "b", "a"]).unwrap();
    assert_eq!((counts(&fixture, "a"), counts(&fixture, "b"), counts(&fixture, "c")), (1, 2, 0));
    fixture.reload(&["b"]).unwrap();
    fixture.reload(&["b", "a"]).unwrap();
    assert_eq!((counts(&fixture, "a"), counts(&fixture, "b")), (1, 2));
    fixture.state = None;
    fixture.reload(&["a"]).unwrap();
    assert_eq!(counts(&fixture, "a"), 1, "a restart");
}

#[test]
fn ten_thousand_timers_have_room() {
    let names: Vec<String> = (0..10_000).map(|n| format!("timer-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut fixture = Fixture::file(&names[..5000]);
    fixture.reload(&names).unwrap();
    let pages: std::collections::HashSet<_> = fixture.records.iter().map(|it| it.page).collect();
    assert_eq!(pages.len(), 10_000);
}

#[test]
fn bad_content_is_moved_aside_and_nothing_is_new_after_it() {
    type Damaging<'a> = &'a dyn Fn(&PathBuf);
    let damages: [(Bad, Damaging<'_>); 4] = [
        (Bad::Blank, &|path| fs::write(path, [0; 8192]).unwrap()),
        (Bad::Truncated, &|path| {
            fs::File::options().write(true).open(path).unwrap().set_len(5000).unwrap();
        }),
        (Bad::Damaged, &|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[100] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        (Bad::Newer, &|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[16] = 3;
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (expected, damage) in damages {
        let mut fixture = Fixture::file(&["a"]);
        fixture.first = First::Now;
        fixture.state = None;
        damage(&path(&fixture));
        let content = fs::read(path(&fixture)).unwrap();
        let notices = fixture.reload(&["a"]).unwrap();
        assert!(
            matches!(&notices[..], [Notice::MovedAside { bad, .. }] if *bad == expected),
            "{notices:?}"
        );
        assert_eq!(fs::read(with_suffix(&path(&fixture), ".bad")).unwrap(), content);
        assert_eq!(fixture.state.as_ref().unwrap().health(), Health::Recovered);
        assert_eq!(fixture.worker(1).health(), Health::Recovered);
        let reading = fixture.worker(1).read(&fixture.records[0]).unwrap();
        assert_eq!(reading.first(UnixMs(fixture.now), std::time::Duration::MAX), None);
        fixture.reload(&["a", "b"]).unwrap();
        assert_eq!(fixture.state.as_ref().unwrap().health(), Health::Ok, "the next load");
        let reading = fixture.worker(1).read(&fixture.records[1]).unwrap();
        assert!(reading.first(UnixMs(fixture.now), std::time::Duration::MAX).is_some());
    }
}

#[test]
fn a_damaged_record_costs_its_own_timer_only() {
    let mut fixture = Fixture::file(&["a", "b"]);
    run_once(&mut fixture, "a");
    run_once(&mut fixture, "b");
    let page = usize::try_from(record(&fixture, "a").page.unwrap()).unwrap();
    for at in [250, 700] {
        let mut bytes = fs::read(path(&fixture)).unwrap();
        bytes[page * 4096 + at] ^= 1;
        fs::write(path(&fixture), bytes).unwrap();
    }
    let worker = fixture.worker(1);
    assert_eq!(worker.read(record(&fixture, "a")), Err(Unread::Torn));
    let every = secondly();
    let timer = timer(record(&fixture, "a"), &every);
    let now = fixture.now + 1000;
    let wanted = due(now - now % 1000);
    assert!(matches!(claim(&worker, timer, wanted, now), Step::Handled));
    // One part after the other, each in its time.
    let mut later = now;
    while worker.read(record(&fixture, "a")).is_err() {
        later += 1;
        assert_eq!(worker.repair(record(&fixture, "a"), UnixMs(later)), Recovered::Nothing);
    }
    let notices = worker.take_notices();
    assert!(!notices.is_empty());
    assert!(
        notices.iter().all(|it| matches!(it, Notice::Damaged { name } if &**name == "a")),
        "{notices:?}"
    );
    let reading = worker.read(record(&fixture, "a")).unwrap();
    assert_eq!(reading.first(UnixMs(now + 999), std::time::Duration::MAX), None);
    won(&worker, timer, due(now - now % 1000 + 1000), now + 1000);
    assert_eq!(counts(&fixture, "b"), 1);
}

#[test]
fn a_damaged_file_that_cannot_be_written_anew_stops_no_timer() {
    for cut in [0, 8192 + 600] {
        let fixture = Fixture::file(&["a"]);
        let (worker, every) = (fixture.worker(1), secondly());
        let len = fs::metadata(path(&fixture)).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(path(&fixture)).unwrap();
        // Cut to nothing, or full of zeros from here on.
        file.set_len(if cut == 0 { 0 } else { 700 }).unwrap();
        file.set_len(len).unwrap();
        worker.set_fault(WriteFault::Full);
        let timer = timer(record(&fixture, "a"), &every);
        let mut now = fixture.now - fixture.now % 1000 + 1000;
        for _ in 0..20 {
            if worker.read(record(&fixture, "a")).is_ok() {
                break;
            }
            let _ = worker.repair(record(&fixture, "a"), UnixMs(now));
        }
        let damaged = |notices: Vec<Notice>| {
            let damaged =
                |it: &&Notice| matches!(it, Notice::Damaged { .. } | Notice::HeaderDamaged);
            notices.iter().filter(damaged).count()
        };
        assert!(damaged(worker.take_notices()) <= 3, "each part is told of once");
        for _ in 0..3 {
            now += 1000;
            won(&worker, timer, due(now), now).finish(ended(Outcome::Success), None);
            assert!(matches!(claim(&worker, timer, due(now), now), Step::Handled));
        }
        assert_eq!(damaged(worker.take_notices()), 0);
        assert_eq!(worker.health(), Health::Degraded);
    }
}

#[test]
fn another_instance_is_refused_at_the_default_path_and_welcome_at_a_named_one() {
    for (make, welcome) in
        [(StatePath::Default as fn(PathBuf) -> StatePath, false), (StatePath::Named, true)]
    {
        let mut fixture = Fixture::closed(make);
        fixture.reload(&["a"]).unwrap();
        let held = fixture.state.take();
        fixture.pid_file = PidFile::new(b"/run/other.pid");
        match fixture.open(&["a"]) {
            Ok(_) => assert!(welcome),
            Err(error) => {
                assert!(!welcome);
                let says = "is in use by the nginx of \"/run/nginx.pid\", set \"timer_state\"";
                assert!(error.to_string().ends_with(says), "{error}");
            }
        }
        // A binary upgrade has the same pid file.
        fixture.pid_file = PidFile::new(b"/run/nginx.pid");
        assert!(fixture.open(&["a"]).is_ok());
        // The lock goes with the master.
        drop(held);
        fixture.pid_file = PidFile::new(b"/run/other.pid");
        assert!(fixture.open(&["a"]).is_ok());
    }
}

#[test]
fn a_bad_file_that_another_master_uses_stays_where_it_is() {
    let mut fixture = Fixture::file(&["a"]);
    let held = fixture.state.take();
    let mut bytes = fs::read(path(&fixture)).unwrap();
    bytes[100] ^= 1;
    fs::write(path(&fixture), &bytes).unwrap();
    let cycle = fixture.open(&["a"]).unwrap();
    assert!(
        matches!(&cycle.notices[..], [Notice::NotMoved { bad: Bad::Damaged, error: None }]),
        "{:?}",
        cycle.notices
    );
    assert_eq!((cycle.state.backing(), cycle.state.health()), (Backing::Memory, Health::Degraded));
    assert_eq!(fs::read(path(&fixture)).unwrap(), bytes);
    drop(held);
}

#[test]
fn a_deleted_or_replaced_file_is_noticed_at_the_next_reload_and_gets_the_records() {
    let mut fixture = Fixture::file(&["a"]);
    run_once(&mut fixture, "a");
    for replacement in [None, Some(&b""[..])] {
        fs::remove_file(path(&fixture)).unwrap();
        run_once(&mut fixture, "a");
        if let Some(content) = replacement {
            fs::write(path(&fixture), content).unwrap();
        }
        let before = counts(&fixture, "a");
        let notices = fixture.reload(&["a"]).unwrap();
        assert!(matches!(notices[..], [Notice::Replaced]), "{notices:?}");
        assert_eq!(counts(&fixture, "a"), before);
        assert!(fixture.reload(&["a"]).unwrap().is_empty());
    }
}

/// A tmpfs of one test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where nothing can be mounted: the test is skipped.
    fn new(fixture: &Fixture, options: &str) -> Option<Self> {
        let path = path(fixture).parent().unwrap().to_path_buf();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&path)
            .status()
            .unwrap();
        mounted.success().then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[test]
fn a_full_disk_degrades_the_timers_that_find_no_room() {
    let mut fixture = Fixture::closed(StatePath::Named);
    let Some(disk) = SmallDisk::new(&fixture, "size=16k") else { return };
    let notices = fixture.reload(&["a", "b", "c", "d", "e"]).unwrap();
    assert!(
        matches!(&notices[..], [Notice::Failed { action: Action::Write, error }]
            if error.kind() == std::io::ErrorKind::StorageFull),
        "{notices:?}"
    );
    let rooms = fixture.records.iter().filter(|record| record.page.is_some()).count();
    assert!((1..5).contains(&rooms), "{rooms}");
    assert_eq!(fixture.state.as_ref().unwrap().health(), Health::Degraded);
    for name in ["a", "e"] {
        run_once(&mut fixture, name);
    }
    drop((fixture.state.take(), disk));
}

#[test]
fn a_disk_without_any_room_and_one_that_is_read_only_end_in_memory() {
    for options in ["size=4k", "ro"] {
        let mut fixture = Fixture::closed(StatePath::Named);
        let Some(disk) = SmallDisk::new(&fixture, options) else { return };
        if options == "size=4k" {
            fs::write(path(&fixture).with_file_name("full"), [1; 4096]).unwrap();
        }
        let notices = fixture.reload(&["a"]).unwrap();
        assert!(
            matches!(&notices[..], [Notice::InMemory { health: Health::Degraded, .. }]),
            "{notices:?}"
        );
        let state = fixture.state.as_ref().unwrap();
        assert_eq!((state.backing(), state.health()), (Backing::Memory, Health::Degraded));
        run_once(&mut fixture, "a");
        drop(disk);
    }
}

#[test]
fn a_read_only_default_is_one_warning() {
    let mut fixture = Fixture::closed(StatePath::Default);
    let Some(disk) = SmallDisk::new(&fixture, "ro") else { return };
    let notices = fixture.reload(&["a"]).unwrap();
    assert!(matches!(&notices[..], [Notice::InMemory { .. }]), "{notices:?}");
    assert_eq!(fixture.state.as_ref().unwrap().health(), Health::Ok);
    drop(disk);
}
