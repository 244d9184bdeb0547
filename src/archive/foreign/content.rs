//! What is within a member: its compression is told by its first bytes, and all of it is digested as it is read.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream as Xz};
use sha2::Digest as _;

use crate::id::Sha256;
use crate::progress::{Event, Observer, check_stop};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// Bytes that are looked at to tell what a stream is.
const START: u64 = 6;
/// Largest window that is decoded, as a power of two: the largest that Docker takes.
const WINDOW_LIMIT: u32 = 29;
/// Most memory that a decoder of xz takes: that of its best level is an eighth of it.
const XZ_MEMORY_LIMIT: u64 = 512 << 20;

/// A stream of bytes.
pub(super) type Stream<'a> = Box<dyn Read + Send + 'a>;

/// A stream without its compression.
pub(super) enum Decompressed<'a> {
    /// It had none.
    Plain(Stream<'a>),
    /// It had one.
    Unpacked(Stream<'a>),
}

/// Takes the compression off a stream. Several streams of gzip, bzip2 or xz, or frames of zstd, may follow each other, as in
/// layers of which parts can be read.
///
/// # Errors
/// It cannot be read, or is compressed in a way that is not read here.
pub(super) fn decompress<'a>(mut stream: Stream<'a>) -> io::Result<Decompressed<'a>> {
    let mut start = Vec::new();
    stream.by_ref().take(START).read_to_end(&mut start)?;
    let kind = start.clone();
    let stream = BufReader::with_capacity(CHUNK, Cursor::new(start).chain(stream));
    match kind[..] {
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(stream)?;
            decoder.window_log_max(WINDOW_LIMIT)?;
            Ok(Decompressed::Unpacked(Box::new(decoder)))
        }
        [0x1f, 0x8b, ..] => Ok(Decompressed::Unpacked(Box::new(Gzip { decoder: Some(GzDecoder::new(stream)) }))),
        [b'B', b'Z', b'h', ..] => Ok(Decompressed::Unpacked(Box::new(MultiBzDecoder::new(stream)))),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let xz = Xz::new_stream_decoder(XZ_MEMORY_LIMIT, CONCATENATED).map_err(io::Error::other)?;
            Ok(Decompressed::Unpacked(Box::new(XzDecoder::new_stream(stream, xz))))
        }
        _ => Ok(Decompressed::Plain(Box::new(stream))),
    }
}

/// Streams of gzip, one behind the other. Behind the last one there may be zeros, with which old tapes and some tools fill
/// blocks; Docker does not look at what is there.
struct Gzip<R> {
    /// Nothing at the end.
    decoder: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let got = decoder.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            let mut rest = self.decoder.take().expect("because there is one").into_inner();
            match rest.fill_buf()?.first() {
                Some(0x1f) => self.decoder = Some(GzDecoder::new(rest)),
                _ => expect_zeros(rest)?,
            }
        }
        Ok(0)
    }
}

fn expect_zeros(mut rest: impl BufRead) -> io::Result<()> {
    loop {
        let bytes = rest.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(io::Error::other("gzip: there is something else behind its end"));
        }
        let length = bytes.len();
        rest.consume(length);
    }
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digests {
    /// As it is.
    pub(crate) raw: Sha256,
    /// Without its compression.
    pub(crate) content: Sha256,
}

/// A member without its compression, digested as it is read.
pub(crate) struct Content<'a> {
    content: Stream<'a>,
    digest: sha2::Sha256,
    /// What is read of the member as it is, where it has a compression.
    raw: Option<Raw<'a>>,
}

impl std::fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Content")
    }
}

impl<'a> Content<'a> {
    /// Reads a member from its first byte, and tells `observer` of the bytes of it as it is.
    pub(super) fn new(member: Stream<'a>, observer: &'a dyn Observer) -> io::Result<Self> {
        let digest = Some(sha2::Sha256::new());
        let raw = Raw(Arc::new(Mutex::new(Digested { stream: member, digest, observer })));
        let (content, raw) = match decompress(Box::new(raw.clone()))? {
            Decompressed::Plain(content) => {
                // It is digested once: what is read of it is what there is of it.
                raw.lock().digest = None;
                (content, None)
            }
            Decompressed::Unpacked(content) => (content, Some(raw)),
        };
        Ok(Self { content, digest: sha2::Sha256::new(), raw })
    }

    /// Reads what is left, and returns the digests.
    ///
    /// # Errors
    /// It cannot be read to its end.
    pub(crate) fn finish(mut self) -> io::Result<Digests> {
        let mut rest = vec![0; CHUNK];
        while self.read(&mut rest)? > 0 {}
        let content = Sha256::finish(self.digest);
        let Some(mut raw) = self.raw else { return Ok(Digests { raw: content, content }) };
        // Behind the end of its compression: it belongs to the member's own digest.
        io::copy(&mut raw, &mut io::sink())?;
        let raw = raw.lock().digest.take().unwrap_or_default();
        Ok(Digests { raw: Sha256::finish(raw), content })
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.content.read(buffer)?;
        self.digest.update(&buffer[..got]);
        Ok(got)
    }
}

/// The member as it is: who decompresses it reads from it, and who wants its digest asks for it behind its end.
#[derive(Clone)]
struct Raw<'a>(Arc<Mutex<Digested<'a>>>);

struct Digested<'a> {
    stream: Stream<'a>,
    digest: Option<sha2::Sha256>,
    observer: &'a dyn Observer,
}

impl<'a> Raw<'a> {
    fn lock(&self) -> MutexGuard<'_, Digested<'a>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Digested { stream, digest, observer } = &mut *self.lock();
        check_stop(*observer)?;
        let got = stream.read(buffer)?;
        digest.iter_mut().for_each(|digest| digest.update(&buffer[..got]));
        observer.on(Event::Advance(got as u64));
        Ok(got)
    }
}
