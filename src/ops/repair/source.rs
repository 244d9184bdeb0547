//! What a repair takes layers, configurations and names from: an archive, or another store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::archive::foreign::{Choice, ForeignArchive, Spool};
use crate::archive::{self, Archive, ArchiveIndex, ArchiveReader, ArchiveWriter, Compression};
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::fsx::{is_dir, open_input};
use crate::graph::{Selected, select_all};
use crate::id::{ChainId, ImageId};
use crate::ops::load::Stage;
use crate::ops::save::SavePlan;
use crate::progress::Observer;
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
    /// Opens what is at `path`: the data root of a store, or an archive, dockpack's own or of another tool, which is read
    /// several times.
    ///
    /// # Errors
    /// It is neither, or is damaged.
    pub fn open(path: &Path, observer: &dyn Observer) -> Result<Self> {
        let path = path.to_str().and_then(|text| text.strip_prefix("oci:")).map_or(path, Path::new);
        let name = path.display().to_string();
        if is_dir(path) && !is_unpacked(path) {
            let store = Store::open(path, None)?;
            let snapshot = store.snapshot()?;
            return Ok(Self::of_store(name, store, snapshot));
        }
        let is_pipe =
            || Ok::<_, Error>(!is_dir(path) && !open_input(path)?.metadata().is_ok_and(|found| found.is_file()));
        if path == Path::new("-") || is_pipe()? {
            let text = "--from is read several times: name a file or directory, not a pipe";
            return Err(Error::Usage(text.to_owned()));
        }
        let metadata = match Archive::at(path, &name)? {
            Archive::Own(mut archive) => archive.metadata()?,
            Archive::Foreign(source) => open_foreign(source, &name, observer)?.1,
        };
        let configs = metadata.index.images.iter().filter_map(|image| {
            let config = metadata.blobs.get(&image.id.0)?;
            Some((image.id, config.clone()))
        });
        let configs = configs.collect();
        Ok(Self { name, from: From::Archive(path.to_owned()), index: metadata.index, configs })
    }

    /// Tells whether it knows the sizes of layers as dockerd notes them. Archives of other tools know the
    /// lengths of tars.
    pub(super) fn knows_sizes(&self) -> bool {
        self.index.driver.is_some()
    }

    /// Returns the driver that the layers come from, where it is one of Docker's.
    pub(super) fn driver(&self) -> Option<&'static Driver> {
        Driver::known(self.index.driver.as_deref()?)
    }

    fn of_store(name: String, store: Store, snapshot: Snapshot) -> Self {
        let mut index = ArchiveIndex { driver: Some(store.driver().name().to_owned()), ..ArchiveIndex::default() };
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
    pub(super) fn read(&self, wanted: &BTreeSet<ChainId>, observer: &dyn Observer) -> Result<Reading> {
        match &self.from {
            From::Archive(path) => match Archive::at(path, &self.name)? {
                Archive::Own(mut reader) => {
                    let index = reader.metadata()?.index;
                    reader.only(&index, |chain| wanted.contains(&chain))?;
                    Ok(Reading { index, layers: Layers::Own(reader, None) })
                }
                Archive::Foreign(source) => {
                    let (archive, metadata) = open_foreign(source, &self.name, observer)?;
                    Ok(Reading { index: metadata.index, layers: Layers::Foreign(Box::new(archive)) })
                }
            },
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
                let mut reader = Box::new(ArchiveReader::new(Box::new(stream), &self.name)?);
                let index = match reader.metadata() {
                    Ok(metadata) => metadata.index,
                    Err(error) => {
                        drop(reader);
                        return Err(why(save, error));
                    }
                };
                Ok(Reading { index, layers: Layers::Own(reader, Some(save)) })
            }
        }
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::Output { name: self.name.clone(), source }
    }
}

/// An archive that is being read, or a store that is read as the archive that `save` would make of it.
pub(super) struct Reading {
    pub(super) index: ArchiveIndex,
    layers: Layers,
}

enum Layers {
    Own(Box<ArchiveReader>, Option<JoinHandle<Result<()>>>),
    Foreign(Box<ForeignArchive>),
}

impl Reading {
    /// Builds layers out of what is read. Where that fails because a store could not be saved, says why that was.
    pub(super) fn build(self, stage: Stage<'_>) -> Result<()> {
        match self.layers {
            Layers::Own(mut reader, save) => {
                let done = stage.run(&mut reader, &self.index);
                // Whoever still writes gets to know that nobody reads.
                drop(reader);
                match (done, save) {
                    (Err(error), Some(save)) => Err(why(save, error)),
                    (done, _) => done,
                }
            }
            Layers::Foreign(mut archive) => stage.run_foreign(&mut archive),
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

/// Tells whether an archive lies unpacked in a directory.
fn is_unpacked(path: &Path) -> bool {
    ["oci-layout", "manifest.json", "repositories"].iter().any(|name| open_input(&path.join(name)).is_ok())
}

/// Opens an archive that another tool wrote, with the images for every platform.
fn open_foreign(
    source: archive::Source,
    name: &str,
    observer: &dyn Observer,
) -> Result<(ForeignArchive, archive::Metadata)> {
    let mut archive = ForeignArchive::open(source, name, Spool::Documents, observer)?;
    let mut metadata = archive.metadata(&Choice::All, observer)?;
    metadata.index.layers.retain(|layer| archive.has_layer(&layer.diff));
    Ok((archive, metadata))
}
