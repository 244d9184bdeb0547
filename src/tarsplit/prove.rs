//! Proves that a tar is the one that tar-split tells of, while it streams by.

use std::collections::VecDeque;
use std::io::Read;

use crate::error::ParseError;

use super::entries::{Crc64, Entries, Entry};

/// Why a tar and a tar-split do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum Mismatch {
    /// tar-split is damaged.
    #[error("tar-split: {0}")]
    TarSplit(#[from] ParseError),
    /// They differ.
    #[error("the tar is not the one that its tar-split tells of, at byte {0}")]
    Differs(u64),
    /// A file's content is not the one that tar-split tells of.
    #[error("file {}: the content does not match the CRC-64 in tar-split", .0.escape_ascii())]
    Content(Vec<u8>),
    /// A member has another name in the tar.
    #[error("tar-split has the name \"{}\" where the tar has another", .0.escape_ascii())]
    Name(Vec<u8>),
}

/// Tells whether a name in tar-split is the one that a tar has.
type IsName = fn(&[u8], &[u8]) -> bool;

/// Name of a member, and whether it has content.
type Awaited = (Vec<u8>, bool);

/// What the next bytes of the tar must be.
enum Expected {
    Segment { bytes: Vec<u8>, done: usize },
    Content { name: Vec<u8>, left: u64, crc: Option<Crc64>, digest: Box<crc_fast::Digest> },
}

/// Compares a tar with tar-split entries, in memory that does not grow with either.
pub struct Prover<R> {
    entries: Entries<R>,
    expected: Option<Expected>,
    position: u64,
    /// Names in the tar of which the entries have not come by, where names are compared: an entry is behind the
    /// segment with its header.
    names: Option<(VecDeque<Awaited>, IsName)>,
}

impl<R> std::fmt::Debug for Prover<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prover(byte {})", self.position)
    }
}

impl<R: Read> Prover<R> {
    /// Proves against these entries.
    pub fn new(entries: Entries<R>) -> Self {
        Self { entries, expected: None, position: 0, names: None }
    }

    /// As [`Prover::new`], and proves that entries have the names that [`Prover::expect_name`] is told. dockerd takes the
    /// content of a file from where tar-split says it is.
    pub fn with_names(entries: Entries<R>, is_name: IsName) -> Self {
        Self { names: Some((VecDeque::new(), is_name)), ..Self::new(entries) }
    }

    /// Takes the name of the next member of the tar, and the bytes of its content, when all of its headers have been taken
    /// and nothing behind them.
    pub fn expect_name(&mut self, name: &[u8], size: u64) {
        // Where the segment goes on with content, there is no entry.
        let is_kept = size > 0 && matches!(self.expected, Some(Expected::Segment { .. }));
        if let Some((names, _)) = self.names.as_mut().filter(|_| !is_kept) {
            names.push_back((name.to_vec(), size > 0));
        }
    }

