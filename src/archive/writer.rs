//! Writes an archive, member by member: as a tar, or unpacked into a directory.

use std::io::{self, Write};

use sha2::Digest as _;

use crate::fsx::{Dir, File};
use crate::id::Sha256;

use super::output::{Compression, Output, WINDOW};
use super::{SUMS, header, padding};

/// Writes members in the order they are given.
pub struct ArchiveWriter<W: Write> {
    target: Target<W>,
    /// `sha256sum`'s lines of the members written.
    sums: String,
    window: u32,
}

enum Target<W: Write> {
    Tar(Output<Counter<W>>),
    Directory { dir: Dir, bytes: u64 },
}

impl<W: Write> std::fmt::Debug for ArchiveWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ArchiveWriter({} members)", self.sums.lines().count())
    }
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive as a tar.
    ///
    /// # Errors
    /// The compressor does not take its options.
    pub fn tar(out: W, compression: Compression) -> io::Result<Self> {
        let out = Counter { out, bytes: 0 };
        let window = match compression {
            Compression::Zstd(options) => options.window,
            Compression::Gzip | Compression::Plain => WINDOW,
        };
        Ok(Self { target: Target::Tar(Output::new(out, compression)?), sums: String::new(), window })
    }

    /// Begins an archive as files in an empty directory: an OCI image layout.
    #[must_use]
    pub fn directory(dir: Dir) -> Self {
        Self { target: Target::Directory { dir, bytes: 0 }, sums: String::new(), window: WINDOW }
    }

    /// Returns the largest window that may be used, as a power of two of bytes. Archives without one are put in the
    /// same order as if they had the usual one.
    #[must_use]
    pub fn window(&self) -> u32 {
        self.window
    }

    /// Sets the window as a power of two of bytes. Call before the first member.
    ///
    /// # Errors
    /// zstd does not take it.
    pub fn set_window(&mut self, window: u32) -> io::Result<()> {
        match &mut self.target {
            Target::Tar(out) => out.set_window(window),
            Target::Directory { .. } => Ok(()),
        }
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
        let file = match &mut self.target {
            Target::Tar(out) => {
                out.write_all(header(name, length).as_bytes())?;
                None
            }
            Target::Directory { dir, bytes } => {
                *bytes += length;
                Some(make_file(dir, name)?)
            }
        };
        let digest = sha2::Sha256::new();
        Ok(MemberWriter { archive: self, file, name: name.to_owned(), length, left: length, digest })
    }

    /// Ends a section: what follows can be read without what came before.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn end_section(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Tar(out) => out.end_section(),
            Target::Directory { .. } => Ok(()),
        }
    }

    /// Writes the digests of all members and the end of the archive, and returns its length in bytes.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn finish(mut self) -> io::Result<u64> {
        let sums = std::mem::take(&mut self.sums);
        self.add(SUMS, sums.as_bytes())?;
        match self.target {
            Target::Tar(mut out) => {
                out.write_all(&[0; 1024])?;
                let mut counter = out.finish()?;
                counter.flush()?;
                Ok(counter.bytes)
            }
            Target::Directory { dir, bytes } => {
                dir.sync_file_system().map_err(|error| error.source)?;
                Ok(bytes)
            }
        }
    }
}

fn make_file(dir: &Dir, name: &str) -> io::Result<File> {
    let mut at = dir.clone();
    let (above, last) = name.rsplit_once('/').unwrap_or(("", name));
    for part in above.split('/').filter(|part| !part.is_empty()) {
        at = at.ensure_dir(part, 0o755).map_err(|error| error.source)?;
    }
    at.make_file(last, 0o644).map_err(|error| error.source)
}

/// Takes the content of a member.
#[derive(Debug)]
#[must_use = "a member is complete only when finished"]
pub struct MemberWriter<'a, W: Write> {
    archive: &'a mut ArchiveWriter<W>,
    file: Option<File>,
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
        if let Target::Tar(out) = &mut self.archive.target {
            out.write_all(&[0; 512][..padding(self.length)])?;
        }
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
        let written = match (&mut self.file, &mut self.archive.target) {
            (Some(file), _) => file.write(bytes)?,
            (None, Target::Tar(out)) => out.write(bytes)?,
            (None, Target::Directory { .. }) => 0,
        };
        self.digest.update(&bytes[..written]);
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts what goes out.
#[derive(Debug)]
struct Counter<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
