//! zstd frames with a seek table.
//!
//! ```text
//! frame, frame, …                      each with a content checksum
//! skippable frame 0x184D2A50           "dockpack" and the SHA-256 of all bytes before this frame
//! skippable frame 0x184D2A5E           the seek table of zstd's seekable format: for each frame its
//!                                      compressed and decompressed length (32 bits each), then the number of
//!                                      frames (32 bits), a descriptor byte (0) and 0x8F92EAB1
//! ```
//!
//! Every zstd reader passes over skippable frames. The digest finds changes that decode to the same content.

use std::io::{self, BufRead, Read, Write};

use sha2::Digest as _;
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use crate::id::Sha256;

const FRAME_MAGIC: u32 = 0xFD2F_B528;
const DIGEST_MAGIC: u32 = 0x184D_2A50;
const TABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const DIGEST_TAG: &[u8; 8] = b"dockpack";
/// A frame is closed at this decompressed length: the table has 32 bits for it.
const FRAME_LIMIT: u64 = 2 << 30;
/// Largest window that is decoded, as a power of two: the largest that Docker takes.
const WINDOW_LIMIT: u32 = 29;
const CHUNK: usize = 128 << 10;

/// Lengths of one frame in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// In the archive.
    pub compressed: u64,
    /// Of what it holds.
    pub decompressed: u64,
}

fn table(frames: &[Frame]) -> io::Result<Vec<u8>> {
    let too_many = || io::Error::other("too many or too long frames for a seek table");
    let length = u32::try_from(frames.len() * 8 + 9).map_err(|_| too_many())?;
    let mut out = Vec::new();
    out.extend(TABLE_MAGIC.to_le_bytes());
    out.extend(length.to_le_bytes());
    for frame in frames {
        out.extend(u32::try_from(frame.compressed).map_err(|_| too_many())?.to_le_bytes());
        out.extend(u32::try_from(frame.decompressed).map_err(|_| too_many())?.to_le_bytes());
    }
    out.extend(u32::try_from(frames.len()).map_err(|_| too_many())?.to_le_bytes());
    out.push(0);
    out.extend(SEEKABLE_MAGIC.to_le_bytes());
    Ok(out)
}

fn digest_frame(digest: Sha256) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(DIGEST_MAGIC.to_le_bytes());
    out.extend(40_u32.to_le_bytes());
    out.extend(DIGEST_TAG);
    // The bytes, not the digits.
    out.extend(digest.bytes());
    out
}

/// Writes frames.
pub struct FrameWriter<W> {
    out: W,
    encoder: Encoder<'static>,
    buffer: Vec<u8>,
    digest: sha2::Sha256,
    open: Frame,
    frames: Vec<Frame>,
}

impl<W> std::fmt::Debug for FrameWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrameWriter({} frames)", self.frames.len())
    }
}

impl<W: Write> FrameWriter<W> {
    /// Compresses at `level` with a window of 2^`window` bytes on `threads` threads. The bytes that come out
    /// do not depend on the number of threads.
    ///
    /// # Errors
    /// zstd does not take the parameters.
    pub fn new(out: W, level: i32, window: u32, threads: u32) -> io::Result<Self> {
        let mut encoder = Encoder::new(level)?;
        encoder.set_parameter(CParameter::ChecksumFlag(true))?;
        encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
        encoder.set_parameter(CParameter::WindowLog(window))?;
        // At least one: without workers zstd cuts the stream at other places.
        encoder.set_parameter(CParameter::NbWorkers(threads.max(1)))?;
        Ok(Self {
            out,
            encoder,
            buffer: vec![0; CHUNK],
            digest: sha2::Sha256::new(),
            open: Frame { compressed: 0, decompressed: 0 },
            frames: Vec::new(),
        })
    }

