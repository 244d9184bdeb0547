//! What a save will write: pure data, made from a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use crate::driver::{Driver, DriverFacts};
use crate::error::{Error, Result};
use crate::graph::Selected;
use crate::id::{ChainId, ImageId};
use crate::json::is_time;
use crate::model::{FORMAT, ImageRecord, Index, LayerRecord, Metadata};
use crate::reference::Reference;
use crate::store::{Image, Snapshot};

/// What will be written.
#[derive(Debug, Clone)]
pub struct SavePlan {
    /// The images and layers, and the configurations byte for byte. The lengths of the layers' tars are measured when the
    /// plan is carried out.
    pub(super) metadata: Metadata,
    /// References by digest that are left out.
    pub(super) unproved: Vec<String>,
    pub(super) users: Users,
}

/// For each layer, what uses it in this store: for messages.
#[derive(Debug, Clone)]
pub(super) struct Users(BTreeMap<ChainId, Vec<String>>);

impl Users {
    /// Makes an error of a layer.
    pub(super) fn error(&self, chain: ChainId, reason: impl ToString) -> Error {
        Error::Layer {
            chain: chain.to_string(),
            reason: reason.to_string(),
            used_by: self.0.get(&chain).cloned().unwrap_or_default(),
        }
    }
}

impl SavePlan {
    /// Plans to save these images of a store of `driver`. An image that was selected by its ID keeps all its tags.
    ///
    /// # Errors
    /// A layer of an image is not in the store.
    pub fn new(snapshot: &Snapshot, driver: &Driver, selected: &[Selected]) -> Result<Self> {
        let wanted: BTreeSet<ImageId> = selected.iter().map(|one| one.image).collect();
        let mut plan = Self {
            metadata: Metadata {
                index: Index { format: FORMAT, driver: Some(driver.name().to_owned()), ..Index::default() },
                blobs: BTreeMap::new(),
            },
            unproved: Vec::new(),
            users: Users(used_by(snapshot)),
        };
        let mut seen = BTreeSet::new();
        for one in selected {
            let image = snapshot
                .images
                .get(&one.image)
                .ok_or_else(|| Error::NoSuchImage { wanted: one.image.to_string(), near: Vec::new() })?;
            plan.add_layers(snapshot, image, &mut seen)?;
            let mut image_record = record(snapshot, one, image, &wanted);
            // A digest is that of a manifest, which the store does not have.
            plan.unproved.extend(image_record.references.extract_if(.., |reference| reference.contains('@')));
            plan.metadata.index.images.push(image_record);
            plan.metadata.blobs.insert(one.image.0, image.config.clone());
        }
        Ok(plan)
    }

    /// Returns the index of the archive; the lengths of tars in it are not known yet.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.metadata.index
    }

    fn add_layers(&mut self, snapshot: &Snapshot, image: &Image, seen: &mut BTreeSet<ChainId>) -> Result<()> {
        let mut parent = None;
        for (chain, diff) in image.chain_ids().into_iter().zip(&image.diff_ids) {
            let below = parent.replace(chain);
            if !seen.insert(chain) {
                continue;
            }
            let Some(layer) = snapshot.layers.get(&chain) else { return Err(self.missing(snapshot, chain)) };
            self.metadata.index.layers.push(LayerRecord {
                chain,
                diff: *diff,
                parent: below,
                size: layer.size,
                tar_size: 0,
                cache_id: layer.cache_id.clone(),
                facts: DriverFacts::default(),
            });
        }
        Ok(())
    }

    fn missing(&self, snapshot: &Snapshot, chain: ChainId) -> Error {
        let reason = match snapshot.broken_layers.get(&chain.hex()) {
            Some(broken) => format!("its entry in layerdb is broken: {}", broken.reason),
            None => "it is not in layerdb".to_owned(),
        };
        self.users.error(chain, reason)
    }
}

fn record(snapshot: &Snapshot, one: &Selected, image: &Image, wanted: &BTreeSet<ImageId>) -> ImageRecord {
    let time = |bytes: &Vec<u8>| is_time(bytes).then(|| String::from_utf8_lossy(bytes).into_owned());
    ImageRecord {
        id: one.image,
        references: references(snapshot, one),
        diff_ids: image.diff_ids.clone(),
        created: image.created.clone(),
        parent: image.parent.filter(|parent| wanted.contains(parent)),
        last_updated: image.last_updated.as_ref().and_then(time),
    }
}

fn references(snapshot: &Snapshot, one: &Selected) -> Vec<String> {
    let repository = |reference: &str| {
        let name = reference.split('@').next().unwrap_or_default();
        let slash = name.rfind('/').map_or(0, |slash| slash + 1);
        name[slash..].find(':').map_or(name, |colon| &name[..slash + colon]).to_owned()
    };
    let named: BTreeSet<String> = one.references.iter().map(|reference| repository(reference)).collect();
    snapshot
        .references
        .iter()
        .filter(|(_, id)| **id == one.image)
        .map(|(reference, _)| reference)
        // dockerd passes over what is no reference.
        .filter(|reference| Reference::is_key(reference))
        .filter(|reference| {
            one.references.is_empty()
                || one.references.contains(*reference)
                || reference.contains('@') && named.contains(&repository(reference))
        })
        .cloned()
        .collect()
}

/// Maps each layer to the references, or short IDs, of the images that use it.
fn used_by(snapshot: &Snapshot) -> BTreeMap<ChainId, Vec<String>> {
    let mut names: BTreeMap<ImageId, Vec<&str>> = BTreeMap::new();
    for (reference, id) in &snapshot.references {
        names.entry(*id).or_default().push(reference);
    }
    let mut used: BTreeMap<ChainId, Vec<String>> = BTreeMap::new();
    for (id, image) in &snapshot.images {
        let shown = names.get(id).map_or_else(|| id.short(), |names| names.join(", "));
        for chain in image.chain_ids() {
            used.entry(chain).or_default().push(shown.clone());
        }
    }
    used
}
