//! Builds layers in the staging directory, out of what streams by.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use crate::driver::{Build, Driver, NewLayer};
use crate::error::{FsError, Result};
use crate::fsx::{Dir, Holes};
use crate::id::{CacheId, ChainId, DiffId};
use crate::layer::Shared;
use crate::layer::claims::LIST_LIMIT;
use crate::model::{Index, LayerRecord};
use crate::ops::ancestry::Claims;
use crate::progress::{Event, Observer};
use crate::store::places::{self, TAR_SPLIT};
use crate::store::{Snapshot, Store};
use crate::tarsplit::Kept;
use crate::transfer::{Blame, Content, Part, Sink, Source, Taken};

use super::build::{BuildError, DIFFERENCES, DRIVER_DIR, RECORD_DIR, Site, Tar, Unfilled};
use super::builders::{Builders, Built};
use super::plan::{LoadPlan, PlannedLayer};

/// Name of the directory, within that of the load, for tars that wait.
pub(super) const SPOOL: &str = "spool";

/// Builds the planned layers of one load.
pub(in crate::ops) struct Stage<'a> {
    plan: &'a LoadPlan,
    driver: &'static Driver,
    build: &'static dyn Build,
    /// `<root>/.dockpack/load/layers`.
    layers: Dir,
    /// `<root>/.dockpack/load/spool`: tars that more than one layer is built of.
    spool: Dir,
    /// Where the target has its driver directories, where it has any.
    dirs: Option<Dir>,
    /// `image/<driver>` of the target, where it has that.
    image: Option<Dir>,
    /// Driver directories of layers that the target has.
    present: BTreeMap<ChainId, CacheId>,
    /// Layers that are built, or being built.
    built: BTreeSet<ChainId>,
    /// Files that layers of the target and new ones share.
    shared: Shared,
    observer: &'a dyn Observer,
}

impl<'a> Stage<'a> {
    pub(in crate::ops) fn new(
        plan: &'a LoadPlan,
        build: &'static dyn Build,
        staging: &Dir,
        store: &Store,
        snapshot: &Snapshot,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let present = plan
            .layers_present
            .iter()
            .filter_map(|chain| Some((*chain, snapshot.layers.get(chain)?.cache_id.clone())))
            .collect();
        Ok(Self {
            plan,
            driver: store.driver(),
            build,
            layers: staging.ensure_dir("layers", 0o700)?,
            spool: staging.ensure_dir(SPOOL, 0o700)?,
            dirs: store.dirs().cloned(),
            image: store.image().cloned(),
            present,
            built: BTreeSet::new(),
            shared: Shared::default(),
            observer,
        })
    }

    /// Takes what the source gives of the planned layers, and builds each.
    pub(in crate::ops) fn run(mut self, source: &mut dyn Source) -> Result<()> {
        let metadata = Arc::clone(source.metadata());
        let (plan, observer) = (self.plan, self.observer);
        let wanted: BTreeSet<ChainId> = plan.layers.iter().map(|layer| layer.record.chain).collect();
        std::thread::scope(|threads| {
            let builders = Builders::new(threads, observer);
            let claims = Claims::new(&metadata.index);
            let mut filling =
                Filling { stage: &mut self, index: &metadata.index, claims, builders, displaced: Kept::default() };
            let read = source.read(&wanted, &mut filling, observer);
            // What is wrong with a layer came by before what ended the reading.
            filling.settle_all(&*source)?;
            read
        })?;
        match plan.layers.iter().find(|layer| !self.built.contains(&layer.record.chain)) {
            Some(layer) => Err(source.bad(format!("layer {} is missing", layer.record.chain.short()))),
            None => Ok(()),
        }
    }

    /// Opens the tar-split of a layer that has come by, or that the target has.
    fn tar_split(&self, chain: ChainId) -> Result<Box<dyn Read>, String> {
        let staged = FsError::found(self.layers.file(format!("{}/{RECORD_DIR}/{TAR_SPLIT}", chain.hex())));
        let file = match (staged.map_err(|error| error.to_string())?, &self.image) {
            (Some(file), _) => Ok(file),
            (None, Some(image)) => image.file(places::tar_split(&chain)),
            (None, None) => return Err(format!("the tar-split of layer {} is not there", chain.short())),
        };
        file.map(|file| Box::new(file) as Box<dyn Read>).map_err(|error| error.to_string())
    }

