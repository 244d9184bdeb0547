//! What the graph knows nothing of: records of registries, and trees of other graph drivers.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::FsError;
use crate::graph::{Id, Node};
use crate::id::DiffId;
use crate::store::{Snapshot, Store, Unknown, places};

use super::candidates::Candidates;
use super::kind::GcKind;
use super::plan::{KeptWhy, Stale};

/// Finds trees of graph drivers other than the store's own. A tree that a container was made with is in use.
pub(super) fn find(store: &Store, snapshot: &Snapshot) -> Result<Vec<Stale>, FsError> {
    let mut stale = Vec::new();
    for driver in store.other_drivers() {
        let mut paths = Vec::new();
        for path in [driver.name().to_owned(), places::records(driver.name())] {
            let is_there = match path.rsplit_once('/') {
                None => store.root().find(&path)?.is_some(),
                Some((parent, name)) => match store.root().dir_across_mounts(parent) {
                    Err(error) if error.is_not_found() => false,
                    dir => dir?.find(name)?.is_some(),
                },
            };
            if is_there {
                paths.push(path);
            }
        }
        let user = snapshot.containers.iter().find(|(_, container)| container.driver == driver.name());
        let user = user.map(|(id, _)| format!("container {id} was made with it"));
        let used_by = match driver.outside() {
            Some(_) => Some("its data lies outside of the data root".to_owned()),
            None => user.or_else(|| unknown_user(snapshot)),
        };
        if !paths.is_empty() {
            let (images, unknown) = match store.references_of(driver) {
                Ok(images) => (images, None),
                Err(reason) => (Vec::new(), Some(reason)),
            };
            stale.push(Stale { driver: driver.name().to_owned(), paths, images, used_by: used_by.or(unknown) });
        }
    }
    Ok(stale)
}

/// Says which container may be of any driver, as it cannot be read.
fn unknown_user(snapshot: &Snapshot) -> Option<String> {
    let unreadable = snapshot.unreadable.iter().find(|unreadable| unreadable.what == Unknown::Containers)?;
    Some(format!("{} cannot be read: {}", unreadable.path, unreadable.reason))
}

impl Candidates<'_> {
    /// Returns what the graph knows nothing of, with its kind, where the kept candidates stay.
    pub(super) fn extra(&self, kept: &BTreeMap<Id, KeptWhy>, stale: &[Stale]) -> Vec<(GcKind, String)> {
        let mut extra: Vec<(GcKind, String)> = Vec::new();
        let alive = self.alive(kept);
        extra.extend(self.records(|diff| !alive.contains(diff)).map(|path| (GcKind::DistributionRecords, path)));
        let free = stale.iter().filter(|stale| stale.used_by.is_none());
        extra.extend(free.flat_map(|stale| &stale.paths).map(|path| (GcKind::StaleDriver, path.clone())));
        extra
    }

    /// Returns the paths of the records in `distribution/` of the layers that are `gone`.
    pub(super) fn records<'c>(&'c self, gone: impl Fn(&DiffId) -> bool + 'c) -> impl Iterator<Item = String> + 'c {
        let records = &self.snapshot.distribution;
        let digests =
            records.diff_id_by_digest.iter().map(|(digest, diff)| (diff, places::DIFF_ID_BY_DIGEST, digest.hex()));
        let sources =
            records.v2_metadata_by_diff_id.keys().map(|diff| (diff, places::V2_METADATA_BY_DIFF_ID, diff.hex()));
        let gone = digests.chain(sources).filter(move |(diff, ..)| gone(diff));
        gone.map(move |(_, map, name)| places::in_root(self.driver.name(), format_args!("{map}/{name}")))
    }

    /// Returns the content of all layers that stay, and of all that images which stay need.
    pub(super) fn alive(&self, kept: &BTreeMap<Id, KeptWhy>) -> BTreeSet<DiffId> {
        let stays =
            |node: Node| self.graph.find(&node).is_some_and(|id| self.reached.has(id) || kept.contains_key(&id));
        let layers = self.snapshot.layers.iter().filter(|(chain, _)| stays(Node::Layer(**chain)));
        let images = self.snapshot.images.iter().filter(|(id, _)| stays(Node::Image(**id)));
        layers.map(|(_, layer)| layer.diff).chain(images.flat_map(|(_, image)| image.diff_ids.clone())).collect()
    }
}
