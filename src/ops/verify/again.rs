//! Looks again at a store on which something works. A look takes its time, and what is made or removed meanwhile is torn in
//! it: a container that has no writable layer yet, a directory whose short name is gone already.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::finding::{Finding, Severity};
use crate::graph::Node;
use crate::id::ChainId;
use crate::ops::inspect::View;
use crate::progress::Observer;
use crate::store::{Snapshot, Store};

use super::blast::Blast;
use super::structure;
use super::tree::Problem;

/// How often it is looked again.
const LOOKS: u32 = 6;
/// How long nothing is done between two looks: making or removing a container takes a second or two.
const PAUSE: Duration = Duration::from_millis(500);

/// What a look at a store found.
pub(super) struct Looked<'a> {
    pub(super) store: &'a Store,
    pub(super) snapshot: &'a Snapshot,
    pub(super) blast: &'a Blast<'a>,
}

impl Looked<'_> {
    /// Keeps the findings that every further look gives too, of objects that stay as they are.
    ///
    /// # Errors
    /// The store cannot be read, or the observer wanted to stop.
    pub(super) fn keep_lasting(
        &self,
        findings: &mut Vec<Finding>,
        problems: &mut Vec<(ChainId, Problem)>,
        observer: &dyn Observer,
    ) -> Result<()> {
        for _ in 0..LOOKS {
            if problems.is_empty() && findings.iter().all(|finding| finding.severity == Severity::Note) {
                break;
            }
            if observer.wants_stop() {
                return Err(Error::Stopped);
            }
            std::thread::sleep(PAUSE);
            let later = self.store.snapshot()?;
            let view = View::new(self.store, &later);
            let found: BTreeSet<Finding> = structure::check(self.store, &later, &view.graph)?.into_iter().collect();
            findings.retain(|finding| found.contains(finding) && self.is_same(finding, &later));
            problems.retain(|(chain, _)| self.snapshot.layers.get(chain) == later.layers.get(chain));
        }
        Ok(())
    }

    /// Tells whether the object of a finding is what it was.
    fn is_same(&self, finding: &Finding, later: &Snapshot) -> bool {
        let before = self.snapshot;
        match self.blast.object(&finding.object) {
            Some(Node::Container(id)) => before.containers.get(&id) == later.containers.get(&id),
            Some(Node::Mount(id)) => before.mounts.get(&id) == later.mounts.get(&id),
            Some(Node::Layer(chain)) => before.layers.get(&chain) == later.layers.get(&chain),
            Some(Node::Dir(id)) => before.driver_dirs.get(&id) == later.driver_dirs.get(&id),
            _ => true,
        }
    }
}
