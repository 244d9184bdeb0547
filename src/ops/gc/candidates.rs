//! What may be garbage: everything that no root reaches, with its kind and where it lies. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::driver::{Driver, join};
use crate::graph::{Edge, Graph, Id, Node, Reach, Roots, State};
use crate::id::{CacheId, ContainerId, is_drawn};
use crate::store::{Snapshot, Stray, StrayKind, places};

use super::kind::GcKind;
use super::plan::Stale;

/// Steps of a removal, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Metadata and configurations of images, children first.
    Image,
    /// Entries of `layerdb/mounts`.
    Mount,
    /// Entries of `layerdb/sha256`, children first.
    Layer,
    /// Short names of directories.
    Link,
    /// Directories of the graph driver.
    Directory,
    /// Everything else.
    Rest,
}

impl Step {
    /// All steps, in their order.
    pub const ALL: [Self; 6] = [Self::Image, Self::Mount, Self::Layer, Self::Link, Self::Directory, Self::Rest];
}

/// A node that no root reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: Id,
    pub(super) kind: GcKind,
    /// What of it lies where, relative to the data root. Not everything need be there.
    pub(super) paths: Vec<(Step, String)>,
    /// How many layers or images lie below it: what has more goes first.
    pub(super) depth: usize,
}

/// What may be garbage.
#[derive(Debug)]
pub struct Candidates<'s> {
    pub(super) snapshot: &'s Snapshot,
    pub(super) graph: &'s Graph,
    pub(super) driver: &'static Driver,
    /// What the roots reach, and nothing but that.
    pub(super) reached: Reach,
    pub(super) found: Vec<Candidate>,
}

impl<'s> Candidates<'s> {
    /// Finds everything that no root reaches. Roots are references, containers, mounts with an owner, and what
    /// BuildKit's leases and records name.
    #[must_use]
    pub fn find(snapshot: &'s Snapshot, graph: &'s Graph, driver: &'static Driver) -> Self {
        let roots = Roots {
            untagged_images: false,
            build_records: true,
            leaked_build_records: false,
            abandoned_containers: false,
        };
        let reached = graph.reach(&graph.roots(roots));
        let mut candidates = Self { snapshot, graph, driver, reached, found: Vec::new() };
        let strays: HashMap<&str, &Stray> = snapshot.strays.iter().map(|stray| (stray.path.as_str(), stray)).collect();
        let mut depths = HashMap::new();
        for id in graph.ids() {
            if candidates.reached.has(id) || graph.state(id) == &State::Missing {
                continue;
            }
            let Some(kind) = candidates.kind(id, &strays) else { continue };
            let paths = candidates.paths(id);
            let depth = depth(graph, id, &mut depths);
            candidates.found.push(Candidate { id, kind, paths, depth });
        }
        candidates
    }

    /// Returns every path that a candidate may have, relative to the data root, sorted.
    #[must_use]
    pub fn paths_to_survey(&self, stale: &[Stale]) -> BTreeSet<String> {
        let own = self.found.iter().flat_map(|candidate| &candidate.paths).map(|(_, path)| path.clone());
        let stale = stale.iter().flat_map(|stale| stale.paths.iter().cloned());
        let alive = self.alive(&BTreeMap::new());
        let records = self.records(|diff| !alive.contains(diff));
        own.chain(self.lost_links().into_keys()).chain(records).chain(stale).collect()
    }

    fn kind(&self, id: Id, strays: &HashMap<&str, &Stray>) -> Option<GcKind> {
        Some(match self.graph.node(id) {
            Node::Tag(_) | Node::Digest(_) => return None,
            Node::Image(_) => GcKind::UntaggedImages,
            Node::Mount(_) => GcKind::DeadMounts,
            Node::Container(_) => GcKind::DeadContainers,
            Node::BuildRecord(_) => GcKind::LeakedBuildCache,
            Node::Layer(_) if self.graph.is_present(id) => GcKind::UnreferencedLayers,
            Node::Layer(_) => GcKind::BrokenLayers,
            Node::Dir(_) => self.kind_of_dir(id, strays),
            Node::Stray(path) if is_removing(path) => GcKind::RemovingLayers,
            Node::Stray(path) => match strays.get(path.as_str())?.kind {
                StrayKind::WriteSet => GcKind::WriteSets,
                StrayKind::TempFile => GcKind::TempFiles,
                StrayKind::OldTemp => GcKind::OldTemp,
                StrayKind::DanglingLink => GcKind::DanglingLinks,
                StrayKind::SelfTest => GcKind::SelfTests,
                StrayKind::EmptyMount => GcKind::DeadMounts,
                StrayKind::MetadataWithoutContent if self.is_referred_to(path) => return None,
                StrayKind::MetadataWithoutContent => GcKind::ImageMetadata,
                // It may be somebody's only copy: reported by the reader, and left.
                StrayKind::InvalidImage => return None,
            },
        })
    }

    /// A directory is of the kind of what names it.
    fn kind_of_dir(&self, dir: Id, strays: &HashMap<&str, &Stray>) -> GcKind {
        let namers = self.namers(dir).into_iter().filter_map(|namer| self.kind(namer, strays));
        namers.min().unwrap_or(GcKind::OrphanDirectories)
    }

