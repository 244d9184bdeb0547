//! Proves an archive that dockpack wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};
use std::sync::Arc;

use sha2::Digest as _;

use crate::archive::{ArchiveReader, MemberName};
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::graph::Node;
use crate::id::{ChainId, DiffId, Sha256};
use crate::layer::claims::LIST_LIMIT;
use crate::model::{ImageRecord, Index, LayerRecord};
use crate::ops::ancestry::Claims;
use crate::ops::load::select;
use crate::progress::{Event, Observer};
use crate::tarsplit::{Entries, Entry, Prover};

use super::blast::{Broken, BrokenImage};
use super::codes::Effect;
use super::report::{Checked, Found, Report};

/// Most bytes of tar-splits that are kept for the layers above: of a thousand images they have some ten millions.
const BELOW_LIMIT: usize = 48 << 20;
/// Most bytes of tar-splits that wait for their tars.
const WAITING_LIMIT: usize = 80 << 20;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// Verifies an archive that dockpack wrote, called `name` in findings: all of it, or only these images. Of a file that can
/// be read in parts only what they need is read then.
///
/// # Errors
/// It is none that dockpack wrote ([`Error::ForeignArchive`]), or of a newer format, it has no such image, or the
/// observer wanted it to stop.
pub(super) fn verify(
    archive: &mut ArchiveReader,
    name: &str,
    images: &[String],
    observer: &dyn Observer,
) -> Result<Report> {
    let mut proof = Proof::new(observer);
    let read = proof.read(archive, images);
    observer.on(Event::End);
    match read {
        Ok(()) => proof.look_for_lost(),
        Err(Error::Archive { reason, .. }) => {
            // What comes behind cannot be trusted either.
            let breaks = proof.images(|chain| !proof.proved.contains(&chain));
            let finding = Finding::new(Code::ArchiveDamaged, name, reason);
            proof.found.push(Found { finding, object: None, path: None, file: None, breaks });
        }
        Err(error) => return Err(error),
    }
    let checked = Checked {
        images: proof.index.images.len(),
        layers: proof.wanted.len(),
        bytes: proof.bytes,
        ..Checked::default()
    };
    Ok(Report::new(false, checked, proof.found))
}

/// What was proved of an archive so far.
struct Proof<'a> {
    observer: &'a dyn Observer,
    index: Index,
    claims: Claims,
    /// Layers of the images that are to be verified.
    wanted: BTreeSet<ChainId>,
    /// tar-splits whose tar has not come by.
    tar_splits: BTreeMap<ChainId, Arc<[u8]>>,
    /// tar-splits that have come by, which prove what the lists of differences of layers above say.
    below: BTreeMap<ChainId, Arc<[u8]>>,
    /// Bytes that these may still have.
    room: usize,
    /// Bytes of the tar-splits whose tar has not come by.
    waiting: usize,
    /// Digests of what the tar-splits of proved tars say, by diff ID.
    shapes: BTreeMap<DiffId, Sha256>,
    proved: BTreeSet<ChainId>,
    /// Layers of which a finding says that they are bad.
    bad: BTreeSet<ChainId>,
    bytes: u64,
    found: Vec<Found>,
}

impl<'a> Proof<'a> {
    fn new(observer: &'a dyn Observer) -> Self {
        Self {
            observer,
            index: Index::default(),
            claims: Claims::default(),
            wanted: BTreeSet::new(),
            tar_splits: BTreeMap::new(),
            below: BTreeMap::new(),
            room: BELOW_LIMIT,
            waiting: 0,
            shapes: BTreeMap::new(),
            proved: BTreeSet::new(),
            bad: BTreeSet::new(),
            bytes: 0,
            found: Vec::new(),
        }
    }

    fn read(&mut self, archive: &mut ArchiveReader, images: &[String]) -> Result<()> {
        self.index = archive.metadata()?.index;
        self.claims = Claims::new(&self.index);
        self.wanted = self.index.layers.iter().map(|layer| layer.chain).collect();
        if !images.is_empty() {
            self.index.images = select(&self.index, images)?;
            self.wanted = self.index.images.iter().flat_map(ImageRecord::chain_ids).collect();
            archive.only(&self.index, |chain| self.wanted.contains(&chain))?;
        }
        let wanted = self.index.layers.iter().filter(|layer| self.wanted.contains(&layer.chain));
        let sizes: BTreeMap<DiffId, u64> = wanted.map(|layer| (layer.diff, layer.tar_size)).collect();
        self.observer.on(Event::Begin { what: "verifying", total: Some(sizes.values().sum()) });
        while let Some(part) = archive.next_part()? {
            match part {
                MemberName::TarSplit(chain) => {
                    let bytes = archive.read_whole()?;
                    self.tar_split(chain, bytes.into(), archive)?;
                }
                MemberName::Blob(digest) => self.tar(DiffId(digest), archive)?,
                MemberName::Differences(chain) if self.wanted.contains(&chain) => self.differences(chain, archive)?,
                MemberName::Differences(_) | MemberName::Sums => {}
            }
        }
        Ok(())
    }

    fn layer(&self, chain: ChainId) -> Option<&LayerRecord> {
        self.index.layers.iter().find(|layer| layer.chain == chain)
    }

