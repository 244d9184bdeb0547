//! Compares a layer's tree, node by node, with what the headers of its tar say. Content of files is not read.

use std::collections::{BTreeMap, HashSet};

use crate::error::FsError;
use crate::finding::{Code, Severity};
use crate::fsx::{Attrs, Dir, Entry, Inode, Kind, Time};
use crate::layer::differences::{Expected, is_mark, own_xattrs};

use super::headers::{Headers, Stamp};

/// Latest time that some file systems keep, in seconds since 1970.
const LATEST_32_BIT: i64 = i32::MAX as i64;

/// What is wrong with one node of a layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    /// Path below the layer's root.
    pub(super) path: Vec<u8>,
    pub(super) code: Code,
    pub(super) severity: Severity,
    pub(super) evidence: String,
    /// The file, where its attributes are wrong: a layer above may have changed them rightly.
    pub(super) inode: Option<Inode>,
}

impl Problem {
    /// Makes a problem of the node at `path`, or of the whole layer where that is empty: as bad as the table of [`Code`]
    /// says, and damage where that says nothing.
    pub(super) fn new(path: &[u8], code: Code, evidence: impl ToString) -> Self {
        let severity = code.severity().unwrap_or(Severity::Damage);
        Self { path: path.to_vec(), code, severity, evidence: evidence.to_string(), inode: None }
    }
}

/// How a layer's tree came to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Making {
    /// BuildKit made the tree and then its tar: the tar has whole seconds only, few extended attributes, and lacks
    /// what was touched and not changed.
    pub(super) in_place: bool,
    /// Every whiteout of the tar must be there.
    pub(super) whiteouts: bool,
    /// They are files, as in the tar.
    pub(super) files: bool,
    /// The tree was written through a mount that marks what is removed in its own way, and only what is there below.
    pub(super) mounted: bool,
    /// The tree began as a copy of one that is not there: what is not in the tar may be from there.
    pub(super) orphan: bool,
    /// The tree began as hard links to the files of another.
    pub(super) linked: bool,
}

/// Files that are copies of those in the layer below, where the driver makes hard links.
#[derive(Debug, Default)]
struct Copies {
    first: Option<Vec<u8>>,
    files: usize,
    bytes: u64,
}

/// Compares trees with headers.
pub(super) struct TreeCheck<'a> {
    pub(super) headers: &'a Headers,
    /// Files that are known to have no extended attributes.
    plain_files: &'a HashSet<Inode>,
    pub(super) making: Making,
    /// Nodes of the tar that were found.
    found: usize,
    pub(super) files: u64,
    copies: Copies,
    pub(super) problems: Vec<Problem>,
}

impl<'a> TreeCheck<'a> {
    pub(super) fn new(headers: &'a Headers, plain_files: &'a HashSet<Inode>, making: Making) -> Self {
        Self { headers, plain_files, making, found: 0, files: 0, copies: Copies::default(), problems: Vec::new() }
    }

    /// Walks the layer's tree. `parent` is the one that it began as a copy of.
    pub(super) fn run(&mut self, tree: &Dir, parent: Option<&Dir>) -> Result<(), FsError> {
        if self.headers.get(b"").is_some() {
            // Whether the header of the root itself is used differs from engine to engine.
            self.found += 1;
        }
        self.children(tree, b"", parent)?;
        if self.found < self.headers.nodes().len() {
            self.missing(tree)?;
        }
        self.tell_copies();
        self.hard_links(tree)
    }

    fn find(&mut self, path: &[u8], code: Code, evidence: String) {
        self.problems.push(Problem::new(path, code, evidence));
    }

    fn children(&mut self, dir: &Dir, path: &[u8], parent: Option<&Dir>) -> Result<(), FsError> {
        let entries = dir.entries()?;
        let parent = parent.filter(|_| !self.headers.is_opaque(path));
        if let Some(parent) = parent {
            self.lost(path, &parent.entries()?, &entries);
        }
        for entry in entries {
            let below = join(path, &entry.name);
            let parent = parent.filter(|_| !self.headers.hides(&below));
            self.node(dir, &entry.name, &below, parent)?;
        }
        Ok(())
    }

