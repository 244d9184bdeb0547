//! What the tars of several layers, one on top of the other, say of a few paths.

use std::collections::{BTreeMap, BTreeSet};

use crate::layer::apply::split;
use crate::layer::member::{Member, MemberKind};

/// Mode and owner.
pub(super) type Rights = (u32, (u32, u32));

/// What engines give to a directory that a tar has something in and does not hold itself: Docker up to 20.10 0600 where
/// each layer is a whole tree.
pub(super) const IMPLIED: [Rights; 2] = [(0o755, (0, 0)), (0o600, (0, 0))];

/// The paths that matter.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pub(super) paths: BTreeSet<Vec<u8>>,
    /// Directories of which all that is in them matters.
    pub(super) trees: BTreeSet<Vec<u8>>,
}

impl Questions {
    /// Tells whether a path is asked for.
    fn has(&self, path: &[u8]) -> bool {
        self.paths.contains(path) || above(path).any(|above| self.trees.contains(above))
    }

    /// Tells whether something at or below a path is asked for.
    fn concerns(&self, path: &[u8]) -> bool {
        let is_below = |found: &Vec<u8>| is_at_or_below(found, path);
        let next = |set: &BTreeSet<Vec<u8>>| set.range(path.to_vec()..).next().is_some_and(is_below);
        // Names with characters below the slash sort between a path and what is in it.
        let inner = |set: &BTreeSet<Vec<u8>>| set.range([path, b"/"].concat()..).next().is_some_and(is_below);
        path.is_empty() || self.has(path) || [&self.paths, &self.trees].into_iter().any(|set| next(set) || inner(set))
    }
}

/// A node that a tar has, or implies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// A directory, with what its mode and owner may be.
    Directory(Vec<Rights>),
    /// Anything else.
    Other,
}

/// Most bytes of paths that are kept of the tars of one stack.
const LIMIT: usize = 32 << 20;

/// The merged view, as far as there are questions.
#[derive(Debug)]
pub(super) struct Stack<'q> {
    questions: &'q Questions,
    whole: bool,
    /// Bytes of paths that may still be kept; what is more is not, and the stack is not to be believed.
    budget: Option<usize>,
    nodes: BTreeMap<Vec<u8>, (Node, usize)>,
    /// Paths that are removed from what lies below.
    whiteouts: BTreeSet<Vec<u8>>,
    /// Directories of which nothing shows that lies below.
    opaque: BTreeSet<Vec<u8>>,
    /// Number of the layer that is added.
    layer: usize,
}

impl<'q> Stack<'q> {
    /// `whole`: all the layers are in one tree, where a directory that is there stays as it is.
    pub(super) fn new(questions: &'q Questions, whole: bool) -> Self {
        let (nodes, whiteouts, opaque) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { questions, whole, budget: Some(LIMIT), nodes, whiteouts, opaque, layer: 0 }
    }

    /// Tells whether all that matters was kept.
    pub(super) fn is_whole(&self) -> bool {
        self.budget.is_some()
    }

    /// Tells whether there is room for another path.
    fn has_room(&mut self, path: &[u8]) -> bool {
        // What else an entry takes is about as much.
        self.budget = self.budget.and_then(|left| left.checked_sub(path.len() + 128));
        self.budget.is_some()
    }

    /// Goes on to the next layer above.
    pub(super) fn next_layer(&mut self) {
        self.layer += 1;
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<&Node> {
        self.nodes.get(path).map(|(node, _)| node)
    }

    /// Tells whether there is anything at or below a path.
    pub(super) fn has_at(&self, path: &[u8]) -> bool {
        self.nodes.contains_key(path) || self.below(path).next().is_some()
    }

    /// Lists what is in a directory, however deep.
    pub(super) fn below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a Node)> {
        let start = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let inner = self.nodes.range(start.clone()..).take_while(move |(found, _)| found.starts_with(&start));
        inner.map(|(found, (node, _))| (&found[..], node))
    }

