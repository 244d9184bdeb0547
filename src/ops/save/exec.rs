//! Carries a save out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::archive::{ArchiveWriter, Descriptor, INDEX, blob, documents, oci_manifest};
use crate::error::{Error, Result};
use crate::id::{ChainId, DiffId, Sha256};
use crate::model::{INDEX_LIMIT, Index, LayerRecord, Metadata};
use crate::progress::{Event, Observer};
use crate::store::Store;
use crate::transfer::{Content, Part, Sink, Source as _, Taken};

use super::order::{Contents, Layer, order};
use super::plan::SavePlan;

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
        self,
        store: &Store,
        mut archive: ArchiveWriter<W>,
        name: &str,
        observer: &dyn Observer,
    ) -> Result<SaveReport> {
        let begun = Instant::now();
        let (mut source, contents) = self.measure(store, observer)?;
        let index = &mut Arc::make_mut(&mut source.metadata).index;
        let window = arrange(index, &contents, archive.window());
        drop(contents);
        let failed = |source| Error::Output { name: name.to_owned(), source };
        archive.set_window(window).map_err(failed)?;
        let bytes_in = index.layers.iter().map(|layer| layer.tar_size).sum();
        let wanted = index.layers.iter().map(|layer| layer.chain).collect();
        observer.on(Event::Begin { what: "saving", total: Some(bytes_in) });
        let metadata = Arc::clone(&source.metadata);
        let mut save = Save::new(&metadata, archive, name, observer);
        save.metadata().map_err(failed)?;
        source.read(&wanted, &mut save, observer)?;
        let bytes_out = save.finish().map_err(failed)?;
        observer.on(Event::End);
        Ok(SaveReport {
            images: metadata.index.images.len(),
            layers: metadata.index.layers.len(),
            bytes_in,
            bytes_out,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }
}

/// Puts the layers of an index in the order in which they are written, for a window of up to 2^`reach` bytes, and returns
/// the window that they need. `contents` are of their tars.
fn arrange(index: &mut Index, contents: &[Contents], reach: u32) -> u32 {
    let (mut chains, mut tars) = (BTreeMap::new(), BTreeMap::new());
    let layers: Vec<Layer<'_>> = (0..)
        .zip(index.layers.iter().zip(contents))
        .map(|(place, (layer, contents))| {
            chains.insert(layer.chain, place);
            let parent = layer.parent.and_then(|parent| chains.get(&parent).copied());
            Layer { parent, tar: *tars.entry(layer.diff).or_insert(place), contents }
        })
        .collect();
    let order = order(&layers, reach);
    let mut unordered: Vec<_> = std::mem::take(&mut index.layers).into_iter().map(Some).collect();
    index.layers = order.sequence.into_iter().filter_map(|place| unordered[place].take()).collect();
    index.sections = order.sections;
    order.window
}

/// An archive that is being written.
struct Save<'a, W: Write> {
    metadata: &'a Metadata,
    archive: ArchiveWriter<W>,
    /// What the output is called in messages.
    name: &'a str,
    observer: &'a dyn Observer,
    /// Layers of which no part has come.
    layers: std::slice::Iter<'a, LayerRecord>,
    /// How many layers the sections have that are not begun, and how many are left in the one that is.
    sections: std::slice::Iter<'a, usize>,
    left: usize,
    /// Diff IDs that have come by.
    diffs: BTreeSet<DiffId>,
}

impl<'a, W: Write> Save<'a, W> {
    fn new(metadata: &'a Metadata, archive: ArchiveWriter<W>, name: &'a str, observer: &'a dyn Observer) -> Self {
        let (layers, sections) = (metadata.index.layers.iter(), metadata.index.sections.iter());
        Self { metadata, archive, name, observer, layers, sections, left: 0, diffs: BTreeSet::new() }
    }

    fn output_failed(&self, source: io::Error) -> Error {
        Error::Output { name: self.name.to_owned(), source }
    }

    /// Writes everything before the first layer, in a frame of its own.
    fn metadata(&mut self) -> io::Result<()> {
        let index = &self.metadata.index;
        let sizes: BTreeMap<DiffId, u64> = index.layers.iter().map(|layer| (layer.diff, layer.tar_size)).collect();
        let mut blobs = BTreeMap::new();
        let mut manifests = Vec::new();
        for image in &index.images {
            let config = &self.metadata.blobs[&image.id.0];
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

    /// Begins a layer, and with it a section where the one before has all its layers.
    fn layer(&mut self) -> io::Result<()> {
        if self.left == 0 {
            self.archive.end_section()?;
            self.left = self.sections.next().copied().unwrap_or(self.metadata.index.layers.len());
        }
        self.left -= 1;
        let Some(layer) = self.layers.next() else { return Ok(()) };
        self.observer.on(Event::Object(&layer.chain.short()));
        if !self.diffs.insert(layer.diff) {
            self.observer.on(Event::Advance(layer.tar_size));
        }
        Ok(())
    }

    /// Ends the archive; returns its bytes.
    fn finish(mut self) -> io::Result<u64> {
        self.archive.end_section()?;
        self.archive.finish()
    }
}

impl<W: Write> Sink for Save<'_, W> {
    fn part(&mut self, part: Part, content: &mut dyn Content) -> Result<Taken> {
        let failed = |source| Error::Output { name: self.name.to_owned(), source };
        let of_layer = |chain: ChainId, file: &str| format!("dockpack/layers/{}/{file}", chain.hex());
        let (name, is_tar) = match part {
            Part::TarSplit(chain) => {
                self.layer().map_err(|error| self.output_failed(error))?;
                (of_layer(chain, "tar-split.json.gz"), false)
            }
            Part::Differences(chain) => (of_layer(chain, "differences.jsonl"), false),
            Part::Tar(diff) => (blob(&diff.0), true),
            Part::Alone(chain) => return Err(content.bad(format!("layer {} has no tar-split", chain.short()))),
        };
        let mut member = self.archive.begin(&name, content.length()).map_err(failed)?;
        loop {
            let piece = content.next_piece().map_err(|error| content.read_failed(&error))?;
            let bytes = piece.as_ref();
            if bytes.is_empty() {
                return Ok(Taken::Digested(member.finish().map_err(failed)?));
            }
            if self.observer.wants_stop() {
                return Err(Error::Stopped);
            }
            member.write_all(bytes).map_err(failed)?;
            if is_tar {
                self.observer.on(Event::Advance(bytes.len() as u64));
            }
        }
    }

    fn digests(&self) -> bool {
        true
    }
}
