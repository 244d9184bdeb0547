//! What a repair takes layers, configurations and names from: an archive, or another store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::archive::foreign::{Choice, Spool};
use crate::archive::{Archive, OpenArchive};
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::fsx::{is_dir, open_input};
use crate::graph::{Selected, select_all};
use crate::id::{ChainId, ImageId};
use crate::model::{Index, Metadata};
use crate::ops::save::SavePlan;
use crate::progress::Observer;
use crate::store::{Snapshot, Store};
use crate::transfer::Source;

/// Where layers come from.
#[derive(Debug)]
pub struct Donor {
    name: String,
    from: From,
    pub(super) index: Index,
    pub(super) configs: BTreeMap<ImageId, Vec<u8>>,
}

#[derive(Debug)]
enum From {
    Archive(PathBuf),
    Store(Box<(Store, Snapshot)>),
}

impl Donor {
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
        let archive = open(path, &name, observer)?;
        let Metadata { index, blobs } = &**archive.metadata();
        let mut index = index.clone();
        index.layers.retain(|layer| archive.has_layer(&layer.diff));
        let configs = index.images.iter().filter_map(|image| Some((image.id, blobs.get(&image.id.0)?.clone())));
        let configs = configs.collect();
        Ok(Self { name, from: From::Archive(path.to_owned()), index, configs })
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
        let mut index = Index { driver: Some(store.driver().name().to_owned()), ..Index::default() };
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

    /// Opens what has these layers; of a store, all that their images have.
    ///
    /// # Errors
    /// The archive or store cannot be read.
    pub(super) fn source(&self, wanted: &BTreeSet<ChainId>, observer: &dyn Observer) -> Result<Box<dyn Source>> {
        Ok(match &self.from {
            From::Archive(path) => Box::new(open(path, &self.name, observer)?),
            From::Store(other) => {
                let (store, snapshot) = &**other;
                let images = covering(&self.index, wanted);
                Box::new(SavePlan::new(snapshot, store.driver(), &images)?.open(store, &())?)
            }
        })
    }
}

/// Chooses images that have all of these layers, those with the fewest first.
fn covering(index: &Index, wanted: &BTreeSet<ChainId>) -> Vec<Selected> {
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

/// Opens an archive, with the images for every platform.
fn open(path: &Path, name: &str, observer: &dyn Observer) -> Result<OpenArchive> {
    Archive::at(path, name)?.open(&Choice::All, Spool::Documents, observer)
}
