//! Tells archives of dockpack's own from those that other tools wrote.

use std::io::{self, Cursor, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::fsx::{self, Dir, File};
use crate::model::INDEX_LIMIT;

use super::input::{Input, is_skippable, peek};
use super::{ArchiveReader, INDEX, LayoutReader, header, padding};

/// Members that an archive of dockpack's own begins with.
const FIRST: [&str; 4] = ["oci-layout", "index.json", "manifest.json", INDEX];
/// Most bytes that are looked at: those of a pipe are kept.
const LIMIT: u64 = 4 * INDEX_LIMIT;

/// What an archive lies on.
pub enum Medium {
    /// A file, which can be read more than once.
    File(File),
    /// A pipe.
    Stream(Box<dyn Read + Send>),
    /// A directory that it lies unpacked in.
    Dir(Dir),
}

impl std::fmt::Debug for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File(_) => "Medium::File",
            Self::Stream(_) => "Medium::Stream",
            Self::Dir(_) => "Medium::Dir",
        })
    }
}

/// An archive of which it is known who wrote it.
#[derive(Debug)]
pub struct Archive {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// Who wrote an archive.
#[derive(Debug)]
pub(super) enum Kind {
    /// dockpack.
    Own(Box<ArchiveReader>),
    /// Another tool: [`super::foreign::ForeignArchive`] reads it.
    Foreign(Medium),
}

impl Archive {
    /// Opens the archive at `path`, a file or a directory, which messages call `name`.
    ///
    /// # Errors
    /// There is nothing, or it cannot be read.
    pub fn at(path: &Path, name: &str) -> Result<Self> {
        let kind = match fsx::is_dir(path) {
            true => Kind::of_dir(path, name)?,
            false => Kind::of_file(path, name)?,
        };
        Ok(Self { name: name.to_owned(), kind })
    }

    /// Opens the archive that comes from a pipe.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_stream(stream: Box<dyn Read + Send>, name: &str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), kind: Kind::of_stream(stream, name)? })
    }

    /// Tells whether its documents cannot be known before all of it has come by: it is a pipe that another tool writes.
    #[must_use]
    pub fn is_read_once(&self) -> bool {
        matches!(self.kind, Kind::Foreign(Medium::Stream(_)))
    }

    /// Returns the reader of an archive that dockpack wrote; of another what it lies on.
    ///
    /// # Errors
    /// Another tool wrote it.
    pub fn into_own(self) -> std::result::Result<Box<ArchiveReader>, Medium> {
        match self.kind {
            Kind::Own(reader) => Ok(reader),
            Kind::Foreign(medium) => Err(medium),
        }
    }
}

impl Kind {
    fn of_dir(path: &Path, name: &str) -> Result<Self> {
        let dir = Dir::open_root(path)?;
        match dir.find("dockpack")? {
            Some(_) => Ok(Self::Own(Box::new(ArchiveReader::new(Box::new(LayoutReader::open(path)?), name)?))),
            None => Ok(Self::Foreign(Medium::Dir(dir))),
        }
    }

    fn of_file(path: &Path, name: &str) -> Result<Self> {
        let mut file = fsx::open_input(path)?;
        if !file.metadata().is_ok_and(|found| found.is_file()) {
            return Self::of_stream(Box::new(file), name);
        }
        let failed = |error: io::Error| Error::Archive { name: name.to_owned(), reason: error.to_string() };
        let is_own = is_own(Box::new(file.try_clone().map_err(failed)?));
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        match is_own {
            true => Ok(Self::Own(Box::new(ArchiveReader::open(file, name)?))),
            false => Ok(Self::Foreign(Medium::File(file))),
        }
    }

    fn of_stream(stream: Box<dyn Read + Send>, name: &str) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Seen { stream, bytes: Vec::new() }));
        let is_own = is_own(Box::new(Noted(Arc::clone(&seen))));
        let seen = Arc::into_inner(seen).ok_or_else(|| io::Error::other("it is read by somebody else"));
        let seen = seen.map_err(|error| Error::Archive { name: name.to_owned(), reason: error.to_string() })?;
        let Seen { stream, bytes } = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let stream = Box::new(Cursor::new(bytes).chain(stream));
        match is_own {
            true => Ok(Self::Own(Box::new(ArchiveReader::new(stream, name)?))),
            false => Ok(Self::Foreign(Medium::Stream(stream))),
        }
    }
}

/// Tells whether an archive is dockpack's own, or cannot be told from a damaged one of its own.
fn is_own(stream: Box<dyn Read + Send>) -> bool {
    let begins = || -> io::Result<bool> {
        let (start, stream) = peek(stream)?;
        // No archive of dockpack's begins so, not even a damaged one: with such a frame, as those of pzstd do, in a compression
        // that it does not write, or with what is neither compressed nor the first member.
        let is_other = is_skippable(&start)
            || matches!(start[..], [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', 0, ..])
            || !matches!(start[..], [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x1f, 0x8b, ..] | [b'o', b'c', b'i', ..]);
        Ok(!is_other && begins_as_own(&mut Input::new(stream)?)?)
    };
    begins().unwrap_or(true)
}

fn begins_as_own(input: &mut Input) -> io::Result<bool> {
    let mut looked_at = 0;
    for expected in FIRST {
        let mut block = [0; 512];
        input.read_exact(&mut block)?;
        let found = tar::Header::from_byte_slice(&block);
        if !is_header(found) {
            // No tar at all, or a damaged one.
            return Ok(true);
        }
        let length = found.entry_size()?;
        looked_at += length;
        if header(expected, length).as_bytes() != &block || looked_at > LIMIT {
            return Ok(false);
        }
        if expected != INDEX {
            io::copy(&mut input.take(length + padding(length) as u64), &mut io::sink())?;
        }
    }
    Ok(true)
}

fn is_header(block: &tar::Header) -> bool {
    let sum = |range: std::ops::Range<usize>| block.as_bytes()[range].iter().map(|byte| u32::from(*byte)).sum::<u32>();
    block.cksum().is_ok_and(|wanted| wanted == sum(0..148) + 8 * 32 + sum(156..512))
}

/// A stream with the bytes that were read of it.
struct Seen {
    stream: Box<dyn Read + Send>,
    bytes: Vec<u8>,
}

/// Reads a stream and notes what was read.
struct Noted(Arc<Mutex<Seen>>);

impl Read for Noted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Seen { stream, bytes } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let got = stream.read(buffer)?;
        bytes.extend_from_slice(&buffer[..got]);
        Ok(got)
    }
}
