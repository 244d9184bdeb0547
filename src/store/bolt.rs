//! Reads bbolt databases, page by page, without their lock and without writing.
//!
//! BuildKit and containerd keep their records in them [bolt internal/common/page.go, meta.go, bucket.go, inode.go; db.go].
//! All numbers are little endian. Page *n* is at offset *n* × page size.
//!
//! | structure | layout |
//! |---|---|
//! | page header, 16 bytes | id u64, flags u16 (1 branch, 2 leaf), count u16, overflow u32 (pages that follow and belong to it) |
//! | meta, at 16 in pages 0 and 1 | magic u32 `ED0CDAED`, version u32 2, page size u32, flags u32, root u64, sequence u64, free list u64, high water u64, transaction u64, FNV-1a 64 of the 56 bytes before |
//! | branch element, 16 bytes | pos u32, key size u32, page u64 |
//! | leaf element, 16 bytes | flags u32 (1 bucket), pos u32, key size u32, value size u32 |
//! | bucket, as a value | root page u64, sequence u64; where the root is 0 a leaf page follows at 16 |
//!
//! `pos` counts from the start of its element; elements begin at 16. The meta page with the higher transaction that
//! proves its checksum is the newest; a file of no bytes is an empty database.
//!
//! Writing is copy-on-write: transaction *n* + 1 writes no page that the state of *n* has, but *n* + 2 may. So what was
//! read is whole when the newest transaction is still the same afterwards; where not, all is read again ([`read`]).
//! Nothing in a file is trusted: not its offsets, not its sizes, not that its trees end. Whether all of a file is good
//! tells [`Bolt::check`].

mod check;

use std::cell::Cell;
use std::io;
use std::os::unix::fs::FileExt;

/// First number of a meta page.
const MAGIC: u32 = 0xED0C_DAED;

/// The only version of the format.
const VERSION: u32 = 2;

/// Length of a page's header, and of an element.
const HEADER: usize = 16;

/// Length of a meta, with its checksum.
const META: usize = 64;

/// Longest page with all that overflows from it.
const PAGE_LIMIT: u64 = 64 << 20;

/// Greatest height of a tree: with two elements in each page, more than a file can hold.
const DEPTH_LIMIT: u32 = 40;

/// How often a database is read again that is written meanwhile.
const TRIES: u32 = 10;

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BoltError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A page is not what it should be.
    #[error("page {page} of the database is damaged: {what}")]
    Damaged {
        /// Number of the page.
        page: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Neither meta page is good.
    #[error("not a bolt database")]
    NoDatabase,
    /// It is too short for two meta pages, and bbolt does not open it.
    #[error("the database is cut off after {0} bytes")]
    Cut(u64),
    /// It was written whenever it was read.
    #[error("the database is being written")]
    Busy,
    /// A value is not of the form it should be.
    #[error("{0}")]
    Value(String),
}

/// Where pages are read from.
pub(crate) trait Source {
    /// Returns the length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Fills `buffer` from the bytes at `offset`.
    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Source for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl Source for [u8] {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let bytes = rest.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// A database as one transaction left it.
#[derive(Debug)]
pub(crate) struct Bolt<'s, S: Source + ?Sized> {
    source: &'s S,
    length: u64,
    meta: Option<Meta>,
    /// Bytes that may still be read: trees that share pages would else be walked for ever.
    budget: Cell<u64>,
}

/// The newest meta page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    page_size: u32,
    root: u64,
    free_list: u64,
    high_water: u64,
    transaction: u64,
}

/// A bucket: a map from keys to values and further buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bucket {
    /// Its tree begins at this page.
    Tree(u64),
    /// It is a leaf page within a value.
    Inline(Vec<u8>),
}

/// What stands at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// Bytes.
    Value(Vec<u8>),
    /// A further bucket.
    Bucket(Bucket),
}

