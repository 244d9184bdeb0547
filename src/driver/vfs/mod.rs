//! `vfs`: a complete tree for each layer, container and build, with nothing around it (moby
//! `daemon/graphdriver/vfs/driver.go`).
//!
//! ```text
//! vfs/                     0710   (to 19.03: 0700)
//!   backingFsBlockDev             a device, made to ask for quotas; not always there
//!   dir/                   0710   (to 19.03: 0700)
//!     <id>/                the whole tree; 0755 for a base layer, else what the root of the layer below has
//! ```
//!
//! A new directory begins as a copy of the parent's tree (`DirCopy`): files with their content, hard links within the
//! tree as such, and of the extended attributes only `security.capability`. So others are lost in all layers above the
//! one that brought them. Nothing on disk says what lies below a layer.

mod build;
mod read;

use super::copy::Keeps;
use super::layout::{Layout, Place};
use super::{Driver, Stacking, Trees, list};
use crate::fsx::Kind;

/// Extended attributes that a copy of a parent's tree keeps.
const KEEPS: Keeps = &[b"security.capability"];

/// The driver. Every start of dockerd makes its home, so that alone does not show that it was used.
pub(super) static DRIVER: Driver = Driver {
    name: "vfs",
    layout: Layout {
        places: &[Place { name: "dir", kind: Kind::Directory }],
        trees: "dir",
        home_dirs: &[("dir", 0o710)],
        used: "dir",
        ..Layout::FLAT
    },
    trees: Trees::Copied,
    stacking: Stacking::Unsaid,
    counts_symlinks: false,
    list: list::trees,
    read: &Vfs,
    build: Some(&Vfs),
    check: None,
    short_names: None,
};

/// Its roles.
#[derive(Debug)]
struct Vfs;
