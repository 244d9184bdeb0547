//! Graph drivers: how each keeps a layer's tree on disk.

mod aufs;
mod btrfs;
pub(crate) mod check;
mod copy;
mod fuse_overlayfs;
pub(crate) mod listing;
mod overlay;
mod overlay2;
mod places;
mod sizes;
mod vfs;
mod whole;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::FsError;
use crate::fsx::Dir;
use crate::id::{CacheId, LinkId};
use crate::layer::claims::Rules;
use crate::layer::differences::{Expected, Prediction};
use crate::layer::{Marks, Whiteouts};
use crate::tarsplit::LayerTree;

pub(crate) use listing::{Listing, is_known, list};
pub(crate) use places::{join, path_of, places, trees, upper};
pub use sizes::Sizes;

/// A directory of the graph driver, as far as its own files tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriverDir {
    /// Directories that this one needs: `overlay2`'s `lower` (nearest first), `overlay`'s `lower-id`.
    pub lower: Vec<CacheId>,
    /// Short names in `overlay2`'s `lower` that lead to no directory.
    pub lost: Vec<LinkId>,
    /// `overlay2`'s short name, where it can be read.
    pub link: Option<LinkId>,
    /// `overlay2`: short names in `l/` that lead to this directory, whatever it calls itself.
    pub names: Vec<LinkId>,
}

/// What a driver keeps of a layer besides the tree: what an exact rebuild needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DriverFacts {
    /// `overlay2`'s short name of the layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkId>,
    /// `overlay2`: whether the file `committed` is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub committed: bool,
    /// `overlay2`: `merged` is made with the layer, as Docker 17.03 to 17.09 need it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merged: bool,
    /// Docker without root unpacked the layer into a mount, which marks what is removed in its own way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mounted: bool,
    /// `overlay`: BuildKit made the layer, so its tree is in `upper/` above that directory's `root/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_id: Option<CacheId>,
}

/// A layer that is to be built.
#[derive(Debug)]
pub(crate) struct NewLayer<'a> {
    /// What the driver keeps besides the tree.
    pub facts: &'a DriverFacts,
    /// The directory of the layer below.
    pub parent: Option<&'a Dir>,
    /// The directory that [`DriverFacts::lower_id`] names.
    pub lower: Option<&'a Dir>,
}

/// A layer's directory before its tar is unpacked.
#[derive(Debug)]
pub(crate) struct Begun {
    /// The layer's driver directory.
    pub layer: Dir,
    /// Where the tar is to be unpacked.
    pub tree: Dir,
    /// What becomes of its whiteouts.
    pub whiteouts: Whiteouts,
    /// Inodes that the parent's tree has names for too.
    pub linked: Vec<u64>,
}

/// A graph driver that layers can be saved from and rebuilt for. A directory given to it is the driver
/// directory of one layer, `<home>/<place>/<cache-id>` ([`trees`]); `dirs` is the one that all of them lie in.
pub(crate) trait GraphDriver: Sync + std::fmt::Debug {
    /// Docker's name of the driver.
    fn name(&self) -> &'static str;

    /// Tells whether layers can be built; else they are only read.
    fn can_build(&self) -> bool {
        true
    }

    /// Proves that a data root is one that the driver can work on.
    ///
    /// # Errors
    /// It lies on a file system that is not the driver's.
    fn takes(&self, _root: &Dir) -> Result<(), FsError> {
        Ok(())
    }

    /// Opens the layer's own tree, where the files of its tar lie.
    ///
    /// # Errors
    /// It is not there.
    fn tree(&self, layer: &Dir) -> Result<LayerTree, FsError>;

    /// Reads what the driver keeps besides the tree.
    ///
    /// # Errors
    /// A file cannot be read. What is missing is not an error.
    fn facts(&self, _layer: &Dir) -> Result<DriverFacts, FsError> {
        Ok(DriverFacts::default())
    }

    /// Says in words what keeps dockerd from using the directory; `None` where nothing does.
    ///
    /// # Errors
    /// It cannot be told.
    fn fault(&self, _dirs: &Dir, _layer: &Dir, _has_parent: bool) -> Result<Option<String>, FsError> {
        Ok(None)
    }

    /// Tells how the layer's tree says that something below it is removed.
    fn marks(&self, facts: &DriverFacts) -> Marks;

