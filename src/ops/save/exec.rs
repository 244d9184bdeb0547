//! Carries a save out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use crate::archive::{ArchiveWriter, Descriptor, INDEX, LayerRecord, blob, documents, oci_manifest};
use crate::driver::{self, GraphDriver};
use crate::error::{Error, FsError, Result};
use crate::fsx::Dir;
use crate::id::{ChainId, DiffId, Sha256};
use crate::layer::differences;
use crate::progress::{Event, Observer, check_stop};
use crate::store::Store;
use crate::tarsplit::{AssembleError, assemble};

use super::measure::{DifferencesError, Source, contents};
use super::order::Contents;
use super::plan::SavePlan;

/// Most files that the layers are compared by, in all and of one layer: the largest.
const FILES: usize = 2 << 20;
const FILES_OF_LAYER: usize = 1 << 10;

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SaveReport {
    /// Number of images.
    pub images: usize,
    /// Number of layers.
    pub layers: usize,
    /// Bytes of the layers' tars.
    pub bytes_in: u64,
    /// Bytes of the archive.
    pub bytes_out: u64,
    /// Time it took, in seconds.
    pub seconds: f64,
}

impl SavePlan {
    /// Writes the archive.
    ///
    /// # Errors
    /// A layer cannot be proved, or the output (called `name` in messages) takes no more. What was written is
    /// no archive then.
    pub fn execute<W: Write>(
        mut self,
        store: &Store,
        mut archive: ArchiveWriter<W>,
        name: &str,
        observer: &dyn Observer,
    ) -> Result<SaveReport> {
        let begun = Instant::now();
        let driver = driver::by_name(store.driver())
            .ok_or_else(|| Error::UnsupportedDriver { driver: store.driver().to_owned() })?;
        let contents = self.measure(store, driver)?;
        let window = self.arrange(&contents, archive.window());
        drop(contents);
        let failed = |source| Error::Output { name: name.to_owned(), source };
        archive.set_window(window).map_err(failed)?;
        let bytes_in = self.index.layers.iter().map(|layer| layer.tar_size).sum();
        observer.on(Event::Begin { what: "saving", total: Some(bytes_in) });
        let written = BTreeSet::new();
        let mut save = Save { plan: &self, store, driver, archive, name, written, observer };
        save.metadata().map_err(|error| save.output_failed(error))?;
        let mut layers = self.index.layers.iter();
        for section in &self.index.sections {
            layers.by_ref().take(*section).try_for_each(|layer| save.layer(layer))?;
            save.archive.end_section().map_err(failed)?;
        }
        let bytes_out = save.archive.finish().map_err(failed)?;
        observer.on(Event::End);
        Ok(SaveReport {
            images: self.index.images.len(),
            layers: self.index.layers.len(),
            bytes_in,
            bytes_out,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    /// Fills in what the index says of each layer beyond the snapshot, and returns what is in their tars.
    fn measure(&mut self, store: &Store, driver: &dyn GraphDriver) -> Result<Vec<Contents>> {
        // A directory that is gone says more than what is missing in one.
        for layer in &self.index.layers {
            Source::open(store, layer).map_err(|error| self.layer_error(layer.chain, error))?;
        }
        let files = FILES / self.index.layers.len().max(1);
        let measured: Vec<_> = self
            .index
            .layers
            .par_iter()
            .map(|layer| measure(store, driver, layer, files.max(FILES_OF_LAYER)))
            .collect();
        let mut all = Vec::new();
        for (at, measured) in measured.into_iter().enumerate() {
            let chain = self.index.layers[at].chain;
            let (contents, facts) = measured.map_err(|reason| self.layer_error(chain, reason))?;
            self.index.layers[at].tar_size = contents.length;
            self.index.layers[at].facts = facts;
            all.push(contents);
        }
        Ok(all)
    }
}

fn measure(
    store: &Store,
    driver: &dyn GraphDriver,
    layer: &LayerRecord,
    files: usize,
) -> Result<(Contents, driver::DriverFacts), String> {
    let text = |error: FsError| error.to_string();
    let source = Source::open(store, layer).map_err(text)?;
    let contents = contents(source.entries().map_err(text)?, files).map_err(|error| format!("tar-split: {error}"))?;
    Ok((contents, driver.facts(&source.layer).map_err(text)?))
}

struct Save<'a, W: Write> {
    plan: &'a SavePlan,
    store: &'a Store,
    driver: &'static dyn GraphDriver,
    archive: ArchiveWriter<W>,
    /// What the output is called in messages.
    name: &'a str,
    /// Layer tars that are in the archive already.
    written: BTreeSet<DiffId>,
    observer: &'a dyn Observer,
}

impl<W: Write> Save<'_, W> {
    fn output_failed(&self, source: io::Error) -> Error {
        Error::Output { name: self.name.to_owned(), source }
    }

    /// Writes everything before the first layer, in a frame of its own.
    fn metadata(&mut self) -> io::Result<()> {
        let index = &self.plan.index;
        let sizes: BTreeMap<DiffId, u64> = index.layers.iter().map(|layer| (layer.diff, layer.tar_size)).collect();
        let mut blobs = BTreeMap::new();
        let mut manifests = Vec::new();
        for image in &index.images {
            let config = &self.plan.configs[&image.id];
            let layers: Vec<_> = image.diff_ids.iter().map(|diff| (*diff, sizes[diff])).collect();
            let manifest = oci_manifest(&Descriptor { digest: image.id.0, size: config.len() as u64 }, &layers);
            let digest = Sha256::of(&manifest);
            manifests.push(Descriptor { digest, size: manifest.len() as u64 });
            blobs.insert(image.id.0, config.clone());
            blobs.insert(digest, manifest);
        }
        let own = serde_json::to_vec(index).map_err(io::Error::other)?;
        for (name, bytes) in documents(index, Sha256::of(&own), &manifests) {
            self.archive.add(name, &bytes)?;
        }
        self.archive.add(INDEX, &own)?;
        for (digest, bytes) in &blobs {
            self.archive.add(&blob(digest), bytes)?;
        }
        self.archive.end_section()
    }

    fn layer(&mut self, layer: &LayerRecord) -> Result<()> {
        let chain = layer.chain;
        self.observer.on(Event::Object(&chain.short()));
        let source = Source::open(self.store, layer).map_err(|error| self.plan.layer_error(chain, error))?;
        self.tar_split(&source, layer)?;
        let list = self.differences(&source, layer)?;
        let name = format!("dockpack/layers/{}/differences.jsonl", chain.hex());
        self.archive.add(&name, &list).map_err(|error| self.output_failed(error))?;
        if self.written.insert(layer.diff) {
            self.tar(&source, layer)?;
        } else {
            self.observer.on(Event::Advance(layer.tar_size));
        }
        Ok(())
    }

    fn tar_split(&mut self, source: &Source, layer: &LayerRecord) -> Result<()> {
        let mut file = source.tar_split().map_err(|error| self.plan.layer_error(layer.chain, error))?;
        let name = format!("dockpack/layers/{}/tar-split.json.gz", layer.chain.hex());
        let written = file.metadata().and_then(|metadata| {
            let mut member = self.archive.begin(&name, metadata.len())?;
            io::copy(&mut file, &mut member)?;
            member.finish()
        });
        written.map(|_| ()).map_err(|error| self.output_failed(error))
    }

    fn differences(&self, source: &Source, layer: &LayerRecord) -> Result<Vec<u8>> {
        let parent = match layer.parent {
            None => None,
            Some(chain) => Some(self.directory(chain)?),
        };
        let compared = match source.differences(self.driver, layer, parent.as_ref()) {
            Ok(compared) => compared,
            Err(DifferencesError::Fs(error)) => return Err(self.plan.layer_error(layer.chain, error)),
            Err(DifferencesError::Tar(error)) => {
                // The tar itself is proved below; only the directory around it will not be quite the same.
                let text = format!("layer {}: {error}; its attributes are saved from its tar", layer.chain.short());
                self.observer.on(Event::Warning(&text));
                return Ok(Vec::new());
            }
        };
        if let Some(first) = compared.foreign.first() {
            let text = format!(
                "layer {}: {} files in its directory are no part of it and are left out ({}, …)",
                layer.chain.short(),
                compared.foreign.len(),
                first.escape_ascii()
            );
            self.observer.on(Event::Warning(&text));
        }
        Ok(differences::write_list(&compared.differences))
    }

    /// Opens the driver directory of a layer of the plan.
    fn directory(&self, chain: ChainId) -> Result<Dir> {
        let layer = self.plan.index.layers.iter().find(|layer| layer.chain == chain);
        let layer = layer.expect("because a plan has the parents of its layers");
        Ok(Source::open(self.store, layer).map_err(|error| self.plan.layer_error(chain, error))?.layer)
    }

    fn tar(&mut self, source: &Source, layer: &LayerRecord) -> Result<()> {
        let bad = |error: String| self.plan.layer_error(layer.chain, error);
        let tree = self.driver.tree(&source.layer).map_err(|error| bad(error.to_string()))?;
        let entries = source.entries().map_err(|error| bad(error.to_string()))?;
        let member = self.archive.begin(&blob(&layer.diff.0), layer.tar_size);
        let member = member.map_err(|source| Error::Output { name: self.name.to_owned(), source })?;
        let mut out = Observed { out: member, observer: self.observer };
        match assemble(entries, &tree, &mut out) {
            Ok(_) => {}
            Err(AssembleError::Sink(_)) if self.observer.wants_stop() => return Err(Error::Stopped),
            Err(AssembleError::Sink(error)) => return Err(self.output_failed(error)),
            Err(error) => return Err(bad(error.to_string())),
        }
        let digest = out.out.finish().map_err(|source| Error::Output { name: self.name.to_owned(), source })?;
        if digest != layer.diff.0 {
            return Err(bad(format!("its tar has the digest {digest}, not its diff ID {}", layer.diff)));
        }
        Ok(())
    }
}

/// Tells the observer of bytes that pass.
struct Observed<'a, W> {
    out: W,
    observer: &'a dyn Observer,
}

impl<W: Write> Write for Observed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check_stop(self.observer)?;
        let written = self.out.write(bytes)?;
        self.observer.on(Event::Advance(written as u64));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