    fn planned(&self, chain: ChainId) -> Option<&'a PlannedLayer> {
        self.plan.layers.iter().find(|layer| layer.record.chain == chain && !self.built.contains(&chain))
    }

    /// Takes a layer that was built on a thread of its own, or tells what is wrong with it.
    fn settle(&self, built: Built<'_>, blame: &(impl Blame + ?Sized)) -> Result<()> {
        let chain = built.layer.record.chain;
        built.result.map_err(|error| error.of(chain, self.plan, blame))?;
        Ok(self.mark_parent(&built.layer.record)?)
    }

    /// Tells whether everything that a layer needs beside its tar has come by.
    fn is_ready(&self, chain: ChainId) -> Result<bool> {
        match self.layers.dir(chain.hex()) {
            Err(error) if error.is_not_found() => Ok(false),
            layer => Ok(layer?.find(DIFFERENCES)?.is_some()),
        }
    }

    /// Builds a layer whose tar came by before, if all is there.
    fn build_spooled(&mut self, chain: ChainId, content: &dyn Content) -> Result<()> {
        let Some(layer) = self.planned(chain) else { return Ok(()) };
        match self.spool.file(layer.record.diff.hex()) {
            Err(error) if error.is_not_found() => Ok(()),
            spooled if self.is_ready(chain)? => {
                let stream = BufReader::with_capacity(1 << 20, spooled?);
                self.build(layer, Tar::WithTarSplit(stream)).map_err(|error| error.of(chain, self.plan, content))
            }
            _ => Ok(()),
        }
    }

    /// Builds a layer out of the stream of its tar.
    fn build(&mut self, layer: &'a PlannedLayer, tar: Tar<impl Read>) -> Result<(), BuildError> {
        let begun = self.begin(layer)?;
        begun.fill(&layer.record, &mut self.shared, tar, self.observer)?;
        Ok(self.mark_parent(&layer.record)?)
    }

    /// Begins a layer; only that it is filled is then still to come.
    fn begin(&mut self, layer: &'a PlannedLayer) -> Result<Unfilled, FsError> {
        let record = &layer.record;
        self.observer.on(Event::Object(&record.chain.short()));
        let staged = self.layers.dir(record.chain.hex())?;
        let parent = record.parent.map(|chain| self.directory(chain)).transpose()?;
        let lower = record.facts.lower_id.as_ref().map(|id| self.by_cache_id(id)).transpose()?;
        let on_present = record.parent.is_some_and(|parent| self.present.contains_key(&parent));
        let site = Site {
            driver: self.driver,
            build: self.build,
            staged: &staged,
            new: NewLayer { facts: &record.facts, parent: parent.as_ref(), lower: lower.as_ref() },
            restores: layer.restores,
            on_present,
        };
        let begun = site.begin(&mut self.shared)?;
        self.built.insert(record.chain);
        Ok(begun)
    }

    /// Marks the layer below one that is built, where it is new too.
    fn mark_parent(&self, record: &LayerRecord) -> Result<(), FsError> {
        match record.parent.filter(|parent| self.built.contains(parent)) {
            Some(parent) => self.build.mark_parent(&self.directory(parent)?),
            None => Ok(()),
        }
    }

    /// Opens the driver directory of a layer that is built or present.
    fn directory(&self, chain: ChainId) -> Result<Dir, FsError> {
        match (&self.dirs, self.present.get(&chain)) {
            (Some(dirs), Some(id)) => dirs.dir(id.as_str()),
            _ => self.layers.dir(format!("{}/{DRIVER_DIR}", chain.hex())),
        }
    }

    fn by_cache_id(&self, id: &CacheId) -> Result<Dir, FsError> {
        match self.plan.layers.iter().find(|layer| layer.record.cache_id == *id) {
            Some(layer) => self.directory(layer.record.chain),
            None => match &self.dirs {
                Some(dirs) => dirs.dir(id.as_str()),
                None => Err(FsError::new("open", id.as_str(), io::ErrorKind::NotFound)),
            },
        }
    }
}

/// A stage that is being filled.
struct Filling<'s, 'a, 'scope, 'env> {
    stage: &'s mut Stage<'a>,
    index: &'s Index,
    claims: Claims,
    builders: Builders<'scope, 'env>,
    /// Of a layer that is read once more: members whose content has to stay in tar-split.
    displaced: Kept,
}

impl<'a: 'scope, 'scope> Sink for Filling<'_, 'a, 'scope, '_> {
    fn part(&mut self, part: Part, content: &mut dyn Content) -> Result<Taken> {
        match part {
            Part::TarSplit(chain) if self.stage.planned(chain).is_some() => {
                let record = self.stage.layers.make_dir(chain.hex(), 0o700)?.make_dir(RECORD_DIR, 0o700)?;
                copy_to(content, &record, TAR_SPLIT)?;
            }
            Part::Differences(chain) if self.stage.planned(chain).is_some() => self.differences(chain, content)?,
            Part::Tar(diff) => self.tar(diff, content)?,
            Part::Alone(chain) => return self.alone(chain, content),
            Part::TarSplit(_) | Part::Differences(_) => {}
        }
        Ok(Taken::Done)
    }

    fn spool(&self) -> Option<&Dir> {
        Some(&self.stage.spool)
    }
}

