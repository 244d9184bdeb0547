//! The outside of an archive: plain, gzip, or zstd frames.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use sha2::Digest as _;

use super::frames::FrameWriter;
use crate::id::Sha256;

/// Largest window that is used where no other is asked for, as a power of two of bytes.
pub const WINDOW: u32 = 28;

/// How zstd compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZstdOptions {
    /// Level, 1 to 22.
    pub level: i32,
    /// Largest window as a power of two of bytes. Every reader takes 27; Docker, podman and skopeo take up to 29.
    pub window: u32,
    /// Threads that compress.
    pub threads: u32,
}

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd frames with a seek table; `docker load` reads them since 23.
    Zstd(ZstdOptions),
    /// gzip, which every Docker reads: a member with the tar, and one with the digest of the first.
    Gzip,
    /// None.
    Plain,
}

/// A gzip member that is empty and holds the digest of the compressed bytes before it: many changes to a deflate stream
/// decode to the same content. Every reader of gzip takes several members in a row for one stream.
pub(super) fn digest_member(digest: Sha256) -> Vec<u8> {
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
    // An extra field "DP" of 32 bytes.
    const FIELD: [u8; 6] = [36, 0, b'D', b'P', 32, 0];
    // No data, of which CRC-32 and length are zero.
    const NOTHING: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    [&HEADER[..], &FIELD, digest.bytes(), &NOTHING].concat()
}

/// Digests what is written.
#[derive(Debug)]
pub(super) struct Digesting<W> {
    out: W,
    digest: sha2::Sha256,
}

impl<W> Digesting<W> {
    fn new(out: W) -> Self {
        Self { out, digest: sha2::Sha256::new() }
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Takes the tar and gives it out compressed.
#[derive(Debug)]
pub(super) enum Output<W: Write> {
    Zstd(Box<FrameWriter<W>>),
    Gzip(Box<GzEncoder<Digesting<W>>>),
    Plain(W),
}

impl<W: Write> Output<W> {
    pub(super) fn new(out: W, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd(ZstdOptions { level, window, threads }) => {
                Self::Zstd(Box::new(FrameWriter::new(out, level, window, threads)?))
            }
            // The level that `gzip` has by default; its header then tells nothing that a reader cannot know.
            Compression::Gzip => Self::Gzip(Box::new(GzEncoder::new(Digesting::new(out), flate2::Compression::new(6)))),
            Compression::Plain => Self::Plain(out),
        })
    }

    /// Sets the window as a power of two of bytes, before the first byte is written.
    pub(super) fn set_window(&mut self, window: u32) -> io::Result<()> {
        match self {
            Self::Zstd(frames) => frames.set_window(window),
            Self::Gzip(_) | Self::Plain(_) => Ok(()),
        }
    }

    /// Ends a section, where the archive has sections.
    pub(super) fn end_section(&mut self) -> io::Result<()> {
        match self {
            Self::Zstd(frames) => frames.end_section(),
            Self::Gzip(_) | Self::Plain(_) => Ok(()),
        }
    }

    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::Zstd(frames) => frames.finish(),
            Self::Gzip(gzip) => {
                let Digesting { mut out, digest } = gzip.finish()?;
                out.write_all(&digest_member(Sha256::finish(digest)))?;
                Ok(out)
            }
            Self::Plain(out) => Ok(out),
        }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(frames) => frames.write(bytes),
            Self::Gzip(gzip) => gzip.write(bytes),
            Self::Plain(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
