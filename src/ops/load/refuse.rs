//! When nothing may be loaded. Pure.
//!
//! A layer whose directory is gone is built anew under another name, and its old record makes room. That heals a layer
//! that was lost; where the home is a disk of its own that is not mounted it would cut every record off from the directory that it
//! names, and what is built would be hidden by the disk. Where the records are on a disk that is not mounted, new ones would be
//! hidden by it, and until then the directories that the old ones name would look like garbage beside them.

use std::path::Path;

use crate::count::count;
use crate::error::{Error, Result};
use crate::store::{Snapshot, places};

/// Fails where a part of the store at `root` looks as if it were not mounted. dockerd writes `repositories.json` at its first
/// start and never removes it; `has_references` tells whether it is there.
pub(super) fn refuse(root: &Path, driver: &str, snapshot: &Snapshot, has_references: bool) -> Result<()> {
    let dirs = snapshot.driver_dirs.len();
    if let Some(reason) = snapshot.lost_home() {
        return Err(Error::NotMounted { path: root.join(driver), reason });
    }
    let image = root.join(places::records(driver));
    if let Some(reason) = snapshot.lost_layers() {
        return Err(Error::NotMounted { path: image.join(places::LAYERS), reason });
    }
    if !has_references && dirs > 0 {
        let dirs = count(dirs, "directory of a layer", "directories of layers");
        let reason = format!("it has no {}, beside {dirs}", places::REFERENCES);
        return Err(Error::NotMounted { path: image, reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::DriverDir;
    use crate::id::{CacheId, ChainId, DiffId, Sha256};
    use crate::store::Layer;

    /// A store of so many layers, of which the first ones have their directory, and so many directories of others.
    fn store(layers: u8, whole: u8, others: u8) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let id = |number: u8| CacheId::parse(format!("dir-{number}").as_bytes()).expect("a name");
        for number in 0..layers {
            let digest = Sha256::of(&[number]);
            let layer =
                Layer { parent: None, diff: DiffId(digest), cache_id: id(number), size: 1, has_tar_split: true };
            snapshot.layers.insert(ChainId(digest), layer);
        }
        let there = (0..whole).chain(layers..layers + others);
        snapshot.driver_dirs.extend(there.map(|number| (id(number), DriverDir::default())));
        snapshot
    }

    #[test]
    fn a_home_that_is_not_mounted() {
        let is_refused = |layers, whole, others| {
            refuse(Path::new("/root"), "overlay2", &store(layers, whole, others), true).is_err()
        };
        // Empty, or with what a daemon has made there since.
        assert!(is_refused(1, 0, 0) && is_refused(20, 0, 0) && is_refused(20, 2, 3) && is_refused(2, 0, 1));
        // A fresh store, a whole one, and such as have lost layers.
        assert!(!is_refused(0, 0, 0) && !is_refused(0, 0, 2) && !is_refused(20, 20, 0) && !is_refused(20, 19, 0));
        assert!(!is_refused(20, 3, 0) && !is_refused(2, 1, 0));
    }

    #[test]
    fn records_that_are_not_mounted() {
        let is_refused = |dirs| refuse(Path::new("/root"), "overlay2", &store(0, 0, dirs), false).is_err();
        assert!(!is_refused(0) && is_refused(1));
    }
}
