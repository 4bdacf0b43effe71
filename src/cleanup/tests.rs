//! Walks through trees on a disk.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::os::call::Call;
use crate::os::fault::{CallFault, Effect, Repeat, errno, with};
use crate::os::file::FileId;
use crate::os::scratch::Scratch;
use crate::os::wall_clock;

const HOUR: Duration = Duration::from_secs(3600);

struct Tree(Scratch);

impl Tree {
    fn new() -> Self {
        let tree = Self(Scratch::new());
        fs::create_dir(tree.path("top")).unwrap();
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path("").canonicalize().unwrap().join(name)
    }

    /// Makes a file of this age, with all that leads to it.
    fn file(&self, name: &str, age: Duration) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "12345").unwrap();
        set_age(&path, age);
        path
    }

    fn options(&self) -> Options {
        Options {
            path: self.path("top"),
            older: HOUR,
            pattern: None,
            by: By::Modified,
            keep: 0,
            empty_dirs: false,
            max: 100_000,
            dry_run: false,
        }
    }

    /// What is left, relative to the top.
    fn left(&self) -> Vec<String> {
        let (mut left, mut todo) = (Vec::new(), vec![self.path("top")]);
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.path("top")).unwrap().to_string_lossy();
                left.push(name.into_owned());
                if path.is_dir() && !path.is_symlink() {
                    todo.push(path);
                }
            }
        }
        left.sort();
        left
    }
}

