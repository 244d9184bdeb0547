//! Looking at a whole tree before it is removed: what it takes, and what stands against its removal.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::attrs::{Kind, Time};
use super::calls;
use super::dir::{Dir, Entry, one_name};
use crate::error::FsError;

/// Device and number of an inode.
pub type Inode = (u64, u64);

/// A file with several names, of which a tree has some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linked {
    /// Disk space in bytes.
    pub disk: u64,
    /// How many names it has anywhere.
    pub names: u64,
    /// How many of them are in the tree.
    pub seen: u64,
}

/// What a name and all below it take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Disk space in bytes of everything that has no other name.
    pub disk: u64,
    /// Number of files, directories and whatever else there is.
    pub inodes: u64,
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
            let mut disk = tree.disk;
            for (inode, file) in &tree.linked {
                let left = left.entry(*inode).or_insert(file.names);
                *left = left.saturating_sub(file.seen);
                if *left == 0 {
                    disk += file.disk;
                }
            }
            freed.push(disk);
        }
        freed
    }
}

/// What one name is.
struct Seen {
    kind: Kind,
    disk: u64,
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
        let mut found = Footprint::default();
        let mut open: Vec<(Self, Vec<Entry>)> = Vec::new();
        if let Some(inner) = self.visit(name.as_ref(), &mut found)? {
            let entries = inner.entries()?;
            open.push((inner, entries));
        }
        // A stack of its own: how deep a tree is, is up to whoever made it.
        while let Some((dir, entries)) = open.last_mut() {
            let Some(entry) = entries.pop() else {
                open.pop();
                continue;
            };
            if let Some(inner) = dir.visit(&entry.name, &mut found)? {
                let entries = inner.entries()?;
                open.push((inner, entries));
            }
        }
        Ok(found)
    }

    /// Returns the bytes of all that is in this directory and is no directory itself, each file counted once; what a
    /// link says counts too (moby `daemon/internal/directory` `Size`).
    ///
    /// # Errors
    /// Something in it cannot be looked at.
    pub fn content_size(&self) -> Result<u64, FsError> {
        let (mut size, mut seen) = (0, HashSet::new());
        let mut open: Vec<(Self, Vec<Entry>)> = vec![(self.clone(), self.entries()?)];
        while let Some((dir, entries)) = open.last_mut() {
            let Some(entry) = entries.pop() else {
                open.pop();
                continue;
            };
            if entry.kind == Kind::Directory {
                let inner = dir.dir(&entry.name)?;
                let entries = inner.entries()?;
                open.push((inner, entries));
            } else {
                let attrs = dir.attrs(&entry.name)?;
                if attrs.links == 1 || seen.insert(attrs.inode) {
                    size += attrs.size;
                }
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
        found.modified = match found.inodes {
            0 => seen.modified,
            _ => found.modified.max(seen.modified),
        };
        found.inodes += 1;
        if seen.kind != Kind::Directory && seen.names > 1 {
            let fresh = Linked { disk: seen.disk, names: seen.names, seen: 0 };
            found.linked.entry(seen.inode).or_insert(fresh).seen += 1;
        } else {
            found.disk += seen.disk;
        }
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
            Ok(stat) => Ok(Some(Seen {
                kind: Kind::of(FileType::from_raw_mode(stat.stx_mode.into())).unwrap_or(Kind::Socket),
                disk: stat.stx_blocks * 512,
                inode: (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
                names: stat.stx_nlink.into(),
                modified: Time { seconds: stat.stx_mtime.tv_sec, nanos: stat.stx_mtime.tv_nsec },
                obstacle: obstacle(stat.stx_attributes),
            })),
            Err(Errno::NOENT) => Ok(None),
            // Before Linux 4.11: such a file is found when it is removed.
            Err(Errno::NOSYS) => Ok(self.find(name)?.map(|attrs| Seen {
                kind: attrs.kind,
                disk: attrs.disk,
                inode: (attrs.file_system, attrs.inode),
                names: attrs.links,
                modified: attrs.mtime,
                obstacle: None,
            })),
            Err(errno) => Err(self.fail("stat", name, errno)),
        }
    }
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
        let file = a.linked.values().next().expect("one").disk;
        assert!(file >= 9000);
        assert_eq!(Footprint::freed([&a]), [a.disk]);
        assert_eq!(Footprint::freed([&a, &b, &c]), [a.disk, b.disk + file, c.disk]);
        assert_eq!((a.inodes, b.inodes, c.inodes), (2, 3, 2));
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
        assert_eq!(dir.footprint("deep").expect("walks").inodes, 801);
        dir.remove_tree("deep").expect("is removed");
        assert!(dir.entries().expect("lists").is_empty());
    }
}
