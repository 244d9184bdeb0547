//! What takes how much, and what of it could go.

use std::collections::HashSet;

use serde::Serialize;

use super::{Copies, SCHEMA, View};
use crate::driver::Sizes;
use crate::fsx::Size;
use crate::graph::{Edge, Holdings, Id, Node, Roots, State};
use crate::id::{CacheId, ImageId};
use crate::store::Container;

/// Disk usage of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Number of the document's form.
    pub schema: u32,
    /// One row for each kind. Kinds overlap: every layer of an image counts under both.
    pub rows: Vec<UsageRow>,
    /// What all directories of the graph driver take together, each file once.
    pub total: Size,
    /// Files of `overlay` that are copies of those in the layer below, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<Copies>,
    /// The images, newest first, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageUsage>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UsageKind {
    /// Images. Active are those that a container was made from.
    Images,
    /// Containers' writable and init layers. Active are those that ran at dockerd's last write.
    Containers,
    /// Entries of layerdb. Active are those that something keeps.
    Layers,
    /// What BuildKit alone keeps. None is active: nothing is built from what is only looked at.
    BuildCache,
    /// Directories of the graph driver that nothing keeps and no layer names.
    UnreferencedDirectories,
}

/// One kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageRow {
    /// What is counted.
    pub kind: UsageKind,
    /// How many there are.
    pub total: usize,
    /// How many of them are in use.
    pub active: usize,
    /// What they take.
    pub size: Size,
    /// What would be given back if all that are not in use were removed.
    pub reclaimable: Size,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageUsage {
    /// Its ID.
    pub id: ImageId,
    /// Its references, tags before digests.
    pub references: Vec<String>,
    /// When it was made (RFC 3339).
    pub created: Option<String>,
    /// What its directories take.
    pub size: Size,
    /// What other images have too.
    pub shared: u64,
    /// What no other image has: bytes on disk.
    pub unique: u64,
    /// What would be given back if the image were removed: nothing where a container or the build cache needs it.
    pub reclaimable: u64,
    /// Containers that were made from it.
    pub containers: usize,
}

impl View<'_> {
    /// Adds up what was measured. `images` asks for each image as well.
    #[must_use]
    pub fn usage(&self, sizes: &Sizes, copies: Copies, images: bool) -> Usage {
        let count = Count { view: self, sizes, roots: self.graph.roots(Roots::default()) };
        Usage {
            schema: SCHEMA,
            rows: vec![count.images(), count.containers(), count.layers(), count.build_cache(), count.unreferenced()],
            total: sizes.union(|_| true),
            copies: (copies.files > 0).then_some(copies),
            images: if images { count.each_image() } else { Vec::new() },
        }
    }
}

struct Count<'v> {
    view: &'v View<'v>,
    sizes: &'v Sizes,
    roots: Vec<Id>,
}

/// Directories.
type Dirs = HashSet<CacheId>;

