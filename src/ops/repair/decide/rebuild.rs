//! Layers that are rebuilt in their place: out of the source, or out of themselves.
//!
//! A layer comes out of itself where its tar, assembled from tar-split and its own files, still has its diff ID. Then no
//! content is lost, and everything that the headers of the tar say can be made again: modes, owners, extended attributes,
//! times, links, devices and the marks of what is removed. That is what a copy of a data root without `-a` or `-X` takes,
//! or a `chmod -R`.

use crate::driver::{Driver, DriverFacts};
use crate::finding::Code;
use crate::id::{CacheId, ChainId, Sha256};
use crate::model::LayerRecord;
use crate::ops::load::PlannedLayer;
use crate::ops::verify::Found;
use crate::store::places::TAR_SPLIT;

use super::super::plan::{Act, Origin, Reseed, Step};
use super::Planner;
use super::part::Part;

/// What is said of a layer that comes from the source, of one that comes out of itself, and of those above it.
const FROM_SOURCE: &str = "rebuild the layer in place";
const FROM_ITSELF: &str = "rebuild the layer in place, from its own files and the headers of its tar";
const ABOVE: &str = "rebuild the layers above too, which share or copy its files";

impl<'a> Planner<'a> {
    /// Decides how each layer whose content is bad is rebuilt, those below first.
    pub(super) fn rebuild(&mut self) {
        let mut bad: Vec<(ChainId, Vec<&'a Found>)> = self.bad.clone().into_iter().collect();
        bad.sort_by_cached_key(|(chain, _)| (self.depth(*chain), *chain));
        for (chain, all) in bad {
            for found in all {
                if self.reseeded.contains_key(&chain) {
                    self.also(found, chain);
                } else if self.record(chain).is_some() {
                    self.rebuild_from_source(found, chain, false);
                } else if let Err(needs) = self.rebuild_from_itself(found, chain, FROM_ITSELF) {
                    self.leave(found, needs);
                }
            }
        }
    }

    /// Notes that rebuilding a layer is for this finding too.
    fn also(&mut self, found: &Found, chain: ChainId) {
        let act = match self.reseeded.get(&chain).map(|reseed| reseed.origin) {
            Some(Origin::Source) | None => FROM_SOURCE,
            Some(_) => FROM_ITSELF,
        };
        // The act is said once for each subject: the pieces are there already.
        let draft = self.mends.entry(found.finding.object.clone()).or_default();
        draft.codes.insert(found.finding.code);
        if draft.acts.is_empty() {
            draft.acts.push(act.to_owned());
        }
    }

    /// Rebuilds what stands on layers that are rebuilt where each layer is a whole tree: with `overlay` it shares their
    /// files, and with the others it is a copy of what they were.
    pub(super) fn above(&mut self) {
        if !self.driver.keeps_whole_trees() {
            return;
        }
        let mut below: Vec<(ChainId, Found)> = self
            .causes
            .iter()
            .filter(|(chain, _)| self.driver.links_files() || self.has_other_attributes(**chain))
            .map(|(chain, found)| (*chain, found.clone()))
            .collect();
        while let Some((chain, found)) = below.pop() {
            if self.is_upper(chain) {
                continue;
            }
            let children: Vec<ChainId> =
                self.parents.iter().filter(|(_, parent)| **parent == Some(chain)).map(|(child, _)| *child).collect();
            for child in children {
                if !self.bad.contains_key(&child)
                    && !self.reseeded.contains_key(&child)
                    && self.stack_anew(&found, child)
                {
                    below.push((child, found.clone()));
                }
            }
        }
    }

    /// Tells whether attributes of nodes of a layer are others than its tar says: copies of it have them too.
    fn has_other_attributes(&self, chain: ChainId) -> bool {
        self.bad.get(&chain).is_some_and(|all| all.iter().any(|found| Part::of(found.finding.code) == Part::Node))
    }

    /// `overlay`: tells whether a layer has only what BuildKit put on top of another's tree.
    fn is_upper(&self, chain: ChainId) -> bool {
        self.driver.has_lower_ids()
            && !self.dirs.get(&chain).is_some_and(|id| self.survey.whole_trees.contains(id))
            && self.record(chain).is_none_or(|record| record.facts.lower_id.is_some())
    }

    /// Rebuilds a whole layer because of what is below it. Tells whether it does.
    fn stack_anew(&mut self, found: &Found, chain: ChainId) -> bool {
        if self.is_upper(chain) {
            return false;
        }
        if self.record(chain).is_some() {
            self.rebuild_from_source(found, chain, false);
            return true;
        }
        self.rebuild_from_itself(found, chain, ABOVE).is_ok()
    }

    /// Plans to rebuild a layer out of the source, in its place.
    pub(super) fn rebuild_from_source(&mut self, found: &Found, chain: ChainId, with_entry: bool) {
        if self.reseeded.contains_key(&chain) {
            return self.also(found, chain);
        }
        let Some(record) = self.record(chain).cloned() else { return };
        let known = self.survey.known.get(&chain).copied();
        let parent = known.map_or(record.parent, |known| known.parent);
        self.parents.insert(chain, parent);
        let id = self.dirs.get(&chain).cloned().unwrap_or_else(|| self.free_id(chain));
        let entry = if with_entry {
            (Step::Layer, self.entry_path(chain, ""), Act::LayerEntry { chain })
        } else {
            (Step::Layer, self.entry_path(chain, TAR_SPLIT), Act::TarSplit { chain })
        };
        let size = self.snapshot.layers.get(&chain).map_or(record.size, |layer| layer.size);
        let record = LayerRecord { cache_id: id, parent, size, ..record };
        self.place(found, FROM_SOURCE, record, Origin::Source, Some(entry));
    }

    /// Plans to rebuild a layer out of its own files and the headers of its tar, or says what would be needed for it.
    fn rebuild_from_itself(&mut self, found: &Found, chain: ChainId, act: &str) -> Result<(), String> {
        let Some(layer) = self.snapshot.layers.get(&chain).filter(|_| self.builds()) else {
            return Err(self.needs_layer(chain));
        };
        if !self.proved_tars.contains(&chain) {
            return Err(self.needs_layer(chain));
        }
        if self.driver.keeps_whole_trees()
            && let Some(below) = self.bad_below(chain)
        {
            // It begins as a copy of the layer below: it would get what is damaged there.
            let needs = self.needs_layer(below);
            return Err(format!("it is rebuilt only on a layer that is whole: {needs}"));
        }
        let (Some(parent), Some(_)) = (self.parents.get(&chain).copied(), self.dirs_below(chain)) else {
            return Err("a layer below it is missing, or not known: bring that back first".to_owned());
        };
        let record = LayerRecord {
            chain,
            diff: layer.diff,
            parent,
            size: layer.size,
            tar_size: 0,
            cache_id: layer.cache_id.clone(),
            facts: DriverFacts::default(),
        };
        let codes = self.bad.get(&chain).into_iter().flatten().map(|found| found.finding.code);
        let origin = match codes.collect::<Vec<_>>() {
            // Where files only are copies, all else of the directory is right.
            codes if codes.iter().all(|code| *code == Code::NodeNotShared) => Origin::Itself,
            codes if codes.iter().any(|code| matches!(*code, Code::NodeMode | Code::NodeOwner)) => Origin::Tar,
            _ => Origin::TarAndItself,
        };
        self.place(found, act, record, origin, None);
        Ok(())
    }

    /// Returns the lowest layer below one that is damaged and stays so.
    fn bad_below(&self, chain: ChainId) -> Option<ChainId> {
        let below = self.below(chain)?;
        below.into_iter().rev().find(|below| self.bad.contains_key(below) && !self.reseeded.contains_key(below))
    }

    /// Plans a layer that is rebuilt; what it stands on is put in by [`Self::settle`].
    fn place(
        &mut self,
        found: &Found,
        act: &str,
        record: LayerRecord,
        origin: Origin,
        entry: Option<(Step, String, Act)>,
    ) {
        let (chain, id) = (record.chain, record.cache_id.clone());
        self.dirs.insert(chain, id.clone());
        let directory = (Step::Directory, self.dir_path(&id, ""), Act::LayerDirectory { chain });
        self.mend(found, act, [Some(directory), entry].into_iter().flatten());
        self.causes.entry(chain).or_insert_with(|| found.clone());
        let layer = PlannedLayer { record, displaces: false, restores: origin != Origin::Source };
        self.reseeded.insert(chain, Reseed { layer, from_itself: origin != Origin::Source, origin, lower: None });
        if found.finding.code == Code::LayerCacheIdWrong {
            // What is above is stacked on a directory that is not proved to be the layer's.
            let name = self.name_of(&id, None);
            self.renamed(found, &id, &name);
        }
    }

    /// Says what each layer that is rebuilt stands on, when it is known where all of them lie.
    pub(super) fn settle(&mut self) {
        let mut chains: Vec<ChainId> = self.reseeded.keys().copied().collect();
        chains.sort_by_cached_key(|chain| (self.depth(*chain), *chain));
        for chain in chains {
            let reseed = &self.reseeded[&chain];
            let (origin, id) = (reseed.origin, reseed.layer.record.cache_id.clone());
            let archived = self.record(chain).cloned().filter(|_| origin == Origin::Source);
            let same_driver = self.source.is_some_and(|source| source.driver() == Some(self.driver));
            let mut facts = DriverFacts {
                lower_id: self.lower_id(archived.as_ref(), &id),
                merged: self.survey.is_early,
                ..DriverFacts::default()
            };
            let mut restores = origin != Origin::Source;
            if let Some(record) = &archived {
                restores = same_driver && facts.lower_id.is_some() == record.facts.lower_id.is_some();
            }
            let mut lower = None;
            if self.driver.has_short_names() {
                // What lists the node's differences may have one of this.
                let had = archived.as_ref().is_some_and(|record| record.facts.committed);
                facts.committed = self.has_child(chain) || had || self.survey.committed.contains(&id);
                let name = self.name_of(&id, archived.as_ref());
                if let (Some(piece), Some(found)) = (self.link_piece(&id, &name), self.causes.get(&chain).cloned()) {
                    self.mend(&found, "", [piece]);
                }
                facts.link = Some(name);
                lower = self.dirs_below(chain).and_then(|stack| self.lower_text(&stack));
            }
            let reseed = self.reseeded.get_mut(&chain).expect("because it is one of them");
            (reseed.layer.record.facts, reseed.layer.restores, reseed.lower) = (facts, restores, lower);
        }
    }

    /// `overlay`: the directory whose whole tree lies below that of a layer which BuildKit made.
    fn lower_id(&self, archived: Option<&LayerRecord>, id: &CacheId) -> Option<CacheId> {
        if !self.driver.has_lower_ids() || self.survey.whole_trees.contains(id) {
            return None;
        }
        if let Some(lower) = self.survey.lower_ids.get(id) {
            return Some(lower.clone());
        }
        let source = self.source.filter(|source| source.driver().is_some_and(Driver::has_lower_ids))?;
        let lower = archived?.facts.lower_id.as_ref()?;
        let lower = source.index.layers.iter().find(|layer| layer.cache_id == *lower)?;
        self.dirs.get(&lower.chain).cloned()
    }

    /// Returns what the source says of a layer.
    pub(super) fn record(&self, chain: ChainId) -> Option<&LayerRecord> {
        self.source.filter(|_| self.builds())?.index.layers.iter().find(|layer| layer.chain == chain)
    }

    /// Returns a name for a layer's directory that nothing has: the one that what is stacked on it says, else the source's,
    /// else one made of its identity.
    pub(super) fn free_id(&self, chain: ChainId) -> CacheId {
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

    /// Tells whether layers of the driver can be rebuilt in their place.
    pub(super) fn builds(&self) -> bool {
        self.driver.can_build()
    }

    pub(super) fn needs_layer(&self, chain: ChainId) -> String {
        match self.source {
            _ if !self.builds() => {
                format!(
                    "layers of {} are not rebuilt in place: remove the images that have layer {chain}, and load or pull \
                     them again",
                    self.driver
                )
            }
            None => format!("give --from an archive, or another store, that holds layer {chain}"),
            Some(_) => format!("what --from names does not hold layer {chain}: give one that does"),
        }
    }
}
