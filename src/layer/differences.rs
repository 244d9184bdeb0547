//! What a layer's directory says beyond the layer's tar.
//!
//! Unpacking a tar does not give back everything: times that Docker clamps, directories that the tar does not
//! hold, nanoseconds and attributes of trees that BuildKit made in place, and the files around the tree
//! (`link`, `lower`, …). What differs from what unpacking would give is listed node by node, so that a rebuilt
//! directory is the same. Content is never listed: content is in the tar, and proved.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::io::{BufRead, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::{FsError, ParseError};
use crate::fsx::{Attrs, Dir, Kind, Time, XattrName};

use super::acl;
use super::apply::{self, CAPABILITY, Marks, split};
use super::follow::follow;
use super::member::{Member, MemberKind};
use super::shared::Shared;

/// Longest line of a list, in bytes.
pub(crate) const LINE_LIMIT: u64 = 1 << 20;

/// Extended attributes that the kernel keeps for itself: they name inodes and file systems of one host.
const BOOKKEEPING: [&[u8]; 6] = [b"origin", b"impure", b"nlink", b"uuid", b"upper", b"index"];

/// How one node differs from what unpacking gives. Only what differs is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Difference {
    /// Path below the layer's driver directory; empty for that directory itself.
    #[serde(flatten)]
    pub(crate) path: RawPath,
    /// Unpacking does not make the node: a directory, or a whiteout (a character device 0:0, or an empty file `.wh.…`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) make: Option<Kind>,
    /// The node is a whiteout that unpacking makes, or copies from the parent, and that is not there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) gone: bool,
    /// The node is a further name of the one at this path, which the tar does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<RawPath>,
    /// Permission bits with setuid, setgid and sticky.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<u32>,
    /// Owner and group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<(u32, u32)>,
    /// Time of last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtime: Option<Time>,
    /// All extended attributes (names escaped, values in base64) but the kernel's own bookkeeping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) xattrs: Option<BTreeMap<String, String>>,
}

/// A path in JSON: text where it is UTF-8, base64 otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "PathFields", into = "PathFields")]
pub(crate) struct RawPath(pub(crate) Vec<u8>);

#[derive(Serialize, Deserialize)]
struct PathFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_raw: Option<String>,
}

impl From<RawPath> for PathFields {
    fn from(path: RawPath) -> Self {
        match String::from_utf8(path.0) {
            Ok(text) => Self { path: Some(text), path_raw: None },
            Err(error) => Self { path: None, path_raw: Some(BASE64_STANDARD.encode(error.as_bytes())) },
        }
    }
}

impl TryFrom<PathFields> for RawPath {
    type Error = String;

    fn try_from(fields: PathFields) -> Result<Self, String> {
        match (fields.path, fields.path_raw) {
            (Some(text), None) => Ok(Self(text.into_bytes())),
            (None, Some(raw)) => BASE64_STANDARD.decode(raw).map(Self).map_err(|error| error.to_string()),
            _ => Err("neither path nor path_raw".to_owned()),
        }
    }
}

/// What is expected of a node. `None` where nothing can be expected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    pub(crate) kind: Option<Kind>,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: Option<Time>,
    pub(crate) xattrs: BTreeMap<XattrName, Vec<u8>>,
    /// A whiteout: its own time is never compared.
    pub(crate) whiteout: bool,
    /// Nodes of the same group are names of one inode.
    pub(crate) group: Option<Group>,
    /// Length of a file.
    pub(crate) size: Option<u64>,
    /// What a symbolic link says.
    pub(crate) target: Option<Vec<u8>>,
    /// Number of a device.
    pub(crate) device: Option<(u32, u32)>,
}

/// Names of one inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// This member of the tar and the hard links to it.
    Tar(usize),
    /// Copies of what has this inode in the parent's tree.
    Inherited(u64),
}

impl Expected {
    /// A directory or file that the driver makes around the tree.
    pub(crate) fn made(kind: Kind, mode: u32) -> Self {
        Self { kind: Some(kind), mode, ..Self::default() }
    }

