//! Which images a store has lost that a source has.

use std::collections::BTreeSet;

use crate::id::{ChainId, ImageId};
use crate::store::{Snapshot, Store, StrayKind, places};

use super::donor::Donor;
use super::survey::Survey;

/// Returns the images that the source has and this store had: something here still tells of each, and its configuration is
/// gone.
///
/// What tells of an image is a reference, metadata of it, an image that was built from it, and a layer that no image
/// here has and that is its topmost. A container tells of it only where references are lost: the image of one that was
/// removed by force is gone rightly.
pub(super) fn images(store: &Store, snapshot: &Snapshot, survey: &Survey, source: &Donor) -> BTreeSet<ImageId> {
    let mut told: BTreeSet<ImageId> = snapshot.references.values().chain(survey.salvaged.values()).copied().collect();
    told.extend(snapshot.images.values().filter_map(|image| image.parent));
    let metadata = snapshot.strays.iter().filter(|stray| stray.kind == StrayKind::MetadataWithoutContent);
    let names = metadata.filter_map(|stray| stray.path.rsplit('/').next());
    told.extend(names.filter_map(|name| ImageId::from_hex(name.as_bytes()).ok()));
    let lost_references = snapshot.unreadable.iter().any(|file| file.what == crate::store::Unknown::References)
        || snapshot.references.is_empty() && survey.references.is_none();
    if lost_references {
        told.extend(snapshot.containers.values().filter_map(|container| container.image));
    }
    let ownerless = ownerless(snapshot);
    let damaged = |image: &ImageId| {
        // One whose configuration is there and bad is a finding.
        let path = places::in_root(store.driver().name(), places::image(image));
        snapshot.strays.iter().any(|stray| stray.path == path)
    };
    let theirs = source.index.images.iter();
    theirs
        .filter(|image| !snapshot.images.contains_key(&image.id) && source.configs.contains_key(&image.id))
        .filter(|image| !damaged(&image.id))
        .filter(|image| told.contains(&image.id) || image.chain_ids().last().is_some_and(|top| ownerless.contains(top)))
        .map(|image| image.id)
        .collect()
}

/// Returns the layers of layerdb that no image, no container and no build has.
fn ownerless(snapshot: &Snapshot) -> BTreeSet<ChainId> {
    let images = snapshot.images.values().flat_map(|image| image.chain_ids());
    let mounts = snapshot.mounts.values().filter_map(|mount| mount.parent);
    let builds = snapshot.build_records.values().flat_map(|record| record.layers.iter().copied());
    let mut owned: BTreeSet<ChainId> = images.collect();
    for top in mounts.chain(builds) {
        let mut next = Some(top);
        while let Some(chain) = next.filter(|chain| owned.insert(*chain)) {
            next = snapshot.layers.get(&chain).and_then(|layer| layer.parent);
        }
    }
    snapshot.layers.keys().filter(|chain| !owned.contains(chain)).copied().collect()
}
