//! When nothing may be removed at all. Pure.
//!
//! A part that is lost as a whole, or is a file system of its own that is not mounted, makes everything it spoke for look
//! like garbage. dockerd makes `repositories.json`, `imagedb`, `layerdb/sha256` and `containers/` at its first start and
//! never removes them, so one that is missing was lost. One that is empty was lost where the rest of the store speaks of
//! what should be in it:
//!
//! | part | is lost where |
//! |---|---|
//! | `repositories.json` | it names nothing, beside images that only it can keep |
//! | `imagedb/content` | it is empty, and names are there |
//! | `layerdb/sha256` | it is empty, and images have layers |
//! | `layerdb/mounts` | containers of this driver are there, and not one has its writable layer |
//! | `containers/` | writable layers of containers with something in them are there, and not one has its container |
//! | the driver's home | nearly all layers lack their directory |
//! | `buildkit/snapshots.db` | it is a file of no bytes |

use crate::driver::join;
use crate::error::{Error, FsError, Result};
use crate::graph::{Graph, Node};
use crate::id::ContainerId;
use crate::store::{Mount, SNAPSHOTTERS, Snapshot, Store, Unknown, places};

use super::candidates::Candidates;
use super::kind::GcKind;
use super::plan::Options;

/// What a store has, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Records {
    /// `repositories.json` is there.
    pub(super) references: bool,
    /// `imagedb/content/sha256` is there.
    pub(super) images: bool,
    /// `imagedb/metadata/sha256` is there.
    pub(super) metadata: bool,
    /// `layerdb/sha256` is there.
    pub(super) layers: bool,
    /// `layerdb/mounts` is there.
    pub(super) mounts: bool,
    /// `containers` is there.
    pub(super) containers: bool,
    /// `buildkit/snapshots.db` is there and empty.
    pub(super) snapshots_empty: bool,
}

impl Records {
    pub(super) fn look(store: &Store) -> Result<Self> {
        let is_there = |path: &str| match store.image() {
            Some(image) => Ok::<_, FsError>(FsError::found(image.dir_across_mounts(path))?.is_some()),
            None => Ok(false),
        };
        let references = match store.image() {
            Some(image) => image.find(places::REFERENCES)?.is_some(),
            None => false,
        };
        let root = store.root();
        let buildkit = FsError::found(root.dir_across_mounts("buildkit"))?;
        let snapshots = buildkit.map(|dir| dir.find("snapshots.db")).transpose()?.flatten();
        Ok(Self {
            references,
            images: is_there(places::IMAGES)?,
            metadata: is_there(places::METADATA)?,
            layers: is_there(places::LAYERS)?,
            mounts: is_there(places::MOUNTS)?,
            containers: FsError::found(root.dir_across_mounts("containers"))?.is_some(),
            snapshots_empty: snapshots.is_some_and(|attrs| attrs.size == 0),
        })
    }
}

/// Fails where something is lost that everything depends on; names the file.
pub(super) fn refuse(store: &Store, records: Records, candidates: &Candidates<'_>, options: &Options) -> Result<()> {
    let Candidates { snapshot, graph, driver, .. } = candidates;
    if SNAPSHOTTERS.contains(&driver.name()) {
        // Of a graph driver's store nothing is opened: what others have left is all there is, and containers keep that.
        return match records.containers {
            true => Ok(()),
            false => Err(Error::Lost { path: store.path().join("containers"), reason: "it is missing".to_owned() }),
        };
    }
    driver.readable()?;
    let all = [Unknown::References, Unknown::BuildKit];
    let is_home = |path: &str| driver.places().any(|place| path == join(driver.name(), place).trim_end_matches('/'));
    let lost_whole =
        |path: &str| is_home(path) || matches!(path.rsplit('/').next(), Some("sha256" | "containers" | "mounts"));
    if let Some(file) = snapshot.unreadable.iter().find(|file| all.contains(&file.what) || lost_whole(&file.path)) {
        let reason = file.reason.clone();
        return Err(Error::Unreadable { path: store.path().join(&file.path), reason });
    }
    match lost(snapshot, graph, driver.name(), records, options) {
        None => Ok(()),
        Some((path, reason)) => Err(Error::Lost { path: store.path().join(path), reason }),
    }
}

