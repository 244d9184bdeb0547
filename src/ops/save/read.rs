//! Reads what layers are made of, ahead of whoever takes it.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read as _, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender};

use crate::count::count;
use crate::error::{Error, FsError, Result};
use crate::fsx::{Dir, Inode};
use crate::id::ChainId;
use crate::layer::differences;
use crate::model::LayerRecord;
use crate::progress::{Event, Observer};
use crate::tarsplit::{AssembleError, Sink, assemble};
use crate::transfer::Part;

use super::directory::{Beyond, Directories};
use super::measure::Parts;
use super::source::StoreSource;

/// Bytes of a piece.
const PIECE: usize = 1 << 20;
/// Pieces that wait to be taken at most.
pub(super) const AHEAD: usize = 8;

/// What comes next.
pub(super) enum Piece<'a> {
    /// A part of a layer begins, which has so many bytes.
    Part { part: Part, layer: &'a LayerRecord, length: u64 },
    /// Bytes of it.
    Bytes(Vec<u8>),
    /// It is complete.
    End,
}

/// Why reading ended.
pub(super) enum Ended {
    /// Nobody wants more.
    Unwanted,
    /// It failed.
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Where pieces go.
pub(super) struct Pieces<'a> {
    out: SyncSender<Result<Piece<'a>>>,
    /// Buffers that were taken come back.
    spare: Receiver<Vec<u8>>,
    /// The next piece, of which so many bytes are filled.
    bytes: Vec<u8>,
    filled: usize,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(out: SyncSender<Result<Piece<'a>>>, spare: Receiver<Vec<u8>>) -> Self {
        Self { out, spare, bytes: vec![0; PIECE], filled: 0 }
    }

    fn send(&self, piece: Piece<'a>) -> Result<(), Ended> {
        self.out.send(Ok(piece)).map_err(|_| Ended::Unwanted)
    }

