//! Exact copies of whole trees within a file system, and the comparison of two trees.
//!
//! Both use an explicit stack: containers and archives decide how deep a tree is, and recursion could overflow ours.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader};

use rustix::io::Errno;

use super::attrs::{Attrs, Kind};
use super::calls;
use super::dir::{Dir, Entry};
use super::file::File;
use super::footprint::Inode;
use super::holes::copy_content;
use crate::error::FsError;

/// How many bytes of two files are compared at a time.
const COMPARED: usize = 256 << 10;

/// Two directories that are walked together.
struct Level {
    from: Dir,
    to: Dir,
    /// Where both lie, below the two trees.
    path: Vec<u8>,
    entries: Vec<Entry>,
}

impl Dir {
    /// Copies all that is in this directory into `to`, an empty directory, and gives `to` the same attributes. The copy
    /// has the same content, hard links within the tree, owners, modes, extended attributes, and times of last change.
    /// Where the file system can, a file shares its blocks with its copy; tells whether all do. A subvolume in it becomes
    /// a directory.
    ///
    /// # Errors
    /// Something in it cannot be read, is a mount point, or the file system refuses. `to` is half made then.
    pub fn copy_exactly(&self, to: &Self) -> Result<bool, FsError> {
        let mut is_shared = true;
        // Files with several names that were copied already, and where the copy lies.
        let mut copied: HashMap<Inode, Vec<u8>> = HashMap::new();
        let first = Level { from: self.clone(), to: to.clone(), path: Vec::new(), entries: self.entries()? };
        let mut open = vec![first];
        while let Some(level) = open.last_mut() {
            let Some(Entry { name, .. }) = level.entries.pop() else {
                // The directory's own time comes last: each entry that is made changes it.
                give(&level.from, b".", &level.to, &level.from.attrs(b".")?)?;
                open.pop();
                continue;
            };
            let (attrs, path) = (level.from.attrs(&name)?, below(&level.path, &name));
            if attrs.kind == Kind::Directory {
                let (from, to) = (level.from.dir(&name)?, level.to.make_dir(&name, 0o700)?);
                let entries = from.entries()?;
                open.push(Level { from, to, path, entries });
            } else if let Some(first) = copied.get(&inode_of(&attrs)) {
                let (dir, first) = to.parent_of(first)?;
                level.to.hard_link(&dir, first, &name)?;
            } else {
                is_shared &= copy_one(&level.from, &name, &level.to, &attrs)?;
                if attrs.links > 1 {
                    copied.insert(inode_of(&attrs), path);
                }
            }
        }
        Ok(is_shared)
    }

    /// Returns the path of something in which `other` differs from this directory; the empty path is the directory
    /// itself. Times of last access do not count. The content of files counts only with `content`; their length and
    /// time of last change always do.
    ///
    /// # Errors
    /// One of the two cannot be read.
    pub fn difference(&self, other: &Self, content: bool) -> Result<Option<Vec<u8>>, FsError> {
        let (mut theirs, mut ours): (HashMap<Inode, Inode>, HashMap<Inode, Inode>) = Default::default();
        let mut open = Vec::new();
        if !is_same(self, other, b".", content)? || !push_pair(&mut open, self.clone(), other.clone(), Vec::new())? {
            return Ok(Some(Vec::new()));
        }
        while let Some(Level { from, to, path, entries }) = open.last_mut() {
            let Some(Entry { name, kind }) = entries.pop() else {
                open.pop();
                continue;
            };
            let path = below(path, &name);
            if !is_same(from, to, &name, content)? {
                return Ok(Some(path));
            }
            if kind == Kind::Directory {
                let (from, to) = (from.dir(&name)?, to.dir(&name)?);
                if !push_pair(&mut open, from, to, path.clone())? {
                    return Ok(Some(path));
                }
                continue;
            }
            let (one, other) = (from.attrs(&name)?, to.attrs(&name)?);
            if one.links > 1 || other.links > 1 {
                // Names of one file must be names of one file there too, and the other way round.
                let (one, other) = (inode_of(&one), inode_of(&other));
                if *theirs.entry(one).or_insert(other) != other || *ours.entry(other).or_insert(one) != one {
                    return Ok(Some(path));
                }
            }
        }
        Ok(None)
    }
}

