//! Leaves out what only follows from something else that was found: a person is to see the cause.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::{Code, Finding, Object, Thing};
use crate::graph::{Edge, Graph, Node};
use crate::id::{CacheId, ChainId, ImageId};
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
    bad_images: BTreeSet<ImageId>,
    /// What each directory stands on, by layerdb; itself first.
    stacks: BTreeMap<&'a CacheId, Vec<&'a CacheId>>,
    /// Directories that are gone, though something names them.
    lost: BTreeSet<&'a CacheId>,
    /// Directories of layers of which layerdb itself contradicts what is below.
    doubtful: BTreeSet<&'a CacheId>,
    /// Directories whose `lower` names something that is not there.
    lower_lost: BTreeSet<CacheId>,
    /// What cannot be understood, with a finding that says why.
    explained: BTreeSet<Object>,
    /// Databases that are damaged, and what cannot be read in them for that.
    databases: BTreeSet<Object>,
}

impl<'a> Causes<'a> {
    fn of(snapshot: &'a Snapshot, graph: &'a Graph, findings: &[Finding]) -> Self {
        let of =
            |code: Code| findings.iter().filter(move |finding| finding.code == code).map(|finding| &finding.object);
        let directories = |code: Code| of(code).filter_map(Object::directory);
        let bad_images = [Code::ImageInvalid, Code::ImageUnreadable].into_iter().flat_map(of);
        let bad_images = bad_images.filter_map(|object| match &object.thing {
            Thing::Image(id) => Some(*id),
            _ => None,
        });
        let bad_images: BTreeSet<ImageId> = bad_images.collect();
        let mismatched: BTreeSet<&Thing> = of(Code::LayerChainMismatch).map(|object| &object.thing).collect();
        let shared: BTreeSet<&CacheId> = directories(Code::LayerCacheIdShared).collect();
        let misnamed: BTreeSet<&Thing> = of(Code::LayerCacheIdWrong).map(|object| &object.thing).collect();
        let doubtful = snapshot.layers.iter().filter(|(chain, layer)| {
            let thing = Thing::Layer(**chain);
            mismatched.contains(&thing) || misnamed.contains(&thing) || shared.contains(&layer.cache_id)
        });
        let mut stacks = BTreeMap::new();
        for (chain, layer) in &snapshot.layers {
            stacks.insert(&layer.cache_id, stack(snapshot, Some(*chain)));
        }
        for mount in snapshot.mounts.values() {
            let mut below = stack(snapshot, mount.parent);
            for id in [&mount.init_id, &mount.mount_id].into_iter().flatten() {
                below.insert(0, id);
                stacks.insert(id, below.clone());
            }
        }
        // Whatever is missing of what stands on these is missing for itself.
        let misnamed = snapshot.layers.iter().filter(|(chain, _)| misnamed.contains(&Thing::Layer(**chain)));
        let misnamed: BTreeSet<&CacheId> = misnamed.map(|(_, layer)| &layer.cache_id).collect();
        let is_lost = |id: &&CacheId| !snapshot.driver_dirs.contains_key(*id) && !misnamed.contains(id);
        let lost = stacks.values().flatten().copied().filter(is_lost).collect();
        Self {
            snapshot,
            graph,
            no_links: of(Code::DriverLinksMissing).next().is_some(),
            bad_images,
            stacks,
            lost,
            doubtful: doubtful.map(|(_, layer)| &layer.cache_id).collect(),
            lower_lost: directories(Code::DriverLowerLost).cloned().collect(),
            explained: of(Code::ImageInvalid).cloned().collect(),
            databases: [Code::DatabaseDamaged, Code::DatabasePageDamaged, Code::DatabaseUnreadable]
                .into_iter()
                .flat_map(of)
                .cloned()
                .collect(),
        }
    }

    /// Tells whether a finding follows from another.
    fn explain(&self, finding: &Finding) -> bool {
        let object = &finding.object;
        let stands_on = |these: &BTreeSet<&CacheId>| object.directory().is_some_and(|id| self.stands_on(id, these));
        match (finding.code, &object.thing) {
            (Code::DriverShortNameLost, _) => self.no_links,
            (Code::DriverLowerLost | Code::LowerDirectoryMissing, _) => self.no_links || stands_on(&self.lost),
            (Code::DriverLowerMismatch, _) => {
                stands_on(&self.doubtful) || object.directory().is_some_and(|id| self.lower_lost.contains(id))
            }
            (Code::ReferenceWithoutImage, Thing::Reference(name)) => {
                self.snapshot.references.get(name).is_some_and(|image| self.bad_images.contains(image))
            }
            (Code::ImageUnreadable, _) => self.explained.contains(object),
            (Code::BuildkitUnreadable, _) => self.databases.contains(object),
            (Code::LayerNotLoadable, Thing::Layer(chain)) => self.parent_is_lost(*chain),
            _ => false,
        }
    }

    /// Tells whether a directory, or one that it stands on, is among `these`.
    fn stands_on(&self, id: &CacheId, these: &BTreeSet<&CacheId>) -> bool {
        self.stacks.get(id).is_some_and(|stack| stack.iter().any(|id| these.contains(id)))
    }

    fn parent_is_lost(&self, chain: ChainId) -> bool {
        let id = self.graph.find(&Node::Layer(chain));
        let parent = id.and_then(|id| self.graph.follow(id, Edge::ParentLayer));
        parent.is_some_and(|parent| !self.graph.is_present(parent))
    }
}
