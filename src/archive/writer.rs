//! Writes an archive, member by member.

use std::io::{self, Write};

use sha2::Digest as _;

use crate::id::Sha256;

use super::output::{Compression, Output};
use super::{SUMS, header, padding};

/// Writes members in the order they are given.
pub struct ArchiveWriter<W: Write> {
    out: Output<W>,
    /// `sha256sum`'s lines of the members written.
    sums: String,
}

impl<W: Write> std::fmt::Debug for ArchiveWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ArchiveWriter({} members)", self.sums.lines().count())
    }
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive.
    ///
    /// # Errors
    /// The compressor does not take its options.
    pub fn new(out: W, compression: Compression) -> io::Result<Self> {
        Ok(Self { out: Output::new(out, compression)?, sums: String::new() })
    }

    /// Writes a small member.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut member = self.begin(name, bytes.len() as u64)?;
        member.write_all(bytes)?;
        member.finish().map(|_| ())
    }

    /// Begins a member of exactly `length` bytes; they are written to what is returned.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn begin(&mut self, name: &str, length: u64) -> io::Result<MemberWriter<'_, W>> {
        self.out.write_all(header(name, length).as_bytes())?;
        Ok(MemberWriter { archive: self, name: name.to_owned(), length, left: length, digest: sha2::Sha256::new() })
    }

    /// Ends a frame, where the compression has frames.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn end_frame(&mut self) -> io::Result<()> {
        self.out.end_frame()
    }

    /// Writes the digests of all members and the end of the archive, and gives the output back.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn finish(mut self) -> io::Result<W> {
        let sums = std::mem::take(&mut self.sums);
        self.add(SUMS, sums.as_bytes())?;
        self.out.write_all(&[0; 1024])?;
        self.out.finish()
    }
}

/// Takes the content of a member.
#[derive(Debug)]
#[must_use = "a member is complete only when finished"]
pub struct MemberWriter<'a, W: Write> {
    archive: &'a mut ArchiveWriter<W>,
    name: String,
    length: u64,
    left: u64,
    digest: sha2::Sha256,
}

impl<W: Write> MemberWriter<'_, W> {
    /// Ends the member and returns the digest of its content.
    ///
    /// # Errors
    /// Not all of its bytes were written, or the output takes no more.
    pub fn finish(self) -> io::Result<Sha256> {
        if self.left > 0 {
            return Err(io::Error::other(format!("{} bytes of {} are missing", self.left, self.name)));
        }
        self.archive.out.write_all(&[0; 512][..padding(self.length)])?;
        let digest = Sha256::finish(self.digest);
        self.archive.sums.push_str(&format!("{}  {}\n", digest.hex(), self.name));
        Ok(digest)
    }
}

impl<W: Write> Write for MemberWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other(format!("more bytes than {} has", self.name)));
        }
        let written = self.archive.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