/// Reads from a database with `parse`, again and again until no transaction came between. An empty file is an empty
/// database, on which `parse` is not called.
///
/// # Errors
/// The file cannot be read, is no database, is damaged, or never rests; or an error of `parse`.
pub(crate) fn read<S, T>(source: &S, parse: impl Fn(&Bolt<'_, S>) -> Result<T, BoltError>) -> Result<T, BoltError>
where
    S: Source + ?Sized,
    T: Default,
{
    for _ in 0..TRIES {
        let bolt = Bolt::open(source)?;
        if bolt.meta.is_none() {
            return Ok(T::default());
        }
        let parsed = parse(&bolt);
        if Bolt::open(source)?.meta == bolt.meta {
            return parsed;
        }
    }
    Err(BoltError::Busy)
}

impl<'s, S: Source + ?Sized> Bolt<'s, S> {
    fn open(source: &'s S) -> Result<Self, BoltError> {
        let length = source.length()?;
        let meta = match length {
            0 => None,
            _ => Some(Meta::newest(source)?),
        };
        // Each page belongs to one tree, and nobody reads a tree twice; the rest is for looking up the way to it.
        Ok(Self { source, length, meta, budget: Cell::new(length.saturating_mul(2).saturating_add(1 << 20)) })
    }

    /// Returns the bucket that holds all others.
    pub(crate) fn root(&self) -> Bucket {
        self.meta.map_or(Bucket::Inline(Vec::new()), |meta| Bucket::Tree(meta.root))
    }

    /// Finds the bucket at the end of a path of names.
    pub(crate) fn find(&self, path: &[&[u8]]) -> Result<Option<Bucket>, BoltError> {
        let mut bucket = self.root();
        for name in path {
            match self.entries(&bucket)?.into_iter().find(|(key, _)| key == name) {
                Some((_, Item::Bucket(inner))) => bucket = inner,
                _ => return Ok(None),
            }
        }
        Ok(Some(bucket))
    }

    /// Returns what a bucket holds, in the order of the keys.
    pub(crate) fn entries(&self, bucket: &Bucket) -> Result<Vec<(Vec<u8>, Item)>, BoltError> {
        let mut entries = Vec::new();
        match bucket {
            Bucket::Tree(page) => self.collect(*page, DEPTH_LIMIT, &mut entries)?,
            Bucket::Inline(bytes) if bytes.is_empty() => {}
            Bucket::Inline(bytes) => match Page::new(0, bytes)? {
                Page { is_leaf: true, elements, .. } => collect_leaf(0, bytes, elements, &mut entries)?,
                _ => return Err(BoltError::Damaged { page: 0, what: "a branch within a value" }),
            },
        }
        Ok(entries)
    }

    fn collect(&self, number: u64, depth: u32, entries: &mut Vec<(Vec<u8>, Item)>) -> Result<(), BoltError> {
        let damaged = |what| BoltError::Damaged { page: number, what };
        let bytes = self.page(number)?;
        let page = Page::new(number, &bytes)?;
        if page.is_leaf {
            return collect_leaf(number, &bytes, page.elements, entries);
        }
        let depth = depth.checked_sub(1).ok_or_else(|| damaged("the tree does not end"))?;
        for element in page.elements.chunks_exact(HEADER) {
            self.collect(u64_at(element, 8), depth, entries)?;
        }
        Ok(())
    }

    /// Reads a page with all that overflows from it.
    fn page(&self, number: u64) -> Result<Vec<u8>, BoltError> {
        let damaged = |what| BoltError::Damaged { page: number, what };
        let meta = self.meta.ok_or_else(|| damaged("not in the database"))?;
        let size = u64::from(meta.page_size);
        let is_inside = number >= 2 && number < meta.high_water && number < self.length / size;
        let offset = is_inside.then(|| number * size).ok_or_else(|| damaged("not in the database"))?;
        let mut bytes = vec![0; meta.page_size as usize];
        self.source.fill(&mut bytes, offset)?;
        if u64_at(&bytes, 0) != number {
            return Err(damaged("it says another number"));
        }
        let whole = size * (u64::from(u32_at(&bytes, 12)) + 1);
        if whole > PAGE_LIMIT || whole > self.length - offset {
            return Err(damaged("it is longer than the database"));
        }
        let budget = self.budget.get().checked_sub(whole).ok_or_else(|| damaged("pages are used more than once"))?;
        self.budget.set(budget);
        let whole = usize::try_from(whole).map_err(|_| damaged("it is longer than memory"))?;
        bytes.resize(whole, 0);
        self.source.fill(&mut bytes[meta.page_size as usize..], offset + size)?;
        Ok(bytes)
    }
}

impl Meta {
    /// Finds the newest good meta page.
    fn newest<S: Source + ?Sized>(source: &S) -> Result<Self, BoltError> {
        if let Some(first) = Self::at(source, 0)? {
            let second = Self::at(source, first.page_size.into())?;
            let second = second.filter(|second| second.page_size == first.page_size);
            return Ok(second.filter(|second| second.transaction > first.transaction).unwrap_or(first));
        }
        // The first is damaged; where the second is depends on the page size, which it says itself.
        for size in (0..15).map(|power| 1024_u32 << power) {
            if let Some(second) = Self::at(source, size.into())?.filter(|second| second.page_size == size) {
                return Ok(second);
            }
        }
        Err(BoltError::NoDatabase)
    }

    /// Reads the meta page at `offset`; `None` where there is no good one.
    fn at<S: Source + ?Sized>(source: &S, offset: u64) -> Result<Option<Self>, BoltError> {
        let mut page = [0; HEADER + META];
        match source.fill(&mut page, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let meta = &page[HEADER..];
        let page_size = u32_at(meta, 8);
        let is_good = u32_at(meta, 0) == MAGIC
            && u32_at(meta, 4) == VERSION
            && u64_at(meta, 56) == fnv1a(&meta[..56])
            && page_size.is_power_of_two()
            && (512..=1 << 24).contains(&page_size);
        Ok(is_good.then(|| Self {
            page_size,
            root: u64_at(meta, 16),
            free_list: u64_at(meta, 32),
            high_water: u64_at(meta, 40),
            transaction: u64_at(meta, 48),
        }))
    }
}

/// A page whose elements are within it.
struct Page<'b> {
    is_leaf: bool,
    elements: &'b [u8],
}

impl<'b> Page<'b> {
    fn new(number: u64, bytes: &'b [u8]) -> Result<Self, BoltError> {
        let damaged = |what| BoltError::Damaged { page: number, what };
        let header = bytes.get(..HEADER).ok_or_else(|| damaged("it is cut off"))?;
        let is_leaf = match u16_at(header, 8) {
            1 => false,
            2 => true,
            _ => return Err(damaged("neither branch nor leaf")),
        };
        let end = HEADER + usize::from(u16_at(header, 10)) * HEADER;
        let elements = bytes.get(HEADER..end).ok_or_else(|| damaged("its elements are cut off"))?;
        Ok(Self { is_leaf, elements })
    }
}

/// Appends what a leaf page holds.
fn collect_leaf(
    number: u64,
    bytes: &[u8],
    elements: &[u8],
    entries: &mut Vec<(Vec<u8>, Item)>,
) -> Result<(), BoltError> {
    let damaged = |what| BoltError::Damaged { page: number, what };
    // Keys and values of a page do not overlap: together they are no longer than it. Else a small page could fill memory.
    let mut left = bytes.len();
    for (index, element) in elements.chunks_exact(HEADER).enumerate() {
        let [flags, pos, key_size, value_size] = [0, 4, 8, 12].map(|at| u32_at(element, at) as usize);
        let start = (HEADER + index * HEADER).saturating_add(pos);
        let (key, value) = bytes
            .get(start..)
            .and_then(|rest| rest.split_at_checked(key_size))
            .and_then(|(key, rest)| Some((key, rest.get(..value_size)?)))
            .ok_or_else(|| damaged("an element is cut off"))?;
        left = left.checked_sub(key_size + value_size).ok_or_else(|| damaged("elements overlap"))?;
        let item = match flags & 1 {
            0 => Item::Value(value.to_vec()),
            _ => Item::Bucket(Bucket::parse(value).ok_or_else(|| damaged("a bucket is cut off"))?),
        };
        entries.push((key.to_vec(), item));
    }
    Ok(())
}

impl Bucket {
    fn parse(value: &[u8]) -> Option<Self> {
        let (header, rest) = value.split_at_checked(HEADER)?;
        match u64_at(header, 0) {
            0 => Some(Self::Inline(rest.to_vec())),
            page => Some(Self::Tree(page)),
        }
    }
}

/// Computes the checksum of a meta page.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Reads a number at `at`, which the caller knows to be within `bytes`.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
use crate::fsx::File;

#[cfg(test)]
pub(super) mod tests;
