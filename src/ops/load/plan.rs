//! What a load will write: pure data, made from an archive's index and a snapshot of the target.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::driver::{Driver, DriverFacts};
use crate::error::{Error, Result};
use crate::id::{CacheId, ChainId, ImageId, LinkId, Sha256};
use crate::model::{ImageRecord, Index, LayerRecord};
use crate::ops::trash::Identity;
use crate::reference::Reference;
use crate::store::Snapshot;

use super::above::Above;

/// What will be written to a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadPlan {
    /// Graph driver of the target.
    pub driver: String,
    /// Whether the archive was saved from a store of the same driver, so that directories become the same.
    pub same_driver: bool,
    /// Images that were chosen from the archive.
    pub images: Vec<ImageRecord>,
    /// Those of them that the target has already.
    pub images_present: BTreeSet<ImageId>,
    /// Parents that such images have in the archive and not in the target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parents: BTreeMap<ImageId, ImageId>,
    /// Layers to be built, parents before children.
    pub layers: Vec<PlannedLayer>,
    /// Layers of the images that the target has already, whole.
    pub layers_present: BTreeSet<ChainId>,
    /// Records of layers that make room for new ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub displaced: BTreeMap<ChainId, Identity>,
    /// Layers to be built that containers or layers of the target call by another short name than they get: these do not
    /// start before it is written anew.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub called_otherwise: BTreeSet<ChainId>,
    /// References to be written.
    pub references: Vec<Tagging>,
}

/// A layer that will be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedLayer {
    /// The layer, with the name and the driver's facts it will have here.
    #[serde(flatten)]
    pub record: LayerRecord,
    /// The target has a broken entry for this layer in layerdb, which makes room.
    pub displaces: bool,
    /// The driver directory will be of the form it had, so what the archive lists of it applies.
    pub restores: bool,
}

/// A reference that will be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagging {
    /// The reference, as `repositories.json` writes it.
    pub reference: String,
    /// What it will lead to.
    pub image: ImageId,
    /// What it leads to now.
    pub was: Option<ImageId>,
}

/// Most layers of an image, with every graph driver [moby layer/layer_store.go `maxLayerDepth`].
const LAYERS_LIMIT: usize = 125;

/// Length of the names that the first releases give driver directories; they take no shorter ones.
const EARLY_NAME: usize = 64;

/// What the target has, beyond a snapshot.
#[derive(Debug, Default)]
pub(super) struct Target {
    /// Layers that are in layerdb and whose driver directory can be used.
    pub(super) whole: BTreeSet<ChainId>,
    /// Names in the driver's home, and all that anything in layerdb names.
    pub(super) cache_ids: BTreeSet<CacheId>,
    /// `overlay2`'s short names.
    pub(super) links: BTreeSet<LinkId>,
    /// Each layer has a short name.
    pub(super) has_short_names: bool,
    /// `overlay2`: the short names that missing layers are called by.
    pub(super) above: Above,
    /// Docker 17.03 to 17.09 made it: layers have the directory that they are mounted at, and names of 64 digits.
    pub(super) is_early: bool,
    /// Docker without root made it.
    pub(super) is_rootless: bool,
}

/// Chooses images of an archive: all where nothing is asked for; else by reference, repository, ID or prefix.
///
/// # Errors
/// A word means no image, or a prefix several.
pub fn select(index: &Index, wanted: &[String]) -> Result<Vec<ImageRecord>> {
    if wanted.is_empty() {
        return Ok(index.images.clone());
    }
    let mut chosen: Vec<ImageRecord> = Vec::new();
    for word in wanted {
        for (image, references) in select_one(index, word)? {
            match chosen.iter_mut().find(|known| known.id == image.id) {
                Some(known) => known.references.extend(references),
                None => chosen.push(ImageRecord { references, ..image.clone() }),
            }
        }
    }
    for image in &mut chosen {
        image.references.sort();
        image.references.dedup();
    }
    Ok(chosen)
}

