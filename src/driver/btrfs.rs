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

use rustix::io::Errno;

use crate::error::FsError;
use crate::fsx::Dir;
use crate::layer::differences::{Expected, Prediction};
use crate::layer::{Marks, Whiteouts};
use crate::tarsplit::LayerTree;

use super::{Begun, DriverFacts, GraphDriver, NewLayer, whole};

/// The driver.
#[derive(Debug)]
pub(crate) struct Btrfs;

impl GraphDriver for Btrfs {
    fn name(&self) -> &'static str {
        "btrfs"
    }

    fn tree(&self, layer: &Dir) -> Result<LayerTree, FsError> {
        Ok(LayerTree(layer.clone()))
    }

    fn fault(&self, _: &Dir, layer: &Dir, _: bool) -> Result<Option<String>, FsError> {
        Ok((!layer.is_subvolume()?).then(|| "it is no subvolume".to_owned()))
    }

    fn marks(&self, _: &DriverFacts) -> Marks {
        Marks::None
    }

    fn base(&self, _: &DriverFacts, parent: &Dir) -> Result<Option<Dir>, FsError> {
        Ok(Some(parent.clone()))
    }

    fn expect(&self, new: &NewLayer<'_>, prediction: &Prediction, path: &[u8]) -> Result<Option<Expected>, FsError> {
        whole::expect(new.parent, prediction, path, |_, _| true)
    }

    fn begin(&self, at: &Dir, name: &str, new: &NewLayer<'_>) -> Result<Begun, FsError> {
        let layer = match new.parent {
            Some(parent) if parent.is_subvolume()? => at.make_snapshot(parent, name)?,
            // The layer below came from another disk as a plain directory, of which no snapshot can be made.
            Some(parent) => {
                let layer = at.make_subvolume(name)?;
                let _ = parent.copy_exactly(&layer)?;
                layer
            }
            None => at.make_subvolume(name)?,
        };
        if new.parent.is_none() {
            layer.set_mode(".", 0o755)?;
            layer.own()?;
        }
        Ok(Begun { tree: layer.clone(), layer, whiteouts: Whiteouts::Remove, linked: Vec::new() })
    }

    fn home_dirs(&self) -> &'static [(&'static str, u32)] {
        &[("subvolumes", 0o710)]
    }

    fn takes(&self, root: &Dir) -> Result<(), FsError> {
        if root.is_btrfs() {
            return Ok(());
        }
        let error = std::io::Error::new(Errno::NOTTY.kind(), "the graph driver btrfs needs a btrfs file system");
        Err(FsError::new("load into", root.shown(""), error))
    }
}
