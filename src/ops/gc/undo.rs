//! Puts back what is in the trash.

use std::collections::HashMap;

use serde::Serialize;

use crate::crash::crash_point;
use crate::error::{Error, Result};
use crate::fsx::Dir;
use crate::store::{Store, WriteLock};

use super::exec::Skipped;
use super::places::Places;
use super::plan::Part;
use super::trash::{State, Trash};

/// What was put back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UndoReport {
    /// Name of the transaction.
    pub transaction: String,
    /// Number of pieces of garbage that are back.
    pub restored: usize,
    /// What could not be put back and is still in the trash.
    pub skipped: Vec<Skipped>,
}

/// Puts back what one transaction moved into the trash: the one of this name, else the last.
///
/// # Errors
/// There is no such transaction, or the file system refuses.
pub fn undo(store: &Store, lock: &WriteLock, name: Option<&str>) -> Result<UndoReport> {
    let names = Trash::names(store)?;
    let chosen = match name {
        None => names.last(),
        Some(name) => names.iter().find(|known| *known == name),
    };
    let nothing = || match name {
        None => Error::Usage("there is nothing in the trash".to_owned()),
        Some(name) => {
            Error::Usage(format!("there is no transaction {name} in the trash; there are: {}", names.join(", ")))
        }
    };
    let trash = Trash::open(store, chosen.ok_or_else(nothing)?)?.ok_or_else(nothing)?;
    let (transaction, entries) = (trash.name.clone(), trash.journal.plan.entries.len());
    let skipped = undo_one(store, trash, lock)?;
    Ok(UndoReport { transaction, restored: entries.saturating_sub(skipped.len()), skipped })
}

/// Lets transactions that were interrupted while they moved things into the trash stay there. To be called before
/// [`recover`](crate::ops::recover) by whoever then wants an [`undo`]: it would go on with them, and delete.
///
/// # Errors
/// The file system refuses, or a journal cannot be read.
pub fn hold(store: &Store, _: &WriteLock) -> Result<()> {
    for name in Trash::names(store)? {
        if let Some(trash) = Trash::open(store, &name)?
            && trash.state()? == State::Moving
        {
            trash.set_state(State::Kept)?;
            // Crash here: all that was moved waits for an undo or a purge.
            crash_point("gc:held");
        }
    }
    Ok(())
}

/// Moves what a transaction holds back to its places, the last first. Returns what stays in the trash.
pub(super) fn undo_one(store: &Store, trash: Trash, _: &WriteLock) -> Result<Vec<Skipped>> {
    trash.set_state(State::Undoing)?;
    // Crash here: the next run puts everything back.
    crash_point("gc:undoing");
    let places = Places::open(store)?;
    let mut parts: Vec<&Part> = trash.journal.plan.parts().collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.order));
    let mut skipped = Vec::new();
    let mut step = None;
    let mut touched: HashMap<&str, Dir> = HashMap::new();
    for part in parts {
        if step.replace(part.step) != Some(part.step) {
            // As on the way there, each step is durable before the next: what names something comes after it.
            touched.drain().try_for_each(|(_, dir)| dir.sync())?;
        }
        let Some((from, number)) = trash.find(part)? else { continue };
        let mut skip = |reason: String| skipped.push(Skipped { path: part.path.clone(), reason });
        let Some((dir, name)) = places.parent(&part.path)? else {
            skip("the directory it was in is gone".to_owned());
            continue;
        };
        match from.rename(&number, &dir, name) {
            Ok(()) => {
                touched.entry(part.path.rsplit_once('/').map_or("", |(parent, _)| parent)).or_insert(dir);
            }
            Err(error) => skip(error.source.to_string()),
        }
        // Crash here: the next run puts the rest back.
        crash_point("gc:restored");
    }
    touched.drain().try_for_each(|(_, dir)| dir.sync())?;
    trash.sync()?;
    if trash.is_empty()? {
        for (path, time) in &trash.journal.times {
            if let Some(dir) = places.dir(path)? {
                dir.set_mtime(".", *time)?;
            }
        }
        // Crash here: an empty transaction, which the next run takes away.
        crash_point("gc:undone");
        trash.remove(store)?;
    } else {
        trash.set_state(State::Kept)?;
    }
    Ok(skipped)
}