impl Dir {
    /// Tells whether the file `name` has the same content as the file `twin` in `other`.
    ///
    /// # Errors
    /// One of the two cannot be read.
    pub fn has_content_of(&self, name: &[u8], other: &Self, twin: &[u8]) -> Result<bool, FsError> {
        let open = |dir: &Self, name| Ok::<_, FsError>(BufReader::with_capacity(COMPARED, dir.file(name)?));
        let (mut one, mut two) = (open(self, name)?, open(other, twin)?);
        loop {
            let left = one.fill_buf().map_err(|error| FsError::new("read", self.shown(name), error))?;
            let right = two.fill_buf().map_err(|error| FsError::new("read", other.shown(twin), error))?;
            let length = left.len().min(right.len());
            if length == 0 || left[..length] != right[..length] {
                return Ok(left.is_empty() && right.is_empty());
            }
            one.consume(length);
            two.consume(length);
        }
    }
}

/// Puts two directories on the stack, and tells whether they have the same names and kinds of entries.
fn push_pair(open: &mut Vec<Level>, from: Dir, to: Dir, path: Vec<u8>) -> Result<bool, FsError> {
    let entries = from.entries()?;
    let is_same = entries == to.entries()?;
    open.push(Level { from, to, path, entries });
    Ok(is_same)
}

fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

fn inode_of(attrs: &Attrs) -> Inode {
    (attrs.file_system, attrs.inode)
}

/// Copies what is no directory. Tells whether it shares all its blocks with its copy.
fn copy_one(from: &Dir, name: &[u8], to: &Dir, attrs: &Attrs) -> Result<bool, FsError> {
    let mut is_shared = true;
    match attrs.kind {
        Kind::File => {
            let (source, copy) = (from.file(name)?, to.make_file(name, 0o600)?);
            is_shared = share_content(&source, &copy).map_err(|error| FsError::new("copy", to.shown(name), error))?;
        }
        Kind::Symlink => to.make_symlink(name, &from.read_link(name)?)?,
        kind => to.make_node(name, kind, 0o600, attrs.device)?,
    }
    give(from, name, to, attrs)?;
    Ok(is_shared)
}

