//! From a name to the files behind it: reference, image, configuration, layers, directories.

use serde::Serialize;

use super::Named;
use crate::graph::{Edge, Node, State};
use crate::id::{BlobDigest, CacheId, ChainId, ContainerId, DiffId, ImageId, LinkId};

/// Traces of the things that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Traces {
    /// Number of the document's form.
    pub schema: u32,
    /// One for each thing.
    pub objects: Vec<Trace>,
}

/// What is behind a thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Trace {
    /// An image.
    Image(Box<ImageTrace>),
    /// A container.
    Container(Box<ContainerTrace>),
    /// A layer.
    Layer(Box<LayerTrace>),
    /// A directory of the graph driver.
    Dir(Box<DirTrace>),
    /// Anything else: a mount without a container, a build record, a stray.
    Other(Box<OtherTrace>),
}

/// From an image's references to its directories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageTrace {
    /// Its ID.
    pub id: ImageId,
    /// References by tag.
    pub tags: Vec<String>,
    /// References by digest.
    pub digests: Vec<String>,
    /// Path of its configuration in the data root.
    pub config: String,
    /// Whether the configuration is there; without it nothing but references and containers is known.
    pub present: bool,
    /// When it was made, as its configuration says (RFC 3339).
    pub created: Option<String>,
    /// Operating system and architecture (`linux/amd64`).
    pub platform: String,
    /// What a container of it runs before `command`.
    pub entrypoint: Vec<String>,
    /// What a container of it runs.
    pub command: Vec<String>,
    /// Bytes that its layers add, as Docker counted them.
    pub size: u64,
    /// The image it was built from.
    pub parent: Option<ImageId>,
    /// Images that were built from it.
    pub children: Vec<Named>,
    /// Its layers, bottom first.
    pub layers: Vec<LayerTrace>,
    /// Containers that were made from it.
    pub containers: Vec<Named>,
    /// Build records that keep one of its layers.
    pub build_records: Vec<Named>,
}

/// A layer and its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerTrace {
    /// Its identity.
    pub chain: ChainId,
    /// Its content, where that is known.
    pub diff: Option<DiffId>,
    /// The layer below.
    pub parent: Option<ChainId>,
    /// Path of its entry in layerdb in the data root.
    pub entry: String,
    /// Whether dockerd takes it.
    pub state: State,
    /// Bytes that it adds, as Docker counted them.
    pub size: Option<u64>,
    /// Whether `tar-split.json.gz` is there, without which it cannot be saved.
    pub tar_split: bool,
    /// Its directory, where it says one.
    pub directory: Option<Directory>,
    /// Compressed blobs that it came from, as registries know it.
    pub blobs: Vec<Blob>,
    /// The command that made it, as the image's history says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Images that have it; only where the layer itself was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Named>,
    /// Containers that run on it; only where the layer itself was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Named>,
    /// Build records that keep it; only where the layer itself was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub build_records: Vec<Named>,
}

/// A directory of the graph driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Directory {
    /// Its name (`cache-id`, `mount-id`).
    pub id: CacheId,
    /// Its path in the data root.
    pub path: String,
    /// Whether it is there.
    pub present: bool,
    /// `overlay2`'s short name of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkId>,
}

/// A compressed layer as a registry has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Blob {
    /// Digest of the compressed bytes.
    pub digest: BlobDigest,
    /// Repository it was pulled from or pushed to, canonical; none where only the digest is known.
    pub repository: Option<String>,
}

/// A container and its directories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerTrace {
    /// Its ID.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// Its state at dockerd's last write, in one word; `unknown` where its configuration cannot be read.
    pub state: String,
    /// Path of its directory in the data root.
    pub path: String,
    /// The image it was made from.
    pub image: Option<Named>,
    /// Whether that image is there.
    pub image_present: bool,
    /// Its writable layer.
    pub mount: Option<MountTrace>,
    /// The layers below, bottom first.
    pub layers: Vec<LayerTrace>,
}

/// A writable layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountTrace {
    /// Its name.
    pub id: ContainerId,
    /// Path of its entry in layerdb in the data root.
    pub entry: String,
    /// Its directory.
    pub directory: Option<Directory>,
    /// The directory of its init layer.
    pub init: Option<Directory>,
    /// The topmost layer below.
    pub parent: Option<ChainId>,
}

/// A directory and what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirTrace {
    /// The directory.
    #[serde(flatten)]
    pub directory: Directory,
    /// What names it.
    pub named_by: Vec<Tie>,
    /// Directories that it is stacked on, nearest first.
    pub lower: Vec<Directory>,
    /// Short names it is stacked on that lead to no directory.
    pub lost: Vec<LinkId>,
    /// Images that need it.
    pub images: Vec<Named>,
    /// Containers that need it.
    pub containers: Vec<Named>,
}

/// A thing with what it is tied to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherTrace {
    /// The thing. Its own kind stands in `what`.
    pub what: Node,
    /// Its path in the data root.
    pub path: Option<String>,
    /// What leads to it.
    pub from: Vec<Tie>,
    /// What it leads to.
    pub to: Vec<Tie>,
}

/// The other end of an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tie {
    /// The edge.
    pub edge: Edge,
    /// What is there.
    #[serde(flatten)]
    pub named: Named,
    /// Whether it is there.
    pub present: bool,
}
