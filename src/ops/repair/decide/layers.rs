//! Layers: their entries in layerdb, and which of them are rebuilt.

use std::collections::BTreeSet;

use crate::finding::Code;
use crate::id::ChainId;
use crate::ops::trash::Owned;
use crate::ops::verify::Found;

use super::super::plan::{Act, Step};
use super::images::lost;
use super::part::Part;
use super::{Planner, chain_of, dir_of};

/// Mode of the files of an entry.
const FILE: u32 = 0o644;

impl<'a> Planner<'a> {
    /// Corrects the layer table to what image configurations and proved directories imply.
    pub(super) fn correct_known_entries(&mut self) {
        for (chain, entry) in &self.survey.entries {
            if let Some(known) = self.survey.known.get(chain) {
                self.parents.insert(*chain, known.parent);
            }
            if let Some(id) = self.survey.proved.get(chain).or(entry.cache_id.as_ref()) {
                self.dirs.insert(*chain, id.clone());
            }
        }
        for (chain, id) in &self.survey.proved {
            self.dirs.insert(*chain, id.clone());
        }
        // Of a layer that is gone its images still say what lies below it.
        for chain in &self.survey.wanted {
            if let Some(known) = self.survey.known.get(chain) {
                self.parents.entry(*chain).or_insert(known.parent);
            }
        }
    }

    /// Entries of layerdb.
    pub(super) fn entry(&mut self, found: &'a Found) {
        match found.finding.code {
            Code::LayerMissing
            | Code::LayerNotLoadable
            | Code::LayerUnreadable
            | Code::LayerChainMismatch
            | Code::CacheIdInvalid => {
                if let Some(chain) = chain_of(found) {
                    self.complete(found, chain);
                    self.missing_above(found, chain);
                }
            }
            Code::LayerCacheIdShared => self.part(found),
            Code::LayerDirectoryMissing | Code::LayerCacheIdWrong => self.find_again(found),
            _ => {}
        }
    }

    /// Rebuilds the layers above a missing one that are missing too: of neighbours only the lowest is found.
    fn missing_above(&mut self, found: &Found, lowest: ChainId) {
        for chain in self.missing() {
            let is_above = self.below(chain).is_some_and(|below| below.contains(&lowest));
            if is_above && self.record(chain).is_some() {
                self.rebuild_from_source(found, chain, true);
            }
        }
    }

    /// Rebuilds the missing layers of images that come back.
    pub(super) fn layers_of_returning(&mut self) {
        for image in self.survey.returning.clone() {
            let Some(source) = self.source else { return };
            let Some(record) = source.index.images.iter().find(|record| record.id == image) else { continue };
            let of_image: BTreeSet<ChainId> = record.chain_ids().into_iter().collect();
            for chain in self.missing().into_iter().filter(|chain| of_image.contains(chain)) {
                if self.record(chain).is_some() {
                    self.rebuild_from_source(&lost(image), chain, true);
                }
            }
        }
    }

    /// Returns the layers that images need and layerdb does not have, those below first.
    fn missing(&self) -> Vec<ChainId> {
        let has = |chain: &ChainId| {
            self.snapshot.layers.contains_key(chain)
                || self.snapshot.broken_layers.get(&chain.hex()).is_some_and(|layer| !layer.removing)
                || self.reseeded.contains_key(chain)
        };
        let mut missing: Vec<ChainId> = self.survey.wanted.iter().copied().filter(|chain| !has(chain)).collect();
        missing.sort_by_cached_key(|chain| (self.depth(*chain), *chain));
        missing
    }

    /// Completes an entry, or rewrites it.
    fn complete(&mut self, found: &Found, chain: ChainId) {
        let entry = self.survey.entries.get(&chain).cloned().unwrap_or_default();
        let is_empty = entry.diff.is_none() && entry.cache_id.is_none() && !entry.has_tar_split;
        let id = self.dirs.get(&chain).cloned();
        let known = self.survey.known.get(&chain).copied();
        let (Some(known), Some(id), true) = (known, id, entry.has_tar_split) else {
            return self.anew(found, chain, is_empty);
        };
        let given =
            || self.source.filter(|source| source.knows_sizes()).and(self.record(chain)).map(|record| record.size);
        let Some(size) = entry.size.or_else(given).or_else(|| self.survey.sizes.get(&chain).copied()) else {
            return self.anew(found, chain, is_empty);
        };
        let wanted = [
            ("diff", entry.diff != Some(known.diff), known.diff.to_string()),
            ("size", entry.size.is_none(), size.to_string()),
            ("cache-id", entry.cache_id.as_ref() != Some(&id), id.to_string()),
        ];
        let mut pieces: Vec<(Step, String, Act)> = wanted
            .into_iter()
            .filter(|(_, is_wrong, _)| *is_wrong)
            .map(|(file, _, text)| (Step::Layer, self.entry_path(chain, file), root_file(text, FILE)))
            .collect();
        if entry.parent != Some(known.parent) {
            let act = known.parent.map_or(Act::Remove, |parent| root_file(parent.to_string(), FILE));
            pieces.push((Step::Layer, self.entry_path(chain, "parent"), act));
        }
        let files: Vec<&str> = pieces.iter().filter_map(|(_, path, _)| path.rsplit('/').next()).collect();
        let act = format!("write {} of its entry in layerdb, as images and its directory say", files.join(", "));
        self.mend(found, act, pieces);
    }

