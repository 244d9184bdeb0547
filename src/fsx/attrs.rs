//! Attributes of a node: what a layer's tar says of it, and what an exact copy must have.

use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

/// Type of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A block device.
    Block,
    /// A character device; with number 0:0, overlayfs's whiteout.
    Char,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    pub(super) fn of(kind: FileType) -> Option<Self> {
        Some(match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::BlockDevice => Self::Block,
            FileType::CharacterDevice => Self::Char,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::Unknown => return None,
        })
    }
}

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(i64, u32)", into = "(i64, u32)")]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

impl From<(i64, u32)> for Time {
    fn from((seconds, nanos): (i64, u32)) -> Self {
        Self { seconds, nanos }
    }
}

impl From<Time> for (i64, u32) {
    fn from(time: Time) -> Self {
        (time.seconds, time.nanos)
    }
}

/// Returns the major and the minor number of a file system's number.
#[must_use]
pub fn numbers(device: u64) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}

/// Attributes that are set on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Permission bits with setuid, setgid and sticky (octal 7777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last access.
    pub atime: Time,
    /// Time of the last change of content.
    pub mtime: Time,
}

/// Full name of an extended attribute, with its name space (`security.capability`).
pub type XattrName = Vec<u8>;

/// What `lstat` tells of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attrs {
    /// Type of the node.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (octal 7777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Disk space in bytes.
    pub disk: u64,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Inode number.
    pub inode: u64,
    /// Number of the file system.
    pub file_system: u64,
    /// Number of names.
    pub links: u64,
}

impl Attrs {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            // A file type that the kernel does not name cannot be told from a socket: neither is ever opened.
            kind: Kind::of(FileType::from_raw_mode(stat.st_mode)).unwrap_or(Kind::Socket),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            disk: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
            mtime: Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
            device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            inode: stat.st_ino,
            file_system: stat.st_dev,
            #[allow(clippy::useless_conversion, reason = "32 bits on other machines")]
            links: u64::from(stat.st_nlink),
        }
    }

    /// Tells whether this is how overlayfs marks a name as removed.
    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::Char && self.device == (0, 0)
    }
}