    fn node(&mut self, dir: &Dir, name: &[u8], path: &[u8], parent: Option<&Dir>) -> Result<(), FsError> {
        let found = dir.attrs(name)?;
        self.files += 1;
        let inherited = match parent {
            Some(parent) => parent.find(name)?.map(|attrs| (parent, attrs)),
            None => None,
        };
        if let Some(expected) = self.headers.get(path) {
            self.found += 1;
            if !self.compare(dir, name, path, &found, &expected)? {
                return Ok(());
            }
        } else if self.headers.links.contains_key(path) {
            // A further name of a file below, which is compared where it is.
        } else if let Some((parent, attrs)) = &inherited {
            self.inherited(dir, parent, name, path, &found, attrs)?;
        } else if !self.headers.knows(path) {
            self.extra(path, &found);
            return Ok(());
        }
        if found.kind == Kind::Directory {
            let below = match inherited {
                Some((parent, attrs)) if attrs.kind == Kind::Directory => Some(parent.dir(name)?),
                _ => None,
            };
            self.children(&dir.dir(name)?, path, below.as_ref())?;
        }
        Ok(())
    }

    /// Compares a node with the header of its member; tells whether it is of the same kind.
    fn compare(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: &[u8],
        found: &Attrs,
        expected: &Expected,
    ) -> Result<bool, FsError> {
        if expected.whiteout {
            if !found.is_whiteout() {
                let evidence = format!("expected the mark of something removed, found {}", a(found));
                self.find(path, Code::NodeKind, evidence);
            }
            return Ok(false);
        }
        let is_mark = found.is_whiteout() && expected.device != Some((0, 0));
        if let Some(kind) = expected.kind.filter(|kind| *kind != found.kind || is_mark) {
            self.find(path, Code::NodeKind, format!("expected {}, found {}", a_kind(kind), a(found)));
            return Ok(false);
        }
        if let Some(size) = expected.size.filter(|size| *size != found.size) {
            self.find(path, Code::FileSize, format!("expected {size} bytes, found {}", found.size));
        }
        if let Some(target) = &expected.target {
            let says = dir.read_link(name)?;
            if says != *target {
                self.find(
                    path,
                    Code::NodeTarget,
                    format!("expected a link to {}, found {}", text(target), text(&says)),
                );
            }
        }
        if let Some(device) = expected.device.filter(|device| *device != found.device) {
            let evidence =
                format!("expected device {}:{}, found {}:{}", device.0, device.1, found.device.0, found.device.1);
            self.find(path, Code::NodeDevice, evidence);
        }
        self.permissions(path, found, expected);
        self.time(path, found, expected);
        self.xattrs(dir, name, path, found, expected)?;
        Ok(true)
    }

    fn permissions(&mut self, path: &[u8], found: &Attrs, expected: &Expected) {
        // A directory of which the tar only says that it is opaque.
        if expected.kind == Some(Kind::Directory) && expected.mtime.is_none() {
            return;
        }
        let inode = Some((found.file_system, found.inode));
        let mut push = |code, evidence| {
            self.problems.push(Problem { inode, ..Problem::new(path, code, evidence) });
        };
        if found.kind != Kind::Symlink && found.mode != expected.mode {
            push(Code::NodeMode, format!("expected mode {:o}, found {:o}", expected.mode, found.mode));
        }
        let owner = (found.uid, found.gid);
        if owner != expected.owner {
            let (uid, gid) = expected.owner;
            push(Code::NodeOwner, format!("expected owner {uid}:{gid}, found {}:{}", owner.0, owner.1));
        }
    }

    /// Compares the time of last change; that of a directory changes with what is in it.
    fn time(&mut self, path: &[u8], found: &Attrs, expected: &Expected) {
        let Some(wanted) = expected.mtime.filter(|_| found.kind != Kind::Directory) else { return };
        let same_second = wanted.seconds == found.mtime.seconds;
        let is_same = wanted == found.mtime
            || same_second && self.making.in_place && wanted.nanos == 0
            // File systems that keep less.
            || same_second && found.mtime.nanos == 0
            || wanted.seconds > LATEST_32_BIT && found.mtime.seconds == LATEST_32_BIT;
        if !is_same {
            let evidence = format!("expected time {}, found {}", time(wanted), time(found.mtime));
            let inode = Some((found.file_system, found.inode));
            self.problems.push(Problem { inode, ..Problem::new(path, Code::NodeMtime, evidence) });
        }
    }

