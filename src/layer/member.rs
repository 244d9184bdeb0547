//! Reads the members of a layer's tar: names, attributes and where content begins.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use crate::error::ParseError;
use crate::fsx::{Time, XattrName};
use crate::tarsplit::{Duplicate, Entry, Segments, Splitter, is_header_only};

use super::header::{BLOCK, Header};
use super::sparse::{self, Form, Numbers, SparseMap};

/// An owner or group that the kernel takes for the one that is there.
const UNCHANGED: u32 = u32::MAX;

/// Longest PAX header or GNU long name (Go `archive/tar` `maxSpecialFileSize`), in bytes.
const SPECIAL_LIMIT: u64 = 1 << 20;

/// Why a tar cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// The stream ends within a member.
    #[error("the tar ends in the middle of a member")]
    Cut,
    /// A field of a header is not of its form.
    #[error("a tar header has a bad {0}")]
    Header(&'static str),
    /// A name or a link leads out of the layer.
    #[error("{} leads out of the layer", .0.escape_ascii())]
    Escapes(Vec<u8>),
    /// A sparse file that cannot be unpacked, and why.
    #[error("sparse file {}, {}", .0.escape_ascii(), .1)]
    Sparse(Vec<u8>, &'static str),
    /// A name that was there before; Docker refuses such a layer.
    #[error(transparent)]
    Duplicate(#[from] Duplicate),
    /// A member that Docker does not unpack either.
    #[error("{}: unknown type of member '{}'", .0.escape_ascii(), .1.escape_ascii())]
    Type(Vec<u8>, u8),
}

/// Type of a member with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file.
    File,
    /// A further name of the member with this cleaned path.
    HardLink(Vec<u8>),
    /// A symbolic link that says this.
    Symlink(Vec<u8>),
    /// A character device of this number.
    Char(u32, u32),
    /// A block device of this number.
    Block(u32, u32),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// PAX records for all members after it; Docker ignores them.
    GlobalHeader,
}

/// What a tar is read from.
pub trait TarStream: Read {
    /// Told that the headers of a member have been read, and that its content, `size` bytes, comes next. `name` is what
    /// the tar calls it, long names resolved.
    ///
    /// # Errors
    /// The stream does not take such a member.
    fn begin_member(&mut self, _name: &[u8], _size: u64) -> Result<(), TarError> {
        Ok(())
    }

    /// Tells, behind the headers of a file, whether its content is there although that of others is left out.
    ///
    /// # Errors
    /// The stream cannot be read.
    fn keeps_content(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    /// As [`TarStream::begin_member`], of a sparse file: its content has no entry in tar-split.
    ///
    /// # Errors
    /// The stream does not take such a member.
    fn begin_sparse(&mut self, _name: &[u8]) -> Result<(), TarError> {
        Ok(())
    }

    /// Passes over bytes that nobody wants, or over what is left of them.
    ///
    /// # Errors
    /// The stream cannot be read.
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        io::copy(&mut Read::take(&mut *self, bytes), &mut io::sink()).map(drop)
    }
}

impl TarStream for &[u8] {}

impl<I: Iterator<Item = Result<Entry, ParseError>>> TarStream for Segments<I> {
    fn keeps_content(&mut self) -> io::Result<bool> {
        self.goes_on()
    }

    fn begin_sparse(&mut self, name: &[u8]) -> Result<(), TarError> {
        match self.goes_on()? {
            true => Ok(()),
            false => Err(TarError::Sparse(name.to_vec(), "of which Docker has not kept where its parts belong")),
        }
    }
}

impl<R: Read, W: Write> TarStream for Splitter<R, W> {
    fn begin_member(&mut self, name: &[u8], size: u64) -> Result<(), TarError> {
        Ok(self.begin_file(name, size)??)
    }

    fn begin_sparse(&mut self, name: &[u8]) -> Result<(), TarError> {
        Ok(self.note_name(name)?)
    }
}

/// A member of a layer's tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path below the layer's root, cleaned: no empty component, `.` or `..`. Empty for the root itself.
    pub path: Vec<u8>,
    /// Type.
    pub kind: MemberKind,
    /// Permission bits with setuid, setgid and sticky (octal 7777).
    pub mode: u32,
    /// Owner, as far as Docker gives it to the kernel: its low 32 bits. All ones leave who it is.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Bytes of content that follow in the stream; of a sparse file only those of its parts.
    pub size: u64,
    /// Where the parts of a sparse file belong, or of a file whose content tar-split has.
    pub sparse: Option<SparseMap>,
    /// Bytes that the header claims, also where nothing follows it.
    pub claimed: u64,
    /// Time of last change as Docker sets it: outside of 1970 to 2262 it becomes 1970.
    pub mtime: Time,
    /// Time of last access as Docker sets it: not before `mtime`.
    pub atime: Time,
    /// Extended attributes.
    pub xattrs: BTreeMap<XattrName, Vec<u8>>,
}

