//! Making the file, and doing without what the system refuses.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::os::fault::{CallFault, Effect, Repeat, errno, with};
use crate::os::file::{FileOwner, with_suffix};
use crate::os::lock::Holder;
use crate::os::scratch::Scratch;
use crate::schedule::UnixMs;
use crate::state::*;

use super::fixture::*;

fn path(fixture: &Fixture) -> PathBuf {
    fixture.configured.path().unwrap().into()
}

#[test]
fn an_empty_file_is_a_new_one() {
    // Made beforehand, or by a master that was killed before it could fill it.
    let mut fixture = Fixture::closed(StatePath::Named);
    fs::write(path(&fixture), b"").unwrap();
    let inode = fs::metadata(path(&fixture)).unwrap().ino();
    fixture.first = First::Now;
    let workers = Some(FileOwner::of_this_process());
    assert!(matches!(check(&fixture.configured, &fixture.pid_file, workers), Ok(None)));
    assert!(fixture.reload(&["a"]).unwrap().is_empty());
    let metadata = fs::metadata(path(&fixture)).unwrap();
    assert_eq!((metadata.ino(), metadata.mode() & 0o7777), (inode, 0o600));
    assert_eq!(fs::read_dir(path(&fixture).parent().unwrap()).unwrap().count(), 1);
    assert_eq!(fixture.worker(1).health(), Health::Ok);
    let reading = fixture.worker(1).read(&fixture.records[0]).unwrap();
    assert!(reading.first(UnixMs(fixture.now), std::time::Duration::MAX).is_some());
}

#[test]
fn a_file_that_is_emptied_while_in_use_is_not_a_new_one() {
    let mut fixture = Fixture::file(&["a"]);
    fixture.first = First::Now;
    fs::write(path(&fixture), b"").unwrap();
    let notices = fixture.reload(&["a"]).unwrap();
    assert!(matches!(&notices[..], [Notice::MovedAside { bad: Bad::Empty, .. }]), "{notices:?}");
    let reading = fixture.worker(1).read(&fixture.records[0]).unwrap();
    assert_eq!(reading.first(UnixMs(fixture.now), std::time::Duration::MAX), None);
}

#[test]
fn of_masters_that_make_one_file_at_once_one_does() {
    for _ in 0..20 {
        let scratch = Scratch::new();
        let path = scratch.path("timers.state");
        let make = |name: &'static str| {
            let path = path.clone();
            move || {
                let pid_file = PidFile::new(name.as_bytes());
                let mut by = Opener {
                    pid_file: &pid_file,
                    workers: FileOwner::of_this_process(),
                    now: UnixMs(1_000_000),
                    wait: &mut std::thread::sleep,
                    patience: PATIENCE,
                };
                let opened = open(&StatePath::Named(path), None, &[name, "both"], &mut by).unwrap();
                assert!(opened.notices.is_empty(), "{:?}", opened.notices);
                assert_eq!(opened.state.backing(), Backing::File);
                opened.records.to_vec()
            }
        };
        let threads = ["a", "b", "c"].map(|name| std::thread::spawn(make(name)));
        let records = threads.map(|thread| thread.join().unwrap());
        let pages: std::collections::HashSet<_> =
            records.iter().flatten().map(|record| record.page).collect();
        assert_eq!(pages.len(), 4, "three of their own, and the one of both: {records:?}");
    }
}

/// What a fault of one system call does to opening.
fn under(call: Action, errno: i32, work: impl FnOnce() -> Vec<Notice>) -> Vec<Notice> {
    let effect = Effect::Errno(errno);
    with(CallFault { call: Some(call), after: 0, repeat: Repeat::FromThenOn, effect }, work)
}

