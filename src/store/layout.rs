//! Opens a data root: which directory it is, and which graph driver is at work in it.
//!
//! | path below the root | what | reader |
//! |---|---|---|
//! | `image/<driver>/repositories.json` | references | `repositories` |
//! | `image/<driver>/imagedb/` | images | `imagedb` |
//! | `image/<driver>/layerdb/` | layers and mounts | `layerdb`, `mounts` |
//! | `image/<driver>/distribution/` | what registries said | `distribution` |
//! | `containers/` | containers | `containers` |
//! | `buildkit/*.db` | BuildKit's snapshots and records (18.06+) | `buildkit` |
//! | `<driver>/` | directories of the graph driver | `crate::driver` |
//!
//! The root is `data-root` of daemon.json (17.05+; `graph` to 22), else `/var/lib/docker` [moby daemon/config]. dockerd
//! takes the driver it is told (`storage-driver`), else the only one whose home is there and not empty, `vfs` not
//! counted; several make it exit [moby graphdriver/driver.go `scanPriorDrivers`]. With `userns-remap` the data root
//! is `<root>/<uid>.<gid>`. With the containerd image store (opt-in from 24, default on fresh roots of 29) there is no
//! `image/<driver>`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::containerd::{ContainerdUse, SNAPSHOTTERS};
use super::places;
use super::{repositories, userns};
use crate::driver::{DRIVERS, Driver};
use crate::error::{Error, FsError, Result};
use crate::fsx::{self, Dir, Kind, UserNamespace};

/// Docker's data root where nothing else is configured.
pub(super) const DEFAULT_ROOT: &str = "/var/lib/docker";

/// Docker's configuration.
pub(super) const DAEMON_JSON: &str = "/etc/docker/daemon.json";

/// Longest daemon.json that is read.
pub(super) const DAEMON_JSON_LIMIT: u64 = 1 << 20;

/// An opened data root with one graph driver.
#[derive(Debug, Clone)]
pub struct Store {
    /// The data root.
    root: Dir,
    /// Its path without symbolic links.
    path: PathBuf,
    driver: &'static Driver,
    image: Option<Dir>,
    home: Option<Dir>,
    /// Where in the home the directories of layers are.
    dirs: Option<Dir>,
    /// The user namespace of the layers, or whose it is where that is not known.
    namespace: std::result::Result<Option<Arc<UserNamespace>>, u32>,
}

