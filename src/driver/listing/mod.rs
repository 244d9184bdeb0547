//! What is in the home of a graph driver.
//!
//! | driver | directories of layers | parents on disk |
//! |---|---|---|
//! | `overlay2`, `fuse-overlayfs` | `<id>/` | `<id>/lower`, see [`overlay2`] |
//! | `overlay` | `<id>/` | `<id>/lower-id`, see [`overlay`] |
//! | `vfs` | `dir/<id>/` | none |
//! | `btrfs` | `subvolumes/<id>` | none that a file says |
//! | `aufs` | `diff/<id>/`, `mnt/<id>/`, `layers/<id>` | `layers/<id>`: one ID in a line, nearest first |

mod overlay;
pub(crate) mod overlay2;

use std::collections::BTreeMap;

use super::DriverDir;
use crate::fsx::{Dir, Kind};
use crate::id::CacheId;
use crate::notes::{Notes, Unknown};

/// Longest `layers/<id>` of `aufs`, or `lower` of `overlay2`, that is read: 128 names take 8 KiB.
const LOWER_LIMIT: u64 = 1 << 20;

/// Directories of a driver, and what else was found in its home.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) dirs: BTreeMap<CacheId, DriverDir>,
    pub(crate) notes: Notes,
}

/// Lists the home of `driver`. What the directories of a driver unknown here are is said to be unknown.
pub(crate) fn list(driver: &str, home: &Dir) -> Listing {
    match driver {
        "overlay2" | "fuse-overlayfs" => overlay2::list(driver, home),
        "overlay" => overlay::list(home),
        "vfs" => names(home, "dir", "vfs/dir"),
        "btrfs" => names(home, "subvolumes", "btrfs/subvolumes"),
        "aufs" => aufs(home),
        _ => {
            let mut listing = Listing::default();
            listing.notes.unreadable(Unknown::DriverDirs, driver, "directories of this graph driver are not known");
            listing
        }
    }
}

/// Tells whether it is known where this driver keeps its directories.
pub(crate) fn is_known(driver: &str) -> bool {
    matches!(driver, "overlay2" | "fuse-overlayfs" | "overlay" | "vfs" | "btrfs" | "aufs")
}

/// Lists directories of which only the names tell something.
fn names(home: &Dir, name: &str, at: &str) -> Listing {
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

/// Lists the three directories of `aufs`; a layer is there when any of them has it.
fn aufs(home: &Dir) -> Listing {
    let mut listing = names(home, "diff", "aufs/diff");
    let mounts = names(home, "mnt", "aufs/mnt");
    listing.notes.append(mounts.notes);
    for id in mounts.dirs.into_keys() {
        listing.dirs.entry(id).or_default();
    }
    let Listing { dirs, notes } = &mut listing;
    let Some(layers) = notes.open(home, "layers", "aufs/layers", Unknown::DriverDirs) else { return listing };
    for entry in notes.list(&layers, "aufs/layers", Unknown::DriverDirs) {
        let path = format!("aufs/layers/{}", entry.name.escape_ascii());
        let id = match CacheId::parse(&entry.name) {
            Ok(id) if entry.kind == Kind::File => id,
            _ => {
                notes.unexpected("aufs/layers", &entry.name, "expected a file with the parents of a layer");
                continue;
            }
        };
        let parents = match layers.read(&entry.name, LOWER_LIMIT) {
            Ok(text) => text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(CacheId::parse).collect(),
            Err(error) if error.is_not_found() => continue,
            Err(error) => {
                notes.unreadable(Unknown::DriverDirs, &path, error);
                continue;
            }
        };
        match parents {
            Ok(lower) => dirs.entry(id).or_default().lower = lower,
            Err(error) => notes.unreadable(Unknown::DriverDirs, &path, error),
        }
    }
    listing
}
