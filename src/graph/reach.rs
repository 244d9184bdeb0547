//! What is kept, by whom, and what would go with what.

use std::collections::{HashSet, VecDeque};

use petgraph::Incoming;
use petgraph::algo::dominators::simple_fast;
use petgraph::graph::DiGraph;
use petgraph::visit::{Dfs, DfsPostOrder, EdgeFiltered, EdgeRef as _};

use super::{Edge, Graph, Id, Node, State};
use crate::finding::{Code, Finding};
use crate::store::{Snapshot, Unknown};

/// Which nodes stay by themselves. References, containers and mounts with an owner always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roots {
    /// Images without a reference stay, as dockerd leaves them. Otherwise they go as `docker image prune` takes
    /// them: one that a kept image was built from stays.
    pub untagged_images: bool,
    /// What BuildKit's leases and records name stays.
    pub build_records: bool,
    /// What BuildKit lost track of stays: it never comes back for it, but its names are in `snapshots.db`.
    pub leaked_build_records: bool,
    /// Directories of containers stay although a create or rm that was cut off left them without a configuration.
    pub abandoned_containers: bool,
}

impl Default for Roots {
    /// Everything stays that dockerd or BuildKit would not remove by itself.
    fn default() -> Self {
        Self { untagged_images: true, build_records: true, leaked_build_records: true, abandoned_containers: true }
    }
}

/// The nodes that are reached from some others over edges that keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach(Vec<bool>);

impl Reach {
    /// Tells whether the node is reached.
    #[must_use]
    pub fn has(&self, id: Id) -> bool {
        self.0.get(id.index()).copied().unwrap_or(false)
    }
}

/// Something that keeps a node by itself, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keeper {
    /// The root.
    pub root: Id,
    /// The shortest way from the root to the kept node: each step is an edge and where it leads to. Empty where
    /// the kept node is a root itself.
    pub way: Vec<(Edge, Id)>,
}

impl Graph {
    /// Returns the nodes that stay by themselves, in the graph's order.
    #[must_use]
    pub fn roots(&self, roots: Roots) -> Vec<Id> {
        let mut found: Vec<Id> = self.ids().filter(|id| self.is_root(*id, roots)).collect();
        if roots.untagged_images {
            // Images that were built from each other in a circle have no first one.
            let reached = self.reach(&found);
            found.extend(self.ids().filter(|id| matches!(self.node(*id), Node::Image(_)) && !reached.has(*id)));
            found.sort_unstable();
        }
        found
    }

    fn is_root(&self, id: Id, roots: Roots) -> bool {
        let owned = self.inner[id].owned;
        match self.node(id) {
            Node::Tag(_) | Node::Digest(_) => true,
            Node::Container(_) => owned || roots.abandoned_containers,
            Node::Mount(_) => owned,
            Node::BuildRecord(_) if owned => roots.build_records,
            Node::BuildRecord(_) => roots.leaked_build_records,
            Node::Image(_) => {
                roots.untagged_images && self.state(id) != &State::Missing && !self.is_tagged(id) && !self.is_parent(id)
            }
            Node::Layer(_) | Node::Dir(_) | Node::Stray(_) => false,
        }
    }

    /// Tells whether a reference names this image.
    #[must_use]
    pub fn is_tagged(&self, image: Id) -> bool {
        self.inner.edges_directed(image, Incoming).any(|edge| *edge.weight() == Edge::Names)
    }

    /// Tells whether another image was built from this one. Docker hides such images unless they are tagged.
    #[must_use]
    pub fn is_parent(&self, image: Id) -> bool {
        let built = |edge: Edge| edge == Edge::BuiltFrom;
        self.inner.edges_directed(image, Incoming).any(|edge| built(*edge.weight()) && edge.source() != image)
    }

    /// Follows the edges that keep from all of `roots`; the roots themselves are reached too.
    #[must_use]
    pub fn reach(&self, roots: &[Id]) -> Reach {
        let mut reached = vec![false; self.len()];
        for id in self.below(roots) {
            reached[id.index()] = true;
        }
        Reach(reached)
    }

    /// Returns what is reached from `roots` over edges that keep, the roots themselves too, each once.
    #[must_use]
    pub fn below(&self, roots: &[Id]) -> Vec<Id> {
        let kept = EdgeFiltered::from_fn(&self.inner, |edge| edge.weight().keeps());
        let mut found = Vec::new();
        let mut walk = Dfs::empty(&kept);
        for root in roots {
            walk.move_to(*root);
            while let Some(id) = walk.next(&kept) {
                found.push(id);
            }
        }
        found
    }

