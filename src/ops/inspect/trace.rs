//! From a name to the files behind it: reference, image, configuration, layers, directories.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::list::{platform, split};
use super::{Named, SCHEMA, View};
use crate::graph::{Edge, Id, Node, State};
use crate::id::{BlobDigest, CacheId, ChainId, ContainerId, DiffId, ImageId, LinkId};
use crate::store::Image;

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
    pub build_records: Vec<String>,
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
    pub build_records: Vec<String>,
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

/// What of a configuration is shown.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    config: Option<RunConfig>,
    history: Option<Vec<History>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RunConfig {
    cmd: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct History {
    created_by: Option<String>,
    empty_layer: Option<bool>,
}

/// A line of `v2metadata-by-diffid`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Source {
    digest: BlobDigest,
    #[serde(default)]
    source_repository: String,
}

impl View<'_> {
    /// Traces things.
    #[must_use]
    pub fn trace(&self, things: impl IntoIterator<Item = Id>) -> Traces {
        Traces { schema: SCHEMA, objects: things.into_iter().map(|id| self.trace_one(id)).collect() }
    }

    fn trace_one(&self, id: Id) -> Trace {
        match self.graph.node(id) {
            Node::Image(image) => Trace::Image(Box::new(self.trace_image(id, *image))),
            Node::Container(container) => Trace::Container(Box::new(self.trace_container(id, container))),
            Node::Layer(chain) => {
                let users = self.users(id);
                Trace::Layer(Box::new(LayerTrace {
                    images: users.images,
                    containers: users.containers,
                    build_records: users.build_records,
                    ..self.trace_layer(*chain, None)
                }))
            }
            Node::Dir(dir) => Trace::Dir(Box::new(self.trace_dir(id, dir))),
            node => Trace::Other(Box::new(OtherTrace {
                what: node.clone(),
                path: self.path_of(node),
                from: self.ties(self.graph.to(id)),
                to: self.ties(self.graph.from(id)),
            })),
        }
    }

    fn trace_image(&self, at: Id, id: ImageId) -> ImageTrace {
        let image = self.snapshot.images.get(&id);
        let config: Config = image.and_then(|image| serde_json::from_slice(&image.config).ok()).unwrap_or_default();
        let run = config.config.unwrap_or_default();
        let layers = image.map(|image| self.trace_layers(image, config.history)).unwrap_or_default();
        let to = self.graph.to(at);
        let from = |edge: Edge| to.iter().filter(move |(found, _)| *found == edge).map(|(_, from)| self.named(*from));
        let (tags, digests) = split(self.references(at));
        let mut build_records: Vec<String> = layers
            .iter()
            .filter_map(|layer| self.layer_at(layer.chain))
            .flat_map(|layer| self.graph.to(layer))
            .filter(|(edge, _)| *edge == Edge::Snapshot)
            .map(|(_, record)| self.graph.node(record).id())
            .collect();
        build_records.sort();
        build_records.dedup();
        ImageTrace {
            id,
            tags,
            digests,
            config: self.path_of(&Node::Image(id)).unwrap_or_default(),
            present: image.is_some(),
            created: image.and_then(|image| image.created.clone()),
            platform: image.map(|image| platform(&image.os, &image.architecture)).unwrap_or_default(),
            entrypoint: run.entrypoint.unwrap_or_default(),
            command: run.cmd.unwrap_or_default(),
            size: layers.iter().filter_map(|layer| layer.size).fold(0, u64::saturating_add),
            parent: image.and_then(|image| image.parent),
            children: from(Edge::BuiltFrom).collect(),
            layers,
            containers: from(Edge::MadeFrom).collect(),
            build_records,
        }
    }

    /// Traces the layers of an image. The history says what made each, where it tells of as many as there are.
    fn trace_layers(&self, image: &Image, history: Option<Vec<History>>) -> Vec<LayerTrace> {
        let made: Vec<Option<String>> = history
            .unwrap_or_default()
            .into_iter()
            .filter(|step| step.empty_layer != Some(true))
            .map(|step| step.created_by)
            .collect();
        let tells = made.len() == image.diff_ids.len();
        let mut made = made.into_iter().filter(|_| tells);
        let layers = image.chain_ids().into_iter().zip(&image.diff_ids);
        layers
            .map(|(chain, diff)| LayerTrace {
                created_by: made.next().flatten(),
                ..self.trace_layer(chain, Some(*diff))
            })
            .collect()
    }

    fn trace_layer(&self, chain: ChainId, diff: Option<DiffId>) -> LayerTrace {
        let layer = self.snapshot.layers.get(&chain);
        let diff = diff.or_else(|| layer.map(|layer| layer.diff));
        let at = self.layer_at(chain);
        let below = at.and_then(|at| self.graph.follow(at, Edge::ParentLayer));
        let directory = at.and_then(|at| self.graph.follow(at, Edge::CacheId));
        LayerTrace {
            chain,
            diff,
            parent: below.and_then(|below| match self.graph.node(below) {
                Node::Layer(chain) => Some(*chain),
                _ => None,
            }),
            entry: self.path_of(&Node::Layer(chain)).unwrap_or_default(),
            state: at.map_or(State::Missing, |at| self.graph.state(at).clone()),
            size: layer.map(|layer| layer.size),
            tar_split: layer.is_some_and(|layer| layer.has_tar_split),
            directory: directory.and_then(|at| self.directory(at)),
            blobs: diff.map(|diff| self.blobs(diff)).unwrap_or_default(),
            created_by: None,
            images: Vec::new(),
            containers: Vec::new(),
            build_records: Vec::new(),
        }
    }

    fn trace_container(&self, at: Id, id: &ContainerId) -> ContainerTrace {
        let container = self.container(id);
        let image = self.graph.follow(at, Edge::MadeFrom);
        let mount = self.graph.follow(at, Edge::Writes).map(|mount| self.trace_mount(mount, id));
        let mut chain: Vec<LayerTrace> = Vec::new();
        let mut below = mount.as_ref().and_then(|mount| mount.parent);
        while let Some(layer) = below {
            let layer = self.trace_layer(layer, None);
            // A circle of broken layers ends where it began.
            below = layer.parent.filter(|parent| chain.iter().all(|above| above.chain != *parent));
            chain.push(layer);
        }
        chain.reverse();
        let state = container.filter(|container| container.readable).map(|container| container.state.clone());
        ContainerTrace {
            id: id.clone(),
            name: container.map(|container| container.name.clone()).unwrap_or_default(),
            state: state.unwrap_or_else(|| "unknown".to_owned()),
            path: self.path_of(&Node::Container(id.clone())).unwrap_or_default(),
            image: image.map(|image| self.named(image)),
            image_present: image.is_some_and(|image| self.graph.is_present(image)),
            mount,
            layers: chain,
        }
    }

    fn trace_mount(&self, at: Id, id: &ContainerId) -> MountTrace {
        let directory = |edge| self.graph.follow(at, edge).and_then(|at| self.directory(at));
        MountTrace {
            id: id.clone(),
            entry: self.path_of(&Node::Mount(id.clone())).unwrap_or_default(),
            directory: directory(Edge::MountId),
            init: directory(Edge::InitId),
            parent: self.snapshot.mounts.get(id).and_then(|mount| mount.parent),
        }
    }

    fn trace_dir(&self, at: Id, id: &CacheId) -> DirTrace {
        let known = self.snapshot.driver_dirs.get(id);
        let lower = known.map(|dir| &dir.lower[..]).unwrap_or_default();
        let users = self.users(at);
        let mut named_by = self.graph.to(at);
        named_by.retain(|(edge, _)| *edge != Edge::Lower);
        DirTrace {
            directory: Directory {
                id: id.clone(),
                path: self.dir_path(id),
                present: known.is_some(),
                link: known.and_then(|dir| dir.link.clone()),
            },
            named_by: self.ties(named_by),
            lower: lower
                .iter()
                .filter_map(|lower| self.graph.find(&Node::Dir(lower.clone())))
                .filter_map(|lower| self.directory(lower))
                .collect(),
            lost: known.map(|dir| dir.lost.clone()).unwrap_or_default(),
            images: users.images,
            containers: users.containers,
        }
    }

    fn directory(&self, at: Id) -> Option<Directory> {
        let Node::Dir(id) = self.graph.node(at) else { return None };
        let link = self.snapshot.driver_dirs.get(id).and_then(|dir| dir.link.clone());
        Some(Directory { id: id.clone(), path: self.dir_path(id), present: self.graph.is_present(at), link })
    }

    /// Finds the blobs of a layer's content: those that say their repository, then those that only lead to it.
    fn blobs(&self, diff: DiffId) -> Vec<Blob> {
        let distribution = &self.snapshot.distribution;
        let text = distribution.v2_metadata_by_diff_id.get(&diff).map_or("[]", String::as_str);
        // One line at a time: one that is odd says nothing of the others.
        let lines: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
        let sources = lines.into_iter().filter_map(|line| serde_json::from_value::<Source>(line).ok());
        let mut blobs: Vec<Blob> = sources
            .map(|source| Blob {
                digest: source.digest,
                repository: Some(source.source_repository).filter(|repository| !repository.is_empty()),
            })
            .collect();
        for (digest, found) in &distribution.diff_id_by_digest {
            if *found == diff && blobs.iter().all(|blob| blob.digest != *digest) {
                blobs.push(Blob { digest: *digest, repository: None });
            }
        }
        blobs.sort();
        blobs.dedup();
        blobs
    }

    fn users(&self, at: Id) -> Users {
        let mut users = Users::default();
        for keeper in self.graph.above(at, |_| true) {
            match self.graph.node(keeper.root) {
                Node::Image(_) => users.images.push(self.named(keeper.root)),
                Node::Container(_) => users.containers.push(self.named(keeper.root)),
                Node::BuildRecord(key) => users.build_records.push(key.clone()),
                _ => {}
            }
        }
        users.images.sort_by(|one, other| one.node.cmp(&other.node));
        users.containers.sort_by(|one, other| one.node.cmp(&other.node));
        users.build_records.sort();
        users
    }

    fn ties(&self, ends: Vec<(Edge, Id)>) -> Vec<Tie> {
        let tie = |(edge, at)| Tie { edge, named: self.named(at), present: self.graph.is_present(at) };
        ends.into_iter().map(tie).collect()
    }
}

#[derive(Default)]
struct Users {
    images: Vec<Named>,
    containers: Vec<Named>,
    build_records: Vec<String>,
}
