//! Makes all that is new, in the trash, before anything moves.

use std::collections::BTreeSet;
use std::io;

use crate::driver::Driver;
use crate::error::{Error, FsError, Result};
use crate::fsx::Dir;
use crate::id::ChainId;
use crate::ops::load::{DRIVER_DIR, LoadPlan, PlannedLayer, RECORD_DIR, Stage};
use crate::ops::trash::{Draft, Places};
use crate::progress::{Event, Observer};
use crate::store::places::TAR_SPLIT;
use crate::store::{Layer, Snapshot, Store};

use super::copies::{Copies, write_stand_in};
use super::donor::Donor;
use super::plan::{Act, Piece, RepairPlan, Reseed, Step};

/// What is made, and of what.
pub(super) struct Staging<'a> {
    pub(super) plan: &'a RepairPlan,
    pub(super) store: &'a Store,
    pub(super) source: Option<&'a Donor>,
    pub(super) draft: &'a Draft,
    pub(super) observer: &'a dyn Observer,
}

impl Staging<'_> {
    /// Makes everything and makes it durable.
    pub(super) fn fill(&self) -> Result<()> {
        let build = self.draft.build_dir(self.store)?;
        let staged = self.layers(&build)?;
        for piece in self.plan.pieces() {
            if self.observer.wants_stop() {
                return Err(Error::Stopped);
            }
            self.piece(piece, staged.as_ref())?;
        }
        drop((staged, build));
        self.draft.settle(self.store)
    }

    /// Builds all layers; returns the directory that they are in.
    fn layers(&self, build: &Dir) -> Result<Option<Dir>> {
        let (Some(dirs), false) = (self.store.dirs(), self.plan.layers.is_empty()) else { return Ok(None) };
        self.store.namespace()?;
        let driver = self.store.driver().readable()?;
        let layers = build.ensure_dir("layers", 0o700)?;
        let copies = Copies { plan: self.plan, driver, dirs, store: self.store, layers: &layers };
        let mut waiting: Vec<&Reseed> = self.plan.layers.iter().collect();
        while !waiting.is_empty() {
            let rest = waiting.len();
            waiting = self.ready(
                driver,
                waiting,
                |reseed| reseed.from_itself,
                |own| own.iter().try_for_each(|reseed| copies.build(reseed, self.observer)),
            )?;
            waiting =
                self.ready(driver, waiting, |reseed| !reseed.from_itself, |given| self.given(driver, build, given))?;
            if waiting.len() == rest {
                let reason = "it lies below itself".to_owned();
                let chain = waiting[0].layer.record.chain.to_string();
                return Err(Error::Layer { chain, reason, used_by: Vec::new() });
            }
        }
        Ok(Some(layers))
    }

    /// Builds the layers of one kind that stand on none that waits, or only on others of them. Returns those that
    /// still wait.
    fn ready<'p>(
        &self,
        driver: &'static Driver,
        waiting: Vec<&'p Reseed>,
        is_of_kind: impl Fn(&Reseed) -> bool,
        build: impl Fn(&[&'p Reseed]) -> Result<()>,
    ) -> Result<Vec<&'p Reseed>> {
        let mut later: BTreeSet<ChainId> = BTreeSet::new();
        let is_later = |reseed: &Reseed, later: &BTreeSet<ChainId>| {
            let needs = |chain: &ChainId| later.contains(chain);
            let lower = reseed.layer.record.facts.lower_id.as_ref();
            let lower = lower.and_then(|id| self.plan.layers.iter().find(|layer| layer.layer.record.cache_id == *id));
            let stands_on = reseed.layer.record.parent.into_iter().chain(lower.map(|layer| layer.layer.record.chain));
            !is_of_kind(reseed) || driver.keeps_whole_trees() && stands_on.collect::<Vec<_>>().iter().any(needs)
        };
        let mut now = Vec::new();
        let mut rest = Vec::new();
        // Those below come first.
        for reseed in waiting {
            match is_later(reseed, &later) {
                true => {
                    later.insert(reseed.layer.record.chain);
                    rest.push(reseed);
                }
                false => now.push(reseed),
            }
        }
        if !now.is_empty() {
            build(&now)?;
        }
        Ok(rest)
    }

    /// Builds the layers that the source has.
    fn given(&self, driver: &'static Driver, build: &Dir, given: &[&Reseed]) -> Result<()> {
        let mut layers: Vec<PlannedLayer> = given.iter().map(|reseed| reseed.layer.clone()).collect();
        let source = self.source.expect("because only a source gives layers");
        let wanted: BTreeSet<ChainId> = layers.iter().map(|layer| layer.record.chain).collect();
        self.observer
            .on(Event::Begin { what: "building", total: Some(layers.iter().map(|layer| layer.record.tar_size).sum()) });
        let mut source = source.source(&wanted, self.observer)?;
        let metadata = std::sync::Arc::clone(source.metadata());
        for layer in &mut layers {
            // Of a store the lengths are measured only when it is read.
            let read = metadata.index.layers.iter().find(|read| read.chain == layer.record.chain);
            layer.record.tar_size = read.map_or(layer.record.tar_size, |read| read.tar_size);
        }
        let mut plan = LoadPlan::of_layers(driver, &metadata.index, layers);
        // What they stand on and stays.
        let mut below = Snapshot::default();
        if driver.keeps_whole_trees() {
            plan.layers_present = self.plan.stands_on.keys().copied().collect();
            for (chain, id) in &self.plan.stands_on {
                let diff = crate::id::DiffId(chain.0);
                let layer = Layer { parent: None, diff, cache_id: id.clone(), size: 0, has_tar_split: true };
                below.layers.insert(*chain, layer);
            }
        }
        let stage = Stage::new(&plan, driver.builder()?, build, self.store, &below, self.observer)?;
        if !driver.keeps_whole_trees() {
            self.stand_ins(&build.dir("layers")?, &wanted)?;
        }
        stage.run(&mut *source)?;
        self.observer.on(Event::End);
        Ok(())
    }

    /// Where trees do not look at the layer below, it is needed only for what goes to `lower`. What that is the plan says
    /// better than what is there: it may be damaged too.
    fn stand_ins(&self, layers: &Dir, wanted: &BTreeSet<ChainId>) -> Result<(), FsError> {
        for reseed in &self.plan.layers {
            let Some(parent) = reseed.layer.record.parent.filter(|parent| !wanted.contains(parent)) else { continue };
            let layer = layers.ensure_dir(parent.hex(), 0o700)?;
            if layer.find(DRIVER_DIR)?.is_none() {
                write_stand_in(&layer.make_dir(DRIVER_DIR, 0o700)?, reseed.lower.as_deref().unwrap_or_default())?;
            }
        }
        Ok(())
    }

    /// Makes one piece in its slot.
    fn piece(&self, piece: &Piece, layers: Option<&Dir>) -> Result<()> {
        let (slot, name) = (self.draft.slot(&piece.path), piece.order.to_string());
        let staged = |chain: &ChainId, inner: &str| {
            let layers = layers.expect("because a plan that changes layers builds them");
            layers.dir(format!("{}/{inner}", chain.hex()))
        };
        match &piece.act {
            Act::Remove | Act::Attributes { .. } => {}
            Act::Write { text, owned } => {
                slot.new_file(&name, text.as_bytes(), owned.mode)?;
                // What is not the driver's belongs to root, also where layers are in a user namespace.
                if piece.step == Step::Directory {
                    owned.give(slot, &name)?;
                }
            }
            Act::Link { target } => slot.make_symlink(&name, target.as_bytes())?,
            Act::Directory { links, owned } => {
                let dir = slot.make_dir(&name, owned.mode)?;
                for (link, target) in links {
                    dir.make_symlink(link, target.as_bytes())?;
                }
                owned.give(slot, &name)?;
            }
            Act::Config { image } => {
                let config = self.source.and_then(|source| source.configs.get(image));
                let config = config.expect("because only a source gives configurations");
                slot.new_file(&name, config, 0o600)?;
            }
            Act::LayerDirectory { chain } => {
                let layers = layers.expect("because a plan that changes layers builds them");
                layers.dir(chain.hex())?.rename(DRIVER_DIR, slot, &name)?;
            }
            Act::Subvolume { .. } => self.subvolume(piece, slot, &name)?,
            Act::LayerEntry { chain } => {
                let (from, entry) = (staged(chain, RECORD_DIR)?, slot.make_dir(&name, 0o700)?);
                for file in from.entries()? {
                    copy(&from, &file.name, &entry, &String::from_utf8_lossy(&file.name))?;
                }
            }
            Act::TarSplit { chain } => copy(&staged(chain, RECORD_DIR)?, TAR_SPLIT.as_bytes(), slot, &name)?,
        }
        Ok(())
    }
}

