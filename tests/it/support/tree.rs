//! Two trees on disk, compared node by node: all that an exact copy must have, and nothing that it cannot.
//!
//! Reads with its own system calls, so that a mistake of dockpack's does not cancel itself out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sha2::Digest as _;

/// What overlayfs keeps for itself on one host.
const BOOKKEEPING: [&str; 5] = ["origin", "impure", "nlink", "uuid", "upper"];

/// Deviations that are no mistake.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Allow {
    /// Whiteouts may have other times and be hard links of others.
    pub(crate) whiteouts: bool,
    /// The extended attributes in [`BOOKKEEPING`] may be there or not.
    pub(crate) bookkeeping: bool,
}

impl Allow {
    pub(crate) const NOTHING: Self = Self { whiteouts: false, bookkeeping: false };
    /// What a layer's directory may differ in when it has been saved and loaded.
    pub(crate) const REBUILT: Self = Self { whiteouts: true, bookkeeping: true };
}

/// In what two nodes differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Aspect {
    Missing,
    Extra,
    Kind,
    Mode,
    Owner,
    Size,
    Content,
    Mtime,
    Xattrs,
    Device,
    Target,
    Links,
}

/// One difference. `wanted` and `found` are for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deviation {
    pub(crate) path: Vec<u8>,
    pub(crate) aspect: Aspect,
    pub(crate) wanted: String,
    pub(crate) found: String,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, aspect, wanted, found } = self;
        write!(f, "{}: {aspect:?}: wanted {wanted}, found {found}", path.escape_ascii())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    /// Of regular files only.
    size: u64,
    mtime: (i64, i64),
    xattrs: BTreeMap<String, Vec<u8>>,
    device: (u32, u32),
    /// SHA-256 of a regular file.
    content: String,
    /// Of a symbolic link.
    target: Vec<u8>,
    /// The first path of all that are the same inode.
    links: Vec<u8>,
}

impl Node {
    /// A name that a directory lists, and under which nothing is found.
    fn listed_only() -> Self {
        Self {
            kind: "name without anything",
            mode: 0,
            owner: (0, 0),
            size: 0,
            mtime: (0, 0),
            xattrs: BTreeMap::new(),
            device: (0, 0),
            content: String::new(),
            target: Vec::new(),
            links: Vec::new(),
        }
    }

    fn is_whiteout(&self) -> bool {
        self.kind == "character device" && self.device == (0, 0)
    }
}

/// What was found below a directory; paths are relative to it, and the directory itself is the empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<Vec<u8>, Node>);

