//! Builds layers in the staging directory, out of what streams by.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, BufReader, Read, Write};

use rustix::io::Errno;

use crate::archive::{ArchiveReader, MemberName};
use crate::driver::{GraphDriver, NewLayer};
use crate::error::{Error, FsError, Result};
use crate::fsx::Dir;
use crate::id::{CacheId, ChainId, DiffId};
use crate::layer::{
    ApplyError, Content, MemberKind, Members, RestoreError, Shared, TarError, TarStream, apply, clean, differences,
};
use crate::progress::{Event, Observer, check_stop};
use crate::store::Snapshot;
use crate::tarsplit::{Entries, Prover, Segments};

use super::plan::{LoadPlan, PlannedLayer};

/// Names within a staged layer.
pub(super) const DRIVER_DIR: &str = "driver";
pub(super) const RECORD_DIR: &str = "record";
const TAR_SPLIT: &str = "tar-split.json.gz";
const DIFFERENCES: &str = "differences.jsonl";

/// Builds the planned layers of one load.
pub(super) struct Stage<'a> {
    plan: &'a LoadPlan,
    driver: &'static dyn GraphDriver,
    /// `<root>/.dockpack/load/layers`.
    layers: Dir,
    /// `<root>/.dockpack/load/spool`: tars that more than one layer is built of.
    spool: Dir,
    /// The driver's home in the target, where there is one.
    home: Option<Dir>,
    /// Driver directories of layers that the target has.
    present: BTreeMap<ChainId, CacheId>,
    built: BTreeSet<ChainId>,
    /// Files that layers of the target and new ones share.
    shared: Shared,
    observer: &'a dyn Observer,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        plan: &'a LoadPlan,
        driver: &'static dyn GraphDriver,
        staging: &Dir,
        home: Option<Dir>,
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
            driver,
            layers: staging.make_dir("layers", 0o700)?,
            spool: staging.make_dir("spool", 0o700)?,
            home,
            present,
            built: BTreeSet::new(),
            shared: Shared::default(),
            observer,
        })
    }

    /// Reads the archive to its end and builds every planned layer.
    pub(super) fn run(mut self, archive: &mut ArchiveReader) -> Result<()> {
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
                    copy_to(archive, &self.layers.dir(chain.hex())?, DIFFERENCES)?;
                    self.build_spooled(chain, archive)?;
                }
                MemberName::Blob(diff) => self.blob(DiffId(diff), archive)?,
                _ => {}
            }
        }
        match self.plan.layers.iter().find(|layer| !self.built.contains(&layer.record.chain)) {
            Some(layer) => Err(archive.bad(format!("layer {} is missing", layer.record.chain.short()))),
            None => Ok(()),
        }
    }

    fn planned(&self, chain: ChainId) -> Option<&'a PlannedLayer> {
        self.plan.layers.iter().find(|layer| layer.record.chain == chain && !self.built.contains(&chain))
    }

    /// A layer's tar comes by: it is unpacked at once, or kept where several layers are made of it.
    fn blob(&mut self, diff: DiffId, archive: &mut ArchiveReader) -> Result<()> {
        let waiting = |layer: &&PlannedLayer| layer.record.diff == diff && !self.built.contains(&layer.record.chain);
        let layers: Vec<&'a PlannedLayer> = self.plan.layers.iter().filter(waiting).collect();
        if let Some(layer) = layers.iter().find(|layer| layer.record.tar_size != archive.length()) {
            let (found, said) = (archive.length(), layer.record.tar_size);
            return Err(archive.bad(format!("the tar named {diff} has {found} bytes, its index says {said}")));
        }
        match layers[..] {
            [] => return Ok(()),
            [layer] if self.is_ready(layer.record.chain)? => {
                self.build(layer, &mut *archive).map_err(|error| error.of(layer, archive))?;
            }
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
                self.build(layer, stream).map_err(|error| error.of(layer, archive))
            }
            _ => Ok(()),
        }
    }

    /// Builds a layer out of the stream of its tar, and proves it against its tar-split on the way.
    fn build(&mut self, layer: &'a PlannedLayer, stream: impl Read) -> Result<(), BuildError> {
        let record = &layer.record;
        self.observer.on(Event::Object(&record.chain.short()));
        let staged = self.layers.dir(record.chain.hex())?;
        let (entry, dir) = (staged.dir(RECORD_DIR)?, staged.make_dir(DRIVER_DIR, 0o710)?);
        let parent = record.parent.map(|chain| self.directory(chain)).transpose()?;
        let lower = record.facts.lower_id.as_ref().map(|id| self.by_cache_id(id)).transpose()?;
        let new = NewLayer { facts: &record.facts, parent: parent.as_ref(), lower: lower.as_ref() };
        let begun = self.driver.begin(&dir, &new)?;
        if record.parent.is_some_and(|parent| self.present.contains_key(&parent)) {
            self.shared.extend(begun.linked);
        }

        let prover = Prover::new(Entries::new(entry.file(TAR_SPLIT)?));
        let proved = Proved { stream, prover, observer: self.observer };
        let mut members = Members::new(proved, Content::Present);
        apply(&mut members, &begun.tree, begun.whiteouts, &self.shared)?;
        let mut proved = members.into_stream();
        io::copy(&mut proved, &mut io::sink()).map_err(BuildError::Stream)?;
        proved.prover.finish().map_err(|error| BuildError::Stream(io::Error::other(error)))?;
        prove_names(Entries::new(entry.file(TAR_SPLIT)?))?;

        if layer.restores {
            let list = BufReader::new(staged.file(DIFFERENCES)?);
            differences::restore(&dir, list, &self.shared)?;
        }
        write_record(&entry, layer)?;
        if let Some(parent) = record.parent.filter(|parent| self.built.contains(parent)) {
            self.driver.mark_parent(&self.directory(parent)?)?;
        }
        self.built.insert(record.chain);
        Ok(())
    }

    /// Opens the driver directory of a layer that is built or present.
    fn directory(&self, chain: ChainId) -> Result<Dir, FsError> {
        match (&self.home, self.present.get(&chain)) {
            (Some(home), Some(id)) => home.dir(id.as_str()),
            _ => self.layers.dir(format!("{}/{DRIVER_DIR}", chain.hex())),
        }
    }

    fn by_cache_id(&self, id: &CacheId) -> Result<Dir, FsError> {
        match self.plan.layers.iter().find(|layer| layer.record.cache_id == *id) {
            Some(layer) => self.directory(layer.record.chain),
            None => match &self.home {
                Some(home) => home.dir(id.as_str()),
                None => Err(FsError::new("open", id.as_str(), io::ErrorKind::NotFound)),
            },
        }
    }
}

