//! The comparison of trees finds every kind of deviation. One that cannot fail would prove nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, lremovexattr, lsetxattr,
    makedev, mknodat, utimensat,
};
use tempfile::TempDir;

use crate::support::tree::{Allow, Aspect, Tree, Untouched};

/// A tree with a node of every kind.
fn sample() -> TempDir {
    let temp = tempfile::tempdir().expect("a directory");
    let at = |name: &str| temp.path().join(name);
    fs::create_dir_all(at("dir/inner")).expect("directories");
    for name in ["file", "dir/file", "other", "first"] {
        fs::write(at(name), name).expect("a file");
    }
    fs::hard_link(at("first"), at("dir/second")).expect("a hard link");
    symlink("file", at("link")).expect("a link");
    node(&at("char"), FileType::CharacterDevice, (1, 3));
    node(&at("block"), FileType::BlockDevice, (7, 0));
    node(&at("pipe"), FileType::Fifo, (0, 0));
    for name in ["gone", "gone-too"] {
        node(&at(name), FileType::CharacterDevice, (0, 0));
    }
    xattr(&at("file"), "user.note", b"x");
    xattr(&at("dir"), "trusted.overlay.opaque", b"y");
    xattr(&at("dir"), "trusted.overlay.origin", b"host");
    for entry in walkdir::WalkDir::new(temp.path()).contents_first(true) {
        set_mtime(entry.expect("an entry").path(), 1_488_573_141, 123_456_789);
    }
    temp
}

fn node(at: &Path, kind: FileType, (major, minor): (u32, u32)) {
    mknodat(CWD, at, kind, Mode::from_raw_mode(0o644), makedev(major, minor)).expect("a node");
}

fn xattr(at: &Path, name: &str, value: &[u8]) {
    lsetxattr(at, name, value, XattrFlags::empty()).expect("an extended attribute");
}

fn set_mtime(at: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
}

/// Changes something and lists the deviations; times that only follow from it are set back.
fn deviations(allow: Allow, change: impl FnOnce(&Path)) -> Vec<(String, Aspect)> {
    let (one, other) = (sample(), sample());
    change(other.path());
    for dir in ["", "dir", "dir/inner"] {
        let at = other.path().join(dir);
        if at.is_dir() && at.metadata().expect("a directory").mtime() > 1_500_000_000 {
            set_mtime(&at, 1_488_573_141, 123_456_789);
        }
    }
    let found = Tree::read(one.path()).deviations(&Tree::read(other.path()), allow);
    let path = |path: &[u8]| path.escape_ascii().to_string();
    found.iter().map(|one| (path(&one.path), one.aspect)).collect()
}

fn rewrite(at: &Path, content: &str) {
    fs::write(at, content).expect("written");
    set_mtime(at, 1_488_573_141, 123_456_789);
}

fn replace_node(at: &Path, kind: FileType, device: (u32, u32)) {
    fs::remove_file(at).expect("removed");
    node(at, kind, device);
    set_mtime(at, 1_488_573_141, 123_456_789);
}

#[test]
fn the_same_tree_has_no_deviation() {
    assert_eq!(deviations(Allow::NOTHING, |_| ()), []);
}