    /// Closes the open frame, if there is one.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn end_frame(&mut self) -> io::Result<()> {
        if self.open.decompressed == 0 {
            return Ok(());
        }
        loop {
            let mut out = OutBuffer::around(&mut self.buffer[..]);
            let left = self.encoder.finish(&mut out, true)?;
            let length = out.pos();
            self.pass_on(length)?;
            if left == 0 {
                break;
            }
        }
        self.frames.push(self.open);
        self.open = Frame { compressed: 0, decompressed: 0 };
        self.encoder.reinit()
    }

    /// Closes the last frame, writes digest and seek table, and gives the output back.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_frame()?;
        self.out.write_all(&digest_frame(Sha256::finish(self.digest)))?;
        self.out.write_all(&table(&self.frames)?)?;
        Ok(self.out)
    }

    fn pass_on(&mut self, length: usize) -> io::Result<()> {
        let bytes = &self.buffer[..length];
        self.digest.update(bytes);
        self.open.compressed += length as u64;
        self.out.write_all(bytes)
    }
}

impl<W: Write> Write for FrameWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.decompressed >= FRAME_LIMIT {
            self.end_frame()?;
        }
        let room = usize::try_from(FRAME_LIMIT - self.open.decompressed).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        let mut input = InBuffer::around(bytes);
        while input.pos() < bytes.len() {
            let mut out = OutBuffer::around(&mut self.buffer[..]);
            self.encoder.run(&mut input, &mut out)?;
            let length = out.pos();
            self.pass_on(length)?;
        }
        self.open.decompressed += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Flushing would cut a block short and change the bytes.
        self.out.flush()
    }
}

/// Reads frames, and proves digest and seek table when they come by. Archives of other tools, which have
/// neither, are read too.
pub struct FrameReader<R> {
    input: R,
    decoder: Decoder<'static>,
    state: State,
    digest: sha2::Sha256,
    frames: Vec<Frame>,
    /// Whether digest and table have been proved.
    proved: (bool, bool),
}

impl<R> std::fmt::Debug for FrameReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrameReader({} frames)", self.frames.len())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Within(Frame),
    End,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {what}"))
}

impl<R: BufRead> FrameReader<R> {
    /// Reads from the first frame on.
    ///
    /// # Errors
    /// zstd cannot be set up.
    pub fn new(input: R) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LIMIT))?;
        Ok(Self {
            input,
            decoder,
            state: State::Between,
            digest: sha2::Sha256::new(),
            frames: Vec::new(),
            proved: (false, false),
        })
    }

    /// Tells whether digest and seek table have come by and are right. Only true behind the last byte.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        self.state == State::End && self.proved == (true, true)
    }

    /// Looks at what stands between two frames.
    fn next_frame(&mut self) -> io::Result<State> {
        let mut magic = [0; 4];
        if self.input.fill_buf()?.is_empty() {
            return Ok(State::End);
        }
        self.input.read_exact(&mut magic).map_err(|_| damaged("cut between two frames"))?;
        match u32::from_le_bytes(magic) {
            FRAME_MAGIC if !self.proved.0 => {
                self.decoder.reinit()?;
                let mut nothing = [];
                self.decoder.run(&mut InBuffer::around(&magic), &mut OutBuffer::around(&mut nothing[..]))?;
                self.digest.update(magic);
                Ok(State::Within(Frame { compressed: 4, decompressed: 0 }))
            }
            DIGEST_MAGIC if self.proved == (false, false) => {
                let expected = digest_frame(Sha256::finish(self.digest.clone()));
                self.expect(&expected[4..], "digest of the compressed bytes")?;
                self.proved.0 = true;
                Ok(State::Between)
            }
            TABLE_MAGIC if self.proved == (true, false) => {
                let expected = table(&self.frames)?;
                self.expect(&expected[4..], "seek table")?;
                self.proved.1 = true;
                Ok(State::Between)
            }
            // Other tools' skippable frames.
            0x184D_2A50..=0x184D_2A5F if !self.proved.0 => {
                let mut length = [0; 4];
                self.input.read_exact(&mut length).map_err(|_| damaged("cut in a skippable frame"))?;
                let length = u64::from(u32::from_le_bytes(length));
                if io::copy(&mut (&mut self.input).take(length), &mut io::sink())? != length {
                    return Err(damaged("cut in a skippable frame"));
                }
                Ok(State::Between)
            }
            _ => Err(damaged("neither a frame nor the end")),
        }
    }

    fn expect(&mut self, expected: &[u8], what: &str) -> io::Result<()> {
        let mut found = vec![0; expected.len()];
        self.input.read_exact(&mut found).map_err(|_| damaged(&format!("cut in the {what}")))?;
        if found == expected { Ok(()) } else { Err(damaged(&format!("wrong {what}"))) }
    }

    fn read_within(&mut self, mut frame: Frame, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let available = self.input.fill_buf()?;
            let at_end = available.is_empty();
            let mut input = InBuffer::around(available);
            let mut output = OutBuffer::around(&mut *out);
            let hint = self.decoder.run(&mut input, &mut output)?;
            let (taken, given) = (input.pos(), output.pos());
            self.digest.update(&available[..taken]);
            self.input.consume(taken);
            frame.compressed += taken as u64;
            frame.decompressed += given as u64;
            self.state = State::Within(frame);
            if hint == 0 {
                self.frames.push(frame);
                self.state = State::Between;
                return Ok(given);
            }
            if given > 0 {
                return Ok(given);
            }
            if at_end {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "zstd: cut in the middle of a frame"));
            }
        }
    }
}

