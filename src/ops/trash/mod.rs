//! The trash: where things lie between their removal from the store and their deletion, and where new ones are made
//! before they take the place of damaged ones.
//!
//! ```text
//! <root>/.dockpack/trash/<transaction>/journal.json   the work; written, durably, before anything moves
//!                                      state          one word, see [`State`]; missing while things move
//!                                      nodes/<order>  gc: what was moved, under its number in the plan
//!                                      new/<order>    repair: what is new, and what was there once both are exchanged
//!                                      build/         repair: layers that are being built
//! <driver>/.dockpack/trash/<transaction>/…            the same, where the driver's home is a mount of its own
//! ```
//!
//! A transaction without a journal is one that has not begun, or has been deleted but for this directory: what is in
//! `new` and `build` then is only new. What lies in `nodes` nobody knows, and stays.

mod draft;
mod moves;
mod places;
mod purge;
mod slots;
mod undo;
mod work;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::crash::crash_point;
use crate::error::{Error, FsError, ParseError, Result};
use crate::fsx::{Dir, Kind as FileKind, Time};
use crate::store::places::in_root;
use crate::store::{InUse, Store};

pub(super) use draft::{Draft, begun};
use moves::Made;
pub(super) use moves::{How, Move, identify};
pub use moves::{Identity, Owned, Skipped};
pub(super) use places::Places;
pub use purge::PurgeReport;
pub(super) use purge::purge_one;
use slots::{Slots, apart, clean_up, mounts};
pub(super) use slots::{discard, tidy};
pub use undo::UndoReport;
pub(super) use undo::undo_one;
pub use work::Kind;
pub(super) use work::Work;

/// Where dockpack keeps what it is working on, below the data root. dockerd looks at none of it.
const WORK: &str = ".dockpack";
const TRASH: &str = "trash";
const JOURNAL: &str = "journal.json";
const STATE: &str = "state";
const NODES: &str = "nodes";
const NEW: &str = "new";
const BUILD: &str = "build";
/// A file that holds room on the disk while the journal is written, and its length in bytes.
const ROOM: &str = "room";
const ROOM_LENGTH: u64 = 64 << 10;
/// The same for each thing that moves.
const ROOM_PER_MOVE: u64 = 64;

/// How far a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Things move into the trash.
    Moving,
    /// All is in the trash and stays there until it is told what to become of it.
    Kept,
    /// Things are being deleted.
    Purging,
    /// Things move back.
    Undoing,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Moving => "moving",
            Self::Kept => "kept",
            Self::Purging => "purging",
            Self::Undoing => "undoing",
        }
    }
}

/// All that is needed to finish, or to undo.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(serialize = "W: Work + Serialize", deserialize = "W: Deserialize<'de>"))]
pub(super) struct Journal<W> {
    /// The trash is not to be emptied when all is in it.
    pub(super) keep: bool,
    /// The plan, under the word for its kind.
    #[serde(serialize_with = "work::under_its_word")]
    pub(super) work: W,
    /// When the directories that things are moved out of were last changed: undoing changes them back.
    pub(super) times: BTreeMap<String, Time>,
    /// Inodes of what is new, by order, as older releases wrote it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) new: BTreeMap<usize, u64>,
    /// What is new, by order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) made: BTreeMap<usize, Made>,
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Trash<W> {
    pub(super) name: String,
    pub(super) journal: Journal<W>,
    root: Dir,
    dir: Dir,
    slots: Slots,
}

impl<W: Work + DeserializeOwned> Trash<W> {
    /// Opens a transaction; `None` where it has no journal.
    pub(super) fn open(store: &Store, name: &str) -> Result<Option<Self>> {
        let Some((dir, text)) = read_journal(store, name)? else { return Ok(None) };
        let journal: Journal<W> = serde_json::from_slice(&text).map_err(|error| parse_error(&dir, error))?;
        let kind = journal.work.kind().slots();
        let slots = Slots { dir: dir.ensure_dir(kind, 0o700)?, apart: apart(store, name, kind, false)? };
        Ok(Some(Self { name: name.to_owned(), journal, root: store.root().clone(), dir, slots }))
    }

