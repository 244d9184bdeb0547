//! Drivers of which nothing but the name is known here: what their layers are cannot be listed or read.

use crate::error::FsError;
use crate::fsx::Dir;
use crate::layer::Marks;
use crate::layer::differences::{Expected, Prediction};
use crate::notes::Unknown;
use crate::tarsplit::LayerTree;

use super::layout::Layout;
use super::{Driver, DriverFacts, Listing, NewLayer, Read, Stacking, Trees};

/// `zfs` (moby `daemon/graphdriver/zfs/zfs.go`).
pub(super) static ZFS: Driver =
    Driver { layout: Layout { outside: Some("datasets of their own"), ..Layout::FLAT }, ..driver("zfs") };

/// `devicemapper` (moby@v24 `daemon/graphdriver/devmapper/driver.go`; left Docker with 25.0).
pub(super) static DEVICEMAPPER: Driver = Driver {
    layout: Layout { outside: Some("block devices of a thin pool"), ..Layout::FLAT },
    ..driver("devicemapper")
};

/// Makes the value of a driver of which nothing but the name is known.
pub(super) const fn driver(name: &'static str) -> Driver {
    Driver {
        name,
        layout: Layout::FLAT,
        trees: Trees::Unknown,
        stacking: Stacking::Unsaid,
        counts_symlinks: false,
        list,
        read: &Unread,
        build: None,
        check: None,
        short_names: None,
    }
}

/// Says that what the home holds is not known.
fn list(driver: &'static Driver, _: &Dir) -> Listing {
    let mut listing = Listing::default();
    listing.notes.unreadable(Unknown::DriverDirs, driver.name(), "directories of this graph driver are not known");
    listing
}

/// Its one role, which reads nothing.
#[derive(Debug)]
struct Unread;

impl Read for Unread {
    fn tree(&self, layer: &Dir) -> Result<LayerTree, FsError> {
        let error = std::io::Error::new(std::io::ErrorKind::Unsupported, "layers of this graph driver are not known");
        Err(FsError::new("read", layer.shown(""), error))
    }

    fn marks(&self, _: &DriverFacts) -> Marks {
        Marks::None
    }

    fn base(&self, _: &DriverFacts, _: &Dir) -> Result<Option<Dir>, FsError> {
        Ok(None)
    }

    fn expect(&self, _: &NewLayer<'_>, _: &Prediction, _: &[u8]) -> Result<Option<Expected>, FsError> {
        Ok(None)
    }
}
