//! Unpacks a layer's tar into a tree, as dockerd would (moby go-archive `Unpack`, `UnpackLayer`,
//! `createTarFile`; store-format 6.1).

use std::collections::HashSet;
use std::io::{Seek as _, SeekFrom, Write as _};

use rustix::io::Errno;

use crate::error::FsError;
use crate::fsx::{Dir, Holes, Kind, Stamp, Time};

use super::follow::follow;
use super::member::{Member, MemberKind, Members, TarError, TarStream};
use super::shared::Shared;

/// Marks a name as removed in a layer's tar.
const WHITEOUT: &[u8] = b".wh.";
/// Marks its directory as hiding what lower layers have in it.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names of AUFS's own.
const AUFS: &[u8] = b".wh..wh.";
/// Attribute that a change of the owner takes away.
pub(super) const CAPABILITY: &[u8] = b"security.capability";
/// Owner and group of what is made.
const ROOT: (u32, u32) = (0, 0);
/// Bytes written to a file at once.
const CHUNK: usize = 256 << 10;

/// What a graph driver does with whiteouts.
#[derive(Debug, Clone)]
pub enum Whiteouts {
    /// Each is kept, as a character device 0:0 or an extended attribute (`overlay2`).
    Overlayfs,
    /// What they name is removed from the tree, which began as a copy of the parent's (`overlay`, `vfs`).
    Remove,
    /// Each stays the file that it is in the tar (`fuse-overlayfs`).
    Files,
    /// Removed and kept, as overlayfs itself does on a mount above this tree: a whiteout is kept where it hides something in
    /// it (`overlay`, layers that BuildKit made).
    Above(Dir),
}

impl Whiteouts {
    /// Tells whether the tree began as a copy of the parent's.
    fn on_copy(&self) -> bool {
        !matches!(self, Self::Overlayfs | Self::Files)
    }
}

/// How a layer's tree says that something of the layers below is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    /// It has only what is not removed.
    None,
    /// By devices 0:0 and `trusted.overlay.opaque`, as overlayfs does.
    Overlayfs,
    /// By files `.wh.NAME` and `.wh..wh..opq`, as the layer's tar does.
    Files,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The tar is at fault.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The file system is.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A hard link to what the layer itself has not. A driver that keeps only what a layer adds cannot hold it.
    #[error("{} is a hard link to {}, which the layer does not have", path.escape_ascii(), target.escape_ascii())]
    LinkBelow {
        /// Path of the link.
        path: Vec<u8>,
        /// What it leads to.
        target: Vec<u8>,
    },
}

/// What came of unpacking a tar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Bytes that the headers claim, together.
    pub claimed: u64,
    /// The content of some member may be nowhere in the tree, as a later member took its place.
    pub displaces: bool,
}

/// Unpacks all members into the tree below `root`. `shared` are files of it that are not this layer's to change.
///
/// # Errors
/// The tar is damaged or hostile, or the file system refuses. The tree is then half made.
pub fn apply<R: TarStream>(
    members: &mut Members<R>,
    root: &Dir,
    whiteouts: Whiteouts,
    shared: &Shared,
) -> Result<Applied, ApplyError> {
    let mut work = Apply {
        root,
        shared,
        whiteouts,
        parent: None,
        directories: Vec::new(),
        unpacked: HashSet::new(),
        went_through_link: false,
        displaces: false,
        buffer: vec![0; CHUNK],
    };
    let mut claimed: u64 = 0;
    while let Some(member) = members.next_member()? {
        claimed = claimed.saturating_add(member.claimed);
        work.member(&member, members)?;
    }
    work.finish()?;
    Ok(Applied { claimed, displaces: work.displaces })
}

