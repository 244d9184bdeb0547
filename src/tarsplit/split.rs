//! From a tar to its `tar-split.json.gz`, while it streams by.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

use crate::id::Sha256;

/// A longer segment is written in parts, in bytes: as dockerd does with what follows a tar's end.
const SEGMENT_LIMIT: usize = 1 << 20;
/// Bytes that a segment keeps when a part of it is written: a member's header is always whole at the end of a segment.
const KEPT: usize = 512;
/// What Go's gzip says it runs on: nothing it knows.
const UNKNOWN_SYSTEM: u8 = 255;

/// Why dockerd would not take a tar (tar-split `tar/storage/packer.go`).
#[derive(Debug, thiserror::Error)]
#[error("duplicates of file paths not supported: {}", .0.escape_ascii())]
pub struct Duplicate(pub Vec<u8>);

/// Members whose content stands in the segments of tar-split, as for sparse files: unpacking keeps it nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept(HashSet<[u8; 16]>);

impl Kept {
    /// Adds a member, called as its entry in tar-split is. Only a digest of the name is held.
    pub fn add(&mut self, name: &[u8]) {
        self.0.insert(digest(name));
    }

    /// Tells whether there is no such member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Gives out a tar as it is read, and writes its tar-split to `sink` on the way. Whoever reads it says, at
/// [`Splitter::begin_file`], where the content of a member begins; all else becomes segments.
pub struct Splitter<R, W: Write> {
    stream: R,
    lines: Lines<W>,
    segment: Vec<u8>,
    file: Option<OpenFile>,
    /// Digests of the cleaned names: a tar has any number of them, of any length.
    names: HashSet<[u8; 16]>,
    kept: Kept,
}

/// The member whose content comes by.
struct OpenFile {
    name: Vec<u8>,
    size: u64,
    left: u64,
    digest: Box<crc_fast::Digest>,
}

impl<R, W: Write> std::fmt::Debug for Splitter<R, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Splitter(entry {})", self.lines.position)
    }
}

impl<R: Read, W: Write> Splitter<R, W> {
    /// Reads a tar from its first byte.
    pub fn new(stream: R, sink: W) -> Self {
        let gzip = GzBuilder::new().operating_system(UNKNOWN_SYSTEM).write(sink, Compression::default());
        let lines = Lines { gzip, line: Vec::new(), position: 0 };
        Self { stream, lines, segment: Vec::new(), file: None, names: HashSet::new(), kept: Kept::default() }
    }

    /// As [`Splitter::new`], but leaves the content of some members in segments.
    pub fn keeping(stream: R, sink: W, kept: Kept) -> Self {
        Self { kept, ..Self::new(stream, sink) }
    }

    /// Takes the bytes that were read so far for the headers of a member, and the next `size` bytes for its content.
    /// `name` is what Go's tar reader calls it: long names resolved, a slash behind a directory kept.
    ///
    /// # Errors
    /// The sink takes no more; or, as an error within, see [`Duplicate`].
    pub fn begin_file(&mut self, name: &[u8], size: u64) -> io::Result<Result<(), Duplicate>> {
        if let Err(duplicate) = self.note_name(name) {
            return Ok(Err(duplicate));
        }
        if size > 0 && !self.kept.is_empty() && self.kept.0.contains(&digest(name)) {
            return Ok(Ok(()));
        }
        self.end_segment()?;
        if size == 0 {
            self.lines.file(name, 0, None)?;
        } else {
            let digest = Box::new(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso));
            self.file = Some(OpenFile { name: name.to_vec(), size, left: size, digest });
        }
        Ok(Ok(()))
    }

    /// Takes the name of a member whose content stays in segments.
    ///
    /// # Errors
    /// There was one of this name.
    pub fn note_name(&mut self, name: &[u8]) -> Result<(), Duplicate> {
        // Go cleans names, and keeps the slash in front.
        let front = if name.starts_with(b"/") { &b"/"[..] } else { b"" };
        match self.names.insert(digest(&[front, &place(name)].concat())) {
            true => Ok(()),
            false => Err(Duplicate(name.to_vec())),
        }
    }

    /// Ends the tar-split where the tar has ended, and gives the stream and the sink back.
    ///
    /// # Errors
    /// The tar ended within a member's content, or the sink takes no more.
    pub fn finish(mut self) -> io::Result<(R, W)> {
        if self.file.is_some() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end_segment()?;
        Ok((self.stream, self.lines.gzip.finish()?))
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        if let Some(file) = &mut self.file {
            let content = rest.split_off(..usize::try_from(file.left).unwrap_or(usize::MAX).min(bytes.len()));
            let content = content.unwrap_or_default();
            file.digest.update(content);
            file.left -= content.len() as u64;
            if file.left > 0 {
                return Ok(());
            }
            let crc = file.digest.finalize();
            self.lines.file(&file.name, file.size, Some(crc))?;
            self.file = None;
        }
        for part in rest.chunks(SEGMENT_LIMIT) {
            self.segment.extend_from_slice(part);
            if self.segment.len() > SEGMENT_LIMIT + KEPT {
                let kept = self.segment.split_off(self.segment.len() - KEPT);
                self.end_segment()?;
                self.segment = kept;
            }
        }
        Ok(())
    }

    fn end_segment(&mut self) -> io::Result<()> {
        if !self.segment.is_empty() {
            self.lines.segment(&self.segment)?;
            self.segment.clear();
        }
        Ok(())
    }
}

