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

mod moves;
mod places;
mod purge;
mod undo;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::crash::crash_point;
use crate::error::{Error, FsError, ParseError, Result};
use crate::fsx::{Dir, Kind as FileKind, Time};
use crate::store::{InUse, Store};

use super::gc::GcPlan;
use super::repair::{Piece, RepairPlan};

use moves::Made;
pub(super) use moves::{How, Move, identify};
pub use moves::{Identity, Owned, Skipped};
pub(super) use places::Places;
pub(super) use purge::purge_one;
pub use purge::{PurgeReport, Which, purge};
pub(super) use undo::undo_one;
pub use undo::{UndoReport, hold, undo};

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

/// What a transaction does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Work {
    /// Garbage goes.
    Gc(GcPlan),
    /// What is damaged is replaced.
    Repair(RepairPlan),
}

impl Work {
    /// Returns all that moves, in no order.
    pub(super) fn moves(&self) -> Vec<Move<'_>> {
        match self {
            Self::Gc(plan) => plan.parts().map(|part| Move::away(part.order, part.step as usize, &part.path)).collect(),
            Self::Repair(plan) => plan.pieces().map(Piece::as_move).collect(),
        }
    }

    /// Returns the kind of work.
    fn kind(&self) -> Kind {
        match self {
            Self::Gc(_) => Kind::Gc,
            Self::Repair(_) => Kind::Repair,
        }
    }

    /// Returns what belongs together, as orders of moves: pieces of garbage by themselves, and all of a repair.
    fn groups(&self) -> Vec<Vec<usize>> {
        match self {
            Self::Gc(plan) => {
                plan.entries.iter().map(|entry| entry.parts.iter().map(|part| part.order).collect()).collect()
            }
            Self::Repair(plan) => vec![plan.pieces().map(|piece| piece.order).collect()],
        }
    }

    /// Returns the graph driver of the store.
    fn driver(&self) -> &str {
        match self {
            Self::Gc(plan) => &plan.driver,
            Self::Repair(plan) => &plan.driver,
        }
    }

    /// Returns of how many pieces a person would speak.
    fn pieces(&self) -> usize {
        match self {
            Self::Gc(plan) => plan.entries.len(),
            Self::Repair(plan) => plan.mends.len(),
        }
    }
}

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A removal of garbage.
    Gc,
    /// A repair.
    Repair,
}

impl Kind {
    /// Returns the directory that things of such a transaction lie in.
    fn slots(self) -> &'static str {
        match self {
            Self::Gc => NODES,
            Self::Repair => NEW,
        }
    }
}

/// All that is needed to finish, or to undo.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Journal {
    /// The trash is not to be emptied when all is in it.
    pub(super) keep: bool,
    pub(super) work: Work,
    /// When the directories that things are moved out of were last changed: undoing changes them back.
    pub(super) times: BTreeMap<String, Time>,
    /// Inodes of what is new, by order, as older releases wrote it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) new: BTreeMap<usize, u64>,
    /// What is new, by order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) made: BTreeMap<usize, Made>,
}

/// A transaction that has not begun.
#[derive(Debug)]
pub(super) struct Draft {
    name: String,
    root: Dir,
    dir: Dir,
    slots: Slots,
}

/// The directories of one transaction that things lie in.
#[derive(Debug)]
struct Slots {
    dir: Dir,
    /// Paths of what is a mount of its own, each with its slash, and where its things go: not to `dir`.
    apart: Vec<(String, Dir)>,
}

impl Slots {
    /// Returns where what belongs to `path` lies.
    fn of(&self, path: &str) -> &Dir {
        let apart = self.apart.iter().find(|(mount, _)| path.starts_with(mount.as_str()));
        apart.map_or(&self.dir, |(_, dir)| dir)
    }

