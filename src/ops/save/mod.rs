//! `save`: from a store to an archive, in one streaming pass with no temp file.

mod directory;
mod exec;
mod given;
mod measure;
mod order;
mod partial;
mod plan;
mod read;
mod source;

pub use exec::SaveReport;
pub(super) use measure::{DifferencesError, Parts};
pub use partial::{Unproved, provable};
pub use plan::SavePlan;
pub use source::StoreSource;
