//! Texts of timers: their pages, and what a crash or damage leaves of them.

use std::fs;
use std::mem;

use super::fixture::*;
use crate::schedule::UnixMs;
use crate::state::record::format::{PAGE_BYTES, TEXT_MARK, TEXT_MARK_AT};
use crate::state::worker::paged_file::WriteFault;
use crate::state::*;

/// Opens and loads, with room for texts of so many bytes.
fn reload(fixture: &mut Fixture, names: &[&str], bytes: &[usize]) -> Vec<Notice> {
    let mut notices = fixture.reload(names).unwrap();
    let mut wait = |_| ();
    let mut opener = Opener {
        pid_file: &fixture.pid_file,
        workers: fixture.workers,
        now: UnixMs(fixture.now),
        wait: &mut wait,
        patience: PATIENCE,
    };
    let records = mem::take(&mut fixture.records);
    let state = fixture.state.as_ref().unwrap();
    fixture.records = state.with_texts(records, bytes, &mut opener, &mut notices);
    notices
}

/// A run of `name` that fails with this text, by a worker that this may befall.
fn fail_with(fixture: &mut Fixture, name: &str, text: &str, fault: WriteFault) {
    let every = secondly();
    let worker = fixture.worker(7);
    fixture.now += 1000;
    let at = fixture.now - fixture.now % 1000;
    let claim = won(&worker, timer(record(fixture, name), &every), due(at), fixture.now);
    worker.set_fault(fault);
    claim.finish_with(ended(Outcome::Failure), None, text);
}

fn text(fixture: &Fixture, name: &str) -> Option<String> {
    let worker = fixture.worker(8);
    let record = record(fixture, name);
    worker.failure_text(record, &worker.read(record).unwrap())
}

fn pages(fixture: &Fixture) -> Vec<Vec<u8>> {
    let bytes = fs::read(fixture.configured.path().unwrap()).unwrap();
    bytes.chunks(PAGE_BYTES).map(<[u8]>::to_vec).collect()
}

fn text_pages(fixture: &Fixture) -> usize {
    pages(fixture).iter().filter(|page| page[TEXT_MARK_AT..] == TEXT_MARK).count()
}

#[test]
fn the_text_of_the_last_failure_is_kept_in_a_file_and_in_memory() {
    for mut fixture in [Fixture::file(&[]), Fixture::memory(&[])] {
        let none = reload(&mut fixture, &["a", "b", "c"], &[0, 100, 8192]);
        assert!(none.is_empty(), "{none:?}");
        let long = "é".repeat(4096);
        for name in ["a", "b", "c"] {
            assert_eq!(text(&fixture, name), None);
            fail_with(&mut fixture, name, &format!("{long}é"), WriteFault::None);
        }
        assert_eq!(text(&fixture, "a"), None, "no room was asked for");
        assert_eq!(text(&fixture, "b").map(|text| text.len()), Some(4056), "one page");
        assert_eq!(text(&fixture, "c"), Some(long.clone()), "all of it has room in three pages");
        // A success leaves it, a cancelled run too; a reload finds it again.
        run_once(&mut fixture, "c");
        reload(&mut fixture, &["c", "b"], &[8192, 1]);
        assert_eq!(text(&fixture, "c"), Some(long));
        fail_with(&mut fixture, "c", "short", WriteFault::None);
        assert_eq!(text(&fixture, "c").as_deref(), Some("short"));
        fail_with(&mut fixture, "c", "", WriteFault::None);
        assert_eq!(text(&fixture, "c"), None, "the last failure had none");
        assert!(text(&fixture, "b").is_some(), "another's text");
    }
}

#[test]
fn who_is_killed_while_writing_loses_no_more_than_the_text() {
    // Three pages, the result, the claim part.
    for writes in 0..6 {
        let mut fixture = Fixture::file(&[]);
        reload(&mut fixture, &["a", "b"], &[8192, 8192]);
        fail_with(&mut fixture, "a", &"x".repeat(8000), WriteFault::None);
        fail_with(&mut fixture, "b", "other", WriteFault::None);
        let killed = WriteFault::KilledAfter(writes);
        fail_with(&mut fixture, "a", &"y".repeat(8192), killed);
        let seen = text(&fixture, "a");
        let expected = match writes {
            0 => Some("x".repeat(8000)),
            // The claim part has not reached the file, or all of it has.
            1..=4 => None,
            _ => Some("y".repeat(8192)),
        };
        assert_eq!(seen, expected, "after {writes} writes");
        assert_eq!(text(&fixture, "b").as_deref(), Some("other"));
        let notices = reload(&mut fixture, &["a", "b"], &[8192, 8192]);
        assert!(notices.is_empty(), "{notices:?}");
        fail_with(&mut fixture, "a", "again", WriteFault::None);
        assert_eq!(text(&fixture, "a").as_deref(), Some("again"));
        assert_eq!(text_pages(&fixture), 6);
    }
}

#[test]
fn a_torn_page_costs_its_text_only() {
    let mut fixture = Fixture::file(&[]);
    reload(&mut fixture, &["a", "b"], &[8192, 8192]);
    fail_with(&mut fixture, "a", &"x".repeat(8000), WriteFault::None);
    fail_with(&mut fixture, "b", &"z".repeat(8000), WriteFault::None);
    let mut bytes = pages(&fixture).concat();
    let at = bytes.windows(8).position(|window| window == b"xxxxxxxx").unwrap();
    bytes[at] = b'y';
    fs::write(fixture.configured.path().unwrap(), &bytes).unwrap();
    assert_eq!(text(&fixture, "a"), None);
    assert_eq!(text(&fixture, "b"), Some("z".repeat(8000)));
    let notices = reload(&mut fixture, &["a", "b"], &[8192, 8192]);
    assert!(notices.is_empty(), "{notices:?}");
    fail_with(&mut fixture, "a", "again", WriteFault::None);
    assert_eq!(text(&fixture, "a").as_deref(), Some("again"));
    assert_eq!(text_pages(&fixture), 6, "a page that is torn is used again");
}

#[test]
fn pages_of_a_timer_that_is_forgotten_are_used_again_for_texts_only() {
    let mut fixture = Fixture::file(&[]);
    reload(&mut fixture, &["a"], &[8192]);
    let before = pages(&fixture).len();
    reload(&mut fixture, &[], &[]);
    fixture.now += 31 * 24 * 60 * 60 * 1000;
    // Its record is given to another name.
    reload(&mut fixture, &["b"], &[8192]);
    assert_eq!((text_pages(&fixture), pages(&fixture).len()), (3, before));
    fail_with(&mut fixture, "b", "mine", WriteFault::None);
    assert_eq!(text(&fixture, "b").as_deref(), Some("mine"));
    // What needs no text takes none of them.
    let names: Vec<String> = (0..40).map(|number| format!("t{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain(["b"]).collect();
    reload(&mut fixture, &names, &vec![0; names.len()]);
    assert_eq!(text_pages(&fixture), 3);
}
