//! Who keeps what: typed nodes and edges over a store's [`Snapshot`](crate::store::Snapshot).
//!
//! Everything a snapshot names is a node, whether it is there or not: an edge that leads to nothing leads to a
//! node in state [`State::Missing`], and there is a [`Finding`] about it. Most edges *keep*: what they lead to must
//! stay while the thing they come from stays. The rest only tell ([`Edge::keeps`]).
//!
//! ```text
//! tag, digest ──► image ──► layer ──► layer (parent) …
//!                  │ ▲        │
//!       (parent)   ▼ │        ▼
//!                image     directory ──► directory (lower) …
//!                  ▲          ▲  ▲
//!             container ──► mount │
//!                        build record ──► layer
//! ```
//!
//! The graph is pure data: it is made from a snapshot and never looks at a disk. Sizes are measured apart
//! ([`Sizes`](crate::driver::Sizes)) and spread over it ([`Holdings`]).

mod build;
mod export;
mod holdings;
mod reach;
mod resolve;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use petgraph::graph::DiGraph;
use petgraph::visit::EdgeRef as _;
use petgraph::{Direction, Incoming, Outgoing};
use serde::Serialize;

use crate::finding::Finding;
use crate::id::{CacheId, ChainId, ContainerId, ImageId};

pub(crate) use build::reference_node;
pub use export::Format;
pub use holdings::Holdings;
pub use petgraph::graph::NodeIndex as Id;
pub use reach::{Keeper, Reach, Roots};
pub use resolve::{Selected, prefix_range, resolve_image, select_all, select_images};

/// A thing in a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "kind", content = "id", rename_all = "kebab-case")]
pub enum Node {
    /// A reference by tag, as it stands in `repositories.json`.
    Tag(String),
    /// A reference by digest, as it stands in `repositories.json`.
    Digest(String),
    /// A directory of `containers/`.
    Container(ContainerId),
    /// Something BuildKit keeps, by lease or record.
    BuildRecord(String),
    /// An image.
    Image(ImageId),
    /// An entry of `layerdb/mounts`.
    Mount(ContainerId),
    /// An entry of `layerdb/sha256` that bears the name of a layer.
    Layer(ChainId),
    /// A directory of the graph driver.
    Dir(CacheId),
    /// Something that Docker never looks at, by its path in the data root.
    Stray(String),
}

impl Node {
    /// Returns the name of the node's kind, kebab-case.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tag(_) => "tag",
            Self::Digest(_) => "digest",
            Self::Container(_) => "container",
            Self::BuildRecord(_) => "build-record",
            Self::Image(_) => "image",
            Self::Mount(_) => "mount",
            Self::Layer(_) => "layer",
            Self::Dir(_) => "dir",
            Self::Stray(_) => "stray",
        }
    }

    /// Returns the node's whole identity, as Docker writes it.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Tag(text) | Self::Digest(text) | Self::BuildRecord(text) | Self::Stray(text) => text.clone(),
            Self::Container(id) | Self::Mount(id) => id.to_string(),
            Self::Image(id) => id.to_string(),
            Self::Layer(id) => id.to_string(),
            Self::Dir(id) => id.to_string(),
        }
    }

    /// Returns the node's identity as tables show it: digests and random names cut to twelve digits.
    #[must_use]
    pub fn short(&self) -> String {
        match self {
            Self::Tag(text) | Self::Stray(text) => text.clone(),
            Self::Digest(text) => match text.split_once("@sha256:") {
                Some((name, hex)) => format!("{name}@sha256:{}", hex.get(..12).unwrap_or(hex)),
                None => text.clone(),
            },
            Self::BuildRecord(text) => shorten(text),
            Self::Container(id) | Self::Mount(id) => id.short().to_owned(),
            Self::Image(id) => id.short(),
            Self::Layer(id) => id.short(),
            Self::Dir(id) => shorten(id.as_str()),
        }
    }
}

/// Cuts a name of 64 characters to twelve; `-init` stays on. Others, such as BuildKit's, stay whole.
fn shorten(name: &str) -> String {
    let (random, init) = match name.strip_suffix("-init") {
        Some(random) => (random, "-init"),
        None => (name, ""),
    };
    // The lease of an image's layer has the layer's digest for a name.
    let random = random.strip_prefix("sha256:").unwrap_or(random);
    match random.get(..12).filter(|_| random.len() == 64) {
        Some(short) => format!("{short}{init}"),
        None => name.to_owned(),
    }
}

/// Writes kind and whole identity: `image sha256:…`.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.id())
    }
}

