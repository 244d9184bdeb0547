//! Reads an archive that dockpack wrote, and proves every byte that it gives out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Error;
use crate::fsx::File;
use crate::id::{ChainId, ImageId, Sha256};
use crate::json::is_time;
use crate::model::{FORMAT, INDEX_LIMIT, Index, Metadata};
use crate::reference::Reference;
use crate::store::imagedb;
use crate::transfer::Piece;

use super::ahead::ReadAhead;
use super::input::Input;
use super::oci::{DOCUMENTS, Descriptor, oci_manifest, write_document};
use super::seek::{self, Frame};
use super::{INDEX, SUMS, header, is_member_name, padding};

/// Most bytes of the documents, configurations and manifests of one archive: a thousand images have some ten millions.
const METADATA_LIMIT: u64 = 64 << 20;

/// Longest member that is read whole, in bytes.
const MEMBER_LIMIT: u64 = 64 << 20;

/// Most members: three for each layer, and two for each image.
const MEMBERS_LIMIT: usize = 1 << 19;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberName {
    /// A layer's tar-split.
    TarSplit(ChainId),
    /// A layer's differences.
    Differences(ChainId),
    /// A layer's tar, an image's configuration, or an OCI manifest.
    Blob(Sha256),
    /// The digests of all members.
    Sums,
}

impl MemberName {
    fn parse(name: &str) -> Option<Self> {
        if name == SUMS {
            return Some(Self::Sums);
        }
        if let Some(hex) = name.strip_prefix("blobs/sha256/") {
            return Sha256::from_hex(hex.as_bytes()).ok().map(Self::Blob);
        }
        let (chain, file) = name.strip_prefix("dockpack/layers/")?.split_once('/')?;
        let chain = ChainId::from_hex(chain.as_bytes()).ok()?;
        match file {
            "tar-split.json.gz" => Some(Self::TarSplit(chain)),
            "differences.jsonl" => Some(Self::Differences(chain)),
            _ => None,
        }
    }
}

/// Reads an archive from front to back.
#[derive(Debug)]
pub struct ArchiveReader {
    input: ReadAhead,
    /// What is behind the metadata, where it can be read in parts.
    rest: Option<Rest>,
    /// Bytes of the sections that are passed over.
    passed: u64,
    /// The archive's name, for messages.
    name: String,
    /// Digests of the members that were read, by name.
    sums: BTreeMap<String, Sha256>,
    open: Option<Open>,
    /// Bytes of metadata that may still be read.
    budget: u64,
}

/// An archive whose frames are known.
#[derive(Debug)]
struct Rest {
    file: File,
    frames: Vec<Frame>,
}

/// The member that is being read.
#[derive(Debug)]
struct Open {
    name: String,
    length: u64,
    left: u64,
    /// Whether its digest is taken.
    is_digested: bool,
}

impl ArchiveReader {
    /// Reads from the beginning of `stream`; `name` is what messages call it.
    ///
    /// # Errors
    /// It cannot be read, or is compressed in a way that is not read here.
    pub fn new(stream: Box<dyn Read + Send>, name: &str) -> Result<Self, Error> {
        Self::with(Input::new(stream), None, name)
    }

    /// Reads a file, and of one with known frames only what is asked for: see [`ArchiveReader::only`].
    ///
    /// # Errors
    /// It cannot be read, or is compressed in a way that is not read here.
    pub fn open(file: File, name: &str) -> Result<Self, Error> {
        let bad = |error: io::Error| Error::Archive { name: name.to_owned(), reason: error.to_string() };
        let is_file = file.metadata().map_err(bad)?.is_file();
        match is_file.then(|| seek::find(&file)).transpose().map_err(bad)?.flatten() {
            None => Self::new(Box::new(file), name),
            Some(frames) => {
                let metadata = file.try_clone().and_then(|file| Input::sections(file, &frames, |section| section == 0));
                Self::with(metadata, Some(Rest { file, frames }), name)
            }
        }
    }

    fn with(input: io::Result<Input>, rest: Option<Rest>, name: &str) -> Result<Self, Error> {
        let name = name.to_owned();
        match input {
            Ok(input) => Ok(Self {
                input: ReadAhead::new(input),
                rest,
                passed: 0,
                name,
                sums: BTreeMap::new(),
                open: None,
                budget: METADATA_LIMIT,
            }),
            Err(error) => Err(Error::Archive { name, reason: error.to_string() }),
        }
    }