/// Copies the member that is being read to a new file.
fn copy_to(archive: &mut ArchiveReader, dir: &Dir, name: &str) -> Result<()> {
    let mut file = dir.make_file(name, 0o644)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let got = archive.read(&mut buffer).map_err(|error| archive.read_failed(&error))?;
        if got == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..got]).map_err(|error| FsError::new("write", dir.shown(name), error))?;
    }
}

/// Proves that tar-split calls each member by the name that it has in the tar: dockerd takes the content of files from
/// where tar-split says it is.
fn prove_names(entries: Entries<std::fs::File>) -> Result<(), BuildError> {
    let mut members = Members::new(Segments::with_names(entries), Content::Elided);
    // An entry comes behind the segment that its member's header is in: names are behind paths.
    let mut paths = VecDeque::new();
    loop {
        let member = members.next_member().map_err(ApplyError::from)?;
        if member.is_none() {
            io::copy(members.stream(), &mut io::sink()).map_err(BuildError::Stream)?;
        }
        let at_end = member.is_none();
        paths.extend(member.map(|member| (member.kind != MemberKind::GlobalHeader).then_some(member.path)));
        while let Some(name) = members.stream().next_name() {
            let is_right = match paths.pop_front() {
                Some(Some(path)) => clean(&name).is_ok_and(|name| name == path),
                Some(None) => true,
                None => false,
            };
            if !is_right {
                return Err(BuildError::Name(name));
            }
        }
        if at_end {
            return if paths.is_empty() { Ok(()) } else { Err(BuildError::Name(Vec::new())) };
        }
    }
}

/// Writes the files of a layerdb entry.
fn write_record(entry: &Dir, layer: &PlannedLayer) -> Result<(), FsError> {
    let record = &layer.record;
    entry.new_file("diff", record.diff.to_string().as_bytes(), 0o644)?;
    entry.new_file("size", record.size.to_string().as_bytes(), 0o644)?;
    entry.new_file("cache-id", record.cache_id.as_str().as_bytes(), 0o644)?;
    match record.parent {
        Some(parent) => entry.new_file("parent", parent.to_string().as_bytes(), 0o644),
        None => Ok(()),
    }
}

/// A stream that is compared with tar-split as it is read.
struct Proved<'a, R> {
    stream: R,
    prover: Prover<std::fs::File>,
    observer: &'a dyn Observer,
}

impl<R: Read> TarStream for Proved<'_, R> {}

impl<R: Read> Read for Proved<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check_stop(self.observer)?;
        let got = self.stream.read(buffer)?;
        self.prover.update(&buffer[..got]).map_err(io::Error::other)?;
        self.observer.on(Event::Advance(got as u64));
        Ok(got)
    }
}

/// Why a layer could not be built.
#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Stream(io::Error),
    #[error("tar-split has the name \"{}\" where the tar has another", .0.escape_ascii())]
    Name(Vec<u8>),
}

impl BuildError {
    /// Tells what the archive has to do with it.
    fn of(self, layer: &PlannedLayer, archive: &ArchiveReader) -> Error {
        match self {
            Self::Fs(error) => error.into(),
            Self::Apply(ApplyError::Fs(error)) | Self::Restore(RestoreError::Fs(error)) if is_of_host(&error) => {
                error.into()
            }
            Self::Stream(error) | Self::Apply(ApplyError::Tar(TarError::Read(error))) => archive.read_failed(&error),
            error => archive.bad(format!("layer {}: {error}", layer.record.chain.short())),
        }
    }
}

/// Tells whether a file system call failed for want of something that this host has not, rather than for what an
/// archive asks for.
fn is_of_host(error: &FsError) -> bool {
    use io::ErrorKind;
    let kinds = [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::FileTooLarge,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::OutOfMemory,
        ErrorKind::PermissionDenied,
        ErrorKind::TooManyLinks,
        ErrorKind::Unsupported,
    ];
    let errnos = [Errno::IO, Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    kinds.contains(&error.source.kind()) || error.source.raw_os_error().is_some_and(|code| errnos.contains(&code))
}
