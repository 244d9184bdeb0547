//! Every system call that `fsx` makes, with its kind: what a test lets fail fails here.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FallocateFlags, Gid, Mode, OFlags, RawDir, RawDirEntry, RenameFlags, ResolveFlags, Stat, StatFs, Statx,
    StatxFlags, Timestamps, Uid, XattrFlags,
};
use rustix::io::Result;
use rustix::path::Arg;

use crate::fault::{Call, fault};

/// Makes each call of `rustix::fs` one that can fail before it is made.
macro_rules! calls {
    ($($kind:expr => $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        #[inline]
        pub(super) fn $name($($argument: $type),*) -> Result<$result> {
            fault($kind)?;
            rustix::fs::$name($($argument),*)
        }
    )*};
}

calls! {
    opening(flags) => open(path: impl Arg, flags: OFlags, mode: Mode) -> OwnedFd;
    opening(flags) => openat(dir: impl AsFd, path: impl Arg, flags: OFlags, mode: Mode) -> OwnedFd;
    opening(flags) => openat2(dir: impl AsFd, path: impl Arg, flags: OFlags, mode: Mode, how: ResolveFlags) -> OwnedFd;
    Call::Stat => stat(path: impl Arg) -> Stat;
    Call::Stat => fstat(fd: impl AsFd) -> Stat;
    Call::Stat => statat(dir: impl AsFd, path: impl Arg, flags: AtFlags) -> Stat;
    Call::Stat => statx(dir: impl AsFd, path: impl Arg, flags: AtFlags, mask: StatxFlags) -> Statx;
    Call::Stat => fstatfs(fd: impl AsFd) -> StatFs;
    Call::ReadLink => readlinkat(dir: impl AsFd, path: impl Arg, reuse: impl Into<Vec<u8>>) -> std::ffi::CString;
    Call::ListXattrs => llistxattr(path: impl Arg, list: &mut [u8]) -> usize;
    Call::ListXattrs => flistxattr(fd: impl AsFd, list: &mut [u8]) -> usize;
    Call::GetXattr => lgetxattr(path: impl Arg, name: impl Arg, value: &mut [u8]) -> usize;
    Call::MakeDir => mkdir(path: impl Arg, mode: Mode) -> ();
    Call::MakeDir => mkdirat(dir: impl AsFd, path: impl Arg, mode: Mode) -> ();
    Call::Resize => fallocate(fd: impl AsFd, mode: FallocateFlags, offset: u64, length: u64) -> ();
    Call::Symlink => symlinkat(target: impl Arg, dir: impl AsFd, path: impl Arg) -> ();
    Call::MakeNode => mknodat(dir: impl AsFd, path: impl Arg, kind: rustix::fs::FileType, mode: Mode, device: u64) -> ();
    Call::Link => linkat(from: impl AsFd, old: impl Arg, to: impl AsFd, new: impl Arg, flags: AtFlags) -> ();
    Call::Rename => rename(old: impl Arg, new: impl Arg) -> ();
    Call::Rename => renameat(from: impl AsFd, old: impl Arg, to: impl AsFd, new: impl Arg) -> ();
    Call::Rename => renameat_with(from: impl AsFd, old: impl Arg, to: impl AsFd, new: impl Arg, how: RenameFlags) -> ();
    Call::Unlink => unlink(path: impl Arg) -> ();
    Call::RemoveDir => rmdir(path: impl Arg) -> ();
    removing(flags) => unlinkat(dir: impl AsFd, path: impl Arg, flags: AtFlags) -> ();
    Call::Mode => fchmod(fd: impl AsFd, mode: Mode) -> ();
    Call::Mode => chmodat(dir: impl AsFd, path: impl Arg, mode: Mode, flags: AtFlags) -> ();
    Call::Owner => fchown(fd: impl AsFd, owner: Option<Uid>, group: Option<Gid>) -> ();
    Call::Owner => chownat(dir: impl AsFd, path: impl Arg, owner: Option<Uid>, group: Option<Gid>, flags: AtFlags) -> ();
    Call::Times => futimens(fd: impl AsFd, times: &Timestamps) -> ();
    Call::Times => utimensat(dir: impl AsFd, path: impl Arg, times: &Timestamps, flags: AtFlags) -> ();
    Call::SetXattr => lsetxattr(path: impl Arg, name: impl Arg, value: &[u8], flags: XattrFlags) -> ();
    Call::RemoveXattr => lremovexattr(path: impl Arg, name: impl Arg) -> ();
    Call::Write => ioctl_ficlone(to: impl AsFd, from: impl AsFd) -> ();
    Call::Sync => fsync(fd: impl AsFd) -> ();
    Call::SyncFileSystem => syncfs(fd: impl AsFd) -> ();
}

fn opening(flags: OFlags) -> Call {
    // O_TMPFILE has the bits of O_DIRECTORY in it.
    match flags.contains(OFlags::CREATE) || flags.contains(OFlags::TMPFILE) {
        true => Call::Create,
        false => Call::Open,
    }
}

fn removing(flags: AtFlags) -> Call {
    if flags.contains(AtFlags::REMOVEDIR) { Call::RemoveDir } else { Call::Unlink }
}

/// Lists a directory, a buffer at a time.
pub(super) struct Listing<'b> {
    raw: RawDir<'b, OwnedFd>,
}

impl<'b> Listing<'b> {
    /// Opens a directory anew: each listing has a place of its own in it.
    pub(super) fn of(dir: BorrowedFd<'_>, buffer: &'b mut [MaybeUninit<u8>]) -> Result<Self> {
        let fd = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { raw: RawDir::new(fd, buffer) })
    }

    pub(super) fn next(&mut self) -> Option<Result<RawDirEntry<'_>>> {
        if self.raw.is_buffer_empty()
            && let Err(errno) = fault(Call::List)
        {
            return Some(Err(errno));
        }
        self.raw.next()
    }
}

/// Finds the first byte of a file from `at` on that is not in a hole.
pub(super) fn next_data(file: impl AsFd, at: u64) -> Result<u64> {
    fault(Call::Seek)?;
    rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at))
}

/// Finds the first byte of a file from `at` on that is in a hole, or its end.
pub(super) fn next_hole(file: impl AsFd, at: u64) -> Result<u64> {
    fault(Call::Seek)?;
    rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(at))
}
