//! What is refused, by a test of the configuration and by a start alike.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, chown, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use crate::os::fault::{Call, CallFault, Effect, Repeat, with};
use crate::os::file::with_suffix;
use crate::state::record::format::{CLAIM, CONTROL, HEADER_CONTROL, IDENTITY, PAGE_BYTES};
use crate::state::*;

use super::fixture::*;

fn path(fixture: &Fixture) -> PathBuf {
    fixture.configured.path().unwrap().into()
}

#[test]
fn bad_paths_are_refused_by_check_and_by_open_and_not_touched() {
    let refused = |make: &dyn Fn(&PathBuf), says: &str| {
        let fixture = Fixture::closed(StatePath::Named);
        let path = path(&fixture);
        make(&path);
        let before = fs::symlink_metadata(&path).ok().map(|it| (it.ino(), it.len(), it.mtime()));
        for error in [checked(&fixture).expect_err(says), fixture.open(&["a"]).expect_err(says)] {
            assert_eq!(error.to_string(), format!("state file \"{}\" {says}", path.display()));
        }
        let after = fs::symlink_metadata(&path).ok().map(|it| (it.ino(), it.len(), it.mtime()));
        assert_eq!(before, after);
    };
    refused(&|path| symlink("/etc/passwd", path).unwrap(), "is a symbolic link");
    refused(&|path| fs::create_dir(path).unwrap(), "is not a regular file");
    refused(
        &|path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "is not a regular file",
    );
    refused(
        &|path| {
            fs::write(path, b"").unwrap();
            fs::hard_link(path, with_suffix(path, ".other")).unwrap();
        },
        "has 2 links",
    );
    refused(&|path| fs::write(path, "#!/bin/sh\n").unwrap(), "is not a state file");
    refused(&|path| fs::write(path, [7; 9000]).unwrap(), "is not a state file");
    refused(
        &|path| {
            let file = fs::File::create(path).unwrap();
            file.write_all_at(b"a disk image of 16 GiB", 0).unwrap();
            file.set_len(16 << 30).unwrap();
        },
        "is not a state file",
    );
}

#[test]
fn the_owner_is_judged_by_a_start_and_told_by_a_test() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::file(&["a"]);
    chown(path(&fixture), Some(12_345), None).unwrap();
    let says = format!(
        "is owned by user 12345, neither by root nor by the worker user, give it to user {} with \
         \"chown\"",
        fixture.workers.uid
    );
    let warning = checked(&fixture).unwrap().unwrap();
    let refused = fixture.open(&["a"]).unwrap_err();
    for why in [warning, refused] {
        assert_eq!(why.to_string(), format!("state file \"{}\" {says}", path(&fixture).display()));
    }
    assert!(check(&fixture.configured, &fixture.pid_file, None).unwrap().is_none(), "not root");
}

#[test]
fn a_missing_directory_is_refused_with_its_errno() {
    let fixture = Fixture::closed(|path| StatePath::Named(path.join("missing/timers.state")));
    for error in [checked(&fixture).unwrap_err(), fixture.open(&["a"]).unwrap_err()] {
        assert_eq!(error.errno(), Some(2), "ENOENT");
    }
    let fixture = Fixture::closed(|path| StatePath::Default(path.join("missing/timers.state")));
    assert!(checked(&fixture).is_ok());
    let cycle = fixture.open(&["a"]).unwrap();
    assert!(matches!(cycle.notices[..], [Notice::InMemory { .. }]), "{:?}", cycle.notices);
    assert_eq!((cycle.state.backing(), cycle.state.health()), (Backing::Memory, Health::Ok));
}

#[test]
fn what_may_not_be_read_is_not_judged() {
    let fixture = Fixture::closed(StatePath::Named);
    assert!(checked(&fixture).unwrap().is_none());
    assert!(!path(&fixture).exists());
    fs::write(path(&fixture), "#!/bin/sh\n").unwrap();
    let no_open = CallFault {
        call: Some(Call::Open),
        after: 0,
        repeat: Repeat::FromThenOn,
        effect: Effect::Errno(13),
    };
    assert!(with(no_open, || checked(&fixture)).unwrap().is_none());
    let no_read = CallFault { call: Some(Call::Read), ..no_open };
    assert!(with(no_read, || checked(&fixture)).unwrap().is_none());
}

#[test]
fn a_test_leaves_no_trace() {
    let fixture = Fixture::file(&["a"]);
    let long_ago = fs::FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH);
    let file = fs::File::open(path(&fixture)).unwrap();
    file.set_times(long_ago).unwrap();
    let shape = || {
        let metadata = fs::metadata(path(&fixture)).unwrap();
        (metadata.atime(), metadata.mtime_nsec(), metadata.ctime_nsec(), metadata.len())
    };
    let before = (shape(), fs::read(path(&fixture)).unwrap());
    file.set_times(long_ago).unwrap();
    let changed_at = shape();
    assert!(checked(&fixture).unwrap().is_none());
    assert_eq!(shape(), changed_at);
    assert_eq!(fs::read(path(&fixture)).unwrap(), before.1);
}