/// Returns the file or directory that is lost, and how that is known.
fn lost(
    snapshot: &Snapshot,
    graph: &Graph,
    driver: &str,
    records: Records,
    options: &Options,
) -> Option<(String, String)> {
    let in_image = |part: &str| places::in_root(driver, part);
    let dirs = snapshot.driver_dirs.len();
    let is_empty = dirs == 0 && snapshot.layers.is_empty() && snapshot.images.is_empty();
    let beside = format!("beside {dirs} directories of layers");
    let missing = [
        (records.references, places::REFERENCES),
        (records.images, places::IMAGES),
        (records.metadata || snapshot.images.is_empty(), places::METADATA),
        (records.layers, places::LAYERS),
    ];
    if let Some((_, part)) = missing.into_iter().find(|(is_there, _)| !is_there && !is_empty) {
        return Some((in_image(part), format!("it is missing, {beside}")));
    }
    if let Some(lost) = lost_containers(snapshot, driver, records, options) {
        return Some(lost);
    }
    if snapshot.images.is_empty() && !snapshot.references.is_empty() {
        let names = snapshot.references.len();
        let reason = format!("it is empty, and {} has {names} names of images", places::REFERENCES);
        return Some((in_image(places::IMAGES), reason));
    }
    if let Some(reason) = snapshot.lost_layers() {
        return Some((in_image(places::LAYERS), reason));
    }
    if let Some(reason) = snapshot.lost_home() {
        return Some(((*driver).to_owned(), reason));
    }
    if records.snapshots_empty && dirs > 0 {
        return Some(("buildkit/snapshots.db".to_owned(), format!("it is empty, {beside}")));
    }
    if snapshot.references.is_empty() && options.takes(GcKind::UntaggedImages) {
        // What a container was made from has lost its name by `docker rmi -f`, not by accident.
        let images = graph.ids().filter(|id| matches!(graph.node(*id), Node::Image(_)) && graph.is_present(*id));
        let unnamed = images.filter(|id| !graph.is_kept(*id)).count();
        if unnamed > 0 {
            let reason = format!("it names nothing, beside {unnamed} images that only it can keep");
            return Some((in_image(places::REFERENCES), reason));
        }
    }
    None
}

