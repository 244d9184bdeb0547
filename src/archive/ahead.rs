//! Decompresses on a thread of its own, a few chunks ahead of whoever reads, and digests on another, a few chunks behind.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use sha2::Digest as _;

use super::input::Input;
use crate::id::Sha256;
use crate::transfer::Piece;

/// Bytes of a chunk.
const CHUNK: usize = 1 << 20;
/// Chunks that wait to be read at most, and as many to be digested.
const AHEAD: usize = 4;
/// Bytes that are digested at once, where it takes longer to wake another thread.
const FEW: usize = 64 << 10;

/// A stream that is read ahead, in memory of a few chunks.
pub(super) struct ReadAhead {
    chunks: Receiver<io::Result<Vec<u8>>>,
    /// Chunks that were read go back to be filled again.
    empty: Sender<Arc<Vec<u8>>>,
    current: Arc<Vec<u8>>,
    position: usize,
    /// Where in the current chunk that begins which is to be digested.
    digested: usize,
    digester: Digester,
    worker: Option<JoinHandle<Input>>,
}

impl std::fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadAhead")
    }
}

impl ReadAhead {
    pub(super) fn new(input: Input) -> Self {
        let (full, chunks) = sync_channel(AHEAD);
        let (empty, emptied) = channel();
        let worker = std::thread::spawn(move || work(input, &full, &emptied));
        Self {
            chunks,
            empty,
            current: Arc::default(),
            position: 0,
            digested: 0,
            digester: Digester::new(),
            worker: Some(worker),
        }
    }

    /// Digests what is read from here on.
    pub(super) fn begin_digest(&mut self) {
        self.digested = self.position;
        self.digester.is_digesting = true;
    }

    /// Digests no more; nothing has been read since [`ReadAhead::begin_digest`].
    pub(super) fn cancel_digest(&mut self) {
        self.digester.is_digesting = false;
    }

    /// Returns the digest of what was read since [`ReadAhead::begin_digest`].
    ///
    /// # Errors
    /// The thread that digests is gone.
    pub(super) fn end_digest(&mut self) -> io::Result<Sha256> {
        self.digester.end(&self.current, self.digested..self.position)
    }

    /// Proves that the stream ends here; see [`Input::prove_end`].
    ///
    /// # Errors
    /// It goes on, was cut, or was changed.
    pub(super) fn prove_end(&mut self) -> io::Result<()> {
        if self.read(&mut [0])? > 0 {
            return Err(io::Error::other("there is more behind its end"));
        }
        let ended = self.worker.take().and_then(|worker| worker.join().ok());
        ended.ok_or_else(|| io::Error::other("it was read to its end before"))?.prove_end()
    }

    /// Reads up to so many bytes, without copying them; none at the end.
    ///
    /// # Errors
    /// The stream is damaged, or cannot be read.
    pub(super) fn next_piece(&mut self, most: usize) -> io::Result<Piece> {
        if self.position == self.current.len() && !self.next_chunk()? {
            return Ok(Piece::default());
        }
        let part = self.position..self.current.len().min(self.position.saturating_add(most));
        self.position = part.end;
        Ok(Piece::of(&self.current, part))
    }

    /// Takes the next chunk, which is not empty; `false` at the end.
    fn next_chunk(&mut self) -> io::Result<bool> {
        // The end of the thread is the end of the stream.
        let Ok(chunk) = self.chunks.recv() else { return Ok(false) };
        self.digester.add(&self.current, self.digested..self.current.len())?;
        let read = std::mem::replace(&mut self.current, Arc::new(chunk?));
        (self.position, self.digested) = (0, 0);
        // Nobody takes it back when the thread is at its end.
        let _ = self.empty.send(read);
        Ok(true)
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next_piece(buffer.len())?.read(buffer)
    }
}

/// Reads until the end, an error, or until nobody wants more.
fn work(mut input: Input, full: &SyncSender<io::Result<Vec<u8>>>, emptied: &Receiver<Arc<Vec<u8>>>) -> Input {
    loop {
        // One that somebody still looks at is left alone.
        let mut chunk = emptied.try_recv().ok().and_then(Arc::into_inner).unwrap_or_default();
        chunk.clear();
        chunk.reserve_exact(CHUNK);
        match (&mut input).take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => return input,
            Ok(_) if full.send(Ok(chunk)).is_ok() => {}
            Ok(_) => return input,
            Err(error) => {
                // What was read before the error is not worth more than the error.
                let _ = full.send(Err(error));
                return input;
            }
        }
    }
}

/// Part of a chunk, or the end of what is digested.
type Step = Option<(Arc<Vec<u8>>, Range<usize>)>;

/// Digests parts of chunks on a thread of its own.
struct Digester {
    steps: SyncSender<Step>,
    digests: Receiver<Sha256>,
    is_digesting: bool,
    /// Whether the thread has something of what is digested now.
    has_begun: bool,
}

impl Digester {
    fn new() -> Self {
        let (steps, waiting) = sync_channel(AHEAD);
        let (done, digests) = channel();
        std::thread::spawn(move || digest(&waiting, &done));
        Self { steps, digests, is_digesting: false, has_begun: false }
    }

    fn add(&mut self, chunk: &Arc<Vec<u8>>, part: Range<usize>) -> io::Result<()> {
        if !self.is_digesting || part.is_empty() {
            return Ok(());
        }
        self.has_begun = true;
        self.steps.send(Some((Arc::clone(chunk), part))).map_err(io::Error::other)
    }

    fn end(&mut self, chunk: &Arc<Vec<u8>>, part: Range<usize>) -> io::Result<Sha256> {
        if !self.has_begun && part.len() <= FEW {
            self.is_digesting = false;
            return Ok(Sha256::of(&chunk[part]));
        }
        self.add(chunk, part)?;
        (self.is_digesting, self.has_begun) = (false, false);
        self.steps.send(None).map_err(io::Error::other)?;
        self.digests.recv().map_err(io::Error::other)
    }
}

/// Digests until nobody gives more.
fn digest(waiting: &Receiver<Step>, done: &Sender<Sha256>) {
    let mut state = sha2::Sha256::new();
    for step in waiting {
        match step {
            Some((chunk, part)) => state.update(&chunk[part]),
            // Nobody takes it when the reader is gone; then no more comes.
            None => drop(done.send(Sha256::finish(std::mem::take(&mut state)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts of any length, read in any pieces, have the digests that they have by themselves.
    #[test]
    fn digests_are_those_of_the_parts() {
        let data: Vec<u8> = (0..5_000_000_u32).flat_map(|i| (i / 3).to_le_bytes()).collect();
        let input = Input::new(Box::new(io::Cursor::new(data.clone()))).expect("an input");
        let mut ahead = ReadAhead::new(input);
        let mut at = 0;
        for length in [0, 1, FEW, FEW + 1, CHUNK - 1, CHUNK, 3 * CHUNK + 5, 9 * CHUNK, 17] {
            let mut skipped = [0; 7];
            ahead.read_exact(&mut skipped).expect("reads");
            at += skipped.len();
            ahead.begin_digest();
            let read = io::copy(&mut (&mut ahead).take(length as u64), &mut io::sink()).expect("reads");
            assert_eq!(read, length as u64);
            assert_eq!(ahead.end_digest().expect("a digest"), Sha256::of(&data[at..at + length]), "{length}");
            at += length;
        }
    }
}
