//! What a verification found, as a document.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::finding::{Finding, Severity};
use crate::graph::Node;
use crate::id::ChainId;

use super::blast::Broken;

/// Number of the document's form.
pub const SCHEMA: u32 = 1;

/// What a verification found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Number of the document's form.
    pub schema: u32,
    /// Only the structure was looked at.
    pub quick: bool,
    /// What worked on the store meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_use_by: Option<String>,
    /// What was looked at.
    pub checked: Checked,
    /// How much is wrong.
    pub summary: Summary,
    /// What is wrong: by object, the worst first.
    pub findings: Vec<Found>,
    /// Layers whose tar, assembled from tar-split and their files, has their diff ID.
    #[serde(skip)]
    pub(crate) proved_tars: BTreeSet<ChainId>,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Images whose configuration was proved.
    pub images: usize,
    /// Layers.
    pub layers: usize,
    /// Containers.
    pub containers: usize,
    /// Files, directories and other nodes that were compared with the headers of tars.
    pub nodes: u64,
    /// Bytes of layer tars that were hashed.
    pub bytes: u64,
}

/// How much is wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Findings of damage.
    pub damage: usize,
    /// Warnings.
    pub warnings: usize,
    /// Notes.
    pub notes: usize,
    /// Images that are broken by damage.
    pub broken_images: usize,
    /// Containers that are broken by damage.
    pub broken_containers: usize,
}

/// A finding with what it means.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// What is wrong.
    #[serde(flatten)]
    pub finding: Finding,
    /// The object as a node of the store's graph, where it is one.
    pub object: Option<Node>,
    /// Where the object is, relative to the data root.
    pub path: Option<String>,
    /// The node within the layer that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What breaks by it, and how; nothing for a note.
    #[serde(serialize_with = "shared")]
    pub breaks: Vec<Arc<Broken>>,
}

fn shared<S: serde::Serializer>(broken: &[Arc<Broken>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(broken.iter().map(Arc::as_ref))
}

impl Report {
    /// Puts findings in order and counts them.
    pub(super) fn new(quick: bool, checked: Checked, mut findings: Vec<Found>) -> Self {
        let key = |found: &Found| {
            let object = (found.object.clone(), found.finding.object.to_string());
            (object, std::cmp::Reverse(found.finding.severity), found.finding.code, found.file.clone())
        };
        findings.sort_by_cached_key(key);
        let summary = Summary::of(&findings);
        Self { schema: SCHEMA, quick, in_use_by: None, checked, summary, findings, proved_tars: BTreeSet::new() }
    }

    /// Tells whether anything is damaged.
    #[must_use]
    pub fn has_damage(&self) -> bool {
        self.summary.damage > 0
    }
}

impl Summary {
    fn of(findings: &[Found]) -> Self {
        let count = |severity| findings.iter().filter(|found| found.finding.severity == severity).count();
        let damage = findings.iter().filter(|found| found.finding.severity == Severity::Damage);
        // Files of one layer break the same: each set is looked at once.
        let sets: HashMap<*const Broken, &Broken> =
            damage.flat_map(|found| &found.breaks).map(|broken| (Arc::as_ptr(broken), &**broken)).collect();
        let images: BTreeSet<_> = sets.values().flat_map(|broken| &broken.images).map(|image| image.id).collect();
        let containers: BTreeSet<_> = sets.values().flat_map(|broken| &broken.containers).collect();
        Self {
            damage: count(Severity::Damage),
            warnings: count(Severity::Warning),
            notes: count(Severity::Note),
            broken_images: images.len(),
            broken_containers: containers.len(),
        }
    }
}