    /// Opens all transactions that have a journal, oldest first, and says of which it cannot be understood: what they
    /// hold stays where it is.
    pub(super) fn all(store: &Store) -> Result<(Vec<Self>, Vec<Skipped>)> {
        let (mut whole, mut damaged) = (Vec::new(), Vec::new());
        for name in names(store)? {
            match Self::open(store, &name).and_then(|trash| trash.map(|t| t.state().map(|_| t)).transpose()) {
                Ok(trash) => whole.extend(trash),
                Err(Error::Parse { path, source }) => {
                    damaged.push(damaged_one(&name, format!("{}: {source}", path.display())))
                }
                Err(error) => return Err(error),
            }
        }
        Ok((whole, damaged))
    }
}

impl<W: Work> Trash<W> {
    /// Returns how far the transaction is.
    pub(super) fn state(&self) -> Result<State> {
        let Some(word) = FsError::found(self.dir.read(STATE, 64))? else { return Ok(State::Moving) };
        let all = [State::Moving, State::Kept, State::Purging, State::Undoing];
        let state = all.into_iter().find(|state| state.word().as_bytes() == word);
        state.ok_or_else(|| Error::Parse {
            path: self.dir.shown(STATE),
            source: ParseError::new("the state of a transaction", &word),
        })
    }

    /// Says, durably, how far the transaction is.
    pub(super) fn set_state(&self, state: State) -> Result<(), FsError> {
        self.dir.write_file(STATE, state.word().as_bytes(), 0o600)?;
        self.dir.sync()
    }

    /// Returns where a thing goes: the directory, and its name there.
    pub(super) fn place(&self, moved: &Move<'_>) -> (&Dir, String) {
        (self.slots.of(moved.path), moved.order.to_string())
    }

    /// Tells whether a move was made.
    pub(super) fn is_done(&self, moved: &Move<'_>) -> Result<bool, FsError> {
        let there = self.find(moved)?;
        Ok(match moved.how {
            How::Away(_) => there.is_some(),
            How::Put => there.is_none(),
            How::Exchange(was) => match there {
                Some((dir, name)) => identify(dir, &name)?.is_some_and(|there| there.is_same_node(was)),
                None => false,
            },
            How::Attributes { .. } => false,
        })
    }

    /// Finds a thing in the trash. Whether the home is a mount of its own may have changed since it was moved.
    pub(super) fn find(&self, moved: &Move<'_>) -> Result<Option<(&Dir, String)>, FsError> {
        let name = moved.order.to_string();
        for dir in self.slots.all() {
            if dir.find(&name)?.is_some() {
                return Ok(Some((dir, name)));
            }
        }
        Ok(None)
    }

    /// Deletes what is new, after what was there before is back. What is used stays, and is returned.
    fn remove_new(&self, in_use: &InUse) -> Result<Vec<Skipped>, FsError> {
        let mut left = Vec::new();
        if self.journal.work.kind() == Kind::Repair {
            for moved in self.journal.work.moves() {
                match (self.find(&moved)?, self.how_used(in_use, &moved)) {
                    (None, _) => {}
                    (Some(_), Some(how)) => left.push(moved.skipped(format!("what was new is {how}"))),
                    (Some(_), None) => {
                        for dir in self.slots.all() {
                            dir.remove_tree(moved.order.to_string())?;
                        }
                    }
                }
            }
        }
        Ok(left)
    }

    /// Says how the kernel uses what lies in the trash for a move. A mount of a tree follows renames; what an overlay is
    /// made of is named as it was: see [`Trash::how_remembered`].
    fn how_used<'u>(&self, in_use: &'u InUse, moved: &Move<'_>) -> Option<&'u str> {
        let (driver, slots) = (self.journal.work.driver(), self.journal.work.kind().slots());
        let path = format!("{WORK}/{TRASH}/{}/{slots}/{}", self.name, moved.order);
        let places = [path.clone(), format!("{driver}/{path}"), in_root(driver, &path)];
        places.iter().find_map(|path| in_use.of(path))
    }