/// What Docker's own configuration says of its store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configured {
    /// The data root.
    pub root: Option<PathBuf>,
    /// The graph driver.
    pub driver: Option<String>,
    /// Whether images are in containerd's store, where that is said.
    pub containerd: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DaemonJson {
    data_root: Option<PathBuf>,
    graph: Option<PathBuf>,
    storage_driver: Option<String>,
    #[serde(default)]
    features: Features,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Features {
    containerd_snapshotter: Option<bool>,
}

impl Configured {
    /// Reads `/etc/docker/daemon.json`. What cannot be read says nothing: dockerd may have been told by its arguments.
    #[must_use]
    pub fn read() -> Self {
        let text = fsx::real_path(Path::new(DAEMON_JSON)).ok().and_then(|path| {
            let dir = Dir::open_root(path.parent()?).ok()?;
            dir.read(path.file_name()?.as_encoded_bytes(), DAEMON_JSON_LIMIT).ok()
        });
        text.map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// Parses the text of a daemon.json.
    pub(super) fn parse(text: &[u8]) -> Self {
        let Ok(config) = serde_json::from_slice::<DaemonJson>(text) else { return Self::default() };
        let root = config.data_root.or(config.graph).filter(|root| root.is_absolute());
        let driver = config.storage_driver.filter(|driver| !driver.is_empty());
        Self { root, driver, containerd: config.features.containerd_snapshotter }
    }

    /// Tells whether the images of the data root at `path`, without symbolic links, are in containerd's store; `None` where
    /// that is not said, or of another root.
    #[must_use]
    pub fn uses_containerd(&self, path: &Path) -> Option<bool> {
        self.containerd.filter(|_| self.is_of(path))
    }

    /// Tells whether it is about the data root at a path without symbolic links.
    fn is_of(&self, path: &Path) -> bool {
        fsx::real_path(&self.root()).is_ok_and(|configured| configured == path)
    }

    /// Returns the data root, Docker's default where none is configured.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.root.clone().unwrap_or_else(|| DEFAULT_ROOT.into())
    }
}

impl Store {
    /// Opens the data root at `root`. The graph driver is found as dockerd would find it where none is given.
    ///
    /// # Errors
    /// There is no store of a graph driver at `root`, there are several, or it may not be read.
    pub fn open(root: &Path, driver: Option<&str>) -> Result<Self> {
        let (dir, path) = open_root(root)?;
        let driver = match driver {
            Some(driver) if SNAPSHOTTERS.contains(&driver) => return Err(Error::ContainerdStore { root: path }),
            Some(driver) => known(driver)?,
            None => Driver::named(&detect(&dir, &path)?),
        };
        let store = Self::with_driver(dir, path, driver)?;
        if store.image.is_none() && store.home.is_none() {
            return Err(Error::NoStore { root: store.path });
        }
        Ok(store)
    }

    /// Opens the data root at `root` whose images are in containerd's store. Of that nothing is read: what can be seen are the
    /// stores that graph drivers have left beside it, and the trash.
    ///
    /// # Errors
    /// Nothing shows that containerd's store was ever used here, or it may not be read.
    pub fn open_beside_containerd(root: &Path, snapshotter: &str) -> Result<Self> {
        let (dir, path) = open_root(root)?;
        match ContainerdUse::find(&dir) {
            Some(_) => Self::with_driver(dir, path, Driver::named(snapshotter)),
            None => Err(Error::NoStore { root: path }),
        }
    }

    /// Opens the data root at `root` to make a store of `driver` in it; nothing of the driver need be there.
    ///
    /// # Errors
    /// There is no directory at `root`, it may not be read, or the driver is none of Docker's.
    pub fn open_fresh(root: &Path, driver: &str) -> Result<Self> {
        let (dir, path) = open_root(root)?;
        Self::with_driver(dir, path, known(driver)?)
    }

    fn with_driver(root: Dir, path: PathBuf, driver: &'static Driver) -> Result<Self> {
        let namespace = match userns::find(&root, &path) {
            Err(Error::UnknownIds { uid, .. }) => Err(uid),
            found => Ok(found?.map(Arc::new)),
        };
        let root = root.in_namespace(namespace.clone().unwrap_or_default());
        let image = FsError::found(root.dir_across_mounts(places::records(driver.name())))?;
        let home = FsError::found(root.dir_across_mounts(driver.name()))?;
        let dirs = match &home {
            Some(home) => FsError::found(home.dir(driver.trees()))?,
            None => None,
        };
        Ok(Self { root, path, driver, image, home, dirs, namespace })
    }

    /// Tells whether the data root holds nothing yet but what file systems and dockpack itself put there.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn is_empty(&self) -> Result<bool> {
        let ours = |name: &[u8]| matches!(name, b"lost+found" | b".dockpack" | b"volumes" | b"image");
        Ok(self.root.entries()?.iter().all(|entry| ours(&entry.name)))
    }

    /// Returns the names of the data roots for user namespaces that lie in this one, and are of other stores.
    #[must_use]
    pub fn remapped(&self) -> Vec<String> {
        remapped(&self.root)
    }

    /// Returns the data root.
    #[must_use]
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// Returns the path of the data root, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the graph driver.
    #[must_use]
    pub fn driver(&self) -> &'static Driver {
        self.driver
    }

    /// Returns the graph drivers that this store is not of.
    pub(crate) fn other_drivers(&self) -> impl Iterator<Item = &'static Driver> {
        DRIVERS.into_iter().filter(|driver| *driver != self.driver)
    }

    /// Returns the references of the store that another graph driver has in this data root, sorted.
    ///
    /// # Errors
    /// They cannot be read: why.
    pub(crate) fn references_of(&self, driver: &Driver) -> std::result::Result<Vec<String>, String> {
        let at = places::records(driver.name());
        let image = FsError::found(self.root.dir_across_mounts(&at)).map_err(|error| error.to_string())?;
        let Some(image) = image else { return Ok(Vec::new()) };
        let (references, notes) = repositories::read(&image, &at);
        match notes.unreadable.into_iter().next() {
            Some(unreadable) => Err(format!("{} cannot be read: {}", unreadable.path, unreadable.reason)),
            None => Ok(references.into_keys().collect()),
        }
    }

    /// Returns `image/<driver>`, where it is there.
    #[must_use]
    pub fn image(&self) -> Option<&Dir> {
        self.image.as_ref()
    }

    /// Returns the home of the graph driver, where it is there.
    #[must_use]
    pub fn home(&self) -> Option<&Dir> {
        self.home.as_ref()
    }

    /// Returns the directory in the driver's home that the driver directories of layers lie in, where it is there.
    #[must_use]
    pub fn dirs(&self) -> Option<&Dir> {
        self.dirs.as_ref()
    }

    /// Returns the user namespace of the layers; `None` where the ids on disk are those of containers.
    ///
    /// # Errors
    /// The host does not say which ids the user has whose store it is. Then the store can be listed and no more.
    pub fn namespace(&self) -> Result<Option<Arc<UserNamespace>>> {
        self.namespace.clone().map_err(|uid| Error::UnknownIds { root: self.path.clone(), uid })
    }

    /// Returns the path of `image/<driver>` below the data root.
    pub(super) fn image_path(&self) -> String {
        places::records(self.driver.name())
    }
}

