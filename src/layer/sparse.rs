//! Sparse files: members of which the tar has only some parts, between holes of zeros.
//!
//! PAX records (GNU tar's `--format=posix --sparse`, Go `archive/tar`) give the real name and length, and the *map*,
//! offset and length of each part: in 0.0 as a pair of records for each, in 0.1 in one record, in 1.0 as lines of
//! decimal digits in front of the content, filled up to a block. The parts follow each other without the holes.
//!
//! Docker unpacks such files, but writes a tar-split of them in which the map is missing, so it can never save the layer
//! again. Here the whole content, with the map, stands in the segments of tar-split, and there is no file entry: whoever
//! assembles the tar, dockerd too, has it without reading the file. So what is in the file is proved apart
//! ([`SparseMap::compare`]). GNU's older form, type `S`, is refused, as Docker does.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use super::member::TarError;
use crate::fsx::{File, next_data};

/// Most parts that a file may have.
const PARTS_LIMIT: u64 = 1 << 18;
/// Bytes read from a file at once.
const CHUNK: usize = 128 << 10;

/// Which parts of a sparse file the tar has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SparseMap {
    /// Offset and length of each, in bytes; in order, and none reaches into the next.
    pub(crate) parts: Vec<(u64, u64)>,
    /// Length of the file.
    pub(crate) size: u64,
}

/// Where the map is.
pub(super) enum Form {
    /// In these records.
    Records(Vec<u64>),
    /// In front of the content.
    Content,
}

fn bad() -> TarError {
    TarError::Header("map of a sparse file")
}

impl Form {
    /// Tells what PAX records say; nothing where the member is not sparse, or is in a version that Go does not know: to
    /// Docker that is a plain file.
    pub(super) fn of(pax: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Option<Self>, TarError> {
        let get = |key: &str| pax.get(format!("GNU.sparse.{key}").as_bytes()).map_or(&b""[..], |value| value);
        let map = get("map");
        match (get("major"), get("minor")) {
            (b"1", b"0") => return Ok(Some(Self::Content)),
            (b"0", b"0" | b"1") => {}
            (b"", b"") if !map.is_empty() => {}
            _ => return Ok(None),
        }
        let numbers = map.split(|byte| *byte == b',').filter(|_| !map.is_empty()).map(number);
        let numbers: Vec<u64> = numbers.collect::<Option<_>>().ok_or_else(bad)?;
        // Go counts the parts by this record, and takes no map without it.
        let count = number(get("numblocks")).and_then(|count| count.checked_mul(2)).ok_or_else(bad)?;
        if count == numbers.len() as u64 { Ok(Some(Self::Records(numbers))) } else { Err(bad()) }
    }
}

/// Reads a decimal number.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|number| i64::try_from(*number).is_ok())
}

/// A map that is read from the content, number by number.
#[derive(Default)]
pub(super) struct Numbers {
    numbers: Vec<u64>,
    digits: Vec<u8>,
    count: Option<u64>,
}

impl Numbers {
    /// Takes the next block; gives the numbers when it holds the last of them.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<Option<Vec<u64>>, TarError> {
        for byte in block {
            if *byte != b'\n' {
                self.digits.push(*byte);
                // No number is longer.
                if self.digits.len() > 20 {
                    return Err(bad());
                }
                continue;
            }
            let number = number(&self.digits).ok_or_else(bad)?;
            self.digits.clear();
            match self.count {
                None if number > PARTS_LIMIT => return Err(bad()),
                None => self.count = Some(number),
                Some(_) => self.numbers.push(number),
            }
            if self.count.is_some_and(|count| self.numbers.len() as u64 == 2 * count) {
                return Ok(Some(std::mem::take(&mut self.numbers)));
            }
        }
        Ok(None)
    }
}

impl SparseMap {
    /// Takes pairs of offset and length for a file of `size` bytes, of which the tar has `packed`.
    pub(super) fn new(numbers: &[u64], size: u64, packed: u64) -> Result<Self, TarError> {
        let (pairs, rest) = numbers.as_chunks::<2>();
        let (mut end, mut sum) = (0, 0);
        for [offset, length] in pairs {
            if *offset < end {
                return Err(bad());
            }
            end = offset.checked_add(*length).filter(|end| *end <= size).ok_or_else(bad)?;
            sum += length;
        }
        match rest.is_empty() && sum == packed {
            true => Ok(Self { parts: pairs.iter().map(|[offset, length]| (*offset, *length)).collect(), size }),
            false => Err(bad()),
        }
    }

    /// Gives the parts of a file to `with`, and tells whether all else of it is zeros. Holes on disk are not read.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter.
    pub(crate) fn compare(&self, mut file: &File, mut with: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        for (offset, length) in self.parts.iter().copied().chain([(self.size, 0)]) {
            while let Some(data) = next_data(file, at, offset)? {
                let want = usize::try_from(offset - data).unwrap_or(CHUNK).min(CHUNK);
                file.read_exact_at(&mut buffer[..want], data)?;
                if buffer[..want].iter().any(|byte| *byte != 0) {
                    return Ok(false);
                }
                at = data + want as u64;
            }
            file.seek(SeekFrom::Start(offset))?;
            let mut left = length;
            while left > 0 {
                let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                file.read_exact(&mut buffer[..want])?;
                with(&buffer[..want]);
                left -= want as u64;
            }
            at = offset + length;
        }
        Ok(true)
    }
}

