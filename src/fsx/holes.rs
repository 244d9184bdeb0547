//! Holes: long runs of zeros in files, which take no room on disk.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;

use rustix::io::Errno;

use super::File;
use super::calls;

/// A run of zeros becomes a hole where it has this many bytes, at a multiple of it.
const HOLE: usize = 64 << 10;
/// Bytes that are looked at together for one that is not zero.
const LOOK: usize = 1 << 10;
/// Bytes in a block of a file, as the system counts them.
const BLOCK: u64 = 512;

/// Writes a new file from its beginning, and leaves out long runs of zeros.
#[derive(Debug)]
pub struct Holes<'f> {
    file: &'f File,
    at: u64,
    /// A hole was the last: the place in the file is before it.
    skipped: bool,
}

impl<'f> Holes<'f> {
    /// Begins with a file that is empty.
    #[must_use]
    pub fn new(file: &'f File) -> Self {
        Self { file, at: 0, skipped: false }
    }

    /// Writes the next bytes. Of zeros that are given in small pieces no hole is made.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (data, rest) = bytes.split_at(self.before_hole(bytes));
            if !data.is_empty() {
                if std::mem::take(&mut self.skipped) {
                    self.file.seek(SeekFrom::Start(self.at))?;
                }
                self.file.write_all(data)?;
                self.at += data.len() as u64;
            }
            bytes = rest;
            while let Some((block, rest)) = bytes.split_at_checked(HOLE).filter(|(block, _)| is_zero(block)) {
                self.at += block.len() as u64;
                self.skipped = true;
                bytes = rest;
            }
        }
        Ok(())
    }

    /// Gives the file its length, where it ends in a hole.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn finish(self) -> io::Result<()> {
        if self.skipped { self.file.set_len(self.at) } else { Ok(()) }
    }

    /// Returns how many of the next bytes are to be written before the first hole in them.
    fn before_hole(&self, bytes: &[u8]) -> usize {
        let into_block = (self.at % HOLE as u64) as usize;
        let first = (HOLE - into_block) % HOLE;
        let starts = (first..bytes.len()).step_by(HOLE);
        let mut holes = starts.filter(|at| bytes.get(*at..*at + HOLE).is_some_and(is_zero));
        holes.next().unwrap_or(bytes.len())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(LOOK).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Copies the content of a file to a new one; what is a hole stays one.
///
/// # Errors
/// One cannot be read or the other not be written.
pub fn copy_content(mut from: &File, mut to: &File) -> io::Result<()> {
    let found = from.metadata()?;
    let length = found.len();
    if found.blocks() * BLOCK >= length {
        return io::copy(&mut from, &mut to).map(drop);
    }
    to.set_len(length)?;
    let mut at = 0;
    while let Some(data) = next_data(from, at, length)? {
        at = match calls::next_hole(from, data) {
            Ok(hole) => hole.min(length),
            Err(Errno::INVAL) => length,
            Err(errno) => return Err(errno.into()),
        };
        from.seek(SeekFrom::Start(data))?;
        to.seek(SeekFrom::Start(data))?;
        io::copy(&mut from.take(at - data), &mut to)?;
    }
    Ok(())
}

/// Finds the first byte from `at` on that is not in a hole; none where that is not before `end`.
///
/// # Errors
/// The file cannot be read.
pub fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<u64>> {
    if at >= end {
        return Ok(None);
    }
    match calls::next_data(file, at) {
        Ok(data) => Ok((data < end).then_some(data)),
        Err(Errno::NXIO) => Ok(None),
        // A file system that tells of no holes.
        Err(Errno::INVAL) => Ok(Some(at)),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes pieces, and returns what is in the file and the bytes that it takes on disk.
    fn written(pieces: &[&[u8]]) -> (Vec<u8>, u64) {
        let file = File::from(tempfile::tempfile().expect("a file"));
        let mut holes = Holes::new(&file);
        pieces.iter().for_each(|piece| holes.write(piece).expect("written"));
        holes.finish().expect("finished");
        (&file).seek(SeekFrom::Start(0)).expect("a start");
        let mut content = Vec::new();
        (&file).read_to_end(&mut content).expect("read");
        (content, file.metadata().expect("metadata").blocks() * BLOCK)
    }

    #[test]
    fn zeros_take_no_room() {
        let (zeros, ones) = (vec![0; 9 * HOLE + 5], vec![1; HOLE + 3]);
        let most = 4 * HOLE as u64;
        for pieces in [
            &[&zeros[..]][..],
            &[&ones, &zeros],
            &[&zeros, &ones],
            &[&zeros[..HOLE], &zeros, &ones, &zeros[..8 * HOLE]],
            &[b"x", &zeros, b"y"],
        ] {
            let (content, room) = written(pieces);
            assert!(content == pieces.concat(), "{} bytes", content.len());
            assert!(room <= most, "{room} bytes on disk of {}", content.len());
        }
        let short = &zeros[..HOLE - 1];
        for pieces in [&[][..], &[&b"x"[..]], &[short], &[&ones, &ones]] {
            assert!(written(pieces).0 == pieces.concat());
        }
    }

    #[test]
    fn copies_have_the_same_holes() {
        let (from, to) = [(); 2].map(|()| File::from(tempfile::tempfile().expect("a file"))).into();
        from.set_len(64 << 20).expect("a length");
        for (at, bytes) in [(1 << 20, &b"one"[..]), (33 << 20, &[7; HOLE])] {
            (&from).seek(SeekFrom::Start(at)).expect("a place");
            (&from).write_all(bytes).expect("written");
        }
        copy_content(&from, &to).expect("copied");
        let read = |mut file: &File| {
            let mut content = Vec::new();
            file.seek(SeekFrom::Start(0)).expect("a start");
            file.read_to_end(&mut content).expect("read");
            content
        };
        assert!(read(&from) == read(&to));
        assert!(to.metadata().expect("metadata").blocks() * BLOCK < 1 << 20);
    }
}
