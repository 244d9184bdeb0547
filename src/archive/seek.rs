//! The end of an archive in zstd: where its frames are and what they are.
//!
//! ```text
//! skippable frame 0x184D2A50    "dockpack"
//!                               for each frame the SHA-256 of its compressed bytes and its section (32 bits)
//!                               SHA-256 of the list and of the whole frame that follows
//! skippable frame 0x184D2A5E    the seek table of zstd's seekable format: for each frame its
//!                               compressed and decompressed length (32 bits each), then the number of
//!                               frames (32 bits), a descriptor byte (0) and 0x8F92EAB1
//! ```
//!
//! All numbers are little endian. Every zstd reader passes over skippable frames.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use crate::fsx::File;
use crate::id::Sha256;

pub(super) const LIST_MAGIC: u32 = 0x184D_2A50;
pub(super) const TABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const TAG: &[u8; 8] = b"dockpack";
/// Bytes of an entry in the list and in the table.
const LISTED: usize = 36;
const TABLED: usize = 8;
/// Bytes of the table behind its entries.
const FOOTER: usize = 9;
/// Magic and length of a skippable frame.
const HEAD: usize = 8;
/// Most frames that are kept in memory; an archive of dockpack's has fewer.
pub(super) const FRAMES_LIMIT: usize = 1 << 16;

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its bytes in the archive.
    pub compressed: u64,
    /// Bytes of what it holds.
    pub decompressed: u64,
    /// Digest of its bytes in the archive.
    pub digest: Sha256,
    /// The section that it is part of.
    pub section: u32,
}

/// Writes list and table.
///
/// # Errors
/// There are too many frames, or one is too long.
pub(super) fn write(frames: &[Frame]) -> io::Result<Vec<u8>> {
    let number = |number: u64| match u32::try_from(number) {
        Ok(number) => Ok(number.to_le_bytes()),
        Err(_) => Err(io::Error::other("too many or too long frames for a seek table")),
    };
    let mut table = Vec::new();
    table.extend(TABLE_MAGIC.to_le_bytes());
    table.extend(number((frames.len() * TABLED + FOOTER) as u64)?);
    for frame in frames {
        table.extend(number(frame.compressed)?);
        table.extend(number(frame.decompressed)?);
    }
    table.extend(number(frames.len() as u64)?);
    table.push(0);
    table.extend(SEEKABLE_MAGIC.to_le_bytes());

    let mut list = TAG.to_vec();
    for frame in frames {
        list.extend(frame.digest.bytes());
        list.extend(frame.section.to_le_bytes());
    }
    let digest = Sha256::of(&[&list[..], &table].concat());
    list.extend(digest.bytes());
    Ok([&LIST_MAGIC.to_le_bytes()[..], &number(list.len() as u64)?, &list, &table].concat())
}

/// Returns the length of list and table of so many frames, in bytes.
pub(super) fn length(frames: usize) -> usize {
    HEAD + TAG.len() + frames * LISTED + 32 + HEAD + frames * TABLED + FOOTER
}

/// Tells whether a skippable frame of this length can be the list of so many frames.
pub(super) fn is_length(found: u64, frames: usize) -> bool {
    found == (TAG.len() + frames * LISTED + 32) as u64
}

/// Reads what [`write`] wrote, and proves it.
pub(super) fn parse(bytes: &[u8]) -> Option<Vec<Frame>> {
    let rest = bytes.len().checked_sub(length(0))?;
    let count = rest / (LISTED + TABLED);
    let list = bytes.get(HEAD + TAG.len()..)?.get(..count * LISTED)?;
    let table = bytes.get(length(count).checked_sub(FOOTER + count * TABLED)?..)?.get(..count * TABLED)?;
    let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
    let mut frames = Vec::with_capacity(count);
    for (listed, lengths) in list.chunks_exact(LISTED).zip(table.chunks_exact(TABLED)) {
        let (digest, section) = listed.split_at(32);
        let (compressed, decompressed) = lengths.split_at(4);
        frames.push(Frame {
            compressed: number(compressed)?.into(),
            decompressed: number(decompressed)?.into(),
            digest: Sha256::from_bytes(digest.try_into().ok()?),
            section: number(section)?,
        });
    }
    // There is one way to write them, so this proves every byte.
    (write(&frames).ok()? == bytes).then_some(frames)
}

/// Reads list and table from the end of a file. `None` where it is not all there, or not proved.
///
/// # Errors
/// The file cannot be read.
pub(super) fn find(file: &File) -> io::Result<Option<Vec<Frame>>> {
    let end = file.metadata()?.len();
    let mut footer = [0; FOOTER];
    let Some(at) = end.checked_sub(FOOTER as u64) else { return Ok(None) };
    file.read_exact_at(&mut footer, at)?;
    let [a, b, c, d, _, magic @ ..] = footer;
    let count = u32::from_le_bytes([a, b, c, d]) as usize;
    if magic != SEEKABLE_MAGIC.to_le_bytes() || count > FRAMES_LIMIT {
        return Ok(None);
    }
    let mut bytes = vec![0; length(count)];
    let Some(at) = end.checked_sub(bytes.len() as u64) else { return Ok(None) };
    file.read_exact_at(&mut bytes, at)?;
    let frames = parse(&bytes).filter(|frames| frames.iter().map(|frame| frame.compressed).sum::<u64>() == at);
    Ok(frames)
}

/// Reads pieces of a file, one after the other.
#[derive(Debug)]
pub(super) struct Pieces {
    file: File,
    /// What is still to be read, last piece first.
    left: Vec<Range<u64>>,
}

impl Pieces {
    /// Reads the frames of these sections.
    pub(super) fn of(file: File, frames: &[Frame], is_wanted: impl Fn(u32) -> bool) -> Self {
        let mut end = 0;
        let mut left = Vec::new();
        for frame in frames {
            let begin = end;
            end += frame.compressed;
            if is_wanted(frame.section) {
                left.push(begin..end);
            }
        }
        left.reverse();
        Self { file, left }
    }
}

impl io::Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(piece) = self.left.last_mut() {
            if piece.is_empty() {
                self.left.pop();
                continue;
            }
            let want = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX).min(buffer.len());
            let got = self.file.read_at(&mut buffer[..want], piece.start)?;
            piece.start += got as u64;
            return Ok(got);
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(count: u32) -> Vec<Frame> {
        let frame = |n: u32| Frame {
            compressed: u64::from(n) * 1000 + 10,
            decompressed: u64::from(n) * 3000,
            digest: Sha256::of(&n.to_le_bytes()),
            section: n / 2,
        };
        (0..count).map(frame).collect()
    }

    #[test]
    fn what_was_written_is_read() {
        for count in [0, 1, 2, 7] {
            let written = write(&frames(count)).expect("written");
            assert_eq!(written.len(), length(count as usize));
            assert_eq!(parse(&written), Some(frames(count)));
        }
    }

    #[test]
    fn a_changed_byte_is_found() {
        let written = write(&frames(3)).expect("written");
        for at in 0..written.len() {
            let mut changed = written.clone();
            changed[at] ^= 4;
            assert_eq!(parse(&changed), None, "byte {at}");
            assert_eq!(parse(&written[at + 1..]), None);
            assert_eq!(parse(&written[..at]), None);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_no_frame() {
        assert!(write(&[Frame { compressed: 1 << 32, ..frames(1)[0] }]).is_err());
    }
}
