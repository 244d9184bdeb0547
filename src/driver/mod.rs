//! Graph drivers: how each keeps a layer's tree on disk.
//!
//! Each has a module of its own with the format, a [`Driver`] value that says what it is, and its roles: how its home is
//! listed (`list`), its layers read (`read`), built (`build`) and checked (`check`). Whoever needs to know something of a
//! driver asks the value; its name is only for paths, messages and what is stored.

mod aufs;
mod btrfs;
pub(crate) mod check;
mod copy;
mod fuse_overlayfs;
mod layout;
mod list;
mod overlay;
pub(crate) mod overlay2;
mod roles;
mod sizes;
mod unread;
mod vfs;
mod whole;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, FsError, Result};
use crate::fsx::Dir;
use crate::id::{CacheId, LinkId};
use crate::layer::Whiteouts;

use layout::Layout;

pub(crate) use layout::join;
pub(crate) use list::Listing;
pub(crate) use roles::{Build, Check, Read, ShortNames};
pub use sizes::Sizes;

/// Graph drivers that dockerd has had on Linux.
pub static DRIVERS: [&Driver; 8] = [
    &overlay2::DRIVER,
    &fuse_overlayfs::DRIVER,
    &btrfs::DRIVER,
    &unread::ZFS,
    &aufs::DRIVER,
    &overlay::DRIVER,
    &unread::DEVICEMAPPER,
    &vfs::DRIVER,
];

/// The driver that Docker takes by itself for a new store.
pub static USUAL: &Driver = &overlay2::DRIVER;

/// A graph driver: what it is called, where it keeps what, and what can be done with its layers. There is one value for each
/// name, which a store looks up when it is opened ([`Store::driver`](crate::store::Store::driver)).
pub struct Driver {
    /// Docker's name of it.
    name: &'static str,
    layout: Layout,
    trees: Trees,
    stacking: Stacking,
    /// Whether a layer's size counts where its symbolic links lead, in bytes.
    counts_symlinks: bool,
    list: fn(&'static Driver, &Dir) -> Listing,
    /// How its layers are read; of one that is not [readable](Self::is_readable) nothing can be.
    pub(crate) read: &'static dyn Read,
    /// How its layers are built, where they can be.
    build: Option<&'static dyn Build>,
    /// How what it keeps around the trees is checked, where it keeps something.
    check: Option<&'static dyn Check>,
    /// Its short names, where it has some.
    short_names: Option<&'static dyn ShortNames>,
}

/// What the tree of a layer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trees {
    /// It is not known.
    Unknown,
    /// What the layer adds.
    Added,
    /// The layer and all below it; it began as a copy or a snapshot of the tree below.
    Copied,
    /// The layer and all below it; files that are as below are hard links to those.
    Linked,
}

/// How a directory says what it is stacked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stacking {
    /// Nothing that a file says.
    Unsaid,
    /// `<id>/lower`: the short names of all below, nearest first.
    ShortNames,
    /// `<id>/lower-id`: the directory of the whole tree that is below.
    LowerId,
    /// `layers/<id>`: all below, nearest first.
    Layers,
}

impl Driver {
    /// Returns the driver of Docker's that has this name.
    #[must_use]
    pub fn known(name: &str) -> Option<&'static Self> {
        DRIVERS.into_iter().find(|driver| driver.name == name)
    }

    /// Returns the driver of this name. One that is none of Docker's, as a plugin or a snapshotter, can only be named: its
    /// value is made when it is first met, and stays while the process runs, which meets few.
    #[must_use]
    pub fn named(name: &str) -> &'static Self {
        static OTHERS: Mutex<Vec<&Driver>> = Mutex::new(Vec::new());
        Self::known(name).unwrap_or_else(|| {
            let mut others = OTHERS.lock().unwrap_or_else(PoisonError::into_inner);
            let met = others.iter().find(|driver| driver.name == name).copied();
            met.unwrap_or_else(|| {
                let driver: &Self = Box::leak(Box::new(unread::driver(String::leak(name.to_owned()))));
                others.push(driver);
                driver
            })
        })
    }

    /// Returns Docker's name of it, which is also that of its home below the data root.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Tells whether its directories are known and its layers can be read.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.trees != Trees::Unknown
    }

    /// Returns it where its layers can be read.
    ///
    /// # Errors
    /// They cannot.
    pub(crate) fn readable(&'static self) -> Result<&'static Self> {
        match self.is_readable() {
            true => Ok(self),
            false => Err(Error::UnsupportedDriver { driver: self.name.to_owned() }),
        }
    }

    /// Returns how its layers are built.
    ///
    /// # Errors
    /// They cannot be built, or not even be read.
    pub(crate) fn builder(&'static self) -> Result<&'static dyn Build> {
        self.readable()?.build.ok_or_else(|| Error::ReadOnlyDriver { driver: self.name.to_owned() })
    }

    /// Tells whether its layers can be built.
    #[must_use]
    pub(crate) fn can_build(&self) -> bool {
        self.build.is_some()
    }

    /// Tells whether each layer has the whole tree, also all that lies below it.
    #[must_use]
    pub(crate) fn keeps_whole_trees(&self) -> bool {
        matches!(self.trees, Trees::Copied | Trees::Linked)
    }

    /// Tells whether a whole tree has the files that are as below by hard links to those.
    #[must_use]
    pub(crate) fn links_files(&self) -> bool {
        self.trees == Trees::Linked
    }

    /// Tells how a directory says what it is stacked on.
    #[must_use]
    pub(crate) fn stacking(&self) -> Stacking {
        self.stacking
    }

    /// Tells whether a layer may be only what is above another's whole tree, which its directory names in `lower-id`.
    #[must_use]
    pub(crate) fn has_lower_ids(&self) -> bool {
        self.stacking == Stacking::LowerId
    }

    /// Tells whether each layer has a short name in the driver's home.
    #[must_use]
    pub(crate) fn has_short_names(&self) -> bool {
        self.short_names.is_some()
    }

    /// Returns the symbolic links that must be in the home for a layer: path below the home, and target.
    pub(crate) fn home_links(&self, id: &CacheId, facts: &DriverFacts) -> Vec<(String, String)> {
        self.short_names.map(|names| names.home_links(id, facts)).unwrap_or_default()
    }

    /// Returns the short names that are taken in the home.
    ///
    /// # Errors
    /// It cannot be listed.
    pub(crate) fn taken_links(&self, home: &Dir) -> Result<BTreeSet<LinkId>, FsError> {
        self.short_names.map_or_else(|| Ok(BTreeSet::new()), |names| names.taken_links(home))
    }

    /// Tells whether the size that dockerd notes of a layer counts where its symbolic links lead, in bytes.
    #[must_use]
    pub(crate) fn counts_symlinks(&self) -> bool {
        self.counts_symlinks
    }

    /// Lists the driver's home.
    pub(crate) fn list(&'static self, home: &Dir) -> Listing {
        (self.list)(self, home)
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Driver").field(&self.name).finish()
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Driver {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Driver {}

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

/// Length of the names that BuildKit draws for directories.
pub(crate) const BUILDKIT_NAME: usize = 25;

/// Longest file of a driver's own that is read, in bytes: `lower` of 128 layers is below 4 KiB.
const FILE_LIMIT: u64 = 64 << 10;

/// Reads one of the driver's own files, without white space around its text; `None` where it is not there.
fn read_text(layer: &Dir, name: &str) -> Result<Option<Vec<u8>>, FsError> {
    Ok(FsError::found(layer.read(name, FILE_LIMIT))?.map(|bytes| bytes.trim_ascii().to_vec()))
}
