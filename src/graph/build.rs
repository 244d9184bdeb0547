//! From a snapshot to its graph. Pure.

use std::collections::HashMap;

use super::{Edge, Graph, Id, Node, State, Vertex};
use crate::finding::{Code, Finding, Severity, Thing};
use crate::id::{BUILDKIT_NAME, ChainId, ContainerId, DiffId, ImageId};
use crate::store::{BuildRecord, Container, Image, Mount, Snapshot, StrayKind, Unknown, places};

impl Graph {
    /// Makes the graph of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut builder = Builder { graph: Self::default(), snapshot, chains: HashMap::new() };
        builder.add_nodes();
        builder.add_edges();
        let mut graph = builder.graph;
        graph.findings.sort();
        graph.findings.dedup();
        graph
    }
}

struct Builder<'s> {
    graph: Graph,
    snapshot: &'s Snapshot,
    /// Chain IDs that were computed: most images share most of theirs.
    chains: HashMap<(Option<ChainId>, DiffId), ChainId>,
}

impl Builder<'_> {
    /// Adds what is there, so that whatever is added later is missing.
    fn add_nodes(&mut self) {
        let snapshot = self.snapshot;
        for key in snapshot.references.keys() {
            self.add(reference_node(key), State::Present);
        }
        for (id, container) in &snapshot.containers {
            let state = match (container.readable, container.config_missing) {
                (true, _) => State::Present,
                (false, false) => State::Broken("its configuration cannot be read".to_owned()),
                (false, true) => State::Broken("it has no configuration".to_owned()),
            };
            let place = self.add(Node::Container(id.clone()), state);
            self.graph.inner[place].owned = !snapshot.is_abandoned(id);
        }
        for (key, record) in &snapshot.build_records {
            let id = self.add(Node::BuildRecord(key.clone()), State::Present);
            self.graph.inner[id].owned = record.owned;
        }
        for id in snapshot.images.keys() {
            self.add(Node::Image(*id), State::Present);
        }
        // What an unreadable container mounts is not known: then every mount may be someone's.
        let all_owned = snapshot.containers.iter().any(|(id, c)| !c.readable && !snapshot.is_abandoned(id))
            || snapshot.unreadable.iter().any(|unreadable| unreadable.what == Unknown::Containers);
        for (id, mount) in &snapshot.mounts {
            let state = match mount.mount_id {
                Some(_) => State::Present,
                None => State::Broken("its mount-id cannot be read".to_owned()),
            };
            let owned = all_owned || id.as_str().len() == BUILDKIT_NAME;
            let id = self.add(Node::Mount(id.clone()), state);
            self.graph.inner[id].owned = owned;
        }
        for chain in snapshot.layers.keys() {
            self.add(Node::Layer(*chain), State::Present);
        }
        for (name, layer) in &snapshot.broken_layers {
            self.add(broken_node(name, layer.removing), State::Broken(layer.reason.clone()));
        }
        for id in snapshot.driver_dirs.keys() {
            self.add(Node::Dir(id.clone()), State::Present);
        }
        for stray in &snapshot.strays {
            self.add(Node::Stray(stray.path.clone()), State::Present);
        }
    }

    fn add_edges(&mut self) {
        let snapshot = self.snapshot;
        for (key, image) in &snapshot.references {
            self.tie_reference(key, *image);
        }
        for (id, image) in &snapshot.images {
            self.tie_image(*id, image);
        }
        self.tie_layers();
        for (id, mount) in &snapshot.mounts {
            self.tie_mount(id, mount);
        }
        for (id, container) in &snapshot.containers {
            self.tie_container(id, container);
        }
        for (key, record) in &snapshot.build_records {
            self.tie_build_record(key, record);
        }
        self.tie_directories();
        for stray in &snapshot.strays {
            if let Some(dir) = &stray.cache_id {
                let from = self.place(Node::Stray(stray.path.clone()));
                self.tie(from, Edge::Marks, Node::Dir(dir.clone()));
            }
        }
    }

    fn tie_reference(&mut self, key: &str, image: ImageId) {
        let from = self.place(reference_node(key));
        if self.tie(from, Edge::Names, Node::Image(image)) {
            return;
        }
        let hex = image.hex();
        let invalid = self
            .snapshot
            .strays
            .iter()
            .any(|stray| stray.kind == StrayKind::InvalidImage && stray.path.ends_with(&hex));
        let why = if invalid { "dockerd does not take the configuration of" } else { "there is no" };
        let finding =
            Finding::new(Code::ReferenceWithoutImage, Thing::Reference(key.to_owned()), format!("{why} image {image}"));
        self.find(finding.as_bad_as(Severity::Note));
    }

    fn tie_image(&mut self, id: ImageId, image: &Image) {
        let from = self.place(Node::Image(id));
        if let Some(parent) = image.parent
            && !self.tie(from, Edge::BuiltFrom, Node::Image(parent))
        {
            self.find(Finding::new(Code::ImageParentMissing, id, format!("it was built from {parent}")));
        }
        let mut parent = None;
        let mut chain = Vec::with_capacity(image.diff_ids.len());
        for diff in &image.diff_ids {
            let next = *self.chains.entry((parent, *diff)).or_insert_with(|| ChainId::stack(parent, *diff));
            chain.push(next);
            parent = Some(next);
        }
        let Some(top) = chain.last() else { return };
        self.tie(from, Edge::Top, Node::Layer(*top));
        // Of a broken chain, what is left stays tied to the image: an archive may bring back the rest.
        let mut broken = Vec::new();
        for (place, layer) in chain.iter().enumerate().rev() {
            if self.snapshot.layers.contains_key(layer) {
                break;
            }
            broken.push(*layer);
            if let Some(below) = place.checked_sub(1) {
                let from = self.place(Node::Layer(*layer));
                self.tie(from, Edge::ParentLayer, Node::Layer(chain[below]));
            }
        }
        if let Some(lowest) = broken.last() {
            let evidence = match self.snapshot.broken_layers.get(&lowest.hex()) {
                Some(layer) => format!("layer {lowest} is broken: {}", layer.reason),
                None => format!("layer {lowest} is missing"),
            };
            let evidence = match broken.len() - 1 {
                0 => evidence,
                above => format!("{evidence}, and with it {above} above it"),
            };
            self.find(Finding::new(Code::ImageLayerMissing, id, evidence));
        }
    }

    fn tie_layers(&mut self) {
        let snapshot = self.snapshot;
        for (chain, layer) in &snapshot.layers {
            let from = self.place(Node::Layer(*chain));
            if let Some(parent) = layer.parent {
                self.tie(from, Edge::ParentLayer, Node::Layer(parent));
            }
            if !self.tie(from, Edge::CacheId, Node::Dir(layer.cache_id.clone())) {
                self.find(Finding::new(
                    Code::LayerDirectoryMissing,
                    *chain,
                    format!("there is no directory {}", layer.cache_id),
                ));
            }
        }
        for (name, layer) in &snapshot.broken_layers {
            let node = broken_node(name, layer.removing);
            let edge = if matches!(node, Node::Layer(_)) { Edge::CacheId } else { Edge::Marks };
            let from = self.place(node);
            if let Some(dir) = &layer.cache_id {
                self.tie(from, edge, Node::Dir(dir.clone()));
            }
            if let (Some(parent), Edge::CacheId) = (layer.parent, edge) {
                self.tie(from, Edge::ParentLayer, Node::Layer(parent));
            }
        }
    }

    fn tie_mount(&mut self, name: &ContainerId, mount: &Mount) {
        let from = self.place(Node::Mount(name.clone()));
        if let Some(parent) = mount.parent
            && !self.tie(from, Edge::MountParent, Node::Layer(parent))
        {
            self.find(Finding::new(
                Code::MountLayerMissing,
                Thing::Mount(name.clone()),
                format!("its layer {parent} is not there"),
            ));
        }
        for (edge, dir) in [(Edge::MountId, &mount.mount_id), (Edge::InitId, &mount.init_id)] {
            if let Some(dir) = dir
                && !self.tie(from, edge, Node::Dir(dir.clone()))
            {
                self.find(Finding::new(
                    Code::MountDirectoryMissing,
                    Thing::Mount(name.clone()),
                    format!("there is no directory {dir}"),
                ));
            }
        }
    }

    fn tie_container(&mut self, id: &ContainerId, container: &Container) {
        let from = self.place(Node::Container(id.clone()));
        // Of a container of another graph driver, or of the containerd store, all is there. dockerd skips it meanwhile.
        let is_of_another = ![&self.snapshot.driver, ""].contains(&container.driver.as_str());
        if self.snapshot.mounts.contains_key(id) {
            self.tie(from, Edge::Writes, Node::Mount(id.clone()));
        } else if is_of_another {
            let evidence = format!("{} is in another store of this data root", described(container));
            self.find(Finding::new(Code::ContainerOfAnotherStore, Thing::Container(id.clone()), evidence));
        } else {
            let evidence = format!("{} has no entry in {}", described(container), places::MOUNTS);
            self.find(
                Finding::new(Code::ContainerWithoutMount, Thing::Container(id.clone()), evidence)
                    .as_bad_as(Severity::Warning),
            );
        }
        // What it was made from may be there too, and then it stays.
        if let Some(image) = container.image
            && !self.tie(from, Edge::MadeFrom, Node::Image(image))
            && !is_of_another
        {
            let evidence = format!("{} was made from {image}, which is not there", described(container));
            self.find(Finding::new(Code::ContainerImageMissing, Thing::Container(id.clone()), evidence));
        }
        for mount in &container.image_mounts {
            if !self.tie(from, Edge::ImageMount, Node::Mount(mount.clone())) && !is_of_another {
                let evidence = format!("{} mounts an image by {mount}, which is not there", described(container));
                let finding = Finding::new(Code::ContainerImageMountMissing, Thing::Container(id.clone()), evidence);
                self.find(finding.as_bad_as(Severity::Warning));
            }
        }
    }

    fn tie_build_record(&mut self, key: &str, record: &BuildRecord) {
        let from = self.place(Node::BuildRecord(key.to_owned()));
        let nodes = record.layers.iter().map(|chain| Node::Layer(*chain));
        for node in nodes.chain(record.dirs.iter().map(|dir| Node::Dir(dir.clone()))) {
            let what = node.to_string();
            if !self.tie(from, Edge::Snapshot, node) {
                self.find(Finding::new(
                    Code::BuildRecordDangling,
                    Thing::BuildRecord(key.to_owned()),
                    format!("{what} is not there"),
                ));
            }
        }
    }

    /// Ties each directory to what it is stacked on. `lower` names all below at once; where the next one
    /// names the same rest, one edge says as much, and a chain of n layers has n edges and not n²/2.
    fn tie_directories(&mut self) {
        let snapshot = self.snapshot;
        for (id, dir) in &snapshot.driver_dirs {
            let from = self.place(Node::Dir(id.clone()));
            let Some((next, rest)) = dir.lower.split_first() else { continue };
            let next_says_rest = snapshot.driver_dirs.get(next).is_some_and(|below| below.lower == rest);
            let named = if next_says_rest { std::slice::from_ref(next) } else { &dir.lower[..] };
            for lower in named {
                if !self.tie(from, Edge::Lower, Node::Dir(lower.clone())) {
                    self.find(Finding::new(
                        Code::LowerDirectoryMissing,
                        Thing::Directory(id.clone()),
                        format!("it is stacked on {lower}"),
                    ));
                }
            }
        }
    }

    fn add(&mut self, node: Node, state: State) -> Id {
        if let Some(id) = self.graph.find(&node) {
            return id;
        }
        let id = self.graph.inner.add_node(Vertex { node: node.clone(), state, owned: false });
        self.graph.places.insert(node, id);
        id
    }

    fn place(&mut self, node: Node) -> Id {
        self.add(node, State::Missing)
    }

    /// Adds an edge, once, and tells whether it leads to something that is there.
    fn tie(&mut self, from: Id, edge: Edge, to: Node) -> bool {
        let to = self.place(to);
        let inner = &mut self.graph.inner;
        if !inner.edges_connecting(from, to).any(|found| *found.weight() == edge) {
            inner.add_edge(from, to, edge);
        }
        inner[to].state != State::Missing
    }

    fn find(&mut self, finding: Finding) {
        self.graph.findings.push(finding);
    }
}

pub(crate) fn reference_node(key: &str) -> Node {
    if key.contains('@') { Node::Digest(key.to_owned()) } else { Node::Tag(key.to_owned()) }
}

/// Returns the node of an entry that dockerd does not load. One it was removing has lost its name.
fn broken_node(name: &str, removing: bool) -> Node {
    match ChainId::from_hex(name.as_bytes()) {
        Ok(chain) if !removing => Node::Layer(chain),
        _ => Node::Stray(places::layer_named(name)),
    }
}

fn described(container: &Container) -> String {
    match (container.name.as_str(), container.driver.as_str()) {
        ("", _) => "the container".to_owned(),
        (name, "") => format!("container {name}"),
        (name, driver) => format!("container {name} (driver {driver})"),
    }
}
