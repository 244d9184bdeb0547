//! Opening a path beneath a directory.
//!
//! `openat2` does it in the kernel since Linux 5.6. Before that, and where a seccomp filter forbids the
//! call, each component is opened by itself without following links.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::btrfs::{ROOT_INODE, is_btrfs};
use super::calls;
use super::place::mount_of;

/// What a path may pass on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// No symbolic link, no other mount.
    Beneath,
    /// No symbolic link; other mounts are entered.
    AcrossMounts,
    /// Symbolic links are followed as if the directory were `/`; no other mount.
    InRoot,
    /// As `InRoot`, and other mounts are entered.
    InRootAcrossMounts,
}

impl Scope {
    fn flags(self) -> ResolveFlags {
        match self {
            Self::Beneath => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
            Self::AcrossMounts => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            Self::InRoot => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
            Self::InRootAcrossMounts => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        }
    }
}

pub(super) fn open(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags, scope: Scope) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    if has_openat2() {
        // The kernel answers EAGAIN when something was renamed meanwhile: the path is tried again.
        loop {
            match calls::openat2(dir, path, flags, Mode::empty(), scope.flags()) {
                Err(Errno::AGAIN) => {}
                opened => return opened,
            }
        }
    }
    open_by_component(dir, path, flags, scope)
}

fn has_openat2() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        calls::openat2(rustix::fs::CWD, ".", OFlags::PATH, Mode::empty(), ResolveFlags::empty()).is_ok()
    })
}

pub(super) fn open_by_component(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    scope: Scope,
) -> rustix::io::Result<OwnedFd> {
    if matches!(scope, Scope::InRoot | Scope::InRootAcrossMounts) {
        return Err(Errno::NOSYS);
    }
    if path.first() == Some(&b'/') {
        return Err(Errno::XDEV);
    }
    let mut device = calls::fstat(dir)?.st_dev;
    let components: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    let Some((last, parents)) = components.split_last() else {
        return calls::openat(dir, ".", flags, Mode::empty());
    };
    let mut here: Option<OwnedFd> = None;
    let mut step = |at: &Option<OwnedFd>, name: &[u8], flags: OFlags| {
        if name == b".." {
            return Err(Errno::XDEV);
        }
        let at = at.as_ref().map_or(dir, AsFd::as_fd);
        // Looked at before it is opened: opening a device or a FIFO can act on it.
        let found = calls::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if scope == Scope::Beneath && found.st_dev != device && !may_be_subvolume(&found) {
            return Err(Errno::XDEV);
        }
        let opened = calls::openat(at, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = calls::fstat(&opened)?;
        if scope == Scope::Beneath && stat.st_dev != device {
            if !may_be_subvolume(&stat)
                || !is_btrfs(&opened)
                || mount_of(&opened).map_or(true, |mount| mount_of(dir).map_or(true, |own| own != mount))
            {
                return Err(Errno::XDEV);
            }
            // A subvolume has a device number of its own on the same mount.
            device = stat.st_dev;
        }
        // With O_PATH, O_NOFOLLOW opens the link itself.
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink() {
            return Err(Errno::LOOP);
        }
        Ok(opened)
    };
    for name in parents {
        here = Some(step(&here, name, OFlags::PATH | OFlags::DIRECTORY)?);
    }
    step(&here, last, flags)
}

/// Tells whether this may be the root of a subvolume of btrfs.
fn may_be_subvolume(stat: &rustix::fs::Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() && stat.st_ino == ROOT_INODE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways of resolving give the same answers.
    #[test]
    fn links_and_dots_are_refused_in_both_ways() {
        let temp = tempfile::tempdir().expect("a temp directory");
        let at = |name: &str| temp.path().join(name);
        std::fs::create_dir_all(at("a/b")).expect("directories");
        std::fs::write(at("a/b/file"), "x").expect("a file");
        std::os::unix::fs::symlink("a", at("link")).expect("a link");
        std::os::unix::fs::symlink("/etc", at("a/out")).expect("a link");
        let root = rustix::fs::open(temp.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("opens");
        for (path, good) in [
            ("a/b/file", true),
            ("a/./b//file", true),
            ("link/b/file", false),
            ("a/out/passwd", false),
            ("../etc", false),
            ("a/../../etc", false),
            ("/etc/passwd", false),
            ("missing", false),
        ] {
            for way in [open, open_by_component] {
                let opened = way(root.as_fd(), path.as_bytes(), OFlags::RDONLY | OFlags::CLOEXEC, Scope::Beneath);
                assert_eq!(opened.is_ok(), good, "{path}: {opened:?}");
            }
        }
    }

    #[test]
    fn another_mount_is_not_entered() {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("opens");
        for way in [open, open_by_component] {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            assert_eq!(way(root.as_fd(), b"proc/self", flags, Scope::Beneath).err(), Some(Errno::XDEV));
            assert!(way(root.as_fd(), b"proc/version", flags, Scope::AcrossMounts).is_ok());
        }
    }
}
