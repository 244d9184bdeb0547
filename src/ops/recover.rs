//! What every command does first that changes a store: finish what an interrupted one has begun.

use crate::error::Result;
use crate::progress::Observer;
use crate::store::{Store, WriteLock};

use super::gc::{self, GcReport};
use super::load::{self, LoadPlan};
use super::repair::{self, RepairReport};
use super::transactions::Plan;
use super::trash::{Skipped, State, Trash, UndoReport, discard, purge_one, tidy, undo_one};

/// What was finished.
#[derive(Debug, Default)]
pub struct Recovered {
    /// A load.
    pub load: Option<LoadPlan>,
    /// Removals, oldest first.
    pub gc: Vec<GcReport>,
    /// Repairs, oldest first.
    pub repairs: Vec<RepairReport>,
    /// What was being put back, of removals and repairs.
    pub undone: Vec<UndoReport>,
    /// Removals and repairs whose journal is damaged: what they hold stays in the trash.
    pub damaged: Vec<Skipped>,
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
    let mut recovered = Recovered { load, ..Recovered::default() };
    recovered.damaged = discard(&store)?;
    let (whole, damaged) = Trash::all(&store)?;
    recovered.damaged.extend(damaged);
    for trash in whole {
        recovered.finish(&store, trash, lock, observer)?;
    }
    tidy(&store)?;
    Ok(recovered)
}

impl Recovered {
    fn finish(&mut self, store: &Store, trash: Trash<Plan>, lock: &WriteLock, observer: &dyn Observer) -> Result<()> {
        match trash.state()? {
            State::Kept => {}
            State::Moving => match &trash.journal.work {
                Plan::Gc(plan) => {
                    let plan = plan.clone();
                    self.gc.push(gc::go_on(store, trash, &plan, lock, observer)?);
                }
                Plan::Repair(plan) => self.repairs.push(repair::go_on(store, &trash, plan, lock)?),
            },
            State::Purging => {
                let transaction = trash.name.clone();
                let purged = purge_one(store, trash, lock, observer)?;
                let (disk, skipped) = (purged.disk, purged.skipped);
                self.gc.push(GcReport { transaction, disk, skipped, ..GcReport::default() });
            }
            State::Undoing => self.undone.push(undo_one(store, trash, lock)?),
        }
        Ok(())
    }
}