fn set_age(path: &Path, age: Duration) {
    let time = SystemTime::now() - age;
    let times = FileTimes::new().set_modified(time).set_accessed(time);
    File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

fn walk(options: Options) -> Report {
    walk_but(options, Vec::new())
}

fn walk_but(options: Options, own: Vec<FileId>) -> Report {
    let mut walk = Walk::new(Arc::new(options), wall_clock(), own);
    while walk.step() == Step::More {}
    assert_eq!(walk.step(), Step::Last);
    walk.report().clone()
}

fn counts(report: &Report) -> (u64, u64, u64, u64) {
    (report.removed, report.bytes, report.kept, report.errors)
}

#[test]
fn what_is_old_goes_and_nothing_else() {
    let tree = Tree::new();
    tree.file("top/old", 2 * HOUR);
    tree.file("top/a/b/old", 2 * HOUR);
    tree.file("top/a/young", HOUR / 2);
    tree.file("outside/old", 2 * HOUR);
    symlink(tree.path("outside"), tree.path("top/link")).unwrap();
    symlink(tree.path("outside/old"), tree.path("top/a/link")).unwrap();
    let report = walk(tree.options());
    assert_eq!(counts(&report), (2, 10, 1, 0));
    assert!(!report.has_failed());
    assert_eq!(tree.left(), ["a", "a/b", "a/link", "a/young", "link"]);
    assert!(tree.path("outside/old").exists());
}

#[test]
fn only_names_like_the_pattern_go() {
    let tree = Tree::new();
    tree.file("top/a.part", 2 * HOUR);
    tree.file("top/a.jpg", 2 * HOUR);
    let options = Options { pattern: Glob::parse(b"*.part"), ..tree.options() };
    assert_eq!(counts(&walk(options)), (1, 5, 1, 0));
    assert_eq!(tree.left(), ["a.jpg"]);
}

#[test]
fn the_newest_of_the_whole_tree_stay() {
    let tree = Tree::new();
    for (name, hours) in [("a", 9), ("b/x", 3), ("c", 5), ("b/y", 7), ("d/e/z", 2)] {
        tree.file(&format!("top/{name}"), hours * HOUR);
    }
    tree.file("top/other.log", HOUR / 4);
    let pattern = Glob::parse(b"?");
    let report = walk(Options { keep: 3, pattern: pattern.clone(), ..tree.options() });
    assert_eq!(counts(&report), (2, 10, 4, 0));
    assert_eq!(tree.left(), ["b", "b/x", "c", "d", "d/e", "d/e/z", "other.log"]);
    // Fewer than are kept.
    let report = walk(Options { keep: 4, pattern, ..tree.options() });
    assert_eq!(counts(&report), (0, 0, 4, 0));
}

#[test]
fn files_of_the_same_age_are_no_fewer_than_are_kept() {
    let tree = Tree::new();
    let time = SystemTime::now() - 2 * HOUR;
    for number in 0..20 {
        let path = tree.file(&format!("top/{number}"), HOUR);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    assert_eq!(counts(&walk(Options { keep: 7, ..tree.options() })), (13, 65, 7, 0));
}

#[test]
fn directories_that_were_emptied_go_and_others_stay() {
    let tree = Tree::new();
    tree.file("top/a/b/c/old", 2 * HOUR);
    tree.file("top/d/old", 2 * HOUR);
    tree.file("top/d/young", HOUR / 2);
    fs::create_dir_all(tree.path("top/was/empty")).unwrap();
    assert_eq!(counts(&walk(Options { empty_dirs: true, ..tree.options() })), (2, 10, 1, 0));
    assert_eq!(tree.left(), ["d", "d/young", "was", "was/empty"]);
    // Not the top itself.
    tree.file("top/only", 2 * HOUR);
    fs::remove_dir_all(tree.path("top/d")).unwrap();
    fs::remove_dir_all(tree.path("top/was")).unwrap();
    walk(Options { empty_dirs: true, ..tree.options() });
    assert_eq!(tree.left(), [""; 0]);
}

#[test]
fn it_stops_at_the_maximum_and_leaves_no_emptied_directory() {
    let tree = Tree::new();
    for name in ["a/old", "b/old", "c/old"] {
        tree.file(&format!("top/{name}"), 2 * HOUR);
    }
    let report = walk(Options { max: 2, empty_dirs: true, ..tree.options() });
    assert_eq!((report.removed, report.max_reached), (2, true));
    assert_eq!(tree.left().len(), 2, "a directory and its file");
    assert!(report.to_string().contains("stopped at \"max\""));
}

#[test]
fn a_dry_run_removes_nothing() {
    let tree = Tree::new();
    tree.file("top/a/old", 2 * HOUR);
    let report = walk(Options { dry_run: true, empty_dirs: true, ..tree.options() });
    assert_eq!((counts(&report), report.dry_run), ((1, 5, 0, 0), true));
    assert_eq!(tree.left(), ["a", "a/old"]);
}

#[test]
fn the_last_access_may_count() {
    let tree = Tree::new();
    let path = tree.file("top/read", 2 * HOUR);
    let times = FileTimes::new().set_accessed(SystemTime::now());
    File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    assert_eq!(walk(Options { by: By::Accessed, ..tree.options() }).kept, 1);
    assert_eq!(walk(tree.options()).removed, 1);
}

#[test]
fn own_files_stay() {
    let tree = Tree::new();
    let log = tree.file("top/error.log", 2 * HOUR);
    fs::hard_link(&log, tree.path("top/also")).unwrap();
    tree.file("top/old", 2 * HOUR);
    let own = vec![FileId::at(&log).unwrap()];
    assert_eq!(counts(&walk_but(tree.options(), own)), (1, 5, 2, 0));
    assert_eq!(tree.left(), ["also", "error.log"]);
}

#[test]
fn what_is_too_deep_is_an_error() {
    let tree = Tree::new();
    let at = |levels: usize| format!("top/{}old", "x/".repeat(levels));
    tree.file(&at(63), 2 * HOUR);
    tree.file(&at(70), 2 * HOUR);
    let report = walk(tree.options());
    assert_eq!(counts(&report), (1, 5, 0, 1));
    let [failure] = &report.failures[..] else { panic!("{report:?}") };
    assert_eq!(failure.problem, Problem::TooDeep);
    assert_eq!(failure.path, tree.path(at(64).trim_end_matches("/old")));
    assert!(tree.path(&at(70)).exists());
}

#[test]
fn a_path_that_is_not_there_has_failed() {
    let tree = Tree::new();
    let report = walk(Options { path: tree.path("gone"), keep: 3, ..tree.options() });
    assert!(report.has_failed());
    let [failure] = &report.failures[..] else { panic!("{report:?}") };
    assert_eq!(failure.path, tree.path("gone"));
    assert!(matches!(failure.problem, Problem::Call(Call::OpenAt, 2)), "{failure:?}");
}

#[test]
fn a_link_in_the_place_of_the_path_is_not_followed() {
    let tree = Tree::new();
    tree.file("other/old", 2 * HOUR);
    fs::remove_dir(tree.path("top")).unwrap();
    symlink(tree.path("other"), tree.path("top")).unwrap();
    assert!(walk(tree.options()).has_failed());
    assert!(tree.path("other/old").exists());
}

#[test]
fn of_a_row_of_failures_the_first_is_told() {
    let tree = Tree::new();
    for number in 0..20 {
        tree.file(&format!("top/{number}"), 2 * HOUR);
    }
    let denied = |after, repeat| CallFault {
        call: Some(Call::UnlinkAt),
        after,
        repeat,
        effect: Effect::Errno(errno::EACCES),
    };
    let report = with(denied(0, Repeat::FromThenOn), || walk(tree.options()));
    assert_eq!(counts(&report), (0, 0, 0, 20));
    assert_eq!(report.failures.len(), 1);
    assert!(report.has_failed());
    assert_eq!(report.failures[0].problem, Problem::Call(Call::UnlinkAt, errno::EACCES));
    let report = with(denied(3, Repeat::Once), || walk(tree.options()));
    assert_eq!((counts(&report), report.has_failed()), ((19, 95, 0, 1), false));
}

#[test]
fn no_call_that_fails_is_the_end_of_it() {
    for call in [Call::OpenAt, Call::StatAt, Call::UnlinkAt, Call::List, Call::Stat] {
        for (after, keep) in [(0, 0), (1, 0), (3, 0), (0, 1), (4, 1)] {
            let tree = Tree::new();
            for name in ["a/1", "a/2", "b/c/3", "4"] {
                tree.file(&format!("top/{name}"), 2 * HOUR);
            }
            let options = Options { keep, empty_dirs: true, ..tree.options() };
            let fault = CallFault {
                call: Some(call),
                after,
                repeat: Repeat::FromThenOn,
                effect: Effect::Errno(errno::EIO),
            };
            let report = with(fault, || walk(options.clone()));
            assert!(
                report.errors > 0 || report.removed + report.kept >= 3,
                "{call} {after} {report:?}"
            );
            let _ = walk(options);
            assert!(tree.left().len() <= 4, "{call}");
        }
    }
}

#[test]
fn a_directory_without_rights_is_an_error_unless_it_is_root_s() {
    let tree = Tree::new();
    tree.file("top/locked/old", 2 * HOUR);
    fs::set_permissions(tree.path("top/locked"), PermissionsExt::from_mode(0o000)).unwrap();
    let report = walk(tree.options());
    let expected = if crate::os::is_root() { (1, 5, 0, 0) } else { (0, 0, 0, 1) };
    assert_eq!(counts(&report), expected);
    fs::set_permissions(tree.path("top/locked"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn the_report_is_json_and_a_log_line() {
    let report = Report { removed: 12, bytes: 34_567, kept: 88, ..Report::default() };
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(json, r#"{"removed":12,"bytes":34567,"kept":88,"errors":0}"#);
    assert_eq!(report.to_string(), "removed 12 files, 34567 bytes, kept 88, 0 errors");
    let report = Report { max_reached: true, dry_run: true, ..report };
    let json = serde_json::to_string(&report).unwrap();
    assert!(json.ends_with(r#""errors":0,"max_reached":true,"dry_run":true}"#));
}

#[test]
fn a_directory_that_vanishes_is_no_error() {
    let tree = Tree::new();
    for steps in 0..6 {
        tree.file("top/a/b/old", 2 * HOUR);
        tree.file("top/c", 2 * HOUR);
        let options = Options { empty_dirs: true, ..tree.options() };
        let mut walk = Walk::new(Arc::new(options), wall_clock(), Vec::new());
        for _ in 0..steps {
            let _ = walk.step();
        }
        let _ = fs::remove_dir_all(tree.path("top/a"));
        while walk.step() == Step::More {}
        assert_eq!(walk.report().errors, 0, "after {steps} steps: {:?}", walk.report());
        assert_eq!(tree.left(), [""; 0]);
    }
}

#[test]
fn exchanged_while_it_walks() {
    let tree = Tree::new();
    tree.file("outside/old", 2 * HOUR);
    for _ in 0..200 {
        tree.file("top/d/old", 2 * HOUR);
        let mut walk = Walk::new(Arc::new(tree.options()), wall_clock(), Vec::new());
        // The directory becomes a link at whatever step this is.
        let _ = walk.step();
        fs::rename(tree.path("top/d"), tree.path("moved")).unwrap();
        symlink(tree.path("outside"), tree.path("top/d")).unwrap();
        while walk.step() == Step::More {}
        assert!(tree.path("outside/old").exists());
        fs::remove_file(tree.path("top/d")).unwrap();
        fs::remove_dir_all(tree.path("moved")).unwrap();
    }
}
