//! zstd frames with a seek table.
//!
//! A *section* is a run of members that can be read without the others: the metadata, then the layers, where the plan of
//! a save sees that little is lost by it in several, last `SHA256SUMS`. A section is a frame, or several where it is
//! long; each has a content checksum. Behind them stands what [`seek`] tells of, which also has the
//! digest of each frame: it finds changes that decode to the same content, and proves a frame that is read alone.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};

use sha2::Digest as _;
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use crate::id::Sha256;

use super::seek::{self, Frame, LIST_MAGIC};

const FRAME_MAGIC: u32 = 0xFD2F_B528;
/// A frame is closed at this decompressed length: the table has 32 bits for it.
const FRAME_LIMIT: u64 = 2 << 30;
/// Largest window that is decoded, as a power of two: the largest that Docker takes.
const WINDOW_LIMIT: u32 = 29;
const CHUNK: usize = 128 << 10;
/// Bytes that one thread compresses at a time. Less makes archives larger, more costs memory for each thread; the bytes
/// that come out depend on it.
const JOB: u32 = 8 << 20;
/// What is said of a frame that was changed.
const CHANGED: &str = "a frame is not what its digest says";

/// The frame that is being written or read.
#[derive(Clone, Default)]
struct Open {
    compressed: u64,
    decompressed: u64,
    digest: sha2::Sha256,
}

impl Open {
    fn end(&mut self, section: u32) -> Frame {
        let Self { compressed, decompressed, digest } = std::mem::take(self);
        Frame { compressed, decompressed, digest: Sha256::finish(digest), section }
    }
}

/// Writes frames.
pub struct FrameWriter<W> {
    out: W,
    encoder: Encoder<'static>,
    buffer: Vec<u8>,
    open: Open,
    section: u32,
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
        encoder.set_parameter(CParameter::JobSize(JOB))?;
        Ok(Self { out, encoder, buffer: vec![0; CHUNK], open: Open::default(), section: 0, frames: Vec::new() })
    }

    /// Sets another window, as a power of two of bytes. Only between frames.
    ///
    /// # Errors
    /// zstd does not take it.
    pub fn set_window(&mut self, window: u32) -> io::Result<()> {
        self.encoder.set_parameter(CParameter::WindowLog(window))
    }

    /// Ends the section, so that what follows can be read without what came before. An empty one is none.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn end_section(&mut self) -> io::Result<()> {
        self.end_frame()?;
        let is_empty = self.frames.last().is_none_or(|frame| frame.section != self.section);
        self.section += u32::from(!is_empty);
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
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
        self.frames.push(self.open.end(self.section));
        self.encoder.reinit()
    }

    /// Ends the last section, writes what is behind it, and gives the output back.
    ///
    /// # Errors
    /// The output takes no more.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_frame()?;
        self.out.write_all(&seek::write(&self.frames)?)?;
        Ok(self.out)
    }

    fn pass_on(&mut self, length: usize) -> io::Result<()> {
        let bytes = &self.buffer[..length];
        self.open.digest.update(bytes);
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

/// Reads frames, and proves them. Archives of other tools, which have no digests, are read too.
pub struct FrameReader<R> {
    input: R,
    decoder: Decoder<'static>,
    state: State,
    open: Open,
    proof: Proof,
}

impl<R> std::fmt::Debug for FrameReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrameReader({:?})", self.state)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Within,
    End,
}

/// What the frames are held against.
enum Proof {
    /// What will come behind them; these came by.
    Later(Vec<Frame>),
    /// What is known of those that are still to come.
    Known(VecDeque<Frame>),
    /// All was as it should be.
    Done,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {what}"))
}

impl<R: BufRead> FrameReader<R> {
    /// Reads from the first frame on to the end.
    ///
    /// # Errors
    /// zstd cannot be set up.
    pub fn new(input: R) -> io::Result<Self> {
        Self::with(input, Proof::Later(Vec::new()))
    }

    /// Reads these frames, of which something else has told, and nothing behind them.
    ///
    /// # Errors
    /// zstd cannot be set up.
    pub fn known(input: R, frames: impl IntoIterator<Item = Frame>) -> io::Result<Self> {
        Self::with(input, Proof::Known(frames.into_iter().collect()))
    }