    /// Says how the kernel uses something under the path that this had, or the short name that it says it has: an overlay
    /// may have been made of it before it moved.
    fn how_remembered<'u>(&self, in_use: &'u InUse, moved: &Move<'_>) -> Result<Option<&'u str>, FsError> {
        if let Some(how) = self.how_used(in_use, moved).or_else(|| in_use.of(moved.path)) {
            return Ok(Some(how));
        }
        let Some((slot, name)) = self.find(moved)? else { return Ok(None) };
        if slot.attrs(&name)?.kind != FileKind::Directory {
            return Ok(None);
        }
        let Some(link) = FsError::found(slot.dir(&name)?.read("link", 4096))? else { return Ok(None) };
        let link = String::from_utf8_lossy(link.trim_ascii()).into_owned();
        Ok(in_use.of(&format!("{}/l/{link}", self.journal.work.driver())))
    }

    /// Tells whether what has a name in the store is what this transaction has put there.
    fn is_new(&self, moved: &Move<'_>, dir: &Dir, name: &str) -> Result<bool, FsError> {
        match (self.journal.made.get(&moved.order), self.journal.new.get(&moved.order)) {
            (Some(made), _) => made.is_at(dir, name),
            (None, Some(inode)) => Ok(dir.find(name)?.is_some_and(|there| there.inode == *inode)),
            (None, None) => Ok(false),
        }
    }

    /// Makes the trash's names durable.
    pub(super) fn sync(&self) -> Result<(), FsError> {
        self.slots.all().try_for_each(Dir::sync)
    }

    /// Tells whether nothing is in the trash.
    pub(super) fn is_empty(&self) -> Result<bool, FsError> {
        for dir in self.slots.all() {
            if !dir.entries()?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the transaction away, which must hold nothing any more. The journal goes last but for what is empty.
    pub(super) fn remove(self, store: &Store) -> Result<(), FsError> {
        let Self { name, journal, root, dir, slots } = self;
        let apart: Vec<String> = slots.apart.iter().map(|(mount, _)| mount.clone()).collect();
        drop(slots);
        dir.remove_dir(journal.work.kind().slots())?;
        for (_, base) in mounts(store).filter(|(mount, _)| apart.contains(mount)) {
            clean_up(base, &name)?;
        }
        dir.remove_file(JOURNAL)?;
        dir.sync()?;
        // Crash here: a directory without a journal, which the next run takes away.
        crash_point("trash:no-journal");
        clean_up(&root, &name)
    }
}

/// Says that a transaction cannot be finished.
fn damaged_one(name: &str, reason: String) -> Skipped {
    Skipped { path: format!("{WORK}/{TRASH}/{name}"), reason }
}

/// Lists the names of all transactions, oldest first. What is no directory is none.
pub(super) fn names(store: &Store) -> Result<Vec<String>, FsError> {
    let Some(trash) = FsError::found(store.root().dir(format!("{WORK}/{TRASH}")))? else { return Ok(Vec::new()) };
    let dirs = trash.entries()?.into_iter().filter(|entry| entry.kind == FileKind::Directory);
    Ok(dirs.filter_map(|entry| String::from_utf8(entry.name).ok()).collect())
}

/// Opens the directory of a transaction and reads its journal; `None` where it has none.
fn read_journal(store: &Store, name: &str) -> Result<Option<(Dir, Vec<u8>)>, FsError> {
    let dir = store.root().dir(format!("{WORK}/{TRASH}"))?.dir(name)?;
    Ok(FsError::found(dir.read(JOURNAL, 1 << 32))?.map(|text| (dir, text)))
}

fn parse_error(dir: &Dir, error: serde_json::Error) -> Error {
    Error::Parse { path: dir.shown(JOURNAL), source: ParseError::because("the journal of a transaction", error) }
}
