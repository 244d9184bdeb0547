//! Puts back what is in the trash.

use std::collections::HashMap;

use serde::Serialize;

use crate::crash::crash_point;
use crate::error::{FsError, Result};
use crate::fsx::Dir;
use crate::store::{InUse, Store, WriteLock};

use super::{How, Move, Owned, Places, Skipped, State, Trash, Work};

/// What was put back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UndoReport {
    /// Name of the transaction.
    pub transaction: String,
    /// Number of pieces that are back: of garbage, or of what was mended.
    pub restored: usize,
    /// What could not be put back and is still in the trash.
    pub skipped: Vec<Skipped>,
    /// What the repair had made and is in use: it is in the trash until a purge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<Skipped>,
}

/// Moves what a transaction holds back to its places, the last first. Of a repair of which something is in use now,
/// nothing: what took the place of something else is deleted at the end, and its pieces belong together.
pub(in crate::ops) fn undo_one<W: Work>(store: &Store, trash: Trash<W>, _: &WriteLock) -> Result<UndoReport> {
    let (transaction, pieces) = (trash.name.clone(), trash.journal.work.count());
    let in_use = store.in_use();
    let places = Places::open(store)?;
    let mut skipped = used(&trash, &in_use)?;
    skipped.extend(written(&trash, &places)?);
    if !skipped.is_empty() {
        if trash.state()? != State::Kept {
            // Crash here: what was put back is back, and the next run sees the same.
            trash.set_state(State::Kept)?;
        }
        return Ok(UndoReport { transaction, skipped, ..UndoReport::default() });
    }
    trash.set_state(State::Undoing)?;
    // Crash here: the next run puts everything back.
    crash_point("trash:undoing");
    let mut moves = trash.journal.work.moves();
    moves.sort_by_key(|moved| std::cmp::Reverse(moved.order));
    let (mut skipped, mut left) = (Vec::new(), Vec::new());
    let mut step = None;
    let mut touched: HashMap<&str, Dir> = HashMap::new();
    for moved in moves {
        if step.replace(moved.step) != Some(moved.step) {
            // As on the way there, each step is durable before the next: what names something comes after it.
            touched.drain().try_for_each(|(_, dir)| dir.sync())?;
        }
        match put_back(&places, &trash, &moved)? {
            Ok(Some(dir)) => drop(touched.insert(moved.parent(), dir)),
            Ok(None) => {}
            Err(reason) => skipped.push(moved.skipped(reason)),
        }
        // Crash here: the next run puts the rest back.
        crash_point("trash:restored");
    }
    touched.drain().try_for_each(|(_, dir)| dir.sync())?;
    trash.sync()?;
    if skipped.is_empty() {
        for (path, time) in &trash.journal.times {
            if let Some(dir) = places.dir(path)? {
                dir.set_mtime(".", *time)?;
            }
        }
        // Crash here: all is as it was; the next run takes away what is left of the transaction.
        crash_point("trash:undone");
        left = trash.remove_new(&in_use)?;
    }
    match trash.is_empty()? {
        true => trash.remove(store)?,
        false => trash.set_state(State::Kept)?,
    }
    Ok(UndoReport { transaction, restored: pieces.saturating_sub(skipped.len()), skipped, left })
}

/// Returns what a repair has put into directories that are used now, as what stays.
fn used<W: Work>(trash: &Trash<W>, in_use: &InUse) -> Result<Vec<Skipped>, FsError> {
    let held = trash.journal.work.held(in_use);
    let mut skipped = Vec::new();
    for moved in trash.journal.work.moves() {
        if let Some(how) = held.get(&moved.order)
            && (trash.is_done(&moved)? || matches!(moved.how, How::Attributes { .. }))
        {
            skipped.push(moved.skipped(format!("it is {how}, or belongs to what is; nothing was put back")));
        }
    }
    Ok(skipped)
}

/// Returns the directories that a repair made subvolumes of and that containers have written to since, as what stays: the
/// old directory has nothing of what was written, and the new one is deleted at the end.
fn written<W: Work>(trash: &Trash<W>, places: &Places) -> Result<Vec<Skipped>, FsError> {
    let copies = trash.journal.work.copies();
    let mut skipped = Vec::new();
    for moved in trash.journal.work.moves() {
        let Some(&written) = copies.get(&moved.order) else { continue };
        let (true, Some((slot, number))) = (trash.is_done(&moved)?, trash.find(&moved)?) else { continue };
        let Some((dir, name)) = places.parent(moved.path)? else { continue };
        if dir.find(name)?.is_none() {
            continue;
        }
        let old = slot.in_namespace(None).dir(number)?;
        if let Some(path) = old.difference(&dir.in_namespace(None).dir(name)?, written)? {
            let path = String::from_utf8_lossy(&path);
            skipped.push(moved.skipped(format!("/{path} has changed since in it; nothing was put back")));
        }
    }
    Ok(skipped)
}

/// Undoes one move. Returns the directory that was changed, where one was, or why it stays as it is.
fn put_back<W: Work>(
    places: &Places,
    trash: &Trash<W>,
    moved: &Move<'_>,
) -> Result<Result<Option<Dir>, String>, FsError> {
    let gone = || Ok(Err("the directory it was in is gone".to_owned()));
    if let How::Attributes { node, was, now } = moved.how {
        let Some((dir, name)) = places.parent(moved.path)? else { return gone() };
        if let Some(found) = dir.find(name)?
            && (found.kind, found.inode) == (node.kind, node.inode)
            && Owned::of(&found) == now
        {
            was.give(&dir, name)?;
        }
        return Ok(Ok(None));
    }
    if !trash.is_done(moved)? {
        return Ok(Ok(None));
    }
    let Some((dir, name)) = places.parent(moved.path)? else {
        return if matches!(moved.how, How::Put) { Ok(Ok(None)) } else { gone() };
    };
    let there = dir.find(name)?;
    let is_new = trash.is_new(moved, &dir, name)?;
    let slot = trash.find(moved)?;
    let done = match (moved.how, slot) {
        (How::Put, _) if there.is_none() => return Ok(Ok(None)),
        (How::Put, _) if is_new => {
            let (slot, number) = trash.place(moved);
            dir.rename(name, slot, number)
        }
        (How::Exchange(_), Some((slot, number))) if is_new => slot.exchange(number, &dir, name),
        (How::Away(_) | How::Exchange(_), Some((slot, number))) if there.is_none() => slot.rename(number, &dir, name),
        _ => return Ok(Err("it has changed since".to_owned())),
    };
    Ok(match done {
        Ok(()) => Ok(Some(dir)),
        Err(error) => Err(error.source.to_string()),
    })
}
