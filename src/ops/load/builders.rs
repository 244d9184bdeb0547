//! Builds layers on threads of their own, while the archive is read on.
//!
//! Reading is faster than creating files. Of drivers whose layers do not look at one another's trees, the end of one layer
//! is thus built while the beginning of the next one is.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle, available_parallelism};

use crate::layer::Shared;
use crate::progress::Observer;
use crate::transfer::Piece;

use super::build::{BuildError, Tar, Unfilled};
use super::plan::PlannedLayer;

/// Most layers that are built at once: the archive is not read faster than these can take it.
const BUILDERS: usize = 4;
/// Pieces that wait for all of them at most. A piece has 1 MiB, or less.
const WAITING: usize = 64;

/// What waits to be unpacked.
pub(super) type Pieces = SyncSender<io::Result<Piece>>;

/// Layers that are being built, in the order in which they were begun.
pub(super) struct Builders<'scope, 'env> {
    threads: &'scope Scope<'scope, 'env>,
    observer: &'scope dyn Observer,
    most: usize,
    running: VecDeque<(&'scope PlannedLayer, ScopedJoinHandle<'scope, Result<(), BuildError>>)>,
}

/// A layer that was built.
pub(super) struct Built<'scope> {
    pub(super) layer: &'scope PlannedLayer,
    pub(super) result: Result<(), BuildError>,
}

impl<'scope, 'env> Builders<'scope, 'env> {
    pub(super) fn new(threads: &'scope Scope<'scope, 'env>, observer: &'scope dyn Observer) -> Self {
        let most = available_parallelism().map_or(1, |count| count.get().min(BUILDERS));
        Self { threads, observer, most, running: VecDeque::new() }
    }

    /// Where there are as many as there may be, waits for the oldest.
    pub(super) fn make_room(&mut self) -> Option<Built<'scope>> {
        if self.running.len() < self.most { None } else { self.oldest() }
    }

    /// Builds a layer out of the pieces that are sent; the end is where they end.
    pub(super) fn build(&mut self, layer: &'scope PlannedLayer, begun: Unfilled) -> Pieces {
        let (sender, pieces) = sync_channel(WAITING / self.most);
        let (observer, stream) = (self.observer, Stream { pieces, current: Piece::default() });
        let fill = move || begun.fill(&layer.record, &mut Shared::default(), Tar::WithTarSplit(stream), observer);
        self.running.push_back((layer, self.threads.spawn(fill)));
        sender
    }

    /// Waits for the oldest; `None` when there is none.
    pub(super) fn oldest(&mut self) -> Option<Built<'scope>> {
        let (layer, thread) = self.running.pop_front()?;
        let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Some(Built { layer, result })
    }
}

/// The pieces as one stream.
struct Stream {
    pieces: Receiver<io::Result<Piece>>,
    /// What is left of the piece that was read last.
    current: Piece,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.as_ref().is_empty() {
            // Nobody sends more: that is the end.
            let Ok(piece) = self.pieces.recv() else { return Ok(0) };
            self.current = piece?;
        }
        self.current.read(buffer)
    }
}
