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

use crate::error::FsError;
use crate::fsx::Dir;
use crate::layer::differences::{Expected, Prediction};
use crate::layer::{Marks, Whiteouts};
use crate::tarsplit::LayerTree;

use super::copy::{Copy, CopyFiles, Keeps};
use super::{Begun, DriverFacts, GraphDriver, NewLayer, whole};

/// Extended attributes that a copy of a parent's tree keeps.
const KEEPS: Keeps = &[b"security.capability"];

/// The driver.
#[derive(Debug)]
pub(crate) struct Vfs;

impl GraphDriver for Vfs {
    fn name(&self) -> &'static str {
        "vfs"
    }

    fn tree(&self, layer: &Dir) -> Result<LayerTree, FsError> {
        Ok(LayerTree(layer.clone()))
    }

    fn marks(&self, _: &DriverFacts) -> Marks {
        Marks::None
    }

    fn base(&self, _: &DriverFacts, parent: &Dir) -> Result<Option<Dir>, FsError> {
        Ok(Some(parent.clone()))
    }

    fn expect(&self, new: &NewLayer<'_>, prediction: &Prediction, path: &[u8]) -> Result<Option<Expected>, FsError> {
        whole::expect(new.parent, prediction, path, |_, key| KEEPS.contains(&key))
    }

    fn begin(&self, at: &Dir, name: &str, new: &NewLayer<'_>) -> Result<Begun, FsError> {
        let layer = at.make_dir(name, 0o755)?;
        layer.own()?;
        if let Some(parent) = new.parent {
            Copy::new(CopyFiles::Content, KEEPS).tree(parent, &layer)?;
        }
        Ok(Begun { tree: layer.clone(), layer, whiteouts: Whiteouts::Remove, linked: Vec::new() })
    }

    fn home_dirs(&self) -> &'static [(&'static str, u32)] {
        &[("dir", 0o710)]
    }
}
