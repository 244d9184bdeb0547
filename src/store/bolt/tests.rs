use std::cell::RefCell;
use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::id::Sha256;

/// Databases of real daemons (`fixtures/bolt`): name, number of entries, and the digest of a listing that another
/// reader of the format made of them.
const REAL: [(&str, usize, &str); 6] = [
    ("20.10.24-snapshots", 32, "892eecba17e33a44c79876e569da1a6476302d024c654f702f52c812aa9a7ed0"),
    ("20.10.24-containerdmeta", 59, "c681569ac4cf942fb63a81a740a42fa6dc3a747533c06067443df8ed589b6fc6"),
    ("20.10.24-metadata_v2", 111, "4e2b113b44ba35600b632dd751e1784172ceb397019b01cf1510c4aadb885086"),
    ("28.5.2-snapshots", 60, "2f4654cac7f814e5c85e4ae81ff7df87c523a0beb5ab05a11743594c20dd91f1"),
    ("28.5.2-containerdmeta", 136, "80bf7c6d8e1ccaabb89b19b95de4b4af93b651fa5ec98db211c1735e6761c388"),
    ("28.5.2-metadata_v2", 94, "de0b818fcee7009f15c314561582f26e5ceae0333c1a60199a632eea5b629d80"),
];

/// Length of a page in all of them.
const PAGE: usize = 4096;

pub(in crate::store) fn real(name: &str) -> Vec<u8> {
    let path = format!("{}/fixtures/bolt/{name}.db.zst", env!("CARGO_MANIFEST_DIR"));
    zstd::decode_all(&*std::fs::read(path).expect("a fixture")).expect("zstd")
}

/// Lists a bucket with all in it: the path of keys in hexadecimal digits, length and digest of the value.
fn list<S: Source + ?Sized>(bolt: &Bolt<'_, S>, bucket: &Bucket, at: &str, text: &mut String) -> Result<(), BoltError> {
    for (key, item) in bolt.entries(bucket)? {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = if at.is_empty() { hex } else { format!("{at}/{hex}") };
        match item {
            Item::Value(value) => {
                let _ = writeln!(text, "{path} {} {}", value.len(), &Sha256::of(&value).hex()[..16]);
            }
            Item::Bucket(inner) => {
                let _ = writeln!(text, "{path}/");
                // Deeper than anything real, and a hostile file may nest buckets in each other for ever.
                if path.matches('/').count() < 20 {
                    list(bolt, &inner, &path, text)?;
                }
            }
        }
    }
    Ok(())
}

fn listing<S: Source + ?Sized>(source: &S) -> Result<String, BoltError> {
    read(source, |bolt| {
        let mut text = String::new();
        list(bolt, &bolt.root(), "", &mut text)?;
        Ok(text)
    })
}

