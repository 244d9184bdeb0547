//! When nothing may be removed at all. Pure.
//!
//! A file that is lost as a whole makes everything it spoke for look like garbage. dockerd writes `repositories.json`
//! at its first start and never removes it, so one that is missing was lost; and one that names nothing beside
//! images is what people write when they could not save the old one.

use crate::driver::is_known;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node};
use crate::store::{Snapshot, Store, Unknown};

use super::candidates::Candidates;
use super::kind::GcKind;
use super::plan::Options;

/// What a store has, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Records {
    /// `repositories.json` is there.
    pub(super) references: bool,
    /// `imagedb/content/sha256` is there.
    pub(super) images: bool,
    /// `layerdb/sha256` is there.
    pub(super) layers: bool,
    /// `buildkit/snapshots.db` is there and empty.
    pub(super) snapshots_empty: bool,
}

impl Records {
    pub(super) fn look(store: &Store) -> Result<Self> {
        let is_there = |path: &str| store.image().is_some_and(|image| image.dir(path).is_ok());
        let references = match store.image() {
            Some(image) => image.find("repositories.json")?.is_some(),
            None => false,
        };
        let buildkit = store.root().dir_across_mounts("buildkit").ok();
        let snapshots = buildkit.and_then(|dir| dir.find("snapshots.db").ok().flatten());
        Ok(Self {
            references,
            images: is_there("imagedb/content/sha256"),
            layers: is_there("layerdb/sha256"),
            snapshots_empty: snapshots.is_some_and(|attrs| attrs.size == 0),
        })
    }
}

/// Fails where something is lost that everything depends on; names the file.
pub(super) fn refuse(store: &Store, records: Records, candidates: &Candidates<'_>, options: &Options) -> Result<()> {
    let Candidates { snapshot, graph, driver, .. } = candidates;
    if !is_known(driver) {
        return Err(Error::UnsupportedDriver { driver: (*driver).to_owned() });
    }
    let all = [Unknown::References, Unknown::BuildKit];
    let lost_whole = |path: &str| matches!(path.rsplit('/').next(), Some("sha256" | "containers" | "mounts"));
    if let Some(file) = snapshot.unreadable.iter().find(|file| all.contains(&file.what) || lost_whole(&file.path)) {
        let reason = file.reason.clone();
        return Err(Error::Unreadable { path: store.path().join(&file.path), reason });
    }
    match lost(snapshot, graph, driver, records, options) {
        None => Ok(()),
        Some((path, reason)) => Err(Error::Lost { path: store.path().join(path), reason }),
    }
}

/// Returns the file or directory that is lost, and how that is known.
fn lost(
    snapshot: &Snapshot,
    graph: &Graph,
    driver: &str,
    records: Records,
    options: &Options,
) -> Option<(String, String)> {
    let image = format!("image/{driver}");
    let dirs = snapshot.driver_dirs.len();
    if dirs == 0 && snapshot.layers.is_empty() && snapshot.images.is_empty() {
        return None;
    }
    let beside = format!("beside {dirs} directories of layers");
    if !records.references {
        return Some((format!("{image}/repositories.json"), format!("it is missing, {beside}")));
    }
    if !records.images {
        return Some((format!("{image}/imagedb/content/sha256"), format!("it is missing, {beside}")));
    }
    if !records.layers {
        return Some((format!("{image}/layerdb/sha256"), format!("it is missing, {beside}")));
    }
    if snapshot.images.is_empty() && !snapshot.references.is_empty() {
        let names = snapshot.references.len();
        let reason = format!("it is empty, and repositories.json has {names} names of images");
        return Some((format!("{image}/imagedb/content/sha256"), reason));
    }
    let needs_layers = snapshot.images.values().filter(|image| !image.diff_ids.is_empty()).count();
    if snapshot.layers.is_empty() && snapshot.broken_layers.is_empty() && needs_layers > 0 {
        let reason = format!("it is empty, and {needs_layers} images have layers");
        return Some((format!("{image}/layerdb/sha256"), reason));
    }
    if records.snapshots_empty && dirs > 0 {
        return Some(("buildkit/snapshots.db".to_owned(), format!("it is empty, {beside}")));
    }
    if snapshot.references.is_empty() && options.takes(GcKind::UntaggedImages) {
        // What a container was made from has lost its name by `docker rmi -f`, not by accident.
        let images = graph.ids().filter(|id| matches!(graph.node(*id), Node::Image(_)) && graph.is_present(*id));
        let unnamed = images.filter(|id| !graph.is_kept(*id)).count();
        if unnamed > 0 {
            let reason = format!("it names nothing, beside {unnamed} images that only it can keep");
            return Some((format!("{image}/repositories.json"), reason));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Records = Records { references: true, images: true, layers: true, snapshots_empty: false };

    fn lost_path(snapshot: &Snapshot, records: Records) -> Option<String> {
        lost(snapshot, &Graph::of(snapshot), "overlay2", records, &Options::default()).map(|(path, _)| path)
    }

    #[test]
    fn a_store_that_was_pruned_to_nothing_is_no_lost_one() {
        let mut snapshot = Snapshot::default();
        assert_eq!(lost_path(&snapshot, Records { references: false, ..ALL }), None);
        let id = crate::id::CacheId::parse(b"orphan").expect("a name");
        snapshot.driver_dirs.insert(id, crate::driver::DriverDir::default());
        assert_eq!(lost_path(&snapshot, ALL), None);
    }

    #[test]
    fn what_is_lost_is_named() {
        let mut snapshot = Snapshot::default();
        let id = crate::id::CacheId::parse(b"orphan").expect("a name");
        snapshot.driver_dirs.insert(id, crate::driver::DriverDir::default());
        for (records, path) in [
            (Records { references: false, ..ALL }, "image/overlay2/repositories.json"),
            (Records { images: false, ..ALL }, "image/overlay2/imagedb/content/sha256"),
            (Records { layers: false, ..ALL }, "image/overlay2/layerdb/sha256"),
            (Records { snapshots_empty: true, ..ALL }, "buildkit/snapshots.db"),
        ] {
            assert_eq!(lost_path(&snapshot, records).as_deref(), Some(path));
        }
    }
}
