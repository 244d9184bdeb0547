//! Files of a layer that is built which layers of the store have too.

use std::collections::HashSet;

use crate::error::FsError;
use crate::fsx::{Dir, Kind};

/// Inodes that layers of the store have names for (`overlay`). Their attributes are not those of a new layer to
/// change: the layers that are there stay as they are, above all when the load fails.
#[derive(Debug, Default)]
pub struct Shared(HashSet<u64>);

impl Shared {
    /// Adds inodes.
    pub fn extend(&mut self, inodes: impl IntoIterator<Item = u64>) {
        self.0.extend(inodes);
    }

    /// Makes a name's attributes ones that may be changed: a file that the store has too becomes a copy.
    ///
    /// # Errors
    /// The file system refuses or is full.
    pub(crate) fn part(&self, dir: &Dir, name: &[u8]) -> Result<(), FsError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let attrs = dir.attrs(name)?;
        if attrs.kind != Kind::File || !self.0.contains(&attrs.inode) {
            return Ok(());
        }
        let before = dir.attrs(".")?.mtime;
        dir.part(name)?;
        dir.set_times(".", before, before)
    }
}