fn select_one<'a>(index: &'a Index, word: &str) -> Result<Vec<(&'a ImageRecord, Vec<String>)>> {
    if let Ok(reference) = word.parse::<Reference>() {
        let name_only = reference.is_name_only();
        let matches = |text: &String| {
            text.parse::<Reference>().is_ok_and(|found| match name_only {
                true => found.repository == reference.repository,
                false => found.key() == reference.key(),
            })
        };
        let found: Vec<_> = index
            .images
            .iter()
            .map(|image| (image, image.references.iter().filter(|text| matches(text)).cloned().collect::<Vec<_>>()))
            .filter(|(_, references)| !references.is_empty())
            .collect();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let hex = word.strip_prefix("sha256:").unwrap_or(word);
    let found: Vec<_> = index.images.iter().filter(|image| image.id.hex().starts_with(hex)).collect();
    match found[..] {
        [image] => Ok(vec![(image, image.references.clone())]),
        [] => Err(Error::NoSuchImage { wanted: word.to_owned(), near: near(index, word) }),
        _ => Err(Error::AmbiguousPrefix {
            wanted: word.to_owned(),
            images: found.iter().map(|image| image.id.short()).collect(),
        }),
    }
}

fn near(index: &Index, word: &str) -> Vec<String> {
    let mut near: Vec<(f64, &String)> = index
        .images
        .iter()
        .flat_map(|image| &image.references)
        .map(|reference| (strsim::jaro_winkler(word, reference), reference))
        .filter(|(likeness, _)| *likeness > 0.7)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take(3).map(|(_, reference)| reference.clone()).collect()
}

impl LoadPlan {
    /// Plans to bring `images`, chosen by [`select`], into a store of `driver`.
    pub(super) fn new(
        index: &Index,
        mut images: Vec<ImageRecord>,
        driver: &Driver,
        snapshot: &Snapshot,
        mut target: Target,
    ) -> Result<Self> {
        if let Some(deep) = images.iter().find(|image| image.diff_ids.len() > LAYERS_LIMIT) {
            let image = deep.references.first().cloned().unwrap_or_else(|| deep.id.short());
            return Err(Error::TooManyLayers { image, layers: deep.diff_ids.len(), most: LAYERS_LIMIT });
        }
        keep_known_parents(&mut images, snapshot);
        let wanted: BTreeSet<ChainId> = images.iter().flat_map(ImageRecord::chain_ids).collect();
        let mut plan = Self {
            driver: driver.name().to_owned(),
            same_driver: index.driver.as_deref() == Some(driver.name()),
            images_present: images.iter().map(|image| image.id).filter(|id| snapshot.images.contains_key(id)).collect(),
            parents: parents(&images, snapshot),
            layers: Vec::new(),
            layers_present: wanted.intersection(&target.whole).copied().collect(),
            displaced: BTreeMap::new(),
            called_otherwise: BTreeSet::new(),
            references: references(&images, snapshot),
            images,
        };
        let mut placed: BTreeMap<CacheId, CacheId> = BTreeMap::new();
        for record in index.layers.iter().filter(|layer| wanted.contains(&layer.chain)) {
            if !plan.layers_present.contains(&record.chain) {
                plan.add_layer(record, snapshot, &mut target, &mut placed);
            } else if let Some(layer) = snapshot.layers.get(&record.chain) {
                placed.insert(record.cache_id.clone(), layer.cache_id.clone());
            }
        }
        plan.check(&wanted)?;
        Ok(plan)
    }

    /// Plans to build these layers of an archive, and nothing else.
    pub(in crate::ops) fn of_layers(driver: &Driver, index: &Index, layers: Vec<PlannedLayer>) -> Self {
        Self {
            driver: driver.name().to_owned(),
            same_driver: index.driver.as_deref() == Some(driver.name()),
            images: Vec::new(),
            images_present: BTreeSet::new(),
            parents: BTreeMap::new(),
            layers,
            layers_present: BTreeSet::new(),
            displaced: BTreeMap::new(),
            called_otherwise: BTreeSet::new(),
            references: Vec::new(),
        }
    }

    fn add_layer(
        &mut self,
        record: &LayerRecord,
        snapshot: &Snapshot,
        target: &mut Target,
        placed: &mut BTreeMap<CacheId, CacheId>,
    ) {
        let mut record = record.clone();
        let archived = record.cache_id.clone();
        let is_short = record.cache_id.as_str().len() < EARLY_NAME;
        if target.cache_ids.contains(&record.cache_id) || target.is_early && is_short {
            record.cache_id = fresh(&record.chain, |name| CacheId::parse(name).ok(), &target.cache_ids, EARLY_NAME);
        }
        target.cache_ids.insert(record.cache_id.clone());
        placed.insert(archived.clone(), record.cache_id.clone());
        let facts = self.facts(&record, target, placed);
        if target.above.is_called_otherwise(record.chain, facts.link.as_ref()) {
            self.called_otherwise.insert(record.chain);
        }
        // What BuildKit made in place is told by its short name: under another one it is as unpacking makes it.
        let keeps_form = !is_short || record.cache_id == archived;
        let keeps_form = keeps_form && (target.is_rootless || !record.facts.mounted);
        let restores = self.same_driver && keeps_form && facts.lower_id.is_some() == record.facts.lower_id.is_some();
        record.facts = facts;
        let displaces =
            snapshot.layers.contains_key(&record.chain) || snapshot.broken_layers.contains_key(&record.chain.hex());
        self.layers.push(PlannedLayer { record, displaces, restores });
    }

    /// What the driver will keep of a layer here.
    fn facts(&self, record: &LayerRecord, target: &mut Target, placed: &BTreeMap<CacheId, CacheId>) -> DriverFacts {
        let archived = if self.same_driver { record.facts.clone() } else { DriverFacts::default() };
        let mut facts = DriverFacts { link: None, merged: target.is_early, ..archived.clone() };
        if target.has_short_names {
            let kept = target.above.keeps.get(&record.chain).cloned();
            let link = kept.or_else(|| archived.link.filter(|link| !target.links.contains(link)));
            let link = link.unwrap_or_else(|| fresh(&record.chain, LinkId::of_hex, &target.links, 26));
            target.links.insert(link.clone());
            facts.link = Some(link);
            facts.committed |= target.above.has(record.chain);
        }
        // A layer that BuildKit made in `overlay` needs its lower directory; where that is none of the archive's,
        // the layer becomes a whole tree, as `docker load` makes it.
        facts.lower_id = archived.lower_id.and_then(|lower| placed.get(&lower).cloned());
        facts
    }

    /// Proves that the index is one: each layer's identity is that of its parent and content, parents come first.
    fn check(&self, wanted: &BTreeSet<ChainId>) -> Result<()> {
        let bad = |chain: &ChainId, reason: &str| Error::Layer {
            chain: chain.to_string(),
            reason: reason.to_owned(),
            used_by: Vec::new(),
        };
        let mut known = self.layers_present.clone();
        for PlannedLayer { record, .. } in &self.layers {
            if ChainId::stack(record.parent, record.diff) != record.chain {
                return Err(bad(&record.chain, "the archive's index gives it another parent or content"));
            }
            if record.parent.is_some_and(|parent| !known.contains(&parent)) {
                return Err(bad(&record.chain, "the archive's index has it before its parent"));
            }
            if !known.insert(record.chain) {
                return Err(bad(&record.chain, "the archive's index has it twice"));
            }
        }
        match wanted.difference(&known).next() {
            Some(chain) => Err(bad(chain, "the archive's index does not have it")),
            None => Ok(()),
        }
    }

    /// Returns the bytes of the tars of the layers to be built.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.record.tar_size).sum()
    }

    /// Returns the images that need a layer, as references or short IDs.
    pub(super) fn used_by(&self, chain: ChainId) -> Vec<String> {
        let users = self.images.iter().filter(|image| image.chain_ids().contains(&chain));
        users.map(ImageRecord::shown).collect()
    }

    /// Tells whether there is nothing to write.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.layers.is_empty()
            && self.references.is_empty()
            && self.images.iter().all(|image| self.images_present.contains(&image.id))
            && self.parents.is_empty()
    }
}

