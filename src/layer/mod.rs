//! Layers: what the members of a layer's tar say, and how they become a tree on disk.

mod acl;
mod apply;
pub(crate) mod claims;
pub(crate) mod differences;
mod follow;
mod header;
mod member;
mod shared;
mod sparse;
mod split;

pub(crate) use apply::Marks;
pub use apply::{Applied, ApplyError, Whiteouts, apply};
pub use differences::RestoreError;
pub(crate) use member::clean;
pub use member::{Content, Member, MemberKind, Members, TarError, TarStream};
pub use shared::Shared;
pub(crate) use sparse::Filled;
pub use sparse::SparseMap;
pub use split::split;
