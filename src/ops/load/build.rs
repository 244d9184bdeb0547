//! Builds one layer out of the stream of its tar, in a directory of its own.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;

use rustix::io::Errno;

use crate::driver::{Begun, Build, Driver, NewLayer};
use crate::error::{Error, FsError};
use crate::fsx::Dir;
use crate::id::ChainId;
use crate::layer::{
    Applied, ApplyError, Content, Members, RestoreError, Shared, TarError, TarStream, apply, clean, differences,
};
use crate::model::LayerRecord;
use crate::progress::{Event, Observer, check_stop};
use crate::store::places::TAR_SPLIT;
use crate::tarsplit::{Assembler, Beside, Entries, Kept, LayerTree, Prover, Splitter};
use crate::transfer::Blame;

use super::plan::LoadPlan;

/// Names within a staged layer: what will be `<driver>/<cache-id>`, and what will be its entry in layerdb.
pub(in crate::ops) const DRIVER_DIR: &str = "driver";
pub(in crate::ops) const RECORD_DIR: &str = "record";
/// Names of what must be in a staged layer before it is built: in [`RECORD_DIR`], and beside it.
pub(in crate::ops) const DIFFERENCES: &str = "differences.jsonl";

/// Where one layer is built, and what of but its tar.
pub(in crate::ops) struct Site<'a> {
    pub(in crate::ops) driver: &'static Driver,
    pub(in crate::ops) build: &'static dyn Build,
    /// The staged layer.
    pub(in crate::ops) staged: &'a Dir,
    /// The driver's facts of the layer, and the directories it stands on.
    pub(in crate::ops) new: NewLayer<'a>,
    /// [`DIFFERENCES`] applies: the driver directory will be of the form it had.
    pub(in crate::ops) restores: bool,
    /// The layer below is one that the store has.
    pub(in crate::ops) on_present: bool,
}

impl Site<'_> {
    /// Begins the layer's directory; this looks at the layer below. Files that layers of the store have too are added to `shared`.
    ///
    /// # Errors
    /// The file system refuses.
    pub(super) fn begin(&self, shared: &mut Shared) -> Result<Unfilled, FsError> {
        let (staged, entry) = (self.staged.clone(), self.staged.dir(RECORD_DIR)?);
        let begun = self.build.begin(self.staged, DRIVER_DIR, &self.new)?;
        if self.on_present {
            shared.extend(begun.linked.iter().copied());
        }
        Ok(Unfilled { driver: self.driver, staged, entry, begun, restores: self.restores })
    }
}

/// The tar of a layer.
pub(in crate::ops) enum Tar<R> {
    /// Its tar-split came with it: [`TAR_SPLIT`] is there.
    WithTarSplit(R),
    /// It came without one, which is made, and with it the size of the layer as dockerd would note it. The content of
    /// some members stays in tar-split.
    Alone(R, Kept),
}

/// Builds a layer out of the stream of its tar, and proves it against its tar-split on the way where that came with it.
/// The digest of the stream is the caller's to prove. `shared` are files that layers of the store have too; those that the
/// new layer begins with are added.
///
/// # Errors
/// The tar is damaged, hostile or another one, or the file system refuses. The directory is then half made.
pub(in crate::ops) fn build(
    site: &Site<'_>,
    record: &LayerRecord,
    shared: &mut Shared,
    tar: Tar<impl Read>,
    observer: &dyn Observer,
) -> Result<(), BuildError> {
    site.begin(shared)?.fill(record, shared, tar, observer)
}

/// A layer that is begun, and has nothing of its tar yet. What it takes to fill it is all here: other layers are not
/// looked at.
pub(super) struct Unfilled {
    driver: &'static Driver,
    staged: Dir,
    entry: Dir,
    begun: Begun,
    restores: bool,
}

impl Unfilled {
    /// See [`build`].
    pub(super) fn fill(
        self,
        record: &LayerRecord,
        shared: &mut Shared,
        tar: Tar<impl Read>,
        observer: &dyn Observer,
    ) -> Result<(), BuildError> {
        let Self { driver, staged, entry, begun, restores } = self;
        let layer = begun.layer.clone();
        let size = match tar {
            Tar::WithTarSplit(stream) => {
                let prover = Prover::with_names(Entries::new(entry.file(TAR_SPLIT)?), is_name);
                let (proved, _) = unpack(Proved { stream, prover, observer }, begun, shared)?;
                proved.prover.finish().map_err(|error| BuildError::Stream(io::Error::other(error)))?;
                record.size
            }
            Tar::Alone(stream, kept) => {
                let (tree, file) = (begun.tree.clone(), entry.make_file(TAR_SPLIT, 0o644)?);
                let sink = Sink { file: BufWriter::new(file), path: entry.shown(TAR_SPLIT) };
                let (splitter, applied) = unpack(Splitter::keeping(stream, sink, kept), begun, shared)?;
                let (_, mut sink) = splitter.finish().map_err(BuildError::Stream)?;
                sink.flush().map_err(BuildError::Stream)?;
                if applied.displaces {
                    expect_all_content(&LayerTree(tree.clone()), Entries::new(entry.file(TAR_SPLIT)?))?;
                }
                driver.read.layer_size(&tree, applied.claimed)?
            }
        };
        if restores {
            let list = BufReader::new(staged.file(DIFFERENCES)?);
            differences::restore(&layer, list, shared)?;
        }
        Ok(write_record(&entry, record, size)?)
    }
}

