//! Leaves out what only follows from something else that was found: a person is to see the cause.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::{Code, Finding};
use crate::graph::{Edge, Graph, Node};
use crate::id::{CacheId, ChainId};
use crate::store::Snapshot;

use super::structure::stack;

/// Leaves out findings that follow from others.
pub(super) fn leave_out(snapshot: &Snapshot, graph: &Graph, findings: &mut Vec<Finding>) {
    let causes = Causes::of(snapshot, graph, findings);
    findings.retain(|finding| !causes.explain(finding));
}

/// What explains other findings.
struct Causes<'a> {
    snapshot: &'a Snapshot,
    graph: &'a Graph,
    /// `overlay2/l` is gone.
    no_links: bool,
    /// IDs of images whose configuration is damaged.
    bad_images: BTreeSet<String>,
    /// What each directory stands on, by layerdb; itself first.
    stacks: BTreeMap<&'a str, Vec<&'a CacheId>>,
    /// Directories that are gone, though something names them.
    lost: BTreeSet<&'a CacheId>,
    /// Directories of layers of which layerdb itself contradicts what is below.
    doubtful: BTreeSet<&'a CacheId>,
    /// Directories whose `lower` names something that is not there.
    lower_lost: BTreeSet<String>,
    /// Paths of what cannot be understood, with a finding that says why.
    explained: BTreeSet<String>,
    /// Databases that are damaged, and what cannot be read in them for that.
    databases: BTreeSet<String>,
}

impl<'a> Causes<'a> {
    fn of(snapshot: &'a Snapshot, graph: &'a Graph, findings: &[Finding]) -> Self {
        let subjects = |code: Code| -> BTreeSet<String> {
            findings.iter().filter(|finding| finding.code == code).map(|finding| finding.subject.clone()).collect()
        };
        let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut bad_images: BTreeSet<String> = subjects(Code::ImageInvalid).iter().map(name).collect();
        bad_images.extend(subjects(Code::ImageUnreadable).iter().map(name));
        let mismatched = subjects(Code::LayerChainMismatch);
        let shared: BTreeSet<String> = subjects(Code::LayerCacheIdShared).iter().map(name).collect();
        let doubtful = snapshot.layers.iter().filter(|(chain, layer)| {
            mismatched.contains(&chain.to_string()) || shared.contains(layer.cache_id.as_str())
        });
        let mut stacks = BTreeMap::new();
        for (chain, layer) in &snapshot.layers {
            stacks.insert(layer.cache_id.as_str(), stack(snapshot, Some(*chain)));
        }
        for mount in snapshot.mounts.values() {
            let mut below = stack(snapshot, mount.parent);
            for id in [&mount.init_id, &mount.mount_id].into_iter().flatten() {
                below.insert(0, id);
                stacks.insert(id.as_str(), below.clone());
            }
        }
        let lost = stacks.values().flatten().copied().filter(|id| !snapshot.driver_dirs.contains_key(*id)).collect();
        Self {
            snapshot,
            graph,
            no_links: !subjects(Code::DriverLinksMissing).is_empty(),
            bad_images,
            stacks,
            lost,
            doubtful: doubtful.map(|(_, layer)| &layer.cache_id).collect(),
            lower_lost: subjects(Code::DriverLowerLost),
            explained: subjects(Code::ImageInvalid),
            databases: [Code::DatabaseDamaged, Code::DatabasePageDamaged, Code::DatabaseUnreadable]
                .into_iter()
                .flat_map(subjects)
                .collect(),
        }
    }

    /// Tells whether a finding follows from another.
    fn explain(&self, finding: &Finding) -> bool {
        let name = finding.subject.rsplit('/').next().unwrap_or_default();
        match finding.code {
            Code::DriverShortNameLost => self.no_links,
            Code::DriverLowerLost | Code::LowerDirectoryMissing => self.no_links || self.stands_on(name, &self.lost),
            Code::DriverLowerMismatch => {
                self.stands_on(name, &self.doubtful) || self.lower_lost.contains(&finding.subject)
            }
            Code::ReferenceWithoutImage => {
                let image = self.snapshot.references.get(&finding.subject);
                image.is_some_and(|image| self.bad_images.contains(&image.hex()))
            }
            Code::ImageUnreadable => self.explained.contains(&finding.subject),
            Code::BuildkitUnreadable => self.databases.contains(&finding.subject),
            Code::LayerNotLoadable => self.parent_is_lost(name),
            _ => false,
        }
    }

    /// Tells whether a directory, or one that it stands on, is among `these`.
    fn stands_on(&self, name: &str, these: &BTreeSet<&CacheId>) -> bool {
        self.stacks.get(name).is_some_and(|stack| stack.iter().any(|id| these.contains(id)))
    }

    fn parent_is_lost(&self, hex: &str) -> bool {
        let chain = ChainId::from_hex(hex.as_bytes()).ok();
        let id = chain.and_then(|chain| self.graph.find(&Node::Layer(chain)));
        let parent = id.and_then(|id| self.graph.follow(id, Edge::ParentLayer));
        parent.is_some_and(|parent| !self.graph.is_present(parent))
    }
}