    /// A node that is as another one is.
    pub(crate) fn like(attrs: &Attrs, xattrs: BTreeMap<XattrName, Vec<u8>>) -> Self {
        Self {
            kind: Some(attrs.kind),
            mode: attrs.mode,
            owner: (attrs.uid, attrs.gid),
            mtime: Some(attrs.mtime),
            xattrs,
            whiteout: attrs.is_whiteout(),
            group: Some(Group::Inherited(attrs.inode)),
            ..Self::default()
        }
    }

    fn of(member: &Member) -> Self {
        let kind = match &member.kind {
            MemberKind::File => Some(Kind::File),
            MemberKind::Symlink(_) => Some(Kind::Symlink),
            MemberKind::Char(..) => Some(Kind::Char),
            MemberKind::Block(..) => Some(Kind::Block),
            MemberKind::Directory => Some(Kind::Directory),
            MemberKind::Fifo => Some(Kind::Fifo),
            MemberKind::HardLink(_) | MemberKind::GlobalHeader => None,
        };
        let mut xattrs = member.xattrs.clone();
        if kind != Some(Kind::Symlink) {
            acl::take_mode(&mut xattrs, member.mode);
        }
        Self {
            kind,
            mode: member.mode,
            owner: member.owner((0, 0)),
            mtime: Some(member.mtime),
            xattrs,
            whiteout: false,
            group: None,
            size: (member.kind == MemberKind::File).then_some(member.claimed),
            target: match &member.kind {
                MemberKind::Symlink(target) => Some(target.clone()),
                _ => None,
            },
            device: match member.kind {
                MemberKind::Char(major, minor) | MemberKind::Block(major, minor) => Some((major, minor)),
                _ => None,
            },
        }
    }

    /// Takes what the header of a hard link gives to the node of a kind that it leads to.
    fn stamp(&mut self, header: &Member, kind: Kind) {
        self.owner = header.owner(self.owner);
        if kind != Kind::Symlink {
            (self.mode, self.mtime) = (header.mode, Some(header.mtime));
            // Changing the owner takes it away.
            self.xattrs.remove(CAPABILITY);
            self.xattrs.extend(header.xattrs.clone());
            acl::take_mode(&mut self.xattrs, self.mode);
        }
    }

    /// Compares with what is there; `None` where nothing differs.
    fn compare(&self, path: &[u8], found: &Attrs, xattrs: &BTreeMap<XattrName, Vec<u8>>) -> Option<Difference> {
        let has_mode = found.kind != Kind::Symlink;
        let difference = Difference {
            path: RawPath(path.to_vec()),
            make: None,
            gone: false,
            link: None,
            mode: (has_mode && found.mode != self.mode).then_some(found.mode),
            owner: ((found.uid, found.gid) != self.owner).then_some((found.uid, found.gid)),
            mtime: (!self.whiteout && Some(found.mtime) != self.mtime).then_some(found.mtime),
            xattrs: (*xattrs != self.xattrs).then(|| encode_xattrs(xattrs)),
        };
        let nothing = Difference { path: RawPath(path.to_vec()), ..Difference::default() };
        (difference != nothing).then_some(difference)
    }
}

fn encode_xattrs(xattrs: &BTreeMap<XattrName, Vec<u8>>) -> BTreeMap<String, String> {
    xattrs.iter().map(|(key, value)| (key.escape_ascii().to_string(), BASE64_STANDARD.encode(value))).collect()
}

/// What unpacking the members of a tar gives, by path below the layer's root.
#[derive(Debug)]
pub(crate) struct Prediction {
    nodes: Vec<Expected>,
    by_path: HashMap<Vec<u8>, usize>,
    /// Directories in or below which unpacking makes or removes something.
    touched: HashSet<Vec<u8>>,
    /// Files of the layers below that hard links of the tar lead to.
    linked: Vec<LinkBelow>,
    /// Places in `linked`, by the paths of the links and of the files.
    linked_by_path: HashMap<Vec<u8>, usize>,
    marks: Marks,
    /// The tree that this one begins as a copy of.
    base: Option<Dir>,
    /// What of that tree is removed.
    removed: HashSet<Vec<u8>>,
    /// The tar has symbolic links.
    has_links: bool,
    /// The directory of the last member, as the tar has it, and where that leads.
    last: Option<(Vec<u8>, Vec<u8>)>,
}

