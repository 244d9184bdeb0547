//! Reads the directory of a layer.

use crate::driver::{DriverFacts, NewLayer, Read};
use crate::error::FsError;
use crate::fsx::{Dir, Kind};
use crate::layer::Marks;
use crate::layer::differences::{Expected, Prediction};
use crate::tarsplit::LayerTree;

use super::Aufs;

impl Read for Aufs {
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
}
