//! What a file of somebody else's making, and locks of somebody else's, can cost a start or a reload.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::os::fault::{CallFault, Effect, Repeat, fired, with};
use crate::os::file::with_suffix;
use crate::os::lock::{Holder, LockKind, Tried, try_lock};
use crate::state::record::format::{
    CLAIM, CONTROL, HEADER_LOCK, IDENTITY, MOST_PAGES, PAGE_BYTES, USE_LOCK,
};
use crate::state::*;

use super::fixture::*;

fn path(fixture: &Fixture) -> PathBuf {
    fixture.configured.path().unwrap().into()
}

/// Locks a byte. What was closed just now may be locked until a process that another test has forked
/// meanwhile has begun its program.
fn take(file: &File, byte: u64) {
    let end = Instant::now() + Duration::from_secs(30);
    while try_lock(file, Holder::Description, byte, LockKind::Exclusive).unwrap() != Tried::Taken {
        assert!(Instant::now() < end, "byte {byte} is locked");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Lets the header claim so many pages, behind a right checksum.
fn claim_pages(path: &PathBuf, pages: u32) -> File {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut page = [0; PAGE_BYTES];
    file.read_exact_at(&mut page, 0).unwrap();
    page[24..28].copy_from_slice(&pages.to_le_bytes());
    IDENTITY.seal(&mut page[IDENTITY.at..IDENTITY.at + IDENTITY.bytes]);
    file.write_all_at(&page, 0).unwrap();
    file
}

/// How many calls of the system `work` needs.
pub(super) fn calls(work: impl FnOnce()) -> u32 {
    let count = CallFault {
        call: None,
        after: 0,
        repeat: Repeat::FromThenOn,
        effect: Effect::Short(usize::MAX),
    };
    with(count, work);
    fired()
}

#[test]
fn a_header_that_claims_more_pages_than_a_file_ever_has_is_damaged() {
    for pages in [0, MOST_PAGES + 1, 4 << 20, u32::MAX] {
        let mut fixture = Fixture::file(&["a"]);
        run_once(&mut fixture, "a");
        fixture.state = None;
        let file = claim_pages(&path(&fixture), pages);
        file.set_len(u64::from(pages.max(1)) * PAGE_BYTES as u64).unwrap();
        let mut notices = Vec::new();
        let needed = calls(|| notices = fixture.reload(&["a", "b"]).unwrap());
        assert!(matches!(&notices[..], [Notice::MovedAside { bad: Bad::Damaged, .. }]));
        assert!(needed < 200, "{needed} calls for {pages} pages");
        assert!(with_suffix(&path(&fixture), ".bad").exists());
        run_once(&mut fixture, "a");
        run_once(&mut fixture, "b");
    }
}

#[test]
fn as_many_pages_as_a_file_may_have_are_looked_at_a_few_times_only() {
    for fill in [0, 0xff] {
        let mut fixture = Fixture::file(&["a"]);
        run_once(&mut fixture, "a");
        fixture.state = None;
        // So many that they count, and few enough for a test.
        let pages = 8000;
        let file = claim_pages(&path(&fixture), pages);
        let first = fs::metadata(path(&fixture)).unwrap().len() / PAGE_BYTES as u64;
        for page in first..u64::from(pages) {
            file.write_all_at(&[fill], page * PAGE_BYTES as u64 + 9).unwrap();
        }
        file.set_len(u64::from(pages) * PAGE_BYTES as u64).unwrap();
        let needed = calls(|| drop(fixture.reload(&["a", "b"]).unwrap()));
        // Three scans, in two of which damaged pages are read again, so often.
        assert!(needed < 3 * pages + 2 * 4096 + 300, "{needed} calls for {pages} pages");
        assert_eq!(counts(&fixture, "a"), 1);
        run_once(&mut fixture, "b");
    }
}

#[test]
fn a_lock_on_the_whole_file_costs_two_seconds_in_all() {
    let names: Vec<String> = (0..40).map(|n| format!("timer-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut fixture = Fixture::file(&names);
    run_once(&mut fixture, "timer-3");
    fixture.state = None;
    let other = crate::os::file::open_existing(&path(&fixture)).unwrap();
    let pages = u32::try_from(other.metadata().unwrap().len() / PAGE_BYTES as u64).unwrap();
    let of_pages = (1..pages).flat_map(|page| [CLAIM.offset(page), CONTROL.offset(page)]);
    for byte in of_pages.chain([USE_LOCK, HEADER_LOCK]) {
        take(&other, byte);
    }
    fixture.hash = 2;
    let more: Vec<&str> = names.iter().copied().chain(["new"]).collect();
    let notices = fixture.reload(&more).unwrap();
    assert!(fixture.waited.get() <= Duration::from_secs(2), "{:?}", fixture.waited.get());
    assert!(matches!(notices[0], Notice::HeaderLocked), "{notices:?}");
    let locked = notices.iter().filter(|it| matches!(it, Notice::NotLoaded { .. })).count();
    assert_eq!(locked, names.len());
    assert_eq!(fixture.records.iter().filter(|record| record.page.is_none()).count(), 1);
    assert_eq!(counts(&fixture, "timer-3"), 1);
}

#[test]
fn locks_that_nobody_can_take_let_the_file_grow_once_only() {
    let fixture = Fixture::file(&["a"]);
    let before = fs::metadata(path(&fixture)).unwrap().len();
    let file = crate::os::file::open_existing(&path(&fixture)).unwrap();
    for page in 1..200 {
        take(&file, CLAIM.offset(page));
    }
    let cycle = fixture.open(&["a", "b", "c"]).unwrap();
    assert_eq!(cycle.records.iter().filter(|record| record.page.is_none()).count(), 2);
    let after = fs::metadata(path(&fixture)).unwrap().len();
    assert!(after <= before + 16 * PAGE_BYTES as u64, "{before} {after}");
}
