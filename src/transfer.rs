//! Layers on their way from a place that has them to one that takes them. `save`, `load`, `copy` and `repair --from` are
//! all this: a [`Source`] gives, a [`Sink`] takes, and neither knows what the other is.
//!
//! The source decides the order, as most can be read only from front to back. What it gives of a layer is its tar-split and
//! the list of differences, then the tar of its diff ID, which it gives once for all layers that have it; or, where it has
//! no tar-split, the tar alone.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fsx::Dir;
use crate::id::{ChainId, DiffId, Sha256};
use crate::model::Metadata;
use crate::progress::Observer;

/// Bytes of a piece that is read of a stream which has none of its own.
const PIECE: usize = 256 << 10;

/// A place that images come from: an archive, or a store.
pub trait Source: Blame {
    /// Returns what it has of images and layers, parents before children.
    fn metadata(&self) -> &Arc<Metadata>;

    /// Gives each part of the wanted layers to `sink`.
    ///
    /// # Errors
    /// It is damaged, cannot be read, or lacks a layer; the sink refuses one; or the observer wants it to stop.
    fn read(&mut self, wanted: &BTreeSet<ChainId>, sink: &mut dyn Sink, observer: &dyn Observer) -> Result<()>;
}

/// Whoever makes what is given is told what is wrong with it.
pub trait Blame {
    /// Makes an error of the place that says why what it gives is wrong.
    fn bad(&self, reason: String) -> Error;

    /// Makes an error of a read of it that failed.
    fn read_failed(&self, error: &io::Error) -> Error;
}

/// One of the streams that a layer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `tar-split.json.gz`: the first part of each layer.
    TarSplit(ChainId),
    /// What the layer's directory says beyond the tar, one JSON document a line.
    Differences(ChainId),
    /// The tar of all layers of this diff ID; those parts of the first of them have been given.
    Tar(DiffId),
    /// The tar of one layer of which there is no other part.
    Alone(ChainId),
}

/// What takes layers.
pub trait Sink {
    /// Takes a part. What it leaves unread the source passes over.
    ///
    /// # Errors
    /// The part is not what it should be, or there is no room for it.
    fn part(&mut self, part: Part, content: &mut dyn Content) -> Result<Taken>;

    /// Tells whether it takes the digest of tars itself, and returns it: no one else need then.
    fn digests(&self) -> bool {
        false
    }

    /// Returns where the source may keep what it cannot read twice, if it may at all.
    fn spool(&self) -> Option<&Dir> {
        None
    }
}

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Nothing more is wanted of it.
    Done,
    /// The tar of one layer is to be given once more, from its beginning.
    Again,
    /// It was read to its end, and this is its digest.
    Digested(Sha256),
}

/// The content of one part.
pub trait Content: Read + Blame {
    /// Returns its length in bytes.
    fn length(&self) -> u64;

    /// Reads on, as [`Read::read`] does, without copying where that can be; nothing at the end.
    ///
    /// # Errors
    /// The source is damaged or cut.
    fn next_piece(&mut self) -> io::Result<Piece> {
        let mut bytes = vec![0; PIECE];
        let got = self.read(&mut bytes)?;
        bytes.truncate(got);
        Ok(Piece::from(bytes))
    }

    /// Says that nothing of it is read, and that nobody needs its digest.
    fn pass_over(&mut self) {}

    /// Reads what is left, and proves a tar against the digest that it has by its name.
    ///
    /// # Errors
    /// The source is damaged or cut, or the digest is another.
    fn finish(&mut self) -> Result<()>;
}

/// Bytes of a stream, as they were read.
#[derive(Debug, Clone, Default)]
pub struct Piece {
    chunk: Arc<Vec<u8>>,
    part: Range<usize>,
}

impl Piece {
    /// Makes a piece of these bytes of a chunk.
    pub(crate) fn of(chunk: &Arc<Vec<u8>>, part: Range<usize>) -> Self {
        Self { chunk: Arc::clone(chunk), part }
    }
}

impl Read for Piece {
    /// Takes its first bytes off.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.part.len().min(buffer.len());
        buffer[..got].copy_from_slice(&self.as_ref()[..got]);
        self.part.start += got;
        Ok(got)
    }
}

impl From<Vec<u8>> for Piece {
    fn from(bytes: Vec<u8>) -> Self {
        Self { part: 0..bytes.len(), chunk: Arc::new(bytes) }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.chunk[self.part.clone()]
    }
}
