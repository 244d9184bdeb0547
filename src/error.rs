//! Errors: each names the act, the object and the cause, once.
//!
//! An error means that something could not be done. Something wrong that was *found* in a store is a
//! [`Finding`](crate::finding::Finding). What to do next is said by the command line alone.

use std::io;
use std::path::{Path, PathBuf};

/// Something that is no regular file is in the place of one.
#[derive(Debug, thiserror::Error)]
#[error("not a regular file")]
pub(crate) struct NotRegular;

/// A file system call that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} {}: {source}", path.display())]
pub struct FsError {
    /// What was tried, as a verb in the infinitive ("open", "rename").
    pub act: &'static str,
    /// On what, as a path a person can find again.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl FsError {
    /// Names the act and the object of a failed call.
    pub fn new(act: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self { act, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// Tells whether the object lies on another mount, which is not entered.
    #[must_use]
    pub fn is_other_mount(&self) -> bool {
        self.source.kind() == io::ErrorKind::CrossesDevices
    }

    /// Tells whether the process has no file descriptor or no memory left. That says nothing of the object.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        use rustix::io::Errno;
        let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
        self.source.raw_os_error().is_some_and(|code| shortages.contains(&code))
    }

    /// Tells whether there is no room for it: no block, no inode, or no more of a quota.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Tells whether a symbolic link is in the place of the object, which is not followed.
    #[must_use]
    pub fn is_link(&self) -> bool {
        self.source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
    }

    /// Tells whether the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Makes `None` of what does not exist.
    ///
    /// # Errors
    /// All others.
    pub fn found<T>(result: std::result::Result<T, Self>) -> std::result::Result<Option<T>, Self> {
        match result {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes `None` of what does not exist, and of what has something else in its place, or on the way to it: a file
    /// where a directory should be, a directory where a file should be, or a symbolic link.
    ///
    /// # Errors
    /// All others.
    pub(crate) fn in_place<T>(result: std::result::Result<T, Self>) -> std::result::Result<Option<T>, Self> {
        match Self::found(result) {
            // ENOTDIR, ELOOP
            Err(error) if matches!(error.source.raw_os_error(), Some(20 | 40)) => Ok(None),
            Err(error) if error.source.get_ref().is_some_and(|inner| inner.is::<NotRegular>()) => Ok(None),
            found => found,
        }
    }
}

/// Bytes that are not of the form they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct ParseError {
    /// The form that was expected.
    pub expected: String,
    /// The beginning of what was found, escaped.
    pub found: String,
}

impl ParseError {
    /// Says what was expected and shows the first 80 bytes of what was found.
    pub fn new(expected: impl Into<String>, found: &[u8]) -> Self {
        let shown = &found[..found.len().min(80)];
        let dots = if shown.len() < found.len() { "…" } else { "" };
        let found = if found.is_empty() { "nothing".to_owned() } else { format!("\"{}\"{dots}", shown.escape_ascii()) };
        Self { expected: expected.into(), found }
    }

    /// Says what was expected and how a parser explains that it is not there.
    pub fn because(expected: impl Into<String>, reason: impl ToString) -> Self {
        Self { expected: expected.into(), found: reason.to_string() }
    }
}

/// Where the result of an operation goes wrong.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything an operation of this library can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A file of the store is not of its form.
    #[error("cannot read {}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Something cannot be read that must be known before anything is changed.
    #[error("cannot change a store in which {} cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// A file or directory of the store is lost, and without it everything would look like garbage.
    #[error("cannot tell what is garbage without {}: {reason}", path.display())]
    Lost {
        /// The file or directory.
        path: PathBuf,
        /// How it is known to be lost.
        reason: String,
    },
    /// The disk is so full that nothing can be moved to the trash.
    #[error("no room for the trash of {}: {source}", root.display())]
    TrashFull {
        /// The data root.
        root: PathBuf,
        /// What could not be written.
        source: FsError,
    },
    /// The disk is too full for the layers of an archive.
    #[error("{source}")]
    NoRoom {
        /// The data root.
        root: PathBuf,
        /// Bytes of the layers that were to be made.
        needs: u64,
        /// Bytes that are free without them.
        free: u64,
        /// Files and directories that can be made without them, where the file system has a limit.
        free_inodes: Option<u64>,
        /// What could not be written.
        source: FsError,
    },
    /// There is no Docker store at the root.
    #[error("no Docker store at {}", root.display())]
    NoStore {
        /// The data root that was looked at.
        root: PathBuf,
    },
    /// Images of this root are in the containerd image store, which has another format.
    #[error("the images of {} are in the containerd image store", root.display())]
    ContainerdStore {
        /// The data root that was looked at.
        root: PathBuf,
    },
    /// Docker may use containerd's image store in this root, and then sees nothing of a graph driver's.
    #[error("containerd's image store is in {} too ({has}): while Docker uses that, it sees nothing of {driver}", root.display())]
    StoreOfTwo {
        /// The data root.
        root: PathBuf,
        /// The graph driver whose store was opened.
        driver: String,
        /// What containerd's store has.
        has: String,
    },
    /// More than one graph driver has a store here and none was chosen.
    #[error("{} holds stores of several graph drivers: {}", root.display(), drivers.join(", "))]
    SeveralDrivers {
        /// The data root that was looked at.
        root: PathBuf,
        /// Names of the drivers.
        drivers: Vec<String>,
    },
    /// The daemon of this root maps user namespaces: each mapping has a data root of its own below.
    #[error("{} holds no images itself; its data roots for user namespaces are {}", root.display(), below.join(", "))]
    RemappedRoot {
        /// The data root that was looked at.
        root: PathBuf,
        /// Names of the directories below it that are data roots (`100000.100000`).
        below: Vec<String>,
    },
    /// The store is of a daemon without root, and the ids of its user are not known.
    #[error("cannot tell which ids user {uid}, whose store {} is, gives its containers", root.display())]
    UnknownIds {
        /// The data root.
        root: PathBuf,
        /// The user.
        uid: u32,
    },
    /// The graph driver is known but cannot be worked on.
    #[error("cannot work on graph driver {driver}")]
    UnsupportedDriver {
        /// Name of the driver.
        driver: String,
    },
    /// The graph driver's layers are read, and not written.
    #[error("cannot load into a store of graph driver {driver}")]
    ReadOnlyDriver {
        /// Name of the driver.
        driver: String,
    },
    /// A part of the store looks like the place of a disk that is not mounted.
    #[error("cannot load into {}: {reason}, as where a disk is not mounted", path.display())]
    NotMounted {
        /// The part.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },
    /// A layer has what the graph driver of the target cannot keep.
    #[error("graph driver {driver} cannot hold layer {chain}: {reason}")]
    Unholdable {
        /// Name of the driver.
        driver: String,
        /// The layer's chain ID.
        chain: String,
        /// What it has.
        reason: String,
        /// Images of the archive that need the layer, as references or IDs.
        used_by: Vec<String>,
    },
    /// An image of an archive has more layers than Docker takes.
    #[error("image {image} has {layers} layers; Docker takes {most}")]
    TooManyLayers {
        /// Its first reference, or its short ID.
        image: String,
        /// How many it has.
        layers: usize,
        /// How many there may be.
        most: usize,
    },
    /// No image answers to this reference.
    #[error("no image {wanted}")]
    NoSuchImage {
        /// What was asked for.
        wanted: String,
        /// References that are spelled much like it, nearest first.
        near: Vec<String>,
    },
    /// A prefix names several images.
    #[error("{wanted} names {} images: {}", images.len(), images.join(", "))]
    AmbiguousPrefix {
        /// What was asked for.
        wanted: String,
        /// Their IDs, short.
        images: Vec<String>,
    },
    /// Nothing in the store answers to this word.
    #[error("nothing in the store is called {wanted}")]
    NoSuchThing {
        /// What was asked for.
        wanted: String,
        /// References that are spelled much like it, nearest first.
        near: Vec<String>,
    },
    /// A word may mean several things in the store.
    #[error("{wanted} may mean {}", things.join(", or "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// Kind and identity of each.
        things: Vec<String>,
    },
    /// A layer cannot be assembled to the bytes its diff ID names.
    #[error("cannot prove layer {chain}: {reason}")]
    Layer {
        /// The layer's chain ID.
        chain: String,
        /// What is wrong, with the file in the layer where it is known.
        reason: String,
        /// Images that use the layer, as references or IDs.
        used_by: Vec<String>,
    },
    /// A daemon, or another dockpack, works on the store.
    #[error("the store at {} is in use{}", root.display(), holder.as_deref().map(|h| format!(" by {h}")).unwrap_or_default())]
    InUse {
        /// The data root.
        root: PathBuf,
        /// The process that holds the lock, as "name (pid N)", where the kernel tells.
        holder: Option<String>,
    },
    /// A container that runs on without its daemon has a layer mounted that would be replaced.
    #[error("cannot replace layer {chain}: its directory {} is {how}", path.display())]
    LayerInUse {
        /// The layer's chain ID.
        chain: String,
        /// The directory.
        path: PathBuf,
        /// How it is used, as what follows "it is".
        how: String,
    },
    /// A store gives layers that cannot be what they should be.
    #[error("cannot take layers from the store at {}: {reason}", root.display())]
    Source {
        /// The data root.
        root: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
    /// An archive is cut, changed, hostile, or not an archive.
    #[error("cannot read archive {name}: {reason}")]
    Archive {
        /// The archive's file name, or "standard input".
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An archive that another tool wrote.
    #[error("cannot read archive {name}: it is a tar, but not one that dockpack wrote (it has {found} here)")]
    ForeignArchive {
        /// The archive's file name, or "standard input".
        name: String,
        /// The member by which it is told.
        found: String,
    },
    /// An archive of a newer format.
    #[error("archive {name} is of format {found}; this dockpack reads up to {known}")]
    NewerArchive {
        /// The archive's file name.
        name: String,
        /// Its format number.
        found: u64,
        /// The newest format known.
        known: u64,
    },
    /// The output of a command could not be written.
    #[error("cannot write {name}: {source}")]
    Output {
        /// The output's file name, or "standard output".
        name: String,
        /// Why.
        source: io::Error,
    },
    /// All is staged, proved and durable, but publishing it failed; the next run finishes it.
    #[error("the images are proved but not yet all in their place: {0}")]
    Unfinished(#[source] Box<Error>),
    /// The observer wanted the operation to stop.
    #[error("stopped")]
    Stopped,

    /// The observer wanted a removal to stop, and some of it is done.
    #[error("stopped")]
    StoppedRemoval {
        /// Name of the transaction in the trash.
        transaction: String,
        /// Whether it can still be undone: nothing was deleted yet.
        kept: bool,
    },
    /// A request that makes no sense, found after the arguments were parsed.
    #[error("{0}")]
    Usage(String),
}