#[test]
fn a_flipped_bit_in_a_file_that_was_ours_refuses_nothing() {
    for make in [StatePath::Named as fn(PathBuf) -> StatePath, StatePath::Default] {
        let mut fixture = Fixture::closed(make);
        fixture.reload(&["a"]).unwrap();
        run_once(&mut fixture, "a");
        let whole = fs::read(path(&fixture)).unwrap();
        fixture.state = None;
        let bad = with_suffix(&path(&fixture), ".bad");
        let last = PAGE_BYTES + CONTROL.at + CONTROL.bytes;
        for at in 0..last {
            let flipped = whole[at] ^ (1 << (at % 8));
            let file = fs::File::options().write(true).open(path(&fixture)).unwrap();
            file.write_all_at(&[flipped], at as u64).unwrap();
            assert!(checked(&fixture).unwrap().is_none(), "{at}");
            if at < 32 || at % 61 == 0 {
                let opened = fixture.open(&["a"]).unwrap();
                assert_eq!(opened.state.backing(), Backing::File, "{at}");
                assert_eq!(bad.exists(), at < IDENTITY.at + IDENTITY.bytes, "{at}");
                let recovered = opened.state.health() == Health::Recovered;
                assert_eq!(fs::remove_file(&bad).is_ok(), recovered, "{at}");
                fs::write(path(&fixture), &whole).unwrap();
            } else {
                file.write_all_at(&whole[at..=at], at as u64).unwrap();
            }
        }
    }
}

#[test]
fn one_right_checksum_anywhere_makes_a_file_ours() {
    let names: Vec<String> = (0..40).map(|n| format!("timer-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fixture = Fixture::file(&names);
    let whole = fs::read(path(&fixture)).unwrap();
    let parts = [IDENTITY.offset(0), HEADER_CONTROL.offset(0)]
        .into_iter()
        .zip([IDENTITY.bytes, HEADER_CONTROL.bytes])
        .chain([1, 40].into_iter().flat_map(|page| {
            [(CLAIM.offset(page), CLAIM.bytes), (CONTROL.offset(page), CONTROL.bytes)]
        }));
    for (at, len) in parts {
        let mut bytes = vec![0x55; whole.len()];
        let part = usize::try_from(at).unwrap()..usize::try_from(at).unwrap() + len;
        bytes[part.clone()].copy_from_slice(&whole[part]);
        let mut other = Fixture::closed(StatePath::Named);
        fs::write(path(&other), &bytes).unwrap();
        assert!(checked(&other).unwrap().is_none(), "{at}");
        let notices = other.reload(&["a"]).unwrap();
        assert!(
            matches!(&notices[..], [Notice::MovedAside { bad: Bad::Damaged, .. }]),
            "{notices:?}"
        );
        // The same with a flipped bit in it is anybody's.
        bytes[usize::try_from(at).unwrap() + 20] ^= 1;
        let other = Fixture::closed(StatePath::Named);
        fs::write(path(&other), &bytes).unwrap();
        assert!(checked(&other).is_err() && other.open(&["a"]).is_err(), "{at}");
    }
}

#[test]
fn a_test_sees_that_another_instance_uses_the_default_file() {
    for make in [StatePath::Default as fn(PathBuf) -> StatePath, StatePath::Named] {
        let mut fixture = Fixture::closed(make);
        fixture.reload(&["a"]).unwrap();
        assert!(checked(&fixture).unwrap().is_none(), "its own");
        fixture.pid_file = PidFile::new(b"/run/other.pid");
        let held = fixture.state.take();
        match (checked(&fixture), fixture.open(&["a"])) {
            (Err(test), Err(start)) => assert_eq!(test.to_string(), start.to_string()),
            (test, start) => assert!(
                test.is_ok() && start.is_ok() && matches!(fixture.configured, StatePath::Named(_))
            ),
        }
        drop(held);
        assert!(checked(&fixture).unwrap().is_none(), "it has gone");
    }
}

#[test]
fn a_foreign_file_is_refused_where_it_was_named_and_moved_at_the_default_path() {
    let fixture = Fixture::closed(StatePath::Named);
    fs::write(path(&fixture), "#!/bin/sh\n").unwrap();
    assert!(checked(&fixture).unwrap_err().to_string().ends_with("is not a state file"));
    assert!(fixture.open(&["a"]).unwrap_err().to_string().ends_with("is not a state file"));
    assert_eq!(fs::read(path(&fixture)).unwrap(), b"#!/bin/sh\n");

    let mut fixture = Fixture::closed(StatePath::Default);
    fs::write(path(&fixture), "#!/bin/sh\n").unwrap();
    assert!(checked(&fixture).unwrap().is_none());
    let notices = fixture.reload(&["a"]).unwrap();
    assert!(matches!(&notices[..], [Notice::MovedAside { bad: Bad::Foreign, .. }]), "{notices:?}");
    assert_eq!(fs::read(with_suffix(&path(&fixture), ".bad")).unwrap(), b"#!/bin/sh\n");
}