impl Tree {
    /// Reads a whole tree.
    #[must_use]
    pub(crate) fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        let mut inodes = BTreeMap::new();
        tree.add(root, b"", &mut inodes);
        tree
    }

    /// Reads the entries of `root` with these names and all that is below them, as one tree: hard links between
    /// them count. The directory itself is left out.
    #[must_use]
    pub(crate) fn read_entries<N: AsRef<[u8]>>(root: &Path, names: impl IntoIterator<Item = N>) -> Self {
        let mut tree = Self::default();
        let mut inodes = BTreeMap::new();
        for name in names {
            let name = name.as_ref();
            tree.add(&root.join(std::ffi::OsStr::from_bytes(name)), name, &mut inodes);
        }
        tree
    }

    /// Forgets all times, for what is written anew by every load.
    #[must_use]
    pub(crate) fn without_times(mut self) -> Self {
        for node in self.0.values_mut() {
            node.mtime = (0, 0);
        }
        self
    }

    /// Forgets all nodes whose path the function does not want.
    #[must_use]
    pub(crate) fn only(mut self, wanted: impl Fn(&[u8]) -> bool) -> Self {
        self.0.retain(|path, _| wanted(path));
        self
    }

    fn add(&mut self, at: &Path, path: &[u8], inodes: &mut BTreeMap<(u64, u64), Vec<u8>>) {
        let metadata = match fs::symlink_metadata(at) {
            Ok(metadata) => metadata,
            // Where it has nothing to merge, overlayfs lists whiteouts too, and then does not find them.
            Err(error) if error.kind() == ErrorKind::NotFound && !path.is_empty() => {
                self.0.insert(path.to_vec(), Node::listed_only());
                return;
            }
            Err(error) => panic!("{}: {error}", at.display()),
        };
        let first = match metadata.is_dir() {
            true => path.to_vec(),
            false => inodes.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.to_vec()).clone(),
        };
        self.0.insert(path.to_vec(), node(at, &metadata, first));
        if !metadata.is_dir() {
            return;
        }
        let entries = fs::read_dir(at).unwrap_or_else(|error| panic!("{}: {error}", at.display()));
        let mut names: Vec<_> = entries.map(|entry| entry.expect("a directory entry").file_name()).collect();
        names.sort();
        for name in names {
            let below = if path.is_empty() { name.as_bytes().to_vec() } else { [path, b"/", name.as_bytes()].concat() };
            self.add(&at.join(&name), &below, inodes);
        }
    }

    /// Tells what kinds of nodes, and of what hangs on them, there are: for tests that would show nothing without them.
    #[must_use]
    pub(crate) fn traits(&self) -> BTreeSet<String> {
        let mut traits = BTreeSet::new();
        for (path, node) in &self.0 {
            let holds = [
                (node.is_whiteout(), "whiteout"),
                (node.mode & 0o4000 != 0, "set-uid"),
                (node.mode & 0o3000 == 0o3000, "set-gid and sticky"),
                (node.links != *path && !node.is_whiteout(), "hard link"),
                (node.owner != (0, 0), "owner"),
                (node.mtime.1 != 0, "fraction of a second"),
                (std::str::from_utf8(path).is_err(), "name that is no UTF-8"),
                (path.len() > 255, "long name"),
                (node.target.len() > 100, "long target"),
            ];
            let names = holds.iter().filter(|(holds, _)| *holds).map(|(_, name)| *name);
            traits.extend(names.chain([node.kind]).map(str::to_owned));
            traits.extend(node.xattrs.keys().cloned());
        }
        traits
    }

    /// Lists in what `found` differs from `self`.
    #[must_use]
    pub(crate) fn deviations(&self, found: &Self, allow: Allow) -> Vec<Deviation> {
        let mut deviations = Vec::new();
        let mut add = |path: &[u8], aspect, wanted: String, found: String| {
            deviations.push(Deviation { path: path.to_vec(), aspect, wanted, found });
        };
        for (path, one) in &self.0 {
            match found.0.get(path) {
                None => add(path, Aspect::Missing, one.kind.to_owned(), "nothing".to_owned()),
                Some(other) => compare(one, other, allow, &mut |aspect, wanted, found| {
                    add(path, aspect, wanted, found);
                }),
            }
        }
        for (path, other) in found.0.iter().filter(|(path, _)| !self.0.contains_key(*path)) {
            add(path, Aspect::Extra, "nothing".to_owned(), other.kind.to_owned());
        }
        deviations.sort();
        deviations
    }
}

/// Fails with the list of deviations, where there are any.
#[track_caller]
pub(crate) fn assert_same(wanted: &Tree, found: &Tree, allow: Allow) {
    let deviations = wanted.deviations(found, allow);
    let shown: Vec<String> = deviations.iter().take(40).map(ToString::to_string).collect();
    assert!(deviations.is_empty(), "{} deviations:\n{}", deviations.len(), shown.join("\n"));
}

fn compare(one: &Node, other: &Node, allow: Allow, add: &mut dyn FnMut(Aspect, String, String)) {
    if one.kind != other.kind {
        return add(Aspect::Kind, one.kind.to_owned(), other.kind.to_owned());
    }
    let mut check = |aspect, wanted: &dyn fmt::Debug, found: &dyn fmt::Debug| {
        let (wanted, found) = (format!("{wanted:?}"), format!("{found:?}"));
        if wanted != found {
            add(aspect, wanted, found);
        }
    };
    let free = allow.whiteouts && one.is_whiteout() && other.is_whiteout();
    check(Aspect::Mode, &Octal(one.mode), &Octal(other.mode));
    check(Aspect::Owner, &one.owner, &other.owner);
    check(Aspect::Size, &one.size, &other.size);
    check(Aspect::Content, &one.content, &other.content);
    check(Aspect::Device, &one.device, &other.device);
    check(Aspect::Target, &Bytes(&one.target), &Bytes(&other.target));
    check(Aspect::Xattrs, &own_xattrs(one, allow), &own_xattrs(other, allow));
    if !free {
        check(Aspect::Mtime, &one.mtime, &other.mtime);
        check(Aspect::Links, &Bytes(&one.links), &Bytes(&other.links));
    }
}