    fn xattrs(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: &[u8],
        found: &Attrs,
        expected: &Expected,
    ) -> Result<(), FsError> {
        let there = match self.plain_files.contains(&(found.file_system, found.inode)) {
            true => BTreeMap::new(),
            false => own_xattrs(dir, name)?,
        };
        let is_plain = matches!(found.kind, Kind::File | Kind::Directory);
        for (key, value) in &expected.xattrs {
            match there.get(key) {
                Some(same) if same == value => {}
                Some(_) => self.find(path, Code::NodeXattr, format!("{} has another value", text(key))),
                // Docker 20.10 does not set empty ones, and the kernel takes these for plain nodes only.
                None if self.making.mounted && key == b"trusted.overlay.opaque" => {}
                None if value.is_empty() || key.starts_with(b"user.") && !is_plain => {}
                // What the kernel or the file system takes none of is left out, by Docker too.
                None if key == b"security.selinux" || !dir.takes_xattr(name, key)? => {}
                None => self.find(path, Code::NodeXattr, format!("{} is missing", text(key))),
            }
        }
        for key in there.keys().filter(|key| !expected.xattrs.contains_key(*key)) {
            let severity = match &key[..] {
                // These change what is seen or allowed.
                b"security.capability" => Severity::Damage,
                // BuildKit on `overlay` compares trees to make its tar: that has the removed names instead.
                b"trusted.overlay.opaque" if self.making.mounted => continue,
                b"trusted.overlay.opaque" if self.making.whiteouts => Severity::Damage,
                _ if self.making.in_place || key.starts_with(b"security.") => continue,
                _ => Severity::Warning,
            };
            let evidence = format!("{} is no part of the layer", text(key));
            self.problems.push(Problem { severity, ..Problem::new(path, Code::NodeXattr, evidence) });
        }
        Ok(())
    }

    /// Compares a node that the tar does not have with that of the tree below.
    fn inherited(
        &mut self,
        dir: &Dir,
        parent: &Dir,
        name: &[u8],
        path: &[u8],
        found: &Attrs,
        below: &Attrs,
    ) -> Result<(), FsError> {
        if (found.file_system, found.inode) == (below.file_system, below.inode) || found.is_whiteout() {
            return Ok(());
        }
        let mut expected = Expected::like(below, own_xattrs(parent, name)?);
        if found.kind == Kind::File {
            expected.size = Some(below.size);
        }
        // Copies keep few extended attributes; those that they have are compared with what they have.
        expected.xattrs = own_xattrs(dir, name)?;
        if below.kind == Kind::Symlink {
            expected.target = Some(parent.read_link(name)?);
        }
        if matches!(below.kind, Kind::Char | Kind::Block) {
            expected.device = Some(below.device);
        }
        let before = self.problems.len();
        self.compare(dir, name, path, found, &expected)?;
        if found.kind != Kind::File || self.problems.len() != before {
            return Ok(());
        }
        if !dir.has_content_of(name, parent, name)? {
            self.find(path, Code::FileContent, "other content than in the layer below it".to_owned());
        } else if self.making.linked {
            self.copies.first.get_or_insert_with(|| path.to_vec());
            self.copies.files += 1;
            self.copies.bytes += found.size;
        }
        Ok(())
    }

    /// Tells of files that were one with those below, and are so no more: a copy of the store was made without hard links.
    fn tell_copies(&mut self) {
        let Copies { first: Some(first), files, bytes } = std::mem::take(&mut self.copies) else { return };
        let more = match files - 1 {
            0 => String::new(),
            more => format!(", and {more} more: {bytes} bytes"),
        };
        let evidence = format!("a copy of the file in the layer below it, and no hard link{more}");
        self.find(&first, Code::NodeNotShared, evidence);
    }

    /// Says what of the parent's directory is not in the layer's.
    fn lost(&mut self, path: &[u8], parent: &[Entry], own: &[Entry]) {
        for entry in parent {
            let is_there = own.binary_search_by(|found| found.name.cmp(&entry.name)).is_ok();
            let below = join(path, &entry.name);
            if !is_there && !self.headers.hides(&below) && !self.headers.knows(&below) {
                self.find(
                    &below,
                    Code::FileMissing,
                    format!("{} of the layer below it is missing", a_kind(entry.kind)),
                );
            }
        }
    }

    /// Tells whether the layer takes away what lies below at `path`.
    fn is_removed(&self, path: &[u8]) -> bool {
        let mut above = (0..path.len()).filter(|at| path[*at] == b'/').map(|at| &path[..at]);
        self.headers.hides(path) || self.headers.is_opaque(b"") || above.any(|above| self.headers.is_opaque(above))
    }

    fn extra(&mut self, path: &[u8], found: &Attrs) {
        match found.kind {
            // No tar has sockets.
            Kind::Socket => {}
            _ if self.making.mounted && (is_mark(path) || found.is_whiteout() && self.is_removed(path)) => {}
            // What aufs keeps for itself.
            _ if self.making.files && path.starts_with(b".wh..wh.") => {}
            _ if self.making.files && is_mark(path) => {
                self.find(path, Code::WhiteoutExtra, "it hides what lies below, and the layer does not".to_owned());
            }
            _ if self.making.orphan => {}
            _ if found.is_whiteout() && self.making.whiteouts => {
                self.find(path, Code::WhiteoutExtra, "it hides what lies below, and the layer does not".to_owned());
            }
            _ => {
                let severity = if self.making.in_place { Severity::Note } else { Severity::Warning };
                let evidence = format!("{} that is no part of the layer", a(found));
                self.problems.push(Problem { severity, ..Problem::new(path, Code::FileExtra, evidence) });
            }
        }
    }

