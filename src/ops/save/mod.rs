//! `save`: from a store to an archive, in one streaming pass with no temp file.

mod exec;
mod measure;
mod order;
mod plan;
mod read;

pub use exec::SaveReport;
pub use plan::SavePlan;