    fn all(&self) -> impl Iterator<Item = &Dir> {
        std::iter::once(&self.dir).chain(self.apart.iter().map(|(_, dir)| dir))
    }
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Trash {
    pub(super) name: String,
    pub(super) journal: Journal,
    root: Dir,
    dir: Dir,
    slots: Slots,
}

impl Draft {
    /// Makes the directories of a transaction.
    pub(super) fn make(store: &Store, kind: Kind) -> Result<Self> {
        let root = store.root().clone();
        let trash = root.ensure_dir(WORK, 0o700)?.ensure_dir(TRASH, 0o700)?;
        let name = free_name(&trash)?;
        let dir = trash.make_dir(&name, 0o700)?;
        let slots = Slots { dir: dir.make_dir(kind.slots(), 0o700)?, apart: apart(store, &name, kind.slots(), true)? };
        // Crash here: empty directories, which the next run takes away.
        crash_point("trash:made");
        Ok(Self { name, root, dir, slots })
    }

    /// Returns where something new is to be made that will take its place at `path`.
    pub(super) fn slot(&self, path: &str) -> &Dir {
        self.slots.of(path)
    }

    /// Returns the directory of the transaction that lies on the mount of the driver's home.
    fn beside_home(&self, store: &Store) -> Result<Dir, FsError> {
        let home = home_path(store);
        match (self.slots.apart.iter().any(|(mount, _)| *mount == home), store.home()) {
            (true, Some(home)) => home.dir(format!("{WORK}/{TRASH}/{}", self.name)),
            _ => Ok(self.dir.clone()),
        }
    }

    /// Makes the directory in which layers are built: on the mount that their places are on.
    pub(super) fn build_dir(&self, store: &Store) -> Result<Dir> {
        Ok(self.beside_home(store)?.ensure_dir(BUILD, 0o700)?)
    }

    /// Makes all that was made durable, and takes away what is left of building.
    pub(super) fn settle(&self, store: &Store) -> Result<()> {
        self.build_dir(store)?;
        self.beside_home(store)?.remove_tree(BUILD)?;
        for dir in self.slots.all() {
            dir.sync_file_system()?;
        }
        Ok(())
    }

    /// Tells whether the file system can exchange two names, with two of its own.
    ///
    /// # Errors
    /// It cannot.
    pub(super) fn probe_exchange(&self) -> Result<(), FsError> {
        for dir in self.slots.all() {
            for name in ["one", "other"] {
                dir.new_file(name, b"", 0o600)?;
            }
            dir.exchange("one", dir, "other")?;
            for name in ["one", "other"] {
                dir.remove_file(name)?;
            }
        }
        Ok(())
    }

    /// Takes the transaction away before it has begun.
    pub(super) fn abandon(self, store: &Store) -> Result<()> {
        drop(self);
        discard(store).map(drop)
    }

