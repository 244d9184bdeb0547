//! `save`: from a store to an archive, in one streaming pass with no temp file.

mod directory;
mod exec;
mod measure;
mod order;
mod partial;
mod plan;
mod read;

pub use exec::SaveReport;
pub(super) use measure::{DifferencesError, Source};
pub use partial::{Unproved, provable};
pub use plan::SavePlan;
