//! From a finding to the object it is about, and to what breaks by it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::graph::{Edge, Graph, Id, Node, Roots, State};
use crate::id::{CacheId, ChainId, ContainerId, ImageId};
use crate::store::Snapshot;

use super::codes::{Effect, Meaning, Reach};

/// What breaks by a finding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Broken {
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

/// Finds objects and what stands on them.
pub(super) struct Blast<'a> {
    snapshot: &'a Snapshot,
    graph: &'a Graph,
    driver: &'a str,
    /// References of images, also of those that are not there.
    references: BTreeMap<ImageId, Vec<String>>,
    known: RefCell<HashMap<(Option<Id>, Reach), Arc<Broken>>>,
    /// What something keeps.
    kept: crate::graph::Reach,
}

impl<'a> Blast<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, graph: &'a Graph, driver: &'a str) -> Self {
        let mut references: BTreeMap<ImageId, Vec<String>> = BTreeMap::new();
        for (reference, image) in &snapshot.references {
            references.entry(*image).or_default().push(reference.clone());
        }
        let kept = graph.reach(&graph.roots(Roots::default()));
        Self { snapshot, graph, driver, references, known: RefCell::default(), kept }
    }

    /// Finds the object that a finding's subject names: a path below the data root, or an identity.
    pub(super) fn object(&self, subject: &str) -> Option<Node> {
        if let Some(rest) = subject.strip_prefix("image/").and_then(|rest| rest.strip_prefix(self.driver)) {
            return image_path(rest.strip_prefix('/')?);
        }
        if let Some(rest) = subject.strip_prefix("containers/") {
            return ContainerId::parse(rest.split('/').next()?.as_bytes()).ok().map(Node::Container);
        }
        if let Some(rest) = subject.strip_prefix(self.driver).and_then(|rest| rest.strip_prefix('/')) {
            let name = rest.split('/').next()?;
            return CacheId::parse(name.as_bytes()).ok().map(Node::Dir).filter(|_| name != "l");
        }
        let candidates = [
            subject.parse().ok().map(Node::Layer),
            subject.parse().ok().map(Node::Image),
            ContainerId::parse(subject.as_bytes()).ok().map(Node::Container),
            ContainerId::parse(subject.as_bytes()).ok().map(Node::Mount),
            CacheId::parse(subject.as_bytes()).ok().map(Node::Dir),
            Some(Node::Tag(subject.to_owned())),
            Some(Node::Digest(subject.to_owned())),
        ];
        candidates.into_iter().flatten().find(|node| self.graph.find(node).is_some())
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
        let key = (at, meaning.reach);
        let all = match self.known.borrow().get(&key) {
            Some(known) => Some(Arc::clone(known)),
            None => None,
        };
        let all = all.unwrap_or_else(|| {
            let found = Arc::new(self.find(node, at, meaning.reach));
            self.known.borrow_mut().insert(key, Arc::clone(&found));
            found
        });
        // What cannot be saved or pulled runs all the same.
        match meaning.effect {
            Effect::Save | Effect::Pull | Effect::Names if !all.containers.is_empty() => {
                Arc::new(Broken { containers: Vec::new(), ..(*all).clone() })
            }
            _ => all,
        }
    }

    fn find(&self, node: Option<&Node>, at: Option<Id>, reach: Reach) -> Broken {
        let found: Vec<Id> = match (reach, at) {
            (Reach::Everything, _) => self.graph.ids().collect(),
            (Reach::Nothing, _) | (_, None) => Vec::new(),
            (Reach::Above, Some(at)) => self.above(at),
            (Reach::Top, Some(at)) => self.on_top(at),
            (Reach::Itself, Some(at)) => vec![at],
        };
        let mut broken = Broken::default();
        for id in found {
            match self.graph.node(id) {
                Node::Image(image) if self.is_there(id) || reach == Reach::Itself => {
                    broken.images.push(self.image(*image));
                }
                Node::Container(container) => broken.containers.push(self.container(container)),
                Node::Tag(name) | Node::Digest(name) if reach == Reach::Itself => {
                    if let Some(image) = self.snapshot.references.get(name) {
                        broken.images.push(BrokenImage { id: *image, references: vec![name.clone()] });
                    }
                }
                _ => {}
            }
        }
        // An image that is referred to and not there is no node of a layer's.
        if let (Some(Node::Image(image)), None) = (node, at) {
            broken.images.push(self.image(*image));
        }
        broken.images.sort();
        broken.containers.sort();
        broken
    }

    fn is_there(&self, id: Id) -> bool {
        *self.graph.state(id) != State::Missing
    }

    fn image(&self, id: ImageId) -> BrokenImage {
        BrokenImage { id, references: self.references.get(&id).cloned().unwrap_or_default() }
    }

    fn container(&self, id: &ContainerId) -> BrokenContainer {
        let name = self.snapshot.containers.get(id).map(|container| container.name.clone()).unwrap_or_default();
        BrokenContainer { id: id.clone(), name }
    }

    /// Climbs to all that needs the files of `at`. A container needs the layers of its image, not the image.
    fn above(&self, at: Id) -> Vec<Id> {
        let needs = |edge: Edge| {
            matches!(
                edge,
                Edge::Top
                    | Edge::ParentLayer
                    | Edge::CacheId
                    | Edge::Lower
                    | Edge::MountParent
                    | Edge::MountId
                    | Edge::InitId
                    | Edge::Writes
                    | Edge::ImageMount
            )
        };
        self.graph.above(at, needs, |_| true).into_iter().map(|keeper| keeper.root).collect()
    }

    /// Climbs to the images of which `at` is the topmost layer, or its directory; and from a container's
    /// directories to the container.
    fn on_top(&self, at: Id) -> Vec<Id> {
        let needs =
            |edge: Edge| matches!(edge, Edge::Top | Edge::CacheId | Edge::MountId | Edge::InitId | Edge::Writes);
        self.graph.above(at, needs, |_| true).into_iter().map(|keeper| keeper.root).collect()
    }
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