impl Staging<'_> {
    /// Makes a subvolume with all that is in a plain directory.
    fn subvolume(&self, piece: &Piece, slot: &Dir, name: &str) -> Result<()> {
        let gone =
            || FsError::new("open", self.store.path().join(&piece.path), io::Error::from(io::ErrorKind::NotFound));
        let (dir, last) = Places::open(self.store)?.parent(&piece.path)?.ok_or_else(gone)?;
        // The ids on disk stay what they are, whoever's they are.
        let old = dir.in_namespace(None).dir(last)?;
        let new = slot.in_namespace(None).make_subvolume(name)?;
        let is_shared = old.copy_exactly(&new)?;
        // Shared blocks are the same bytes; what was copied is read again.
        match old.difference(&new, !is_shared)? {
            None => Ok(()),
            Some(path) => {
                let error = io::Error::other("its copy is not the same");
                Err(FsError::new("copy", old.shown(path), error).into())
            }
        }
    }
}

/// Copies a file of an entry of layerdb.
pub(super) fn copy(from: &Dir, name: &[u8], to: &Dir, new: &str) -> Result<(), FsError> {
    let (mut source, mut file) = (from.file(name)?, to.make_file(new, 0o644)?);
    io::copy(&mut source, &mut file).map_err(|error| FsError::new("copy", to.shown(new), error))?;
    Ok(())
}