/// Lets a new file share the blocks of another, or copies them where the file system cannot do that. Tells which.
fn share_content(from: &File, to: &File) -> io::Result<bool> {
    match calls::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        // No such call, or not for these two: on btrfs one of them may be without checksums (`chattr +C`).
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NOTTY | Errno::NOSYS | Errno::XDEV | Errno::TXTBSY) => {
            copy_content(from, to).map(|()| false)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Gives a copy its attributes. The owner comes first, as it takes capabilities and set-id bits away.
fn give(from: &Dir, name: &[u8], to: &Dir, attrs: &Attrs) -> Result<(), FsError> {
    to.set_owner(name, attrs.uid, attrs.gid)?;
    for (key, value) in from.xattrs(name)? {
        to.set_xattr(name, &key, &value)?;
    }
    if attrs.kind != Kind::Symlink {
        to.set_mode(name, attrs.mode)?;
    }
    to.set_mtime(name, attrs.mtime)
}

/// Tells whether a name is the same in two directories, apart from what lies below it.
fn is_same(one: &Dir, other: &Dir, name: &[u8], content: bool) -> Result<bool, FsError> {
    let (Some(a), Some(b)) = (one.find(name)?, other.find(name)?) else { return Ok(false) };
    let told = |attrs: &Attrs| (attrs.kind, attrs.mode, attrs.uid, attrs.gid, attrs.mtime, attrs.device);
    if told(&a) != told(&b) || one.xattrs(name)? != other.xattrs(name)? {
        return Ok(false);
    }
    match a.kind {
        Kind::File => Ok(a.size == b.size && (!content || one.has_content_of(name, other, name)?)),
        Kind::Symlink => Ok(one.read_link(name)? == other.read_link(name)?),
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::fsx::Time;

    /// Makes a tree with one of everything.
    fn fill(at: &Path) {
        fs::create_dir_all(at.join("a/b/c")).expect("directories");
        fs::write(at.join("a/file"), "content").expect("a file");
        fs::write(at.join("a/b/empty"), "").expect("a file");
        fs::hard_link(at.join("a/file"), at.join("a/b/c/twin")).expect("a link");
        fs::hard_link(at.join("a/file"), at.join("other")).expect("a link");
        symlink("../nowhere", at.join("a/link")).expect("a link");
        let dir = Dir::open_root(at).expect("opens");
        let inner = dir.dir("a").expect("opens");
        for (name, kind) in [("fifo", Kind::Fifo), ("char", Kind::Char), ("socket", Kind::Socket)] {
            inner.make_node(name, kind, 0o640, (1, 3)).expect("a node");
        }
        inner.set_owner("link", 5, 6).expect("an owner");
        inner.set_owner("file", 7, 8).expect("an owner");
        inner.set_mode("file", 0o4751).expect("a mode");
        inner.set_xattr("file", b"security.capability", CAPABILITY).expect("an attribute");
        inner.set_xattr("b", b"user.note", b"x").expect("an attribute");
        inner.set_xattr("link", b"trusted.note", b"y").expect("an attribute");
        for (at, name) in [(&inner, "b"), (&inner, "file"), (&dir, "a"), (&dir, ".")] {
            at.set_mtime(name, Time { seconds: 1_000_000_000, nanos: 123_456_789 }).expect("a time");
        }
        dir.set_mode(".", 0o1711).expect("a mode");
    }

    /// `cap_net_raw=ep`.
    const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn a_copy_is_the_same_and_each_change_is_found() {
        let temp = tempfile::tempdir().expect("a temp directory");
        let at = |name: &str| temp.path().join(name);
        let open = |name: &str| Dir::open_root(&at(name)).expect("opens");
        fs::create_dir(at("from")).expect("a directory");
        fill(&at("from"));
        type Change = (&'static str, fn(&Path), bool, &'static str);
        let keep_time = |path: &Path, work: &dyn Fn()| {
            let time = fs::metadata(path).expect("a file").modified().expect("a time");
            work();
            fs::File::options().write(true).open(path).and_then(|file| file.set_modified(time)).expect("a time");
        };
        let changes: [Change; 8] = [
            ("nothing", |_| {}, true, "none"),
            ("a file more", |at| fs::write(at.join("a/b/more"), "").expect("a file"), false, "a/b"),
            ("a file less", |at| fs::remove_file(at.join("a/fifo")).expect("removed"), false, "a"),
            (
                "another target",
                |at| {
                    fs::remove_file(at.join("a/link")).expect("removed");
                    symlink("elsewhere", at.join("a/link")).expect("a link");
                },
                false,
                "a",
            ),
            ("longer", |at| fs::write(at.join("a/file"), "content!").expect("written"), false, "other"),
            (
                "a mode",
                |at| Dir::open_root(at).and_then(|dir| dir.set_mode("other", 0o600)).expect("set"),
                false,
                "other",
            ),
            (
                "the root's mode",
                |at| Dir::open_root(at).and_then(|dir| dir.set_mode(".", 0o700)).expect("set"),
                false,
                "",
            ),
            (
                "an attribute",
                |at| {
                    Dir::open_root(at).and_then(|dir| dir.set_xattr("other", b"user.x", b"")).expect("set");
                },
                false,
                "other",
            ),
        ];
        for (number, (what, change, is_same, path)) in changes.into_iter().enumerate() {
            let name = format!("to-{number}");
            fs::create_dir(at(&name)).expect("a directory");
            open("from").copy_exactly(&open(&name)).expect("copied");
            change(&at(&name));
            let found = open("from").difference(&open(&name), true).expect("compared");
            let wanted = (!is_same).then(|| path.as_bytes().to_vec());
            assert_eq!(found, wanted, "{what}");
        }
        // Content under the same time and length, and hard links that were parted: the first only where it is asked for.
        fs::create_dir(at("last")).expect("a directory");
        open("from").copy_exactly(&open("last")).expect("copied");
        let file = at("last/a/b/empty");
        fs::write(at("from/a/b/empty"), "one").expect("written");
        fs::write(&file, "two").expect("written");
        keep_time(&at("from/a/b/empty"), &|| {});
        let time = fs::metadata(at("from/a/b/empty")).expect("a file").modified().expect("a time");
        fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(time)).expect("a time");
        assert_eq!(open("from").difference(&open("last"), false).expect("compared"), None);
        assert_eq!(open("from").difference(&open("last"), true).expect("compared"), Some(b"a/b/empty".to_vec()));
        let apart = open("last");
        apart.part("other").expect("parted");
        let root_time = open("from").attrs(".").expect("attributes").mtime;
        apart.set_mtime(".", root_time).expect("a time");
        assert!(open("from").difference(&apart, false).expect("compared").is_some());
        assert!(apart.difference(&open("from"), false).expect("compared").is_some());
    }
}
