use std::os::unix::fs::symlink;

use super::*;
use crate::os::scratch::Scratch;

const BOTH: [Open; 2] = [Open::Kernel, Open::Steps];

fn open(how: Open, path: &Path) -> io::Result<Directory> {
    Directory::open_by(how, &path.canonicalize().unwrap())
}

/// Goes to the entry of this name.
fn at<'a>(directory: &'a mut Directory, name: &[u8]) -> &'a Directory {
    while directory.advance().unwrap() {
        if directory.name() == name {
            return directory;
        }
    }
    panic!("no {name:?}");
}

#[test]
fn all_entries_are_read_whatever_their_names() {
    let scratch = Scratch::new();
    let mut expected: Vec<Vec<u8>> =
        (0..2000).map(|number| format!("{number:0>100}").into_bytes()).collect();
    expected.extend([b"\xff\xfe".to_vec(), b"new\nline".to_vec(), b"...".to_vec()]);
    for name in &expected {
        fs::write(scratch.path("").join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    }
    let mut directory = open(Open::Kernel, &scratch.path("")).unwrap();
    let mut seen = Vec::new();
    while directory.advance().unwrap() {
        assert_eq!(directory.kind(), Kind::Regular);
        let attributes = directory.attributes().unwrap();
        assert_eq!((attributes.kind, attributes.size), (Kind::Regular, 1));
        seen.push(directory.name().to_vec());
        directory.unlink().unwrap();
    }
    assert_eq!(directory.name(), b"");
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    assert_eq!(fs::read_dir(scratch.path("")).unwrap().count(), 0);
}

#[test]
fn a_link_is_neither_followed_nor_entered_wherever_it_is() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("real/below")).unwrap();
    symlink(scratch.path("real"), scratch.path("link")).unwrap();
    let here = scratch.path("").canonicalize().unwrap();
    for how in BOTH {
        let opened = Directory::open_by(how, &here.join("link"));
        assert!(matches!(opened.unwrap_err().raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)));
        let opened = Directory::open_by(how, &here.join("link/below"));
        assert!(matches!(opened.unwrap_err().raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)));
        assert!(
            Directory::open_by(how, &here.join("real/../real")).is_err() == (how == Open::Steps)
        );

        let mut directory = open(how, &here).unwrap();
        let link = at(&mut directory, b"link");
        assert_eq!((link.kind(), link.attributes().unwrap().kind), (Kind::Other, Kind::Other));
        assert!(matches!(link.enter_by(how), Ok(Entered::Elsewhere)));
        let mut directory = open(how, &here).unwrap();
        let Ok(Entered::Directory(mut real)) = at(&mut directory, b"real").enter_by(how) else {
            panic!("not entered")
        };
        assert_eq!(at(&mut real, b"below").kind(), Kind::Directory);
        assert_eq!(directory.attributes().unwrap().id, real.id());
    }
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("outside")).unwrap();
    for how in BOTH {
        fs::create_dir_all(scratch.path("tree/a")).unwrap();
        let mut tree = open(how, &scratch.path("tree")).unwrap();
        at(&mut tree, b"a");
        fs::remove_dir(scratch.path("tree/a")).unwrap();
        symlink(scratch.path("outside"), scratch.path("tree/a")).unwrap();
        assert!(matches!(tree.enter_by(how), Ok(Entered::Elsewhere)));
        let not_a_directory = tree.remove_directory().unwrap_err();
        assert_eq!(not_a_directory.raw_os_error(), Some(libc::ENOTDIR));
        tree.unlink().unwrap();
        assert!(scratch.path("outside").is_dir());
        assert_eq!(tree.enter_by(how).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

#[test]
fn what_is_not_empty_stays() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("tree/full/x")).unwrap();
    let mut tree = open(Open::Kernel, &scratch.path("tree")).unwrap();
    at(&mut tree, b"full");
    assert!(is_not_empty(&tree.remove_directory().unwrap_err()));
    fs::remove_dir(scratch.path("tree/full/x")).unwrap();
    tree.remove_directory().unwrap();
    assert!(!scratch.path("tree/full").exists());
}

#[test]
fn no_other_mount_is_entered() {
    // What is mounted on every Linux: /proc in /, and /dev/shm or /dev/pts in /dev.
    for (parent, mount) in [("/", "proc"), ("/dev", "pts"), ("/dev", "shm")] {
        for how in BOTH {
            let mut directory = Directory::open_by(how, Path::new(parent)).unwrap();
            while directory.advance().unwrap() {
                if directory.name() == mount.as_bytes() {
                    assert!(matches!(directory.enter_by(how), Ok(Entered::Elsewhere)), "{mount}");
                }
            }
        }
    }
}

#[test]
fn a_buffer_that_is_not_as_it_should_be_is_no_panic() {
    assert!(parse(&[], 0).is_none());
    assert!(parse(&[0; 17], 0).is_none());
    let mut entry = [b'x'; 24];
    entry[16..18].copy_from_slice(&24_u16.to_ne_bytes());
    assert!(parse(&entry, 0).is_none(), "no end of the name");
    entry[16..18].copy_from_slice(&3_u16.to_ne_bytes());
    assert!(parse(&entry, 0).is_none(), "too short");
    entry[16..18].copy_from_slice(&u16::MAX.to_ne_bytes());
    assert!(parse(&entry, 0).is_none(), "too long");
}
