//! Layers: their entries in layerdb, and their content.

use crate::archive::LayerRecord;
use crate::driver::DriverFacts;
use crate::id::{CacheId, ChainId, Sha256};
use crate::ops::load::PlannedLayer;
use crate::ops::trash::Owned;
use crate::ops::verify::Found;

use super::super::plan::{Act, Reseed, Step};
use super::{Planner, chain_of, dir_of};

/// Mode of the files of an entry.
const FILE: u32 = 0o644;

impl<'a> Planner<'a> {
    /// Takes what images say of layers and what was proved of directories for what it will be.
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
    }

    /// Entries of layerdb.
    pub(super) fn entry(&mut self, found: &'a Found) {
        match found.finding.code {
            "layer-missing"
            | "layer-not-loadable"
            | "layer-unreadable"
            | "layer-chain-mismatch"
            | "cache-id-invalid" => {
                if let Some(chain) = chain_of(found) {
                    self.complete(found, chain);
                }
            }
            "layer-cache-id-shared" => self.part(found),
            _ => {}
        }
    }

    /// Completes an entry, or makes it anew.
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

    /// Makes an entry and its directory anew, or says what would be needed for it.
    fn anew(&mut self, found: &Found, chain: ChainId, is_empty: bool) {
        if self.record(chain).is_some() && self.survey.known.contains_key(&chain) {
            return self.reseed(found, chain, true);
        }
        let path = self.entry_path(chain, "");
        if is_empty && found.finding.code != "layer-missing" {
            self.mend(
                found,
                "move the empty entry away, which keeps the layer from being pulled or loaded",
                [(Step::Layer, path, Act::Remove)],
            );
        }
        self.leave(found, self.needs_layer(chain));
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
                    self.reseed(found, chain, false);
                }
                None => self.leave(found, self.needs_layer(chain)),
            }
        }
    }

    /// Content of layers.
    pub(super) fn content(&mut self, found: &'a Found) {
        let code = found.finding.code;
        let is_content = matches!(
            code,
            "layer-directory-missing"
                | "layer-tar-split-missing"
                | "layer-tar-split-damaged"
                | "layer-digest-mismatch"
                | "tree-unreadable"
        ) || ["file-", "node-", "whiteout-"].iter().any(|kind| code.starts_with(kind));
        let chain = match code {
            "driver-tree-missing" => match dir_of(found).and_then(|id| self.layer_of(id)) {
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
        self.bad.insert(chain);
        if self.was_about_another(chain) {
            self.explained.insert((found.finding.subject.clone(), found.finding.code));
        } else if self.record(chain).is_some() {
            self.reseed(found, chain, false);
        } else {
            self.leave(found, self.needs_layer(chain));
        }
    }

    /// `overlay`: what stands on a layer that is built anew shares files with it, and is built anew too.
    pub(super) fn above(&mut self, found: &'a Found) {
        let Some(chain) = chain_of(found).or_else(|| self.layer_of(dir_of(found)?)) else { return };
        let is_whole = |reseed: &Reseed| reseed.layer.record.facts.lower_id.is_none();
        if self.driver != "overlay" || !self.reseeded.get(&chain).is_some_and(is_whole) {
            return;
        }
        let mut above = vec![chain];
        while let Some(below) = above.pop() {
            let children: Vec<ChainId> =
                self.parents.iter().filter(|(_, parent)| **parent == Some(below)).map(|(child, _)| *child).collect();
            for child in children {
                if !self.bad.contains(&child) && self.stack_anew(found, child) {
                    above.push(child);
                }
            }
        }
    }

    /// Builds a whole layer anew, because of what is below it. Tells whether it does.
    fn stack_anew(&mut self, found: &Found, chain: ChainId) -> bool {
        let is_whole_tree = self.dirs.get(&chain).is_some_and(|id| self.survey.whole_trees.contains(id));
        if !is_whole_tree || self.reseeded.contains_key(&chain) {
            return false;
        }
        if self.record(chain).is_some() {
            self.reseed(found, chain, false);
            return true;
        }
        let Some(layer) = self.snapshot.layers.get(&chain).filter(|layer| layer.has_tar_split) else { return false };
        let record = LayerRecord {
            chain,
            diff: layer.diff,
            parent: layer.parent,
            size: layer.size,
            tar_size: 0,
            cache_id: layer.cache_id.clone(),
            facts: DriverFacts::default(),
        };
        let piece = (Step::Directory, self.dir_path(&layer.cache_id, ""), Act::LayerDirectory { chain });
        self.mend(found, "build the layers above anew too, which share its files", [piece]);
        let layer = PlannedLayer { record, displaces: false, restores: true };
        self.reseeded.insert(chain, Reseed { layer, from_itself: true, lower: None });
        true
    }

    /// Tells whether the entry of a layer named another directory or content when it was verified.
    fn was_about_another(&self, chain: ChainId) -> bool {
        let Some(layer) = self.snapshot.layers.get(&chain) else { return false };
        let known = self.survey.known.get(&chain);
        self.dirs.get(&chain) != Some(&layer.cache_id)
            || known.is_some_and(|known| known.diff != layer.diff || known.parent != layer.parent)
    }

    /// Plans to build a layer anew from the source, in its place.
    fn reseed(&mut self, found: &Found, chain: ChainId, with_entry: bool) {
        let Some((record, source)) = self.record(chain).cloned().zip(self.source) else { return };
        let known = self.survey.known.get(&chain).copied();
        let parent = known.map_or(record.parent, |known| known.parent);
        self.parents.insert(chain, parent);
        let id = self.dirs.get(&chain).cloned().unwrap_or_else(|| self.free_id(chain));
        self.dirs.insert(chain, id.clone());
        let entry = if with_entry {
            (Step::Layer, self.entry_path(chain, ""), Act::LayerEntry { chain })
        } else {
            (Step::Layer, self.entry_path(chain, "tar-split.json.gz"), Act::TarSplit { chain })
        };
        let mut pieces = vec![(Step::Directory, self.dir_path(&id, ""), Act::LayerDirectory { chain }), entry];
        let mut facts = DriverFacts { lower_id: self.lower_id(&record, &id), ..DriverFacts::default() };
        let mut lower = None;
        if self.driver == "overlay2" {
            facts.committed = self.has_child(chain);
            let name = self.name_of(&id, Some(&record));
            pieces.extend(self.link_piece(&id, &name));
            facts.link = Some(name);
            lower = self.lower_text(&self.dirs_below(chain));
        }
        let existing = self.snapshot.layers.get(&chain);
        let same_driver = source.index.driver.as_deref() == Some(self.driver);
        let restores = same_driver && facts.lower_id.is_some() == record.facts.lower_id.is_some();
        let size = existing.map_or(record.size, |layer| layer.size);
        let layer = PlannedLayer {
            record: LayerRecord { cache_id: id, parent, facts, size, ..record },
            displaces: false,
            restores,
        };
        self.mend(found, "build the layer anew in its place", pieces);
        self.reseeded.insert(chain, Reseed { layer, from_itself: false, lower });
    }

    /// `overlay`: the directory whose whole tree lies below that of a layer which BuildKit made.
    fn lower_id(&self, record: &LayerRecord, id: &CacheId) -> Option<CacheId> {
        if self.driver != "overlay" || self.survey.whole_trees.contains(id) {
            return None;
        }
        if let Some(lower) = self.survey.lower_ids.get(id) {
            return Some(lower.clone());
        }
        let source = self.source.filter(|source| source.index.driver.as_deref() == Some("overlay"))?;
        let archived = record.facts.lower_id.as_ref()?;
        let lower = source.index.layers.iter().find(|layer| layer.cache_id == *archived)?;
        self.dirs.get(&lower.chain).cloned()
    }

    /// Returns what the source says of a layer.
    pub(super) fn record(&self, chain: ChainId) -> Option<&LayerRecord> {
        self.source.filter(|_| self.builds())?.index.layers.iter().find(|layer| layer.chain == chain)
    }

    /// Returns a name for a layer's directory that nothing has: the one that what is stacked on it says, else the source's,
    /// else one made of its identity.
    fn free_id(&self, chain: ChainId) -> CacheId {
        let is_named = |id: &CacheId| {
            let mounts = self.snapshot.mounts.values().flat_map(|mount| mount.mount_id.iter().chain(&mount.init_id));
            let broken = self.snapshot.broken_layers.values().filter_map(|layer| layer.cache_id.as_ref());
            let strays = self.snapshot.strays.iter().filter_map(|stray| stray.cache_id.as_ref());
            let layers = self.snapshot.layers.values().map(|layer| &layer.cache_id);
            self.dirs.values().chain(layers).chain(mounts).chain(broken).chain(strays).any(|named| named == id)
        };
        let archived = || self.record(chain).map(|record| record.cache_id.clone()).filter(|id| !is_named(id));
        let by_above = self.dir_by_above(chain).filter(|id| !is_named(id));
        by_above.or_else(archived).unwrap_or_else(|| {
            let drawn = (0_u64..).filter_map(|turn| {
                CacheId::parse(Sha256::of(format!("dockpack repair {chain} {turn}").as_bytes()).hex().as_bytes()).ok()
            });
            let is_free = |id: &CacheId| !is_named(id) && !self.snapshot.driver_dirs.contains_key(id);
            drawn.into_iter().find(is_free).expect("because there are more names than layers")
        })
    }

    /// Tells whether layers of the driver can be built in the place of others.
    pub(super) fn builds(&self) -> bool {
        matches!(self.driver, "overlay" | "overlay2")
    }

    pub(super) fn needs_layer(&self, chain: ChainId) -> String {
        match self.source {
            _ if !self.builds() => {
                format!("layers of {} are not built anew in their place: load an image that has it", self.driver)
            }
            None => format!("give --from an archive, or another store, that holds layer {chain}"),
            Some(_) => format!("what --from names does not hold layer {chain}: give one that does"),
        }
    }
}

/// A file as dockerd makes it below `image/`.
pub(super) fn root_file(text: impl Into<String>, mode: u32) -> Act {
    Act::Write { text: text.into(), owned: Owned { mode, uid: 0, gid: 0 } }
}
