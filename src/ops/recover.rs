//! What every command does first that changes a store: finish what an interrupted one has begun.

use crate::error::Result;
use crate::progress::Observer;
use crate::store::{Store, WriteLock};

use super::gc::{self, GcReport};
use super::load::{self, LoadPlan};

/// What was finished.
#[derive(Debug, Default)]
pub struct Recovered {
    /// A load.
    pub load: Option<LoadPlan>,
    /// Removals, oldest first.
    pub gc: Vec<GcReport>,
}

/// Finishes what was interrupted, or takes it back where it had not really begun.
///
/// # Errors
/// The file system refuses, or a journal cannot be read.
pub fn recover(store: &Store, lock: &WriteLock, observer: &dyn Observer) -> Result<Recovered> {
    let load = load::recover(store, lock)?;
    // What was loaded may have made directories that are not there yet in `store`.
    let store = match &load {
        Some(plan) => Store::open(store.path(), Some(&plan.driver))?,
        None => store.clone(),
    };
    Ok(Recovered { load, gc: gc::recover(&store, lock, observer)? })
}