/// Forgets parents that will not be there: those that were not chosen.
fn keep_known_parents(images: &mut [ImageRecord], snapshot: &Snapshot) {
    let chosen: BTreeSet<ImageId> = images.iter().map(|image| image.id).collect();
    for image in images {
        image.parent = image.parent.filter(|parent| chosen.contains(parent) || snapshot.images.contains_key(parent));
    }
}

/// Finds the parents that images of the target lack, because they came without them.
fn parents(images: &[ImageRecord], snapshot: &Snapshot) -> BTreeMap<ImageId, ImageId> {
    let lacks_it = |image: &&ImageRecord| snapshot.images.get(&image.id).is_some_and(|found| found.parent.is_none());
    images.iter().filter(lacks_it).filter_map(|image| Some((image.id, image.parent?))).collect()
}

fn references(images: &[ImageRecord], snapshot: &Snapshot) -> Vec<Tagging> {
    let mut references = Vec::new();
    for image in images {
        for reference in &image.references {
            let was = snapshot.references.get(reference).copied();
            if was != Some(image.id) {
                references.push(Tagging { reference: reference.clone(), image: image.id, was });
            }
        }
    }
    references
}

/// Makes a name that is not taken, out of a layer's identity: two loads make the same.
fn fresh<T: Ord>(chain: &ChainId, name: impl Fn(&[u8]) -> Option<T>, taken: &BTreeSet<T>, length: usize) -> T {
    (0_u64..)
        .filter_map(|turn| {
            let hex = Sha256::of(format!("dockpack {chain} {turn}").as_bytes()).hex();
            name(&hex.as_bytes()[..length])
        })
        .find(|name| !taken.contains(name))
        .expect("because there are more names than layers")
}