/// Looks whether the content of all members is in the tree, or in tar-split.
fn expect_all_content(tree: &LayerTree, entries: Entries<crate::fsx::File>) -> Result<(), BuildError> {
    let mut displaced = Kept::default();
    let mut note = |name: &[u8], _| {
        displaced.add(name);
        Ok(())
    };
    let mut sink = Beside::new(io::sink());
    let mut assembler = Assembler::new(tree, &mut sink, &mut note);
    for entry in entries {
        let added = entry.map_err(io::Error::other).map(|entry| assembler.add(&entry).map_err(io::Error::other));
        added.flatten().map_err(BuildError::Stream)?;
    }
    if displaced.is_empty() { Ok(()) } else { Err(BuildError::Displaced(displaced)) }
}

/// Unpacks a tar and reads it to its last byte. Returns the stream, and what came of it.
fn unpack<S: TarStream>(stream: S, begun: Begun, shared: &mut Shared) -> Result<(S, Applied), BuildError> {
    let mut members = Members::new(stream, Content::Present);
    let applied = apply(&mut members, &begun.tree, begun.whiteouts, shared)?;
    let mut stream = members.into_stream();
    io::copy(&mut stream, &mut io::sink()).map_err(BuildError::Stream)?;
    Ok((stream, applied))
}

/// Tells whether tar-split has the name of a member, as far as unpacking tells names apart.
fn is_name(found: &[u8], expected: &[u8]) -> bool {
    found == expected || matches!((clean(found), clean(expected)), (Ok(found), Ok(expected)) if found == expected)
}

/// Writes the files of a layerdb entry.
fn write_record(entry: &Dir, record: &LayerRecord, size: u64) -> Result<(), FsError> {
    entry.new_file("diff", record.diff.to_string().as_bytes(), 0o644)?;
    entry.new_file("size", size.to_string().as_bytes(), 0o644)?;
    entry.new_file("cache-id", record.cache_id.as_str().as_bytes(), 0o644)?;
    match record.parent {
        Some(parent) => entry.new_file("parent", parent.to_string().as_bytes(), 0o644),
        None => Ok(()),
    }
}

/// A stream that is compared with tar-split as it is read.
struct Proved<'a, R> {
    stream: R,
    prover: Prover<crate::fsx::File>,
    observer: &'a dyn Observer,
}

impl<R: Read> TarStream for Proved<'_, R> {
    fn begin_member(&mut self, name: &[u8], size: u64) -> Result<(), TarError> {
        self.prover.expect_name(name, size);
        Ok(())
    }
}

impl<R: Read> Read for Proved<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check_stop(self.observer)?;
        let got = self.stream.read(buffer)?;
        self.prover.update(&buffer[..got]).map_err(io::Error::other)?;
        self.observer.on(Event::Advance(got as u64));
        Ok(got)
    }
}

/// Where a tar-split is written: what fails there is none of the archive's faults.
struct Sink {
    file: BufWriter<crate::fsx::File>,
    path: PathBuf,
}

impl Sink {
    fn fail(&self, error: io::Error) -> io::Error {
        io::Error::other(FsError::new("write", &self.path, error))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| self.fail(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(|error| self.fail(error))
    }
}

/// Why a layer could not be built.
#[derive(Debug, thiserror::Error)]
pub(in crate::ops) enum BuildError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Stream(io::Error),
    /// The tree does not keep the content of these members: another of the layer took their place.
    #[error("what the tar has of some files is not on the disk, as other members took their place")]
    Displaced(Kept),
}

impl BuildError {
    /// Tells what the place that the layer comes from has to do with it.
    pub(super) fn of(self, layer: ChainId, plan: &LoadPlan, blame: &(impl Blame + ?Sized)) -> Error {
        match self {
            Self::Stream(error) | Self::Apply(ApplyError::Tar(TarError::Read(error)))
                if error.get_ref().is_some_and(|inner| inner.is::<FsError>()) =>
            {
                let inner = error.into_inner().and_then(|inner| inner.downcast().ok());
                Error::Fs(*inner.expect("because that is what it holds"))
            }
            Self::Fs(error) => error.into(),
            Self::Apply(ApplyError::Fs(error)) | Self::Restore(RestoreError::Fs(error)) if is_of_host(&error) => {
                error.into()
            }
            Self::Apply(error @ ApplyError::LinkBelow { .. }) => Error::Unholdable {
                driver: plan.driver.clone(),
                chain: layer.to_string(),
                reason: error.to_string(),
                used_by: plan.used_by(layer),
            },
            Self::Stream(error) | Self::Apply(ApplyError::Tar(TarError::Read(error))) => blame.read_failed(&error),
            error => blame.bad(format!("layer {}: {error}", layer.short())),
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