    fn send_bytes(&mut self) -> io::Result<()> {
        let mut next = self.spare.try_recv().unwrap_or_default();
        next.resize(PIECE, 0);
        let mut bytes = std::mem::replace(&mut self.bytes, next);
        bytes.truncate(std::mem::take(&mut self.filled));
        self.send(Piece::Bytes(bytes)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn begin(&self, part: Part, layer: &'a LayerRecord, length: u64) -> Result<(), Ended> {
        self.send(Piece::Part { part, layer, length })
    }

    fn end(&mut self) -> Result<(), Ended> {
        if self.filled > 0 {
            self.send_bytes().map_err(|_| Ended::Unwanted)?;
        }
        self.send(Piece::End)
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room()?;
        let taken = bytes.len().min(room.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.take(taken)?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Pieces<'_> {
    fn room(&mut self) -> io::Result<&mut [u8]> {
        Ok(&mut self.bytes[self.filled..])
    }

    fn take(&mut self, length: usize) -> io::Result<()> {
        self.filled += length;
        if self.filled == PIECE { self.send_bytes() } else { Ok(()) }
    }
}

/// Reads the layers of a store.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) source: &'a StoreSource,
    pub(super) wanted: &'a BTreeSet<ChainId>,
    pub(super) observer: &'a dyn Observer,
    /// See [`Directories`].
    pub(super) stamped: &'a OnceLock<HashSet<Inode>>,
}

impl<'a> Reader<'a> {
    fn layers(self) -> impl Iterator<Item = &'a LayerRecord> {
        let layers = &self.source.metadata.index.layers;
        layers.iter().filter(move |layer| self.wanted.contains(&layer.chain))
    }

    /// Compares the directories of all layers with their tars: far ahead, as nothing is compressed of that.
    pub(super) fn compare(self, lists: &SyncSender<Result<Vec<u8>>>) {
        for layer in self.layers() {
            if lists.send(self.differences(layer)).is_err() {
                return;
            }
        }
    }

    /// Reads all layers; `lists` are their differences.
    pub(super) fn read(self, lists: &Receiver<Result<Vec<u8>>>, mut pieces: Pieces<'a>) {
        let mut written = BTreeSet::new();
        for layer in self.layers() {
            let is_new = written.insert(layer.diff);
            match self.layer(layer, is_new, lists, &mut pieces) {
                Ok(()) => {}
                Err(Ended::Unwanted) => return,
                Err(Ended::Failed(error)) => {
                    // Nobody may want to know.
                    let _ = pieces.out.send(Err(error));
                    return;
                }
            }
        }
    }

    fn layer(
        self,
        layer: &'a LayerRecord,
        is_new: bool,
        lists: &Receiver<Result<Vec<u8>>>,
        pieces: &mut Pieces<'a>,
    ) -> Result<(), Ended> {
        let source = self.open(layer)?;
        self.tar_split(&source, layer, pieces)?;
        let list = lists.recv().map_err(|_| Ended::Unwanted)??;
        pieces.begin(Part::Differences(layer.chain), layer, list.len() as u64)?;
        pieces.write_all(&list).map_err(|_| Ended::Unwanted)?;
        pieces.end()?;
        match is_new {
            true => self.tar(&source, layer, pieces),
            false => Ok(()),
        }
    }

    fn open(self, layer: &LayerRecord) -> Result<Parts> {
        Parts::open(&self.source.store, layer).map_err(|error| self.source.users.error(layer.chain, error))
    }

    fn tar_split(self, source: &Parts, layer: &'a LayerRecord, pieces: &mut Pieces<'a>) -> Result<(), Ended> {
        let bad = |error: FsError| Ended::Failed(self.source.users.error(layer.chain, error));
        let unreadable = |error| bad(FsError::new("read", "tar-split.json.gz", error));
        let file = source.tar_split().map_err(bad)?;
        let length = file.metadata().map_err(unreadable)?.len();
        pieces.begin(Part::TarSplit(layer.chain), layer, length)?;
        match io::copy(&mut file.take(length), pieces) {
            Ok(_) => pieces.end(),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Ended::Unwanted),
            Err(error) => Err(unreadable(error)),
        }
    }

    fn differences(self, layer: &LayerRecord) -> Result<Vec<u8>> {
        let source = self.open(layer)?;
        let parent = match layer.parent {
            None => None,
            Some(chain) => Some(self.directory(chain)?),
        };
        let directories = Directories { store: &self.source.store, driver: self.source.driver, stamped: self.stamped };
        let find = |chain| self.record(chain).map(|layer| (layer.parent, layer.cache_id.clone()));
        let beyond = directories
            .look(&source, layer, parent.as_ref(), find)
            .map_err(|reason| self.source.users.error(layer.chain, reason))?;
        self.warn(layer, &beyond);
        Ok(differences::write_list(&beyond.list))
    }

    /// Tells what of a layer's directory is left out.
    fn warn(self, layer: &LayerRecord, beyond: &Beyond) {
        let warn = |text: String| {
            self.observer.on(Event::Warning(&format!("layer {}: {text}", layer.chain.short())));
        };
        if let Some(error) = &beyond.unknown {
            // The tar itself is proved below; only the directory around it will not be quite the same.
            warn(format!("{error}; its attributes are saved from its tar"));
        }
        if let Some(first) = beyond.foreign.first() {
            let first = first.escape_ascii();
            warn(match beyond.foreign.len() {
                1 => format!("{first} in its directory is no part of it and is left out"),
                several => format!("{several} files in its directory are no part of it and are left out ({first}, …)"),
            });
        }
        if let Some(first) = beyond.unproved.first() {
            let times = count(beyond.unproved.len(), "time", "times");
            let (path, reason) = (first.path.escape_ascii(), &first.reason);
            warn(format!(
                "its directory differs from its tar in what nothing proves, {times}, which is left out ({path}: {reason})"
            ));
        }
        if beyond.has_no_times {
            warn("too many times differ from its tar: it is saved with those of its tar".to_owned());
        }
    }

    fn record(self, chain: ChainId) -> Option<&'a LayerRecord> {
        self.source.metadata.index.layers.iter().find(|layer| layer.chain == chain)
    }

    /// Opens the driver directory of a layer.
    fn directory(self, chain: ChainId) -> Result<Dir> {
        Ok(self.open(self.record(chain).expect("because an index has the parents of its layers"))?.layer)
    }

    fn tar(self, source: &Parts, layer: &'a LayerRecord, pieces: &mut Pieces<'a>) -> Result<(), Ended> {
        let bad = |error: String| Ended::Failed(self.source.users.error(layer.chain, error));
        let tree = self.source.driver.read.tree(&source.layer).map_err(|error| bad(error.to_string()))?;
        let entries = source.entries().map_err(|error| bad(error.to_string()))?;
        pieces.begin(Part::Tar(layer.diff), layer, layer.tar_size)?;
        match assemble(entries, &tree, pieces) {
            Ok(_) => pieces.end(),
            Err(AssembleError::Sink(_)) => Err(Ended::Unwanted),
            Err(error) => Err(bad(error.to_string())),
        }
    }
}
