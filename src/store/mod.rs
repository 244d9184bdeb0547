//! Reads Docker's files, each kind in its own module. Nothing here writes.
//!
//! A [`Store`] is an opened data root; a [`Snapshot`] is everything its files say, taken at one moment. What is
//! damaged or unknown becomes a [`Finding`] in the snapshot, never a panic and never silence. A snapshot
//! taken beside a live daemon may be torn: it is good for looking and for saving (which proves every byte),
//! not for deleting.

pub(crate) mod bolt;
mod buildkit;
mod containerd;
pub(crate) mod containers;
mod daemon;
pub(crate) mod databases;
mod distribution;
mod host_config;
pub(crate) mod imagedb;
pub(crate) mod layerdb;
mod layout;
mod live;
mod lock;
mod mountinfo;
mod mounts;
mod names;
mod nearby;
pub(crate) mod places;
mod processes;
pub(crate) mod repositories;
mod snapshot;
mod strays;
mod userns;

use std::collections::{BTreeMap, BTreeSet};

use crate::count::count;
use crate::driver::DriverDir;
use crate::finding::Finding;
use crate::id::{BlobDigest, CacheId, ChainId, ContainerId, DiffId, ImageId};

pub use crate::notes::{Stray, StrayKind, Unknown, Unreadable};
pub use containerd::{ContainerdUse, SNAPSHOTTERS};
pub use layout::{Configured, Store};
pub use live::InUse;
pub use lock::WriteLock;
pub use nearby::nearby;

/// Everything the files of a store say.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Name of the graph driver whose store it is.
    pub driver: String,
    /// References to images, by the text that stands in `repositories.json` (`nginx:alpine`,
    /// `nginx@sha256:…`). A reference to an image that is not there is kept: dockerd ignores it.
    pub references: BTreeMap<String, ImageId>,
    /// Images whose configuration is there and proves its own ID.
    pub images: BTreeMap<ImageId, Image>,
    /// Layers that dockerd would load: complete entries of layerdb whose parents are complete too.
    pub layers: BTreeMap<ChainId, Layer>,
    /// Entries of `layerdb/sha256` that dockerd would not load, by directory name.
    pub broken_layers: BTreeMap<String, BrokenLayer>,
    /// Entries of `layerdb/mounts`.
    pub mounts: BTreeMap<ContainerId, Mount>,
    /// Writable layers in which something was written and whose container has no configuration that could be read.
    pub written: BTreeSet<ContainerId>,
    /// Records of `distribution/`.
    pub distribution: Distribution,
    /// Directories of `containers/`.
    pub containers: BTreeMap<ContainerId, Container>,
    /// What BuildKit keeps in this store.
    pub build_records: BTreeMap<String, BuildRecord>,
    /// Directories of the graph driver.
    pub driver_dirs: BTreeMap<CacheId, DriverDir>,
    /// Things no reader of Docker's ever looks at.
    pub strays: Vec<Stray>,
    /// What is damaged or could not be read.
    pub findings: Vec<Finding>,
    /// What is unknown because it could not be read; each is a finding as well.
    pub unreadable: Vec<Unreadable>,
    /// Records that can be read in two ways, or that dockerd does not take although they are whole: what they do not name
    /// may be needed all the same.
    pub doubtful: Vec<Unreadable>,
    /// Paths, among those in `unreadable`, of what says of many things that they are there: directories of entries, and
    /// `repositories.json`. Where the file system does not give one, what was not seen in it is not missing.
    pub unlisted: BTreeSet<String>,
}

/// An image: `imagedb/content/sha256/<id>` with `imagedb/metadata/sha256/<id>/`.
#[derive(Debug, Clone)]
pub struct Image {
    /// The configuration, byte for byte; its SHA-256 is the image's ID.
    pub config: Vec<u8>,
    /// Content of the layers, bottom first.
    pub diff_ids: Vec<DiffId>,
    /// When the image was made, as the configuration says (RFC 3339).
    pub created: Option<String>,
    /// Architecture, as the configuration says (`amd64`).
    pub architecture: String,
    /// Operating system, as the configuration says; dockerd reads nothing as `linux`.
    pub os: String,
    /// The image it was built from (`metadata/…/parent`).
    pub parent: Option<ImageId>,
    /// Bytes of `metadata/…/lastUpdated`, where there is one.
    pub last_updated: Option<Vec<u8>>,
    /// Bytes of `metadata/…/builtLocally`, where there is one.
    pub built_locally: Option<Vec<u8>>,
}

impl Image {
    /// Returns the chain IDs of the image's layers, bottom first.
    #[must_use]
    pub fn chain_ids(&self) -> Vec<ChainId> {
        ChainId::of_stack(&self.diff_ids)
    }

    /// Returns the chain ID of the topmost layer; an image may have none.
    #[must_use]
    pub fn top(&self) -> Option<ChainId> {
        self.chain_ids().pop()
    }
}

/// A layer: an entry `layerdb/sha256/<chain>/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The layer below, absent for a base layer.
    pub parent: Option<ChainId>,
    /// Content.
    pub diff: DiffId,
    /// Name of the graph driver's directory.
    pub cache_id: CacheId,
    /// Bytes that the layer adds, as Docker counted them; for display only.
    pub size: u64,
    /// Whether `tar-split.json.gz` is there.
    pub has_tar_split: bool,
}

