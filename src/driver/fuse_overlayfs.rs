//! `fuse-overlayfs`: as `overlay2`, for a file system in user space (moby
//! `daemon/graphdriver/fuse-overlayfs/fuseoverlayfs.go`, 20.10+).
//!
//! ```text
//! fuse-overlayfs/          0710
//!   l/                     0700   short names: <LINK> -> ../<id>/diff
//!   <id>/                  0710
//!     diff/                0755   the tree; `.wh.NAME` and `.wh..wh..opq` as in the layer's tar
//!     link                 0644   the short name, 26 characters
//!     lower                0644   with a parent: l/<LINK>:l/<LINK>… of all layers below, nearest first
//!     work/                0710   with a parent
//!     committed            0600   once a child was made
//! ```
//!
//! What was written through a mount (containers, BuildKit) may have devices 0:0 and extended attributes instead.
//! Of a name that one layer removes and makes again, a mount shows nothing: Docker itself cannot save such a layer.

use crate::layer::Marks;

use super::Driver;
use super::overlay2::{self, DIRECTORY, LINK, LOWER, Overlay2};

/// The driver.
pub(super) static DRIVER: Driver = {
    static ROLES: Overlay2 = Overlay2 { marks: Marks::Files, work_mode: 0o710 };
    overlay2::driver("fuse-overlayfs", &ROLES, &[DIRECTORY, LINK, LOWER, ("work", &[0o710])])
};
