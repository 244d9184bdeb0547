//! Where graph drivers keep what belongs to one directory.

use crate::fsx::Kind;
use crate::id::CacheId;

use super::Driver;

/// Where a driver keeps what.
#[derive(Debug)]
pub(super) struct Layout {
    /// The directories below the home that have an entry for each directory of a layer, in the order in which dockerd removes
    /// from them. The empty one is the home itself.
    pub(super) places: &'static [Place],
    /// The one of them that has the trees.
    pub(super) trees: &'static str,
    /// Where in a container's directory lies what it has written, and nothing else; `None` where that is in one tree with all
    /// else.
    pub(super) written: Option<&'static str>,
    /// Directories that the home has before the first layer: path below the home, and mode.
    pub(super) home_dirs: &'static [(&'static str, u32)],
    /// The directory below the home that is not empty once the driver was used.
    pub(super) used: &'static str,
    /// What it makes around the tree of a layer, with modes.
    pub(super) made: Made,
    /// What its layers are where they lie outside of the data root.
    pub(super) outside: Option<&'static str>,
}

/// A directory below a driver's home, and what the entries in it are.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// Files and directories that a driver makes in the directory of a layer and whose modes are checked: the name, and the modes
/// that are right, first the one that it gives today. The empty name is that of the directory itself.
pub(super) type Made = &'static [(&'static str, &'static [u32])];

impl Layout {
    /// Everything lies in one directory of the home for each layer.
    pub(super) const FLAT: Self = Self {
        places: &[Place { name: "", kind: Kind::Directory }],
        trees: "",
        written: None,
        home_dirs: &[],
        used: "",
        made: &[],
        outside: None,
    };
}

impl Driver {
    /// Returns the directories below the home that have an entry for each directory, in the order in which dockerd removes
    /// from them. The empty one is the home itself.
    pub(crate) fn places(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.layout.places.iter().map(|place| place.name)
    }

    /// Returns of what kind an entry is, by its path relative to the data root.
    #[must_use]
    pub(crate) fn kind_at(&self, path: &str) -> Kind {
        let is_in = |place: &&Place| path.starts_with(&format!("{}/{}/", self.name, place.name));
        self.layout.places.iter().find(is_in).map_or(Kind::Directory, |place| place.kind)
    }

    /// Returns the one of the [places](Self::places) that has the trees.
    #[must_use]
    pub(crate) fn trees(&self) -> &'static str {
        self.layout.trees
    }

    /// Returns where in a container's directory lies what it has written, and nothing else; `None` where the driver keeps
    /// that in one tree with all else.
    #[must_use]
    pub(crate) fn written(&self) -> Option<&'static str> {
        self.layout.written
    }

    /// Returns the directories that the home has before the first layer: path below the home, and mode.
    #[must_use]
    pub(crate) fn home_dirs(&self) -> &'static [(&'static str, u32)] {
        self.layout.home_dirs
    }

    /// Returns the directory, relative to the data root, that is not empty once the driver was used.
    #[must_use]
    pub(crate) fn used(&self) -> String {
        join(self.name, self.layout.used).trim_end_matches('/').to_owned()
    }

    /// Returns the names of what it makes in the directory of a layer and whose modes are checked; the empty one is that of the
    /// directory itself.
    pub(crate) fn made(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.layout.made.iter().map(|(name, _)| *name)
    }

    /// Returns the modes that are right for what it makes, first the one that it gives today; none where they are not checked.
    #[must_use]
    pub(crate) fn modes(&self, name: &str) -> &'static [u32] {
        self.layout.made.iter().find(|(made, _)| *made == name).map_or(&[], |(_, modes)| *modes)
    }

    /// Returns the mode that it gives to something of its own in the directory of a layer. What is not checked, as
    /// `committed`, is for root alone.
    #[must_use]
    pub(crate) fn mode(&self, name: &str) -> u32 {
        self.modes(name).first().copied().unwrap_or(0o600)
    }

    /// Returns the mode that it gives to a directory of its home.
    #[must_use]
    pub(crate) fn home_mode(&self, name: &str) -> u32 {
        self.layout.home_dirs.iter().find(|(made, _)| *made == name).map_or(0o700, |(_, mode)| *mode)
    }

    /// Returns what layers are where they lie outside of the data root.
    #[must_use]
    pub(crate) fn outside(&self) -> Option<&'static str> {
        self.layout.outside
    }

    /// Returns the path of a directory's tree, relative to the data root.
    #[must_use]
    pub(crate) fn path_of(&self, id: &CacheId) -> String {
        join(self.name, &join(self.layout.trees, id.as_str()))
    }
}

/// Joins a place and what is in it to a path.
#[must_use]
pub(crate) fn join(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}/{name}") }
}