    fn with(input: R, proof: Proof) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LIMIT))?;
        Ok(Self { input, decoder, state: State::Between, open: Open::default(), proof })
    }

    /// Tells whether each frame was proved. Only true behind the last byte.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        self.state == State::End && matches!(self.proof, Proof::Done)
    }

    /// Looks at what stands between two frames.
    fn next_frame(&mut self) -> io::Result<State> {
        let mut magic = [0; 4];
        if matches!(&self.proof, Proof::Known(left) if left.is_empty()) {
            self.proof = Proof::Done;
        }
        if self.input.fill_buf()?.is_empty() {
            return Ok(State::End);
        }
        self.input.read_exact(&mut magic).map_err(|_| damaged("cut between two frames"))?;
        match (u32::from_le_bytes(magic), &self.proof) {
            (FRAME_MAGIC, Proof::Later(_) | Proof::Known(_)) => {
                self.decoder.reinit()?;
                let mut nothing = [];
                self.decoder.run(&mut InBuffer::around(&magic), &mut OutBuffer::around(&mut nothing[..]))?;
                self.open = Open::default();
                self.open.digest.update(magic);
                self.open.compressed = 4;
                Ok(State::Within)
            }
            // Also other tools' skippable frames.
            (0x184D_2A50..=0x184D_2A5F, Proof::Later(_)) => self.skippable(magic).map(|()| State::Between),
            (_, Proof::Known(_)) => Err(damaged(CHANGED)),
            _ => Err(damaged("neither a frame nor the end")),
        }
    }

    /// Proves the frames that came by with what is behind them; passes over what is not that.
    fn skippable(&mut self, magic: [u8; 4]) -> io::Result<()> {
        let cut = |_| damaged("cut in a skippable frame");
        let Proof::Later(frames) = &self.proof else { return Ok(()) };
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(cut)?;
        let whole = seek::length(frames.len());
        let listed = u64::from(u32::from_le_bytes(length));
        let mut found = [magic, length].concat();
        if magic == LIST_MAGIC.to_le_bytes() && seek::is_length(listed, frames.len()) {
            (&mut self.input).take((whole - found.len()) as u64).read_to_end(&mut found)?;
            let as_read = |(one, other): (&Frame, &Frame)| *one == Frame { section: one.section, ..*other };
            let right = seek::parse(&found).is_some_and(|known| known.iter().zip(frames).all(as_read));
            if !right {
                return Err(damaged("wrong digests of the frames, or a wrong seek table"));
            }
            self.proof = Proof::Done;
        } else if io::copy(&mut (&mut self.input).take(listed), &mut io::sink())? != listed {
            return Err(damaged("cut in a skippable frame"));
        }
        Ok(())
    }

    /// Proves the frame that was read to its end, as far as that can be done now.
    fn end_frame(&mut self) -> io::Result<()> {
        let read = self.open.end(0);
        match &mut self.proof {
            Proof::Later(frames) if frames.len() < seek::FRAMES_LIMIT => frames.push(read),
            // Too many to be one of ours.
            Proof::Later(_) => {}
            Proof::Known(left) => {
                let expected = left.pop_front();
                if expected.is_none_or(|frame| frame != Frame { section: frame.section, ..read }) {
                    return Err(damaged(CHANGED));
                }
            }
            Proof::Done => {}
        }
        Ok(())
    }

    fn read_within(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let available = self.input.fill_buf()?;
            let at_end = available.is_empty();
            let mut input = InBuffer::around(available);
            let mut output = OutBuffer::around(&mut *out);
            let hint = self.decoder.run(&mut input, &mut output)?;
            let (taken, given) = (input.pos(), output.pos());
            self.open.digest.update(&available[..taken]);
            self.input.consume(taken);
            self.open.compressed += taken as u64;
            self.open.decompressed += given as u64;
            if hint == 0 {
                self.end_frame()?;
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
            match self.state {
                State::End => return Ok(0),
                State::Between => self.state = self.next_frame()?,
                State::Within => {
                    let given = self.read_within(out)?;
                    if given > 0 {
                        return Ok(given);
                    }
                }
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
        writer.end_section().expect("closed");
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
