//! `load`: from an archive to a store.
//!
//! Everything is first made in `<root>/.dockpack/load/`, proved and made durable; then a journal is written, which
//! is the point of no return; then each piece is renamed into its place, in the order in which dockerd would look
//! for it: driver directories, layerdb, imagedb, and last `repositories.json`. A crash before the
//! journal leaves the store as it was, with garbage that the next run takes away; a crash after it is finished
//! by the next run. No dockerd, started at any moment, sees an image whose layers are not there.

mod above;
mod build;
mod builders;
mod displaced;
mod exec;
mod plan;
mod publish;
mod refuse;
mod stage;

pub(super) use build::{DIFFERENCES, DRIVER_DIR, RECORD_DIR, Site, Tar, build};
pub use exec::{LoadReport, discard, spool};
pub(super) use exec::{is_early, recover};
pub use plan::{LoadPlan, PlannedLayer, Tagging, select};
pub(super) use publish::make_records;
pub(super) use stage::Stage;