/// The content of a sparse file: its parts one after the other, as the tar has them, with the holes as zeros.
#[derive(Debug)]
pub(crate) struct Filled<R> {
    parts: R,
    map: SparseMap,
    /// The part that is next.
    next: usize,
    at: u64,
}

impl<R> Filled<R> {
    /// Begins with the parts.
    pub(crate) fn new(parts: R, map: SparseMap) -> Self {
        Self { parts, map, next: 0, at: 0 }
    }
}

impl<R: io::Read> io::Read for Filled<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.map.parts.get(self.next).is_some_and(|(offset, length)| offset + length <= self.at) {
            self.next += 1;
        }
        let (offset, length) = self.map.parts.get(self.next).copied().unwrap_or((self.map.size, 0));
        let is_hole = self.at < offset;
        let end = if is_hole { offset } else { offset + length };
        let want = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let got = if is_hole {
            buffer[..want].fill(0);
            want
        } else {
            self.parts.read(&mut buffer[..want])?
        };
        if got == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled() {
        let filled = |parts: &[u8], numbers: &[u64], size| {
            let packed = numbers.iter().skip(1).step_by(2).sum();
            let map = SparseMap::new(numbers, size, packed).expect("a map");
            let mut found: Vec<u8> = Vec::new();
            // Whatever pieces it is read in.
            let mut filled = Filled::new(parts, map);
            let mut buffer = [1; 3];
            loop {
                match filled.read(&mut buffer)? {
                    0 => return io::Result::Ok(found),
                    got => found.extend(&buffer[..got]),
                }
            }
        };
        assert_eq!(filled(b"abcd", &[0, 2, 2, 0, 4, 1, 5, 1, 10, 0], 10).expect("read"), b"ab\0\0cd\0\0\0\0");
        assert_eq!(filled(b"", &[], 4).expect("read"), [0; 4]);
        assert_eq!(filled(b"", &[0, 0], 0).expect("read"), b"");
        assert_eq!(filled(b"abcd", &[1, 4], 5).expect("read"), b"\0abcd");
        assert!(filled(b"abc", &[1, 4], 5).is_err());
    }

    #[test]
    fn forms_that_go_takes() {
        let form = |records: &[(&str, &str)]| {
            let records = records.iter().map(|(key, value)| (format!("GNU.sparse.{key}").into(), (*value).into()));
            Form::of(&records.collect()).map(|form| {
                form.map(|form| match form {
                    Form::Records(numbers) => numbers,
                    Form::Content => vec![u64::MAX],
                })
            })
        };
        let (map, count) = (("map", "0,2,5,1"), ("numblocks", "2"));
        let (major, minor) = (("major", "0"), ("minor", "1"));
        assert_eq!(form(&[map, count]).expect("a form"), Some(vec![0, 2, 5, 1]));
        assert_eq!(form(&[major, minor, map, count]).expect("a form"), Some(vec![0, 2, 5, 1]));
        assert_eq!(form(&[major, minor, ("numblocks", "0")]).expect("a form"), Some(vec![]));
        assert_eq!(form(&[("major", "1"), ("minor", "0")]).expect("a form"), Some(vec![u64::MAX]));
        for plain in [&[][..], &[count], &[("major", "2"), map], &[("minor", "1"), map, count]] {
            assert_eq!(form(plain).expect("a plain file"), None, "{plain:?}");
        }
        for bad in [
            &[map][..],
            &[map, ("numblocks", "1")],
            &[map, ("numblocks", "x")],
            &[major, minor],
            &[("map", "0,a"), count],
        ] {
            assert!(form(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn maps() {
        let map = |numbers: &[u64], size, packed| SparseMap::new(numbers, size, packed).ok().map(|map| map.parts);
        assert_eq!(map(&[0, 2, 5, 1, 9, 0], 9, 3), Some(vec![(0, 2), (5, 1), (9, 0)]));
        assert_eq!(map(&[], 1 << 40, 0), Some(vec![]));
        for (numbers, size, packed) in [
            (&[0, 2, 1, 1][..], 9, 3),
            (&[5, 1, 0, 1], 9, 2),
            (&[0, 2, 5], 9, 2),
            (&[0, 2], 9, 3),
            (&[0, 2], 1, 2),
            (&[u64::MAX, 2], 9, 2),
        ] {
            assert_eq!(map(numbers, size, packed), None, "{numbers:?}");
        }
    }

    #[test]
    fn numbers_in_front_of_content() {
        let read = |text: &[u8]| Numbers::default().take(text);
        assert_eq!(read(b"2\n0\n10\n20\n30\n\0\0").expect("numbers"), Some(vec![0, 10, 20, 30]));
        assert_eq!(read(b"0\n").expect("numbers"), Some(vec![]));
        assert_eq!(read(b"2\n0\n10\n20\n").expect("some numbers"), None);
        for text in [&b"\n"[..], b"-1\n", b"1\n+2\n", b"9999999999\n", b"1\n99999999999999999999999\n", &[0; 512]] {
            assert!(read(text).is_err(), "{}", text.escape_ascii());
        }
    }
}