    /// Returns what names a directory and no root reaches, in the graph's order.
    pub(super) fn namers(&self, dir: Id) -> Vec<Id> {
        let to = self.graph.to(dir).into_iter();
        let mut namers: Vec<Id> =
            to.filter(|(edge, from)| names(*edge) && !self.reached.has(*from)).map(|(_, from)| from).collect();
        namers.sort_unstable();
        namers.dedup();
        namers
    }

    /// Tells whether an engine gives such a name to what the node is.
    pub(super) fn is_drawn(&self, id: Id) -> bool {
        match self.graph.node(id) {
            Node::Dir(id) => is_drawn(id.as_str()),
            Node::Container(id) => is_drawn(id.as_str()),
            Node::Mount(id) => is_drawn(mount_dir(id)),
            Node::Stray(path) => {
                let write_set = places::name_in(places::WRITE_SETS, path).map(is_write_set);
                write_set.or_else(|| places::name_in(places::MOUNTS, path).map(is_drawn)).unwrap_or(true)
            }
            _ => true,
        }
    }

    /// Tells whether a reference names the image whose metadata lies at `path`: loading it again heals that.
    fn is_referred_to(&self, path: &str) -> bool {
        self.snapshot.references.values().any(|image| path.ends_with(&image.hex()))
    }

    fn paths(&self, id: Id) -> Vec<(Step, String)> {
        let in_image = |place: String| places::in_root(self.driver.name(), place);
        match self.graph.node(id) {
            Node::Tag(_) | Node::Digest(_) | Node::BuildRecord(_) => Vec::new(),
            Node::Image(id) => {
                vec![(Step::Image, in_image(places::metadata(id))), (Step::Image, in_image(places::image(id)))]
            }
            Node::Mount(id) => vec![(Step::Mount, in_image(places::mount(mount_dir(id))))],
            Node::Container(id) => vec![(Step::Rest, format!("containers/{id}"))],
            Node::Layer(id) => vec![(Step::Layer, in_image(places::layer(id)))],
            Node::Dir(id) => self.paths_of_dir(id),
            Node::Stray(path) if is_removing(path) => vec![(Step::Layer, in_image(path.clone()))],
            Node::Stray(path) => {
                let is_in = |place: &str| path.starts_with(&in_image(format!("{place}/")));
                let step = match () {
                    () if is_in(places::MOUNTS) => Step::Mount,
                    // It names a directory.
                    () if is_in(places::WRITE_SETS) => Step::Layer,
                    () => Step::Rest,
                };
                vec![(step, path.clone())]
            }
        }
    }

    fn paths_of_dir(&self, id: &CacheId) -> Vec<(Step, String)> {
        let driver = self.driver;
        let names = self.snapshot.driver_dirs.get(id).map(|dir| &dir.names[..]).unwrap_or_default();
        let mut paths: Vec<_> = names.iter().map(|name| (Step::Link, format!("{driver}/l/{name}"))).collect();
        let at = |place| (Step::Directory, format!("{driver}/{}", join(place, id.as_str())));
        paths.extend(driver.places().map(at));
        paths
    }

    /// Returns the paths of short names that directories which may go are stacked on and that lead nowhere, each
    /// with the directories that name it.
    pub(super) fn lost_links(&self) -> BTreeMap<String, Vec<CacheId>> {
        let mut lost: BTreeMap<String, Vec<CacheId>> = BTreeMap::new();
        for (id, dir) in &self.snapshot.driver_dirs {
            for name in &dir.lost {
                lost.entry(format!("{}/l/{name}", self.driver)).or_default().push(id.clone());
            }
        }
        lost
    }
}

/// Tells whether the graph calls an entry so that dockerd was removing: without the driver, which it does not know.
fn is_removing(stray: &str) -> bool {
    stray.starts_with(places::LAYERS)
}

/// Tells whether dockerd gives such a name to a layer that it writes: `write-set-<number>`, to 1.12 `layer-<number>`.
fn is_write_set(name: &str) -> bool {
    let number = name.strip_prefix("write-set-").or_else(|| name.strip_prefix("layer-"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Tells whether an edge says that a record has a directory as its own.
pub(super) fn names(edge: Edge) -> bool {
    matches!(edge, Edge::CacheId | Edge::MountId | Edge::InitId | Edge::Snapshot | Edge::Marks)
}

/// Tells whether what an edge comes from is damaged when the directory it leads to is gone, or has lost its name.
pub(super) fn holds(edge: Edge) -> bool {
    names(edge) && edge != Edge::Marks
}

/// Returns the directory below `layerdb/mounts` that a mount lies in. One whose name has slashes lies deep, and goes
/// with the directory that is in `mounts` itself.
pub(super) fn mount_dir(id: &ContainerId) -> &str {
    id.as_str().split('/').next().unwrap_or_default()
}

/// Counts the images or layers below one.
fn depth(graph: &Graph, id: Id, known: &mut HashMap<Id, usize>) -> usize {
    let mut way = Vec::new();
    let mut next = Some(id);
    let mut depth = 0;
    while let Some(id) = next {
        if let Some(below) = known.get(&id) {
            depth = *below + 1;
            break;
        }
        // What leads back to itself ends here.
        known.insert(id, 0);
        way.push(id);
        next = [Edge::ParentLayer, Edge::BuiltFrom, Edge::Lower].into_iter().find_map(|edge| graph.follow(id, edge));
    }
    for id in way.into_iter().rev() {
        known.insert(id, depth);
        depth += 1;
    }
    known.get(&id).copied().unwrap_or_default()
}