/// Returns which of `containers` and `layerdb/mounts` is lost, where the other one speaks of what should be in it.
fn lost_containers(snapshot: &Snapshot, driver: &str, records: Records, options: &Options) -> Option<(String, String)> {
    let in_mounts = || places::in_root(driver, places::MOUNTS);
    let without = snapshot.without_mount(driver).count();
    let has_mount = |id: &ContainerId| snapshot.mounts.contains_key(id);
    let has_container = |id: &ContainerId| snapshot.containers.contains_key(id);
    if without > 0 && !snapshot.containers.keys().any(has_mount) {
        let reason = format!("it has no writable layer of {}", count(without, "container"));
        return Some((in_mounts(), reason));
    }
    let half = snapshot.containers.values().filter(|container| container.config_missing).count();
    if half > 0 && !records.mounts {
        return Some((in_mounts(), format!("it is missing, beside {}", count(half, "container"))));
    }
    // Who asks for just these knows that the containers are gone.
    if options.only.contains(&GcKind::DeadMounts) {
        return None;
    }
    let is_written = |(id, mount): &(&ContainerId, &Mount)| {
        !has_container(id)
            && mount.mount_id.is_some()
            && snapshot.is_of_container(mount)
            && snapshot.written.contains(*id)
    };
    let written = snapshot.mounts.iter().filter(is_written).count();
    if written > 0 && !(records.containers && snapshot.mounts.keys().any(has_container)) {
        let reason = format!("it has no container of {}", count(written, "writable layer"));
        return Some(("containers".to_owned(), reason));
    }
    None
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{CacheId, Sha256};
    use crate::store::Container;

    const ALL: Records = Records {
        references: true,
        images: true,
        metadata: true,
        layers: true,
        mounts: true,
        containers: true,
        snapshots_empty: false,
    };

    fn lost_path(snapshot: &Snapshot, records: Records) -> Option<String> {
        lost(snapshot, &Graph::of(snapshot), "overlay2", records, &Options::default()).map(|(path, _)| path)
    }

    #[test]
    fn a_store_that_was_pruned_to_nothing_is_no_lost_one() {
        let mut snapshot = Snapshot::default();
        assert_eq!(lost_path(&snapshot, Records { references: false, ..ALL }), None);
        let id = crate::id::CacheId::parse(b"orphan").expect("a name");
        snapshot.driver_dirs.insert(id, crate::driver::DriverDir::default());
        assert_eq!(lost_path(&snapshot, ALL), None);
    }

    #[test]
    fn what_is_lost_is_named() {
        let mut snapshot = Snapshot::default();
        let id = crate::id::CacheId::parse(b"orphan").expect("a name");
        snapshot.driver_dirs.insert(id, crate::driver::DriverDir::default());
        for (records, path) in [
            (Records { references: false, ..ALL }, "image/overlay2/repositories.json"),
            (Records { images: false, ..ALL }, "image/overlay2/imagedb/content/sha256"),
            (Records { layers: false, ..ALL }, "image/overlay2/layerdb/sha256"),
            (Records { snapshots_empty: true, ..ALL }, "buildkit/snapshots.db"),
        ] {
            assert_eq!(lost_path(&snapshot, records).as_deref(), Some(path));
        }
    }

    fn mount(number: u8) -> (ContainerId, Mount) {
        let name = Sha256::of(&[number]).hex();
        let cache = |name: String| CacheId::parse(name.as_bytes()).ok();
        let mount = Mount { mount_id: cache(name.clone()), init_id: cache(format!("{name}-init")), parent: None };
        (ContainerId::parse(name.as_bytes()).expect("a name"), mount)
    }

    #[test]
    fn containers_without_their_writable_layers() {
        let mut snapshot = Snapshot::default();
        let container = Container { readable: true, driver: "overlay2".to_owned(), ..Container::default() };
        let ((one, one_mount), (other, _)) = (mount(1), mount(2));
        snapshot.containers.insert(one.clone(), container.clone());
        assert_eq!(lost_path(&snapshot, ALL).as_deref(), Some("image/overlay2/layerdb/mounts"));
        let removing = Container { state: "removing".to_owned(), ..container.clone() };
        snapshot.containers.insert(one.clone(), removing);
        assert_eq!(lost_path(&snapshot, ALL), None);
        snapshot.containers.insert(one.clone(), Container { driver: "vfs".to_owned(), ..container.clone() });
        assert_eq!(lost_path(&snapshot, ALL), None);
        // One of two that is lost makes other things unknown, and no more.
        snapshot.containers.insert(one.clone(), container.clone());
        snapshot.containers.insert(other, container);
        snapshot.mounts.insert(one, one_mount);
        assert_eq!(lost_path(&snapshot, ALL), None);
    }

    #[test]
    fn writable_layers_without_their_containers() {
        let mut snapshot = Snapshot::default();
        let ((one, one_mount), (other, other_mount)) = (mount(1), mount(2));
        snapshot.mounts.insert(one.clone(), one_mount.clone());
        assert_eq!(lost_path(&snapshot, ALL), None, "an empty one is what a create left");
        snapshot.written.insert(one.clone());
        assert_eq!(lost_path(&snapshot, ALL).as_deref(), Some("containers"));
        let named = Options { only: [GcKind::DeadMounts].into(), ..Options::default() };
        assert_eq!(lost(&snapshot, &Graph::of(&snapshot), "overlay2", ALL, &named), None);
        snapshot.mounts.insert(one.clone(), Mount { init_id: None, ..one_mount });
        assert_eq!(lost_path(&snapshot, ALL), None, "a builder's");
        snapshot.mounts.insert(other.clone(), other_mount);
        snapshot.written.insert(other.clone());
        assert_eq!(lost_path(&snapshot, ALL).as_deref(), Some("containers"));
        snapshot.containers.insert(one, Container { readable: true, ..Container::default() });
        assert_eq!(lost_path(&snapshot, ALL), None, "one container is there");
        let unmounted = Records { containers: false, ..ALL };
        assert_eq!(lost_path(&snapshot, unmounted).as_deref(), Some("containers"));
    }
}
