//! Subvolumes of btrfs: directories that are made, copied and removed as a whole (Linux `include/uapi/linux/btrfs.h`).
//!
//! There is no safe call for these in any library; this is the only file with `unsafe`.
#![allow(unsafe_code, reason = "ioctls; each says why it is sound")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

use super::attrs::{Attrs, Kind};
use super::calls;
use super::dir::{Dir, Result, one_name};
use crate::fault::{Call, fault};

/// `BTRFS_SUPER_MAGIC`.
const MAGIC: u64 = 0x9123_683e;
/// Inode of the root of every subvolume (`BTRFS_FIRST_FREE_OBJECTID`), and of nothing else.
pub(super) const ROOT_INODE: u64 = 256;
/// `BTRFS_IOCTL_MAGIC`.
const GROUP: u8 = 0x94;
const SNAP_CREATE: Opcode = opcode::write::<Arguments>(GROUP, 1);
const SUBVOL_CREATE: Opcode = opcode::write::<Arguments>(GROUP, 14);
const SNAP_DESTROY: Opcode = opcode::write::<Arguments>(GROUP, 15);
const INO_LOOKUP: Opcode = opcode::read_write::<Lookup>(GROUP, 18);

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct Arguments {
    /// What is copied.
    fd: i64,
    /// Name in the directory that the call is made on, ended by a zero.
    name: [u8; NAME],
}

/// `BTRFS_PATH_NAME_MAX` and a zero, in bytes.
const NAME: usize = 4088;

impl Arguments {
    fn new(name: &[u8], of: Option<BorrowedFd<'_>>) -> rustix::io::Result<Self> {
        fault(Call::Subvolume)?;
        let mut bytes = [0; NAME];
        match bytes.get_mut(..name.len()) {
            Some(room) if name.len() < NAME && !name.contains(&b'/') => room.copy_from_slice(name),
            _ => return Err(Errno::NAMETOOLONG),
        }
        Ok(Self { fd: of.map_or(0, |fd| fd.as_raw_fd().into()), name: bytes })
    }
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct Lookup {
    /// The subvolume; zero asks for that of the directory that the call is made on.
    tree: u64,
    /// The inode whose path is looked up; the root of a subvolume has an empty one.
    inode: u64,
    path: [u8; LOOKED_UP],
}

/// `BTRFS_INO_LOOKUP_PATH_MAX`, in bytes.
const LOOKED_UP: usize = 4080;

/// Tells whether a directory lies on btrfs.
pub(super) fn is_btrfs(dir: impl AsFd) -> bool {
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "other types on other machines")]
    calls::fstatfs(dir).is_ok_and(|found| found.f_type as u64 == MAGIC)
}

impl Dir {
    /// Tells whether this directory lies on btrfs.
    #[must_use]
    pub fn is_btrfs(&self) -> bool {
        is_btrfs(self.fd())
    }

