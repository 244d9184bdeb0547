//! The lock that keeps dockerd and dockpack apart.
//!
//! dockerd trusts its memory: it reads its files when it starts and later writes them whole. So nothing is
//! changed while it lives. It holds an exclusive `flock` on `volumes/metadata.db` for its whole life (store-format
//! 9.6; 17.03 to 29), which cannot be fooled by pid files or pid name spaces. dockpack takes the same lock, and
//! a dockerd that starts meanwhile gives up after about a second and says why.
//!
//! dockerd up to 23 reads its layers before it tries the lock. One that has begun before the lock was taken is looked for
//! among the processes, before anything is changed; one that begins later is waited for before the lock is let go.

use std::fs::TryLockError;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::crash::is_hurried;
use crate::error::{Error, FsError, Result};
use crate::fsx::{Dir, File, Inode};

use super::Store;
use super::daemon::{self, Daemon};
use super::processes::Processes;

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
/// How long a dockerd that is seen to be starting may take until it tries the lock and gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the lock file may lose its name before it is locked.
const TURNS: usize = 100;

/// Holds the store for writing. Whatever changes a store takes a reference to it.
#[derive(Debug)]
#[must_use = "the store is only held while this lives"]
pub struct WriteLock {
    /// Its descriptor holds the lock; closing it lets go.
    file: File,
    store: Store,
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
        let (file, made) = lock(store)?;
        for path in OTHERS {
            let other = match store.root().file_to_lock(path) {
                Err(error) if error.is_not_found() => continue,
                other => other?,
            };
            if let Err(error) = other.try_lock() {
                return Err(refused(store, path, error));
            }
        }
        // What was made stays: the daemon may have opened it.
        match Daemon::all(store)?.first() {
            None => Ok(Self { file, store: store.clone(), made }),
            Some(daemon) => Err(Error::InUse { root: store.path().to_owned(), holder: Some(daemon.to_string()) }),
        }
    }

    /// Tells what works on a store: what holds its lock, or a daemon that does not hold it yet. `None` where that is not
    /// to be seen from here, too. Takes no lock and opens nothing.
    #[must_use]
    pub fn holder(store: &Store) -> Option<String> {
        holder(store, LOCK).or_else(|| Some(Daemon::all(store).ok()?.first()?.to_string()))
    }

    /// Lets go after nothing was written. What was made for the lock is taken away.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn abandon(mut self) -> Result<()> {
        let made = std::mem::take(&mut self.made);
        if made.is_empty() || !is_named(&self.store, &self.file)? {
            return Ok(());
        }
        for path in made {
            let (dir, name) = self.store.root().parent_of(path.as_bytes())?;
            let removed = if path == LOCK { dir.remove_file(name) } else { dir.remove_dir(name) };
            match removed {
                // Another made a lock file in it meanwhile.
                Err(error) if error.source.kind() == ErrorKind::DirectoryNotEmpty => {}
                removed => removed?,
            }
        }
        // A dockerd that has opened the removed file meanwhile must not get its lock.
        self.release();
        Ok(())
    }

    /// Lets go after writing: waits as long as a dockerd that is starting may have read what was there before.
    pub fn release(self) {
        if !is_hurried() && daemon::may_be_there() {
            let begun = Instant::now();
            let starting = Daemon::all(&self.store).unwrap_or_default();
            std::thread::sleep(GRACE);
            while starting.iter().any(Daemon::is_there) && begun.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        drop(self.file);
    }
}

/// Locks the file, and makes it where it is not there. Returns what was made.
fn lock(store: &Store) -> Result<(File, Vec<&'static str>)> {
    let mut made = Vec::new();
    for _ in 0..TURNS {
        make_lock_file(store.root(), &mut made)?;
        let file = match store.root().file_to_lock(LOCK) {
            Err(error) if error.is_not_found() => continue,
            file => file?,
        };
        let locked = file.try_lock();
        // Who made it may take it away again, and then another lock file has the name, or none.
        match (is_named(store, &file)?, locked) {
            (false, _) => {}
            (true, Ok(())) => return Ok((file, made)),
            (true, Err(error)) => return Err(refused(store, LOCK, error)),
        }
    }
    Err(Error::InUse { root: store.path().to_owned(), holder: None })
}

/// Tells whether the lock file still has its name.
fn is_named(store: &Store, file: &File) -> Result<bool> {
    let path = store.root().shown(LOCK);
    let own = file.metadata().map_err(|error| FsError::new("stat", path, error))?;
    Ok(named(store, LOCK)?.is_some_and(|(_, found)| found == (own.dev(), own.ino())))
}

/// Looks what has the name of a lock file: the directory it is in, and its device and inode.
fn named(store: &Store, path: &str) -> Result<Option<(Dir, Inode)>, FsError> {
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let Some(dir) = FsError::found(store.root().dir_across_mounts(parent))? else { return Ok(None) };
    Ok(dir.find(name)?.map(|found| (dir, (found.file_system, found.inode))))
}