type Change = (&'static str, fn(&Path), &'static [(&'static str, Aspect)]);

/// Each change with exactly the deviations it must be found by.
const CHANGES: &[Change] = &[
    ("a missing file", |root| fs::remove_file(root.join("file")).expect("removed"), &[("file", Aspect::Missing)]),
    (
        "a missing directory",
        |root| fs::remove_dir(root.join("dir/inner")).expect("removed"),
        &[("dir/inner", Aspect::Missing)],
    ),
    ("a file too many", |root| fs::write(root.join("dir/new"), "").expect("written"), &[("dir/new", Aspect::Extra)]),
    ("another kind", |root| replace_node(&root.join("pipe"), FileType::Socket, (0, 0)), &[("pipe", Aspect::Kind)]),
    (
        "a copy in place of a link",
        |root| {
            fs::remove_file(root.join("link")).expect("removed");
            rewrite(&root.join("link"), "file");
        },
        &[("link", Aspect::Kind)],
    ),
    ("mode of a file", |root| mode(&root.join("file"), 0o4644), &[("file", Aspect::Mode)]),
    ("mode of a directory", |root| mode(&root.join("dir"), 0o1755), &[("dir", Aspect::Mode)]),
    ("mode of a device", |root| mode(&root.join("char"), 0o600), &[("char", Aspect::Mode)]),
    ("mode of the root", |root| mode(root, 0o711), &[("", Aspect::Mode)]),
    ("owner", |root| own(&root.join("file"), 70_000, 0), &[("file", Aspect::Owner)]),
    ("group", |root| own(&root.join("dir"), 0, 70_000), &[("dir", Aspect::Owner)]),
    ("owner of a link", |root| own(&root.join("link"), 1, 0), &[("link", Aspect::Owner)]),
    ("content", |root| rewrite(&root.join("file"), "elif"), &[("file", Aspect::Content)]),
    ("length", |root| rewrite(&root.join("file"), "fil"), &[("file", Aspect::Size), ("file", Aspect::Content)]),
    ("a nanosecond", |root| set_mtime(&root.join("file"), 1_488_573_141, 123_456_788), &[("file", Aspect::Mtime)]),
    ("time of a directory", |root| set_mtime(&root.join("dir"), 1_488_573_140, 0), &[("dir", Aspect::Mtime)]),
    ("time of a link", |root| set_mtime(&root.join("link"), 1_488_573_140, 0), &[("link", Aspect::Mtime)]),
    ("time of a device", |root| set_mtime(&root.join("block"), 1_488_573_140, 0), &[("block", Aspect::Mtime)]),
    ("value of an attribute", |root| xattr(&root.join("file"), "user.note", b"y"), &[("file", Aspect::Xattrs)]),
    ("an attribute too many", |root| xattr(&root.join("other"), "user.more", b""), &[("other", Aspect::Xattrs)]),
    (
        "a missing attribute",
        |root| lremovexattr(root.join("file"), "user.note").expect("removed"),
        &[("file", Aspect::Xattrs)],
    ),
    (
        "no opaque marker",
        |root| lremovexattr(root.join("dir"), "trusted.overlay.opaque").expect("removed"),
        &[("dir", Aspect::Xattrs)],
    ),
    ("a capability", |root| xattr(&root.join("file"), "security.capability", &CAPABILITY), &[("file", Aspect::Xattrs)]),
    ("an attribute of a link", |root| xattr(&root.join("link"), "trusted.note", b"x"), &[("link", Aspect::Xattrs)]),
    (
        "number of a character device",
        |root| replace_node(&root.join("char"), FileType::CharacterDevice, (1, 5)),
        &[("char", Aspect::Device)],
    ),
    (
        "number of a block device",
        |root| replace_node(&root.join("block"), FileType::BlockDevice, (7, 256)),
        &[("block", Aspect::Device)],
    ),
    (
        "a device for a whiteout",
        |root| replace_node(&root.join("gone"), FileType::CharacterDevice, (0, 1)),
        &[("gone", Aspect::Device)],
    ),
    (
        "target of a link",
        |root| {
            fs::remove_file(root.join("link")).expect("removed");
            symlink("./file", root.join("link")).expect("a link");
            set_mtime(&root.join("link"), 1_488_573_141, 123_456_789);
        },
        &[("link", Aspect::Target)],
    ),
    (
        "a copy in place of a hard link",
        |root| {
            fs::remove_file(root.join("dir/second")).expect("removed");
            rewrite(&root.join("dir/second"), "first");
        },
        &[("first", Aspect::Links)],
    ),
    (
        "a hard link too many",
        |root| {
            rewrite(&root.join("first"), "dir/file");
            fs::remove_file(root.join("dir/file")).expect("removed");
            fs::hard_link(root.join("first"), root.join("dir/file")).expect("a hard link");
        },
        &[
            ("dir/second", Aspect::Size),
            ("dir/second", Aspect::Content),
            ("dir/second", Aspect::Links),
            ("first", Aspect::Size),
            ("first", Aspect::Content),
            ("first", Aspect::Links),
        ],
    ),
    (
        "hard links of devices",
        |root| {
            fs::remove_file(root.join("gone-too")).expect("removed");
            fs::hard_link(root.join("gone"), root.join("gone-too")).expect("a hard link");
        },
        &[("gone-too", Aspect::Links)],
    ),
    ("time of a whiteout", |root| set_mtime(&root.join("gone"), 1, 0), &[("gone", Aspect::Mtime)]),
    ("bookkeeping", |root| xattr(&root.join("dir"), "trusted.overlay.origin", b"other"), &[("dir", Aspect::Xattrs)]),
    ("more bookkeeping", |root| xattr(&root.join("dir"), "trusted.overlay.impure", b"y"), &[("dir", Aspect::Xattrs)]),
];

/// `cap_net_raw+ep`
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Changes that are allowed in a layer that was rebuilt.
const ALLOWED: [&str; 5] =
    ["hard links of devices", "time of a whiteout", "bookkeeping", "more bookkeeping", "a whiteout to make others of"];

fn mode(at: &Path, mode: u32) {
    rustix::fs::chmodat(CWD, at, Mode::from_raw_mode(mode), AtFlags::empty()).expect("a mode");
}

fn own(at: &Path, uid: u32, gid: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    chownat(CWD, at, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).expect("an owner");
}

#[test]
fn every_single_change_is_found() {
    for (what, change, wanted) in CHANGES {
        let mut found = deviations(Allow::NOTHING, change);
        let mut wanted: Vec<_> = wanted.iter().map(|(path, aspect)| ((*path).to_owned(), *aspect)).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "{what}");
    }
}

#[test]
fn only_two_kinds_of_change_can_be_allowed() {
    for (what, change, wanted) in CHANGES {
        let found = deviations(Allow::REBUILT, change);
        assert_eq!(found.len(), if ALLOWED.contains(what) { 0 } else { wanted.len() }, "{what}: {found:?}");
    }
}

#[test]
fn hard_links_between_directories_count() {
    let names = ["dir", "first"];
    let (one, other) = (sample(), sample());
    fs::remove_file(other.path().join("first")).expect("removed");
    rewrite(&other.path().join("first"), "first");
    let read = |temp: &TempDir| Tree::read_entries(temp.path(), names);
    let found = read(&one).deviations(&read(&other), Allow::REBUILT);
    assert!(found.iter().any(|one| one.aspect == Aspect::Links), "{found:?}");
}

#[test]
fn what_must_stay_may_not_even_be_touched() {
    let sample = sample();
    let before = Untouched::note(sample.path());
    before.assert();
    mode(&sample.path().join("file"), 0o644);
    let touched = std::panic::catch_unwind(|| before.assert());
    assert!(touched.is_err(), "a change of the inode was overlooked");
    before.assert_restored();
    let at = sample.path().join("other");
    fs::rename(&at, sample.path().join("aside")).expect("renamed");
    fs::copy(sample.path().join("aside"), &at).expect("copied");
    fs::remove_file(sample.path().join("aside")).expect("removed");
    set_mtime(&at, 1_488_573_141, 123_456_789);
    let replaced = std::panic::catch_unwind(|| before.assert_restored());
    assert!(replaced.is_err(), "an equal file in another inode was overlooked");
}