    /// Makes an entry and its directory, or says what would be needed for it.
    fn anew(&mut self, found: &Found, chain: ChainId, is_empty: bool) {
        if self.record(chain).is_some() && self.survey.known.contains_key(&chain) {
            return self.rebuild_from_source(found, chain, true);
        }
        let path = self.entry_path(chain, "");
        if is_empty && found.finding.code != Code::LayerMissing {
            // While the entry is there, gc knows that a directory may be the layer's.
            if self.has_unnamed_directory() {
                let needs = "its entry is empty, and a directory that nothing names may be its own; it stays, as gc would \
                             take that directory";
                return self.leave(found, format!("{needs}: {}", self.needs_layer(chain)));
            }
            self.mend(
                found,
                "move the empty entry away, which keeps the layer from being pulled or loaded",
                [(Step::Layer, path, Act::Remove)],
            );
        }
        self.leave(found, self.needs_layer(chain));
    }

    /// Tells whether the driver has a directory that no layer, no container, no build and no other directory names.
    fn has_unnamed_directory(&self) -> bool {
        let snapshot = self.snapshot;
        let mounts = snapshot.mounts.values().flat_map(|mount| mount.mount_id.iter().chain(&mount.init_id));
        let builds = snapshot.build_records.values().flat_map(|record| &record.dirs);
        let stacked = snapshot.driver_dirs.values().flat_map(|dir| &dir.lower);
        let named: BTreeSet<_> = self.dirs.values().chain(mounts).chain(builds).chain(stacked).collect();
        snapshot.driver_dirs.keys().any(|id| !named.contains(id))
    }

    /// A layer names a directory that is not there, and another was proved to hold the layer.
    fn find_again(&mut self, found: &Found) {
        let proved = chain_of(found).and_then(|chain| Some((chain, self.survey.proved.get(&chain)?)));
        if let Some((chain, id)) = proved {
            let piece = (Step::Layer, self.entry_path(chain, "cache-id"), root_file(id.as_str(), FILE));
            self.mend(found, "write the cache-id of the directory that was proved to hold it", [piece]);
        }
    }

    /// Several layers name one directory: it stays that of the layer that it proves to hold.
    fn part(&mut self, found: &Found) {
        let Some(shared) = dir_of(found).cloned() else { return };
        let users: Vec<ChainId> = self
            .snapshot
            .layers
            .iter()
            .filter(|(_, layer)| layer.cache_id == shared)
            .map(|(chain, _)| *chain)
            .collect();
        for chain in users {
            match self.survey.proved.get(&chain) {
                Some(id) if *id == shared => {}
                Some(id) => {
                    let piece = (Step::Layer, self.entry_path(chain, "cache-id"), root_file(id.as_str(), FILE));
                    self.mend(found, "write cache-id of the layer that has another directory", [piece]);
                }
                None if self.record(chain).is_some() => {
                    let id = self.free_id(chain);
                    self.dirs.insert(chain, id.clone());
                    let piece = (Step::Layer, self.entry_path(chain, "cache-id"), root_file(id.as_str(), FILE));
                    self.mend(found, "give each layer a directory of its own", [piece]);
                    self.rebuild_from_source(found, chain, false);
                }
                None => self.leave(found, self.needs_layer(chain)),
            }
        }
    }

    /// Collects what is wrong with the content of layers.
    pub(super) fn content(&mut self, found: &'a Found) {
        let code = found.finding.code;
        let is_content = matches!(
            code,
            Code::LayerDirectoryMissing
                | Code::LayerCacheIdWrong
                | Code::LayerTarSplitMissing
                | Code::LayerTarSplitDamaged
                | Code::LayerDigestMismatch
                | Code::TreeUnreadable
        ) || matches!(Part::of(code), Part::Node | Part::File);
        let chain = match code {
            Code::DriverTreeMissing => match dir_of(found).and_then(|id| self.layer_of(id)) {
                Some(chain) => chain,
                None => {
                    return self.leave(found, "what was written there is lost: remove the container and make it again");
                }
            },
            _ if is_content => match chain_of(found) {
                Some(chain) => chain,
                None => return,
            },
            _ => return,
        };
        if self.was_about_another(chain) {
            self.explained.insert((found.finding.object.clone(), found.finding.code));
        } else {
            self.bad.entry(chain).or_default().push(found);
        }
    }

    /// Tells whether the entry of a layer named another directory or content when it was verified.
    fn was_about_another(&self, chain: ChainId) -> bool {
        let Some(layer) = self.snapshot.layers.get(&chain) else { return false };
        let known = self.survey.known.get(&chain);
        self.dirs.get(&chain) != Some(&layer.cache_id)
            || known.is_some_and(|known| known.diff != layer.diff || known.parent != layer.parent)
    }
}

/// A file as dockerd makes it below `image/`.
pub(super) fn root_file(text: impl Into<String>, mode: u32) -> Act {
    Act::Write { text: text.into(), owned: Owned { mode, uid: 0, gid: 0 } }
}