impl Member {
    /// Returns owner and group of a node that is `before`'s until the header is used.
    pub(crate) fn owner(&self, before: (u32, u32)) -> (u32, u32) {
        let of = |wanted, before| if wanted == UNCHANGED { before } else { wanted };
        (of(self.uid, before.0), of(self.gid, before.1))
    }
}

/// Where the content of files is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// In the stream, as in any tar.
    Present,
    /// Left out, as in the segments of tar-split. That of sparse files is there, and what unpacking keeps nowhere.
    Elided,
}

/// Reads members one by one.
#[derive(Debug)]
pub struct Members<R> {
    stream: R,
    content: Content,
    /// Bytes of the last member's content that nobody has read.
    unread: u64,
    /// Zero bytes between the last member's content and the next header.
    padding: u64,
}

impl<R: TarStream> Members<R> {
    /// Reads a tar from its first byte.
    pub fn new(stream: R, content: Content) -> Self {
        Self { stream, content, unread: 0, padding: 0 }
    }

    /// Reads the next member; `None` at the end of the tar. What follows the end stays in the stream.
    ///
    /// # Errors
    /// See [`TarError`].
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut special = Special::default();
        loop {
            let Some(header) = self.next_header()? else { return Ok(None) };
            let size = u64::try_from(header.size).map_err(|_| TarError::Header("size"))?;
            match header.type_flag {
                b'x' => special.pax = parse_pax(&self.read_special(size)?)?,
                b'L' => special.name = Some(until_nul(self.read_special(size)?)),
                b'K' => special.link = Some(until_nul(self.read_special(size)?)),
                b'g' => {
                    // Its records are in the stream; Docker makes nothing of them.
                    let records = parse_pax(&self.read_special(size)?)?;
                    self.stream.begin_member(records.get(&b"path"[..]).unwrap_or(&header.name), 0)?;
                    return Ok(Some(global_header()));
                }
                _ => return self.begin(header, special).map(Some),
            }
        }
    }

    /// Reads content of the member that was returned last.
    ///
    /// # Errors
    /// The stream cannot be read or ends.
    pub fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let want = usize::try_from(self.unread).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        loop {
            match self.stream.read(&mut buffer[..want]) {
                Ok(0) => return Err(TarError::Cut),
                Ok(got) => {
                    self.unread -= got as u64;
                    return Ok(got);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns the stream, wherever it is.
    pub fn stream(&mut self) -> &mut R {
        &mut self.stream
    }

    /// Gives the stream back, behind the end of the tar.
    pub fn into_stream(self) -> R {
        self.stream
    }

    fn next_header(&mut self) -> Result<Option<Header>, TarError> {
        self.skip(self.unread + self.padding)?;
        (self.unread, self.padding) = (0, 0);
        let Some(block) = self.read_block()? else { return Ok(None) };
        if block.iter().any(|byte| *byte != 0) {
            return Header::parse(&block).map(Some);
        }
        // Two zero blocks end a tar; so does the end of the stream.
        match self.read_block()? {
            Some(second) if second.iter().any(|byte| *byte != 0) => Err(TarError::Header("end of the tar")),
            _ => Ok(None),
        }
    }

    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.stream.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Cut),
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(block))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), TarError> {
        // A stream that ends in the padding behind the last member is whole.
        Ok(self.stream.skip(bytes)?)
    }

    fn read_special(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > SPECIAL_LIMIT {
            return Err(TarError::Header("length of a name or PAX header"));
        }
        let mut bytes = Vec::new();
        (&mut self.stream).take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(TarError::Cut);
        }
        self.padding = padding(size);
        Ok(bytes)
    }

    /// Puts header and special records together, and notes where the content ends.
    fn begin(&mut self, header: Header, special: Special) -> Result<Member, TarError> {
        let (name, mut member, form) = special.merge(header)?;
        self.padding = padding(member.size);
        let Some(form) = form else {
            self.stream.begin_member(&name, member.size)?;
            if self.content == Content::Present {
                self.unread = member.size;
            } else if member.size > 0 && self.stream.keeps_content()? {
                self.unread = member.size;
                member.sparse = Some(SparseMap { parts: vec![(0, member.size)], size: member.size });
            }
            return Ok(member);
        };
        self.stream.begin_sparse(&name)?;
        self.unread = member.size;
        let numbers = match form {
            Form::Records(numbers) => numbers,
            Form::Content => self.read_map()?,
        };
        member.size = self.unread;
        member.sparse = Some(SparseMap::new(&numbers, member.claimed, member.size)?);
        Ok(member)
    }

    /// Reads the map in front of a sparse file's content.
    fn read_map(&mut self) -> Result<Vec<u64>, TarError> {
        let (mut numbers, mut block) = (Numbers::default(), [0; BLOCK]);
        loop {
            let mut filled = 0;
            while filled < BLOCK {
                match self.read_content(&mut block[filled..])? {
                    0 => return Err(TarError::Header("map of a sparse file")),
                    got => filled += got,
                }
            }
            if let Some(numbers) = numbers.take(&block)? {
                return Ok(numbers);
            }
        }
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn global_header() -> Member {
    let never = Time { seconds: 0, nanos: 0 };
    Member {
        path: Vec::new(),
        kind: MemberKind::GlobalHeader,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        sparse: None,
        claimed: 0,
        mtime: never,
        atime: never,
        xattrs: BTreeMap::new(),
    }
}

/// What headers before a member's own say of it.
#[derive(Default)]
struct Special {
    pax: BTreeMap<Vec<u8>, Vec<u8>>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Special {
    /// Returns the name as the tar has it, and the member; of a sparse file, where its map is.
    fn merge(mut self, header: Header) -> Result<(Vec<u8>, Member, Option<Form>), TarError> {
        let mut name = self.name.take().or_else(|| self.pax.remove(&b"path"[..])).unwrap_or(header.name);
        let link = self.link.take().or_else(|| self.pax.remove(&b"linkpath"[..])).unwrap_or(header.link);
        if header.type_flag == b'S' {
            return Err(TarError::Sparse(name, "of a form of GNU tar that Docker does not take either"));
        }
        let form = Form::of(&self.pax)?;
        if form.is_some() {
            name = self.pax.remove(&b"GNU.sparse.name"[..]).unwrap_or(name);
        }
        let size = u64::try_from(self.number(b"size", header.size)?).map_err(|_| TarError::Header("size"))?;
        let device = device(header.device);
        let kind = match header.type_flag {
            0 if name.ends_with(b"/") => MemberKind::Directory,
            0 | b'0' => MemberKind::File,
            b'1' => MemberKind::HardLink(clean(&link)?),
            b'2' => MemberKind::Symlink(link),
            b'3' => MemberKind::Char(device.0, device.1),
            b'4' => MemberKind::Block(device.0, device.1),
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            other => return Err(TarError::Type(name, other)),
        };
        if form.is_some() && kind != MemberKind::File {
            return Err(TarError::Sparse(name, "which is no file"));
        }
        let claimed = match [&b"GNU.sparse.size"[..], b"GNU.sparse.realsize"].iter().find_map(|key| self.pax.get(*key))
        {
            Some(text) if form.is_some() => sparse::number(text).ok_or(TarError::Header("length of a sparse file"))?,
            _ => size,
        };
        let has_content = !is_header_only(header.type_flag) && kind != MemberKind::Directory;
        // Nothing comes of it, but Docker reads it.
        self.time(b"ctime")?;
        let mtime = self.time(b"mtime")?.unwrap_or((header.mtime, 0));
        let atime = self.time(b"atime")?.or(header.atime.map(|seconds| (seconds, 0))).unwrap_or(mtime);
        let (mtime, atime) = (bound(mtime), bound(atime));
        let member = Member {
            path: clean(&name)?,
            kind,
            mode: (header.mode & 0o7777) as u32,
            uid: low_half(self.number(b"uid", header.uid)?),
            gid: low_half(self.number(b"gid", header.gid)?),
            size: if has_content { size } else { 0 },
            sparse: None,
            claimed,
            mtime,
            atime: atime.max(mtime),
            xattrs: self
                .pax
                .into_iter()
                .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value)))
                .collect(),
        };
        Ok((name, member, form))
    }

    fn number(&self, key: &[u8], otherwise: i64) -> Result<i64, TarError> {
        match self.pax.get(key) {
            None => Ok(otherwise),
            Some(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or(TarError::Header("number in a PAX header")),
        }
    }

    fn time(&self, key: &[u8]) -> Result<Option<(i64, u32)>, TarError> {
        self.pax.get(key).map(|text| pax_time(text).ok_or(TarError::Header("time in a PAX header"))).transpose()
    }
}