/// An entry of `layerdb/sha256` that dockerd does not load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenLayer {
    /// The driver directory it names, where that can be read.
    pub cache_id: Option<CacheId>,
    /// The layer below, where that can be read.
    pub parent: Option<ChainId>,
    /// Why dockerd does not load it.
    pub reason: String,
    /// The name ends in `-removing`: dockerd was removing it.
    pub removing: bool,
}

/// A writable layer: an entry `layerdb/mounts/<name>/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Driver directory of the writable layer, where it can be read.
    pub mount_id: Option<CacheId>,
    /// Driver directory of the init layer.
    pub init_id: Option<CacheId>,
    /// Topmost layer below; absent for an image without layers.
    pub parent: Option<ChainId>,
}

/// A directory `containers/<id>/`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// Whether `config.v2.json` could be read and says the same ID. Where not, nothing below is known.
    pub readable: bool,
    /// There is no `config.v2.json` at all. dockerd neither loads nor removes such a directory.
    pub config_missing: bool,
    /// There is a file that dockerd makes only when there is a `config.v2.json`.
    pub was_whole: bool,
    /// Name without the leading slash.
    pub name: String,
    /// The image it was made from.
    pub image: Option<ImageId>,
    /// Graph driver it was made with.
    pub driver: String,
    /// `State`, in one word as `docker ps` says it: created, running, exited, dead …
    pub state: String,
    /// Entries of `layerdb/mounts` that its image mounts use (Docker 28).
    pub image_mounts: Vec<ContainerId>,
}

impl Snapshot {
    /// Tells whether a directory of `containers/` is what is left of a create or rm that was cut off: it has no
    /// configuration, and no writable layer any more; or one that is empty, and never had a configuration.
    #[must_use]
    pub fn is_abandoned(&self, id: &ContainerId) -> bool {
        let is_used = |was_whole| self.mounts.contains_key(id) && (was_whole || self.written.contains(id));
        self.containers.get(id).is_some_and(|container| container.config_missing && !is_used(container.was_whole))
    }

    /// Tells whether a mount is one that a container was made with, not one of a builder: those have no init layer.
    #[must_use]
    pub fn is_of_container(&self, mount: &Mount) -> bool {
        let init = mount.mount_id.as_ref().and_then(|id| CacheId::parse(format!("{id}-init").as_bytes()).ok());
        mount.init_id.is_some() || init.is_some_and(|init| self.driver_dirs.contains_key(&init))
    }

    /// Says how it is known that `layerdb/sha256` is lost or not mounted: it is empty, and images have layers.
    #[must_use]
    pub fn lost_layers(&self) -> Option<String> {
        let with_layers = self.images.values().filter(|image| !image.diff_ids.is_empty()).count();
        let is_lost = self.layers.is_empty() && self.broken_layers.is_empty() && with_layers > 0;
        is_lost.then(|| format!("it is empty, and {}", count(with_layers, "image has layers", "images have layers")))
    }

    /// Says how it is known that the driver's home is lost or not mounted: nearly all layers lack their directory.
    #[must_use]
    pub fn lost_home(&self) -> Option<String> {
        let all = self.layers.len();
        let lost = self.layers.values().filter(|layer| !self.driver_dirs.contains_key(&layer.cache_id)).count();
        let all_said = count(all, "layer", "layers");
        (lost > 0 && lost * 10 >= all * 9)
            .then(|| format!("of {all_said} {}", count(lost, "has no directory in it", "have no directory in it")))
    }

    /// Returns the containers that dockerd was not removing and whose writable layer is not there, although this driver
    /// made it.
    pub fn without_mount<'s>(&'s self, driver: &'s str) -> impl Iterator<Item = &'s ContainerId> {
        let is_lost = move |(id, container): &(&ContainerId, &Container)| {
            container.readable
                && container.driver == driver
                && !matches!(container.state.as_str(), "removing" | "dead")
                && !self.mounts.contains_key(*id)
        };
        self.containers.iter().filter(is_lost).map(|(id, _)| id)
    }
}

/// One thing BuildKit keeps: a lease's or cache record's snapshot key, resolved through `snapshots.db`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildRecord {
    /// The image layer it keeps; the layers below follow from that. Several only where the first does not load.
    pub layers: Vec<ChainId>,
    /// Driver directories it keeps besides those of layers, nearest first.
    pub dirs: Vec<CacheId>,
    /// Driver directories that it needs and that are not there.
    pub lost: Vec<CacheId>,
    /// Whether a lease or a cache record names it. Where not, BuildKit leaked it.
    pub owned: bool,
    /// What BuildKit says it is (`mount / from exec /bin/sh -c make`), or nothing.
    pub description: String,
}

/// The two maps of `distribution/`, with the files' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Distribution {
    /// `diffid-by-digest/sha256/<blob>`: digest of a compressed blob to the diff ID of its content.
    pub diff_id_by_digest: BTreeMap<BlobDigest, DiffId>,
    /// `v2metadata-by-diffid/sha256/<diff>`: where a layer's blob can be had, as the JSON text that is there.
    pub v2_metadata_by_diff_id: BTreeMap<DiffId, String>,
}