    /// Tells whether nothing that lies below these layers shows at a path.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        let is_other = |at: &[u8]| self.nodes.get(at).is_some_and(|(node, _)| *node == Node::Other);
        is_other(path)
            || self.whiteouts.contains(path)
            || above(path).any(|at| self.opaque.contains(at) || self.whiteouts.contains(at) || is_other(at))
    }

    /// Tells whether a directory shows nothing of what lies below these layers.
    pub(super) fn is_opaque(&self, directory: &[u8]) -> bool {
        self.opaque.contains(directory) || self.hides(directory)
    }

    /// Adds a member of the layer's tar.
    pub(super) fn add(&mut self, member: &Member) {
        let (directory, name) = split(&member.path);
        if member.kind == MemberKind::GlobalHeader || name.is_empty() {
            return;
        }
        self.imply(directory);
        match name.strip_prefix(b".wh.") {
            Some(b".wh..opq") => {
                let layer = self.layer;
                self.remove_below(directory, |found| found < layer);
                if self.questions.concerns(directory) && self.has_room(directory) {
                    self.opaque.insert(directory.to_vec());
                }
            }
            // AUFS's own.
            Some(hidden) if hidden.starts_with(b".wh.") => {}
            Some(hidden) => {
                let hidden = if directory.is_empty() { hidden.to_vec() } else { [directory, b"/", hidden].concat() };
                let layer = self.layer;
                self.remove_below(&hidden, |found| found < layer);
                if self.nodes.get(&hidden).is_some_and(|(_, found)| *found < layer) {
                    self.nodes.remove(&hidden);
                }
                if self.questions.concerns(&hidden) && self.has_room(&hidden) {
                    self.whiteouts.insert(hidden);
                }
            }
            None => self.add_node(member),
        }
    }

    fn add_node(&mut self, member: &Member) {
        let path = &member.path[..];
        let is_directory = member.kind == MemberKind::Directory;
        if self.whiteouts.remove(path) && is_directory {
            // Removed and made again: what was in it is gone.
            self.opaque.insert(path.to_vec());
        }
        if !is_directory {
            self.remove_below(path, |_| true);
        }
        // A directory is only noted where it is asked for itself; that it hides nothing matters to nobody else.
        if self.questions.concerns(path) && (!is_directory || self.questions.has(path)) {
            if !self.has_room(path) {
                return;
            }
            let rights = vec![(member.mode, member.owner((0, 0)))];
            let node = if is_directory { Node::Directory(rights) } else { Node::Other };
            self.nodes.insert(path.to_vec(), (node, self.layer));
        } else if is_directory {
            self.nodes.remove(path);
        }
    }

    /// Makes the directories that something is in.
    fn imply(&mut self, directory: &[u8]) {
        for path in std::iter::once(directory).chain(above(directory)).filter(|path| !path.is_empty()) {
            if !self.questions.has(path) || !self.nodes.contains_key(path) && !self.has_room(path) {
                continue;
            }
            match self.nodes.get_mut(path) {
                // What this layer's tar says itself counts, and not what it implies.
                Some((Node::Directory(_), layer)) if self.whole || *layer == self.layer => {}
                Some((Node::Directory(rights), layer)) => {
                    *layer = self.layer;
                    rights.extend(IMPLIED);
                    rights.sort_unstable();
                    rights.dedup();
                }
                _ => drop(self.nodes.insert(path.to_vec(), (Node::Directory(IMPLIED.to_vec()), self.layer))),
            }
        }
    }

    fn remove_below(&mut self, path: &[u8], is_meant: impl Fn(usize) -> bool) {
        let start = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let inner = self.nodes.range(start.clone()..).take_while(|(found, _)| found.starts_with(&start));
        let meant: Vec<Vec<u8>> =
            inner.filter(|(_, (_, layer))| is_meant(*layer)).map(|(found, _)| found.clone()).collect();
        for found in meant {
            self.nodes.remove(&found);
        }
    }
}

/// Lists the directories that a path lies in, the nearest first, and last the root.
pub(super) fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = path;
    std::iter::from_fn(move || {
        if at.is_empty() {
            return None;
        }
        at = split(at).0;
        Some(at)
    })
}

fn is_at_or_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
