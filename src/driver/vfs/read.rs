//! Reads the directory of a layer, and says what there would be in one that is built.

use crate::driver::{DriverFacts, NewLayer, Read, whole};
use crate::error::FsError;
use crate::fsx::Dir;
use crate::layer::Marks;
use crate::layer::differences::{Expected, Prediction};
use crate::tarsplit::LayerTree;

use super::{KEEPS, Vfs};

impl Read for Vfs {
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
}
