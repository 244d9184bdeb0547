//! Lists the home of the driver.

use rayon::prelude::*;

use crate::driver::list::Listing;
use crate::driver::{Driver, DriverDir};
use crate::fsx::{Dir, Entry, Kind};
use crate::id::CacheId;
use crate::notes::{Notes, Unknown};

/// Path of the driver's home below the data root.
const HOME: &str = "overlay";

/// Lists the home of the driver.
pub(super) fn list(_: &'static Driver, home: &Dir) -> Listing {
    let mut listing = Listing::default();
    let entries = listing.notes.list(home, HOME, Unknown::DriverDirs);
    let read: Vec<_> = entries.par_iter().map(|entry| read_dir(home, entry)).collect();
    for (dir, notes) in read {
        listing.dirs.extend(dir);
        listing.notes.append(notes);
    }
    listing
}

fn read_dir(home: &Dir, entry: &Entry) -> (Option<(CacheId, DriverDir)>, Notes) {
    let mut notes = Notes::default();
    let id = match CacheId::parse(&entry.name) {
        Ok(id) if entry.kind == Kind::Directory => id,
        _ => {
            // The block device is made to ask the file system for quotas.
            if entry.name != b"backingFsBlockDev" {
                notes.unexpected(HOME, &entry.name, "expected the directory of a layer");
            }
            return (None, notes);
        }
    };
    let mut dir = DriverDir::default();
    let at = format!("{HOME}/{id}");
    if let Ok(Some(text)) = notes.line(home, &format!("{id}/lower-id"), HOME, Unknown::DriverDirs) {
        match CacheId::parse(text.trim_ascii()) {
            Ok(lower) => dir.lower.push(lower),
            Err(error) => notes.unreadable(Unknown::DriverDirs, format!("{at}/lower-id"), error),
        }
    }
    (Some((id, dir)), notes)
}