    /// Passes over what these layers do not need, as far as the archive can be read in parts. Call between the
    /// metadata and the first member.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn only(&mut self, index: &Index, is_wanted: impl Fn(ChainId) -> bool) -> Result<(), Error> {
        let sections = index.sections_of(is_wanted);
        self.go_on(|section| sections.contains(&section))
    }

    /// Returns how many bytes of the archive, as it is in its file, are passed over.
    #[must_use]
    pub fn passed_over(&self) -> u64 {
        self.passed
    }

    /// Reads on behind the metadata, where that was read alone: these sections, and the last one.
    fn go_on(&mut self, is_wanted: impl Fn(u32) -> bool) -> Result<(), Error> {
        let Some(rest) = self.rest.take() else { return Ok(()) };
        let last = rest.frames.last().map_or(0, |frame| frame.section);
        let is_read = |section| section > 0 && (section == last || is_wanted(section));
        let passed = rest.frames.iter().filter(|frame| frame.section > 0 && !is_read(frame.section));
        self.passed = passed.map(|frame| frame.compressed).sum();
        let input = Input::sections(rest.file, &rest.frames, is_read).map_err(|error| self.read_failed(&error))?;
        self.input = ReadAhead::new(input);
        Ok(())
    }

    /// Makes an error of this archive.
    pub(crate) fn bad(&self, reason: impl ToString) -> Error {
        Error::Archive { name: self.name.clone(), reason: reason.to_string() }
    }

    /// Makes an error of a read that failed.
    pub(crate) fn read_failed(&self, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.bad("it is cut off"),
            _ => self.bad(error),
        }
    }

    /// Reads everything before the first layer.
    ///
    /// # Errors
    /// Not an archive of dockpack's, one of a newer format, or a damaged one.
    pub fn metadata(&mut self) -> Result<Metadata, Error> {
        let mut documents_read = Vec::new();
        for expected in DOCUMENTS.into_iter().chain([INDEX]) {
            match self.next_header()? {
                Some(found) if found == expected => {
                    if self.length() > INDEX_LIMIT {
                        return Err(self.bad(format!("{expected} is longer than {INDEX_LIMIT} bytes")));
                    }
                    documents_read.push(self.read_metadata()?);
                }
                found => return Err(self.not_ours(found.as_deref())),
            }
        }
        let index = self.parse_index(&documents_read[3])?;
        let mut blobs = BTreeMap::new();
        // Each image has a configuration and a manifest; two images may share neither.
        for _ in 0..index.images.len() * 2 {
            match self.next_member()? {
                Some(MemberName::Blob(digest)) => {
                    let bytes = self.read_metadata()?;
                    if Sha256::of(&bytes) != digest {
                        return Err(self.bad(format!("blob {digest} is not what its name says")));
                    }
                    blobs.insert(digest, bytes);
                }
                _ => return Err(self.bad("an image's configuration or manifest is missing")),
            }
        }
        let metadata = Metadata { index, blobs };
        self.prove_documents(&metadata, &documents_read)?;
        self.prove_images(&metadata)?;
        if self.rest.is_some() {
            self.close()?;
            self.input.prove_end().map_err(|error| self.read_failed(&error))?;
        }
        Ok(metadata)
    }

    /// Proves that each image is one that dockerd takes, with the layers that the index gives it, and that each
    /// reference leads to one image.
    fn prove_images(&self, metadata: &Metadata) -> Result<(), Error> {
        let (mut ids, mut references) = (BTreeSet::new(), BTreeSet::new());
        let circles = own_ancestors(&metadata.index);
        for image in &metadata.index.images {
            let bad = |reason: String| self.bad(format!("image {}: {reason}", image.id.short()));
            let config = metadata.blobs.get(&image.id.0).cloned().unwrap_or_default();
            let config = imagedb::parse(image.id, config).map_err(|error| bad(error.to_string()))?;
            if config.diff_ids != image.diff_ids {
                return Err(bad(format!("its configuration names other layers than {INDEX}")));
            }
            if image.created.is_some() && config.created != image.created {
                return Err(bad(format!("its configuration names another time than {INDEX}")));
            }
            if image.last_updated.as_ref().is_some_and(|time| !is_time(time.as_bytes())) {
                return Err(bad(format!("{INDEX} has a lastUpdated that is no time")));
            }
            if !ids.insert(image.id) {
                return Err(bad(format!("{INDEX} has it twice")));
            }
            if circles.contains(&image.id) {
                return Err(bad("it is built from itself".to_owned()));
            }
            for reference in &image.references {
                let shown = reference.escape_debug();
                if !Reference::is_key(reference) {
                    return Err(bad(format!("\"{shown}\" is no reference to an image")));
                }
                if reference.contains('@') {
                    return Err(bad(format!("no manifest proves {shown}")));
                }
                if !references.insert(reference) {
                    return Err(bad(format!("{shown} leads to another image too")));
                }
            }
        }
        Ok(())
    }

    fn not_ours(&self, found: Option<&str>) -> Error {
        match found {
            Some(found) => Error::ForeignArchive { name: self.name.clone(), found: found.escape_debug().to_string() },
            None => self.bad("it is empty"),
        }
    }

    fn parse_index(&self, bytes: &[u8]) -> Result<Index, Error> {
        /// What is looked at before it is known that the rest can be read.
        #[derive(Deserialize)]
        struct Beginning<'a> {
            #[serde(borrow)]
            driver: Option<&'a RawValue>,
            #[serde(borrow)]
            format: Option<&'a RawValue>,
        }
        let unread = |error: serde_json::Error| self.bad(format!("{INDEX}: {error}"));
        let beginning: Beginning<'_> = serde_json::from_slice(bytes).map_err(unread)?;
        let text = |value: &RawValue| serde_json::from_str::<String>(value.get()).ok();
        if beginning.driver.and_then(text).is_none_or(|driver| driver.is_empty()) {
            return Err(self.bad(format!("{INDEX}: it names no graph driver")));
        }
        let number = |value: &RawValue| serde_json::from_str::<u64>(value.get()).ok();
        let found = beginning.format.and_then(number).ok_or_else(|| self.bad(format!("{INDEX}: it says no format")))?;
        if found > FORMAT {
            return Err(Error::NewerArchive { name: self.name.clone(), found, known: FORMAT });
        }
        serde_json::from_slice(bytes).map_err(unread)
    }

    /// Proves that all documents tell of the same images. They were made from the index, so they are made again.
    fn prove_documents(&self, metadata: &Metadata, documents_read: &[Vec<u8>]) -> Result<(), Error> {
        let index = &metadata.index;
        let tar_sizes: BTreeMap<_, _> = index.layers.iter().map(|layer| (layer.diff, layer.tar_size)).collect();
        let mut manifests = Vec::new();
        for image in &index.images {
            let config = metadata
                .blobs
                .get(&image.id.0)
                .ok_or_else(|| self.bad(format!("the configuration of image {} is missing", image.id.short())))?;
            let layers: Option<Vec<_>> =
                image.diff_ids.iter().map(|diff| Some((*diff, *tar_sizes.get(diff)?))).collect();
            let layers = layers.ok_or_else(|| self.bad(format!("image {} lacks a layer", image.id.short())))?;
            let config = Descriptor { digest: image.id.0, size: config.len() as u64 };
            let manifest = oci_manifest(&config, &layers);
            let digest = Sha256::of(&manifest);
            if !metadata.blobs.contains_key(&digest) {
                return Err(self.bad(format!("the manifest of image {} is missing", image.id.short())));
            }
            manifests.push(Descriptor { digest, size: manifest.len() as u64 });
        }
        let own = Sha256::of(&documents_read[3]);
        for (name, found) in DOCUMENTS.into_iter().zip(documents_read) {
            let mut rest = Same { rest: found };
            let same = write_document(name, index, own, &manifests, &mut rest);
            if same.is_err() || !rest.rest.is_empty() {
                return Err(self.bad(format!("{name} and {INDEX} tell of different images")));
            }
        }
        Ok(())
    }

    /// Goes on to the next member; its content is then read from `self`. `None` at the end, when every byte has
    /// been proved.
    ///
    /// # Errors
    /// The archive is damaged, cut, or has a member that has no place in it.
    pub fn next_part(&mut self) -> Result<Option<MemberName>, Error> {
        self.go_on(|_| true)?;
        self.next_member()
    }

    fn next_member(&mut self) -> Result<Option<MemberName>, Error> {
        let Some(name) = self.next_header()? else { return Ok(None) };
        match MemberName::parse(&name) {
            Some(MemberName::Sums) => {
                self.prove_sums()?;
                Ok(None)
            }
            Some(member) => Ok(Some(member)),
            None => Err(self.bad(format!("{} has no place in it", name.escape_debug()))),
        }
    }

    /// Takes no digest of the current member, of which nothing has been read and nothing will be: where the archive is
    /// read in parts, its frames are proved all the same, and that is faster. Does nothing where it is read whole.
    pub fn pass_over(&mut self) {
        if let Some(open) = self.open.as_mut().filter(|open| self.passed > 0 && open.left == open.length) {
            open.is_digested = false;
            self.input.cancel_digest();
        }
    }

    /// Returns the length in bytes of the member that is being read.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.length)
    }

    /// Reads on in the current member, as [`Read::read`] does, without copying; nothing at its end.
    ///
    /// # Errors
    /// The archive is damaged or cut.
    pub fn next_piece(&mut self) -> io::Result<Piece> {
        self.piece(usize::MAX)
    }

    fn piece(&mut self, most: usize) -> io::Result<Piece> {
        let Some(open) = &mut self.open else { return Ok(Piece::default()) };
        let want = usize::try_from(open.left).unwrap_or(usize::MAX).min(most);
        if want == 0 {
            return Ok(Piece::default());
        }
        let piece = self.input.next_piece(want)?;
        match piece.as_ref().len() as u64 {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                open.left -= length;
                Ok(piece)
            }
        }
    }

    /// Reads the whole content of a member before the first layer.
    fn read_metadata(&mut self) -> Result<Vec<u8>, Error> {
        match self.budget.checked_sub(self.length()) {
            Some(left) => self.budget = left,
            None => return Err(self.bad(format!("more than {METADATA_LIMIT} bytes of metadata"))),
        }
        self.read_whole()
    }

    /// Reads the whole content of the current member.
    ///
    /// # Errors
    /// It is cut, or too long for a metadata member.
    pub fn read_whole(&mut self) -> Result<Vec<u8>, Error> {
        if self.length() > MEMBER_LIMIT {
            let name = self.open.as_ref().map(|open| open.name.clone()).unwrap_or_default();
            return Err(self.bad(format!("{name} is longer than {MEMBER_LIMIT} bytes")));
        }
        let mut bytes = Vec::new();
        match self.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(self.read_failed(&error)),
        }
    }

    /// Reads what is left of the current member and returns the digest of its content.
    ///
    /// # Errors
    /// The archive is damaged or cut.
    pub fn finish_member(&mut self) -> Result<Sha256, Error> {
        let name = self.open.as_ref().map(|open| open.name.clone()).unwrap_or_default();
        self.close()?;
        self.sums.get(&name).copied().ok_or_else(|| self.bad("no member is being read"))
    }

    /// Ends the current member and reads the next header. `None` at the end of the tar.
    fn next_header(&mut self) -> Result<Option<String>, Error> {
        self.close()?;
        let mut block = [0; 512];
        self.input.read_exact(&mut block).map_err(|error| self.read_failed(&error))?;
        if block == [0; 512] {
            return Err(self.bad("it ends before its digests"));
        }
        let found = tar::Header::from_byte_slice(&block);
        let (path, length) = match (found.path(), found.entry_size()) {
            (Ok(path), Ok(length)) if found.as_gnu().is_some() || found.as_ustar().is_some() => {
                (path.to_string_lossy().into_owned(), length)
            }
            _ => return Err(self.bad("it is not a tar, plain or in gzip or zstd")),
        };
        if !is_member_name(&path) {
            if self.sums.is_empty() {
                return Err(self.not_ours(Some(&path)));
            }
            return Err(self.bad(format!("a member has the name {}", path.escape_debug())));
        }
        if header(&path, length).as_bytes() != &block {
            // Something another tool wrote, or a flipped byte.
            return Err(match self.sums.is_empty() {
                true => self.not_ours(Some(&path)),
                false => self.bad(format!("the header of {} is changed", path.escape_debug())),
            });
        }
        if self.sums.contains_key(&path) {
            return Err(self.bad(format!("{path} is in it twice")));
        }
        if self.sums.len() == MEMBERS_LIMIT {
            return Err(self.bad(format!("more than {MEMBERS_LIMIT} members")));
        }
        self.open = Some(Open { name: path.clone(), length, left: length, is_digested: true });
        self.input.begin_digest();
        Ok(Some(path))
    }

    /// Reads what is left of the current member and notes its digest.
    fn close(&mut self) -> Result<(), Error> {
        let mut rest = vec![0; 64 << 10];
        while self.open.as_ref().is_some_and(|open| open.left > 0) {
            self.read(&mut rest).map_err(|error| self.read_failed(&error))?;
        }
        let Some(open) = self.open.take() else { return Ok(()) };
        if open.is_digested {
            let digest = self.input.end_digest().map_err(|error| self.read_failed(&error))?;
            self.sums.insert(open.name.clone(), digest);
        }
        let mut zeros = [0; 512];
        let zeros = &mut zeros[..padding(open.length)];
        self.input.read_exact(zeros).map_err(|error| self.read_failed(&error))?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(self.bad(format!("the padding of {} is changed", open.name)));
        }
        Ok(())
    }

    /// Proves the digests of all members that were read, and the end of the archive.
    fn prove_sums(&mut self) -> Result<(), Error> {
        let mut expected: BTreeMap<String, Sha256> = std::mem::take(&mut self.sums);
        let text = self.read_whole()?;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let parsed = std::str::from_utf8(line).ok().and_then(|line| {
                let (hex, name) = line.strip_suffix('\n')?.split_once("  ")?;
                Some((Sha256::from_hex(hex.as_bytes()).ok()?, name))
            });
            match parsed.map(|(digest, name)| (expected.remove(name).map(|found| found == digest), name)) {
                Some((Some(true), _)) => {}
                Some((Some(false), name)) => return Err(self.bad(format!("{name} is changed: wrong SHA-256"))),
                // It was passed over.
                Some((None, _)) if self.passed > 0 => {}
                _ => return Err(self.bad(format!("{SUMS} is changed"))),
            }
        }
        if let Some(name) = expected.keys().next() {
            return Err(self.bad(format!("{SUMS} does not have {name}")));
        }
        self.close()?;
        let mut end = [0; 1024];
        self.input.read_exact(&mut end).map_err(|error| self.read_failed(&error))?;
        if end != [0; 1024] {
            return Err(self.bad("there is more behind its digests"));
        }
        self.input.prove_end().map_err(|error| self.read_failed(&error))
    }
}

