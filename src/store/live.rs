//! What of a store the kernel uses: containers may run on without dockerd (live-restore, or after it crashed).
//!
//! | what | tells of |
//! |---|---|
//! | root of a mount within its file system (`mountinfo`) | trees that are mounted as they are: `vfs`, `btrfs`, bind mounts |
//! | mount point | the directory that an overlay is mounted at, `shm` of a container |
//! | options of an overlay | the directories that it is made of, as whoever mounted it wrote them |
//! | `root` and `cwd` of a process | what it works in |
//! | open files of `fuse-overlayfs` | the directories that it is made of: its mount has no options |
//! | `lower` of a directory that is in use | those below it |
//!
//! dockerd and each container may have a mount name space of their own, so those of all processes are read. Whatever path
//! is found is compared by file system, see [`Names`]. What is written in options follows no rename: an overlay may hold
//! what has moved to the trash, so whoever deletes there asks for the place where it was too.
//!
//! Better one directory too many than one too few: where anything cannot be read, everything is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use super::Store;
use super::mountinfo::Mount;
use super::names::Names;
use super::processes::{Process, Processes};
use crate::driver::Stacking;
use crate::error::FsError;
use crate::fsx::{Dir, Kind};

/// Longest `lower`, `link` or list of layers that is read.
const LIMIT: u64 = 1 << 20;

/// Paths below a data root that the kernel uses now, with how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    paths: BTreeMap<String, String>,
    /// Why it cannot be told what is in use.
    unknown: Option<String>,
}

impl InUse {
    /// Takes paths relative to the data root, each with how it is used.
    pub fn new(paths: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { paths: paths.into_iter().collect(), unknown: None }
    }

    /// Says why it cannot be told what is in use: then everything is.
    pub fn unknown(reason: impl std::fmt::Display) -> Self {
        Self { unknown: Some(format!("perhaps in use: {reason}")), ..Self::default() }
    }

    /// Says how `path`, or anything below it, is used, as what follows "it is"; `None` where it is not.
    #[must_use]
    pub fn of(&self, path: &str) -> Option<&str> {
        let is_below =
            |used: &str| used.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let from = self.paths.range(path.to_owned()..);
        from.take_while(|(used, _)| used.starts_with(path))
            .find(|(used, _)| is_below(used))
            .map(|(_, how)| how.as_str())
            .or(self.unknown.as_deref())
    }
}

impl Store {
    /// Looks what of this store is in use.
    #[must_use]
    pub fn in_use(&self) -> InUse {
        self.look().unwrap_or_else(InUse::unknown)
    }

    fn look(&self) -> Result<InUse, FsError> {
        let processes = Processes::open()?;
        let mut names = Names::of(self, &processes)?;
        let seen = Seen::look(&processes)?;
        for (_, mounts) in &seen.spaces {
            names.learn(mounts);
        }
        let mut found = Found { store: self, names: &names, paths: BTreeMap::new(), opened: BTreeMap::new() };
        for (process, mounts) in &seen.spaces {
            for mount in mounts {
                found.mount(process, mount);
            }
        }
        for (path, how) in &seen.paths {
            found.path(path, how);
        }
        found.follow()?;
        Ok(InUse::new(found.paths))
    }
}

/// What `/proc` says, of whatever store.
#[derive(Default)]
struct Seen {
    /// What is mounted, in each mount name space once, with a process that sees it.
    spaces: Vec<(Process, Vec<Mount>)>,
    /// Paths that processes use, with how.
    paths: BTreeMap<String, String>,
}

impl Seen {
    fn look(processes: &Processes) -> Result<Self, FsError> {
        let mut seen = Self::default();
        let mut spaces = BTreeSet::new();
        for process in processes.all()? {
            match seen.add(&process, &mut spaces) {
                Err(_) if processes.is_foreign(&process) => {}
                added => added?,
            }
        }
        Ok(seen)
    }