/// Makes the lock file, and notes what it made. It may not be there afterwards: who made it, or its directory, may take
/// that away again.
fn make_lock_file(root: &Dir, made: &mut Vec<&'static str>) -> Result<(), FsError> {
    // Where another was quicker, it is not this one's.
    let is_made = |made: Result<(), FsError>| match made {
        Err(error) if error.source.kind() == ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true),
    };
    if root.find("volumes")?.is_none() && is_made(root.make_dir("volumes", 0o701).map(drop))? {
        made.push("volumes");
    }
    let volumes = match root.dir_across_mounts("volumes") {
        Err(error) if error.is_not_found() => return Ok(()),
        volumes => volumes?,
    };
    let absent = volumes.find("metadata.db")?.is_none();
    if absent && FsError::found(is_made(volumes.make_file("metadata.db", 0o600).map(drop)))? == Some(true) {
        made.insert(0, LOCK);
    }
    Ok(())
}

fn refused(store: &Store, path: &str, error: TryLockError) -> Error {
    let root: PathBuf = store.path().to_owned();
    match error {
        TryLockError::WouldBlock => Error::InUse { root, holder: holder(store, path) },
        TryLockError::Error(source) => FsError::new("lock", root.join(path), source).into(),
    }
}

/// Finds the process that holds a lock on a file of the store, as `/proc/locks` tells it to this pid name space.
fn holder(store: &Store, path: &str) -> Option<String> {
    let (dir, (device, inode)) = named(store, path).ok()??;
    let processes = Processes::open().ok()?;
    // A lock is told of by the device of its file system, which is not that of a subvolume of btrfs.
    let mount = dir.place().ok()?.mount;
    let mounts = processes.own.mounts().ok()??;
    let whole = mounts.into_iter().find(|found| found.id == mount).map(|found| found.device)?;
    let (major, minor) = whole.split_once(':')?;
    let devices = [(major.parse().ok()?, minor.parse().ok()?), crate::fsx::numbers(device)];
    let pid = locked_by(&processes.locks().ok()?, &devices, inode)?;
    let process = processes.all().ok()?.into_iter().find(|process| process.pid == pid)?;
    Some(format!("{} (pid {pid})", process.name()))
}

/// Finds who holds a lock in the text of `/proc/locks`.
fn locked_by(locks: &str, devices: &[(u32, u32)], inode: u64) -> Option<u32> {
    locks.lines().filter(|line| line.contains("FLOCK") && !line.contains("->")).find_map(|line| {
        let mut fields = line.split_whitespace().rev();
        let (_, _, place, pid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let mut place = place.split(':');
        let mut number = |radix| u64::from_str_radix(place.next()?, radix).ok();
        let (major, minor, found) = (number(16)?, number(16)?, number(10)?);
        let is_it = found == inode && devices.iter().any(|(a, b)| (u64::from(*a), u64::from(*b)) == (major, minor));
        is_it.then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_lock() {
        const LOCKS: &str = "\
1: OFDLCK ADVISORY  READ -1 00:06:3 0 EOF
2: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF
3: FLOCK  ADVISORY  WRITE 12 08:00:77 0 EOF
4: FLOCK  ADVISORY  WRITE 13 fe:00:177 0 EOF
5: FLOCK  ADVISORY  WRITE 14 fe:00:77 0 EOF
5: -> FLOCK  ADVISORY  WRITE 15 fe:00:77 0 EOF
";
        assert_eq!(locked_by(LOCKS, &[(254, 0)], 77), Some(14));
        assert_eq!(locked_by(LOCKS, &[(0, 44), (8, 0)], 77), Some(12));
        assert_eq!(locked_by(LOCKS, &[(0, 6)], 3), None);
    }

    fn fresh() -> (tempfile::TempDir, Store) {
        let temp = tempfile::tempdir().expect("a temp directory");
        let store = Store::open_fresh(temp.path(), "overlay2").expect("opens");
        (temp, store)
    }

    /// Locks that lose their name: what is locked is what others find.
    #[test]
    fn a_lock_file_that_is_taken_away() {
        let (_temp, store) = fresh();
        let (old, made) = lock(&store).expect("locks");
        assert_eq!(made, [LOCK, "volumes"]);
        // Another has opened the file, and locks it when it has no name any more.
        let late = store.root().file_to_lock(LOCK).expect("opens");
        assert!(is_named(&store, &late).expect("is told"));
        let first = WriteLock { file: old, store: store.clone(), made };
        first.abandon().expect("is taken away");
        late.try_lock().expect("locks what nobody finds");
        assert!(!is_named(&store, &late).expect("is told"));
        let second = WriteLock::take(&store).expect("locks the new file");
        assert!(is_named(&store, &second.file).expect("is told"));
        assert!(!is_named(&store, &late).expect("is told"));
        assert!(matches!(WriteLock::take(&store), Err(Error::InUse { .. })));
    }

    /// Many at once that come and go: never two of them at a time, and each is let in some time.
    #[test]
    fn many_that_give_up() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (_temp, store) = fresh();
        let inside = AtomicUsize::new(0);
        let come_and_go = || {
            for _ in 0..20 {
                let (file, made) = loop {
                    match lock(&store) {
                        Ok(taken) => break taken,
                        Err(Error::InUse { .. }) => std::thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                };
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                std::thread::yield_now();
                inside.fetch_sub(1, Ordering::SeqCst);
                // As `abandon`, without the time for a daemon.
                for path in made {
                    let (dir, name) = store.root().parent_of(path.as_bytes()).expect("opens");
                    let _ = if path == LOCK { dir.remove_file(name) } else { dir.remove_dir(name) };
                }
                drop(file);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(come_and_go);
            }
        });
    }
}