struct Apply<'d> {
    root: &'d Dir,
    shared: &'d Shared,
    whiteouts: Whiteouts,
    /// The directory that the last member went into, with its path.
    parent: Option<(Vec<u8>, Dir)>,
    /// Directories of the tar with the times they get when all else is done.
    directories: Vec<(Vec<u8>, Time, Time)>,
    /// Paths that this layer made; an opaque directory keeps them. Only where the tree began as a copy.
    unpacked: HashSet<Vec<u8>>,
    /// A directory had a name that leads through a link: `unpacked` may have other names of what is in it.
    went_through_link: bool,
    /// See [`Applied`].
    displaces: bool,
    buffer: Vec<u8>,
}

impl Apply<'_> {
    fn member<R: TarStream>(&mut self, member: &Member, members: &mut Members<R>) -> Result<(), ApplyError> {
        if member.kind == MemberKind::GlobalHeader {
            return Ok(());
        }
        let (above, name) = split(&member.path);
        if name.is_empty() {
            return self.root_member(member);
        }
        if matches!(self.whiteouts, Whiteouts::Remove) && is_of_aufs(&member.path) {
            self.displaces |= member.size > 0;
            return Ok(());
        }
        let dir = self.directory(above)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT).filter(|_| !matches!(self.whiteouts, Whiteouts::Files)) {
            return self.whiteout(member, &dir, above, name, hidden);
        }
        self.create(member, &dir, name, members)?;
        if self.whiteouts.on_copy() {
            self.unpacked.insert(member.path.clone());
        }
        Ok(())
    }

    /// The root itself: the naive drivers apply it, the others do not.
    fn root_member(&mut self, member: &Member) -> Result<(), ApplyError> {
        if matches!(self.whiteouts, Whiteouts::Remove) && member.kind == MemberKind::Directory {
            let found = self.root.attrs(".")?;
            self.set_attributes(member, self.root, b".", Kind::Directory, (found.uid, found.gid))?;
            self.directories.push((Vec::new(), member.atime, member.mtime));
        }
        Ok(())
    }

    /// Opens the directory at `path`, and makes what is missing of it.
    fn directory(&mut self, path: &[u8]) -> Result<Dir, ApplyError> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((at, dir)) = &self.parent
            && at == path
        {
            return Ok(dir.clone());
        }
        let dir = match self.root.dir(path) {
            Err(error) if is_through_link(&error) => {
                self.went_through_link = true;
                self.root.dir_in_root(path)
            }
            opened => opened,
        };
        let dir = match dir {
            Err(error) if error.is_not_found() => {
                // A link on the way may lead to what is not there yet.
                let path = self.real_path(path)?;
                let (above, name) = split(&path);
                // Implied parents are 0755 since 20.10; what they really were travels as a difference.
                let made = self.directory(above)?.make_dir(name, 0o755)?;
                made.own()?;
                made
            }
            opened => opened?,
        };
        self.parent = Some((path.to_vec(), dir.clone()));
        Ok(dir)
    }

    /// Returns where a path leads whose last directories may not be there.
    fn real_path(&self, path: &[u8]) -> Result<Vec<u8>, ApplyError> {
        let reached = follow(path, |at| {
            let (above, name) = split(at);
            let Some(dir) = FsError::found(self.root.dir(above))? else { return Ok(None) };
            match dir.find(name)? {
                Some(found) if found.kind == Kind::Symlink => dir.read_link(name).map(Some),
                _ => Ok(None),
            }
        });
        match reached {
            Ok(reached) if reached.past_root => Err(TarError::Escapes(path.to_vec()).into()),
            reached => Ok(reached.map(|reached| reached.path)?),
        }
    }

    fn create<R: TarStream>(
        &mut self,
        member: &Member,
        dir: &Dir,
        name: &[u8],
        members: &mut Members<R>,
    ) -> Result<(), ApplyError> {
        match &member.kind {
            MemberKind::File => {
                let file = self.make(member, dir, name, || dir.begin_file(name))?;
                self.fill(member, members, dir, name, &file)?;
                match member.xattrs.is_empty() {
                    true => dir.stamp_file(name, &file, &stamp_of(member, ROOT))?,
                    false => self.set_attributes(member, dir, name, Kind::File, ROOT)?,
                }
            }
            MemberKind::Directory => {
                let owner = match dir.find(name)? {
                    Some(found) if found.kind == Kind::Directory => (found.uid, found.gid),
                    _ => {
                        let made = self.make(member, dir, name, || dir.make_dir(name, 0o700))?;
                        // Its content mostly comes next.
                        self.parent = Some((member.path.clone(), made));
                        ROOT
                    }
                };
                self.set_attributes(member, dir, name, Kind::Directory, owner)?;
                self.directories.push((member.path.clone(), member.atime, member.mtime));
            }
            MemberKind::Symlink(target) => {
                self.make(member, dir, name, || dir.make_symlink(name, target))?;
                self.set_attributes(member, dir, name, Kind::Symlink, ROOT)?;
            }
            MemberKind::HardLink(target) => self.hard_link(member, dir, name, target)?,
            MemberKind::Char(major, minor) => self.node(member, dir, name, Kind::Char, (*major, *minor))?,
            MemberKind::Block(major, minor) => self.node(member, dir, name, Kind::Block, (*major, *minor))?,
            MemberKind::Fifo => self.node(member, dir, name, Kind::Fifo, (0, 0))?,
            MemberKind::GlobalHeader => {}
        }
        Ok(())
    }

    /// Makes a new name; what is there already makes room, as it does in dockerd.
    fn make<T>(
        &mut self,
        member: &Member,
        dir: &Dir,
        name: &[u8],
        make: impl Fn() -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        match make() {
            Err(error) if error.source.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {
                self.remove(dir, name, &member.path)?;
                make()
            }
            made => made,
        }
    }

    /// Removes a name, which is at `path` of the tree.
    fn remove(&mut self, dir: &Dir, name: &[u8], path: &[u8]) -> Result<(), FsError> {
        self.parent = None;
        if !self.displaces
            && let Some(found) = dir.find(name)?
        {
            let is_own = !self.whiteouts.on_copy() || self.went_through_link || self.unpacked.contains(path);
            self.displaces = is_own || found.kind == Kind::Directory;
        }
        dir.remove_tree(name)
    }

    fn fill<R: TarStream>(
        &mut self,
        member: &Member,
        members: &mut Members<R>,
        dir: &Dir,
        name: &[u8],
        mut file: &crate::fsx::File,
    ) -> Result<(), ApplyError> {
        let failed = |error| FsError::new("write", dir.shown(name), error);
        // Where Docker writes zeros, what was a hole becomes one again; so does what only is long enough for one.
        let Some(map) = &member.sparse else {
            let mut holes = Holes::new(file);
            self.copy(member.size, members, |bytes| holes.write(bytes).map_err(failed))?;
            return Ok(holes.finish().map_err(failed)?);
        };
        file.set_len(map.size).map_err(failed)?;
        for (offset, length) in map.parts.iter().copied() {
            file.seek(SeekFrom::Start(offset)).map_err(failed)?;
            self.copy(length, members, |bytes| file.write_all(bytes).map_err(failed))?;
        }
        Ok(())
    }

    /// Reads the next bytes of content, and gives them on in pieces of [`CHUNK`].
    fn copy<R: TarStream>(
        &mut self,
        length: u64,
        members: &mut Members<R>,
        mut write: impl FnMut(&[u8]) -> Result<(), FsError>,
    ) -> Result<(), ApplyError> {
        let mut left = length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let mut filled = 0;
            while filled < want {
                match members.read_content(&mut self.buffer[filled..want])? {
                    0 => return Err(TarError::Cut.into()),
                    got => filled += got,
                }
            }
            write(&self.buffer[..want])?;
            left -= want as u64;
        }
        Ok(())
    }

    fn node(
        &mut self,
        member: &Member,
        dir: &Dir,
        name: &[u8],
        kind: Kind,
        device: (u32, u32),
    ) -> Result<(), ApplyError> {
        self.make(member, dir, name, || dir.make_node(name, kind, 0o600, device))?;
        self.set_attributes(member, dir, name, kind, ROOT)
    }

    /// A hard link's header sets its own owner, mode and times on the inode it shares.
    fn hard_link(&mut self, member: &Member, dir: &Dir, name: &[u8], target: &[u8]) -> Result<(), ApplyError> {
        let (above, target_name) = split(target);
        if target_name.is_empty() || target == member.path {
            return Err(TarError::Escapes(target.to_vec()).into());
        }
        let below = |error: FsError| match error.is_not_found() && !self.whiteouts.on_copy() {
            true => ApplyError::LinkBelow { path: member.path.clone(), target: target.to_vec() },
            false => error.into(),
        };
        let from = open_directory(self.root, above).map_err(below)?;
        from.attrs(target_name).map_err(below)?;
        self.make(member, dir, name, || dir.hard_link(&from, target_name, name))?;
        let found = dir.attrs(name)?;
        let owner = (found.uid, found.gid);
        let stamp = stamp_of(member, owner);
        if found.kind == Kind::Symlink {
            dir.set_owner(name, stamp.uid, stamp.gid)?;
            return Ok(());
        }
        if has_attributes(member, &stamp, dir, name)? {
            return Ok(());
        }
        self.shared.part(dir, name)?;
        self.set_attributes(member, dir, name, found.kind, owner)
    }

    /// Gives a node all that its header says. It is `owner`'s until then.
    fn set_attributes(
        &self,
        member: &Member,
        dir: &Dir,
        name: &[u8],
        kind: Kind,
        owner: (u32, u32),
    ) -> Result<(), ApplyError> {
        // Changing the owner takes setuid bits and capabilities away, so it is first; the permission bits change what an
        // access control list says, so they follow it.
        let stamp = stamp_of(member, owner);
        dir.set_owner(name, stamp.uid, stamp.gid)?;
        self.set_xattrs(member, dir, name)?;
        if kind != Kind::Symlink {
            dir.set_mode(name, stamp.mode)?;
        }
        Ok(dir.set_times(name, stamp.atime, stamp.mtime)?)
    }

    fn set_xattrs(&self, member: &Member, dir: &Dir, name: &[u8]) -> Result<(), ApplyError> {
        for (key, value) in &member.xattrs {
            match dir.set_xattr(name, key, value) {
                // As dockerd: an attribute that this file system or node cannot hold is left out.
                Err(error) if is_refusal(&error, member, key) => {}
                set => set?,
            }
        }
        Ok(())
    }

    fn whiteout(
        &mut self,
        member: &Member,
        dir: &Dir,
        above: &[u8],
        name: &[u8],
        hidden: &[u8],
    ) -> Result<(), ApplyError> {
        if name != OPAQUE && matches!(hidden, b"" | b"." | b"..") {
            return Err(TarError::Escapes(member.path.clone()).into());
        }
        self.displaces |= member.size > 0;
        if self.whiteouts.on_copy() {
            match name == OPAQUE {
                true => self.clear(dir, above)?,
                false => self.remove(dir, hidden, &below(above, hidden))?,
            }
        }
        match &self.whiteouts {
            Whiteouts::Remove => return Ok(()),
            Whiteouts::Above(lower) if name != OPAQUE && !exists(lower, above, hidden)? => return Ok(()),
            _ => {}
        }
        if name == OPAQUE {
            return Ok(dir.set_xattr(b".", b"trusted.overlay.opaque", b"y")?);
        }
        dir.make_node(hidden, Kind::Char, 0, (0, 0))?;
        let stamp = stamp_of(member, ROOT);
        dir.set_owner(hidden, stamp.uid, stamp.gid)?;
        // dockerd leaves the time of unpacking; the header's makes two loads alike.
        Ok(dir.set_times(hidden, member.atime, member.mtime)?)
    }

    /// Removes from a directory what this layer has not made.
    fn clear(&mut self, dir: &Dir, path: &[u8]) -> Result<(), ApplyError> {
        for entry in dir.entries()? {
            let inner = below(path, &entry.name);
            if !self.unpacked.contains(&inner) {
                self.remove(dir, &entry.name, &inner)?;
            } else if entry.kind == Kind::Directory {
                self.clear(&dir.dir(&entry.name)?, &inner)?;
            }
        }
        Ok(())
    }

    /// Sets the times of directories again, which making their content has changed.
    fn finish(&self) -> Result<(), ApplyError> {
        for (path, atime, mtime) in &self.directories {
            let (above, name) = split(path);
            match open_directory(self.root, above).and_then(|dir| dir.set_times(name, *atime, *mtime)) {
                // A later member may have replaced it.
                Err(error) if error.is_not_found() => {}
                set => set?,
            }
        }
        Ok(())
    }
}

