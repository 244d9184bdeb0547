//! `aufs`: what each layer adds, in three directories of the same name (moby@v20.10.27
//! `daemon/graphdriver/aufs/aufs.go`, `dirs.go`; left Docker with 24.0). Only read.
//!
//! ```text
//! aufs/                    0710   (to 19.03: 0700)
//!   diff/<id>/             0755   what the layer adds; `.wh.NAME` removes NAME, `.wh..wh..opq` hides what is below
//!                                 its directory. Once mounted for writing, its root also has `.wh..wh.aufs`,
//!                                 `.wh..wh.plnk` and `.wh..wh.orph`, which are aufs's own
//!   layers/<id>            0644   the layers below, nearest first, one ID in a line; empty for a base layer
//!   mnt/<id>/              0755   where it is mounted
//! ```

mod check;
mod list;
mod read;

use super::layout::{Layout, Place};
use super::{Driver, Stacking, Trees};
use crate::fsx::Kind;

/// The driver.
pub(super) static DRIVER: Driver = Driver {
    name: "aufs",
    layout: Layout {
        places: &[
            Place { name: "mnt", kind: Kind::Directory },
            Place { name: "diff", kind: Kind::Directory },
            Place { name: "layers", kind: Kind::File },
        ],
        trees: "diff",
        ..Layout::FLAT
    },
    trees: Trees::Added,
    stacking: Stacking::Layers,
    counts_symlinks: false,
    list: list::list,
    read: &Aufs,
    build: None,
    check: Some(&Aufs),
    short_names: None,
};

/// Its roles.
#[derive(Debug)]
struct Aufs;
