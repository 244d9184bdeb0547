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

use crate::error::FsError;
use crate::fsx::{Dir, Kind};
use crate::layer::Marks;
use crate::layer::differences::{Expected, Prediction};
use crate::tarsplit::LayerTree;

use super::{Begun, DriverFacts, GraphDriver, NewLayer};

/// The driver.
#[derive(Debug)]
pub(crate) struct Aufs;

impl GraphDriver for Aufs {
    fn name(&self) -> &'static str {
        "aufs"
    }

    fn can_build(&self) -> bool {
        false
    }

    fn tree(&self, layer: &Dir) -> Result<LayerTree, FsError> {
        Ok(LayerTree(layer.clone()))
    }

    fn marks(&self, _: &DriverFacts) -> Marks {
        Marks::Files
    }

    fn base(&self, _: &DriverFacts, _: &Dir) -> Result<Option<Dir>, FsError> {
        Ok(None)
    }

    fn expect(&self, _: &NewLayer<'_>, prediction: &Prediction, path: &[u8]) -> Result<Option<Expected>, FsError> {
        // Its root is that of the branch.
        let root = (path.is_empty()).then(|| Expected::made(Kind::Directory, 0o755));
        Ok(root.or_else(|| prediction.get(path)))
    }

    fn begin(&self, at: &Dir, name: &str, _: &NewLayer<'_>) -> Result<Begun, FsError> {
        let error = std::io::Error::new(std::io::ErrorKind::Unsupported, "layers of aufs are only read");
        Err(FsError::new("build", at.shown(name), error))
    }
}