impl Count<'_> {
    fn nodes(&self, is: impl Fn(&Node) -> bool) -> Vec<Id> {
        let graph = &self.view.graph;
        graph.ids().filter(|id| is(graph.node(*id)) && graph.is_present(*id)).collect()
    }

    /// Returns the directories that some nodes lead to.
    fn below(&self, nodes: &[Id]) -> Dirs {
        let graph = &self.view.graph;
        let directory = |id| match graph.node(id) {
            Node::Dir(dir) => Some(dir.clone()),
            _ => None,
        };
        graph.below(nodes).into_iter().filter_map(directory).collect()
    }

    fn row(&self, kind: UsageKind, counts: (usize, usize), dirs: &Dirs, gone: &Dirs) -> UsageRow {
        let size = self.sizes.union(|dir| dirs.contains(dir));
        let reclaimable = self.sizes.freed(|dir| gone.contains(dir));
        UsageRow { kind, total: counts.0, active: counts.1, size, reclaimable }
    }

    /// Returns the images that Docker lists.
    fn listed(&self) -> Vec<Id> {
        let graph = &self.view.graph;
        let mut images = self.nodes(|node| matches!(node, Node::Image(_)));
        images.retain(|image| graph.is_tagged(*image) || !graph.is_parent(*image));
        images
    }

    fn containers_of(&self, image: Id) -> usize {
        self.view.graph.to(image).iter().filter(|(edge, _)| *edge == Edge::MadeFrom).count()
    }

    fn images(&self) -> UsageRow {
        let graph = &self.view.graph;
        let listed = self.listed();
        let idle: HashSet<Id> = listed.iter().copied().filter(|image| self.containers_of(*image) == 0).collect();
        let is_idle =
            |root: Id| idle.contains(&root) || graph.follow(root, Edge::Names).is_some_and(|at| idle.contains(&at));
        let rest: Vec<Id> = self.roots.iter().copied().filter(|root| !is_idle(*root)).collect();
        let (all, kept) = (self.below(&listed), self.below(&rest));
        let gone = all.difference(&kept).cloned().collect();
        self.row(UsageKind::Images, (listed.len(), listed.len() - idle.len()), &all, &gone)
    }

    fn containers(&self) -> UsageRow {
        let graph = &self.view.graph;
        let containers: Vec<Id> = graph.ids().filter(|id| matches!(graph.node(*id), Node::Container(_))).collect();
        let is_active = |id: &Id| match graph.node(*id) {
            Node::Container(id) => self.view.container(id).is_some_and(is_active),
            _ => false,
        };
        let own = |containers: &mut dyn Iterator<Item = Id>| -> Dirs {
            let mounts = containers.filter_map(|id| graph.follow(id, Edge::Writes));
            let dirs = mounts.flat_map(|mount| [Edge::MountId, Edge::InitId].map(|edge| graph.follow(mount, edge)));
            dirs.flatten()
                .filter_map(|dir| match graph.node(dir) {
                    Node::Dir(dir) => Some(dir.clone()),
                    _ => None,
                })
                .collect()
        };
        let all = own(&mut containers.iter().copied());
        let gone = own(&mut containers.iter().copied().filter(|id| !is_active(id)));
        let active = containers.iter().filter(|id| is_active(id)).count();
        self.row(UsageKind::Containers, (containers.len(), active), &all, &gone)
    }

    fn layers(&self) -> UsageRow {
        let graph = &self.view.graph;
        let reach = graph.reach(&self.roots);
        let is_layer = |id: &Id| matches!(graph.node(*id), Node::Layer(_)) && graph.state(*id) != &State::Missing;
        let all: Vec<Id> = graph.ids().filter(is_layer).collect();
        let idle: Vec<Id> = all.iter().copied().filter(|id| !reach.has(*id)).collect();
        let (dirs, kept) = (self.below(&all), self.below(&self.roots));
        let gone = self.below(&idle).difference(&kept).cloned().collect();
        self.row(UsageKind::Layers, (all.len(), all.len() - idle.len()), &dirs, &gone)
    }

    fn build_cache(&self) -> UsageRow {
        let is_record = |id: &Id| matches!(self.view.graph.node(*id), Node::BuildRecord(_));
        let (records, rest): (Vec<Id>, Vec<Id>) = self.roots.iter().copied().partition(is_record);
        let alone: Dirs = self.below(&records).difference(&self.below(&rest)).cloned().collect();
        self.row(UsageKind::BuildCache, (records.len(), 0), &alone, &alone)
    }

    fn unreferenced(&self) -> UsageRow {
        let graph = &self.view.graph;
        let layers: Vec<Id> = graph.ids().filter(|id| matches!(graph.node(*id), Node::Layer(_))).collect();
        let named: Vec<Id> = self.roots.iter().copied().chain(layers).collect();
        let known = self.below(&named);
        let all = self.view.snapshot.driver_dirs.keys();
        let gone: Dirs = all.filter(|dir| !known.contains(*dir)).cloned().collect();
        self.row(UsageKind::UnreferencedDirectories, (gone.len(), 0), &gone, &gone)
    }

    fn each_image(&self) -> Vec<ImageUsage> {
        let graph = &self.view.graph;
        let listed = self.listed();
        let among_images = Holdings::among(graph, self.sizes, &listed);
        let among_all = Holdings::of(graph, self.sizes, &self.roots);
        let list = super::ImageList::of(self.view, false, &[]);
        list.images
            .into_iter()
            .filter_map(|image| Some((self.view.image_at(image.id)?, image)))
            .map(|(at, image)| {
                let size = self.sizes.union_of(&self.below(&[at]));
                let unique = among_images.with(at).disk;
                ImageUsage {
                    id: image.id,
                    references: [image.tags, image.digests].concat(),
                    created: image.created,
                    size,
                    shared: size.disk.saturating_sub(unique),
                    unique,
                    reclaimable: among_all.with(at).disk,
                    containers: self.containers_of(at),
                }
            })
            .collect()
    }
}

/// Tells whether a container ran at dockerd's last write.
fn is_active(container: &Container) -> bool {
    matches!(container.state.as_str(), "running" | "paused" | "restarting")
}
