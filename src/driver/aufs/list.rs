//! Lists the home of the driver.

use crate::driver::Driver;
use crate::driver::list::{LOWER_LIMIT, Listing, names};
use crate::fsx::{Dir, Kind};
use crate::id::CacheId;
use crate::notes::Unknown;

/// Lists the three directories of the home; a layer is there when any of them has it.
pub(super) fn list(_: &'static Driver, home: &Dir) -> Listing {
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