    /// Names what the tar has and the tree has not; of a directory that is gone, only itself.
    fn missing(&mut self, tree: &Dir) -> Result<(), FsError> {
        let mut gone: BTreeMap<Vec<u8>, (String, usize)> = BTreeMap::new();
        for (path, expected) in self.headers.nodes() {
            let is_mark = expected.whiteout || self.making.files && is_mark(path);
            let may_lack = !self.making.whiteouts || self.making.mounted;
            if is_mark && may_lack || find(tree, path)?.is_some() {
                continue;
            }
            let mut first = path;
            while let Some(slash) = first.iter().rposition(|byte| *byte == b'/')
                && find(tree, &first[..slash])?.is_none()
            {
                first = &first[..slash];
            }
            let what = match expected.kind {
                _ if first != path => "a directory".to_owned(),
                _ if is_mark => "the mark of something removed".to_owned(),
                kind => kind.map_or("a node", a_kind).to_owned(),
            };
            gone.entry(first.to_vec()).or_insert((what, 0)).1 += 1;
        }
        for (path, (what, count)) in gone {
            let is_file = self.making.files && is_mark(&path);
            let is_whiteout = is_file || self.headers.get(&path).is_some_and(|expected| expected.whiteout);
            let code = if is_whiteout { Code::WhiteoutMissing } else { Code::FileMissing };
            let more = match count {
                1 => String::new(),
                count => format!(" with all that is in it, {count} nodes"),
            };
            self.find(&path, code, format!("{what} is missing{more}"));
        }
        Ok(())
    }

    /// Proves that hard links of the tar lead to one file: of a copy nothing else proves the content.
    fn hard_links(&mut self, tree: &Dir) -> Result<(), FsError> {
        let headers = self.headers;
        for (path, link) in &headers.links {
            if !headers.are_one(path, &link.target) {
                continue;
            }
            let (Some(one), Some(other)) = (find(tree, path)?, find(tree, &link.target)?) else { continue };
            if one.kind != Kind::File || other.kind != Kind::File || one.inode == other.inode {
                continue;
            }
            let ((dir, name), (from, target)) = (tree.parent_of(path)?, tree.parent_of(&link.target)?);
            if dir.has_content_of(name, &from, target)? {
                let evidence = format!("a copy of {}, and no hard link", text(&link.target));
                self.find(path, Code::NodeLink, evidence);
            } else {
                self.find(path, Code::FileContent, format!("expected the content of {}", text(&link.target)));
            }
        }
        Ok(())
    }

    /// Returns what hard links to files of a parent did to them.
    ///
    /// # Errors
    /// One of them cannot be looked at.
    pub(super) fn stamps(&self, tree: &Dir) -> Result<Vec<(Inode, Stamp)>, FsError> {
        let foreign = self.headers.links.iter().filter(|(_, link)| self.headers.get(&link.target).is_none());
        let mut stamps = Vec::new();
        for (path, link) in foreign {
            if let Some(found) = find(tree, path)? {
                stamps.push(((found.file_system, found.inode), link.stamp));
            }
        }
        Ok(stamps)
    }
}

/// Joins a path in a tree with a name below it.
fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// Looks for a node; a directory on the way that is none, or a link, has nothing in it.
fn find(tree: &Dir, path: &[u8]) -> Result<Option<Attrs>, FsError> {
    let parent = FsError::in_place(tree.parent_of(path))?;
    parent.map_or(Ok(None), |(dir, name)| dir.find(name))
}

/// Writes a name or path as text; one that is not UTF-8 is escaped.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| bytes.escape_ascii().to_string())
}

/// Writes a time in seconds since 1970.
fn time(time: Time) -> String {
    match time.nanos {
        0 => time.seconds.to_string(),
        nanos => format!("{}.{nanos:09}", time.seconds),
    }
}

fn a(found: &Attrs) -> &'static str {
    if found.is_whiteout() { "the mark of something removed" } else { a_kind(found.kind) }
}

fn a_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "a file",
        Kind::Directory => "a directory",
        Kind::Symlink => "a symbolic link",
        Kind::Block => "a block device",
        Kind::Char => "a character device",
        Kind::Fifo => "a named pipe",
        Kind::Socket => "a socket",
    }
}