/// A hard link of a tar to a file of the layers below.
#[derive(Debug, Clone)]
pub(crate) struct LinkBelow {
    /// Path of that file.
    pub(crate) target: Vec<u8>,
    /// The last such link.
    header: Member,
}

impl LinkBelow {
    /// Gives the file, which is of this kind, what the link's header says.
    pub(crate) fn stamp(&self, expected: &mut Expected, kind: Kind) {
        expected.stamp(&self.header, kind);
    }
}

impl Prediction {
    /// `marks`: how the tree says that something is removed. `base`: the tree that it begins as a copy of.
    pub(crate) fn new(marks: Marks, base: Option<Dir>) -> Self {
        Self {
            nodes: Vec::new(),
            by_path: HashMap::new(),
            touched: HashSet::new(),
            linked: Vec::new(),
            linked_by_path: HashMap::new(),
            marks,
            base,
            removed: HashSet::new(),
            has_links: false,
            last: None,
        }
    }

    pub(crate) fn get(&self, path: &[u8]) -> Option<Expected> {
        let index = *self.by_path.get(path)?;
        Some(Expected { group: Some(Group::Tar(index)), ..self.nodes[index].clone() })
    }

    /// Tells whether the tar has something at `path` that is there when all is unpacked.
    pub(crate) fn has(&self, path: &[u8]) -> bool {
        self.by_path.contains_key(path) || self.linked_by_path.contains_key(path)
    }

