//! The outside of an archive that is read: what it is compressed with is told by its first bytes.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use sha2::Digest as _;

use super::frames::FrameReader;
use super::output::digest_member;
use super::seek::{Frame, Pieces};
use crate::fsx::File;
use crate::id::Sha256;

/// Bytes read from a file or pipe at once.
const CHUNK: usize = 1 << 20;

/// Bytes that are looked at to tell what a stream is.
const START: u64 = 10;

/// Compressed bytes.
type Stream = BufReader<Box<dyn Read + Send>>;

/// Gives out the tar within an archive.
pub enum Input {
    /// zstd frames.
    Zstd(Box<FrameReader<Stream>>),
    /// A gzip stream.
    Gzip(Box<GzDecoder<Digested<Stream>>>),
    /// A plain tar.
    Plain(Stream),
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Zstd(_) => "Input::Zstd",
            Self::Gzip(_) => "Input::Gzip",
            Self::Plain(_) => "Input::Plain",
        })
    }
}

impl Input {
    /// Looks at the first bytes.
    ///
    /// # Errors
    /// They cannot be read; or they are those of a compression that is not read here.
    pub fn new(stream: Box<dyn Read + Send>) -> io::Result<Self> {
        let (start, stream) = peek(stream)?;
        let stream = BufReader::with_capacity(CHUNK, stream);
        let other = |name| Err(io::Error::other(format!("compressed with {name}, which is not read here")));
        match start[..] {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd(Box::new(FrameReader::new(stream)?))),
            _ if is_skippable(&start) => Ok(Self::Zstd(Box::new(FrameReader::new(stream)?))),
            [0x1f, 0x8b, ..] => Ok(Self::Gzip(Box::new(GzDecoder::new(Digested::new(stream))))),
            [b'B', b'Z', b'h', ..] => other("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => other("xz"),
            _ => Ok(Self::Plain(stream)),
        }
    }

    /// Reads only these sections of an archive whose frames are known.
    ///
    /// # Errors
    /// zstd cannot be set up.
    pub(super) fn sections(file: File, frames: &[Frame], is_wanted: impl Fn(u32) -> bool) -> io::Result<Self> {
        let known = frames.iter().copied().filter(|frame| is_wanted(frame.section));
        let pieces: Box<dyn Read + Send> = Box::new(Pieces::of(file, frames, &is_wanted));
        Ok(Self::Zstd(Box::new(FrameReader::known(BufReader::with_capacity(CHUNK, pieces), known)?)))
    }

    /// Proves that the stream ends here, and that nothing in its compression was changed where that has
    /// means to tell. Call behind the last byte of the tar.
    ///
    /// # Errors
    /// It was changed, cut, or goes on.
    pub fn prove_end(&mut self) -> io::Result<()> {
        let goes_on = || io::Error::other("there is more behind its end");
        if self.read(&mut [0])? > 0 {
            return Err(goes_on());
        }
        match self {
            Self::Zstd(frames) if frames.is_proved() => Ok(()),
            Self::Zstd(_) => Err(io::Error::other("zstd: the seek table is missing")),
            Self::Gzip(gzip) => {
                let Digested { inner, digest } = gzip.get_mut();
                let expected = digest_member(Sha256::finish(std::mem::take(digest)));
                let mut found = Vec::new();
                inner.take(expected.len() as u64).read_to_end(&mut found)?;
                match found == expected {
                    true if inner.fill_buf()?.is_empty() => Ok(()),
                    true => Err(goes_on()),
                    false => Err(io::Error::other("gzip: wrong digest of the compressed bytes")),
                }
            }
            Self::Plain(_) => Ok(()),
        }
    }
}

/// Digests what is consumed.
#[derive(Debug)]
pub struct Digested<R> {
    inner: R,
    digest: sha2::Sha256,
}

impl<R> Digested<R> {
    fn new(inner: R) -> Self {
        Self { inner, digest: sha2::Sha256::new() }
    }
}

impl<R: BufRead> Read for Digested<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.digest.update(&buffer[..got]);
        Ok(got)
    }
}

impl<R: BufRead> BufRead for Digested<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // What was filled is still there: filling again reads nothing.
        if let (Ok(available), true) = (self.inner.fill_buf(), amount > 0) {
            self.digest.update(&available[..amount]);
        }
        self.inner.consume(amount);
    }
}

/// Tells whether these bytes begin a skippable frame of zstd.
pub(super) fn is_skippable(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Reads the first bytes, as far as there are some, and gives them with a stream that still has them.
pub(super) fn peek(mut stream: Box<dyn Read + Send>) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut start = Vec::new();
    (&mut stream).take(START).read_to_end(&mut start)?;
    Ok((start.clone(), Box::new(io::Cursor::new(start).chain(stream))))
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(frames) => frames.read(buffer),
            Self::Gzip(gzip) => gzip.read(buffer),
            Self::Plain(plain) => plain.read(buffer),
        }
    }
}
