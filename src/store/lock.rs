//! The lock that keeps dockerd and dockpack apart.
//!
//! dockerd trusts its memory: it reads its files when it starts and later writes them whole. So nothing is
//! changed while it lives. It holds an exclusive `flock` on `volumes/metadata.db` for its whole life (store-format
//! 9.6; 17.03 to 29), which cannot be fooled by pid files or pid name spaces. dockpack takes the same lock, and
//! a dockerd that starts meanwhile gives up after about a second and says why.

use std::fs::TryLockError;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::crash::is_hurried;
use crate::error::{Error, FsError, Result};
use crate::fsx::{Dir, File, Kind};

use super::Store;

/// The file, below the data root.
const LOCK: &str = "volumes/metadata.db";

/// Databases that a daemon which is shutting down may still hold after it let go of [`LOCK`]. They are only
/// looked at: a daemon that waits for one of them hangs, and then goes on with what it read before.
const OTHERS: [&str; 8] = [
    "network/files/local-kv.db",
    "buildkit/cache.db",
    "buildkit/snapshots.db",
    "buildkit/containerdmeta.db",
    "buildkit/metadata_v2.db",
    "buildkit/metadata.db",
    "buildkit/history.db",
    "containerd/daemon/io.containerd.metadata.v1.bolt/meta.db",
];

/// How long a waiting dockerd up to 23, which reads its layers before it tries the lock, may wait for it.
const GRACE: Duration = Duration::from_secs(2);

/// Holds the store for writing. Whatever changes a store takes a reference to it.
#[derive(Debug)]
#[must_use = "the store is only held while this lives"]
pub struct WriteLock {
    /// Its descriptor holds the lock; closing it lets go.
    file: File,
    root: Dir,
    /// What was made for the lock and is taken away again with [`WriteLock::abandon`].
    made: Vec<&'static str>,
}

impl WriteLock {
    /// Takes the lock of a store. A root that has never seen a daemon gets an empty lock file, of which dockerd
    /// makes its database.
    ///
    /// # Errors
    /// [`Error::InUse`] where a daemon, or another dockpack, has the store.
    pub fn take(store: &Store) -> Result<Self> {
        let root = store.root().clone();
        let made = make_lock_file(&root)?;
        let file = root.file_to_lock(LOCK)?;
        if let Err(error) = file.try_lock() {
            return Err(refused(store, &file, error));
        }
        for path in OTHERS {
            let other = match root.file_to_lock(path) {
                Err(error) if error.is_not_found() => continue,
                other => other?,
            };
            if let Err(error) = other.try_lock() {
                return Err(refused(store, &other, error));
            }
        }
        Ok(Self { file, root, made })
    }

    /// Tells whether something else holds the lock of a store: its name where the kernel tells, else no more than
    /// that. Makes nothing.
    #[must_use]
    pub fn holder(store: &Store) -> Option<String> {
        let file = store.root().file_to_lock(LOCK).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(holder(&file).unwrap_or_else(|| "another process".to_owned())),
            _ => None,
        }
    }

    /// Lets go after nothing was written. What was made for the lock is taken away.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn abandon(mut self) -> Result<()> {
        if self.made.is_empty() {
            return Ok(());
        }
        for path in std::mem::take(&mut self.made) {
            let (dir, name) = self.root.parent_of(path.as_bytes())?;
            match path {
                LOCK => dir.remove_file(name)?,
                _ => dir.remove_dir(name)?,
            }
        }
        // A dockerd that has opened the removed file meanwhile must not get its lock.
        self.release();
        Ok(())
    }

    /// Lets go after writing: waits as long as a dockerd that is starting may have read what was there before.
    pub fn release(self) {
        if !is_hurried() && daemon_may_wait() {
            std::thread::sleep(GRACE);
        }
        drop(self.file);
    }
}

fn make_lock_file(root: &Dir) -> Result<Vec<&'static str>, FsError> {
    let mut made = Vec::new();
    if root.find("volumes")?.is_none() {
        root.make_dir("volumes", 0o701)?;
        made.push("volumes");
    }
    let volumes = root.dir_across_mounts("volumes")?;
    if volumes.find("metadata.db")?.is_none() {
        match volumes.make_file("metadata.db", 0o600) {
            // dockerd was quicker.
            Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {}
            file => {
                file?;
                made.insert(0, LOCK);
            }
        }
    }
    Ok(made)
}

fn refused(store: &Store, file: &File, error: TryLockError) -> Error {
    let root: PathBuf = store.path().to_owned();
    match error {
        TryLockError::WouldBlock => Error::InUse { root, holder: holder(file) },
        TryLockError::Error(source) => FsError::new("lock", root.join(LOCK), source).into(),
    }
}

/// Finds the process that holds a lock on the file, as `/proc/locks` tells it to this pid name space.
fn holder(file: &File) -> Option<String> {
    let inode = file.metadata().ok()?.ino();
    let proc = Dir::open_root(std::path::Path::new("/proc")).ok()?;
    let locks = String::from_utf8(proc.read("locks", 16 << 20).ok()?).ok()?;
    let pid: u32 = locks.lines().filter(|line| line.contains("FLOCK")).find_map(|line| {
        let mut fields = line.split_whitespace().rev();
        let (_, _, place, pid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        place.ends_with(&format!(":{inode}")).then(|| pid.parse().ok())?
    })?;
    let name = proc.read(format!("{pid}/comm"), 64).ok()?;
    Some(format!("{} (pid {pid})", String::from_utf8_lossy(name.trim_ascii())))
}

/// Tells whether a dockerd may be starting: one is seen, or other pid name spaces may hide one.
fn daemon_may_wait() -> bool {
    /// Inode of the first pid name space (Linux `PROC_PID_INIT_INO`).
    const FIRST: &[u8] = b"pid:[4026531836]";
    let Ok(proc) = Dir::open_root(std::path::Path::new("/proc")) else { return true };
    let sees_all = proc
        .dir(format!("{}/ns", std::process::id()))
        .and_then(|ns| ns.read_link("pid"))
        .is_ok_and(|link| link == FIRST);
    let Ok(entries) = proc.entries() else { return true };
    let is_daemon = |name: &[u8]| {
        proc.read(format!("{}/comm", name.escape_ascii()), 64)
            .is_ok_and(|comm| comm.starts_with(b"docker") || comm.starts_with(b"balena"))
    };
    let mut processes = entries.iter().filter(|entry| entry.kind == Kind::Directory && entry.name[0].is_ascii_digit());
    !sees_all || processes.any(|entry| is_daemon(&entry.name))
}