/// Whether a node is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is there and whole, as far as its metadata tells.
    Present,
    /// Something names it and it is not there.
    Missing,
    /// It is there, but dockerd does not take it; why.
    Broken(String),
}

/// How one node is tied to another. Reads as "from … to".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edge {
    /// A reference names an image.
    Names,
    /// An image's topmost layer.
    Top,
    /// The image that an image was built from. `docker image prune` leaves it while the later one is there.
    BuiltFrom,
    /// The layer below a layer.
    ParentLayer,
    /// A layer's directory (`cache-id`).
    CacheId,
    /// A directory that another one is stacked on (`lower`, `lower-id`).
    Lower,
    /// A container's writable layer.
    Writes,
    /// The image that a container was made from.
    MadeFrom,
    /// An image that a container mounts (Docker 28).
    ImageMount,
    /// The topmost layer below a writable layer.
    MountParent,
    /// A writable layer's directory (`mount-id`).
    MountId,
    /// A writable layer's init directory (`init-id`).
    InitId,
    /// What a build record keeps.
    Snapshot,
    /// A stray names a directory. Keeps nothing.
    Marks,
}

impl Edge {
    /// Tells whether what the edge leads to must stay while the thing it comes from stays.
    #[must_use]
    pub fn keeps(self) -> bool {
        self != Self::Marks
    }

    /// Returns the edge's name, kebab-case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Top => "top",
            Self::BuiltFrom => "built-from",
            Self::ParentLayer => "parent-layer",
            Self::CacheId => "cache-id",
            Self::Lower => "lower",
            Self::Writes => "writes",
            Self::MadeFrom => "made-from",
            Self::ImageMount => "image-mount",
            Self::MountParent => "mount-parent",
            Self::MountId => "mount-id",
            Self::InitId => "init-id",
            Self::Snapshot => "snapshot",
            Self::Marks => "marks",
        }
    }
}

/// A node with what the snapshot says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Vertex {
    node: Node,
    state: State,
    /// For mounts and build records: something that is not a node owns it. For containers: it is more than what a
    /// create or rm left that was cut off.
    owned: bool,
}

/// A store as nodes and edges.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    inner: DiGraph<Vertex, Edge>,
    places: HashMap<Node, Id>,
    findings: Vec<Finding>,
}

impl Graph {
    /// Returns all nodes: by kind, and sorted within each kind but for those that are missing.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        self.inner.node_indices()
    }

    /// Returns the number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.node_count()
    }

    /// Tells whether there is no node at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Finds a node.
    #[must_use]
    pub fn find(&self, node: &Node) -> Option<Id> {
        self.places.get(node).copied()
    }

    /// Returns the thing a node stands for.
    #[must_use]
    pub fn node(&self, id: Id) -> &Node {
        &self.inner[id].node
    }

    /// Tells whether the thing is there.
    #[must_use]
    pub fn state(&self, id: Id) -> &State {
        &self.inner[id].state
    }

    /// Tells whether the thing is there and whole.
    #[must_use]
    pub fn is_present(&self, id: Id) -> bool {
        self.inner[id].state == State::Present
    }

    /// Returns where a node leads to, sorted by edge and node.
    #[must_use]
    pub fn from(&self, id: Id) -> Vec<(Edge, Id)> {
        self.beside(id, Outgoing)
    }

    /// Returns what leads to a node, sorted by edge and node.
    #[must_use]
    pub fn to(&self, id: Id) -> Vec<(Edge, Id)> {
        self.beside(id, Incoming)
    }

    /// Returns the first node that an edge of this kind leads to.
    #[must_use]
    pub fn follow(&self, id: Id, edge: Edge) -> Option<Id> {
        self.from(id).into_iter().find_map(|(found, to)| (found == edge).then_some(to))
    }

    /// Returns what is damaged or odd in how things are tied together, sorted.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Tells whether anything that keeps leads to a node.
    #[must_use]
    pub fn is_kept(&self, id: Id) -> bool {
        self.inner.edges_directed(id, Incoming).any(|edge| edge.weight().keeps() && edge.source() != id)
    }

    fn beside(&self, id: Id, direction: Direction) -> Vec<(Edge, Id)> {
        let other = |edge: petgraph::graph::EdgeReference<'_, Edge>| match direction {
            Outgoing => edge.target(),
            Incoming => edge.source(),
        };
        let mut found: Vec<(Edge, Id)> =
            self.inner.edges_directed(id, direction).map(|edge| (*edge.weight(), other(edge))).collect();
        found.sort_unstable();
        found
    }
}
