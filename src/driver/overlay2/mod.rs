//! `overlay2`: each layer's delta in a directory of its own (moby `daemon/graphdriver/overlay2/overlay.go`).
//!
//! ```text
//! overlay2/                0710
//!   l/                     0700   short names: <LINK> -> ../<id>/diff
//!   <id>/                  0710
//!     diff/                0755   the tree; whiteouts as devices 0:0, opaque directories by an xattr
//!     link                 0644   the short name, 26 characters
//!     lower                0644   with a parent: l/<LINK>:l/<LINK>… of all layers below, nearest first
//!     work/                0700   with a parent
//!     committed            0600   once a child was made (20.10+)
//!     merged/              0700   while mounted; to 17.09 made with the layer, and needed
//! ```
//!
//! `lower` names all ancestors, so it closes over them. Before 25.0 `link` and `lower` were written without a sync, so a
//! power cut leaves them empty (moby #35747). The kernel goes by the symbolic links in `l/`, dockerd by `link` when it makes
//! a child. A failed creation leaves its link in `l/`.

mod build;
mod check;
mod list;
mod read;

use crate::error::FsError;
use crate::fsx::Dir;
use crate::id::LinkId;
use crate::layer::Marks;

use super::layout::{Layout, Made};
use super::{Driver, FILE_LIMIT, Stacking, Trees};

pub(crate) use list::parse_lower;

/// The driver.
pub(super) static DRIVER: Driver = {
    static ROLES: Overlay2 = Overlay2 { marks: Marks::Overlayfs, work_mode: 0o700 };
    Driver { counts_symlinks: true, ..driver("overlay2", &ROLES, &[DIRECTORY, LINK, LOWER, ("work", &[0o700])]) }
};

/// What it makes around a tree, and the modes that are right: 17.03 made directories 0700, some releases files 0666.
pub(super) const DIRECTORY: (&str, &[u32]) = ("", &[0o710, 0o700]);
pub(super) const LINK: (&str, &[u32]) = ("link", &[0o644, 0o666]);
pub(super) const LOWER: (&str, &[u32]) = ("lower", &[0o644, 0o666]);

/// The roles of the driver, and of `fuse-overlayfs`, which differs in little.
#[derive(Debug)]
pub(super) struct Overlay2 {
    /// How what is unpacked says that something is removed.
    pub(super) marks: Marks,
    /// Mode of `work`.
    pub(super) work_mode: u32,
}

/// Makes the value of a driver that keeps its layers so.
pub(super) const fn driver(name: &'static str, roles: &'static Overlay2, made: Made) -> Driver {
    Driver {
        name,
        layout: Layout { written: Some("diff"), home_dirs: &[("l", 0o700)], made, ..Layout::FLAT },
        trees: Trees::Added,
        stacking: Stacking::ShortNames,
        counts_symlinks: false,
        list: list::list,
        read: roles,
        build: Some(roles),
        check: Some(roles),
        short_names: Some(roles),
    }
}

/// Reads the short name that a directory says of itself, in its `link` at `path`; `None` where it says none.
fn read_link(dir: &Dir, path: impl AsRef<[u8]>) -> Result<Option<LinkId>, FsError> {
    let text = FsError::in_place(dir.read(path, FILE_LIMIT))?;
    Ok(text.and_then(|text| LinkId::parse(text.trim_ascii()).ok()))
}
