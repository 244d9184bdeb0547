//! The measure of disk space: what a tree takes, what would be free without it, and what stands against its removal.
//!
//! A file with several names takes its space once, and gives it back when the last of them goes.

use std::collections::{BTreeMap, HashSet};
use std::ops::AddAssign;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use serde::Serialize;
use walkdir::WalkDir;

use super::attrs::{Kind, Time};
use super::calls;
use super::dir::{Dir, Entry, one_name};
use crate::error::FsError;

/// Device and number of an inode.
pub type Inode = (u64, u64);

/// Bytes of one block as the kernel counts them, whatever the file system's own block is.
const BLOCK: u64 = 512;

/// How much something takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Size {
    /// Bytes on disk, in whole blocks: what removing it gives back.
    pub disk: u64,
    /// Bytes of content: lengths of files and of symbolic links.
    pub content: u64,
    /// Number of files, directories and whatever else takes an inode.
    pub inodes: u64,
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.disk += other.disk;
        self.content += other.content;
        self.inodes += other.inodes;
    }
}

impl std::iter::Sum for Size {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), |mut sum, size| {
            sum += size;
            sum
        })
    }
}

/// A file with several names, of which a tree has some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linked {
    /// What it takes.
    pub size: Size,
    /// How many names it has anywhere.
    pub names: u64,
    /// How many of them are in the tree.
    pub seen: u64,
}

/// What a name and all below it take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// What everything takes that has no other name.
    pub alone: Size,
    /// Files with several names.
    pub linked: BTreeMap<Inode, Linked>,
    /// When something in it was last written to.
    pub modified: Time,
    /// The first thing that cannot be removed, and why.
    pub obstacle: Option<(PathBuf, String)>,
}

impl Footprint {
    /// Returns the disk space in bytes that is free once all of `trees` are gone: of a file with several names only
    /// where all of them go. Each tree gets what goes with it and those before it.
    pub fn freed<'f>(trees: impl IntoIterator<Item = &'f Self>) -> Vec<u64> {
        let mut left: BTreeMap<Inode, u64> = BTreeMap::new();
        let mut freed = Vec::new();
        for tree in trees {
            let mut disk = tree.alone.disk;
            for (inode, file) in &tree.linked {
                let left = left.entry(*inode).or_insert(file.names);
                *left = left.saturating_sub(file.seen);
                if *left == 0 {
                    disk += file.size.disk;
                }
            }
            freed.push(disk);
        }
        freed
    }

    /// Counts one name.
    fn count(&mut self, seen: &Seen) {
        let is_first = self.alone.inodes == 0 && self.linked.is_empty();
        self.modified = if is_first { seen.modified } else { self.modified.max(seen.modified) };
        if seen.kind != Kind::Directory && seen.names > 1 {
            let fresh = Linked { size: seen.size, names: seen.names, seen: 0 };
            self.linked.entry(seen.inode).or_insert(fresh).seen += 1;
        } else {
            self.alone += seen.size;
        }
    }
}

/// What one name is.
struct Seen {
    kind: Kind,
    size: Size,
    inode: Inode,
    names: u64,
    modified: Time,
    obstacle: Option<&'static str>,
}

impl Dir {
    /// Looks at a name and all below it. What vanishes meanwhile was not there. Links are not followed and other
    /// mounts not entered.
    ///
    /// # Errors
    /// Something in it cannot be looked at.
    pub fn footprint(&self, name: impl AsRef<[u8]>) -> Result<Footprint, FsError> {
        self.walk(name.as_ref(), &mut Err)
    }

    /// As [`Dir::footprint`], of what can be looked at. Returns also why the rest cannot.
    pub fn known_footprint(&self, name: impl AsRef<[u8]>) -> (Footprint, Vec<FsError>) {
        let mut failed = Vec::new();
        let note = &mut |error| {
            failed.push(error);
            Ok(())
        };
        let found = self.walk(name.as_ref(), note).unwrap_or_default();
        (found, failed)
    }

    /// Walks through a name and all below it; goes on past what cannot be looked at where `refused` says so.
    fn walk(&self, name: &[u8], refused: &mut dyn FnMut(FsError) -> Result<(), FsError>) -> Result<Footprint, FsError> {
        let mut found = Footprint::default();
        let mut open: Vec<(Self, Vec<Entry>)> = Vec::new();
        self.enter(name, &mut found, &mut open).or_else(&mut *refused)?;
        // A stack of its own: how deep a tree is, is up to whoever made it.
        while let Some((dir, entries)) = open.last_mut() {
            let Some(entry) = entries.pop() else {
                open.pop();
                continue;
            };
            let dir = dir.clone();
            dir.enter(&entry.name, &mut found, &mut open).or_else(&mut *refused)?;
        }
        Ok(found)
    }

    /// Counts one name, and opens and lists it where it is a directory.
    fn enter(&self, name: &[u8], found: &mut Footprint, open: &mut Vec<(Self, Vec<Entry>)>) -> Result<(), FsError> {
        if let Some(inner) = self.visit(name, found)? {
            let entries = inner.entries()?;
            open.push((inner, entries));
        }
        Ok(())
    }

