//! The headers of a layer's tar, without the content of its files.

use std::collections::VecDeque;
use std::io::{self, Read};

use super::entries::{Entries, Entry};

/// The segments of a tar-split in a row: a tar without the content of its files.
pub struct Segments<R> {
    entries: Entries<R>,
    segment: io::Cursor<Vec<u8>>,
    /// Names of the file entries that were passed, where they are wanted.
    names: Option<VecDeque<Vec<u8>>>,
}

impl<R> std::fmt::Debug for Segments<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segments({:?})", self.entries)
    }
}

impl<R: Read> Segments<R> {
    /// Reads the segments of these entries.
    pub fn new(entries: Entries<R>) -> Self {
        Self { entries, segment: io::Cursor::default(), names: None }
    }

    /// As [`Segments::new`], and keeps the names of the file entries for [`Segments::next_name`].
    pub fn with_names(entries: Entries<R>) -> Self {
        Self { names: Some(VecDeque::new()), ..Self::new(entries) }
    }

    /// Returns the name of the next file entry among those that were passed.
    pub fn next_name(&mut self) -> Option<Vec<u8>> {
        self.names.as_mut()?.pop_front()
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
                Some(Ok(Entry::File { name, .. })) => {
                    self.names.iter_mut().for_each(|names| names.push_back(name.clone()))
                }
                Some(Err(error)) => return Err(io::Error::other(error)),
            }
        }
    }
}
