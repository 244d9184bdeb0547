//! What the kernel calls an open directory now, and which birth a name has.

use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::attrs::Time;
use super::calls;
use super::dir::{Dir, Result, one_name};
use super::file::File;
use crate::error::FsError;

/// Where an open directory lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Number of the mount it is on, as the first field of `mountinfo`.
    pub mount: u64,
    /// Its path below the root directory of this process, without symbolic links; the one of now, after every rename.
    pub path: PathBuf,
}

impl Dir {
    /// Tells where the directory lies now.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn place(&self) -> Result<Place> {
        let number = self.fd().as_raw_fd();
        let shown = PathBuf::from(format!("/proc/self/fd/{number}"));
        let path = calls::readlinkat(CWD, &shown, Vec::new()).map_err(|errno| FsError::new("read link", &shown, errno));
        let path = PathBuf::from(String::from_utf8_lossy(path?.as_bytes()).into_owned());
        Ok(Place { mount: mount_of(self.fd())?, path })
    }

    /// Tells when what has a name was made, where the file system keeps that. Nothing changes it, and nothing else
    /// that gets the same inode later has it.
    ///
    /// # Errors
    /// Nothing of that name.
    pub fn born(&self, name: impl AsRef<[u8]>) -> Result<Option<Time>> {
        let name = one_name(name.as_ref());
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match calls::statx(self.fd(), name, flags, StatxFlags::BTIME) {
            Ok(stat) if stat.stx_mask & StatxFlags::BTIME.bits() != 0 => {
                Ok(Some(Time { seconds: stat.stx_btime.tv_sec, nanos: stat.stx_btime.tv_nsec }))
            }
            // Before Linux 4.11 nothing tells.
            Ok(_) | Err(Errno::NOSYS) => Ok(None),
            Err(errno) => Err(self.fail("stat", name, errno)),
        }
    }
}

/// Returns the number of the mount that a descriptor is on, as `/proc` tells it.
pub(super) fn mount_of(fd: impl AsFd) -> Result<u64> {
    let path = PathBuf::from(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()));
    let text = read(&path)?;
    mount_in(&text).ok_or_else(|| FsError::new("read", &path, std::io::Error::other("it names no mount")))
}

/// Finds the number of the mount in the text of a `/proc/<pid>/fdinfo/<number>`.
#[must_use]
pub fn mount_in(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    calls::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|fd| File::from(fd).read_to_string(&mut text))
        .map_err(|error| FsError::new("read", path, error))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_renamed() {
        let temp = tempfile::tempdir().expect("a temp directory");
        let root = Dir::open_root(temp.path()).expect("opens");
        let made = root.make_dir("one", 0o700).expect("a directory");
        let before = made.place().expect("is told");
        assert_eq!(before.path, std::fs::canonicalize(temp.path()).expect("is there").join("one"));
        let born = root.born("one").expect("is told");
        root.rename("one", &root, "other").expect("is renamed");
        let after = made.place().expect("is told");
        assert!(after.path.ends_with("other") && after.mount == before.mount, "{after:?}");
        assert_eq!(root.born("other").expect("is told"), born);
        assert!(root.born("none").is_err());
        let proc = Dir::open_root(Path::new("/proc")).expect("opens").place().expect("is told");
        assert!(proc.path == Path::new("/proc") && proc.mount != before.mount, "{proc:?}");
    }
}