fn open_root(root: &Path) -> Result<(Dir, PathBuf)> {
    let path = match fsx::real_path(root) {
        Err(error) if error.is_not_found() => return Err(Error::NoStore { root: root.to_owned() }),
        path => path?,
    };
    Ok((Dir::open_root(&path)?, path))
}

/// Takes a driver's name that a person gave.
fn known(driver: &str) -> Result<&'static Driver> {
    Driver::known(driver).ok_or_else(|| Error::UnsupportedDriver { driver: driver.to_owned() })
}

/// Finds the graph driver of a data root.
fn detect(root: &Dir, path: &Path) -> Result<String> {
    let mut candidates = Candidates::find(root)?;
    let configured = Configured::read();
    let chosen =
        configured.driver.clone().filter(|driver| candidates.used.len() > 1 && candidates.used.contains(driver));
    if let Some(driver) = chosen.filter(|_| configured.is_of(path)) {
        return Ok(driver);
    }
    if candidates.used.is_empty() {
        candidates.used = candidates.fresh;
    }
    match candidates.used.len() {
        1 => Ok(candidates.used.pop_first().expect("because its length is one")),
        0 => Err(why_none(root, path)),
        _ => Err(Error::SeveralDrivers { root: path.to_owned(), drivers: candidates.used.into_iter().collect() }),
    }
}

/// Drivers that have left traces below a data root.
#[derive(Debug, Default)]
struct Candidates {
    /// Those with layers, or with a home that is not empty.
    used: BTreeSet<String>,
    /// Those that dockerd started with at least once.
    fresh: BTreeSet<String>,
}

impl Candidates {
    fn find(root: &Dir) -> Result<Self, FsError> {
        let mut found_so_far = Self::default();
        if let Some(image) = FsError::found(root.dir_across_mounts("image"))? {
            for entry in image.entries()?.into_iter().filter(|entry| entry.kind == Kind::Directory) {
                let Some(dir) = FsError::found(image.dir_across_mounts(&entry.name))? else { continue };
                let Ok(name) = String::from_utf8(entry.name) else { continue };
                if !is_empty(&dir, places::LAYERS) || !is_empty(&dir, places::MOUNTS) {
                    found_so_far.used.insert(name);
                } else if dir.find("imagedb")?.is_some() || dir.find(places::REFERENCES)?.is_some() {
                    found_so_far.fresh.insert(name);
                }
            }
        }
        let used = DRIVERS.into_iter().filter(|driver| !is_empty(root, &driver.used()));
        found_so_far.used.extend(used.map(|driver| driver.name().to_owned()));
        Ok(found_so_far)
    }
}

/// Tells whether a directory is empty or missing. One that cannot be listed counts as not empty, as for dockerd.
fn is_empty(parent: &Dir, path: &str) -> bool {
    match FsError::found(parent.dir_across_mounts(path)).map(|dir| dir.map(|dir| dir.entries())) {
        Ok(None) => true,
        Ok(Some(Ok(entries))) => entries.is_empty(),
        Ok(Some(Err(_))) | Err(_) => false,
    }
}

/// Says why there is no store of a graph driver at a root.
fn why_none(root: &Dir, path: &Path) -> Error {
    let is_there = |path: &str| root.dir_across_mounts(path).is_ok();
    let below = remapped(root);
    if !below.is_empty() {
        return Error::RemappedRoot { root: path.to_owned(), below };
    }
    let traces = [
        "buildkit/containerd-overlayfs",
        "containerd/daemon/io.containerd.metadata.v1.bolt",
        "rootfs/overlayfs",
        "io.containerd.metadata.v1.bolt",
    ];
    match traces.into_iter().any(is_there) {
        true => Error::ContainerdStore { root: path.to_owned() },
        false => Error::NoStore { root: path.to_owned() },
    }
}

