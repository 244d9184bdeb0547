//! The trash: where things lie between their removal from the store and their deletion.
//!
//! ```text
//! <root>/.dockpack/trash/<transaction>/journal.json   the plan; written, durably, before anything moves
//!                                      state          one word, see [`State`]; missing while things move
//!                                      nodes/<order>  what was moved, under its number in the plan
//! <driver>/.dockpack/trash/<transaction>/<order>      the same, where the driver's home is a mount of its own
//! ```
//!
//! A transaction without a journal is one that has not begun, or has been deleted but for this directory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::crash::crash_point;
use crate::error::{Error, FsError, ParseError, Result};
use crate::fsx::{Dir, Time};
use crate::store::Store;

use super::places::Places;
use super::plan::{GcPlan, Part};

/// Where dockpack keeps what it is working on, below the data root. dockerd looks at none of it.
const WORK: &str = ".dockpack";
const TRASH: &str = "trash";
const JOURNAL: &str = "journal.json";
const STATE: &str = "state";
const NODES: &str = "nodes";

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
pub(super) struct Journal {
    /// The trash is not to be emptied when all is in it.
    pub(super) keep: bool,
    pub(super) plan: GcPlan,
    /// When the directories that things are moved out of were last changed: undoing changes them back.
    pub(super) times: BTreeMap<String, Time>,
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Trash {
    pub(super) name: String,
    pub(super) journal: Journal,
    root: Dir,
    dir: Dir,
    nodes: Dir,
    /// Path of the driver's home with its slash, and where its things go, where they cannot go to `nodes`.
    apart: Option<(String, Dir)>,
}

impl Trash {
    /// Begins a transaction: from here on it can be finished.
    pub(super) fn create(store: &Store, plan: GcPlan, keep: bool) -> Result<Self> {
        let root = store.root().clone();
        let work = root.ensure_dir(WORK, 0o700)?;
        let trash = work.ensure_dir(TRASH, 0o700)?;
        let name = free_name(&trash)?;
        let dir = trash.make_dir(&name, 0o700)?;
        let nodes = dir.make_dir(NODES, 0o700)?;
        let apart = apart(store, &name, true)?;
        // Crash here: empty directories, which the next run takes away.
        crash_point("gc:trash");
        let places = Places::open(store)?;
        let mut times = BTreeMap::new();
        for part in plan.parts() {
            let parent = part.path.rsplit_once('/').map_or("", |(parent, _)| parent);
            if let (false, Some(dir)) = (times.contains_key(parent), places.dir(parent)?) {
                times.insert(parent.to_owned(), dir.attrs(".")?.mtime);
            }
        }
        let journal = Journal { keep, plan, times };
        let text = serde_json::to_vec(&journal).map_err(|error| parse_error(&dir, error))?;
        dir.write_file(JOURNAL, &text, 0o600)?;
        for dir in [&dir, &trash, &work, &root] {
            dir.sync()?;
        }
        // Crash here: nothing has moved; the next run does it all, or what of it is still garbage then.
        crash_point("gc:journal");
        Ok(Self { name, journal, root, dir, nodes, apart })
    }

    /// Opens a transaction; `None` where it has no journal.
    pub(super) fn open(store: &Store, name: &str) -> Result<Option<Self>> {
        let root = store.root().clone();
        let dir = root.dir(format!("{WORK}/{TRASH}"))?.dir(name)?;
        let text = match dir.read(JOURNAL, 1 << 32) {
            Err(error) if error.is_not_found() => return Ok(None),
            text => text?,
        };
        let journal = serde_json::from_slice(&text).map_err(|error| parse_error(&dir, error))?;
        let nodes = dir.ensure_dir(NODES, 0o700)?;
        let apart = apart(store, name, false)?;
        Ok(Some(Self { name: name.to_owned(), journal, root, dir, nodes, apart }))
    }

    /// Lists the names of all transactions, oldest first.
    pub(super) fn names(store: &Store) -> Result<Vec<String>, FsError> {
        let trash = match store.root().dir(format!("{WORK}/{TRASH}")) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            trash => trash?,
        };
        Ok(trash.entries()?.into_iter().filter_map(|entry| String::from_utf8(entry.name).ok()).collect())
    }

