//! What of a damaged store can be saved: layers are proved before anything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use rayon::prelude::*;
use serde::Serialize;

use crate::driver::DriverFacts;
use crate::error::{Error, FsError, Result};
use crate::graph::Selected;
use crate::id::{ChainId, ImageId};
use crate::model::LayerRecord;
use crate::ops::hash::Hash;
use crate::progress::{Event, Observer};
use crate::store::{Snapshot, Store};
use crate::tarsplit::{Beside, assemble};

use super::directory::Directories;
use super::measure::Parts;

/// An image that cannot be saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unproved {
    /// Its ID.
    pub image: ImageId,
    /// Its references.
    pub references: Vec<String>,
    /// The first layer, from the base, that cannot be proved; none where the configuration cannot.
    pub layer: Option<ChainId>,
    /// Why it cannot be proved.
    pub reason: String,
}

/// Divides images into those of which every layer can be proved against its diff ID, and the others. An image that a
/// reference names and whose configuration is lost is among the others where `all` are wanted.
///
/// # Errors
/// The graph driver's trees cannot be read here, or the observer wanted it to stop.
pub fn provable(
    store: &Store,
    snapshot: &Snapshot,
    selected: Vec<Selected>,
    all: bool,
    observer: &dyn Observer,
) -> Result<(Vec<Selected>, Vec<Unproved>)> {
    let layers: BTreeMap<ChainId, LayerRecord> =
        selected.iter().filter_map(|one| snapshot.images.get(&one.image)).flat_map(records(snapshot)).collect();
    observer.on(Event::Begin { what: "proving", total: Some(layers.values().map(|layer| layer.size).sum()) });
    let driver = store.driver().readable()?;
    store.namespace()?;
    let stamped = OnceLock::new();
    let proof = Proof { snapshot, directories: Directories { store, driver, stamped: &stamped }, observer };
    let proved: Vec<(ChainId, Result<Result<(), String>>)> =
        layers.par_iter().map(|(chain, layer)| (*chain, proof.prove(layer))).collect();
    observer.on(Event::End);
    let mut bad: BTreeMap<ChainId, String> = BTreeMap::new();
    for (chain, proof) in proved {
        if let Err(reason) = proof? {
            bad.insert(chain, reason);
        }
    }
    let references = |image: ImageId| {
        let named = snapshot.references.iter().filter(|(_, id)| **id == image);
        named.map(|(reference, _)| reference.clone()).collect()
    };
    let (mut good, mut unproved) = (Vec::new(), Vec::new());
    for one in selected {
        let chains = snapshot.images.get(&one.image).map(|image| image.chain_ids()).unwrap_or_default();
        let first = chains.into_iter().find_map(|chain| Some((chain, reason(snapshot, &bad, chain)?)));
        match first {
            None => good.push(one),
            Some((chain, reason)) => unproved.push(Unproved {
                image: one.image,
                references: references(one.image),
                layer: Some(chain),
                reason,
            }),
        }
    }
    let lost = snapshot.references.values().filter(|image| all && !snapshot.images.contains_key(image));
    for image in lost.collect::<BTreeSet<_>>() {
        let reason = "its configuration is missing or damaged".to_owned();
        unproved.push(Unproved { image: *image, references: references(*image), layer: None, reason });
    }
    Ok((good, unproved))
}

/// Lists the layers of an image that layerdb has, as far as proving them needs.
fn records(snapshot: &Snapshot) -> impl Fn(&crate::store::Image) -> Vec<(ChainId, LayerRecord)> {
    |image| {
        let stack = image.chain_ids().into_iter().zip(&image.diff_ids);
        let record = |(chain, diff): (ChainId, &crate::id::DiffId)| {
            let layer = snapshot.layers.get(&chain)?;
            let record = LayerRecord {
                chain,
                diff: *diff,
                parent: layer.parent,
                size: layer.size,
                tar_size: 0,
                cache_id: layer.cache_id.clone(),
                facts: DriverFacts::default(),
            };
            Some((chain, record))
        };
        stack.filter_map(record).collect()
    }
}

/// Says why a layer cannot be saved; `None` where it can.
fn reason(snapshot: &Snapshot, bad: &BTreeMap<ChainId, String>, chain: ChainId) -> Option<String> {
    match (snapshot.layers.get(&chain), snapshot.broken_layers.get(&chain.hex())) {
        (Some(_), _) => bad.get(&chain).cloned(),
        (None, Some(broken)) => Some(format!("its entry in layerdb is broken: {}", broken.reason)),
        (None, None) => Some("it is not in layerdb".to_owned()),
    }
}

/// The proof of layers.
struct Proof<'a> {
    snapshot: &'a Snapshot,
    directories: Directories<'a>,
    observer: &'a dyn Observer,
}

impl Proof<'_> {
    /// Assembles a layer's tar, compares its digest with the diff ID, and its tree with what the tar says.
    fn prove(&self, layer: &LayerRecord) -> Result<Result<(), String>> {
        self.observer.on(Event::Object(&layer.chain.short()));
        let (store, driver) = (self.directories.store, self.directories.driver);
        let source = match Parts::open(store, layer) {
            Ok(source) => source,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let mut hash = Beside::new(Hash::new(self.observer));
        let opened = driver.read.tree(&source.layer).and_then(|tree| Ok((tree, source.entries()?)));
        let assembled = opened
            .map_err(|error| error.to_string())
            .and_then(|(tree, entries)| assemble(entries, &tree, &mut hash).map_err(|error| error.to_string()));
        if self.observer.wants_stop() {
            return Err(Error::Stopped);
        }
        Ok(assembled.and_then(|_| match hash.out.finish().0 {
            found if found == layer.diff.0 => self.tree(layer, &source),
            found => Err(format!("its tar has the digest {found}, not its diff ID {}", layer.diff)),
        }))
    }

    fn tree(&self, layer: &LayerRecord, source: &Parts) -> Result<(), String> {
        let text = |error: FsError| error.to_string();
        let layer =
            LayerRecord { facts: self.directories.driver.read.facts(&source.layer).map_err(text)?, ..layer.clone() };
        let find = |chain| self.snapshot.layers.get(&chain).map(|layer| (layer.parent, layer.cache_id.clone()));
        let below = layer.parent.and_then(|parent| self.snapshot.layers.get(&parent));
        let dirs = self.directories.store.dirs().zip(below);
        let parent = dirs.map(|(dirs, below)| dirs.dir(below.cache_id.as_str())).transpose().map_err(text)?;
        self.directories.look(source, &layer, parent.as_ref(), find).map(|_| ())
    }
}