    /// Returns the name of the tree in a layer's driver directory; empty where that is the tree.
    fn tree_name(&self, _facts: &DriverFacts) -> &'static str {
        ""
    }

    /// Says what the differences of a layer may be.
    fn rules(&self, facts: &DriverFacts, id: &CacheId) -> Rules {
        let marks = self.marks(facts);
        let in_place = id.as_str().len() == BUILDKIT_NAME;
        Rules {
            tree: self.tree_name(facts),
            marks,
            whole: marks == Marks::None,
            in_place,
            mounted: facts.mounted || in_place && (facts.lower_id.is_some() || marks == Marks::Files),
        }
    }

    /// Opens the tree of the layer below that this one's began as; `None` where it began empty. A driver that gives one
    /// needs the layer below before it can build this one.
    ///
    /// # Errors
    /// It cannot be opened.
    fn base(&self, facts: &DriverFacts, parent: &Dir) -> Result<Option<Dir>, FsError>;

    /// Says what a rebuilt directory has at `path` (below the layer's driver directory), where that is known.
    ///
    /// # Errors
    /// The parent cannot be read.
    fn expect(&self, new: &NewLayer<'_>, prediction: &Prediction, path: &[u8]) -> Result<Option<Expected>, FsError>;

    /// Lists the whiteouts that a rebuilt directory may have: their paths below the layer's driver directory.
    ///
    /// # Errors
    /// The parent cannot be read.
    fn expected_whiteouts(&self, _new: &NewLayer<'_>, _prediction: &Prediction) -> Result<BTreeSet<Vec<u8>>, FsError> {
        Ok(BTreeSet::new())
    }

    /// Makes the directory `name` in `at` for a new layer, with everything but the content of its tar.
    ///
    /// # Errors
    /// The file system refuses.
    fn begin(&self, at: &Dir, name: &str, new: &NewLayer<'_>) -> Result<Begun, FsError>;

    /// Returns the bytes that dockerd says a layer adds when it unpacks one: `tree` is what has become of its tar, whose
    /// headers claim `claimed` bytes together. That is what the drivers without a diff of their own count [moby
    /// graphdriver/fsdiff.go `ApplyDiff`].
    ///
    /// # Errors
    /// The tree cannot be read.
    fn layer_size(&self, _tree: &Dir, claimed: u64) -> Result<u64, FsError> {
        Ok(claimed)
    }

    /// Marks a directory as having a child, where the driver does so.
    ///
    /// # Errors
    /// The file system refuses.
    fn mark_parent(&self, _layer: &Dir) -> Result<(), FsError> {
        Ok(())
    }

    /// Tells whether a layer that nothing mounts has a directory to mount it at.
    ///
    /// # Errors
    /// It cannot be looked at.
    fn has_mount_point(&self, _layer: &Dir) -> Result<bool, FsError> {
        Ok(false)
    }

    /// Tells whether each layer has a short name in the driver's home.
    fn has_links(&self) -> bool {
        false
    }

    /// Symbolic links that must be in the driver's home for the layer: path below the home, and target.
    fn home_links(&self, _id: &CacheId, _facts: &DriverFacts) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Returns the short names that are taken in the driver's home.
    ///
    /// # Errors
    /// It cannot be listed.
    fn taken_links(&self, _home: &Dir) -> Result<BTreeSet<LinkId>, FsError> {
        Ok(BTreeSet::new())
    }

    /// Directories that the driver's home has before the first layer: path below the home and mode.
    fn home_dirs(&self) -> &'static [(&'static str, u32)] {
        &[]
    }
}

/// Returns the driver of this name, where its layers can be read.
#[must_use]
pub(crate) fn by_name(name: &str) -> Option<&'static dyn GraphDriver> {
    match name {
        "overlay2" => Some(&overlay2::OVERLAY2),
        "fuse-overlayfs" => Some(&fuse_overlayfs::FUSE_OVERLAYFS),
        "overlay" => Some(&overlay::Overlay),
        "vfs" => Some(&vfs::Vfs),
        "btrfs" => Some(&btrfs::Btrfs),
        "aufs" => Some(&aufs::Aufs),
        _ => None,
    }
}

/// Tells whether each layer of this driver has the whole tree, also all that lies below it.
#[must_use]
pub(crate) fn has_whole_trees(name: &str) -> bool {
    matches!(name, "overlay" | "vfs" | "btrfs")
}

/// Length of the names that BuildKit draws for directories.
pub(crate) const BUILDKIT_NAME: usize = 25;

/// Longest file of a driver's own that is read, in bytes: `lower` of 128 layers is below 4 KiB.
const FILE_LIMIT: u64 = 64 << 10;

/// Reads one of the driver's own files, without white space around its text; `None` where it is not there.
fn read_text(layer: &Dir, name: &str) -> Result<Option<Vec<u8>>, FsError> {
    Ok(FsError::found(layer.read(name, FILE_LIMIT))?.map(|bytes| bytes.trim_ascii().to_vec()))
}