    /// Takes the next bytes of the tar.
    ///
    /// # Errors
    /// They are not the bytes that tar-split tells of.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), Mismatch> {
        while !bytes.is_empty() {
            let differs = Mismatch::Differs(self.position);
            let taken = match &mut self.expected {
                None => {
                    self.expected = self.advance()?;
                    if self.expected.is_none() {
                        return Err(differs);
                    }
                    continue;
                }
                Some(Expected::Segment { bytes: segment, done }) => {
                    let taken = bytes.len().min(segment.len() - *done);
                    if segment[*done..*done + taken] != bytes[..taken] {
                        return Err(differs);
                    }
                    *done += taken;
                    taken
                }
                Some(Expected::Content { left, digest, .. }) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    digest.update(&bytes[..taken]);
                    *left -= taken as u64;
                    taken
                }
            };
            bytes = &bytes[taken..];
            self.position += taken as u64;
            self.close_finished()?;
        }
        Ok(())
    }

    /// Proves that the tar ends where tar-split ends.
    ///
    /// # Errors
    /// tar-split tells of more.
    pub fn finish(mut self) -> Result<(), Mismatch> {
        if self.expected.is_some() || self.advance()?.is_some() {
            return Err(Mismatch::Differs(self.position));
        }
        match self.names {
            Some((names, _)) if !names.is_empty() => Err(Mismatch::Name(Vec::new())),
            _ => Ok(()),
        }
    }

    /// Reads on to the next entry that stands for bytes of the tar.
    fn advance(&mut self) -> Result<Option<Expected>, Mismatch> {
        for entry in self.entries.by_ref() {
            let entry = entry?;
            if let (Some((names, is_name)), Entry::File { name, .. }) = (&mut self.names, &entry)
                && !names.pop_front().is_some_and(|(expected, _)| is_name(name, &expected))
            {
                return Err(Mismatch::Name(name.clone()));
            }
            match entry {
                Entry::Segment(bytes) if bytes.is_empty() => {}
                Entry::Segment(bytes) => {
                    // Content that follows its header in the next segment.
                    if let Some((names, _)) = &mut self.names
                        && names.front().is_some_and(|(_, has_content)| *has_content)
                    {
                        names.pop_front();
                    }
                    return Ok(Some(Expected::Segment { bytes, done: 0 }));
                }
                Entry::File { name, size, crc } if size > 0 => {
                    let digest = Box::new(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso));
                    return Ok(Some(Expected::Content { name, left: size, crc, digest }));
                }
                Entry::File { .. } => {}
            }
        }
        Ok(None)
    }

    fn close_finished(&mut self) -> Result<(), Mismatch> {
        match &mut self.expected {
            Some(Expected::Segment { bytes, done }) if *done == bytes.len() => self.expected = None,
            Some(Expected::Content { name, left: 0, crc, digest }) => {
                if crc.is_none_or(|crc| digest.finalize().to_be_bytes() != crc) {
                    return Err(Mismatch::Content(std::mem::take(name)));
                }
                self.expected = None;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(lines: &str) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(lines.as_bytes()).expect("written");
        gzip.finish().expect("finished")
    }

    /// Two members of no size, whose headers are `a` and `b`, and the end `c`.
    fn prove(entries: [&str; 2], members: &[&str]) -> Result<(), Mismatch> {
        let [one, other] = entries;
        let lines = [
            r#"{"type":2,"payload":"YQ=="}"#.to_owned(),
            format!(r#"{{"type":1,"name":"{one}"}}"#),
            r#"{"type":2,"payload":"Yg=="}"#.to_owned(),
            format!(r#"{{"type":1,"name":"{other}"}}"#),
            r#"{"type":2,"payload":"Yw=="}"#.to_owned(),
        ];
        let gzip = gzip(&lines.join("\n"));
        let mut prover = Prover::with_names(Entries::new(&gzip[..]), |found, expected| found == expected);
        for (header, name) in [b"a", b"b"].into_iter().zip(members) {
            prover.update(header)?;
            prover.expect_name(name.as_bytes(), 0);
        }
        prover.update(b"c")?;
        prover.finish()
    }

    #[test]
    fn names_are_those_of_the_tar() {
        prove(["one", "other"], &["one", "other"]).expect("the same names");
        for entries in [["one", "one"], ["other", "one"], ["one", ""]] {
            let found = prove(entries, &["one", "other"]);
            assert!(matches!(found, Err(Mismatch::Name(_))), "{entries:?}: {found:?}");
        }
    }

    #[test]
    fn bytes_are_those_of_the_tar() {
        let gzip = gzip(r#"{"type":2,"payload":"YWI="}"#);
        let prover = || Prover::new(Entries::new(&gzip[..]));
        prover().update(b"ab").expect("the same bytes");
        assert!(matches!(prover().update(b"ax"), Err(Mismatch::Differs(_))));
        assert!(matches!(prover().update(b"abc"), Err(Mismatch::Differs(_))));
        let mut cut = prover();
        cut.update(b"a").expect("the same bytes");
        assert!(matches!(cut.finish(), Err(Mismatch::Differs(1))));
    }
}