impl<R: Read, W: Write> Read for Splitter<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.stream.read(buffer)?;
        self.take(&buffer[..got])?;
        Ok(got)
    }
}

/// Returns where the file of a name is on disk, as Go cleans paths.
pub(super) fn place(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => drop(parts.pop()),
            b".." if parts.is_empty() && name.starts_with(b"/") => {}
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Stands for a name.
fn digest(name: &[u8]) -> [u8; 16] {
    let digest = Sha256::of(name);
    let (half, _) = digest.bytes().split_first_chunk().expect("because a digest has 32 bytes");
    *half
}

/// Writes the lines, as Go's `encoding/json` does: fields of no value left out, but not `payload`.
struct Lines<W: Write> {
    gzip: GzEncoder<W>,
    line: Vec<u8>,
    position: u64,
}

impl<W: Write> Lines<W> {
    fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.line.extend_from_slice(br#"{"type":2,"payload":""#);
        self.line.extend_from_slice(BASE64_STANDARD.encode(bytes).as_bytes());
        self.line.push(b'"');
        self.end()
    }

    fn file(&mut self, name: &[u8], size: u64, crc: Option<u64>) -> io::Result<()> {
        self.line.extend_from_slice(br#"{"type":1"#);
        match std::str::from_utf8(name) {
            Ok("") => {}
            Ok(name) => {
                self.line.extend_from_slice(br#","name":"#);
                write_text(&mut self.line, name)?;
            }
            Err(_) => write!(self.line, r#","name_raw":"{}""#, BASE64_STANDARD.encode(name))?,
        }
        if size > 0 {
            write!(self.line, r#","size":{size}"#)?;
        }
        match crc {
            Some(crc) => write!(self.line, r#","payload":"{}""#, BASE64_STANDARD.encode(crc.to_be_bytes()))?,
            None => self.line.extend_from_slice(br#","payload":null"#),
        }
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        writeln!(self.line, r#","position":{}}}"#, self.position)?;
        self.gzip.write_all(&self.line)?;
        self.position += 1;
        self.line.clear();
        Ok(())
    }
}

/// Writes text in quotes; Go escapes what could end a script in HTML too.
fn write_text(line: &mut Vec<u8>, text: &str) -> io::Result<()> {
    let json = serde_json::to_string(text)?;
    for letter in json.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => write!(line, "\\u{:04x}", u32::from(letter))?,
            letter => write!(line, "{letter}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    fn lines(gzip: &[u8]) -> String {
        let mut text = String::new();
        GzDecoder::new(gzip).read_to_string(&mut text).expect("gzip");
        text
    }

    /// Reads parts as headers and content: pairs of raw bytes, and a name with content behind them.
    fn split(parts: &[(&[u8], &[u8], &[u8])], end: &[u8]) -> String {
        let tar: Vec<u8> =
            parts.iter().flat_map(|(raw, _, content)| [*raw, *content].concat()).chain(end.to_vec()).collect();
        let mut splitter = Splitter::new(&tar[..], Vec::new());
        for (raw, name, content) in parts {
            splitter.read_exact(&mut vec![0; raw.len()]).expect("raw bytes");
            splitter.begin_file(name, content.len() as u64).expect("written").expect("no duplicate");
            splitter.read_exact(&mut vec![0; content.len()]).expect("content");
        }
        io::copy(&mut splitter, &mut io::sink()).expect("the rest");
        lines(&splitter.finish().expect("whole").1)
    }

    /// The same lines as engine 28.5.2 wrote for such members.
    #[test]
    fn lines_are_those_of_docker() {
        let text = split(
            &[(b"\0\0", b"bin/", b""), (b"", "a<b\u{2028}".as_bytes(), b"hello\n"), (b"\0", b"\xff", b"")],
            b"\0",
        );
        assert_eq!(
            text,
            concat!(
                r#"{"type":2,"payload":"AAA=","position":0}"#,
                "\n",
                r#"{"type":1,"name":"bin/","payload":null,"position":1}"#,
                "\n",
                r#"{"type":1,"name":"a\u003cb\u2028","size":6,"payload":"YUw+7uLYEAA=","position":2}"#,
                "\n",
                r#"{"type":2,"payload":"AA==","position":3}"#,
                "\n",
                r#"{"type":1,"name_raw":"/w==","payload":null,"position":4}"#,
                "\n",
                r#"{"type":2,"payload":"AA==","position":5}"#,
                "\n",
            )
        );
        assert_eq!(split(&[], b""), "");
    }

    #[test]
    fn names_that_docker_calls_duplicates() {
        let begin = |names: [&[u8]; 2]| {
            let mut splitter = Splitter::new(io::empty(), io::sink());
            names.into_iter().any(|name| splitter.begin_file(name, 0).expect("written").is_err())
        };
        for names in [["f", "./f"], ["d/", "d"], ["a/../b", "b"], [".", "./"], ["/f", "/../f"], ["a", "a"]] {
            assert!(begin(names.map(str::as_bytes)), "{names:?}");
        }
        for names in [["f", "f2"], ["../f", "f"], ["a/b", "ab"], ["/f", "f"]] {
            assert!(!begin(names.map(str::as_bytes)), "{names:?}");
        }
    }

    #[test]
    fn content_that_is_kept_stays_in_segments() {
        let mut kept = Kept::default();
        kept.add(b"/f");
        let mut splitter = Splitter::keeping(&b"onetwo"[..], Vec::new(), kept);
        for name in [&b"/f"[..], b"f"] {
            splitter.begin_file(name, 3).expect("written").expect("no duplicate");
            splitter.read_exact(&mut [0; 3]).expect("content");
        }
        assert!(splitter.begin_file(b"/f", 3).expect("written").is_err(), "it has a name all the same");
        let text = lines(&splitter.finish().expect("whole").1);
        let (first, rest) = text.split_once('\n').expect("lines");
        assert_eq!(first, r#"{"type":2,"payload":"b25l","position":0}"#);
        assert!(rest.starts_with(r#"{"type":1,"name":"f","size":3,"#) && rest.lines().count() == 1, "{rest}");
    }

    #[test]
    fn long_segments_are_written_in_parts() {
        let zeros = vec![0; 5 * SEGMENT_LIMIT];
        let text = split(&[(&zeros, b"f", b"x")], &zeros);
        assert!(text.lines().count() > 8);
        assert!(text.lines().all(|line| line.len() < 3 * SEGMENT_LIMIT));
    }

    #[test]
    fn content_that_ends_early() {
        let mut splitter = Splitter::new(&b"ab"[..], Vec::new());
        splitter.begin_file(b"f", 3).expect("written").expect("no duplicate");
        io::copy(&mut splitter, &mut io::sink()).expect("the rest");
        assert_eq!(splitter.finish().expect_err("cut").kind(), io::ErrorKind::UnexpectedEof);
    }
}
