//! What a repair takes layers, configurations and names from: an archive, or another store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::archive::{ArchiveIndex, ArchiveReader, ArchiveWriter, Compression, LayoutReader};
use crate::error::{Error, Result};
use crate::fsx::{is_dir, open_input};
use crate::graph::{Selected, select_all};
use crate::id::{ChainId, ImageId};
use crate::ops::save::SavePlan;
use crate::store::{Snapshot, Store};

/// Where layers come from.
#[derive(Debug)]
pub struct Source {
    name: String,
    from: From,
    pub(super) index: ArchiveIndex,
    pub(super) configs: BTreeMap<ImageId, Vec<u8>>,
}

#[derive(Debug)]
enum From {
    Archive(PathBuf),
    Store(Box<(Store, Snapshot)>),
}

impl Source {
    /// Opens what is at `path`: the data root of a store, or an archive, which is read several times.
    ///
    /// # Errors
    /// It is neither, or is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let path = path.to_str().and_then(|text| text.strip_prefix("oci:")).map_or(path, Path::new);
        let name = path.display().to_string();
        if path == Path::new("-") {
            let text = "--from is read several times: name a file or directory, not standard input";
            return Err(Error::Usage(text.to_owned()));
        }
        if is_dir(path) && !is_layout(path) {
            let store = Store::open(path, None)?;
            let snapshot = store.snapshot()?;
            return Ok(Self::of_store(name, store, snapshot));
        }
        let metadata = open_archive(path, &name)?.metadata()?;
        let configs = metadata.index.images.iter().filter_map(|image| {
            let config = metadata.blobs.get(&image.id.0)?;
            Some((image.id, config.clone()))
        });
        let configs = configs.collect();
        Ok(Self { name, from: From::Archive(path.to_owned()), index: metadata.index, configs })
    }

    fn of_store(name: String, store: Store, snapshot: Snapshot) -> Self {
        let mut index = ArchiveIndex { driver: store.driver().to_owned(), ..ArchiveIndex::default() };
        let mut known = BTreeSet::new();
        // An image of which a layer is lost can still lend its configuration; its layers come with others.
        for one in select_all(&snapshot) {
            let Ok(plan) = SavePlan::new(&snapshot, store.driver(), &[one]) else { continue };
            index.images.extend(plan.index().images.iter().cloned());
            let new = plan.index().layers.iter().filter(|layer| known.insert(layer.chain));
            index.layers.extend(new.cloned());
        }
        let configs = snapshot.images.iter().map(|(id, image)| (*id, image.config.clone())).collect();
        Self { name, from: From::Store(Box::new((store, snapshot))), index, configs }
    }

    /// Begins to read these layers; of a store, all that their images have.
    ///
    /// # Errors
    /// The archive or store cannot be read.
    pub(super) fn read(&self, wanted: &BTreeSet<ChainId>) -> Result<Reading> {
        match &self.from {
            From::Archive(path) => {
                let mut reader = open_archive(path, &self.name)?;
                let index = reader.metadata()?.index;
                reader.only(&index, |chain| wanted.contains(&chain))?;
                Ok(Reading { reader, index, save: None })
            }
            From::Store(other) => {
                let (store, snapshot) = &**other;
                let images = covering(&self.index, wanted);
                let plan = SavePlan::new(snapshot, store.driver(), &images)?;
                let (stream, sink) = std::io::pipe().map_err(|source| self.failed(source))?;
                let (store, name) = (store.clone(), self.name.clone());
                let save = std::thread::spawn(move || {
                    let failed = |source| Error::Output { name: name.clone(), source };
                    let archive = ArchiveWriter::tar(sink, Compression::Plain).map_err(failed)?;
                    plan.execute(&store, archive, &name, &()).map(|_| ())
                });
                let mut reader = ArchiveReader::new(Box::new(stream), &self.name)?;
                let index = match reader.metadata() {
                    Ok(metadata) => metadata.index,
                    Err(error) => {
                        drop(reader);
                        return Err(why(save, error));
                    }
                };
                Ok(Reading { reader, index, save: Some(save) })
            }
        }
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Output { name: self.name.clone(), source }
    }
}

/// An archive that is being read, or a store that is read as the archive that `save` would make of it.
pub(super) struct Reading {
    pub(super) reader: ArchiveReader,
    pub(super) index: ArchiveIndex,
    save: Option<JoinHandle<Result<()>>>,
}

impl Reading {
    /// Ends the reading: where it failed because the store could not be saved, says why that was.
    pub(super) fn end<T>(self, done: Result<T>) -> Result<T> {
        let Self { reader, save, .. } = self;
        // Whoever still writes gets to know that nobody reads.
        drop(reader);
        match (done, save) {
            (Err(error), Some(save)) => Err(why(save, error)),
            (done, _) => done,
        }
    }
}

fn why(save: JoinHandle<Result<()>>, error: Error) -> Error {
    match save.join() {
        Ok(Err(cause)) if !matches!(cause, Error::Output { .. }) => cause,
        _ => error,
    }
}

/// Chooses images that have all of these layers, those with the fewest first.
fn covering(index: &ArchiveIndex, wanted: &BTreeSet<ChainId>) -> Vec<Selected> {
    let mut images: Vec<_> = index.images.iter().collect();
    images.sort_by_key(|image| (image.diff_ids.len(), image.id));
    let mut left = wanted.clone();
    let mut chosen = Vec::new();
    for image in images {
        let has = image.chain_ids();
        if has.iter().any(|chain| left.contains(chain)) {
            left.retain(|chain| !has.contains(chain));
            chosen.push(Selected { image: image.id, references: BTreeSet::new() });
        }
    }
    chosen
}

fn is_layout(path: &Path) -> bool {
    open_input(&path.join("oci-layout")).is_ok()
}

fn open_archive(path: &Path, name: &str) -> Result<ArchiveReader> {
    match is_dir(path) {
        true => ArchiveReader::new(Box::new(LayoutReader::open(path)?), name),
        false => ArchiveReader::open(open_input(path)?, name),
    }
}
