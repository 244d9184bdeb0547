//! Finds what a crash leaves in the data root itself.
//!
//! At every start (17.05+) dockerd renames `tmp` to `tmp-old` and removes that in the background [moby
//! daemon/daemon.go `prepareTempDir`]. Where it is killed meanwhile, `tmp-old` stays for ever, because the next
//! start cannot rename onto it. `.tmp-*` beside a file is that file being written; `engine-id` (23+) is such a file.
//! Other strays are found by the reader of the directory they are in.

use super::{StrayKind, Unknown};
use crate::fsx::{Dir, Kind};
use crate::notes::Notes;

/// Looks at the entries of the data root.
pub(super) fn read(root: &Dir) -> Notes {
    let mut notes = Notes::default();
    for entry in notes.list(root, "", Unknown::DriverDirs) {
        if entry.name == b"tmp-old" && entry.kind == Kind::Directory {
            notes.stray(StrayKind::OldTemp, "", &entry.name, None);
        }
    }
    notes
}
