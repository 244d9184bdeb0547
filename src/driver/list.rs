//! What is in the home of a graph driver.

use std::collections::BTreeMap;

use super::layout::join;
use super::{Driver, DriverDir};
use crate::fsx::{Dir, Kind};
use crate::id::CacheId;
use crate::notes::{Notes, Unknown};

/// Longest file with the parents of a layer (`lower` of `overlay2`, `layers/<id>` of `aufs`) that is read, in bytes: 128
/// names take 8 KiB.
pub(super) const LOWER_LIMIT: u64 = 1 << 20;

/// Directories of a driver, and what else was found in its home.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) dirs: BTreeMap<CacheId, DriverDir>,
    pub(crate) notes: Notes,
}

/// Lists the home of a driver that has nothing but trees in the place of them, which say nothing of what lies below.
pub(super) fn trees(driver: &'static Driver, home: &Dir) -> Listing {
    names(home, driver.trees(), &join(driver.name(), driver.trees()))
}

/// Lists directories of which only the names tell something.
pub(super) fn names(home: &Dir, name: &str, at: &str) -> Listing {
    let mut listing = Listing::default();
    let Some(dir) = listing.notes.open(home, name, at, Unknown::DriverDirs) else { return listing };
    for entry in listing.notes.list(&dir, at, Unknown::DriverDirs) {
        match CacheId::parse(&entry.name) {
            Ok(id) if entry.kind == Kind::Directory => {
                listing.dirs.insert(id, DriverDir::default());
            }
            _ => listing.notes.unexpected(at, &entry.name, "expected the directory of a layer"),
        }
    }
    listing
}