    /// Returns a number for what is at `path`: further names of it have the same one.
    pub(crate) fn node_at(&self, path: &[u8]) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    /// Returns the numbers of all nodes, by path.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (&[u8], usize)> {
        self.by_path.iter().map(|(path, node)| (&path[..], *node))
    }

    /// Returns all nodes, by path.
    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = (&[u8], &Expected)> {
        self.by_path.iter().map(|(path, index)| (&path[..], &self.nodes[*index]))
    }

    /// Returns the hard link to a file of the layers below that is at `path`, or that leads to it.
    pub(crate) fn link_below(&self, path: &[u8]) -> Option<&LinkBelow> {
        self.linked_by_path.get(path).map(|index| &self.linked[*index])
    }

    /// Tells whether unpacking may change the time of a directory that was there before.
    pub(crate) fn touches(&self, directory: &[u8]) -> bool {
        self.touched.contains(directory)
    }

    /// Lists the whiteouts that unpacking makes.
    pub(crate) fn whiteouts(&self) -> impl Iterator<Item = &[u8]> {
        let is_file = |path: &[u8]| self.marks == Marks::Files && is_mark(path);
        let marks = self.by_path.iter().filter(move |(path, index)| self.nodes[**index].whiteout || is_file(path));
        marks.map(|(path, _)| &path[..])
    }

    /// Returns the member with the paths that its own lead to where directories are links within the layer: unpacking goes
    /// through them. Those are links of this tar, or of the tree that it begins as a copy of.
    pub(crate) fn resolved(&mut self, mut member: Member) -> Member {
        if self.has_links || self.base.is_some() {
            member.path = self.reached(&member.path);
            if let MemberKind::HardLink(target) = &mut member.kind {
                *target = self.reached(target);
            }
        }
        member
    }

    /// Returns where a path leads; its last name is not followed.
    fn reached(&mut self, path: &[u8]) -> Vec<u8> {
        let (above, name) = split(path);
        if above.is_empty() {
            return path.to_vec();
        }
        let directory = match &self.last {
            Some((last, directory)) if last == above => directory.clone(),
            _ if !self.has_links && self.base.as_ref().is_none_or(|base| has_no_link(base, above)) => above.to_vec(),
            _ => {
                let Ok(reached) = follow(above, |at| Ok::<_, Infallible>(self.link_at(at)));
                reached.path
            }
        };
        let reached = if directory.is_empty() { name.to_vec() } else { [&directory[..], b"/", name].concat() };
        self.last = Some((above.to_vec(), directory));
        reached
    }

    /// Returns what the link at `path` says, where there is one now. What cannot be read is none: whoever walks that tree
    /// is told.
    fn link_at(&self, path: &[u8]) -> Option<Vec<u8>> {
        if let Some(index) = self.by_path.get(path) {
            return self.nodes[*index].target.clone();
        }
        let base = self.base.as_ref().filter(|_| !self.is_removed(path))?;
        let (dir, name) = base.parent_of(path).ok()?;
        let found = dir.find(name).ok()??;
        (found.kind == Kind::Symlink).then(|| dir.read_link(name).ok()).flatten()
    }

    /// Tells whether the tar has removed what the tree below has at `path`.
    fn is_removed(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        self.removed.contains(&b"/"[..])
            || self.removed.contains(path)
            || ends.into_iter().any(|end| self.removed.contains(&path[..end]) || self.removed.contains(&path[..=end]))
    }

    /// Takes the next member of the tar, which is [`Prediction::resolved`].
    pub(crate) fn add(&mut self, member: &Member) {
        let (above, name) = split(&member.path);
        self.has_links |= matches!(member.kind, MemberKind::Symlink(_));
        if !matches!(member.kind, MemberKind::File) || name.starts_with(b".wh.") {
            self.last = None;
        }
        let mut touched = above;
        while self.touched.insert(touched.to_vec()) && !touched.is_empty() {
            touched = split(touched).0;
        }
        let is_passed_over = self.marks == Marks::None && apply::is_of_aufs(&member.path);
        match name.strip_prefix(b".wh.") {
            _ if member.kind == MemberKind::GlobalHeader || is_passed_over => {}
            // The root itself: where layers are whole trees, unpacking takes its attributes.
            _ if name.is_empty() && (self.marks != Marks::None || member.kind != MemberKind::Directory) => {}
            None => self.add_node(member),
            Some(hidden) if self.marks == Marks::None => {
                let path = removed(above, hidden);
                self.forget(&path);
                self.removed.insert(path);
            }
            Some(_) if self.marks == Marks::Files => self.add_node(member),
            Some(b".wh..opq") => {
                let node = self.node(above);
                node.xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
            }
            Some(hidden) => {
                let path = if above.is_empty() { hidden.to_vec() } else { [above, b"/", hidden].concat() };
                let owner = member.owner((0, 0));
                *self.node(&path) = Expected { owner, whiteout: true, ..Expected::made(Kind::Char, 0) };
            }
        }
    }

    fn add_node(&mut self, member: &Member) {
        if member.kind != MemberKind::Directory {
            // What is there is replaced, with all that is in it.
            self.forget(&member.path);
        }
        if let MemberKind::HardLink(target) = &member.kind {
            let Some(shared) = self.by_path.get(target).copied() else { return self.add_link_below(member, target) };
            if let Some(kind) = self.nodes[shared].kind {
                self.nodes[shared].stamp(member, kind);
            }
            self.by_path.insert(member.path.clone(), shared);
            return;
        }
        let mut expected = Expected::of(member);
        match self.by_path.get(&member.path).map(|index| &self.nodes[*index]) {
            Some(before) if before.kind == Some(Kind::Directory) && expected.kind == before.kind => {
                expected.owner = member.owner(before.owner);
            }
            _ => {
                self.by_path.remove(&member.path);
                self.linked_by_path.remove(&member.path);
            }
        }
        let node = self.node(&member.path);
        // An opaque marker may have come before its directory.
        expected.xattrs.extend(std::mem::take(&mut node.xattrs));
        *node = expected;
    }

    /// Forgets what is at a path, with all that is in it. Another name that it may have keeps the node.
    fn forget(&mut self, path: &[u8]) {
        self.by_path.remove(path);
        self.linked_by_path.remove(path);
        if self.touched.contains(path) {
            let inner = [path, b"/"].concat();
            self.by_path.retain(|at, _| !at.starts_with(&inner));
            self.linked_by_path.retain(|at, _| !at.starts_with(&inner));
        }
    }

    fn add_link_below(&mut self, member: &Member, target: &[u8]) {
        let header = member.clone();
        let index = match self.linked_by_path.get(target) {
            Some(index) => {
                self.linked[*index].header = header;
                *index
            }
            None => {
                self.linked.push(LinkBelow { target: target.to_vec(), header });
                self.linked_by_path.insert(target.to_vec(), self.linked.len() - 1);
                self.linked.len() - 1
            }
        };
        self.linked_by_path.insert(member.path.clone(), index);
    }

    fn node(&mut self, path: &[u8]) -> &mut Expected {
        let index = match self.by_path.get(path) {
            Some(index) => *index,
            None => {
                self.nodes.push(Expected::made(Kind::Directory, 0o755));
                self.by_path.insert(path.to_vec(), self.nodes.len() - 1);
                self.nodes.len() - 1
            }
        };
        &mut self.nodes[index]
    }
}

