//! The headers of a layer's tar, without the content of its files.

use std::io::{self, Read};

use super::entries::{Entries, Entry};

/// The segments of a tar-split in a row: a tar without the content of its files.
pub struct Segments<R> {
    entries: Entries<R>,
    segment: io::Cursor<Vec<u8>>,
}

impl<R> std::fmt::Debug for Segments<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segments({:?})", self.entries)
    }
}

impl<R: Read> Segments<R> {
    /// Reads the segments of these entries.
    pub fn new(entries: Entries<R>) -> Self {
        Self { entries, segment: io::Cursor::default() }
    }
}

impl<R: Read> Read for Segments<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = self.segment.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            match self.entries.next() {
                None => return Ok(0),
                Some(Ok(Entry::Segment(bytes))) => self.segment = io::Cursor::new(bytes),
                Some(Ok(Entry::File { .. })) => {}
                Some(Err(error)) => return Err(io::Error::other(error)),
            }
        }
    }
}
