//! `overlay2`'s short names as the driver's own files say them: those in `l/`, and those by which directories call what
//! they stand on. A layer that is made again needs the name that they say: it is what the kernel is given.

use std::collections::BTreeMap;

use crate::error::FsError;
use crate::fsx::{Dir, Kind};
use crate::id::{CacheId, LinkId};
use crate::store::Snapshot;

/// Longest `lower` that is read.
const LIMIT: u64 = 64 << 10;

/// What the home of the driver says of short names.
#[derive(Debug, Default)]
pub(super) struct ShortNames {
    /// `l/`: short names and what they lead to; `None` where it is gone.
    pub(super) links: Option<BTreeMap<LinkId, String>>,
    /// The short names in `lower` of each directory, where it can be read.
    pub(super) lowers: BTreeMap<CacheId, Vec<LinkId>>,
}

impl ShortNames {
    /// Reads them.
    ///
    /// # Errors
    /// The file system refuses, beyond what the snapshot tells.
    pub(super) fn read(home: &Dir, snapshot: &Snapshot) -> Result<Self, FsError> {
        let mut names = Self::default();
        if let Some(links) = FsError::in_place(home.dir("l"))? {
            let mut found = BTreeMap::new();
            for entry in links.entries()?.into_iter().filter(|entry| entry.kind == Kind::Symlink) {
                let Ok(name) = LinkId::parse(&entry.name) else { continue };
                let target = links.read_link(name.as_str())?;
                found.insert(name, String::from_utf8_lossy(&target).into_owned());
            }
            names.links = Some(found);
        }
        for id in snapshot.driver_dirs.keys() {
            let path = format!("{id}/lower");
            let Some(text) = snapshot.read_known(home, &snapshot.driver, &path, LIMIT)? else { continue };
            let name = |part: &[u8]| part.strip_prefix(b"l/").and_then(|name| LinkId::parse(name).ok());
            if let Some(lower) = text.trim_ascii().split(|byte| *byte == b':').map(name).collect() {
                names.lowers.insert(id.clone(), lower);
            }
        }
        Ok(names)
    }

    /// Returns what a short name in `l/` leads to.
    pub(super) fn leads(&self, name: &LinkId) -> Option<&String> {
        self.links.as_ref()?.get(name)
    }

    /// Returns the names by which directories call `below`, which they stand on. `stack_of` says what a directory stands
    /// on, nearest first, where that is known.
    pub(super) fn of_below<'a, T: PartialEq>(
        &'a self,
        below: &T,
        stack_of: impl Fn(&CacheId) -> Option<Vec<T>>,
    ) -> impl Iterator<Item = &'a LinkId> {
        self.lowers.iter().filter_map(move |(above, names)| {
            let stack = stack_of(above)?;
            let at = stack.iter().position(|one| one == below).filter(|_| stack.len() == names.len())?;
            names.get(at)
        })
    }
}

/// Returns what the short name of a directory leads to.
pub(super) fn target(id: &CacheId) -> String {
    format!("../{id}/diff")
}
