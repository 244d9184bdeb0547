//! From a finding to the object it is about, and to what breaks by it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::driver::Driver;
use crate::finding::{Object, Thing};
use crate::graph::{Edge, Graph, Id, Node, Roots, State, reference_node};
use crate::id::{CacheId, ChainId, ContainerId, ImageId};
use crate::store::Snapshot;

use super::codes::{Effect, Meaning, Reach};

/// Images and containers that break by a finding, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// What it does to them.
    pub effect: Effect,
    /// Images, sorted by ID.
    pub images: Vec<BrokenImage>,
    /// Containers, sorted by ID.
    pub containers: Vec<BrokenContainer>,
}

/// An image that is broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BrokenImage {
    /// Its ID.
    pub id: ImageId,
    /// Its references; none for an image without.
    pub references: Vec<String>,
}

/// A container that is broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BrokenContainer {
    /// Its ID.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
}

impl BrokenImage {
    /// Returns what a person calls the image: its tags, else its digests, else its short ID.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let tags: Vec<String> = self.references.iter().filter(|name| !name.contains('@')).cloned().collect();
        match (tags.is_empty(), self.references.is_empty()) {
            (false, _) => tags,
            (true, false) => self.references.clone(),
            (true, true) => vec![self.id.short()],
        }
    }
}

/// What breaks, by object and meaning: all files of a layer break the same.
type Known = HashMap<(Option<Id>, Meaning), Arc<Broken>>;

/// Finds objects and what stands on them.
pub(super) struct Blast<'a> {
    snapshot: &'a Snapshot,
    graph: &'a Graph,
    driver: &'static Driver,
    /// References of images, also of those that are not there.
    references: BTreeMap<ImageId, Vec<String>>,
    known: RefCell<Known>,
    /// What something keeps.
    kept: crate::graph::Reach,
}

