//! Reads the subvolume of a layer, and says what there would be in one that is built.

use crate::driver::{DriverFacts, NewLayer, Read, whole};
use crate::error::FsError;
use crate::fsx::Dir;
use crate::layer::Marks;
use crate::layer::differences::{Expected, Prediction};
use crate::tarsplit::LayerTree;

use super::Btrfs;

impl Read for Btrfs {
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
}
