//! Empties the trash.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::crash::crash_point;
use crate::error::{Error, FsError, Result};
use crate::fsx::{Dir, Footprint};
use crate::progress::{Event, Observer};
use crate::store::{InUse, Store, WriteLock};

use super::{Move, Skipped, State, Trash, Work};

/// What was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PurgeReport {
    /// Names of the transactions that are gone.
    pub transactions: Vec<String>,
    /// Disk space in bytes that was given back.
    pub disk: u64,
    /// What could not be deleted.
    pub skipped: Vec<Skipped>,
}

/// Deletes what a transaction holds, and then the transaction.
pub(in crate::ops) fn purge_one<W: Work>(
    store: &Store,
    trash: Trash<W>,
    _: &WriteLock,
    observer: &dyn Observer,
) -> Result<PurgeReport> {
    observer.on(Event::Begin { what: "measuring", total: None });
    trash.set_state(State::Purging)?;
    // Crash here: all is in the trash, and the next run deletes it.
    crash_point("trash:purging");
    let mut found: Vec<(Move<'_>, &Dir, String)> = Vec::new();
    for moved in trash.journal.work.moves() {
        if let Some((dir, name)) = trash.find(&moved)? {
            found.push((moved, dir, name));
        }
    }
    let in_use = store.in_use();
    let used = used(&trash, &in_use)?;
    let looked: Vec<Result<Footprint, Skipped>> = found
        .par_iter()
        .map(|(moved, dir, name)| match used.get(&moved.order) {
            Some(how) => Err(moved.skipped(format!("it is {how}, or belongs to what is"))),
            None => match dir.footprint(name) {
                Ok(Footprint { obstacle: Some((at, reason)), .. }) => {
                    Err(moved.skipped(format!("{}: {reason}", at.display())))
                }
                Ok(footprint) => Ok(footprint),
                Err(error) => Err(moved.skipped(error.to_string())),
            },
        })
        .collect();
    let total = looked.iter().flatten().map(|footprint| footprint.alone.disk).sum();
    observer.on(Event::Begin { what: "deleting", total: Some(total) });
    let done: Vec<Result<&Footprint, Skipped>> = found
        .par_iter()
        .zip(&looked)
        .take_any_while(|_| !observer.wants_stop())
        .map(|((moved, dir, name), looked)| {
            let footprint = looked.as_ref().map_err(Clone::clone)?;
            dir.remove_tree(name).map_err(|error| moved.skipped(error.to_string()))?;
            // Crash here: the next run deletes the rest.
            crash_point("trash:purged");
            observer.on(Event::Advance(footprint.alone.disk));
            Ok(footprint)
        })
        .collect();
    observer.on(Event::End);
    if done.len() < found.len() {
        // Crash here: the next run deletes the rest.
        return Err(Error::StoppedRemoval { transaction: trash.name, kept: false });
    }
    let mut report =
        PurgeReport { disk: Footprint::freed(done.iter().flatten().copied()).iter().sum(), ..PurgeReport::default() };
    report.skipped.extend(done.into_iter().filter_map(Result::err));
    if !used.is_empty() {
        // What is in use can still be put back, once it is no more.
        trash.set_state(State::Kept)?;
    }
    if !report.skipped.is_empty() {
        // Crash here, and without one: what could not be deleted is still to be, which the next run tries again.
        return Ok(report);
    }
    // Crash here: an empty transaction, which the next run takes away.
    crash_point("trash:emptied");
    report.transactions.push(trash.name.clone());
    trash.remove(store)?;
    Ok(report)
}

/// Finds what cannot be deleted, by order, with how it is used: a container that was started before something moved here may
/// run on with it. What belongs together stays together, so that it can be put back.
fn used<'u, W: Work>(trash: &Trash<W>, in_use: &'u InUse) -> Result<HashMap<usize, &'u str>, FsError> {
    let mut used = HashMap::new();
    for moved in trash.journal.work.moves() {
        if let Some(how) = trash.how_remembered(in_use, &moved)? {
            used.insert(moved.order, how);
        }
    }
    for group in trash.journal.work.groups() {
        if let Some(how) = group.iter().find_map(|order| used.get(order)).copied() {
            used.extend(group.into_iter().map(|order| (order, how)));
        }
    }
    Ok(used)
}