    /// Returns which of `roots` keep a node, each with the shortest way, nearest first. A container's
    /// writable layer is not named beside the container. What keeps a node only because an image was built from
    /// another comes last.
    #[must_use]
    pub fn keepers(&self, kept: Id, roots: &[Id]) -> Vec<Keeper> {
        let mut is_root = vec![false; self.len()];
        for root in roots {
            is_root[root.index()] = true;
        }
        let wanted = |id: Id| is_root[id.index()] && !self.has_container(id);
        let mut keepers = self.above(kept, |edge| edge.keeps() && edge != Edge::BuiltFrom, wanted);
        let known: HashSet<Id> = keepers.iter().map(|keeper| keeper.root).collect();
        keepers.extend(self.above(kept, Edge::keeps, |id| wanted(id) && !known.contains(&id)));
        keepers
    }

    /// Returns the first things above a node, whether they are roots or not: what a node that nothing keeps
    /// was once kept by. The node itself is not among them.
    #[must_use]
    pub fn tops(&self, kept: Id) -> Vec<Keeper> {
        self.above(kept, Edge::keeps, |id| id != kept && !self.is_kept(id))
    }

    /// Climbs the edges that are `climbed`, breadth first, and returns each node that is `wanted` with the
    /// shortest way.
    pub(crate) fn above(&self, kept: Id, climbed: impl Fn(Edge) -> bool, wanted: impl Fn(Id) -> bool) -> Vec<Keeper> {
        let mut next: Vec<Option<(Edge, Id)>> = vec![None; self.len()];
        let mut seen = vec![false; self.len()];
        seen[kept.index()] = true;
        let mut waiting = VecDeque::from([kept]);
        let mut found = Vec::new();
        while let Some(id) = waiting.pop_front() {
            if wanted(id) {
                let way = std::iter::successors(next[id.index()], |(_, at)| next[at.index()]).collect();
                found.push(Keeper { root: id, way });
            }
            for (edge, from) in self.to(id) {
                if climbed(edge) && !std::mem::replace(&mut seen[from.index()], true) {
                    next[from.index()] = Some((edge, id));
                    waiting.push_back(from);
                }
            }
        }
        found
    }

    /// Tells what may keep directories that cannot be named, because a file that would name them cannot be read.
    /// While there is any, no directory that nothing keeps may be called garbage. `reach` says what is kept.
    #[must_use]
    pub fn unknowns(&self, snapshot: &Snapshot, reach: &Reach) -> Vec<Finding> {
        let unreadable = snapshot.unreadable.iter().filter(|unreadable| unreadable.what != Unknown::Distribution);
        let mut found: Vec<Finding> =
            unreadable.map(|unreadable| Finding::new(Code::Unreadable, &unreadable.path, &unreadable.reason)).collect();
        for id in self.ids().filter(|id| reach.has(*id)) {
            let (State::Broken(reason), node) = (self.state(id), self.node(id)) else { continue };
            let names_one = |edge: Edge| self.follow(id, edge).is_some();
            let unknown = match node {
                Node::Layer(_) => !names_one(Edge::CacheId),
                Node::Mount(_) => !names_one(Edge::MountId),
                _ => false,
            };
            if unknown {
                found.push(Finding::new(Code::DirectoryUnknown, node.to_string(), reason));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    fn has_container(&self, id: Id) -> bool {
        matches!(self.node(id), Node::Mount(_)) && self.is_kept(id)
    }

    /// Spreads weights over the dominator tree of everything that `roots` reach: the answer tells for each node
    /// how much would go with it. `weights` are those of nodes; each of `groups` is held by several nodes
    /// together and goes when the last of them goes.
    pub(super) fn dominated<W>(&self, roots: &[Id], weights: &[W], groups: &[(Vec<Id>, W)]) -> Vec<W>
    where
        W: Copy + Default + std::ops::AddAssign,
    {
        // One node above all roots, and one below the holders of each group.
        let mut graph: DiGraph<(), ()> = DiGraph::with_capacity(self.len() + groups.len() + 1, 0);
        for _ in 0..=self.len() + groups.len() {
            graph.add_node(());
        }
        let group_at = |group: usize| Id::new(self.len() + group);
        let top = Id::new(self.len() + groups.len());
        for edge in self.inner.edge_references().filter(|edge| edge.weight().keeps()) {
            graph.add_edge(edge.source(), edge.target(), ());
        }
        for (at, (holders, _)) in groups.iter().enumerate() {
            for holder in holders {
                graph.add_edge(*holder, group_at(at), ());
            }
        }
        for root in roots {
            graph.add_edge(top, *root, ());
        }
        let dominators = simple_fast(&graph, top);
        let mut sums = weights.to_vec();
        sums.extend(groups.iter().map(|(_, weight)| *weight));
        sums.push(W::default());
        // A node comes after everything it dominates.
        let mut walk = DfsPostOrder::new(&graph, top);
        while let Some(id) = walk.next(&graph) {
            if let Some(above) = dominators.immediate_dominator(id) {
                let sum = sums[id.index()];
                sums[above.index()] += sum;
            }
        }
        sums.truncate(self.len());
        sums
    }
}