    fn add(&mut self, process: &Process, spaces: &mut BTreeSet<(Vec<u8>, String)>) -> Result<(), FsError> {
        // What may not be looked at is no more than what keeps a table from being read twice.
        let (space, root) = (may(process.namespace("mnt"))?, may(process.path("root"))?);
        // A process sees no mounts outside its root directory.
        let space = space.zip(root.clone());
        if space.as_ref().is_none_or(|space| !spaces.contains(space))
            && let Some(mounts) = process.mounts()?
        {
            self.spaces.push((process.clone(), mounts));
            spaces.extend(space);
        }
        let name = process.name();
        let how = |what: &str| format!("{what} of {name} (pid {})", process.pid);
        let cwd = may(process.path("cwd"))?;
        for (path, what) in [(root, "the root directory"), (cwd, "the working directory")] {
            if let Some(path) = path {
                self.paths.entry(path).or_insert_with(|| how(what));
            }
        }
        if name == "fuse-overlayfs" {
            for (_, path) in process.files()?.into_iter().filter(|(_, path)| path.starts_with('/')) {
                self.paths.entry(path).or_insert_with(|| how("part of the mount"));
            }
        }
        Ok(())
    }
}

/// Makes `None` of what may not be looked at.
fn may<T>(result: Result<Option<T>, FsError>) -> Result<Option<T>, FsError> {
    match result {
        Err(error) if error.source.kind() == ErrorKind::PermissionDenied => Ok(None),
        result => result,
    }
}

/// What of a store was found to be used.
struct Found<'a> {
    store: &'a Store,
    names: &'a Names,
    paths: BTreeMap<String, String>,
    /// By how an overlay names a part of it: the path of the directory, where it can be opened.
    opened: BTreeMap<String, Option<String>>,
}

impl Found<'_> {
    fn add(&mut self, at: String, how: &str) {
        // That the whole is mounted, or is somebody's working directory, says of no part of it that it is used.
        if !at.is_empty() {
            self.paths.entry(at).or_insert_with(|| how.to_owned());
        }
    }

    fn path(&mut self, path: &str, how: &str) {
        for at in self.names.meant(path) {
            self.add(at, how);
        }
    }

    fn mount(&mut self, process: &Process, mount: &Mount) {
        let point = &mount.point;
        for at in self.names.located(&mount.device, &mount.root) {
            self.add(at, &format!("mounted at {point} (as pid {} sees it)", process.pid));
        }
        self.path(point, &format!("mounted at {point}"));
        for part in &mount.parts {
            self.part(process, part, &format!("part of what is mounted at {point}"));
        }
    }

    /// Adds a directory that an overlay is made of.
    fn part(&mut self, process: &Process, part: &str, how: &str) {
        let driver = self.store.driver();
        let Some(absolute) = part.strip_prefix('/') else {
            // Relative to the home of whatever driver did it.
            return self.add(format!("{driver}/{part}"), how);
        };
        let meant = self.names.meant(part);
        if !meant.is_empty() {
            return meant.into_iter().for_each(|at| self.add(at, how));
        }
        let place = self.opened.entry(part.to_owned()).or_insert_with(|| {
            let seen = process.root().and_then(|root| root.dir_as_seen(absolute));
            let opened = seen.or_else(|_| Dir::open_root(Path::new(part)));
            opened.and_then(|dir| dir.place()).ok().map(|place| place.path.to_string_lossy().into_owned())
        });
        match place.clone() {
            // A name through a symbolic link, or of a copy of this store; mostly nothing of it.
            Some(path) => self.path(&path, how),
            // A name of which no mount name space is left: names of layers are never given twice.
            None => {
                if let Some((_, rest)) = part.rsplit_once(&format!("/{driver}/")) {
                    self.add(format!("{driver}/{rest}"), how);
                }
            }
        }
    }

    /// Adds what the driver's own files say of what was found.
    fn follow(&mut self) -> Result<(), FsError> {
        let Some(home) = self.store.home() else { return Ok(()) };
        match self.store.driver().stacking() {
            Stacking::Layers => self.follow_layers(home),
            Stacking::ShortNames => self.follow_lower(ShortNames { home, owners: None }),
            Stacking::LowerId | Stacking::Unsaid => Ok(()),
        }
    }

    fn follow_lower(&mut self, mut names: ShortNames<'_>) -> Result<(), FsError> {
        let prefix = format!("{}/", self.store.driver());
        let mut waiting: Vec<(String, String)> =
            self.paths.iter().map(|(path, how)| (path.clone(), how.clone())).collect();
        let mut done = BTreeSet::new();
        while let Some((path, how)) = waiting.pop() {
            let Some(rest) = path.strip_prefix(&prefix) else { continue };
            let (dir, inner) = rest.split_once('/').unwrap_or((rest, ""));
            let dirs = match dir {
                "l" => names.owners(inner.split('/').next().unwrap_or_default())?,
                dir => vec![dir.to_owned()],
            };
            for dir in dirs.into_iter().filter(|dir| done.insert(dir.clone())) {
                self.add(format!("{prefix}{dir}"), &how);
                let Some(lower) = read(names.home, &format!("{dir}/lower"))? else { continue };
                let lower = String::from_utf8_lossy(lower.trim_ascii()).into_owned();
                for part in lower.split(':').filter(|part| !part.is_empty()) {
                    self.add(format!("{prefix}{part}"), &how);
                    waiting.push((format!("{prefix}{part}"), how.clone()));
                }
            }
        }
        Ok(())
    }

    /// `aufs` tells of a mount only where it is: what it is made of stands in `layers`.
    fn follow_layers(&mut self, home: &Dir) -> Result<(), FsError> {
        let driver = self.store.driver();
        let prefix = format!("{driver}/");
        let ids: Vec<(String, String)> = self
            .paths
            .iter()
            .filter_map(|(path, how)| {
                let (_, rest) = path.strip_prefix(&prefix)?.split_once('/')?;
                Some((rest.split('/').next()?.to_owned(), how.clone()))
            })
            .collect();
        for (id, how) in ids {
            let below = read(home, &format!("layers/{id}"))?.unwrap_or_default();
            let below = String::from_utf8_lossy(&below).into_owned();
            for id in below.lines().chain([id.as_str()]) {
                for place in driver.places() {
                    self.add(format!("{prefix}{place}/{id}"), &how);
                }
            }
        }
        Ok(())
    }
}

