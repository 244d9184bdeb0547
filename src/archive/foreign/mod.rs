//! Archives that other tools wrote.
//!
//! | written by | documents | layers |
//! |---|---|---|
//! | `docker save` before 1.10 | `repositories`, `<id>/json` | `<id>/layer.tar` |
//! | `docker save` to 24, `skopeo copy … docker-archive:`, podman | `manifest.json`, `<id>.json` | `<id>/layer.tar`, some of them links, or `<digest>.tar` |
//! | `docker save` from 25 | `manifest.json`, `index.json`, `blobs/sha256/…` | `blobs/sha256/<diff ID>` |
//! | `docker save` of the containerd store, buildx | the same | `blobs/sha256/…`, in gzip or zstd too |
//! | `skopeo copy … oci-archive:`, `oci:`, buildah, umoci, buildx | `index.json`, `blobs/sha256/…` | the same |
//!
//! The whole may be plain, in gzip, bzip2, xz or zstd, a file, a pipe, or an unpacked directory. Where there are several documents
//! `manifest.json` counts, as for `docker load` (Docker 25.0.0 wrote layers in a wrong order into the others), but not where
//! a platform is asked for.
//!
//! What is in such an archive is not proved by reading its documents: a configuration and a manifest are proved when
//! they are read, a layer by whoever reads it.

mod content;
mod documents;
mod images;
mod layers;
mod legacy;
mod members;
mod platform;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Seek as _, SeekFrom};

use crate::driver::DriverFacts;
use crate::error::{Error, Result};
use crate::fsx::{Dir, File};
use crate::id::{CacheId, ChainId, DiffId, Sha256};
use crate::model::{FORMAT, Index, LayerRecord, Metadata};
use crate::progress::{Event, Observer};

use super::OWN;
use super::recognise::Medium;

use content::{Content, Decompressed, decompress};
use documents::{INDEX, MANIFEST, REPOSITORIES};
use members::{Catalog, CatalogError, Keep};

pub(crate) use content::Digests;
pub use images::Choice;
pub(crate) use images::{Described, ForeignImage, ForeignLayer, Problem, Weight};
pub use platform::Platform;

/// Said of what ends too early.
const CUT: &str = "it is cut off";

/// What is kept of an archive whose members cannot be read where they lie: one that is compressed, or a pipe.
#[derive(Debug, Clone, Copy)]
pub enum Spool<'a> {
    /// Documents: enough to list it.
    Documents,
    /// Digests of its members too: enough to verify it.
    Digests,
    /// Its layers, in files of this directory, until the archive is dropped.
    Layers(&'a Dir),
}

/// An archive that another tool wrote.
#[derive(Debug)]
pub struct ForeignArchive {
    name: String,
    catalog: Catalog,
    /// Of a compressed file only the documents were kept: its layers are spooled when it is known which are needed.
    compressed: Option<File>,
    /// Where the layers are, by diff ID.
    layers: BTreeMap<DiffId, ForeignLayer>,
    /// What the documents call those that are not there, and an image that needs each: the store may have them.
    missing: BTreeMap<DiffId, (String, String)>,
}

impl ForeignArchive {
    /// Finds the members of an archive; `name` is what messages call it. A pipe is read to its end.
    ///
    /// # Errors
    /// It cannot be read, is no tar, or its members lie in each other's way or lead out of it.
    pub fn open(medium: Medium, name: &str, spool: Spool<'_>, observer: &dyn Observer) -> Result<Self> {
        observer.on(Event::Begin { what: "reading", total: None });
        let opened = find_members(medium, spool, observer);
        observer.on(Event::End);
        match opened {
            // What it holds beyond the documents of other tools would be lost.
            Ok((catalog, _)) if catalog.has_dir(OWN) => Err(Error::Archive {
                name: name.to_owned(),
                reason: "dockpack wrote it, but it does not begin as dockpack writes it: it was changed".to_owned(),
            }),
            Ok((catalog, compressed)) => Ok(Self {
                name: name.to_owned(),
                catalog,
                compressed,
                layers: BTreeMap::new(),
                missing: BTreeMap::new(),
            }),
            Err(_) if observer.wants_stop() => Err(Error::Stopped),
            Err(error) => Err(failed(name, error)),
        }
    }

    /// Makes an error of this archive.
    pub(crate) fn bad(&self, reason: impl ToString) -> Error {
        Error::Archive { name: self.name.clone(), reason: reason.to_string() }
    }