    /// Begins the transaction: from here on it can be finished.
    pub(super) fn begin(self, store: &Store, work: Work, keep: bool) -> Result<Trash> {
        let Self { name, root, dir, slots } = self;
        let places = Places::open(store)?;
        let mut times = BTreeMap::new();
        for moved in work.moves() {
            let parent = moved.parent();
            if let (false, Some(dir)) = (times.contains_key(parent), places.dir(parent)?) {
                times.insert(parent.to_owned(), dir.attrs(".")?.mtime);
            }
        }
        let mut made = BTreeMap::new();
        for moved in work.moves() {
            if let Some(found) = Made::find(slots.of(moved.path), &moved.order.to_string())? {
                made.insert(moved.order, found);
            }
        }
        let journal = Journal { keep, work, times, new: BTreeMap::new(), made };
        let text = serde_json::to_vec(&journal).map_err(|error| parse_error(&dir, error))?;
        // Directories grow while things move into them, and then the disk may be full.
        dir.reserve(ROOM, ROOM_LENGTH + ROOM_PER_MOVE * journal.work.moves().len() as u64)?;
        // Crash here: still no journal, so the next run takes the transaction away.
        crash_point("trash:room");
        dir.write_file(JOURNAL, &text, 0o600)?;
        dir.remove_file(ROOM)?;
        let work = root.dir(WORK)?;
        for dir in [&dir, &work.dir(TRASH)?, &work, &root] {
            dir.sync()?;
        }
        // Crash here: nothing has moved; the next run does it all, or what of it still holds then.
        crash_point("trash:journal");
        Ok(Trash { name, journal, root, dir, slots })
    }
}

impl Trash {
    /// Opens a transaction; `None` where it has no journal.
    pub(super) fn open(store: &Store, name: &str) -> Result<Option<Self>> {
        let root = store.root().clone();
        let dir = root.dir(format!("{WORK}/{TRASH}"))?.dir(name)?;
        let Some(text) = FsError::found(dir.read(JOURNAL, 1 << 32))? else { return Ok(None) };
        let journal: Journal = serde_json::from_slice(&text).map_err(|error| parse_error(&dir, error))?;
        let kind = journal.work.kind().slots();
        let slots = Slots { dir: dir.ensure_dir(kind, 0o700)?, apart: apart(store, name, kind, false)? };
        Ok(Some(Self { name: name.to_owned(), journal, root, dir, slots }))
    }

    /// Lists the names of all transactions, oldest first. What is no directory is none.
    pub(super) fn names(store: &Store) -> Result<Vec<String>, FsError> {
        let Some(trash) = FsError::found(store.root().dir(format!("{WORK}/{TRASH}")))? else { return Ok(Vec::new()) };
        let dirs = trash.entries()?.into_iter().filter(|entry| entry.kind == FileKind::Directory);
        Ok(dirs.filter_map(|entry| String::from_utf8(entry.name).ok()).collect())
    }