    /// Returns how far the transaction is.
    pub(super) fn state(&self) -> Result<State> {
        let word = match self.dir.read(STATE, 64) {
            Err(error) if error.is_not_found() => return Ok(State::Moving),
            word => word?,
        };
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

    /// Returns where a part goes: the directory, and its name there.
    pub(super) fn place(&self, part: &Part) -> (&Dir, String) {
        let apart = self.apart.as_ref().filter(|(home, _)| part.path.starts_with(home.as_str()));
        (apart.map_or(&self.nodes, |(_, dir)| dir), part.order.to_string())
    }

    /// Finds a part in the trash. Whether the home is a mount of its own may have changed since it was moved.
    pub(super) fn find(&self, part: &Part) -> Result<Option<(&Dir, String)>, FsError> {
        let name = part.order.to_string();
        for dir in self.dirs() {
            if dir.find(&name)?.is_some() {
                return Ok(Some((dir, name)));
            }
        }
        Ok(None)
    }

    /// Makes the trash's names durable.
    pub(super) fn sync(&self) -> Result<(), FsError> {
        self.dirs().try_for_each(Dir::sync)
    }

    /// Tells whether nothing is in the trash.
    pub(super) fn is_empty(&self) -> Result<bool, FsError> {
        for dir in self.dirs() {
            if !dir.entries()?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn dirs(&self) -> impl Iterator<Item = &Dir> {
        std::iter::once(&self.nodes).chain(self.apart.as_ref().map(|(_, dir)| dir))
    }

    /// Takes the transaction away, which must hold nothing any more. The journal goes last but for what is empty.
    pub(super) fn remove(self, store: &Store) -> Result<(), FsError> {
        let Self { name, root, dir, nodes, apart, .. } = self;
        drop(nodes);
        dir.remove_dir(NODES)?;
        if apart.is_some()
            && let Some(home) = store.home()
        {
            clean_up(home, &name)?;
        }
        dir.remove_file(JOURNAL)?;
        dir.sync()?;
        // Crash here: a directory without a journal, which the next run takes away.
        crash_point("gc:no-journal");
        clean_up(&root, &name)
    }
}

/// Takes away what is left of a transaction that has no journal; what lies in its `nodes` nobody knows, and stays.
pub(super) fn discard(store: &Store, name: &str) -> Result<(), FsError> {
    clean_up(store.root(), name)?;
    store.home().map_or(Ok(()), |home| clean_up(home, name))
}

/// Removes a transaction's directory, and those above it that are empty then.
fn clean_up(base: &Dir, name: &str) -> Result<(), FsError> {
    let trash = match base.dir(format!("{WORK}/{TRASH}")) {
        Err(error) if error.is_not_found() => return Ok(()),
        trash => trash?,
    };
    if let Ok(dir) = trash.dir(name) {
        for entry in dir.entries()? {
            match entry.name.as_slice() {
                // Fails where something is in it.
                b"nodes" => dir.remove_dir(NODES)?,
                _ => dir.remove_file(&entry.name)?,
            }
        }
        trash.remove_dir(name)?;
    }
    if trash.entries()?.is_empty() {
        let work = base.dir(WORK)?;
        work.remove_dir(TRASH)?;
        if work.entries()?.is_empty() {
            base.remove_dir(WORK)?;
        }
    }
    base.sync()
}

/// Opens the place for things of a driver's home that is a mount of its own.
fn apart(store: &Store, name: &str, make: bool) -> Result<Option<(String, Dir)>, FsError> {
    let Some(home) = store.home() else { return Ok(None) };
    let on_other_mount = store.root().dir(store.driver()).is_err_and(|error| error.is_other_mount());
    let place = format!("{WORK}/{TRASH}/{name}");
    let dir = match home.dir(&place) {
        Err(error) if error.is_not_found() && (make && on_other_mount) => {
            let dir = home.ensure_dir(WORK, 0o700)?.ensure_dir(TRASH, 0o700)?.make_dir(name, 0o700)?;
            home.sync()?;
            dir
        }
        Err(error) if error.is_not_found() => return Ok(None),
        dir => dir?,
    };
    Ok(Some((format!("{}/", store.driver()), dir)))
}

/// Names a transaction by the time it begins, so that names sort by age.
fn free_name(trash: &Dir) -> Result<String, FsError> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ").to_string();
    let mut name = now.clone();
    let mut number = 1;
    while trash.find(&name)?.is_some() {
        number += 1;
        name = format!("{now}-{number}");
    }
    Ok(name)
}

fn parse_error(dir: &Dir, error: serde_json::Error) -> Error {
    Error::Parse { path: dir.shown(JOURNAL), source: ParseError::because("the journal of a gc", error) }
}
