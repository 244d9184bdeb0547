//! Processes, as `/proc` shows them.
//!
//! A process may end while it is looked at: then there is nothing to be told of it. Whatever else cannot be read is an
//! error, not nothing.

use std::path::Path;

use super::mountinfo::{self, Mount};
use crate::error::FsError;
use crate::fsx::{Dir, Kind};

/// Longest file of `/proc` that is read: a `mountinfo` of some hundred thousand mounts.
const LIMIT: u64 = 64 << 20;

/// Inode of the first user name space (Linux `PROC_USER_INIT_INO`).
const FIRST_USER: &[u8] = b"user:[4026531837]";
/// Inode of the first pid name space (Linux `PROC_PID_INIT_INO`).
const FIRST_PID: &[u8] = b"pid:[4026531836]";

/// `/proc`, open.
#[derive(Debug)]
pub(super) struct Processes {
    proc: Dir,
    /// This process, under the number that it has there.
    pub(super) own: Process,
}

/// A process.
#[derive(Debug, Clone)]
pub(super) struct Process {
    /// Its number.
    pub(super) pid: u32,
    dir: Dir,
}

impl Processes {
    /// Opens `/proc`.
    pub(super) fn open() -> Result<Self, FsError> {
        let proc = Dir::open_root(Path::new("/proc"))?;
        let own = proc.read_link("self")?;
        let pid = std::str::from_utf8(&own).ok().and_then(|text| text.parse().ok()).unwrap_or_else(std::process::id);
        let own = Process { pid, dir: proc.dir(pid.to_string())? };
        Ok(Self { proc, own })
    }

    /// Lists all that there are.
    pub(super) fn all(&self) -> Result<Vec<Process>, FsError> {
        let numbers = self.proc.entries()?.into_iter().filter(|entry| entry.kind == Kind::Directory);
        let pids = numbers.filter_map(|entry| std::str::from_utf8(&entry.name).ok()?.parse::<u32>().ok());
        let opened = pids.map(|pid| Ok(alive(self.proc.dir(pid.to_string()))?.map(|dir| Process { pid, dir })));
        opened.filter_map(Result::transpose).collect()
    }

    /// Reads the locks that this pid name space may know of.
    pub(super) fn locks(&self) -> Result<String, FsError> {
        Ok(String::from_utf8_lossy(&self.proc.read("locks", LIMIT)?).into_owned())
    }

    /// Tells whether all processes of the machine can be seen here.
    pub(super) fn are_all(&self) -> bool {
        self.own.namespace("pid").is_ok_and(|found| found.is_some_and(|link| link == FIRST_PID))
    }

    /// Tells whether a process that may not be looked at cannot use what is this user's: it is another user's, and this
    /// one is not root. (The containers of a user may be looked at: they are in a user name space of that user.)
    pub(super) fn is_foreign(&self, process: &Process) -> bool {
        let owner = |process: &Process| process.dir.attrs(".").map(|attrs| attrs.uid).ok();
        let is_root = rustix::process::geteuid().is_root()
            && self.own.namespace("user").is_ok_and(|found| found.is_some_and(|link| link == FIRST_USER));
        !is_root && owner(process) != owner(&self.own)
    }
}

impl Process {
    /// Returns its name; empty where it has ended.
    pub(super) fn name(&self) -> String {
        let name = self.dir.read("comm", 64).unwrap_or_default();
        String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
    }

    /// Returns its arguments.
    pub(super) fn arguments(&self) -> Result<Vec<String>, FsError> {
        self.list("cmdline")
    }

    /// Returns its environment, as `NAME=VALUE`.
    pub(super) fn environment(&self) -> Result<Vec<String>, FsError> {
        self.list("environ")
    }

    fn list(&self, file: &str) -> Result<Vec<String>, FsError> {
        let text = alive(self.dir.read(file, LIMIT))?.unwrap_or_default();
        let parts = text.strip_suffix(b"\0").unwrap_or(&text).split(|byte| *byte == 0);
        Ok(parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect())
    }

    /// Tells whether it belongs to root.
    pub(super) fn is_root(&self) -> bool {
        self.dir.attrs(".").is_ok_and(|attrs| attrs.uid == 0)
    }

    /// Tells whether it still does anything: one that has ended stays, until its parent has asked for it.
    pub(super) fn is_there(&self) -> bool {
        !matches!(self.namespace("mnt"), Ok(None))
    }

    /// Returns what tells its name space of a kind from others; `None` where it has none any more.
    pub(super) fn namespace(&self, kind: &str) -> Result<Option<Vec<u8>>, FsError> {
        alive(self.dir.dir("ns").and_then(|ns| ns.read_link(kind)))
    }

    /// Returns the path of its `cwd` or `root`; `None` where it has ended.
    pub(super) fn path(&self, link: &str) -> Result<Option<String>, FsError> {
        let path = alive(self.dir.read_link(link))?;
        Ok(path.map(|path| without_mark(String::from_utf8_lossy(&path).into_owned())))
    }

    /// Returns the number and the path of each file that it has open.
    pub(super) fn files(&self) -> Result<Vec<(String, String)>, FsError> {
        let Some(dir) = alive(self.dir.dir("fd"))? else { return Ok(Vec::new()) };
        let mut files = Vec::new();
        for entry in alive(dir.entries())?.unwrap_or_default() {
            let Some(path) = alive(dir.read_link(&entry.name))? else { continue };
            let number = String::from_utf8_lossy(&entry.name).into_owned();
            files.push((number, without_mark(String::from_utf8_lossy(&path).into_owned())));
        }
        Ok(files)
    }

    /// Returns the number of the mount that an open file of it is on.
    pub(super) fn mount_of(&self, number: &str) -> Result<Option<u64>, FsError> {
        let text = alive(self.dir.read(format!("fdinfo/{number}"), LIMIT))?.unwrap_or_default();
        Ok(crate::fsx::mount_in(&String::from_utf8_lossy(&text)))
    }

    /// Returns what it sees mounted; `None` where it has ended.
    pub(super) fn mounts(&self) -> Result<Option<Vec<Mount>>, FsError> {
        let text = match self.dir.read("mountinfo", LIMIT) {
            // So it is with one that has ended and that its parent has not asked for yet.
            Err(error) if error.source.raw_os_error() == Some(EINVAL) => return Ok(None),
            text => alive(text)?,
        };
        Ok(text.map(|text| mountinfo::parse(&text)))
    }

    /// Opens its root directory.
    pub(super) fn root(&self) -> Result<Dir, FsError> {
        Dir::open_root(Path::new(&format!("/proc/{}/root", self.pid)))
    }
}

const EINVAL: i32 = 22;
const ESRCH: i32 = 3;

/// Makes `None` of what a process that has ended has not any more.
fn alive<T>(result: Result<T, FsError>) -> Result<Option<T>, FsError> {
    match result {
        Err(error) if error.source.raw_os_error() == Some(ESRCH) => Ok(None),
        result => FsError::found(result),
    }
}

/// Takes off what the kernel puts behind the path of something that has no name any more.
fn without_mark(path: String) -> String {
    path.strip_suffix(" (deleted)").map_or(path.clone(), str::to_owned)
}
