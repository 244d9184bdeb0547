//! Builds layers in the staging directory, out of what streams by.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read};

use crate::archive::foreign::ForeignArchive;
use crate::archive::{ArchiveIndex, ArchiveReader, LayerRecord, MemberName};
use crate::driver::{Build, Driver, NewLayer};
use crate::error::{Error, FsError, Result};
use crate::fsx::{Dir, Holes};
use crate::id::{CacheId, ChainId, DiffId};
use crate::layer::Shared;
use crate::layer::claims::LIST_LIMIT;
use crate::ops::ancestry::Claims;
use crate::progress::{Event, Observer};
use crate::store::places::{self, TAR_SPLIT};
use crate::store::{Snapshot, Store};
use crate::tarsplit::Kept;

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

    /// Reads the archive to its end and builds every planned layer.
    pub(in crate::ops) fn run(mut self, archive: &mut ArchiveReader, index: &ArchiveIndex) -> Result<()> {
        let claims = (Claims::new(index), index);
        std::thread::scope(|threads| {
            let mut builders = Builders::new(threads, self.observer);
            let read = self.read(archive, &claims, &mut builders);
            // What is wrong with a layer came by before what ended the reading.
            self.settle_all(&mut builders, archive)?;
            read
        })?;
        match self.plan.layers.iter().find(|layer| !self.built.contains(&layer.record.chain)) {
            Some(layer) => Err(archive.bad(format!("layer {} is missing", layer.record.chain.short()))),
            None => Ok(()),
        }
    }

    fn read<'scope>(
        &mut self,
        archive: &mut ArchiveReader,
        claims: &(Claims, &ArchiveIndex),
        builders: &mut Builders<'scope, '_>,
    ) -> Result<()>
    where
        'a: 'scope,
    {
        while let Some(member) = archive.next_part()? {
            if self.observer.wants_stop() {
                return Err(Error::Stopped);
            }
            match member {
                MemberName::TarSplit(chain) if self.planned(chain).is_some() => {
                    let layer = self.layers.make_dir(chain.hex(), 0o700)?;
                    let record = layer.make_dir(RECORD_DIR, 0o700)?;
                    copy_to(archive, &record, TAR_SPLIT)?;
                }
                MemberName::Differences(chain) if self.planned(chain).is_some() => {
                    let staged = self.layers.dir(chain.hex())?;
                    if archive.length() > LIST_LIMIT {
                        return Err(
                            archive.bad(format!("layer {}: its list of differences is too long", chain.short()))
                        );
                    }
                    copy_to(archive, &staged, DIFFERENCES)?;
                    let list = || staged.file(DIFFERENCES).map(BufReader::new).map_err(|error| error.to_string());
                    claims
                        .0
                        .prove(claims.1, chain, &list, &|chain| self.tar_split(chain))
                        .map_err(|reason| archive.bad(format!("layer {}: {reason}", chain.short())))?;
                    self.build_spooled(chain, archive)?;
                }
                MemberName::Blob(diff) => self.blob(DiffId(diff), archive, builders)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Builds every planned layer out of an archive that another tool wrote.
    pub(in crate::ops) fn run_foreign(mut self, archive: &mut ForeignArchive) -> Result<()> {
        let diffs: BTreeSet<DiffId> = self.plan.layers.iter().map(|layer| layer.record.diff).collect();
        archive.require(&diffs)?;
        archive.spool(&diffs, &self.spool, self.observer)?;
        for layer in &self.plan.layers {
            if let Some(displaced) = self.foreign_layer(layer, archive, Kept::default())? {
                // Read once more, it leaves in tar-split what the tree does not keep.
                self.layers.remove_tree(layer.record.chain.hex())?;
                if let Some(displaced) = self.foreign_layer(layer, archive, displaced)? {
                    return Err(BuildError::Displaced(displaced).of(layer.record.chain, self.plan, archive));
                }
            }
        }
        Ok(())
    }

    /// Builds a layer out of an archive that another tool wrote, but for members whose content the tree does not keep.
    fn foreign_layer(&mut self, layer: &'a PlannedLayer, archive: &ForeignArchive, kept: Kept) -> Result<Option<Kept>> {
        let LayerRecord { chain, diff, .. } = layer.record;
        self.layers.make_dir(chain.hex(), 0o700)?.make_dir(RECORD_DIR, 0o700)?;
        let (source, mut content) = archive.layer(diff, self.observer)?;
        match self.build(layer, Tar::Alone(&mut content, kept)) {
            Err(BuildError::Displaced(displaced)) => return Ok(Some(displaced)),
            built => built.map_err(|error| error.of(chain, self.plan, archive))?,
        }
        let found = content.finish().map_err(|error| archive.read_failed(&error))?;
        let wrong = |digest| archive.bad(format!("{} has the digest {digest}", source.member.escape_debug()));
        if found.content != diff.0 {
            return Err(archive.bad(format!("layer {diff} has the digest {}", found.content)));
        }
        if source.digest.is_some_and(|digest| digest != found.raw) {
            return Err(wrong(found.raw));
        }
        Ok(None)
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

    /// A layer's tar comes by: it is unpacked at once, or kept where several layers are made of it.
    fn blob<'scope>(
        &mut self,
        diff: DiffId,
        archive: &mut ArchiveReader,
        builders: &mut Builders<'scope, '_>,
    ) -> Result<()>
    where
        'a: 'scope,
    {
        let waiting = |layer: &&PlannedLayer| layer.record.diff == diff && !self.built.contains(&layer.record.chain);
        let layers: Vec<&'a PlannedLayer> = self.plan.layers.iter().filter(waiting).collect();
        if let Some(layer) = layers.iter().find(|layer| layer.record.tar_size != archive.length()) {
            let (found, said) = (archive.length(), layer.record.tar_size);
            return Err(archive.bad(format!("the tar named {diff} has {found} bytes, its index says {said}")));
        }
        match layers[..] {
            [] => {
                archive.pass_over();
                return Ok(());
            }
            [layer] if self.is_ready(layer.record.chain)? => match self.driver.keeps_whole_trees() {
                true => self
                    .build(layer, Tar::WithTarSplit(&mut *archive))
                    .map_err(|error| error.of(layer.record.chain, self.plan, archive))?,
                false => self.build_beside(layer, archive, builders)?,
            },
            _ => copy_to(archive, &self.spool, &diff.hex())?,
        }
        let found = archive.finish_member()?;
        if found != diff.0 {
            return Err(archive.bad(format!("the tar named {diff} has the digest {found}")));
        }
        for layer in layers {
            self.build_spooled(layer.record.chain, archive)?;
        }
        Ok(())
    }

    /// Gives a layer's tar to a thread that builds the layer, and does not wait for its end.
    fn build_beside<'scope>(
        &mut self,
        layer: &'a PlannedLayer,
        archive: &mut ArchiveReader,
        builders: &mut Builders<'scope, '_>,
    ) -> Result<()>
    where
        'a: 'scope,
    {
        if let Some(built) = builders.make_room() {
            self.settle(built, archive)?;
        }
        let begun =
            self.begin(layer).map_err(|error| BuildError::from(error).of(layer.record.chain, self.plan, archive))?;
        let pieces = builders.build(layer, begun);
        loop {
            let piece = archive.next_piece();
            let is_last = piece.as_ref().is_ok_and(|piece| piece.as_ref().is_empty());
            if is_last {
                return Ok(());
            }
            let is_damaged = piece.is_err();
            if pieces.send(piece).is_err() || is_damaged {
                // The thread has the error, of the archive or its own.
                drop(pieces);
                return self.settle_all(builders, archive);
            }
        }
    }

    fn settle_all(&self, builders: &mut Builders<'_, '_>, archive: &ArchiveReader) -> Result<()> {
        while let Some(built) = builders.oldest() {
            self.settle(built, archive)?;
        }
        Ok(())
    }

    /// Takes a layer that was built on a thread of its own, or tells what is wrong with it.
    fn settle(&self, built: Built<'_>, archive: &ArchiveReader) -> Result<()> {
        let chain = built.layer.record.chain;
        built.result.map_err(|error| error.of(chain, self.plan, archive))?;
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
    fn build_spooled(&mut self, chain: ChainId, archive: &ArchiveReader) -> Result<()> {
        let Some(layer) = self.planned(chain) else { return Ok(()) };
        match self.spool.file(layer.record.diff.hex()) {
            Err(error) if error.is_not_found() => Ok(()),
            spooled if self.is_ready(chain)? => {
                let stream = BufReader::with_capacity(1 << 20, spooled?);
                self.build(layer, Tar::WithTarSplit(stream))
                    .map_err(|error| error.of(layer.record.chain, self.plan, archive))
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

/// Copies the member that is being read to a new file. Long runs of zeros become holes: a layer may be made of them.
fn copy_to(archive: &mut ArchiveReader, dir: &Dir, name: &str) -> Result<()> {
    let file = dir.make_file(name, 0o644)?;
    let failed = |error| FsError::new("write", dir.shown(name), error);
    let mut holes = Holes::new(&file);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match archive.read(&mut buffer[filled..]).map_err(|error| archive.read_failed(&error))? {
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
