//! Proves that a database opens, and that every page to which its trees lead is one. No other page is read.
//!
//! bbolt looks at the length, the meta pages and the free list when it opens a file, and panics at any other page when it comes
//! there [bolt db.go `mmap`, `loadFreelist`; freelist.go `read`; page.go `fastCheck`].

use super::{Bolt, BoltError, Bucket, DEPTH_LIMIT, HEADER, Item, Page, Source, collect_leaf, u16_at, u32_at, u64_at};

/// Page flag of a list of free pages.
const FREE_LIST: u16 = 0x10;

/// In a meta: the file has no list of free pages, bbolt finds them by itself.
const NO_FREE_LIST: u64 = u64::MAX;

/// Greatest height of trees in trees: buckets of real databases are seven deep.
const NESTED_LIMIT: u32 = DEPTH_LIMIT + 24;

impl<S: Source + ?Sized> Bolt<'_, S> {
    /// Proves what bbolt needs to open the database and to begin with it.
    ///
    /// # Errors
    /// It cannot be read, or does not open.
    pub(crate) fn opens(&self) -> Result<(), BoltError> {
        let Some(meta) = self.meta else { return Ok(()) };
        if self.length < 2 * u64::from(meta.page_size) {
            return Err(BoltError::Cut(self.length));
        }
        if meta.free_list != NO_FREE_LIST {
            self.check_free_list(meta.free_list)?;
        }
        look(meta.root, &self.page(meta.root)?, NESTED_LIMIT, &mut Vec::new())
    }

    /// Proves every page that a tree leads to.
    ///
    /// # Errors
    /// It cannot be read, or a page is not what it should be.
    pub(crate) fn check(&self) -> Result<(), BoltError> {
        let mut open: Vec<(u64, u32)> = self.meta.iter().map(|meta| (meta.root, NESTED_LIMIT)).collect();
        while let Some((number, depth)) = open.pop() {
            let bytes = self.page(number)?;
            let mut below = Vec::new();
            look(number, &bytes, depth, &mut below)?;
            let damaged = || BoltError::Damaged { page: number, what: "the tree does not end" };
            let depth = depth.checked_sub(1).ok_or_else(damaged)?;
            open.extend(below.into_iter().map(|page| (page, depth)));
        }
        Ok(())
    }

    fn check_free_list(&self, number: u64) -> Result<(), BoltError> {
        let damaged = |what| BoltError::Damaged { page: number, what };
        let bytes = self.page(number)?;
        if u16_at(&bytes, 8) & FREE_LIST == 0 {
            return Err(damaged("no list of free pages"));
        }
        // A number that does not fit into the header stands in the place of the first page.
        let (count, first) = match u16_at(&bytes, 10) {
            u16::MAX => (u64_at(&bytes, HEADER), HEADER + 8),
            count => (count.into(), HEADER),
        };
        let room = (bytes.len() - first) as u64 / 8;
        if count > room { Err(damaged("the list of free pages is cut off")) } else { Ok(()) }
    }
}

/// Proves one page of a tree, with the buckets in its values, and collects the pages that it leads to.
fn look(number: u64, bytes: &[u8], depth: u32, below: &mut Vec<u64>) -> Result<(), BoltError> {
    let damaged = |what| BoltError::Damaged { page: number, what };
    let page = Page::new(number, bytes)?;
    if !page.is_leaf {
        if page.elements.is_empty() {
            return Err(damaged("a branch that leads nowhere"));
        }
        for (index, element) in page.elements.chunks_exact(HEADER).enumerate() {
            let start = (HEADER + index * HEADER).saturating_add(u32_at(element, 0) as usize);
            let key = bytes.get(start..).and_then(|rest| rest.get(..u32_at(element, 4) as usize));
            key.ok_or_else(|| damaged("an element is cut off"))?;
            below.push(u64_at(element, 8));
        }
        return Ok(());
    }
    let mut entries = Vec::new();
    collect_leaf(number, bytes, page.elements, &mut entries)?;
    // bbolt finds a key by halving: one out of order is lost.
    if !entries.is_sorted_by(|(one, _), (next, _)| one < next) {
        return Err(damaged("its keys are in no order"));
    }
    for (_, item) in entries {
        match item {
            Item::Bucket(Bucket::Tree(page)) => below.push(page),
            Item::Bucket(Bucket::Inline(inner)) if !inner.is_empty() => {
                let depth = depth.checked_sub(1).ok_or_else(|| damaged("the tree does not end"))?;
                look(number, &inner, depth, below)?;
            }
            _ => {}
        }
    }
    Ok(())
}
