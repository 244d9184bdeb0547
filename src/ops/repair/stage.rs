//! Makes all that is new, in the trash, before anything moves.

use std::collections::BTreeSet;
use std::io;

use crate::driver::{self, GraphDriver};
use crate::error::{Error, FsError, Result};
use crate::fsx::Dir;
use crate::id::ChainId;
use crate::ops::load::{DRIVER_DIR, LoadPlan, PlannedLayer, RECORD_DIR, Stage};
use crate::ops::trash::Draft;
use crate::progress::{Event, Observer};
use crate::store::{Snapshot, Store};

use super::copies::Copies;
use super::plan::{Act, Piece, RepairPlan, Reseed, Step};
use super::source::Source;

/// What is made, and of what.
pub(super) struct Staging<'a> {
    pub(super) plan: &'a RepairPlan,
    pub(super) store: &'a Store,
    pub(super) snapshot: &'a Snapshot,
    pub(super) source: Option<&'a Source>,
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
        let driver = driver::by_name(&self.plan.driver)
            .ok_or_else(|| Error::UnsupportedDriver { driver: self.plan.driver.clone() })?;
        let (own, given): (Vec<&Reseed>, Vec<&Reseed>) = self.plan.layers.iter().partition(|layer| layer.from_itself);
        let given: Vec<PlannedLayer> = given.into_iter().map(|reseed| reseed.layer.clone()).collect();
        if !given.is_empty() {
            self.given(driver, dirs, build, given)?;
        }
        let layers = build.ensure_dir("layers", 0o700)?;
        if !own.is_empty() {
            let copies = Copies { driver, dirs, snapshot: self.snapshot, store: self.store, layers: &layers };
            for reseed in own {
                copies.build(&reseed.layer, self.observer)?;
            }
        }
        Ok(Some(layers))
    }

    /// Builds the layers that the source has.
    fn given(
        &self,
        driver: &'static dyn GraphDriver,
        dirs: &Dir,
        build: &Dir,
        mut layers: Vec<PlannedLayer>,
    ) -> Result<()> {
        let source = self.source.expect("because only a source gives layers");
        let wanted: BTreeSet<ChainId> = layers.iter().map(|layer| layer.record.chain).collect();
        self.observer
            .on(Event::Begin { what: "building", total: Some(layers.iter().map(|layer| layer.record.tar_size).sum()) });
        let reading = source.read(&wanted, self.observer)?;
        for layer in &mut layers {
            // Of a store the lengths are measured only when it is read.
            let read = reading.index.layers.iter().find(|read| read.chain == layer.record.chain);
            layer.record.tar_size = read.map_or(layer.record.tar_size, |read| read.tar_size);
        }
        let mut plan = LoadPlan::of_layers(&self.plan.driver, &reading.index, layers);
        if driver.name() == "overlay" {
            plan.layers_present =
                self.snapshot.layers.keys().filter(|chain| !wanted.contains(chain)).copied().collect();
        }
        let stage = Stage::new(&plan, driver, build, Some(dirs.clone()), self.snapshot, self.observer)?;
        if driver.name() == "overlay2" {
            self.stand_ins(&build.dir("layers")?, &wanted)?;
        }
        reading.build(stage)?;
        self.observer.on(Event::End);
        Ok(())
    }

    /// `overlay2` looks at the layer below only for what goes to `lower`. What that is the plan says better than what is
    /// there: it may be mended too.
    fn stand_ins(&self, layers: &Dir, wanted: &BTreeSet<ChainId>) -> Result<(), FsError> {
        let mut made = BTreeSet::new();
        for reseed in &self.plan.layers {
            let Some(parent) = reseed.layer.record.parent.filter(|parent| !wanted.contains(parent)) else { continue };
            let lower = reseed.lower.as_deref().unwrap_or_default();
            let (link, rest) = lower.split_once(':').unwrap_or((lower, ""));
            if !made.insert(parent) {
                continue;
            }
            let stand_in = layers.make_dir(parent.hex(), 0o700)?.make_dir(DRIVER_DIR, 0o700)?;
            stand_in.new_file("link", link.trim_start_matches("l/").as_bytes(), 0o600)?;
            if !rest.is_empty() {
                stand_in.new_file("lower", rest.as_bytes(), 0o600)?;
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
            Act::LayerEntry { chain } => {
                let (from, entry) = (staged(chain, RECORD_DIR)?, slot.make_dir(&name, 0o700)?);
                for file in from.entries()? {
                    copy(&from, &file.name, &entry, &String::from_utf8_lossy(&file.name))?;
                }
            }
            Act::TarSplit { chain } => copy(&staged(chain, RECORD_DIR)?, b"tar-split.json.gz", slot, &name)?,
        }
        Ok(())
    }
}

/// Copies a file of an entry of layerdb.
pub(super) fn copy(from: &Dir, name: &[u8], to: &Dir, new: &str) -> Result<(), FsError> {
    let (mut source, mut file) = (from.file(name)?, to.make_file(new, 0o644)?);
    io::copy(&mut source, &mut file).map_err(|error| FsError::new("copy", to.shown(new), error))?;
    Ok(())
}