impl<'a> Blast<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, graph: &'a Graph, driver: &'static Driver) -> Self {
        let mut references: BTreeMap<ImageId, Vec<String>> = BTreeMap::new();
        for (reference, image) in &snapshot.references {
            references.entry(*image).or_default().push(reference.clone());
        }
        let kept = graph.reach(&graph.roots(Roots::default()));
        Self { snapshot, graph, driver, references, known: RefCell::default(), kept }
    }

    /// Finds the node that the object of a finding is. What is called by its identity must be known to the graph.
    pub(super) fn object(&self, object: &Object) -> Option<Node> {
        let known = |node: &Node| self.graph.find(node).is_some();
        let by_identity = object.place().is_none();
        let node = match &object.thing {
            Thing::Image(id) => Node::Image(*id),
            Thing::Layer(chain) => Node::Layer(*chain),
            Thing::Directory(id) | Thing::Lower(id) => Node::Dir(id.clone()),
            // A writable layer that is not called by its path is spoken of as the container, where there is one.
            Thing::Mount(id) => match Node::Container(id.clone()) {
                container if by_identity && known(&container) => container,
                _ => Node::Mount(id.clone()),
            },
            Thing::Container(id) => Node::Container(id.clone()),
            Thing::Reference(name) => reference_node(name),
            // A record of BuildKit's has the name of what it keeps, where that has one.
            Thing::BuildRecord(name) => {
                let layer = name.parse().ok().map(Node::Layer);
                let mount = ContainerId::parse(name.as_bytes()).ok().map(Node::Mount);
                let dir = CacheId::parse(name.as_bytes()).ok().map(Node::Dir);
                [layer, mount, dir].into_iter().flatten().find(known)?
            }
            Thing::Place(path) => return self.at_place(path),
        };
        (!by_identity || known(&node)).then_some(node)
    }

    /// Finds the node that lies at a path, where the reader did not know what it is: it could not open it, or no engine
    /// puts such a thing there.
    fn at_place(&self, path: &str) -> Option<Node> {
        if let Some(rest) = path.strip_prefix("image/").and_then(|rest| rest.strip_prefix(self.driver.name())) {
            return image_path(rest.strip_prefix('/')?);
        }
        if let Some(rest) = path.strip_prefix("containers/") {
            return ContainerId::parse(rest.split('/').next()?.as_bytes()).ok().map(Node::Container);
        }
        let rest = path.strip_prefix(self.driver.name())?.strip_prefix('/')?;
        let place = self.driver.places().find_map(|at| rest.strip_prefix(at)?.strip_prefix('/'));
        let name = place.unwrap_or(rest).split('/').next()?;
        CacheId::parse(name.as_bytes()).ok().map(Node::Dir).filter(|_| name != "l")
    }

    /// Tells whether anything keeps an object; what is no node counts as kept.
    pub(super) fn is_kept(&self, node: &Node) -> bool {
        self.graph.find(node).is_none_or(|id| self.kept.has(id))
    }

    /// Tells whether an object is a directory of a container or of BuildKit, and of no layer.
    pub(super) fn is_writable(&self, node: &Node) -> bool {
        let Some(id) = self.graph.find(node) else { return false };
        matches!(node, Node::Dir(_)) && !self.graph.to(id).iter().any(|(edge, _)| *edge == Edge::CacheId)
    }

    /// Returns what breaks by something that is wrong with `node`.
    pub(super) fn broken(&self, node: Option<&Node>, meaning: Meaning) -> Arc<Broken> {
        let at = node.and_then(|node| self.graph.find(node));
        if node.is_some() && at.is_none() {
            return Arc::new(self.find(node, at, meaning));
        }
        let known = self.known.borrow().get(&(at, meaning)).cloned();
        known.unwrap_or_else(|| {
            let found = Arc::new(self.find(node, at, meaning));
            self.known.borrow_mut().insert((at, meaning), Arc::clone(&found));
            found
        })
    }

    fn find(&self, node: Option<&Node>, at: Option<Id>, meaning: Meaning) -> Broken {
        let is_alone = meaning.reach == Reach::Itself;
        let found: Vec<Id> = match (meaning.reach, at) {
            (Reach::Everything, _) => self.graph.ids().collect(),
            (_, None) => Vec::new(),
            (Reach::Above, Some(at)) => self.climb(at, |edge| edge == Edge::ParentLayer || is_mounted_with(edge)),
            (Reach::Mounted, Some(at)) => {
                self.climb(self.graph.follow(at, Edge::CacheId).unwrap_or(at), is_mounted_with)
            }
            (Reach::Top, Some(at)) => self.climb(at, is_stacked_on),
            (Reach::Itself, Some(at)) => vec![at],
        };
        let mut broken = Broken { effect: meaning.effect, images: Vec::new(), containers: Vec::new() };
        for id in found {
            match self.graph.node(id) {
                Node::Image(image) if is_alone || *self.graph.state(id) != State::Missing => {
                    broken.images.push(self.image(*image));
                }
                Node::Container(container) => broken.containers.push(self.container(container)),
                Node::Tag(name) | Node::Digest(name) if is_alone => {
                    if let Some(image) = self.snapshot.references.get(name) {
                        broken.images.push(BrokenImage { id: *image, references: vec![name.clone()] });
                    }
                }
                _ => {}
            }
        }
        // An image that nothing refers to, and of which the configuration is damaged, is no node.
        if let (Some(Node::Image(image)), None, true) = (node, at, is_alone) {
            broken.images.push(self.image(*image));
        }
        if matches!(meaning.effect, Effect::Save | Effect::Pull | Effect::Names | Effect::Create) {
            // A container runs all the same.
            broken.containers.clear();
        }
        broken.images.sort();
        broken.containers.sort();
        broken
    }

    fn image(&self, id: ImageId) -> BrokenImage {
        BrokenImage { id, references: self.references.get(&id).cloned().unwrap_or_default() }
    }

    fn container(&self, id: &ContainerId) -> BrokenContainer {
        let name = self.snapshot.containers.get(id).map(|container| container.name.clone()).unwrap_or_default();
        BrokenContainer { id: id.clone(), name }
    }

    fn climb(&self, at: Id, climbed: impl Fn(Edge) -> bool) -> Vec<Id> {
        self.graph.above(at, climbed, |_| true).into_iter().map(|keeper| keeper.root).collect()
    }
}

/// Tells whether what an edge comes from is mounted with what it leads to. A container needs the layers of its image,
/// not the image.
fn is_mounted_with(edge: Edge) -> bool {
    is_stacked_on(edge) || matches!(edge, Edge::Lower | Edge::MountParent | Edge::ImageMount)
}

/// Tells whether an edge leads to a layer's directory from the images of which the layer is the topmost, or to a
/// container's directory from the container.
fn is_stacked_on(edge: Edge) -> bool {
    matches!(edge, Edge::Top | Edge::CacheId | Edge::MountId | Edge::InitId | Edge::Writes)
}

/// Finds the object at a path below `image/<driver>`.
fn image_path(path: &str) -> Option<Node> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["layerdb", "sha256", chain, ..] => ChainId::from_hex(chain.as_bytes()).ok().map(Node::Layer),
        ["layerdb", "mounts", name, ..] => ContainerId::parse(name.as_bytes()).ok().map(Node::Mount),
        ["imagedb", _, "sha256", id, ..] => ImageId::from_hex(id.as_bytes()).ok().map(Node::Image),
        _ => None,
    }
}
