//! Gives the layers of an archive that another tool wrote.

use std::collections::BTreeSet;
use std::io::{self, Read};

use crate::error::{Error, Result};
use crate::id::{ChainId, DiffId, Sha256};
use crate::model::Index;
use crate::progress::Observer;
use crate::transfer::{self, Blame, Part, Sink, Taken};

use super::ForeignArchive;
use super::content::Content;

impl ForeignArchive {
    /// Gives each wanted layer of the index to `sink`, proved against its diff ID and the digest of its blob.
    ///
    /// # Errors
    /// It lacks one, or one is damaged; or the sink refuses one.
    pub(crate) fn read(
        &mut self,
        index: &Index,
        wanted: &BTreeSet<ChainId>,
        sink: &mut dyn Sink,
        observer: &dyn Observer,
    ) -> Result<()> {
        let layers: Vec<_> = index.layers.iter().filter(|layer| wanted.contains(&layer.chain)).collect();
        let diffs: BTreeSet<DiffId> = layers.iter().map(|layer| layer.diff).collect();
        self.require(&diffs)?;
        if let Some(dir) = sink.spool() {
            self.spool(&diffs, dir, observer)?;
        }
        for layer in layers {
            while sink.part(Part::Alone(layer.chain), &mut self.open_layer(layer.diff, observer)?)? == Taken::Again {}
        }
        Ok(())
    }

    fn open_layer<'a>(&'a self, diff: DiffId, observer: &'a dyn Observer) -> Result<Layer<'a>> {
        let (layer, content) = self.layer(diff, observer)?;
        let (member, digest, length) = (&layer.member, layer.digest, layer.length.unwrap_or_default());
        Ok(Layer { archive: self, diff, member, digest, length, content: Some(content) })
    }
}

/// The tar of a layer.
struct Layer<'a> {
    archive: &'a ForeignArchive,
    diff: DiffId,
    /// The member that it lies in.
    member: &'a str,
    /// Digest of that, where a document says it.
    digest: Option<Sha256>,
    length: u64,
    /// `None` behind its end.
    content: Option<Content<'a>>,
}

impl Read for Layer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.as_mut().map_or(Ok(0), |content| content.read(buffer))
    }
}

impl Blame for Layer<'_> {
    fn bad(&self, reason: String) -> Error {
        self.archive.bad(reason)
    }

    fn read_failed(&self, error: &io::Error) -> Error {
        self.archive.read_failed(error)
    }
}

impl transfer::Content for Layer<'_> {
    fn length(&self) -> u64 {
        self.length
    }

    fn finish(&mut self) -> Result<()> {
        let Some(content) = self.content.take() else { return Ok(()) };
        let found = content.finish().map_err(|error| self.archive.read_failed(&error))?;
        if found.content != self.diff.0 {
            return Err(self.archive.bad(format!("layer {} has the digest {}", self.diff, found.content)));
        }
        match self.digest {
            Some(digest) if digest != found.raw => {
                Err(self.archive.bad(format!("{} has the digest {}", self.member.escape_debug(), found.raw)))
            }
            _ => Ok(()),
        }
    }
}
