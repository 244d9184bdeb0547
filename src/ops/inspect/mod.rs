//! Answers about a store, as data: lists, traces, keepers, usage. Nothing here touches a disk.
//!
//! Each answer is a document with a `schema` number that serialises as it is; the command line makes tables
//! of the same documents.

mod copies;
mod find;
mod follow;
mod glob;
mod list;
mod trace;
mod usage;
mod why;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::driver::Driver;
use crate::graph::{Graph, Id, Node};
use crate::id::{CacheId, ChainId, ContainerId, ImageId};
use crate::store::{Container, Snapshot, Store, places};

pub use copies::Copies;
pub use list::{ImageList, ListedImage, Row};
pub use trace::{
    Blob, ContainerTrace, DirTrace, Directory, ImageTrace, LayerTrace, MountTrace, OtherTrace, Tie, Trace, Traces,
};
pub use usage::{ImageUsage, Usage, UsageKind, UsageRow};
pub use why::{Answer, KeptBy, Step, Why};

/// Number of the form of all documents of this module.
pub const SCHEMA: u32 = 1;

/// A snapshot with its graph, and where the store is.
#[derive(Debug)]
pub struct View<'s> {
    /// What the store's files say.
    pub snapshot: &'s Snapshot,
    /// The same as nodes and edges.
    pub graph: Graph,
    driver: &'static Driver,
    root: PathBuf,
}

impl<'s> View<'s> {
    /// Looks at a snapshot of `store`.
    #[must_use]
    pub fn new(store: &Store, snapshot: &'s Snapshot) -> Self {
        Self::of(snapshot, store.path(), store.driver())
    }

    /// Looks at a snapshot of the store of `driver` at the data root `root`.
    #[must_use]
    pub fn of(snapshot: &'s Snapshot, root: &Path, driver: &'static Driver) -> Self {
        Self { snapshot, graph: Graph::of(snapshot), driver, root: root.to_owned() }
    }

    /// Returns the name of the graph driver.
    #[must_use]
    pub fn driver(&self) -> &'static Driver {
        self.driver
    }

    /// Returns the data root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where a node is, relative to the data root. Build records have no path of their own.
    #[must_use]
    pub fn path_of(&self, node: &Node) -> Option<String> {
        let driver = self.driver.name();
        Some(match node {
            Node::Tag(_) | Node::Digest(_) => places::in_root(driver, places::REFERENCES),
            Node::Container(id) => format!("containers/{id}"),
            Node::BuildRecord(_) => return None,
            Node::Image(id) => places::in_root(driver, places::image(id)),
            Node::Mount(id) => places::in_root(driver, places::mount(id)),
            Node::Layer(chain) => places::in_root(driver, places::layer(chain)),
            Node::Dir(id) => self.dir_path(id),
            // The graph names entries that dockerd was removing without the driver, which it does not know.
            Node::Stray(path) if path.starts_with(places::LAYERS) => places::in_root(driver, path),
            Node::Stray(path) => path.clone(),
        })
    }

    fn dir_path(&self, id: &CacheId) -> String {
        self.driver.path_of(id)
    }

    /// Returns the references of an image, tags before digests.
    #[must_use]
    pub fn references(&self, image: Id) -> Vec<String> {
        let to = self.graph.to(image);
        let names = to.iter().map(|(_, from)| self.graph.node(*from));
        let mut names: Vec<&Node> = names.filter(|node| matches!(node, Node::Tag(_) | Node::Digest(_))).collect();
        names.sort();
        names.into_iter().map(Node::id).collect()
    }

    fn container(&self, id: &ContainerId) -> Option<&'s Container> {
        self.snapshot.containers.get(id)
    }
}

/// A node with what a person calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The node.
    #[serde(flatten)]
    pub node: Node,
    /// What a person calls it, where that is not its identity: the name of a container, the first reference of
    /// an image, what BuildKit says of a record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl View<'_> {
    /// Adds to a node what a person calls it.
    #[must_use]
    pub fn named(&self, id: Id) -> Named {
        let node = self.graph.node(id).clone();
        let name = match &node {
            Node::Container(id) | Node::Mount(id) => self.container(id).map(|container| container.name.clone()),
            Node::Image(_) => self.references(id).into_iter().next(),
            Node::BuildRecord(key) => self.snapshot.build_records.get(key).map(|record| record.description.clone()),
            _ => None,
        };
        Named { node, name: name.filter(|name| !name.is_empty()) }
    }

    fn image_at(&self, id: ImageId) -> Option<Id> {
        self.graph.find(&Node::Image(id))
    }

    fn layer_at(&self, chain: ChainId) -> Option<Id> {
        self.graph.find(&Node::Layer(chain))
    }
}
