//! Archives as a place that images come from, whoever wrote them.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::{ChainId, DiffId};
use crate::model::Metadata;
use crate::progress::Observer;
use crate::transfer::{Blame, Content, Part, Piece, Sink, Source};

use super::foreign::{Choice, ForeignArchive, Spool};
use super::recognise::Kind;
use super::{Archive, ArchiveReader, MemberName};

/// An archive whose documents have been read.
#[derive(Debug)]
pub struct OpenArchive {
    reader: Reader,
    metadata: Arc<Metadata>,
}

#[derive(Debug)]
enum Reader {
    Own(Box<ArchiveReader>),
    Foreign(Box<ForeignArchive>),
}

impl Archive {
    /// Reads the documents of the archive. Of one that another tool wrote `choice` tells which images are meant, and `spool`
    /// what is kept of it where it cannot be read twice.
    ///
    /// # Errors
    /// It is damaged or hostile, of a newer format, or has no image that is meant.
    pub fn open(self, choice: &Choice, spool: Spool<'_>, observer: &dyn Observer) -> Result<OpenArchive> {
        match self.kind {
            Kind::Own(reader) => OpenArchive::of_own(reader),
            Kind::Foreign(medium) => {
                let mut archive = Box::new(ForeignArchive::open(medium, &self.name, spool, observer)?);
                let metadata = Arc::new(archive.metadata(choice, observer)?);
                Ok(OpenArchive { reader: Reader::Foreign(archive), metadata })
            }
        }
    }
}

impl OpenArchive {
    /// Reads the documents of an archive that dockpack wrote, of which nothing has been read.
    ///
    /// # Errors
    /// It is damaged or hostile, or of a newer format.
    pub fn of_own(mut reader: Box<ArchiveReader>) -> Result<Self> {
        let metadata = Arc::new(reader.metadata()?);
        Ok(Self { reader: Reader::Own(reader), metadata })
    }

    /// Proves that it has the layers of these diff IDs, as far as its documents tell.
    ///
    /// # Errors
    /// It lacks one.
    pub fn require<'d>(&self, diffs: impl IntoIterator<Item = &'d DiffId>) -> Result<()> {
        match &self.reader {
            Reader::Own(_) => Ok(()),
            Reader::Foreign(archive) => archive.require(diffs),
        }
    }

    /// Tells whether it has the layer of this diff ID, as far as its documents tell.
    #[must_use]
    pub fn has_layer(&self, diff: &DiffId) -> bool {
        match &self.reader {
            Reader::Own(_) => true,
            Reader::Foreign(archive) => archive.has_layer(diff),
        }
    }

    /// Returns how many bytes of the archive, as it is in its file, are passed over.
    #[must_use]
    pub fn passed_over(&self) -> u64 {
        match &self.reader {
            Reader::Own(reader) => reader.passed_over(),
            Reader::Foreign(_) => 0,
        }
    }

    /// Reads what is left of a pipe, and proves it: whoever writes it is not to fail because nothing more of it is needed.
    ///
    /// # Errors
    /// It is damaged or cut.
    pub fn drain(&mut self) -> Result<()> {
        if let Reader::Own(reader) = &mut self.reader {
            while reader.next_part()?.is_some() {}
        }
        Ok(())
    }
}

impl Source for OpenArchive {
    fn metadata(&self) -> &Arc<Metadata> {
        &self.metadata
    }

    fn read(&mut self, wanted: &BTreeSet<ChainId>, sink: &mut dyn Sink, observer: &dyn Observer) -> Result<()> {
        match &mut self.reader {
            Reader::Own(reader) => {
                reader.only(&self.metadata.index, |chain| wanted.contains(&chain))?;
                read(reader, wanted, sink, observer)
            }
            Reader::Foreign(archive) => archive.read(&self.metadata.index, wanted, sink, observer),
        }
    }
}

impl Blame for OpenArchive {
    fn bad(&self, reason: String) -> Error {
        match &self.reader {
            Reader::Own(reader) => reader.bad(reason),
            Reader::Foreign(archive) => archive.bad(reason),
        }
    }

    fn read_failed(&self, error: &io::Error) -> Error {
        match &self.reader {
            Reader::Own(reader) => reader.read_failed(error),
            Reader::Foreign(archive) => archive.read_failed(error),
        }
    }
}

/// Gives the parts of an archive of dockpack's own as they come.
fn read(
    reader: &mut ArchiveReader,
    wanted: &BTreeSet<ChainId>,
    sink: &mut dyn Sink,
    observer: &dyn Observer,
) -> Result<()> {
    while let Some(member) = reader.next_part()? {
        if observer.wants_stop() {
            return Err(Error::Stopped);
        }
        let (part, diff) = match member {
            MemberName::TarSplit(chain) if wanted.contains(&chain) => (Part::TarSplit(chain), None),
            MemberName::Differences(chain) if wanted.contains(&chain) => (Part::Differences(chain), None),
            MemberName::Blob(digest) => (Part::Tar(DiffId(digest)), Some(DiffId(digest))),
            _ => continue,
        };
        sink.part(part, &mut Member { reader, diff })?;
    }
    Ok(())
}

/// A member of an archive of dockpack's own.
struct Member<'r> {
    reader: &'r mut ArchiveReader,
    /// Of a tar.
    diff: Option<DiffId>,
}

impl Read for Member<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl Blame for Member<'_> {
    fn bad(&self, reason: String) -> Error {
        self.reader.bad(reason)
    }

    fn read_failed(&self, error: &io::Error) -> Error {
        self.reader.read_failed(error)
    }
}

impl Content for Member<'_> {
    fn length(&self) -> u64 {
        self.reader.length()
    }

    fn next_piece(&mut self) -> io::Result<Piece> {
        self.reader.next_piece()
    }

    fn pass_over(&mut self) {
        self.reader.pass_over();
    }

    fn finish(&mut self) -> Result<()> {
        let found = self.reader.finish_member()?;
        match self.diff {
            Some(diff) if diff.0 != found => {
                Err(self.reader.bad(format!("the tar named {diff} has the digest {found}")))
            }
            _ => Ok(()),
        }
    }
}
