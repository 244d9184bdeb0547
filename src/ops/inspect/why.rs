//! Who keeps a thing, and how.

use serde::Serialize;

use super::{Named, SCHEMA, View};
use crate::finding::Finding;
use crate::graph::{Edge, Id, Keeper, Roots, State};

/// Answers to "why is this still here".
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Why {
    /// Number of the document's form.
    pub schema: u32,
    /// What may keep things without our knowing.
    pub unknowns: Vec<Finding>,
    /// One for each thing.
    pub answers: Vec<Answer>,
}

/// Who keeps one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The thing.
    #[serde(flatten)]
    pub thing: Named,
    /// Its path in the data root.
    pub path: Option<String>,
    /// Whether it is there.
    pub state: State,
    /// Whether anything keeps it. Where not, dockerd never comes back for it.
    pub kept: bool,
    /// Whether that is certain: where files cannot be read, something may keep it that does not show. What is kept
    /// is certain.
    pub certain: bool,
    /// Everything that keeps it by itself: references, containers, build records, images without a reference.
    pub keepers: Vec<KeptBy>,
    /// Where nothing keeps it: what names it all the same, and is kept by nothing either.
    pub named_by: Vec<KeptBy>,
}

/// One keeper and the way from it to the thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptBy {
    /// The keeper.
    #[serde(flatten)]
    pub root: Named,
    /// The shortest way, without the keeper; empty where the thing stays by itself.
    pub way: Vec<Step>,
}

/// One step of a way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The edge.
    pub edge: Edge,
    /// Where it leads to.
    #[serde(flatten)]
    pub to: Named,
}

impl View<'_> {
    /// Answers for things.
    #[must_use]
    pub fn why(&self, things: impl IntoIterator<Item = Id>) -> Why {
        let roots = self.graph.roots(Roots::default());
        let unknowns = self.graph.unknowns(self.snapshot, &self.graph.reach(&roots));
        let answers = things.into_iter().map(|id| self.answer(id, &roots, unknowns.is_empty())).collect();
        Why { schema: SCHEMA, unknowns, answers }
    }

    fn answer(&self, id: Id, roots: &[Id], all_known: bool) -> Answer {
        let keepers = self.kept_by(self.graph.keepers(id, roots));
        let named_by = if keepers.is_empty() { self.named_by(id) } else { Vec::new() };
        Answer {
            thing: self.named(id),
            path: self.path_of(self.graph.node(id)),
            state: self.graph.state(id).clone(),
            kept: !keepers.is_empty(),
            certain: all_known || !keepers.is_empty(),
            keepers,
            named_by,
        }
    }

    /// Returns what once kept a thing, and strays that name it.
    fn named_by(&self, id: Id) -> Vec<KeptBy> {
        let mut found = self.kept_by(self.graph.tops(id));
        let marks = self.graph.to(id).into_iter().filter(|(edge, _)| *edge == Edge::Marks);
        found.extend(
            marks.map(|(edge, from)| KeptBy { root: self.named(from), way: vec![Step { edge, to: self.named(id) }] }),
        );
        found
    }

    fn kept_by(&self, keepers: Vec<Keeper>) -> Vec<KeptBy> {
        let step = |(edge, to)| Step { edge, to: self.named(to) };
        keepers
            .into_iter()
            .map(|keeper| KeptBy { root: self.named(keeper.root), way: keeper.way.into_iter().map(step).collect() })
            .collect()
    }
}