/// Lists the data roots of `userns-remap` below a directory.
fn remapped(root: &Dir) -> Vec<String> {
    let is_there = |path: &str| root.dir_across_mounts(path).is_ok();
    let entries = root.entries().unwrap_or_default().into_iter();
    entries
        .filter(|entry| entry.kind == Kind::Directory && mapping(&entry.name).is_some())
        .filter_map(|entry| String::from_utf8(entry.name).ok())
        .filter(|name| is_there(&format!("{name}/image")) || is_there(&format!("{name}/containers")))
        .collect()
}

/// Reads the name of a data root of `userns-remap`, `<uid>.<gid>`.
pub(super) fn mapping(name: &[u8]) -> Option<(u32, u32)> {
    let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?;
    let (uid, gid) = std::str::from_utf8(name).ok()?.split_once('.')?;
    Some((number(uid)?, number(gid)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with(paths: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temp directory");
        for path in paths {
            std::fs::create_dir_all(root.path().join(path)).expect("directories");
        }
        root
    }

    fn opened(paths: &[&str], driver: Option<&str>) -> Result<String, Error> {
        Store::open(root_with(paths).path(), driver).map(|store| store.driver().name().to_owned())
    }

    #[test]
    fn drivers_are_found_as_dockerd_finds_them() {
        assert_eq!(opened(&["image/overlay2/layerdb/sha256/x", "overlay2/l"], None).expect("one"), "overlay2");
        assert_eq!(opened(&["image/vfs/layerdb/sha256", "vfs/dir", "overlay2/l"], None).expect("one"), "overlay2");
        assert_eq!(opened(&["overlay2/l"], None).expect("one"), "overlay2");
        assert_eq!(opened(&["image/vfs/imagedb", "overlay2"], None).expect("a fresh one"), "vfs");
        assert_eq!(opened(&["image/vfs/imagedb", "overlay2/l"], None).expect("one in use"), "overlay2");
        assert_eq!(opened(&["image/plugin/layerdb/sha256/x"], None).expect("a plugin's"), "plugin");
    }

    #[test]
    fn several_drivers_need_a_choice() {
        let paths = ["image/overlay2/layerdb/mounts/x", "overlay/x"];
        let drivers = match opened(&paths, None) {
            Err(Error::SeveralDrivers { drivers, .. }) => drivers,
            other => panic!("{other:?}"),
        };
        assert_eq!(drivers, ["overlay", "overlay2"]);
        assert_eq!(opened(&paths, Some("overlay")).expect("the chosen one"), "overlay");
        assert!(matches!(opened(&paths, Some("vfs")), Err(Error::NoStore { .. })));
        assert!(matches!(opened(&paths, Some("../x")), Err(Error::UnsupportedDriver { .. })));
    }

    #[test]
    fn roots_without_a_graph_driver() {
        assert!(matches!(opened(&[], None), Err(Error::NoStore { .. })));
        assert!(matches!(opened(&["overlay2"], None), Err(Error::NoStore { .. })));
        assert!(matches!(opened(&["buildkit/containerd-overlayfs"], None), Err(Error::ContainerdStore { .. })));
        let remapped = opened(&["100000.100000/image", "1.2.3/image", "5.6"], None);
        assert!(matches!(remapped, Err(Error::RemappedRoot { below, .. }) if below == ["100000.100000"]));
        assert!(matches!(Store::open(Path::new("/does/not/exist"), None), Err(Error::NoStore { .. })));
    }

    #[test]
    fn daemon_json() {
        let parsed = Configured::parse(br#"{"data-root":"/data","graph":"/old","storage-driver":"","x":1}"#);
        assert_eq!(parsed, Configured { root: Some("/data".into()), ..Configured::default() });
        assert_eq!(Configured::parse(br#"{"graph":"/old"}"#).root(), Path::new("/old"));
        assert_eq!(Configured::parse(br#"{"features":{"containerd-snapshotter":true,"x":1}}"#).containerd, Some(true));
        assert_eq!(Configured::parse(b"{").root(), Path::new(DEFAULT_ROOT));
    }
}
