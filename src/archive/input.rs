//! The outside of an archive that is read: what it is compressed with is told by its first bytes.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

use super::frames::FrameReader;

/// Bytes read from a file or pipe at once.
const CHUNK: usize = 1 << 20;

/// Header of the gzip streams that dockpack writes: no name, no time, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Gives out the tar within an archive.
pub enum Input {
    /// zstd frames.
    Zstd(Box<FrameReader<BufReader<Box<dyn Read + Send>>>>),
    /// A gzip stream, and its header.
    Gzip(Box<GzDecoder<BufReader<Box<dyn Read + Send>>>>, Vec<u8>),
    /// A plain tar.
    Plain(BufReader<Box<dyn Read + Send>>),
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Zstd(_) => "Input::Zstd",
            Self::Gzip(..) => "Input::Gzip",
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
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Ok(Self::Zstd(Box::new(FrameReader::new(stream)?)))
            }
            [0x1f, 0x8b, ..] => Ok(Self::Gzip(Box::new(GzDecoder::new(stream)), start)),
            [b'B', b'Z', b'h', ..] => other("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => other("xz"),
            _ => Ok(Self::Plain(stream)),
        }
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
            Self::Gzip(gzip, header) => match gzip.get_mut().fill_buf()? {
                [] if *header == GZIP_HEADER => Ok(()),
                [] => Err(io::Error::other("gzip: wrong header")),
                _ => Err(goes_on()),
            },
            Self::Plain(_) => Ok(()),
        }
    }
}

/// Reads the first bytes, as far as there are some, and gives them with a stream that still has them.
fn peek(mut stream: Box<dyn Read + Send>) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut start = Vec::new();
    (&mut stream).take(GZIP_HEADER.len() as u64).read_to_end(&mut start)?;
    Ok((start.clone(), Box::new(io::Cursor::new(start).chain(stream))))
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(frames) => frames.read(buffer),
            Self::Gzip(gzip, _) => gzip.read(buffer),
            Self::Plain(plain) => plain.read(buffer),
        }
    }
}