/// Takes only the bytes that are expected.
struct Same<'a> {
    rest: &'a [u8],
}

impl io::Write for Same<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest = self.rest.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lists the images from which parents lead back to them. Each image is gone through twice at most.
fn own_ancestors(index: &Index) -> BTreeSet<ImageId> {
    let parents: BTreeMap<ImageId, ImageId> =
        index.images.iter().filter_map(|image| Some((image.id, image.parent?))).collect();
    let (mut seen, mut circles) = (BTreeMap::new(), BTreeSet::new());
    for (number, start) in parents.keys().enumerate() {
        let mut at = Some(*start);
        while let Some(image) = at.filter(|image| !seen.contains_key(image)) {
            seen.insert(image, number);
            at = parents.get(&image).copied();
        }
        // Back on this walk: from here it goes round.
        while let Some(image) = at.filter(|image| seen.get(image) == Some(&number) && circles.insert(*image)) {
            at = parents.get(&image).copied();
        }
    }
    circles
}

impl Read for ArchiveReader {
    /// Reads content of the current member.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.piece(buffer.len())?.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ImageRecord;

    fn image(number: u32, parent: Option<u32>) -> ImageRecord {
        let id = |number: u32| ImageId(Sha256::of(&number.to_be_bytes()));
        let (references, diff_ids) = (Vec::new(), Vec::new());
        let (created, last_updated) = (None, None);
        ImageRecord { id: id(number), references, diff_ids, created, parent: parent.map(id), last_updated }
    }

    /// Were each image's line gone along from its beginning, this would take days.
    #[test]
    fn circles_are_found_in_long_lines() {
        const COUNT: u32 = 300_000;
        let mut images: Vec<ImageRecord> = (0..COUNT).map(|number| image(number, number.checked_sub(1))).collect();
        let index = |images: &[ImageRecord]| Index { images: images.to_vec(), ..Index::default() };
        assert!(own_ancestors(&index(&images)).is_empty());
        images[0] = image(0, Some(9));
        let wanted: BTreeSet<ImageId> = images[..10].iter().map(|image| image.id).collect();
        assert_eq!(own_ancestors(&index(&images)), wanted);
    }
}