/// What of an owner or group reaches the kernel.
fn low_half(number: i64) -> u32 {
    (number & i64::from(u32::MAX)) as u32
}

/// Makes of a device number what Docker's call of `mknod` has of it: 12 bits and 20.
fn device((major, minor): (i64, i64)) -> (u32, u32) {
    ((major & 0xfff) as u32, (minor & 0xf_ffff) as u32)
}

/// Clamps a time as Docker does: outside of what fits in 64 bits of nanoseconds since 1970 it becomes 1970
/// (moby go-archive `boundTime`).
fn bound((seconds, nanos): (i64, u32)) -> Time {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    if (0..=i128::from(i64::MAX)).contains(&total) { Time { seconds, nanos } } else { Time { seconds: 0, nanos: 0 } }
}

/// Parses `[-]seconds[.fraction]`; digits beyond nanoseconds are cut off.
fn pax_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

/// Parses PAX records: `length key=value\n`, where the value may hold any bytes. An empty value takes the
/// record back.
fn parse_pax(mut bytes: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, TarError> {
    let bad = || TarError::Header("PAX record");
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length: usize =
            std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        let record = bytes.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(bad)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        let (key, value) = (record[..equals].to_vec(), record[equals + 1..].to_vec());
        if matches!(&key[..], b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
            // Version 0.0 has a pair of records for each part: to 0.1.
            let map: &mut Vec<u8> = records.entry(b"GNU.sparse.map".to_vec()).or_default();
            let is_length = map.iter().filter(|byte| **byte == b',').count() % 2 == 0 && !map.is_empty();
            if sparse::number(&value).is_none() || is_length != key.ends_with(b"numbytes") {
                return Err(bad());
            }
            if !map.is_empty() {
                map.push(b',');
            }
            map.extend(value);
        } else if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            records.remove(&key);
        } else {
            records.insert(key, value);
        }
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// Cleans a name as Docker does before it unpacks it: `/abs` is `abs`, `a/../b` is `b`; a name that leaves the
/// layer is refused.
pub(crate) fn clean(name: &[u8]) -> Result<Vec<u8>, TarError> {
    if name.contains(&0) {
        return Err(TarError::Header("name (it holds a NUL)"));
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.pop().is_none() && !name.starts_with(b"/") => {
                return Err(TarError::Escapes(name.to_vec()));
            }
            b".." => {}
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_cleaned_and_kept_inside() {
        let clean = |name: &str| clean(name.as_bytes()).map(|path| String::from_utf8(path).expect("UTF-8")).ok();
        for (name, path) in
            [("./a//b/", "a/b"), ("/abs", "abs"), ("a/../b", "b"), ("./", ""), ("/", ""), ("/..", ""), ("..a", "..a")]
        {
            assert_eq!(clean(name).as_deref(), Some(path), "{name}");
        }
        for name in ["..", "../x", "a/../../x", "./.."] {
            assert_eq!(clean(name), None, "{name}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(pax_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(pax_time(b"-1.5"), Some((-2, 500_000_000)));
        assert_eq!(pax_time(b"1.1234567899"), Some((1, 123_456_789)));
        assert_eq!(pax_time(b"1.x"), None);
        let epoch = Time { seconds: 0, nanos: 0 };
        assert_eq!(bound((-86400, 0)), epoch);
        assert_eq!(bound((20_000_000_000, 0)), epoch);
        assert_eq!(bound((4_102_444_800, 1)), Time { seconds: 4_102_444_800, nanos: 1 });
    }

    #[test]
    fn pax_values_hold_any_bytes() {
        let records = parse_pax(b"28 SCHILY.xattr.user.a=x\ny\0\n11 path=ab\n").expect("records");
        assert_eq!(records[&b"SCHILY.xattr.user.a"[..]], b"x\ny\0");
        assert_eq!(records[&b"path"[..]], b"ab");
        assert!(parse_pax(b"99 path=ab\n").is_err());
        assert!(parse_pax(b"3 a").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut members = Members::new(&bytes[..], Content::Present);
            while let Ok(Some(_)) = members.next_member() {}
            let _ = parse_pax(&bytes);
        }
    }
}