/// Sets the checksum of a meta page right, so that its other numbers are believed.
fn seal(bytes: &mut [u8], page: usize) {
    let at = page * PAGE + HEADER;
    let sum = fnv1a(&bytes[at..at + 56]);
    bytes[at + 56..at + 64].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn real_databases_read_as_another_reader_reads_them() {
    for (name, entries, digest) in REAL {
        let text = listing(&real(name)[..]).expect(name);
        assert_eq!((text.lines().count(), Sha256::of(text.as_bytes()).hex().as_str()), (entries, digest), "{name}");
    }
}

#[test]
fn an_empty_file_is_an_empty_database() {
    assert_eq!(listing(&[][..]).expect("reads"), "");
}

#[test]
fn what_is_no_database_is_said_to_be_none() {
    for bytes in [&b"x"[..], &[0; 64], &[0; 100_000]] {
        assert!(matches!(listing(bytes), Err(BoltError::NoDatabase)));
    }
}

#[test]
fn one_meta_page_is_enough() {
    for page in [0, 1] {
        let mut bytes = real("20.10.24-snapshots");
        let newest = u64_at(&bytes, PAGE + HEADER + 48) > u64_at(&bytes, HEADER + 48);
        bytes[page * PAGE + HEADER + 60] ^= 1;
        // The older state may have lost pages, but what is found is one of the two.
        let text = listing(&bytes[..]);
        assert!(text.is_ok() || newest == (page == 1), "{text:?}");
    }
}

#[test]
fn cut_files_are_damaged_not_shorter() {
    let whole = real("28.5.2-metadata_v2");
    let reference = listing(&whole[..]).expect("reads");
    for pages in 1..whole.len() / PAGE {
        for length in [pages * PAGE, pages * PAGE + 100] {
            if let Ok(text) = listing(&whole[..length]) {
                assert_eq!(text, reference, "cut to {length} bytes");
            }
        }
    }
}

fn check<S: Source + ?Sized>(source: &S) -> Result<(), BoltError> {
    read(source, |bolt| bolt.opens().and_then(|()| bolt.check()))
}

/// Each page that is in use is looked at: of one that is zeroed something is said, of a free one nothing.
#[test]
fn every_page_in_use_is_checked() {
    for (name, ..) in REAL {
        let whole = real(name);
        check(&whole[..]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let meta = Meta::newest(&whole[..]).expect("a meta");
        let free = &whole[usize::try_from(meta.free_list).expect("small") * PAGE..];
        let free = (0..usize::from(u16_at(free, 10))).map(|at| u64_at(free, HEADER + at * 8));
        let free: std::collections::BTreeSet<u64> = free.collect();
        // Not those that another page overflows into: they have no header of their own.
        let is_head = |page: &u64| u64_at(&whole, usize::try_from(*page).expect("small") * PAGE) == *page;
        for page in (2..meta.high_water).filter(is_head) {
            let mut bytes = whole.clone();
            bytes[usize::try_from(page).expect("small") * PAGE..][..PAGE].copy_from_slice(&[0; PAGE]);
            assert_eq!(check(&bytes[..]).is_ok(), free.contains(&page), "{name}: page {page}");
        }
        for length in [1, PAGE, 2 * PAGE - 1, 2 * PAGE] {
            assert!(check(&whole[..length]).is_err(), "{name}: {length} bytes");
        }
    }
}

#[test]
fn trees_that_never_end_end() {
    let mut bytes = real("28.5.2-snapshots");
    let root = usize::try_from(Meta::newest(&bytes[..]).expect("a meta").root).expect("small");
    let page = &mut bytes[root * PAGE..][..PAGE];
    assert_eq!(u16_at(page, 8), 1, "the root is a branch");
    for element in page[HEADER..][..2 * HEADER].chunks_exact_mut(HEADER) {
        element[8..].copy_from_slice(&(root as u64).to_le_bytes());
    }
    assert!(matches!(listing(&bytes[..]), Err(BoltError::Damaged { .. })));
}

#[test]
fn pages_beyond_all_bounds_are_refused() {
    for root in [0, 1, 1 << 40, u64::MAX / PAGE as u64, u64::MAX / PAGE as u64 + 1, u64::MAX] {
        let mut bytes = real("20.10.24-snapshots");
        for page in [0, 1] {
            let at = page * PAGE + HEADER;
            bytes[at + 16..at + 24].copy_from_slice(&root.to_le_bytes());
            bytes[at + 40..at + 48].copy_from_slice(&u64::MAX.to_le_bytes());
            seal(&mut bytes, page);
        }
        assert!(matches!(listing(&bytes[..]), Err(BoltError::Damaged { page, .. }) if page == root));
    }
}

/// A database that another transaction changes at every look at it, up to a number of times.
struct Moving {
    bytes: RefCell<Vec<u8>>,
    left: Cell<u32>,
}

impl Source for Moving {
    fn length(&self) -> io::Result<u64> {
        let mut bytes = self.bytes.borrow_mut();
        if let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            let transaction = u64_at(&bytes, HEADER + 48).max(u64_at(&bytes, PAGE + HEADER + 48)) + 1;
            let (from, to) = if transaction.is_multiple_of(2) { (PAGE, 0) } else { (0, PAGE) };
            let meta = bytes[from + HEADER..][..META].to_vec();
            bytes[to + HEADER..][..META].copy_from_slice(&meta);
            bytes[to + HEADER + 48..][..8].copy_from_slice(&transaction.to_le_bytes());
            seal(&mut bytes, to / PAGE);
        }
        Ok(bytes.len() as u64)
    }

    fn fill(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.bytes.borrow()[..].fill(buffer, offset)
    }
}

#[test]
fn a_database_that_is_written_is_read_again() {
    let moving = |left| Moving { bytes: RefCell::new(real("28.5.2-snapshots")), left: Cell::new(left) };
    assert!(listing(&moving(7)).is_ok_and(|text| text.lines().count() > 10));
    assert!(matches!(listing(&moving(u32::MAX)), Err(BoltError::Busy)));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..10_000)) {
        let _ = (listing(&bytes[..]), check(&bytes[..]));
    }

    #[test]
    fn no_damage_makes_it_panic(
        which in 0..REAL.len(),
        hits in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..40),
        near in any::<Index>(),
    ) {
        let mut bytes = real(REAL[which].0);
        let page = near.index(bytes.len() / PAGE) * PAGE;
        for (at, (index, byte)) in hits.into_iter().enumerate() {
            // Every second hit goes to the headers of one page, where numbers are.
            let at = if at % 2 == 0 { index.index(bytes.len()) } else { page + index.index(200) };
            bytes[at] = byte;
        }
        seal(&mut bytes, 0);
        seal(&mut bytes, 1);
        let _ = (listing(&bytes[..]), check(&bytes[..]));
    }
}