    /// Returns the bytes of all that is in this directory and is no directory itself, each file counted once; what a
    /// link says counts too (moby `daemon/internal/directory` `Size`).
    ///
    /// # Errors
    /// Something in it cannot be looked at.
    pub fn content_size(&self) -> Result<u64, FsError> {
        // By way of the descriptor it is this directory, whatever its name leads to by now.
        let here = PathBuf::from(format!("/proc/self/fd/{}/.", self.fd().as_raw_fd()));
        let fail = |error: walkdir::Error| {
            let within = error.path().and_then(|path| path.strip_prefix(&here).ok());
            let path = self.shown(within.map_or(&b""[..], |path| path.as_os_str().as_bytes()));
            FsError::new("look at", path, error)
        };
        let (mut size, mut seen) = (0, HashSet::new());
        for entry in WalkDir::new(&here).min_depth(1) {
            let entry = entry.map_err(fail)?;
            if entry.file_type().is_dir() {
                continue;
            }
            let file = entry.metadata().map_err(fail)?;
            if file.nlink() == 1 || seen.insert((file.dev(), file.ino())) {
                size += file.len();
            }
        }
        Ok(size)
    }

    /// Counts one name, and opens it where it is a directory.
    fn visit(&self, name: &[u8], found: &mut Footprint) -> Result<Option<Self>, FsError> {
        let Some(seen) = self.look(name)? else { return Ok(None) };
        if let Some(why) = seen.obstacle {
            found.obstacle.get_or_insert_with(|| (self.shown(name), why.to_owned()));
        }
        found.count(&seen);
        if seen.kind != Kind::Directory {
            return Ok(None);
        }
        match self.dir(name) {
            Ok(inner) => Ok(Some(inner)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) if error.is_other_mount() => {
                found.obstacle.get_or_insert_with(|| (self.shown(name), MOUNT.to_owned()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn look(&self, name: &[u8]) -> Result<Option<Seen>, FsError> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match calls::statx(self.fd(), one_name(name), flags, StatxFlags::BASIC_STATS) {
            Ok(stat) => {
                let kind = Kind::of(FileType::from_raw_mode(stat.stx_mode.into())).unwrap_or(Kind::Socket);
                Ok(Some(Seen {
                    kind,
                    size: size_of(kind, stat.stx_blocks * BLOCK, stat.stx_size),
                    inode: (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
                    names: stat.stx_nlink.into(),
                    modified: Time { seconds: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec },
                    obstacle: obstacle(stat.stx_attributes),
                }))
            }
            Err(Errno::NOENT) => Ok(None),
            // Before Linux 4.11: such a file is found when it is removed.
            Err(Errno::NOSYS) => Ok(self.find(name)?.map(|attrs| Seen {
                kind: attrs.kind,
                size: size_of(attrs.kind, attrs.disk, attrs.size),
                inode: (attrs.file_system, attrs.inode),
                names: attrs.links,
                modified: attrs.mtime,
                obstacle: None,
            })),
            Err(errno) => Err(self.fail("stat", name, errno)),
        }
    }
}

/// Returns what one inode takes: `disk` and `length` are in bytes; that of a directory is no content.
fn size_of(kind: Kind, disk: u64, length: u64) -> Size {
    let content = if matches!(kind, Kind::File | Kind::Symlink) { length } else { 0 };
    Size { disk, content, inodes: 1 }
}

const MOUNT: &str = "something is mounted there";

fn obstacle(attributes: StatxAttributes) -> Option<&'static str> {
    if attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Some(MOUNT);
    }
    if attributes.contains(StatxAttributes::IMMUTABLE) {
        return Some("it is immutable (chattr +i)");
    }
    attributes.contains(StatxAttributes::APPEND).then_some("it may only be appended to (chattr +a)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_when_the_last_name_goes() {
        let temp = tempfile::tempdir().expect("a temp directory");
        let at = |path: &str| temp.path().join(path);
        for name in ["a", "b", "c"] {
            std::fs::create_dir(at(name)).expect("a directory");
        }
        std::fs::write(at("a/x"), [7; 9000]).expect("a file");
        std::fs::hard_link(at("a/x"), at("b/x")).expect("a link");
        std::fs::hard_link(at("a/x"), at("b/y")).expect("a link");
        std::os::unix::fs::symlink("/", at("c/link")).expect("a link");
        let dir = Dir::open_root(temp.path()).expect("opens");
        assert_eq!(dir.content_size().expect("walks"), 9000 + 1);
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.footprint(name).expect("walks"));
        let file = a.linked.values().next().expect("one").size.disk;
        assert!(file >= 9000);
        assert_eq!(Footprint::freed([&a]), [a.alone.disk]);
        assert_eq!(Footprint::freed([&a, &b, &c]), [a.alone.disk, b.alone.disk + file, c.alone.disk]);
        assert_eq!([&a, &b, &c].map(|tree| (tree.alone.inodes, tree.linked.len())), [(1, 1), (1, 1), (2, 0)]);
        assert_eq!((a.linked.values().next().expect("one").size.content, c.alone.content), (9000, 1));
        assert_eq!(a.obstacle, None);
        assert_eq!(dir.footprint("none").expect("walks"), Footprint::default());
    }

    #[test]
    fn a_deep_tree() {
        let temp = tempfile::tempdir().expect("a temp directory");
        let dir = Dir::open_root(temp.path()).expect("opens");
        let mut at = dir.make_dir("deep", 0o755).expect("a directory");
        for _ in 0..800 {
            at = at.make_dir("d", 0o755).expect("a directory");
        }
        assert_eq!(dir.footprint("deep").expect("walks").alone.inodes, 801);
        dir.remove_tree("deep").expect("is removed");
        assert!(dir.entries().expect("lists").is_empty());
    }
}