    /// Makes an error of a read that failed.
    pub(crate) fn read_failed(&self, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.bad(CUT),
            _ => self.bad(error),
        }
    }

    /// Reads the documents: which images there are, and what is wrong with them.
    pub(crate) fn describe(&self, choice: &Choice, observer: &dyn Observer) -> Result<Described> {
        images::describe(&self.catalog, choice, observer).map_err(|error| failed(&self.name, error))
    }

    /// Reads what a load needs to know: the images, and their layers in the order in which they build on each other.
    ///
    /// # Errors
    /// A document is missing or damaged, or no image fits the platform.
    pub fn metadata(&mut self, choice: &Choice, observer: &dyn Observer) -> Result<Metadata> {
        let described = self.describe(choice, observer)?;
        if let Some(problem) = described.problems.iter().find(|problem| problem.weight == Weight::Fatal) {
            let at = match problem.object.to_string() {
                none if none.is_empty() => none,
                name => format!("{}: ", name.escape_debug()),
            };
            return Err(self.bad(format!("{at}{}", escaped(&problem.evidence))));
        }
        let is_for_here = |image: &ForeignImage| *choice == Choice::All || image.platform.is_linux();
        match described.images.iter().find(|image| !is_for_here(image)) {
            Some(other) if !described.images.iter().any(is_for_here) => {
                return Err(self.bad(format!("image {} is for {}", other.id.short(), other.platform)));
            }
            _ => {}
        }
        if described.images.is_empty() {
            return Err(match described.others.is_empty() {
                true => self.bad("there is no image in it"),
                false => self.bad(format!("its images are for {} only", listed(&described.others))),
            });
        }
        let mut index = Index { format: FORMAT, ..Index::default() };
        let mut blobs: BTreeMap<Sha256, Vec<u8>> = BTreeMap::new();
        let mut known = BTreeSet::new();
        for image in described.images.into_iter().filter(is_for_here) {
            let record_of = image.record();
            let mut parent = None;
            for (layer, diff) in image.layers.into_iter().zip(&image.diff_ids) {
                let chain = ChainId::stack(parent, *diff);
                if known.insert(chain) {
                    index.layers.push(record(chain, *diff, parent, layer.length.unwrap_or(0)));
                }
                if layer.length.is_some() {
                    self.layers.entry(*diff).or_insert(layer);
                } else {
                    self.missing.entry(*diff).or_insert_with(|| (layer.member, record_of.shown()));
                }
                parent = Some(chain);
            }
            index.images.push(record_of);
            blobs.insert(image.id.0, image.config);
        }
        Ok(Metadata { index, blobs })
    }

    /// Tells whether it has the layer of this diff ID.
    pub(crate) fn has_layer(&self, diff: &DiffId) -> bool {
        self.layers.contains_key(diff)
    }

    /// Proves that it has these layers, which the store has not.
    ///
    /// # Errors
    /// It lacks one.
    pub(crate) fn require<'d>(&self, diffs: impl IntoIterator<Item = &'d DiffId>) -> Result<()> {
        match diffs.into_iter().find(|diff| !self.has_layer(diff)) {
            None => Ok(()),
            Some(diff) => {
                let (member, image) = self.missing.get(diff).map_or(("it", ""), |(member, image)| (member, image));
                let (member, image) = (member.escape_debug(), image.escape_debug());
                let text =
                    format!("{member}: the layer {diff} of image {image} is missing, and the store does not have it");
                Err(self.bad(text))
            }
        }
    }

    /// Makes the layers of these diff IDs readable: those of a compressed file are copied to files in `dir`.
    ///
    /// # Errors
    /// The archive cannot be read any more, or the file system is full.
    pub(crate) fn spool(&mut self, diffs: &BTreeSet<DiffId>, dir: &Dir, observer: &dyn Observer) -> Result<()> {
        let Some(file) = self.compressed.take() else { return Ok(()) };
        let wanted = |diff: &DiffId| self.layers.get(diff).map(|layer| layer.member.clone());
        let wanted: BTreeSet<String> = diffs.iter().filter_map(wanted).collect();
        let spooled = unpacked(file)
            .map_err(CatalogError::from)
            .and_then(|tar| Catalog::of_stream(tar, &Keep::Files(dir, Some(&wanted)), observer));
        self.catalog = spooled.map_err(|error| failed(&self.name, error))?;
        Ok(())
    }

    /// Opens the tar of a layer.
    ///
    /// # Errors
    /// It is not there, or is compressed in a way that is not read here.
    pub(crate) fn layer<'a>(&self, diff: DiffId, observer: &'a dyn Observer) -> Result<(&ForeignLayer, Content<'a>)> {
        let layer = self.layers.get(&diff).ok_or_else(|| self.bad(format!("layer {diff} is missing")))?;
        let opened = self.catalog.open(&layer.member).and_then(|member| Ok(Content::new(member, observer)?));
        Ok((layer, opened.map_err(|error| failed(&self.name, error))?))
    }

    /// Returns the digests of a member.
    pub(crate) fn digests(&self, member: &str, observer: &dyn Observer) -> Result<Digests> {
        self.catalog.digests(member, observer).map_err(|error| failed(&self.name, error))
    }

    /// Returns the names and lengths of all blobs of an OCI image layout.
    pub(crate) fn blobs(&self) -> Result<Vec<(String, u64)>> {
        let found = self.catalog.blobs().and_then(|names| {
            let lengths = names.into_iter().map(|name| self.catalog.find(&name));
            Ok(lengths.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        });
        found.map_err(|error| failed(&self.name, error))
    }
}

