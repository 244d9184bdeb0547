//! An open directory.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::attrs::{Attrs, Kind, Stamp, Time};
use super::calls;
use super::file::File;
use super::namespace::UserNamespace;
use super::resolve::{self, Scope};
use crate::error::{FsError, NotRegular};

/// What the kernel tells of a directory at a time, in bytes.
const LISTED: usize = 16 << 10;

/// A result of a file system call.
pub(super) type Result<T> = std::result::Result<T, FsError>;

/// An open directory. Every path given to it is relative and stays beneath it.
#[derive(Debug, Clone)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    /// How the directory was reached, for messages only.
    shown: PathBuf,
    /// Whose ids it tells and takes; those on disk where there is none.
    namespace: Option<Arc<UserNamespace>>,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name, as bytes.
    pub name: Vec<u8>,
    /// Its type.
    pub kind: Kind,
}

impl Dir {
    /// Opens a directory by a path that the user gave; symbolic links are followed.
    ///
    /// # Errors
    /// The path is not a directory that may be read.
    pub fn open_root(path: &Path) -> Result<Self> {
        let fd = calls::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| FsError::new("open", path, errno))?;
        Ok(Self { fd: Arc::new(fd), shown: path.to_owned(), namespace: None })
    }

    /// Returns this directory as one that tells and takes the ids of a user namespace, for itself and all below it.
    #[must_use]
    pub fn in_namespace(&self, namespace: Option<Arc<UserNamespace>>) -> Self {
        Self { namespace, ..self.clone() }
    }

    pub(super) fn namespace(&self) -> Option<&UserNamespace> {
        self.namespace.as_deref()
    }

    /// Returns the path of `name` in this directory, for messages.
    pub fn shown(&self, name: impl AsRef<[u8]>) -> PathBuf {
        match name.as_ref() {
            b"" | b"." => self.shown.clone(),
            name => self.shown.join(OsStr::from_bytes(name)),
        }
    }

    pub(super) fn fail(&self, act: &'static str, name: &[u8], errno: Errno) -> FsError {
        FsError::new(act, self.shown(name), errno)
    }

    fn open_as(&self, path: &[u8], flags: OFlags, scope: Scope) -> Result<OwnedFd> {
        resolve::open(self.fd.as_fd(), path, flags, scope).map_err(|errno| self.fail("open", path, errno))
    }

    /// Opens a directory beneath this one, on the same mount.
    ///
    /// # Errors
    /// It is not there, is no directory, or lies behind a symbolic link or on another mount.
    pub fn dir(&self, path: impl AsRef<[u8]>) -> Result<Self> {
        self.dir_in(path.as_ref(), Scope::Beneath)
    }

    /// As [`Dir::dir`], but the directory may be on another mount: dockerd mounts some homes on themselves,
    /// and people give `overlay2` a disk of its own.
    ///
    /// # Errors
    /// It is not there, is no directory, or lies behind a symbolic link.
    pub fn dir_across_mounts(&self, path: impl AsRef<[u8]>) -> Result<Self> {
        self.dir_in(path.as_ref(), Scope::AcrossMounts)
    }

    /// As [`Dir::dir`], but symbolic links are followed as if this directory were `/`.
    ///
    /// # Errors
    /// It is not there or is no directory; or the kernel cannot do this (before 5.6).
    pub fn dir_in_root(&self, path: impl AsRef<[u8]>) -> Result<Self> {
        self.dir_in(path.as_ref(), Scope::InRoot)
    }

    /// As [`Dir::dir_in_root`], but the directory may be on another mount: what a process sees at a path, where this is
    /// its root directory.
    ///
    /// # Errors
    /// As [`Dir::dir_in_root`].
    pub fn dir_as_seen(&self, path: impl AsRef<[u8]>) -> Result<Self> {
        self.dir_in(path.as_ref(), Scope::InRootAcrossMounts)
    }

    fn dir_in(&self, path: &[u8], scope: Scope) -> Result<Self> {
        let path = if path.is_empty() { b"." } else { path };
        let fd = self.open_as(path, OFlags::RDONLY | OFlags::DIRECTORY, scope)?;
        Ok(Self { fd: Arc::new(fd), shown: self.shown(path), namespace: self.namespace.clone() })
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// It is not there, is no regular file, or lies behind a symbolic link or on another mount.
    pub fn file(&self, path: impl AsRef<[u8]>) -> Result<File> {
        self.sized_file(path).map(|(file, _)| file)
    }

    /// As [`Dir::file`], and tells the length in bytes.
    ///
    /// # Errors
    /// As [`Dir::file`].
    pub fn sized_file(&self, path: impl AsRef<[u8]>) -> Result<(File, u64)> {
        self.sized_file_in(path.as_ref(), Scope::Beneath)
    }

    /// As [`Dir::sized_file`], but symbolic links are followed as if this directory were `/`: some layers hold a
    /// file under a path of which one component is a link within the layer.
    ///
    /// # Errors
    /// It is not there or is no regular file; or the kernel cannot do this (before 5.6).
    pub fn sized_file_in_root(&self, path: impl AsRef<[u8]>) -> Result<(File, u64)> {
        self.sized_file_in(path.as_ref(), Scope::InRoot)
    }

    fn sized_file_in(&self, path: &[u8], scope: Scope) -> Result<(File, u64)> {
        let fd = self.open_as(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, scope)?;
        let stat = calls::fstat(&fd).map_err(|errno| self.fail("stat", path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(FsError::new("read", self.shown(path), std::io::Error::other(NotRegular)));
        }
        Ok((File::from(fd), u64::try_from(stat.st_size).unwrap_or(0)))
    }

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Dir::file`]; or the file is longer.
    pub fn read(&self, path: impl AsRef<[u8]>, limit: u64) -> Result<Vec<u8>> {
        self.read_in(path.as_ref(), limit, Scope::Beneath)
    }

    /// As [`Dir::read`], but of the file that a process sees at a path, where this is its root directory.
    ///
    /// # Errors
    /// As [`Dir::sized_file_in_root`]; or the file is longer.
    pub fn read_as_seen(&self, path: impl AsRef<[u8]>, limit: u64) -> Result<Vec<u8>> {
        self.read_in(path.as_ref(), limit, Scope::InRootAcrossMounts)
    }

    fn read_in(&self, path: &[u8], limit: u64, scope: Scope) -> Result<Vec<u8>> {
        let (mut file, size) = self.sized_file_in(path, scope)?;
        // A store has tens of thousands of small files: this is one call where reading up to the end takes three.
        let mut bytes = vec![0; usize::try_from(size.min(limit)).unwrap_or(usize::MAX).saturating_add(1)];
        let fail = |error| FsError::new("read", self.shown(path), error);
        let first = file.read(&mut bytes).map_err(fail)?;
        bytes.truncate(first);
        if first as u64 != size {
            file.take((limit + 1).saturating_sub(first as u64)).read_to_end(&mut bytes).map_err(fail)?;
        }
        if bytes.len() as u64 > limit {
            return Err(fail(std::io::Error::other(format!("longer than {limit} bytes"))));
        }
        Ok(bytes)
    }

    /// Lists the directory, sorted by name, without `.` and `..`.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let fail = |errno| self.fail("list", b"", errno);
        let mut entries = Vec::new();
        let mut buffer = Vec::with_capacity(LISTED);
        let mut listing = calls::Listing::of(self.fd(), buffer.spare_capacity_mut()).map_err(fail)?;
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match Kind::of(entry.file_type()) {
                Some(kind) => kind,
                None => match self.attrs(name) {
                    Ok(attrs) => attrs.kind,
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(error),
                },
            };
            entries.push(Entry { name: name.to_vec(), kind });
        }
        entries.sort();
        Ok(entries)
    }

    /// Opens the directory that holds the last component of `path`, and returns it with that component.
    ///
    /// # Errors
    /// A component before the last is no directory on this mount.
    pub fn parent_of<'p>(&self, path: &'p [u8]) -> Result<(Self, &'p [u8])> {
        match path.iter().rposition(|byte| *byte == b'/') {
            None => Ok((self.clone(), path)),
            Some(slash) => Ok((self.dir(&path[..slash])?, &path[slash + 1..])),
        }
    }

    /// Tells what a name in this directory is; a link is not followed.
    ///
    /// # Errors
    /// Nothing of that name.
    pub fn attrs(&self, name: impl AsRef<[u8]>) -> Result<Attrs> {
        let name = one_name(name.as_ref());
        calls::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
            .map(|stat| match self.namespace() {
                Some(namespace) => namespace.seen(Attrs::of(&stat)),
                None => Attrs::of(&stat),
            })
            .map_err(|errno| self.fail("stat", name, errno))
    }

    /// As [`Dir::attrs`], with `None` where there is nothing of that name.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn find(&self, name: impl AsRef<[u8]>) -> Result<Option<Attrs>> {
        FsError::found(self.attrs(name))
    }

    /// Tells where a symbolic link points to.
    ///
    /// # Errors
    /// Not a symbolic link.
    pub fn read_link(&self, name: impl AsRef<[u8]>) -> Result<Vec<u8>> {
        let name = one_name(name.as_ref());
        calls::readlinkat(&self.fd, name, Vec::new())
            .map(std::ffi::CString::into_bytes)
            .map_err(|errno| self.fail("read link", name, errno))
    }

    /// Makes a directory with exactly these permission bits and opens it.
    ///
    /// # Errors
    /// The name is taken, or the file system refuses.
    pub fn make_dir(&self, name: impl AsRef<[u8]>, mode: u32) -> Result<Self> {
        let name = one_name(name.as_ref());
        calls::mkdirat(&self.fd, name, Mode::from_raw_mode(0o700))
            .map_err(|errno| self.fail("make directory", name, errno))?;
        let made = self.dir(name)?;
        calls::fchmod(&made.fd, Mode::from_raw_mode(mode)).map_err(|errno| self.fail("change mode of", name, errno))?;
        self.give(name)?;
        Ok(made)
    }

    /// As [`Dir::make_dir`], but takes the directory as it is where it is there already.
    ///
    /// # Errors
    /// The name is taken by something else, or the file system refuses.
    pub fn ensure_dir(&self, name: impl AsRef<[u8]>, mode: u32) -> Result<Self> {
        let name = name.as_ref();
        match self.dir_across_mounts(name) {
            Err(error) if error.is_not_found() => self.make_dir(name, mode),
            found => found,
        }
    }

    /// Makes a new file with exactly these permission bits, for writing.
    ///
    /// # Errors
    /// The name is taken, or the file system refuses.
    pub fn make_file(&self, name: impl AsRef<[u8]>, mode: u32) -> Result<File> {
        let name = name.as_ref();
        let file = self.begin_file(name)?;
        calls::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|errno| self.fail("change mode of", name, errno))?;
        self.give(name)?;
        Ok(file)
    }

    /// Makes a new file that only root can read, for writing; [`Dir::stamp_file`] gives it its permission bits.
    ///
    /// # Errors
    /// The name is taken, or the file system refuses.
    pub fn begin_file(&self, name: impl AsRef<[u8]>) -> Result<File> {
        let name = one_name(name.as_ref());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        calls::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(|errno| self.fail("make file", name, errno))
    }

    /// Gives a regular file that has further names an inode of its own: a copy with the same attributes.
    ///
    /// # Errors
    /// The file system refuses or is full; then the file is as it was.
    pub fn part(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let name = name.as_ref();
        let attrs = self.attrs(name)?;
        let mut source = self.file(name)?;
        let (temp, mut copy) = self.make_temp()?;
        let filled = std::io::copy(&mut source, &mut copy)
            .map_err(|error| FsError::new("copy", self.shown(name), error))
            .and_then(|_| {
                let stamp =
                    Stamp { mode: attrs.mode, uid: attrs.uid, gid: attrs.gid, atime: attrs.mtime, mtime: attrs.mtime };
                for (key, value) in self.xattrs(name)? {
                    self.set_xattr(&temp, &key, &value)?;
                }
                // Changing the owner takes capabilities away, so they are set again.
                self.stamp_file(&temp, &copy, &stamp)?;
                for (key, value) in self.xattrs(name)?.iter().filter(|(key, _)| key == b"security.capability") {
                    self.set_xattr(&temp, key, value)?;
                }
                self.set_times(&temp, attrs.mtime, attrs.mtime)?;
                self.replace(&temp, self, name)
            });
        if filled.is_err() {
            // The first error is the one to tell.
            let _ = self.remove_file(&temp);
        }
        filled
    }

    /// Makes a file under a name that is free.
    fn make_temp(&self) -> Result<(Vec<u8>, File)> {
        let mut turn = 0_u64;
        loop {
            let name = format!(".dockpack-{turn}").into_bytes();
            match self.make_file(&name, 0o600) {
                Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => turn += 1,
                file => return Ok((name, file?)),
            }
        }
    }

    /// Opens a regular file for reading and writing, as a lock is taken on it. Nothing is written.
    ///
    /// # Errors
    /// It is not there, is no regular file, or lies behind a symbolic link.
    pub fn file_to_lock(&self, path: impl AsRef<[u8]>) -> Result<File> {
        let path = path.as_ref();
        let fd = self.open_as(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY, Scope::AcrossMounts)?;
        Ok(File::from(fd))
    }

    /// Takes disk space for a file of this length, so that what is written when it is gone finds room. Where
    /// the file system cannot do that, nothing is taken.
    ///
    /// # Errors
    /// The name is taken or the disk is full.
    pub fn reserve(&self, name: impl AsRef<[u8]>, length: u64) -> Result<()> {
        let name = name.as_ref();
        let file = self.make_file(name, 0o600)?;
        match calls::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length) {
            Ok(()) | Err(Errno::NOTSUP) => Ok(()),
            Err(errno) => Err(self.fail("reserve space in", name, errno)),
        }
    }

    /// Makes a symbolic link that says `target`.
    ///
    /// # Errors
    /// The name is taken, or the file system refuses.
    pub fn make_symlink(&self, name: impl AsRef<[u8]>, target: &[u8]) -> Result<()> {
        let name = one_name(name.as_ref());
        calls::symlinkat(target, &self.fd, name).map_err(|errno| self.fail("make link", name, errno))?;
        self.give(name)
    }

    /// Makes a device, named pipe or socket.
    ///
    /// # Errors
    /// The name is taken, or the file system refuses.
    pub fn make_node(&self, name: impl AsRef<[u8]>, kind: Kind, mode: u32, device: (u32, u32)) -> Result<()> {
        let name = one_name(name.as_ref());
        let kind = match kind {
            Kind::Block => FileType::BlockDevice,
            Kind::Char => FileType::CharacterDevice,
            Kind::Socket => FileType::Socket,
            _ => FileType::Fifo,
        };
        let number = rustix::fs::makedev(device.0, device.1);
        calls::mknodat(&self.fd, name, kind, Mode::from_raw_mode(mode), number)
            .map_err(|errno| self.fail("make node", name, errno))
    }

    /// Returns how many bytes its file system takes.
    ///
    /// # Errors
    /// It does not say.
    pub fn free(&self) -> Result<u64> {
        let found = calls::fstatfs(&self.fd).map_err(|errno| self.fail("look at the file system of", b"", errno))?;
        Ok(found.f_bavail.saturating_mul(u64::try_from(found.f_bsize).unwrap_or_default()))
    }

    /// Returns how many more files and directories its file system takes; `None` where it has no such limit.
    ///
    /// # Errors
    /// It does not say.
    pub fn free_inodes(&self) -> Result<Option<u64>> {
        let found = calls::fstatfs(&self.fd).map_err(|errno| self.fail("look at the file system of", b"", errno))?;
        Ok((found.f_files > 0).then_some(found.f_ffree))
    }

    /// Gives `name` in `from` the further name `to` in this directory. A symbolic link is linked itself.
    ///
    /// # Errors
    /// The name is taken, the link count is exhausted, or the file system refuses.
    pub fn hard_link(&self, from: &Self, name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<()> {
        let to = one_name(to.as_ref());
        calls::linkat(&from.fd, one_name(name.as_ref()), &self.fd, to, AtFlags::empty())
            .map_err(|errno| self.fail("make hard link", to, errno))
    }

    /// Renames `name` to `new` in `to`, which must not hold that name.
    ///
    /// # Errors
    /// The new name is taken, the directories are on different file systems, or the file system refuses.
    pub fn rename(&self, name: impl AsRef<[u8]>, to: &Self, new: impl AsRef<[u8]>) -> Result<()> {
        let (name, new) = (one_name(name.as_ref()), one_name(new.as_ref()));
        match calls::renameat_with(&self.fd, name, &to.fd, new, RenameFlags::NOREPLACE) {
            // Some file systems have no RENAME_NOREPLACE. The lock keeps others away between look and act.
            Err(Errno::INVAL | Errno::NOSYS) => match to.find(new)? {
                Some(_) => Err(Errno::EXIST),
                None => calls::renameat(&self.fd, name, &to.fd, new),
            },
            done => done,
        }
        .map_err(|errno| to.fail("rename to", new, errno))
    }

    /// Exchanges two names, in one step: each then is what the other was.
    ///
    /// # Errors
    /// One of them is not there, the file system cannot (`EINVAL`), or refuses.
    pub fn exchange(&self, name: impl AsRef<[u8]>, to: &Self, other: impl AsRef<[u8]>) -> Result<()> {
        let (name, other) = (one_name(name.as_ref()), one_name(other.as_ref()));
        calls::renameat_with(&self.fd, name, &to.fd, other, RenameFlags::EXCHANGE)
            .map_err(|errno| to.fail("exchange", other, errno))
    }

    /// Renames `name` to `new` in `to`, in place of a file of that name.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn replace(&self, name: impl AsRef<[u8]>, to: &Self, new: impl AsRef<[u8]>) -> Result<()> {
        let new = one_name(new.as_ref());
        calls::renameat(&self.fd, one_name(name.as_ref()), &to.fd, new)
            .map_err(|errno| to.fail("rename to", new, errno))
    }

    /// Sets owner, permission bits and times of an open file, in this order.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn stamp_file(&self, name: impl AsRef<[u8]>, file: &File, stamp: &Stamp) -> Result<()> {
        let name = name.as_ref();
        let (uid, gid) = self.on_disk(name, stamp.uid, stamp.gid)?;
        calls::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|errno| self.fail("change owner of", name, errno))?;
        calls::fchmod(file, Mode::from_raw_mode(stamp.mode))
            .map_err(|errno| self.fail("change mode of", name, errno))?;
        calls::futimens(file, &timestamps(stamp.atime, stamp.mtime))
            .map_err(|errno| self.fail("change times of", name, errno))
    }

    /// Sets owner and group; of a link itself, not its target.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn set_owner(&self, name: impl AsRef<[u8]>, uid: u32, gid: u32) -> Result<()> {
        let name = one_name(name.as_ref());
        let (uid, gid) = self.on_disk(name, uid, gid)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        calls::chownat(&self.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.fail("change owner of", name, errno))
    }

    /// Sets the directory's own group, as it is on disk.
    pub(super) fn set_group_on_disk(&self, gid: u32) -> Result<()> {
        calls::fchown(&self.fd, None, Some(Gid::from_raw(gid)))
            .map_err(|errno| self.fail("change group of", b"", errno))
    }

    /// Sets the permission bits of what the caller knows to be no symbolic link.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn set_mode(&self, name: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let name = one_name(name.as_ref());
        calls::chmodat(&self.fd, name, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(|errno| self.fail("change mode of", name, errno))
    }

    /// Sets the times of last access and last change; of a link itself, not its target.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn set_times(&self, name: impl AsRef<[u8]>, access: Time, change: Time) -> Result<()> {
        let name = one_name(name.as_ref());
        calls::utimensat(&self.fd, name, &timestamps(access, change), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.fail("change times of", name, errno))
    }

    /// Sets the time of last change alone; of a link itself, not its target.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn set_mtime(&self, name: impl AsRef<[u8]>, change: Time) -> Result<()> {
        let name = one_name(name.as_ref());
        let mut times = timestamps(change, change);
        times.last_access.tv_nsec = rustix::fs::UTIME_OMIT;
        calls::utimensat(&self.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.fail("change times of", name, errno))
    }

    /// Makes names in this directory durable.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync(&self) -> Result<()> {
        calls::fsync(&self.fd).map_err(|errno| self.fail("sync", b"", errno))
    }

    /// Makes everything on this directory's file system durable, in one call.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync_file_system(&self) -> Result<()> {
        calls::syncfs(&self.fd).map_err(|errno| self.fail("sync the file system of", b"", errno))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn timestamps(access: Time, change: Time) -> Timestamps {
    let spec = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: spec(access), last_modification: spec(change) }
}

/// A name without a slash, or `.` for the directory itself: the calls that take one would follow links in
/// the components before. A name with a slash is a bug here, and becomes a name that cannot exist.
pub(super) fn one_name(name: &[u8]) -> &[u8] {
    match name {
        b"" => b".",
        b".." => b"\0",
        name if name.contains(&b'/') => b"\0",
        name => name,
    }
}