impl<R: BufRead> Read for FrameReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let given = match self.state {
                State::End => return Ok(0),
                State::Between => {
                    self.state = self.next_frame()?;
                    continue;
                }
                State::Within(frame) => self.read_within(frame, out)?,
            };
            if given > 0 {
                return Ok(given);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        (0..3_000_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
    }

    fn pack(data: &[u8], threads: u32, chunk: usize) -> Vec<u8> {
        let mut writer = FrameWriter::new(Vec::new(), 3, 20, threads).expect("a writer");
        writer.write_all(&data[..1000]).expect("written");
        writer.end_frame().expect("closed");
        for part in data[1000..].chunks(chunk) {
            writer.write_all(part).expect("written");
        }
        writer.finish().expect("finished")
    }

    fn unpack(packed: &[u8]) -> io::Result<(Vec<u8>, bool)> {
        let mut reader = FrameReader::new(packed)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok((out, reader.is_proved()))
    }

    #[test]
    fn the_bytes_depend_on_neither_threads_nor_chunks() {
        let data = sample();
        let packed = pack(&data, 1, 1 << 20);
        assert_eq!(packed, pack(&data, 2, 1 << 20));
        assert_eq!(packed, pack(&data, 3, 777));
        let (out, proved) = unpack(&packed).expect("reads");
        assert!(out == data && proved);
    }

    #[test]
    fn other_readers_find_the_table() {
        let data = sample();
        let packed = pack(&data, 2, 1 << 20);
        assert_eq!(zstd::decode_all(&packed[..]).expect("zstd reads it"), data);
        let seekable = zeekstd::Decoder::new(io::Cursor::new(&packed)).expect("zeekstd reads it");
        assert_eq!(seekable.seek_table().num_frames(), 2);
    }

    #[test]
    fn a_flipped_byte_or_a_cut_is_found_anywhere() {
        let data = sample()[..40_000].to_vec();
        let packed = pack(&data, 1, 1 << 20);
        for at in 0..packed.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = packed.clone();
                bad[at] ^= flip;
                assert!(!matches!(unpack(&bad), Ok((_, true))), "byte {at} flipped by {flip}");
            }
            assert!(!matches!(unpack(&packed[..at]), Ok((_, true))), "cut at {at}");
        }
    }

    #[test]
    fn plain_zstd_is_read_but_not_proved() {
        let data = sample();
        let packed = zstd::encode_all(&data[..], 1).expect("encoded");
        let (out, proved) = unpack(&packed).expect("reads");
        assert!(out == data && !proved);
    }
}
