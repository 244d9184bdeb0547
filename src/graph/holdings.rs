//! How much would go with each node.

use super::{Graph, Id, Node};
use crate::driver::Sizes;
use crate::fsx::Size;

/// How much would go with each node of a graph, if nothing but it were removed.
#[derive(Debug, Clone)]
pub struct Holdings(Vec<Size>);

impl Holdings {
    /// Spreads sizes over a graph, where `roots` are what stays by itself. A node that no root reaches
    /// counts as if it were a root, as long as nothing else leads to it.
    #[must_use]
    pub fn of(graph: &Graph, sizes: &Sizes, roots: &[Id]) -> Self {
        let reached = graph.reach(roots);
        let garbage = graph.ids().filter(|id| !reached.has(*id) && !graph.is_kept(*id));
        let all: Vec<Id> = roots.iter().copied().chain(garbage).collect();
        Self::among(graph, sizes, &all)
    }

    /// As [`Holdings::of`], as if nothing but `nodes` were there to keep anything.
    #[must_use]
    pub fn among(graph: &Graph, sizes: &Sizes, nodes: &[Id]) -> Self {
        let mut weights = vec![Size::default(); graph.len()];
        for (dir, size) in sizes.alone() {
            if let Some(id) = graph.find(&Node::Dir(dir.clone())) {
                weights[id.index()] = size;
            }
        }
        let groups: Vec<(Vec<Id>, Size)> = sizes
            .groups()
            .iter()
            .filter(|group| !group.outside)
            .map(|group| {
                let holders = group.dirs.iter().filter_map(|dir| graph.find(&Node::Dir(dir.clone())));
                (holders.collect(), group.size)
            })
            .collect();
        Self(graph.dominated(nodes, &weights, &groups))
    }

    /// Returns how much would go with a node.
    #[must_use]
    pub fn with(&self, id: Id) -> Size {
        self.0.get(id.index()).copied().unwrap_or_default()
    }
}
