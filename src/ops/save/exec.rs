//! Carries a save out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use crate::archive::{ArchiveWriter, Descriptor, INDEX, INDEX_LIMIT, LayerRecord, blob, documents, oci_manifest};
use crate::driver::{self, Driver};
use crate::error::{Error, FsError, Result};
use crate::id::{DiffId, Sha256};
use crate::progress::{Event, Observer};
use crate::store::Store;

use super::measure::{Source, contents};
use super::order::Contents;
use super::plan::SavePlan;
use super::read::{AHEAD, Piece, Pieces, Reader};

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
        if let Some(first) = self.unproved.first() {
            let left_out = match self.unproved.len() {
                1 => format!("the reference by digest {first} is left out"),
                several => format!("{several} references by digest are left out ({first}, …)"),
            };
            let text = format!("{left_out}: no manifest in the archive proves it");
            observer.on(Event::Warning(&text));
        }
        let driver = store.driver().readable()?;
        // Owners are saved as containers see them.
        store.namespace()?;
        let contents = self.measure(store, driver)?;
        let window = self.arrange(&contents, archive.window());
        drop(contents);
        let failed = |source| Error::Output { name: name.to_owned(), source };
        archive.set_window(window).map_err(failed)?;
        let bytes_in = self.index.layers.iter().map(|layer| layer.tar_size).sum();
        observer.on(Event::Begin { what: "saving", total: Some(bytes_in) });
        let mut save = Save { plan: &self, archive, name, observer };
        save.metadata().map_err(failed)?;
        let stamped = OnceLock::new();
        let reader = Reader { plan: &self, store, driver, observer, stamped: &stamped };
        std::thread::scope(|threads| {
            let ((list, lists), (piece, pieces)) = (sync_channel(0), sync_channel(AHEAD));
            let (spare, back) = channel();
            threads.spawn(move || reader.compare(&list));
            threads.spawn(move || reader.read(&lists, Pieces::new(piece, back)));
            // When it ends early, so do the others.
            save.layers(&Incoming { pieces, spare })
        })?;
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
    fn measure(&mut self, store: &Store, driver: &'static Driver) -> Result<Vec<Contents>> {
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
    driver: &'static Driver,
    layer: &LayerRecord,
    files: usize,
) -> Result<(Contents, driver::DriverFacts), String> {
    let text = |error: FsError| error.to_string();
    let source = Source::open(store, layer).map_err(text)?;
    let contents = contents(source.entries().map_err(text)?, files).map_err(|error| format!("tar-split: {error}"))?;
    Ok((contents, driver.read.facts(&source.layer).map_err(text)?))
}

struct Save<'a, W: Write> {
    plan: &'a SavePlan,
    archive: ArchiveWriter<W>,
    /// What the output is called in messages.
    name: &'a str,
    observer: &'a dyn Observer,
}

/// Pieces as they come, and where their buffers go back to.
struct Incoming<'a> {
    pieces: Receiver<Result<Piece<'a>>>,
    spare: Sender<Vec<u8>>,
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
        if own.len() as u64 > INDEX_LIMIT {
            return Err(io::Error::other("too many images and layers for one archive: save fewer at once"));
        }
        for (name, bytes) in documents(index, Sha256::of(&own), &manifests) {
            self.archive.add(name, &bytes)?;
        }
        self.archive.add(INDEX, &own)?;
        for (digest, bytes) in &blobs {
            self.archive.add(&blob(digest), bytes)?;
        }
        self.archive.end_section()
    }

    /// Writes all layers, section by section.
    fn layers(&mut self, incoming: &Incoming<'_>) -> Result<()> {
        let index = &self.plan.index;
        let mut tars = BTreeSet::new();
        let (mut sections, mut left) = (index.sections.iter(), 0);
        while let Ok(piece) = incoming.pieces.recv() {
            match piece? {
                Piece::Layer(layer) => {
                    if left == 0 {
                        self.archive.end_section().map_err(|error| self.output_failed(error))?;
                        left = sections.next().copied().unwrap_or(index.layers.len());
                    }
                    left -= 1;
                    self.observer.on(Event::Object(&layer.chain.short()));
                    if !tars.insert(layer.diff) {
                        self.observer.on(Event::Advance(layer.tar_size));
                    }
                }
                Piece::Member { name, length, tar_of } => self.member(&name, length, tar_of, incoming)?,
                // They are within members.
                Piece::Bytes(_) | Piece::End => {}
            }
        }
        self.archive.end_section().map_err(|error| self.output_failed(error))
    }

    fn member(&mut self, name: &str, length: u64, tar_of: Option<&LayerRecord>, incoming: &Incoming<'_>) -> Result<()> {
        let failed = |source| Error::Output { name: self.name.to_owned(), source };
        let mut member = self.archive.begin(name, length).map_err(failed)?;
        while let Ok(piece) = incoming.pieces.recv() {
            let Piece::Bytes(bytes) = piece? else { break };
            if self.observer.wants_stop() {
                return Err(Error::Stopped);
            }
            member.write_all(&bytes).map_err(failed)?;
            if tar_of.is_some() {
                self.observer.on(Event::Advance(bytes.len() as u64));
            }
            // Nobody takes it back when all is read.
            let _ = incoming.spare.send(bytes);
        }
        let digest = member.finish().map_err(failed)?;
        match tar_of {
            Some(layer) if digest != layer.diff.0 => {
                let reason = format!("its tar has the digest {digest}, not its diff ID {}", layer.diff);
                Err(self.plan.layer_error(layer.chain, reason))
            }
            _ => Ok(()),
        }
    }
}
