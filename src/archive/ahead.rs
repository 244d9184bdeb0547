//! Decompresses on a thread of its own, a few chunks ahead of whoever reads.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use super::input::Input;

/// Bytes of a chunk.
const CHUNK: usize = 1 << 20;
/// Chunks that wait to be read at most.
const AHEAD: usize = 4;

/// A stream that is read ahead, in memory of a few chunks.
pub(super) struct ReadAhead {
    chunks: Receiver<io::Result<Vec<u8>>>,
    /// Chunks that were read go back to be filled again.
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
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
        Self { chunks, empty, current: Vec::new(), position: 0, worker: Some(worker) }
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

    /// Takes the next chunk; `false` at the end.
    fn next_chunk(&mut self) -> io::Result<bool> {
        // The end of the thread is the end of the stream.
        let Ok(chunk) = self.chunks.recv() else { return Ok(false) };
        let read = std::mem::replace(&mut self.current, chunk?);
        self.position = 0;
        // Nobody takes it back when the thread is at its end.
        let _ = self.empty.send(read);
        Ok(true)
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() {
            if !self.next_chunk()? {
                return Ok(0);
            }
        }
        let got = buffer.len().min(self.current.len() - self.position);
        buffer[..got].copy_from_slice(&self.current[self.position..self.position + got]);
        self.position += got;
        Ok(got)
    }
}

/// Reads until the end, an error, or until nobody wants more.
fn work(mut input: Input, full: &SyncSender<io::Result<Vec<u8>>>, emptied: &Receiver<Vec<u8>>) -> Input {
    loop {
        let mut chunk = emptied.try_recv().unwrap_or_default();
        chunk.clear();
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
