//! Graph drivers: how each keeps a layer's tree on disk.

mod listing;
pub mod overlay;
pub mod overlay2;

use crate::id::{CacheId, LinkId};

pub(crate) use listing::{Listing, list};

/// A directory of the graph driver, as far as its own files tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriverDir {
    /// Directories that this one needs: `overlay2`'s `lower` (nearest first), `overlay`'s `lower-id`.
    pub lower: Vec<CacheId>,
    /// Short names in `overlay2`'s `lower` that lead to no directory.
    pub lost: Vec<LinkId>,
    /// `overlay2`'s short name, where it can be read.
    pub link: Option<LinkId>,
}
