//! A transaction before it begins: until then all of it can be thrown away.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::crash::crash_point;
use crate::error::{FsError, Result};
use crate::fsx::Dir;
use crate::store::Store;

use super::moves::Made;
use super::slots::{Slots, apart, discard, home_path};
use super::{
    BUILD, JOURNAL, Journal, Kind, Places, ROOM, ROOM_LENGTH, ROOM_PER_MOVE, TRASH, Trash, WORK, Work, parse_error,
};

/// A transaction that has not begun.
#[derive(Debug)]
pub(in crate::ops) struct Draft {
    name: String,
    root: Dir,
    dir: Dir,
    slots: Slots,
}

impl Draft {
    /// Makes the directories of a transaction.
    pub(in crate::ops) fn make(store: &Store, kind: Kind) -> Result<Self> {
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
    pub(in crate::ops) fn slot(&self, path: &str) -> &Dir {
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
    pub(in crate::ops) fn build_dir(&self, store: &Store) -> Result<Dir> {
        Ok(self.beside_home(store)?.ensure_dir(BUILD, 0o700)?)
    }

    /// Makes all that was made durable, and takes away what is left of building.
    pub(in crate::ops) fn settle(&self, store: &Store) -> Result<()> {
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
    pub(in crate::ops) fn probe_exchange(&self) -> Result<(), FsError> {
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
    pub(in crate::ops) fn abandon(self, store: &Store) -> Result<()> {
        drop(self);
        discard(store).map(drop)
    }

    /// Begins the transaction: from here on it can be finished.
    pub(in crate::ops) fn begin<W: Work + Serialize>(self, store: &Store, work: W, keep: bool) -> Result<Trash<W>> {
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
pub(in crate::ops) fn begun(name: &str) -> Option<jiff::Timestamp> {
    // Older names have a number behind the time.
    let (seconds, rest) = name.split_at_checked(15)?;
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", seconds).ok()?;
    let millis: i64 = rest.get(..3)?.parse().ok()?;
    let begun = jiff::tz::Offset::UTC.to_timestamp(time).ok()?;
    rest[3..].starts_with('Z').then(|| begun.checked_add(jiff::SignedDuration::from_millis(millis)).ok())?
}