    /// Tells whether this directory is the root of a subvolume.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn is_subvolume(&self) -> Result<bool> {
        Ok(self.has_subvolume(&self.attrs(".")?))
    }

    /// Tells whether what `attrs` are of, in this directory, is the root of a subvolume.
    pub(super) fn has_subvolume(&self, attrs: &Attrs) -> bool {
        attrs.kind == Kind::Directory && attrs.inode == ROOT_INODE && self.is_btrfs()
    }

    /// Returns the number of the subvolume whose root `name` is; `None` where it is anything else. The roots of all
    /// subvolumes have the same inode, and their device number is another after each mount: only this tells them apart.
    ///
    /// # Errors
    /// Nothing of that name, or the file system does not say.
    pub fn subvolume(&self, name: impl AsRef<[u8]>) -> Result<Option<u64>> {
        let name = one_name(name.as_ref());
        if !self.has_subvolume(&self.attrs(name)?) {
            return Ok(None);
        }
        let dir = self.dir(name)?;
        let mut lookup = Lookup { tree: 0, inode: ROOT_INODE, path: [0; LOOKED_UP] };
        let done = fault(Call::Subvolume).and_then(|()| {
            // SAFETY: BTRFS_IOC_INO_LOOKUP reads and writes a `btrfs_ioctl_ino_lookup_args`, which `Lookup` is, and keeps
            // nothing.
            unsafe { ioctl(dir.fd(), Updater::<INO_LOOKUP, Lookup>::new(&mut lookup)) }
        });
        done.map_err(|errno| self.fail("look at subvolume", name, errno))?;
        Ok(Some(lookup.tree))
    }

    /// Makes an empty subvolume and opens it.
    ///
    /// # Errors
    /// The name is taken, or this is not btrfs.
    pub fn make_subvolume(&self, name: impl AsRef<[u8]>) -> Result<Self> {
        let name = one_name(name.as_ref());
        let made = Arguments::new(name, None).and_then(|arguments| {
            // SAFETY: BTRFS_IOC_SUBVOL_CREATE reads a `btrfs_ioctl_vol_args`, which `Arguments` is, and keeps nothing.
            unsafe { ioctl(self.fd(), Setter::<SUBVOL_CREATE, Arguments>::new(arguments)) }
        });
        made.map_err(|errno| self.fail("make subvolume", name, errno))?;
        self.dir(name)
    }

    /// Makes a subvolume that begins with all that `from`, a subvolume, has, and opens it.
    ///
    /// # Errors
    /// The name is taken, `from` is no subvolume, or they are not on the same btrfs.
    pub fn make_snapshot(&self, from: &Self, name: impl AsRef<[u8]>) -> Result<Self> {
        let name = one_name(name.as_ref());
        let made = Arguments::new(name, Some(from.fd())).and_then(|arguments| {
            // SAFETY: BTRFS_IOC_SNAP_CREATE reads a `btrfs_ioctl_vol_args`, which `Arguments` is, and keeps nothing;
            // `from` is open until it returns.
            unsafe { ioctl(self.fd(), Setter::<SNAP_CREATE, Arguments>::new(arguments)) }
        });
        made.map_err(|errno| self.fail("make snapshot", name, errno))?;
        self.dir(name)
    }

    /// Removes a subvolume with all that is in it. One that holds others stays.
    ///
    /// # Errors
    /// It is none, another one is in it, or the file system refuses.
    pub(super) fn remove_subvolume(&self, name: &[u8]) -> Result<()> {
        let removed = Arguments::new(one_name(name), None).and_then(|arguments| {
            // SAFETY: BTRFS_IOC_SNAP_DESTROY reads a `btrfs_ioctl_vol_args`, which `Arguments` is, and keeps nothing.
            unsafe { ioctl(self.fd(), Setter::<SNAP_DESTROY, Arguments>::new(arguments)) }
        });
        removed.map_err(|errno| self.fail("remove subvolume", name, errno))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use rustix::fs::OFlags;

    use super::*;
    use crate::fsx::resolve::{Scope, open, open_by_component};

    fn call(program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn subvolumes() {
        let temp = tempfile::tempdir().expect("a temp directory");
        let path = |name: &str| temp.path().join(name).to_str().expect("text").to_owned();
        std::fs::File::create(path("image")).expect("a file").set_len(256 << 20).expect("a length");
        std::fs::create_dir(path("at")).expect("a directory");
        call("mkfs.btrfs", &["-q", &path("image")]);
        call("mount", &["-o", "loop", &path("image"), &path("at")]);
        let checked = std::panic::catch_unwind(|| check(&Dir::open_root(path("at").as_ref()).expect("opens")));
        call("umount", &[&path("at")]);
        checked.expect("all is as it should be");
        let plain = Dir::open_root(temp.path()).expect("opens");
        assert!(!plain.is_btrfs() && !plain.is_subvolume().expect("is looked at"));
        assert!(plain.make_subvolume("sub").is_err());
    }

    fn check(root: &Dir) {
        assert!(root.is_btrfs());
        let base = root.make_subvolume("base").expect("is made");
        base.make_file("file", 0o644).expect("a file").write_all(b"x").expect("written");
        base.make_dir("dir", 0o755).expect("a directory");
        assert!(base.is_subvolume().expect("is looked at"));
        assert!(!base.dir("dir").expect("opens").is_subvolume().expect("is looked at"));
        assert!(root.make_subvolume("base").is_err());
        assert!(root.make_snapshot(&base.dir("dir").expect("opens"), "none").is_err());

        let above = root.make_snapshot(&base, "above").expect("is made");
        let number = |name: &str| root.subvolume(name).expect("is looked at");
        assert!(number("base").is_some() && number("above").is_some() && number("base") != number("above"));
        assert_eq!(base.subvolume("dir").expect("is looked at"), None);
        assert_eq!(base.subvolume("file").expect("is looked at"), None);
        assert_eq!(above.subvolume(".").expect("is looked at"), number("above"));
        // A subvolume and a directory take each other's place, and each stays what it is.
        let was = number("above");
        root.make_dir("plain", 0o700).expect("a directory");
        root.exchange("above", root, "plain").expect("exchanged");
        assert_eq!((number("above"), number("plain")), (None, was));
        root.exchange("above", root, "plain").expect("exchanged");
        root.remove_dir("plain").expect("is removed");
        above.make_file("more", 0o644).expect("a file");
        assert_eq!(base.find("more").expect("is looked for"), None);
        assert_eq!(above.read("file", 9).expect("is read"), b"x");
        // Both ways of resolving go into a subvolume, which has a device number of its own.
        for way in [open, open_by_component] {
            let opened = way(root.fd(), b"above/more", OFlags::RDONLY | OFlags::CLOEXEC, Scope::Beneath);
            assert!(opened.is_ok(), "{opened:?}");
        }
        // A copy of a directory shares the blocks of its files: only what is written later takes room.
        let plain = root.make_dir("plain", 0o750).expect("a directory");
        plain.make_file("big", 0o644).expect("a file").write_all(&vec![7; 32 << 20]).expect("written");
        let copy = root.make_subvolume("copy").expect("is made");
        root.sync_file_system().expect("synced");
        let free = root.free().expect("is told");
        assert!(plain.copy_exactly(&copy).expect("is copied"));
        root.sync_file_system().expect("synced");
        assert!(root.free().expect("is told") + (8 << 20) > free);
        assert_eq!(plain.difference(&copy, true).expect("are compared"), None);
        root.remove_tree("copy").expect("is removed");
        root.remove_tree("plain").expect("is removed");
        // One in another, and below a directory, go with it; names that lead elsewhere name nothing.
        above.make_subvolume("nested").expect("is made").make_file("x", 0o600).expect("a file");
        above.dir("dir").expect("opens").make_subvolume("deep").expect("is made");
        assert!(root.remove_subvolume(b"above/nested").is_err() && root.remove_subvolume(b"..").is_err());
        root.remove_tree("above").expect("is removed");
        root.remove_tree("base").expect("is removed");
        assert_eq!(root.entries().expect("lists"), []);
    }
}
