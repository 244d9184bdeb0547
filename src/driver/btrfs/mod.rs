//! `btrfs`: a subvolume for each layer, container and build, which begins as a snapshot of the one below (moby
//! `daemon/graphdriver/btrfs/btrfs.go`).
//!
//! ```text
//! btrfs/                   0710   (to 19.03: 0700); a living daemon mounts it on itself
//!   subvolumes/            0710   (to 19.03: 0700)
//!     <id>                 a subvolume: the whole tree; 0755 for a base layer, else as in the layer below
//!   quotas/                0700   only with a size limit
//!     <id>                 0644   the limit in bytes, decimal
//! ```
//!
//! A snapshot has all that its parent has, extended attributes too. Nothing that can be read says what lies below a
//! layer. A directory that is no subvolume can be used, but nothing can be put on top of it.

mod build;
mod check;
mod read;

use super::layout::{Layout, Place};
use super::{Driver, Stacking, Trees, list};
use crate::fsx::Kind;

/// The driver.
pub(super) static DRIVER: Driver = Driver {
    name: "btrfs",
    layout: Layout {
        places: &[Place { name: "quotas", kind: Kind::File }, Place { name: "subvolumes", kind: Kind::Directory }],
        trees: "subvolumes",
        home_dirs: &[("subvolumes", 0o710)],
        ..Layout::FLAT
    },
    trees: Trees::Copied,
    stacking: Stacking::Unsaid,
    counts_symlinks: false,
    list: list::trees,
    read: &Btrfs,
    build: Some(&Btrfs),
    check: Some(&Btrfs),
    short_names: None,
};

/// Its roles.
#[derive(Debug)]
struct Btrfs;