struct Octal(u32);

impl fmt::Debug for Octal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

struct Bytes<'a>(&'a [u8]);

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

fn own_xattrs(node: &Node, allow: Allow) -> BTreeMap<&str, Bytes<'_>> {
    let is_own = |name: &str| {
        let rest = name.strip_prefix("trusted.overlay.").or_else(|| name.strip_prefix("user.overlay."));
        !(allow.bookkeeping && rest.is_some_and(|rest| BOOKKEEPING.contains(&rest)))
    };
    node.xattrs.iter().filter(|(name, _)| is_own(name)).map(|(name, value)| (&name[..], Bytes(value))).collect()
}

fn node(at: &Path, metadata: &Metadata, links: Vec<u8>) -> Node {
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symbolic link",
        () if kind.is_char_device() => "character device",
        () if kind.is_block_device() => "block device",
        () if kind.is_fifo() => "named pipe",
        () => "socket",
    };
    Node {
        kind,
        // The mode of a symbolic link is nothing that can be set.
        mode: if kind == "symbolic link" { 0 } else { metadata.mode() & 0o7777 },
        owner: (metadata.uid(), metadata.gid()),
        size: if kind == "file" { metadata.size() } else { 0 },
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        xattrs: xattrs(at),
        device: match kind.ends_with("device") {
            true => (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev())),
            false => (0, 0),
        },
        content: if kind == "file" { digest(at) } else { String::new() },
        target: match kind == "symbolic link" {
            true => fs::read_link(at).expect("a link").as_os_str().as_bytes().to_vec(),
            false => Vec::new(),
        },
        links,
    }
}

fn digest(at: &Path) -> String {
    let content = fs::read(at).unwrap_or_else(|error| panic!("{}: {error}", at.display()));
    sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn xattrs(at: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(at, &mut names[..]).expect("extended attributes");
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(at, name, &mut value[..]).expect("an extended attribute");
            value.truncate(length);
            (name.escape_ascii().to_string(), value)
        })
        .collect()
}

/// Everything below a directory, with the inodes: for what must stay as it is.
#[derive(Debug)]
pub(crate) struct Untouched {
    root: PathBuf,
    tree: Tree,
    inodes: BTreeMap<Vec<u8>, Inode>,
}

impl Untouched {
    /// Notes everything below `root`.
    #[must_use]
    pub(crate) fn note(root: &Path) -> Self {
        let tree = Tree::read(root);
        let inodes = tree.0.keys().map(|path| (path.clone(), identity(root, path))).collect();
        Self { root: root.to_owned(), tree, inodes }
    }

    /// Fails where anything was touched.
    #[track_caller]
    pub(crate) fn assert(&self) {
        self.check(|was, is| was == is, |_| true);
    }

    /// Fails where anything is not as it was. In the directory itself names may have come and gone, and files may
    /// have had further names meanwhile: neither leaves more than a time.
    #[track_caller]
    pub(crate) fn assert_restored(&self) {
        let own_time = |deviation: &Deviation| deviation.path.is_empty() && deviation.aspect == Aspect::Mtime;
        self.check(|was, is| was.0 == is.0, |deviation| !own_time(deviation));
    }

    #[track_caller]
    fn check(&self, same: impl Fn(Inode, Inode) -> bool, counts: impl Fn(&Deviation) -> bool) {
        let now = Self::note(&self.root);
        let deviations = self.tree.deviations(&now.tree, Allow::NOTHING);
        let mut changed: Vec<String> = deviations.iter().filter(|one| counts(one)).map(ToString::to_string).collect();
        for (path, was) in &self.inodes {
            if now.inodes.get(path).is_some_and(|is| !same(*was, *is)) {
                changed.push(format!("{}: touched", path.escape_ascii()));
            }
        }
        assert!(changed.is_empty(), "changed below {}:\n{}", self.root.display(), changed.join("\n"));
    }
}

/// Number, and time of last change, of an inode.
type Inode = (u64, i64, i64);

fn identity(root: &Path, path: &[u8]) -> Inode {
    let metadata = fs::symlink_metadata(root.join(std::ffi::OsStr::from_bytes(path))).expect("a node");
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}