/// What stands for something that a tar removes: its path, and with a slash at its end all that was in a directory.
fn removed(above: &[u8], hidden: &[u8]) -> Vec<u8> {
    match (hidden, above) {
        (b".wh..opq", _) => [above, b"/"].concat(),
        (_, b"") => hidden.to_vec(),
        _ => [above, b"/", hidden].concat(),
    }
}

/// Tells whether no link is on the way to a directory, as far as there is one.
fn has_no_link(tree: &Dir, path: &[u8]) -> bool {
    match tree.dir(path) {
        Ok(_) => true,
        Err(error) => error.is_not_found(),
    }
}

/// Tells whether the last name of a path is one that a tar calls something removed by.
pub(crate) fn is_mark(path: &[u8]) -> bool {
    split(path).1.starts_with(b".wh.")
}

/// Differences of a layer's directory, sorted by path, and the paths in it that are no part of the layer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) differences: Vec<Difference>,
    pub(crate) foreign: Vec<Vec<u8>>,
}

/// Walks a layer's driver directory and compares each node with what `expect` says of its path. `whiteouts` are those
/// that are expected, `marks` how the tree has them.
pub(crate) fn compare(
    dir: &Dir,
    marks: Marks,
    whiteouts: BTreeSet<Vec<u8>>,
    expect: &mut dyn FnMut(&[u8]) -> Option<Expected>,
) -> Result<Compared, FsError> {
    let mut walk = Walk { expect, marks, whiteouts, compared: Compared::default(), names: HashMap::new() };
    walk.node(dir, b".", b"")?;
    let gone = |path| Difference { path: RawPath(path), gone: true, ..Difference::default() };
    walk.compared.differences.extend(std::mem::take(&mut walk.whiteouts).into_iter().map(gone));
    walk.compared.differences.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walk.compared)
}

struct Walk<'a> {
    expect: &'a mut dyn FnMut(&[u8]) -> Option<Expected>,
    marks: Marks,
    /// Whiteouts that were not found yet.
    whiteouts: BTreeSet<Vec<u8>>,
    compared: Compared,
    /// Of files with several names: inode to the first name, and the group that was expected of it.
    names: HashMap<u64, (Vec<u8>, Option<Group>)>,
}

impl Walk<'_> {
    fn node(&mut self, dir: &Dir, name: &[u8], path: &[u8]) -> Result<(), FsError> {
        // What aufs keeps in the root of each branch for itself.
        if self.marks == Marks::Files && path.starts_with(b".wh..wh.") && path != b".wh..wh..opq" {
            return Ok(());
        }
        let found = dir.attrs(name)?;
        let xattrs = own_xattrs(dir, name)?;
        self.whiteouts.remove(path);
        match (self.expect)(path) {
            Some(expected) if expected.kind.is_none_or(|kind| kind == found.kind) => {
                let link = self.unexpected_link(path, &found, expected.group);
                let difference = expected.compare(path, &found, &xattrs);
                if difference.is_some() || link.is_some() {
                    let path = RawPath(path.to_vec());
                    self.compared.differences.push(Difference { path, link, ..difference.unwrap_or_default() });
                }
            }
            // Of another kind than the tar says: unpacking makes it what it should be.
            Some(_) => {}
            None if found.kind == Kind::Directory || self.is_whiteout(path, &found) => {
                let expected = match found.kind {
                    Kind::Directory => Expected::made(Kind::Directory, 0o755),
                    Kind::File => Expected::made(Kind::File, 0),
                    kind => Expected { whiteout: true, ..Expected::made(kind, 0) },
                };
                let difference = expected.compare(path, &found, &xattrs).unwrap_or_default();
                let (path, make) = (RawPath(path.to_vec()), Some(found.kind));
                self.compared.differences.push(Difference { path, make, ..difference });
            }
            None => self.compared.foreign.push(path.to_vec()),
        }
        if found.kind == Kind::Directory {
            self.children(dir, name, path)?;
        }
        Ok(())
    }

    /// Tells whether a node is what the driver has in the place of something removed.
    fn is_whiteout(&self, path: &[u8], found: &Attrs) -> bool {
        let is_file = found.kind == Kind::File && found.size == 0 && is_mark(path);
        found.is_whiteout() || self.marks == Marks::Files && is_file
    }

    fn children(&mut self, dir: &Dir, name: &[u8], path: &[u8]) -> Result<(), FsError> {
        let inner = match dir.dir(name) {
            // A live daemon has mounted something here, which is no part of the layer.
            Err(error) if error.is_other_mount() => return Ok(()),
            inner => inner?,
        };
        for entry in inner.entries()? {
            let below = if path.is_empty() { entry.name.clone() } else { [path, b"/", &entry.name].concat() };
            self.node(&inner, &entry.name, &below)?;
        }
        Ok(())
    }

    /// Returns the first name of a node that has several, where unpacking would make two inodes of them.
    fn unexpected_link(&mut self, path: &[u8], found: &Attrs, group: Option<Group>) -> Option<RawPath> {
        if found.links < 2 || found.kind == Kind::Directory || found.is_whiteout() {
            return None;
        }
        let (first, expected) = self.names.entry(found.inode).or_insert_with(|| (path.to_vec(), group));
        (*expected != group && first != path).then(|| RawPath(first.clone()))
    }
}