/// Tells whether a member is of AUFS's own, which the naive drivers pass over.
pub(super) fn is_of_aufs(path: &[u8]) -> bool {
    path.starts_with(AUFS) && split(path).1 != OPAQUE
}

/// Opens a directory of the tree; a component may be a link within the tree.
fn open_directory(root: &Dir, path: &[u8]) -> Result<Dir, FsError> {
    match root.dir(path) {
        Err(error) if is_through_link(&error) => root.dir_in_root(path),
        opened => opened,
    }
}

/// Tells whether a directory could not be opened as a component of its name is a link, which is what the kernel says
/// then, or no directory.
fn is_through_link(error: &FsError) -> bool {
    let codes = [Errno::LOOP, Errno::NOTDIR].map(Errno::raw_os_error);
    error.source.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Returns the path of what has a name in a directory.
fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// Tells whether a tree has this name.
fn exists(tree: &Dir, above: &[u8], name: &[u8]) -> Result<bool, FsError> {
    match open_directory(tree, above) {
        Ok(dir) => Ok(dir.find(name)?.is_some()),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a header says of a node that is `owner`'s.
fn stamp_of(member: &Member, owner: (u32, u32)) -> Stamp {
    let (uid, gid) = member.owner(owner);
    Stamp { mode: member.mode, uid, gid, atime: member.atime, mtime: member.mtime }
}

/// Tells whether a node already is what a member says of it.
fn has_attributes(member: &Member, stamp: &Stamp, dir: &Dir, name: &[u8]) -> Result<bool, FsError> {
    let attrs = dir.attrs(name)?;
    if (attrs.mode, attrs.uid, attrs.gid, attrs.mtime) != (stamp.mode, stamp.uid, stamp.gid, stamp.mtime) {
        return Ok(false);
    }
    let xattrs = dir.xattrs(name)?;
    let is_set = |key: &[u8], value: &[u8]| xattrs.iter().any(|(name, found)| name == key && found == value);
    // Changing the owner takes a capability away, also where it is the same one.
    let is_lost = |key: &[u8]| key == CAPABILITY && !member.xattrs.contains_key(CAPABILITY);
    Ok(member.xattrs.iter().all(|(key, value)| is_set(key, value)) && !xattrs.iter().any(|(key, _)| is_lost(key)))
}

/// Tells whether the kernel refuses an attribute as none that the node can have. Root is not refused those of users and
/// capabilities of a file or directory: there it is a failure, by which programs would see something else than was built.
fn is_refusal(error: &FsError, member: &Member, key: &[u8]) -> bool {
    let is_ours = key.starts_with(b"user.") || key == CAPABILITY;
    let can_have = is_ours && matches!(member.kind, MemberKind::File | MemberKind::Directory);
    match error.source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOTSUP) => true,
        Some(Errno::PERM) => !can_have,
        _ => false,
    }
}

/// Splits a path into the directory above and the last name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        None => (b"", path),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
    }
}
