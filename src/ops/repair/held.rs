//! What of a repair has to do with directories that the kernel uses: containers may run on without their daemon.

use super::plan::{Mend, Step};
use crate::driver::Driver;
use crate::store::InUse;

impl Mend {
    /// Says how a directory of the driver is used in which this changes something, as what follows "it is".
    pub(super) fn used<'u>(&self, driver: &Driver, in_use: &'u InUse) -> Option<&'u str> {
        let home = format!("{driver}/{}", driver.trees());
        let home = home.trim_end_matches('/');
        let dir = |path: &str| {
            let (id, _) = split(path.strip_prefix(home)?.strip_prefix('/')?);
            Some(format!("{home}/{id}"))
        };
        let dirs = self.pieces.iter().filter(|piece| piece.step == Step::Directory);
        dirs.filter_map(|piece| dir(&piece.path)).find_map(|dir| in_use.of(&dir))
    }
}

fn split(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::plan::{Act, Piece, RepairPlan};
    use super::*;
    use crate::driver::join;
    use crate::ops::trash::Work as _;

    fn plan(driver: &str) -> RepairPlan {
        let piece = |order: usize, step: Step, path: &str| {
            let path = path.replace('$', driver.trim_end_matches('/'));
            Piece { order, step, path, was: None, act: Act::Remove }
        };
        let mend = |pieces: Vec<Piece>| Mend { subject: String::new(), codes: Vec::new(), act: String::new(), pieces };
        let trees = join(Driver::named(driver).trees(), "");
        let mends = vec![
            mend(vec![
                piece(0, Step::Directory, &format!("$/{trees}aa/link")),
                piece(3, Step::Layer, "image/$/layerdb/sha256/x"),
            ]),
            mend(vec![piece(1, Step::Directory, &format!("$/{trees}aab")), piece(2, Step::Link, "$/l/AA")]),
        ];
        RepairPlan {
            schema: 1,
            driver: driver.to_owned(),
            mends,
            left: Vec::new(),
            layers: Vec::new(),
            stands_on: BTreeMap::new(),
        }
    }

    #[test]
    fn what_belongs_to_a_directory_that_is_used() {
        for (driver, used) in
            [("overlay2", "overlay2/aa/merged"), ("vfs", "vfs/dir/aa"), ("btrfs", "btrfs/subvolumes/aa/x")]
        {
            let held = plan(driver).held(&InUse::new([(used.to_owned(), "mounted".to_owned())]));
            assert_eq!(held.into_keys().collect::<Vec<_>>(), [0, 3], "{driver}");
            let held = plan(driver).held(&InUse::new([(format!("{driver}/l/AA"), "mounted".to_owned())]));
            assert!(held.is_empty(), "{driver}: {held:?}");
            assert_eq!(plan(driver).held(&InUse::unknown("it is dark")).len(), 4);
        }
    }
}
