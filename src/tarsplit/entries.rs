//! The line codec: reads tar-split one entry at a time.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use crate::error::ParseError;

/// Longest line that is read. The longest real ones hold the padding behind a tar's end: older engines wrote it
/// in one segment, newer ones in parts of 1 MiB.
const LINE_LIMIT: u64 = 64 << 20;

/// A CRC-64 with the polynomial of Go's `crc64.ISO`, big endian.
pub type Crc64 = [u8; 8];

/// One piece of a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Bytes of the tar as they are.
    Segment(Vec<u8>),
    /// A member; its content, if it has any, is not here.
    File {
        /// Name as Go's tar reader gives it: long names resolved, the slash behind a directory kept.
        name: Vec<u8>,
        /// Bytes of content in the tar. Some headers without content claim a size (store-format 8.6); it is 0 here.
        size: u64,
        /// Checksum of the content, where there is content.
        crc: Option<Crc64>,
    },
}

/// A line as it stands.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name_raw: Option<Cow<'a, str>>,
    #[serde(default)]
    size: i64,
    #[serde(borrow, default)]
    payload: Option<Cow<'a, str>>,
}

/// Reads the entries of a `tar-split.json.gz`, in order, in memory that does not grow with their number.
pub struct Entries<R> {
    lines: BufReader<MultiGzDecoder<R>>,
    line: Vec<u8>,
    number: u64,
    /// Type of the header that the last segment ended with.
    type_flag: u8,
}

impl<R> std::fmt::Debug for Entries<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entries(line {})", self.number)
    }
}

impl<R: Read> Entries<R> {
    /// Reads from the compressed bytes.
    pub fn new(gzip: R) -> Self {
        Self {
            lines: BufReader::with_capacity(64 << 10, MultiGzDecoder::new(gzip)),
            line: Vec::new(),
            number: 0,
            type_flag: b'0',
        }
    }

    /// Takes the size from a file entry that has none: the type is in the header before it.
    fn settle(&mut self, entry: Entry) -> Entry {
        match entry {
            Entry::Segment(bytes) => {
                if let Some(header) = bytes.len().checked_sub(512) {
                    self.type_flag = bytes[header + 156];
                }
                Entry::Segment(bytes)
            }
            Entry::File { name, .. }
                if is_header_only(self.type_flag) || self.type_flag == 0 && name.ends_with(b"/") =>
            {
                Entry::File { name, size: 0, crc: None }
            }
            file => file,
        }
    }

    fn read_line(&mut self) -> Result<bool, ParseError> {
        self.line.clear();
        let read = (&mut self.lines).take(LINE_LIMIT).read_until(b'\n', &mut self.line);
        self.number += 1;
        match read {
            Err(error) => Err(ParseError::because("gzip of tar-split lines", error)),
            Ok(0) => Ok(false),
            Ok(_) if self.line.ends_with(b"\n") => Ok(true),
            Ok(_) if self.line.len() as u64 == LINE_LIMIT => {
                Err(ParseError::because("a tar-split line", format!("one longer than {LINE_LIMIT} bytes")))
            }
            // The last line may lack its end; half a line is told by the JSON parser.
            Ok(_) => Ok(true),
        }
    }
}

impl<R: Read> Iterator for Entries<R> {
    type Item = Result<Entry, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.read_line() {
            Ok(true) => Some(match parse_line(&self.line) {
                Ok(entry) => Ok(self.settle(entry)),
                Err(error) => {
                    Err(ParseError { expected: format!("{} in line {}", error.expected, self.number), ..error })
                }
            }),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// Tells whether members with this type flag are a header and nothing else, whatever size they claim
/// (Go `archive/tar` `isHeaderOnly`).
pub(crate) fn is_header_only(type_flag: u8) -> bool {
    matches!(type_flag, b'1'..=b'6')
}

/// Parses one line.
pub(super) fn parse_line(line: &[u8]) -> Result<Entry, ParseError> {
    let parsed: Line<'_> =
        serde_json::from_slice(line).map_err(|error| ParseError::because("a tar-split entry", error))?;
    let base64 = |text: &str| {
        BASE64_STANDARD.decode(text).map_err(|error| ParseError::because("base64 in a tar-split entry", error))
    };
    match parsed.kind {
        1 => {
            let name = match (&parsed.name_raw, &parsed.name) {
                (Some(raw), _) => base64(raw)?,
                (None, Some(name)) => name.as_bytes().to_vec(),
                (None, None) => Vec::new(),
            };
            let size = u64::try_from(parsed.size)
                .map_err(|_| ParseError::because("a size in a tar-split entry", parsed.size))?;
            let crc = parsed.payload.as_deref().map(base64).transpose()?;
            let crc = crc
                .map(|bytes| Crc64::try_from(&bytes[..]).map_err(|_| ParseError::new("a CRC of eight bytes", &bytes)))
                .transpose()?;
            Ok(Entry::File { name, size, crc })
        }
        2 => Ok(Entry::Segment(parsed.payload.as_deref().map(base64).transpose()?.unwrap_or_default())),
        kind => Err(ParseError::because("a tar-split entry of type 1 or 2", format!("type {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lines as engine 28.5.2 wrote them (names shortened).
    #[test]
    fn real_lines() {
        assert_eq!(
            parse_line(br#"{"type":1,"name":"bin/","payload":null,"position":1}"#),
            Ok(Entry::File { name: b"bin/".to_vec(), size: 0, crc: None })
        );
        assert_eq!(
            parse_line(br#"{"type":1,"name":"a\u003cb","size":6,"payload":"YUw+7uLYEAA=","position":3}"#),
            Ok(Entry::File {
                name: b"a<b".to_vec(),
                size: 6,
                crc: Some([0x61, 0x4c, 0x3e, 0xee, 0xe2, 0xd8, 0x10, 0x00])
            })
        );
        assert_eq!(
            parse_line(br#"{"type":1,"name_raw":"/w==","payload":null,"position":1}"#),
            Ok(Entry::File { name: vec![0xff], size: 0, crc: None })
        );
        assert_eq!(parse_line(br#"{"type":2,"payload":"AAA=","position":0}"#), Ok(Entry::Segment(vec![0, 0])));
        assert_eq!(parse_line(br#"{"type":2,"payload":null,"position":0}"#), Ok(Entry::Segment(vec![])));
    }

    #[test]
    fn the_checksum_is_go_iso() {
        let crc = |bytes: &[u8]| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64GoIso, bytes).to_be_bytes();
        assert_eq!(crc(b"123456789"), [0xb9, 0x09, 0x56, 0xc7, 0x75, 0xa4, 0x10, 0x01]);
        let oracle = crc::Crc::<u64>::new(&crc::CRC_64_GO_ISO);
        for length in [0, 1, 7, 255, 4096, 100_003] {
            let bytes: Vec<u8> = (0..length).map(|i: u32| (i * 31 % 251) as u8).collect();
            assert_eq!(crc(&bytes), oracle.checksum(&bytes).to_be_bytes());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(line: Vec<u8>) {
            let _ = parse_line(&line);
            for entry in Entries::new(&line[..]) {
                if entry.is_err() { break }
            }
        }
    }
}