/// Finds the members; gives a compressed file back with them, of which only the documents were kept.
fn find_members(
    medium: Medium,
    spool: Spool<'_>,
    observer: &dyn Observer,
) -> Result<(Catalog, Option<File>), CatalogError> {
    let stream = match medium {
        Medium::Dir(dir) => return Ok((Catalog::of_dir(dir), None)),
        Medium::Stream(stream) => stream,
        Medium::File(file) => match decompress(Box::new(file.try_clone()?))? {
            Decompressed::Plain(_) => return Ok((Catalog::of_file(file, observer)?, None)),
            Decompressed::Unpacked(_) => {
                let keep = if matches!(spool, Spool::Digests) { Keep::Digests } else { Keep::Documents };
                let catalog = Catalog::of_stream(unpacked(file.try_clone()?)?, &keep, observer)?;
                let is_legacy = !has(&catalog, MANIFEST)? && !has(&catalog, INDEX)? && has(&catalog, REPOSITORIES)?;
                // The digests of its layers are in none of its documents.
                let catalog = match matches!(keep, Keep::Documents) && is_legacy {
                    true => Catalog::of_stream(unpacked(file.try_clone()?)?, &Keep::Digests, observer)?,
                    false => catalog,
                };
                return Ok((catalog, Some(file)));
            }
        },
    };
    let (Decompressed::Plain(tar) | Decompressed::Unpacked(tar)) = decompress(stream)?;
    let keep = match spool {
        // A pipe cannot be read again where it turns out that its documents are not enough.
        Spool::Documents | Spool::Digests => Keep::Digests,
        Spool::Layers(dir) => Keep::Files(dir, None),
    };
    Ok((Catalog::of_stream(tar, &keep, observer)?, None))
}

fn has(catalog: &Catalog, name: &str) -> Result<bool, CatalogError> {
    Ok(catalog.find(name)?.is_some())
}

/// Reads a compressed file from its first byte.
fn unpacked(mut file: File) -> io::Result<content::Stream<'static>> {
    file.seek(SeekFrom::Start(0))?;
    let (Decompressed::Plain(tar) | Decompressed::Unpacked(tar)) = decompress(Box::new(file))?;
    Ok(tar)
}

fn failed(name: &str, error: CatalogError) -> Error {
    let reason = match error {
        CatalogError::Fs(error) => return error.into(),
        CatalogError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => CUT.to_owned(),
        CatalogError::Tar(error) => format!("it is not a tar, plain or in gzip, bzip2, xz or zstd: {error}"),
        error => error.to_string(),
    };
    Error::Archive { name: name.to_owned(), reason }
}

/// What is known of a layer before it is unpacked. Its name on disk is made of its identity, so that two loads make the
/// same.
fn record(chain: ChainId, diff: DiffId, parent: Option<ChainId>, length: u64) -> LayerRecord {
    let name = Sha256::of(format!("dockpack {chain}").as_bytes()).hex();
    let cache_id = CacheId::parse(name.as_bytes()).expect("because 64 hexadecimal digits are a cache ID");
    LayerRecord { chain, diff, parent, size: length, tar_size: length, cache_id, facts: DriverFacts::default() }
}

/// Escapes what could do harm to a terminal, and leaves quotation marks as they are.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '"' | '\'' => out.push(letter),
            letter => out.extend(letter.escape_debug()),
        }
    }
    out
}

fn listed(platforms: &BTreeSet<Platform>) -> String {
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
