//! Where graph drivers keep what belongs to one directory.

use crate::id::CacheId;

/// Returns the directories below a driver's home that have an entry for each of its directories, in the order in
/// which dockerd removes from them. The empty one is the home itself.
#[must_use]
pub(crate) fn places(driver: &str) -> &'static [&'static str] {
    match driver {
        "vfs" => &["dir"],
        "btrfs" => &["quotas", "subvolumes"],
        "aufs" => &["mnt", "diff", "layers"],
        _ => &[""],
    }
}

/// Returns the one of [`places`] that has the trees.
#[must_use]
pub(crate) fn trees(driver: &str) -> &'static str {
    match driver {
        "vfs" => "dir",
        "btrfs" => "subvolumes",
        "aufs" => "diff",
        _ => "",
    }
}

/// Returns where in a container's directory lies what it has written, and nothing else; `None` where the driver keeps
/// that in one tree with all else.
#[must_use]
pub(crate) fn upper(driver: &str) -> Option<&'static str> {
    match driver {
        "overlay2" | "fuse-overlayfs" => Some("diff"),
        "overlay" => Some("upper"),
        _ => None,
    }
}

/// Returns the path of a directory's tree, relative to the data root.
#[must_use]
pub(crate) fn path_of(driver: &str, id: &CacheId) -> String {
    format!("{driver}/{}", join(trees(driver), id.as_str()))
}

/// Joins a place and what is in it to a path.
#[must_use]
pub(crate) fn join(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}/{name}") }
}