/// Extended attributes that belong to the layer.
pub(crate) fn own_xattrs(dir: &Dir, name: &[u8]) -> Result<BTreeMap<XattrName, Vec<u8>>, FsError> {
    let bookkeeping = |key: &[u8]| {
        let overlay = key.strip_prefix(b"trusted.overlay.").or_else(|| key.strip_prefix(b"user.overlay."));
        overlay.is_some_and(|rest| BOOKKEEPING.contains(&rest)) || key == b"security.selinux"
    };
    Ok(dir.xattrs(name)?.into_iter().filter(|(key, _)| !bookkeeping(key)).collect())
}

/// Writes a list, one JSON object a line.
pub(crate) fn write_list(list: &[Difference]) -> Vec<u8> {
    let mut out = Vec::new();
    for difference in list {
        serde_json::to_writer(&mut out, difference).expect("because a difference has only text keys");
        out.write_all(b"\n").expect("because memory takes every byte");
    }
    out
}

/// Reads a list, line by line.
pub(crate) struct Lines<R> {
    list: std::io::Take<R>,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(list: R) -> Self {
        Self { list: list.take(0), line: Vec::new() }
    }

    fn read(&mut self) -> Result<Option<Difference>, ParseError> {
        self.line.clear();
        self.list.set_limit(LINE_LIMIT);
        let read = self.list.read_until(b'\n', &mut self.line);
        match read.map_err(|error| ParseError::because("a list of differences", error))? {
            0 => Ok(None),
            _ => serde_json::from_slice(&self.line)
                .map(Some)
                .map_err(|error| ParseError::because("a line of the list of differences", error)),
        }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Difference, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Makes a rebuilt layer directory what the list says, which was proved: see [`super::claims`]. `shared` are files of it
/// that are not this layer's to change.
pub(crate) fn restore(dir: &Dir, list: impl BufRead, shared: &Shared) -> Result<(), RestoreError> {
    for difference in Lines::new(list) {
        let difference = difference?;
        restore_node(dir, &difference, shared)?;
        // What is made or removed in a directory later leaves its time as it is.
        if let Some(mtime) = difference.mtime.filter(|_| !difference.gone) {
            let (above, name) = dir.parent_of(&difference.path.0)?;
            above.set_times(name, mtime, mtime)?;
        }
    }
    Ok(())
}

/// Takes a whiteout away. Nothing else: what the tar holds is there.
fn remove_whiteout(dir: &Dir, path: &[u8]) -> Result<(), RestoreError> {
    let (above, name) = match dir.parent_of(path) {
        Err(error) if error.is_not_found() => return Ok(()),
        parent => parent?,
    };
    match above.find(name)? {
        None => return Ok(()),
        Some(found) if found.is_whiteout() || found.kind == Kind::File && found.size == 0 && is_mark(name) => {}
        Some(_) => return Err(ParseError::new("the path of a whiteout", path).into()),
    }
    let before = above.attrs(".")?.mtime;
    above.remove_file(name)?;
    Ok(above.set_times(".", before, before)?)
}

/// Tells whether two names are of two inodes that are alike: a file with the same content, a link that says the same, a
/// device of the same number.
fn is_same(dir: &Dir, name: &[u8], from: &Dir, first: &[u8]) -> Result<bool, FsError> {
    let (one, other) = (dir.attrs(name)?, from.attrs(first)?);
    if one.kind != other.kind || one.inode == other.inode {
        return Ok(false);
    }
    match one.kind {
        Kind::File => dir.has_content_of(name, from, first),
        Kind::Symlink => Ok(dir.read_link(name)? == from.read_link(first)?),
        Kind::Char | Kind::Block => Ok(one.device == other.device),
        Kind::Fifo => Ok(true),
        Kind::Directory | Kind::Socket => Ok(false),
    }
}

fn restore_node(dir: &Dir, difference: &Difference, shared: &Shared) -> Result<(), RestoreError> {
    if difference.gone {
        return remove_whiteout(dir, &difference.path.0);
    }
    let (above, name) = dir.parent_of(&difference.path.0)?;
    let before = above.attrs(".")?.mtime;
    if let (Some(kind), None) = (difference.make, above.find(name)?) {
        match kind {
            Kind::Directory => above.make_dir(name, 0o755)?.own()?,
            Kind::Char => {
                above.make_node(name, kind, 0, (0, 0))?;
                above.set_owner(name, 0, 0)?;
            }
            Kind::File if is_mark(name) => {
                drop(above.make_file(name, 0)?);
                above.set_owner(name, 0, 0)?;
            }
            _ => return Err(ParseError::because("a directory or whiteout to make", format!("{kind:?}")).into()),
        }
        above.set_times(".", before, before)?;
    }
    if let Some(first) = &difference.link {
        let (from, first) = dir.parent_of(&first.0)?;
        // What is in a layer is proved by its tar: a link must not put anything else there.
        if !is_same(&above, name, &from, first)? {
            return Err(ParseError::new("a hard link to an equal node", &difference.path.0).into());
        }
        above.remove_file(name)?;
        above.hard_link(&from, first, name)?;
        above.set_times(".", before, before)?;
    }
    shared.part(&above, name)?;
    let kind = above.attrs(name)?.kind;
    if let Some((uid, gid)) = difference.owner {
        // Takes setuid bits and capabilities away: they follow.
        let (mode, xattrs) = (above.attrs(name)?.mode, own_xattrs(&above, name)?);
        above.set_owner(name, uid, gid)?;
        if kind != Kind::Symlink {
            above.set_mode(name, mode)?;
        }
        for (key, value) in xattrs.iter().filter(|(key, _)| *key == b"security.capability") {
            above.set_xattr(name, key, value)?;
        }
    }
    if let (Some(mode), true) = (difference.mode, kind != Kind::Symlink) {
        above.set_mode(name, mode)?;
    }
    if let Some(wanted) = &difference.xattrs {
        restore_xattrs(&above, name, wanted)?;
    }
    Ok(())
}

fn restore_xattrs(dir: &Dir, name: &[u8], wanted: &BTreeMap<String, String>) -> Result<(), RestoreError> {
    let mut decoded = BTreeMap::new();
    for (key, value) in wanted {
        let value = BASE64_STANDARD.decode(value).map_err(|error| ParseError::because("base64", error))?;
        decoded.insert(unescape(key)?, value);
    }
    for key in own_xattrs(dir, name)?.keys().filter(|key| !decoded.contains_key(*key)) {
        dir.remove_xattr(name, key)?;
    }
    for (key, value) in &decoded {
        dir.set_xattr(name, key, value)?;
    }
    Ok(())
}

/// Takes back `escape_ascii`: the names of extended attributes are text in all but hostile stores.
fn unescape(text: &str) -> Result<Vec<u8>, ParseError> {
    if text.contains('\\') {
        return Err(ParseError::new("the name of an extended attribute", text.as_bytes()));
    }
    Ok(text.as_bytes().to_vec())
}

/// Why a list could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The list is damaged.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The file system refuses.
    #[error(transparent)]
    Fs(#[from] FsError),
}
