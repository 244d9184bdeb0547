//! The roles of a graph driver. A directory given to one is the driver directory of one layer, `<home>/<place>/<cache-id>`
//! ([`Driver::trees`](super::Driver::trees)); `dirs` is the one that all of them lie in.

use std::collections::BTreeSet;
use std::fmt::Debug;

use crate::error::FsError;
use crate::finding::Finding;
use crate::fsx::Dir;
use crate::id::{CacheId, LinkId};
use crate::layer::Marks;
use crate::layer::claims::Rules;
use crate::layer::differences::{Expected, Prediction};
use crate::tarsplit::LayerTree;

use super::check::{Checker, One};
use super::{BUILDKIT_NAME, Begun, DriverFacts, NewLayer};

/// Says what is in the directory of a layer, and what there would be in one that is built.
pub(crate) trait Read: Sync + Debug {
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

    /// Returns the bytes that dockerd says a layer adds when it unpacks one: `tree` is what has become of its tar, whose
    /// headers claim `claimed` bytes together. That is what the drivers without a diff of their own count [moby
    /// graphdriver/fsdiff.go `ApplyDiff`].
    ///
    /// # Errors
    /// The tree cannot be read.
    fn layer_size(&self, _tree: &Dir, claimed: u64) -> Result<u64, FsError> {
        Ok(claimed)
    }

    /// Tells whether a layer that nothing mounts has a directory to mount it at.
    ///
    /// # Errors
    /// It cannot be looked at.
    fn has_mount_point(&self, _layer: &Dir) -> Result<bool, FsError> {
        Ok(false)
    }
}

/// Builds directories of layers.
pub(crate) trait Build: Sync + Debug {
    /// Proves that a data root is one that the driver can work on.
    ///
    /// # Errors
    /// It lies on a file system that is not the driver's.
    fn takes(&self, _root: &Dir) -> Result<(), FsError> {
        Ok(())
    }

    /// Makes the directory `name` in `at` for a new layer, with everything but the content of its tar.
    ///
    /// # Errors
    /// The file system refuses.
    fn begin(&self, at: &Dir, name: &str, new: &NewLayer<'_>) -> Result<Begun, FsError>;

    /// Marks a directory as having a child, where the driver does so.
    ///
    /// # Errors
    /// The file system refuses.
    fn mark_parent(&self, _layer: &Dir) -> Result<(), FsError> {
        Ok(())
    }
}

/// Compares what a driver keeps around the trees with what the layers imply.
pub(crate) trait Check: Sync + Debug {
    /// Checks what all directories need.
    fn home(&self, _checker: &Checker<'_>) -> Vec<Finding> {
        Vec::new()
    }

    /// Checks one directory that is there, and notes in it what is wrong.
    ///
    /// # Errors
    /// It cannot be looked at.
    fn directory(&self, one: &mut One<'_>) -> Result<(), FsError>;
}

/// Gives each layer a short name in the driver's home.
pub(crate) trait ShortNames: Sync + Debug {
    /// Symbolic links that must be in the driver's home for the layer: path below the home, and target.
    fn home_links(&self, id: &CacheId, facts: &DriverFacts) -> Vec<(String, String)>;

    /// Returns the short names that are taken in the driver's home.
    ///
    /// # Errors
    /// It cannot be listed.
    fn taken_links(&self, home: &Dir) -> Result<BTreeSet<LinkId>, FsError>;
}
