//! Follows the chain behind a thing, and makes its [`Trace`].

use serde::Deserialize;
use serde_json::Value;

use super::list::{platform, split};
use super::{
    Blob, ContainerTrace, DirTrace, Directory, ImageTrace, LayerTrace, MountTrace, Named, OtherTrace, SCHEMA, Tie,
    Trace, Traces, View,
};
use crate::graph::{Edge, Id, Node, State};
use crate::id::{BlobDigest, CacheId, ChainId, ContainerId, DiffId, ImageId};
use crate::image_config::{ImageConfig, Step};
use crate::store::Image;

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
        let config = image.and_then(|image| ImageConfig::parse(&image.config).ok());
        let config = config.map(|config| config.value).unwrap_or_default();
        let run = config.v1.config.unwrap_or_default();
        let layers = image.map(|image| self.trace_layers(image, config.history)).unwrap_or_default();
        let to = self.graph.to(at);
        let from = |edge: Edge| to.iter().filter(move |(found, _)| *found == edge).map(|(_, from)| self.named(*from));
        let (tags, digests) = split(self.references(at));
        let mut records: Vec<Id> = layers
            .iter()
            .filter_map(|layer| self.layer_at(layer.chain))
            .flat_map(|layer| self.graph.to(layer))
            .filter_map(|(edge, record)| (edge == Edge::Snapshot).then_some(record))
            .collect();
        records.sort();
        records.dedup();
        ImageTrace {
            id,
            tags,
            digests,
            config: self.path_of(&Node::Image(id)).unwrap_or_default(),
            present: image.is_some(),
            created: image.and_then(|image| image.created.clone()),
            platform: image.map(|image| platform(&image.os, &image.architecture)).unwrap_or_default(),
            entrypoint: run.entrypoint.0.unwrap_or_default(),
            command: run.cmd.0.unwrap_or_default(),
            size: layers.iter().filter_map(|layer| layer.size).fold(0, u64::saturating_add),
            parent: image.and_then(|image| image.parent),
            children: from(Edge::BuiltFrom).collect(),
            layers,
            containers: from(Edge::MadeFrom).collect(),
            build_records: records.into_iter().map(|record| self.named(record)).collect(),
        }
    }

    /// Traces the layers of an image. The history says what made each, where it tells of as many as there are.
    fn trace_layers(&self, image: &Image, history: Option<Vec<Step>>) -> Vec<LayerTrace> {
        let made: Vec<Option<String>> = history
            .unwrap_or_default()
            .into_iter()
            .filter(|step| !step.empty_layer)
            .map(|step| Some(step.created_by).filter(|command| !command.is_empty()))
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
        // An image that was built from another has its layers itself.
        for keeper in self.graph.above(at, |edge| edge.keeps() && edge != Edge::BuiltFrom, |_| true) {
            match self.graph.node(keeper.root) {
                Node::Image(_) => users.images.push(self.named(keeper.root)),
                Node::Container(_) => users.containers.push(self.named(keeper.root)),
                Node::BuildRecord(_) => users.build_records.push(self.named(keeper.root)),
                _ => {}
            }
        }
        for named in [&mut users.images, &mut users.containers, &mut users.build_records] {
            named.sort_by(|one, other| one.node.cmp(&other.node));
        }
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
    build_records: Vec<Named>,
}