    /// Keeps a tar-split until its tar comes, or compares it with that of a layer with the same tar.
    fn tar_split(&mut self, chain: ChainId, bytes: Arc<[u8]>, archive: &ArchiveReader) -> Result<()> {
        if self.layer(chain).is_none() {
            return Ok(());
        }
        if let Some(left) = self.room.checked_sub(bytes.len()) {
            self.room = left;
            self.below.insert(chain, bytes.clone());
        }
        let shape = self.layer(chain).and_then(|layer| self.shapes.get(&layer.diff)).copied();
        match shape {
            None => {
                self.waiting += bytes.len();
                if self.waiting > WAITING_LIMIT {
                    return Err(archive.bad("too many tar-splits come before their tars"));
                }
                self.tar_splits.insert(chain, bytes);
            }
            Some(shape) if shape_of(&bytes).as_ref() == Ok(&shape) => drop(self.proved.insert(chain)),
            Some(_) => {
                self.damage(chain, Code::ArchiveTarSplitMismatch, "the tar is not the one that its tar-split tells of");
            }
        }
        Ok(())
    }

    /// Proves what the list of differences of a layer says by the headers of its tar and of those below it.
    fn differences(&mut self, chain: ChainId, archive: &mut ArchiveReader) -> Result<()> {
        if archive.length() > LIST_LIMIT {
            self.damage(chain, Code::ArchiveDifferencesUnproved, "its list of differences is too long");
            return Ok(());
        }
        let bytes = archive.read_whole()?;
        let open = |chain: ChainId| match self.below.get(&chain) {
            Some(bytes) => Ok(Box::new(Cursor::new(bytes.clone())) as Box<dyn Read>),
            None => Err(format!("the tar-split of layer {} is not there", chain.short())),
        };
        let proved = self.claims.prove(&self.index, chain, &|| Ok(&bytes[..]), &open);
        if let Err(reason) = proved {
            self.damage(chain, Code::ArchiveDifferencesUnproved, reason);
        }
        Ok(())
    }

    /// Proves the tar that comes by against the tar-splits of its layers, and its own name.
    fn tar(&mut self, diff: DiffId, archive: &mut ArchiveReader) -> Result<()> {
        let chains: Vec<ChainId> =
            self.index.layers.iter().filter(|layer| layer.diff == diff).map(|layer| layer.chain).collect();
        let mut provers = Vec::new();
        for chain in &chains {
            if let Some(bytes) = self.tar_splits.remove(chain) {
                self.waiting -= bytes.len();
                self.shapes.extend(shape_of(&bytes).ok().map(|shape| (diff, shape)));
                provers.push((*chain, Prover::new(Entries::new(Cursor::new(bytes)))));
            }
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            if self.observer.wants_stop() {
                return Err(Error::Stopped);
            }
            let got = archive.read(&mut buffer).map_err(|error| archive.read_failed(&error))?;
            if got == 0 {
                break;
            }
            self.bytes += got as u64;
            self.observer.on(Event::Advance(got as u64));
            let mut failed = Vec::new();
            for (chain, prover) in &mut provers {
                if let Err(error) = prover.update(&buffer[..got]) {
                    failed.push((*chain, error.to_string()));
                }
            }
            provers.retain(|(chain, _)| !failed.iter().any(|(bad, _)| bad == chain));
            for (chain, reason) in failed {
                self.damage(chain, Code::ArchiveTarSplitMismatch, reason);
            }
        }
        let found = archive.finish_member()?;
        for (chain, prover) in provers {
            match prover.finish() {
                Ok(()) if found == diff.0 => drop(self.proved.insert(chain)),
                Ok(()) => {}
                Err(error) => self.damage(chain, Code::ArchiveTarSplitMismatch, error),
            }
        }
        if found != diff.0 {
            for chain in chains {
                self.damage(
                    chain,
                    Code::ArchiveLayerMismatch,
                    format!("expected {diff}, found sha256:{}", found.hex()),
                );
            }
        }
        Ok(())
    }

    fn look_for_lost(&mut self) {
        let is_lost = |chain: &ChainId| !self.proved.contains(chain) && !self.bad.contains(chain);
        let lost: Vec<ChainId> = self.wanted.iter().copied().filter(is_lost).collect();
        for chain in lost {
            self.damage(chain, Code::ArchiveLayerMissing, "its tar or its tar-split is missing");
        }
    }

    fn damage(&mut self, chain: ChainId, code: Code, evidence: impl ToString) {
        self.bad.insert(chain);
        if !self.wanted.contains(&chain) {
            return;
        }
        let breaks = self.images(|other| other == chain);
        let finding = Finding::new(code, chain, evidence);
        self.found.push(Found { finding, object: Some(Node::Layer(chain)), path: None, file: None, breaks });
    }

    /// Returns the images that have such a layer.
    fn images(&self, is_bad: impl Fn(ChainId) -> bool) -> Vec<Arc<Broken>> {
        let mut images: Vec<BrokenImage> = self
            .index
            .images
            .iter()
            .filter(|image| image.chain_ids().into_iter().any(&is_bad))
            .map(|image| BrokenImage { id: image.id, references: image.references.clone() })
            .collect();
        images.sort();
        match images.is_empty() {
            true => Vec::new(),
            false => vec![Arc::new(Broken { effect: Effect::Pull, images, containers: Vec::new() })],
        }
    }
}

/// Digests what a tar-split says, however it is compressed.
fn shape_of(bytes: &[u8]) -> Result<Sha256, crate::error::ParseError> {
    let mut digest = sha2::Sha256::new();
    for entry in Entries::new(bytes) {
        match entry? {
            Entry::Segment(segment) => {
                digest.update(b"s");
                digest.update((segment.len() as u64).to_be_bytes());
                digest.update(&segment);
            }
            Entry::File { name, size, crc } => {
                digest.update(b"f");
                digest.update((name.len() as u64).to_be_bytes());
                digest.update(&name);
                digest.update(size.to_be_bytes());
                digest.update(crc.unwrap_or_default());
            }
        }
    }
    Ok(Sha256::finish(digest))
}
