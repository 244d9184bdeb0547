//! The headers of a layer's tar, without the content of its files.

use std::io::{self, Read};

use super::entries::Entry;
use crate::error::ParseError;

/// The segments of a tar-split in a row: a tar without the content of its files. `I` gives the entries.
pub struct Segments<I> {
    entries: I,
    segment: io::Cursor<Vec<u8>>,
}

impl<I> std::fmt::Debug for Segments<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segments(byte {} of one)", self.segment.position())
    }
}

impl<I: Iterator<Item = Result<Entry, ParseError>>> Segments<I> {
    /// Reads the segments of these entries.
    pub fn new(entries: I) -> Self {
        Self { entries, segment: io::Cursor::default() }
    }
}

impl<I: Iterator<Item = Result<Entry, ParseError>>> Segments<I> {
    /// Tells whether a segment has the bytes that come next in the tar, and not a file.
    pub(crate) fn goes_on(&mut self) -> io::Result<bool> {
        loop {
            if self.segment.position() < self.segment.get_ref().len() as u64 {
                return Ok(true);
            }
            match self.entries.next() {
                Some(Ok(Entry::Segment(bytes))) => self.segment = io::Cursor::new(bytes),
                None | Some(Ok(Entry::File { .. })) => return Ok(false),
                Some(Err(error)) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl<I: Iterator<Item = Result<Entry, ParseError>>> Read for Segments<I> {
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