#[test]
fn locks_that_are_unknown_are_one_warning_and_memory() {
    for make in [StatePath::Named as fn(PathBuf) -> StatePath, StatePath::Default] {
        for number in [errno::EINVAL, errno::ENOSYS, errno::ENOLCK] {
            let mut fixture = Fixture::closed(make);
            let fault = CallFault {
                call: Some(Action::Lock),
                after: 0,
                repeat: Repeat::Once,
                effect: Effect::Errno(number),
            };
            let notices = with(fault, || fixture.reload(&["a"]).unwrap());
            assert!(
                matches!(
                    notices[..],
                    [Notice::InMemory { action: Action::Lock, health: Health::Ok, .. }]
                ),
                "{notices:?}"
            );
            let state = fixture.state.as_ref().unwrap();
            assert_eq!((state.backing(), state.health()), (Backing::Memory, Health::Ok));
            run_once(&mut fixture, "a");
        }
    }
}

#[test]
fn a_file_that_cannot_be_given_away_is_one_warning_and_no_more() {
    if !is_root() {
        return;
    }
    for call in [Action::Own, Action::Mode] {
        let mut fixture = Fixture::closed(StatePath::Named);
        fs::write(path(&fixture), b"").unwrap();
        if call == Action::Own {
            // Somebody else than the workers, whoever runs this test as root.
            fixture.workers.uid += 1;
        }
        let notices = under(call, errno::EPERM, || fixture.reload(&["a"]).unwrap());
        assert!(
            matches!(&notices[..], [Notice::NotOwned { action, .. }] if *action == call),
            "{notices:?}"
        );
        let state = fixture.state.as_ref().unwrap();
        assert_eq!((state.backing(), state.health()), (Backing::File, Health::Ok));
        run_once(&mut fixture, "a");
    }
}

#[test]
fn without_memory_files_an_unlinked_one_is_a_warning() {
    for number in [errno::EPERM, errno::ENOSYS] {
        let mut fixture = Fixture::closed(|_| StatePath::Memory);
        let notices = under(Action::MemoryFile, number, || fixture.reload(&["a"]).unwrap());
        assert!(
            matches!(&notices[..], [Notice::Unlinked { action: Action::MemoryFile, .. }]),
            "{notices:?}"
        );
        assert_eq!(fixture.state.as_ref().unwrap().health(), Health::Ok);
        run_once(&mut fixture, "a");
        run_once(&mut fixture, "a");
        assert_eq!(counts(&fixture, "a"), 2);
    }
}

#[test]
fn without_proc_the_file_is_opened_by_its_path_and_else_the_masters_is_used() {
    let no_proc = |_: &fs::File| Err(std::io::ErrorKind::NotFound.into());
    let process = Process { pid: 1, started: 1, boot: BOOT };
    let fixture = Fixture::file(&["a"]);
    let state = fixture.state.as_ref().unwrap();
    let holder_of = |store: &Store| {
        store.inner.pages.as_ref().map(crate::state::worker::paged_file::PagedFile::holder)
    };
    let store = state.attach_with(no_proc, Master::Another, process, UnixMs(0));
    assert_eq!((store.health(), holder_of(&store)), (Health::Ok, Some(Holder::Description)));
    fs::rename(path(&fixture), with_suffix(&path(&fixture), ".x")).unwrap();
    fs::write(path(&fixture), b"").unwrap();
    let store = state.attach_with(no_proc, Master::Another, process, UnixMs(0));
    assert_eq!((store.health(), holder_of(&store)), (Health::Ok, Some(Holder::Process)));

    let fixture = Fixture::memory(&["a"]);
    let state = fixture.state.as_ref().unwrap();
    let store = state.attach_with(no_proc, Master::This, process, UnixMs(0));
    assert_eq!((store.health(), holder_of(&store)), (Health::Ok, Some(Holder::Description)));
    let store = state.attach_with(no_proc, Master::Another, process, UnixMs(0));
    assert_eq!((store.health(), holder_of(&store)), (Health::Ok, Some(Holder::Process)));
    // A lock of the process would go with any other descriptor: there is none.
    assert!(state.with_pages(|_| ()).is_none());
}