/// The short names of `overlay2` and `fuse-overlayfs`.
struct ShortNames<'a> {
    home: &'a Dir,
    /// By name: the directories that say in `link` that it is theirs. Read where it is needed.
    owners: Option<BTreeMap<String, Vec<String>>>,
}

impl ShortNames<'_> {
    /// Returns the directories that a short name is, or was, of.
    fn owners(&mut self, name: &str) -> Result<Vec<String>, FsError> {
        let target = match self.home.dir("l").and_then(|links| links.read_link(name)) {
            Err(error) if error.is_not_found() || is_no_link(&error) => None,
            target => Some(target?),
        };
        let target = target.as_deref().and_then(|target| std::str::from_utf8(target).ok());
        if let Some(dir) = target.and_then(|target| target.strip_prefix("../")?.split('/').next()) {
            return Ok(vec![dir.to_owned()]);
        }
        if self.owners.is_none() {
            let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for entry in self.home.entries()?.into_iter().filter(|entry| entry.kind == Kind::Directory) {
                let Ok(dir) = String::from_utf8(entry.name) else { continue };
                // What is no file says no name.
                if let Some(link) = FsError::in_place(read(self.home, &format!("{dir}/link")))?.flatten() {
                    owners.entry(String::from_utf8_lossy(link.trim_ascii()).into_owned()).or_default().push(dir);
                }
            }
            self.owners = Some(owners);
        }
        Ok(self.owners.as_ref().and_then(|owners| owners.get(name)).cloned().unwrap_or_default())
    }
}

/// Tells whether what should be a symbolic link is something else.
fn is_no_link(error: &FsError) -> bool {
    matches!(error.source.kind(), ErrorKind::InvalidInput | ErrorKind::NotADirectory)
}

/// Reads a file of the driver; `None` where it is not there, or is none.
fn read(home: &Dir, path: &str) -> Result<Option<Vec<u8>>, FsError> {
    match home.read(path, LIMIT) {
        // A file where there should be a directory, or the other way round; another mount has no files of the driver.
        Err(error) if error.is_other_mount() || error.source.kind() == ErrorKind::NotADirectory => Ok(None),
        text => FsError::found(text),
    }
}
