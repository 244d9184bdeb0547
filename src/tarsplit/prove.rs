//! Proves that a tar is the one that tar-split tells of, while it streams by.

use std::io::Read;

use crate::error::ParseError;

use super::entries::{Crc64, Entries, Entry};

/// Why a tar and a tar-split do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum Mismatch {
    /// tar-split is damaged.
    #[error("tar-split: {0}")]
    TarSplit(#[from] ParseError),
    /// They differ.
    #[error("the tar is not the one that its tar-split tells of, at byte {0}")]
    Differs(u64),
    /// A file's content is not the one that tar-split tells of.
    #[error("file {}: the content does not match the CRC-64 in tar-split", .0.escape_ascii())]
    Content(Vec<u8>),
}

/// What the next bytes of the tar must be.
enum Expected {
    Segment { bytes: Vec<u8>, done: usize },
    Content { name: Vec<u8>, left: u64, crc: Option<Crc64>, digest: Box<crc_fast::Digest> },
}

/// Compares a tar with tar-split entries, in memory that does not grow with either.
pub struct Prover<R> {
    entries: Entries<R>,
    expected: Option<Expected>,
    position: u64,
}

impl<R> std::fmt::Debug for Prover<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prover(byte {})", self.position)
    }
}

impl<R: Read> Prover<R> {
    /// Proves against these entries.
    pub fn new(entries: Entries<R>) -> Self {
        Self { entries, expected: None, position: 0 }
    }

    /// Takes the next bytes of the tar.
    ///
    /// # Errors
    /// They are not the bytes that tar-split tells of.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), Mismatch> {
        while !bytes.is_empty() {
            let differs = Mismatch::Differs(self.position);
            let taken = match &mut self.expected {
                None => {
                    self.expected = self.advance()?;
                    if self.expected.is_none() {
                        return Err(differs);
                    }
                    continue;
                }
                Some(Expected::Segment { bytes: segment, done }) => {
                    let taken = bytes.len().min(segment.len() - *done);
                    if segment[*done..*done + taken] != bytes[..taken] {
                        return Err(differs);
                    }
                    *done += taken;
                    taken
                }
                Some(Expected::Content { left, digest, .. }) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    digest.update(&bytes[..taken]);
                    *left -= taken as u64;
                    taken
                }
            };
            bytes = &bytes[taken..];
            self.position += taken as u64;
            self.close_finished()?;
        }
        Ok(())
    }

    /// Proves that the tar ends where tar-split ends.
    ///
    /// # Errors
    /// tar-split tells of more.
    pub fn finish(mut self) -> Result<(), Mismatch> {
        match (self.expected.take(), self.advance()?) {
            (None, None) => Ok(()),
            _ => Err(Mismatch::Differs(self.position)),
        }
    }

    /// Reads on to the next entry that stands for bytes of the tar.
    fn advance(&mut self) -> Result<Option<Expected>, Mismatch> {
        for entry in self.entries.by_ref() {
            match entry? {
                Entry::Segment(bytes) if bytes.is_empty() => {}
                Entry::Segment(bytes) => return Ok(Some(Expected::Segment { bytes, done: 0 })),
                Entry::File { name, size, crc } if size > 0 => {
                    let digest = Box::new(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso));
                    return Ok(Some(Expected::Content { name, left: size, crc, digest }));
                }
                Entry::File { .. } => {}
            }
        }
        Ok(None)
    }

    fn close_finished(&mut self) -> Result<(), Mismatch> {
        match &mut self.expected {
            Some(Expected::Segment { bytes, done }) if *done == bytes.len() => self.expected = None,
            Some(Expected::Content { name, left: 0, crc, digest }) => {
                if crc.is_none_or(|crc| digest.finalize().to_be_bytes() != crc) {
                    return Err(Mismatch::Content(std::mem::take(name)));
                }
                self.expected = None;
            }
            _ => {}
        }
        Ok(())
    }
}
