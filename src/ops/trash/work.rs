//! What the trash knows of the work that a transaction does. The plans themselves belong to the operations.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::{Move, NEW, NODES};
use crate::store::InUse;

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A removal of garbage.
    Gc,
    /// A repair.
    Repair,
}

impl Kind {
    /// Returns the directory that things of such a transaction lie in.
    pub(super) fn slots(self) -> &'static str {
        match self {
            Self::Gc => NODES,
            Self::Repair => NEW,
        }
    }

    /// Returns the word that a journal has for it.
    fn word(self) -> &'static str {
        match self {
            Self::Gc => "gc",
            Self::Repair => "repair",
        }
    }
}

/// The plan of a transaction.
pub(in crate::ops) trait Work {
    /// Returns what kind of work it is.
    fn kind(&self) -> Kind;

    /// Returns the graph driver of the store.
    fn driver(&self) -> &str;

    /// Returns all that moves, in no order.
    fn moves(&self) -> Vec<Move<'_>>;

    /// Returns what belongs together, as orders of moves: where the kernel uses one of them, none is deleted.
    fn groups(&self) -> Vec<Vec<usize>>;

    /// Returns of how many pieces a person would speak.
    fn count(&self) -> usize;

    /// Returns the moves that are not put back now, by order, because they belong to a directory that the kernel uses;
    /// each with how it is used, as what follows "it is". What only moved away can always be put back.
    fn held(&self, _in_use: &InUse) -> BTreeMap<usize, String> {
        BTreeMap::new()
    }

    /// Returns the moves that put a copy of a whole directory in its place, by order, each with whether somebody may write
    /// into the copy. Where one has changed, it is not put back: that would lose what was written.
    fn copies(&self) -> BTreeMap<usize, bool> {
        BTreeMap::new()
    }
}

/// Serialises a plan as the journal has it: an object with the word for its kind as the only key.
pub(super) fn under_its_word<W: Work + Serialize, S: Serializer>(work: &W, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map([(work.kind().word(), work)])
}