impl<'a: 'scope, 'scope> Filling<'_, 'a, 'scope, '_> {
    /// Keeps the list of a layer, which must say nothing that the tars do not bear out.
    fn differences(&mut self, chain: ChainId, content: &mut dyn Content) -> Result<()> {
        let staged = self.stage.layers.dir(chain.hex())?;
        if content.length() > LIST_LIMIT {
            return Err(content.bad(format!("layer {}: its list of differences is too long", chain.short())));
        }
        copy_to(content, &staged, DIFFERENCES)?;
        let list = || staged.file(DIFFERENCES).map(BufReader::new).map_err(|error| error.to_string());
        self.claims
            .prove(self.index, chain, &list, &|chain| self.stage.tar_split(chain))
            .map_err(|reason| content.bad(format!("layer {}: {reason}", chain.short())))?;
        self.stage.build_spooled(chain, content)
    }

    /// A tar comes by: it is unpacked at once, or kept where several layers are made of it.
    fn tar(&mut self, diff: DiffId, content: &mut dyn Content) -> Result<()> {
        let stage = &mut *self.stage;
        let waiting = |layer: &&PlannedLayer| layer.record.diff == diff && !stage.built.contains(&layer.record.chain);
        let layers: Vec<&'a PlannedLayer> = stage.plan.layers.iter().filter(waiting).collect();
        if let Some(layer) = layers.iter().find(|layer| layer.record.tar_size != content.length()) {
            let (found, said) = (content.length(), layer.record.tar_size);
            return Err(content.bad(format!("the tar named {diff} has {found} bytes, its index says {said}")));
        }
        match layers[..] {
            [] => {
                content.pass_over();
                return Ok(());
            }
            [layer] if stage.is_ready(layer.record.chain)? => match stage.driver.keeps_whole_trees() {
                true => stage
                    .build(layer, Tar::WithTarSplit(&mut *content))
                    .map_err(|error| error.of(layer.record.chain, stage.plan, content))?,
                false => self.build_beside(layer, content)?,
            },
            _ => copy_to(content, &stage.spool, &diff.hex())?,
        }
        content.finish()?;
        layers.into_iter().try_for_each(|layer| self.stage.build_spooled(layer.record.chain, content))
    }

    /// Builds a layer of which there is no tar-split. Where its tree does not keep the content of some members, it is asked for
    /// once more, and that stays in tar-split.
    fn alone(&mut self, chain: ChainId, content: &mut dyn Content) -> Result<Taken> {
        let stage = &mut *self.stage;
        let Some(layer) = stage.planned(chain) else { return Ok(Taken::Done) };
        let kept = std::mem::take(&mut self.displaced);
        let is_again = !kept.is_empty();
        stage.layers.make_dir(chain.hex(), 0o700)?.make_dir(RECORD_DIR, 0o700)?;
        match stage.build(layer, Tar::Alone(&mut *content, kept)) {
            Err(BuildError::Displaced(displaced)) if !is_again => {
                stage.layers.remove_tree(chain.hex())?;
                stage.built.remove(&chain);
                self.displaced = displaced;
                return Ok(Taken::Again);
            }
            built => built.map_err(|error| error.of(chain, stage.plan, content))?,
        }
        content.finish()?;
        Ok(Taken::Done)
    }

    /// Gives a tar to a thread that builds the layer, and does not wait for its end.
    fn build_beside(&mut self, layer: &'a PlannedLayer, content: &mut dyn Content) -> Result<()> {
        if let Some(built) = self.builders.make_room() {
            self.stage.settle(built, content)?;
        }
        let begun = self.stage.begin(layer);
        let begun = begun.map_err(|error| BuildError::from(error).of(layer.record.chain, self.stage.plan, content))?;
        let pieces = self.builders.build(layer, begun);
        loop {
            let piece = content.next_piece();
            let is_last = piece.as_ref().is_ok_and(|piece| piece.as_ref().is_empty());
            if is_last {
                return Ok(());
            }
            let is_damaged = piece.is_err();
            if pieces.send(piece).is_err() || is_damaged {
                // The thread has the error, of the source or its own.
                drop(pieces);
                return self.settle_all(content);
            }
        }
    }

    fn settle_all(&mut self, blame: &(impl Blame + ?Sized)) -> Result<()> {
        while let Some(built) = self.builders.oldest() {
            self.stage.settle(built, blame)?;
        }
        Ok(())
    }
}

/// Copies a part to a new file. Long runs of zeros become holes: a layer may be made of them.
fn copy_to(content: &mut dyn Content, dir: &Dir, name: &str) -> Result<()> {
    let file = dir.make_file(name, 0o644)?;
    let failed = |error| FsError::new("write", dir.shown(name), error);
    let mut holes = Holes::new(&file);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match content.read(&mut buffer[filled..]).map_err(|error| content.read_failed(&error))? {
                0 => break,
                got => filled += got,
            }
        }
        holes.write(&buffer[..filled]).map_err(failed)?;
        if filled < buffer.len() {
            return Ok(holes.finish().map_err(failed)?);
        }
    }
}
