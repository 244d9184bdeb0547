//! The outside of an archive: plain, gzip, or zstd frames.

use std::io::{self, Write};

use flate2::write::GzEncoder;

use super::frames::FrameWriter;

/// How zstd compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZstdOptions {
    /// Level, 1 to 22.
    pub level: i32,
    /// Window as a power of two of bytes. Every reader takes 27; Docker, podman and skopeo take up to 29.
    pub window: u32,
    /// Threads that compress.
    pub threads: u32,
}

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd frames with a seek table; `docker load` reads them since 23.
    Zstd(ZstdOptions),
    /// One gzip stream, which every Docker reads.
    Gzip,
    /// None.
    Plain,
}

/// Takes the tar and gives it out compressed.
#[derive(Debug)]
pub(super) enum Output<W: Write> {
    Zstd(Box<FrameWriter<W>>),
    Gzip(Box<GzEncoder<W>>),
    Plain(W),
}

impl<W: Write> Output<W> {
    pub(super) fn new(out: W, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd(ZstdOptions { level, window, threads }) => {
                Self::Zstd(Box::new(FrameWriter::new(out, level, window, threads)?))
            }
            // The level that `gzip` has by default; its header then tells nothing that a reader cannot know.
            Compression::Gzip => Self::Gzip(Box::new(GzEncoder::new(out, flate2::Compression::new(6)))),
            Compression::Plain => Self::Plain(out),
        })
    }

    /// Ends a zstd frame, so that what follows can be read without what came before.
    pub(super) fn end_frame(&mut self) -> io::Result<()> {
        match self {
            Self::Zstd(frames) => frames.end_frame(),
            Self::Gzip(_) | Self::Plain(_) => Ok(()),
        }
    }

    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::Zstd(frames) => frames.finish(),
            Self::Gzip(gzip) => gzip.finish(),
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
