//! The transactions in the trash, whatever operation they are of: putting one back, and deleting what they hold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use crate::crash::crash_point;
use crate::error::{Error, Result};
use crate::progress::Observer;
use crate::store::{InUse, Store, WriteLock};

use super::gc::GcPlan;
use super::repair::RepairPlan;
use super::trash::{self, Kind, Move, PurgeReport, State, Trash, UndoReport, Work, begun, purge_one, undo_one};

/// What a journal says that its transaction does.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Plan {
    /// Garbage goes.
    Gc(GcPlan),
    /// What is damaged is replaced.
    Repair(RepairPlan),
}

impl Plan {
    fn work(&self) -> &dyn Work {
        match self {
            Self::Gc(plan) => plan,
            Self::Repair(plan) => plan,
        }
    }
}

impl Work for Plan {
    fn kind(&self) -> Kind {
        self.work().kind()
    }

    fn driver(&self) -> &str {
        self.work().driver()
    }

    fn moves(&self) -> Vec<Move<'_>> {
        self.work().moves()
    }

    fn groups(&self) -> Vec<Vec<usize>> {
        self.work().groups()
    }

    fn count(&self) -> usize {
        self.work().count()
    }

    fn held(&self, in_use: &InUse) -> BTreeMap<usize, String> {
        self.work().held(in_use)
    }

    fn copies(&self) -> BTreeMap<usize, bool> {
        self.work().copies()
    }
}

/// What is purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Everything in the trash.
    All,
    /// The removals of garbage that began before this time. What was there before a repair stays.
    Before(Timestamp),
}

/// Deletes what is in the trash.
///
/// # Errors
/// The file system refuses, or the observer wanted it to stop: the next run deletes the rest. What cannot be deleted is
/// in the report.
pub fn purge(store: &Store, lock: &WriteLock, which: Which, observer: &dyn Observer) -> Result<PurgeReport> {
    let (whole, damaged) = Trash::<Plan>::all(store)?;
    let mut report = PurgeReport::default();
    if which == Which::All {
        report.skipped = damaged;
    }
    for trash in whole {
        let is_due = match which {
            Which::All => true,
            Which::Before(time) => {
                trash.journal.work.kind() == Kind::Gc && begun(&trash.name).is_some_and(|begun| begun < time)
            }
        };
        if !is_due {
            continue;
        }
        let PurgeReport { transactions, disk, skipped } = purge_one(store, trash, lock, observer)?;
        report.transactions.extend(transactions);
        report.disk += disk;
        report.skipped.extend(skipped);
    }
    Ok(report)
}

/// Puts back what one transaction moved into the trash: the one of this name, else the last of this kind.
///
/// # Errors
/// There is no such transaction, or the file system refuses.
pub fn undo(store: &Store, lock: &WriteLock, kind: Kind, name: Option<&str>) -> Result<UndoReport> {
    let names = trash::names(store)?;
    let nothing = || match name {
        None => Error::Usage("there is nothing in the trash".to_owned()),
        Some(name) => {
            Error::Usage(format!("there is no transaction {name} in the trash; there are: {}", names.join(", ")))
        }
    };
    let mut chosen = None;
    for known in names.iter().rev().filter(|known| name.is_none_or(|name| name == *known)) {
        chosen = Trash::<Plan>::open(store, known)?.filter(|trash| name.is_some() || trash.journal.work.kind() == kind);
        if chosen.is_some() {
            break;
        }
    }
    undo_one(store, chosen.ok_or_else(nothing)?, lock)
}

/// Lets removals of garbage that were interrupted while they moved things into the trash stay there. To be called before
/// [`recover`](super::recover()) by whoever then wants an [`undo`]: it would go on with them, and delete.
///
/// # Errors
/// The file system refuses, or a journal cannot be read.
pub fn hold(store: &Store, _: &WriteLock) -> Result<()> {
    for trash in Trash::<Plan>::all(store)?.0 {
        if trash.journal.work.kind() == Kind::Gc && trash.state()? == State::Moving {
            trash.set_state(State::Kept)?;
            // Crash here: all that was moved waits for an undo or a purge.
            crash_point("trash:held");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ops::trash::Draft;

    /// What begins with the plan of one operation is read again as what any may be.
    #[test]
    fn a_journal_has_its_plan_under_the_word_for_its_kind() {
        let temp = tempfile::tempdir().expect("a temp directory");
        let store = Store::open_fresh(temp.path(), "vfs").expect("opens");
        let plan =
            GcPlan { schema: 1, driver: "vfs".to_owned(), entries: Vec::new(), kept: Vec::new(), stale: Vec::new() };
        let draft = Draft::make(&store, Kind::Gc).expect("is made");
        let name = draft.begin(&store, plan.clone(), true).expect("begins").name;
        let path = temp.path().join(format!(".dockpack/trash/{name}/journal.json"));
        let text = fs::read_to_string(&path).expect("a journal");
        assert!(text.starts_with(r#"{"keep":true,"work":{"gc":{"schema":1,"driver":"vfs","#), "{text}");
        let open = || Trash::<Plan>::open(&store, &name).expect("opens").expect("has a journal").journal.work;
        assert!(matches!(open(), Plan::Gc(read) if read == plan));

        let repair = r#"{"keep":true,"work":{"repair":{"schema":1,"driver":"vfs","mends":[],"left":[],"layers":[]}},"times":{}}"#;
        fs::write(&path, repair).expect("is written");
        assert!(matches!(open(), Plan::Repair(_)));
        assert_eq!((open().kind(), open().driver(), open().count()), (Kind::Repair, "vfs", 0));
    }
}