    /// Opens all transactions that have a journal, oldest first, and says of which it cannot be understood: what they
    /// hold stays where it is.
    pub(super) fn all(store: &Store) -> Result<(Vec<Self>, Vec<Skipped>)> {
        let (mut whole, mut damaged) = (Vec::new(), Vec::new());
        for name in Self::names(store)? {
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
        let places = [path.clone(), format!("{driver}/{path}"), format!("image/{driver}/{path}")];
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

/// Takes away what is left of the transactions that have no journal. Says which of them hold something: nobody knows where
/// it belongs.
pub(super) fn discard(store: &Store) -> Result<Vec<Skipped>> {
    let mut left = Vec::new();
    for name in Trash::names(store)? {
        if !matches!(Trash::open(store, &name), Ok(None)) {
            continue;
        }
        let bases = std::iter::once(store.root()).chain(mounts(store).map(|(_, base)| base));
        for base in bases {
            let nodes = FsError::found(base.dir(format!("{WORK}/{TRASH}/{name}/{NODES}")))?;
            let held = nodes.map(|nodes| nodes.entries()).transpose()?.unwrap_or_default();
            match held.is_empty() {
                true => clean_up(base, &name)?,
                false => left.push(damaged_one(&name, "it has no journal, and holds something".to_owned())),
            }
        }
    }
    Ok(left)
}

/// Removes a transaction's directory, and those above it that are empty then.
fn clean_up(base: &Dir, name: &str) -> Result<(), FsError> {
    let Some(trash) = FsError::found(base.dir(format!("{WORK}/{TRASH}")))? else { return Ok(()) };
    if let Some(dir) = FsError::found(trash.dir(name))? {
        for entry in dir.entries()? {
            match entry.name.as_slice() {
                // Fails where something is in it.
                b"nodes" => dir.remove_dir(NODES)?,
                b"new" | b"build" => dir.remove_tree(&entry.name)?,
                _ => dir.remove_file(&entry.name)?,
            }
        }
        trash.remove_dir(name)?;
    }
    // Crash here: the work is done; the next run takes the empty directories away.
    crash_point("trash:empty");
    remove_empty(base)?;
    base.sync()
}

/// Takes away the directories of work that is done, which a crash may have left empty.
pub(super) fn tidy(store: &Store) -> Result<(), FsError> {
    remove_empty(store.root())?;
    mounts(store).try_for_each(|(_, base)| remove_empty(base))
}

/// Returns what may be a mount of its own: path with its slash, and directory.
fn mounts(store: &Store) -> impl Iterator<Item = (String, &Dir)> {
    let image = store.image().map(|dir| (format!("image/{}/", store.driver()), dir));
    image.into_iter().chain(store.home().map(|dir| (home_path(store), dir)))
}

/// Returns the path of the driver's home with its slash.
fn home_path(store: &Store) -> String {
    format!("{}/", store.driver())
}

/// Removes the trash of this directory where it is empty, and what it is in.
fn remove_empty(base: &Dir) -> Result<(), FsError> {
    let Some(work) = FsError::found(base.dir(WORK))? else { return Ok(()) };
    if let Some(trash) = FsError::found(work.dir(TRASH))?
        && trash.entries()?.is_empty()
    {
        work.remove_dir(TRASH)?;
    }
    if work.entries()?.is_empty() { base.remove_dir(WORK) } else { Ok(()) }
}

/// Opens the places for things of what is a mount of its own: nothing can be renamed from one mount to another.
fn apart(store: &Store, name: &str, slots: &str, make: bool) -> Result<Vec<(String, Dir)>> {
    let mut apart = Vec::new();
    for (mount, base) in mounts(store) {
        let on_other_mount = store.root().dir(mount.trim_end_matches('/')).is_err_and(|error| error.is_other_mount());
        let dir = match base.dir(format!("{WORK}/{TRASH}/{name}/{slots}")) {
            Err(error) if error.is_not_found() && make && on_other_mount => {
                let dir = base.ensure_dir(WORK, 0o700)?.ensure_dir(TRASH, 0o700)?.make_dir(name, 0o700)?;
                let slots = dir.make_dir(slots, 0o700)?;
                for dir in [&dir, base] {
                    dir.sync()?;
                }
                slots
            }
            Err(error) if error.is_not_found() => continue,
            dir => dir?,
        };
        apart.push((mount, dir));
    }
    Ok(apart)
}

/// Names a transaction by the time it begins, so that names sort by age: later than all that are there, also where the
/// clock went back.
fn free_name(trash: &Dir) -> Result<String, FsError> {
    let mut now = jiff::Timestamp::now();
    let names = trash.entries()?.into_iter().filter_map(|entry| begun(std::str::from_utf8(&entry.name).ok()?));
    if let Some(last) = names.max().filter(|last| *last >= now) {
        now = last.checked_add(jiff::SignedDuration::from_millis(1)).unwrap_or(last);
    }
    let mut name = named(now);
    while trash.find(&name)?.is_some() {
        now = now.checked_add(jiff::SignedDuration::from_millis(1)).unwrap_or(now);
        name = named(now);
    }
    Ok(name)
}

const NAME: &str = "%Y%m%dT%H%M%S%3fZ";

fn named(begun: jiff::Timestamp) -> String {
    begun.strftime(NAME).to_string()
}

/// Returns when a transaction of this name began, in milliseconds.
pub(super) fn begun(name: &str) -> Option<jiff::Timestamp> {
    // Older names have a number behind the time.
    let (seconds, rest) = name.split_at_checked(15)?;
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", seconds).ok()?;
    let millis: i64 = rest.get(..3)?.parse().ok()?;
    let begun = jiff::tz::Offset::UTC.to_timestamp(time).ok()?;
    rest[3..].starts_with('Z').then(|| begun.checked_add(jiff::SignedDuration::from_millis(millis)).ok())?
}

fn parse_error(dir: &Dir, error: serde_json::Error) -> Error {
    Error::Parse { path: dir.shown(JOURNAL), source: ParseError::because("the journal of a transaction", error) }
}
