//! `overlay`: whole trees that share unchanged files by hard links (moby@v20.10.27
//! `daemon/graphdriver/overlay/overlay.go`; left Docker with 24.0).
//!
//! ```text
//! overlay/                 0710
//!   <image layer>/         0710
//!     root/                the whole tree of the layer and all below it; unchanged files are hard links
//!   <container, or a layer that BuildKit made>/
//!     lower-id             0600   the directory whose root/ is below
//!     upper/               what is above it, as overlayfs keeps it
//!     work/                0700
//! ```
//!
//! An image layer says nothing of its parent on disk. A crash while a layer is made leaves `tmproot<random>` in its directory.

mod build;
mod check;
mod list;
mod read;

use super::copy::Keeps;
use super::layout::Layout;
use super::{Driver, Stacking, Trees};

/// Extended attributes that a copy of a parent's tree keeps.
const KEEPS: Keeps = &[b"security.capability", b"trusted.overlay.opaque"];

/// The driver.
pub(super) static DRIVER: Driver = Driver {
    name: "overlay",
    layout: Layout {
        written: Some("upper"),
        made: &[("", &[0o710, 0o700]), ("work", &[0o700]), ("lower-id", &[0o600, 0o644])],
        ..Layout::FLAT
    },
    trees: Trees::Linked,
    stacking: Stacking::LowerId,
    counts_symlinks: false,
    list: list::list,
    read: &Overlay,
    build: Some(&Overlay),
    check: Some(&Overlay),
    short_names: None,
};

/// Its roles.
#[derive(Debug)]
struct Overlay;
