//! Carries a plan out, and finishes one that was interrupted.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use serde::Serialize;

use crate::crash::crash_point;
use crate::error::{Error, FsError, Result};
use crate::fsx::Dir;
use crate::graph::Graph;
use crate::ops::trash::{
    Draft, Kind, Places, PurgeReport, Skipped, State, Trash, Work, discard, identify, purge_one, tidy,
};
use crate::progress::{Event, Observer};
use crate::store::{SNAPSHOTTERS, Store, WriteLock};

use super::candidates::{Candidates, Step};
use super::plan::{GcEntry, GcPlan, Options, Part};
use super::refuse::{Records, refuse};
use super::survey::Survey;
use super::{kind::GcKind, stale};

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GcReport {
    /// Name of the transaction.
    pub transaction: String,
    /// Number of pieces of garbage that were removed.
    pub removed: usize,
    /// Disk space in bytes that was given back; of what is kept in the trash, that will be.
    pub disk: u64,
    /// What was planned and stays.
    pub skipped: Vec<Skipped>,
    /// What was removed is still in the trash.
    pub kept: bool,
    /// What is in the trash although the rest was deleted: what containers have written, of which there is no other copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
    /// Time it took, in seconds.
    pub seconds: f64,
}

/// What a removal that deletes has put into the trash all the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Written {
    /// Name of the transaction.
    pub transaction: String,
    /// Number of pieces of garbage.
    pub removed: usize,
    /// Disk space in bytes that will be given back when the trash is emptied.
    pub disk: u64,
}

/// Fails where garbage of these kinds cannot be told in a store: beside containerd's, all that is known is what graph drivers
/// have left.
fn expect_removable(store: &Store, mut kinds: impl Iterator<Item = GcKind>) -> Result<()> {
    if SNAPSHOTTERS.contains(&store.driver().name()) && kinds.any(|kind| kind != GcKind::StaleDriver) {
        let text = "of a root with containerd's image store only --only stale-driver is removed".to_owned();
        return Err(Error::Usage(text));
    }
    Ok(())
}

impl GcPlan {
    /// Plans to remove what nothing reaches. Changes nothing and needs no lock; beside a live daemon, what it shows may
    /// be in flight.
    ///
    /// # Errors
    /// Something is lost or cannot be read that everything depends on.
    pub fn make(store: &Store, options: &Options, observer: &dyn Observer) -> Result<Self> {
        expect_removable(store, GcKind::ALL.into_iter().filter(|kind| options.takes(*kind)))?;
        Self::with(store, options, observer, BTreeSet::new(), |candidates, survey, stale| {
            Self::new(candidates, survey, stale, options)
        })
    }

    /// Checks this plan against the store as it is now, under the lock: returns what of it still holds, and what
    /// does not.
    ///
    /// # Errors
    /// As [`GcPlan::make`]; or the plan is of another form or driver.
    pub fn check(&self, store: &Store, _: &WriteLock, observer: &dyn Observer) -> Result<(Self, Vec<Skipped>)> {
        if self.schema != super::plan::SCHEMA {
            return Err(Error::Usage(format!("the plan is of form {}; this dockpack knows 1", self.schema)));
        }
        if self.driver != store.driver().name() {
            let text = format!("the plan is for graph driver {}, the store is of {}", self.driver, store.driver());
            return Err(Error::Usage(text));
        }
        let takes: BTreeSet<GcKind> = self.entries.iter().map(|entry| entry.kind).collect();
        expect_removable(store, takes.iter().copied())?;
        let options = Options { only: takes, ..Options::default() };
        let more = self.parts().map(|part| part.path.clone()).collect();
        Self::with(store, &options, observer, more, |candidates, survey, stale| self.again(candidates, survey, stale))
    }

    /// Reads the store and looks at all that may go, and at `more`.
    fn with<T>(
        store: &Store,
        options: &Options,
        observer: &dyn Observer,
        mut more: BTreeSet<String>,
        plan: impl FnOnce(&Candidates<'_>, &Survey, Vec<super::plan::Stale>) -> T,
    ) -> Result<T> {
        let records = Records::look(store)?;
        let snapshot = store.snapshot()?;
        let graph = Graph::of(&snapshot);
        let candidates = Candidates::find(&snapshot, &graph, store.driver());
        refuse(store, records, &candidates, options)?;
        let stale = stale::find(store, &snapshot)?;
        let wants_stale = options.takes(GcKind::StaleDriver);
        // How much another driver's tree takes is only worth the time where it goes.
        let measured = if wants_stale { &stale[..] } else { &[] };
        more.extend(candidates.paths_to_survey(measured));
        let survey = Survey::take(store, &snapshot, &more, observer)?;
        Ok(plan(&candidates, &survey, stale))
    }

    /// Carries the plan out, which must have been made or checked under this lock. With `keep`, what is removed stays
    /// in the trash; without, only what containers have written does.
    ///
    /// # Errors
    /// The file system refuses: what has moved by then is in the trash, and the next run goes on. Or the observer wanted
    /// it to stop: then what has moved stays in the trash until an undo or a purge, and what was to be deleted until
    /// the next run.
    pub fn execute(mut self, store: &Store, lock: &WriteLock, keep: bool, observer: &dyn Observer) -> Result<GcReport> {
        let begun = Instant::now();
        let mut freed = Freed::default();
        let written = if keep { None } else { self.hold_back(store, lock, &mut freed, observer)? };
        let mut report = match self.entries.is_empty() {
            true => GcReport::default(),
            false => self.run(store, lock, keep, &mut freed, observer)?,
        };
        report.removed += freed.entries;
        report.disk += freed.disk;
        report.skipped.splice(0..0, freed.skipped);
        report.written = written;
        report.seconds = begun.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Moves what containers have written into the trash, where it stays, and takes it out of the plan. Where the disk has
    /// no room for a trash it deletes what else it can before, and else leaves it where it is.
    fn hold_back(
        &mut self,
        store: &Store,
        lock: &WriteLock,
        freed: &mut Freed,
        observer: &dyn Observer,
    ) -> Result<Option<Written>> {
        let written = self.take_written();
        if written.entries.is_empty() {
            return Ok(None);
        }
        let trash = loop {
            match begin(store, &written, true) {
                Ok(trash) => break trash,
                Err(Error::Fs(error)) if error.is_full() => {
                    if !freed.make_room(store, self)? {
                        let reason = "containers wrote it, and the disk has no room for the trash";
                        let stays = |entry: &GcEntry| Skipped { path: entry.path.clone(), reason: reason.to_owned() };
                        freed.skipped.extend(written.entries.iter().map(stays));
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        };
        let (trash, moved, skipped) = move_into(store, trash, &written, observer)?;
        let stay: HashSet<&str> = skipped.iter().map(|skipped| skipped.path.as_str()).collect();
        let gone = written.parts().filter(|part| !stay.contains(part.path.as_str())).map(|part| part.order).collect();
        self.has_gone(&gone);
        freed.skipped.extend(skipped);
        let GcReport { transaction, disk, .. } = finish(store, trash, &written, moved, observer, lock)?;
        Ok((moved > 0).then_some(Written { transaction, removed: moved, disk }))
    }

    /// Moves everything in one transaction. Where the disk has no room for it, and nothing is to be kept, it deletes pieces
    /// where they lie until there is.
    fn run(
        &mut self,
        store: &Store,
        lock: &WriteLock,
        keep: bool,
        freed: &mut Freed,
        observer: &dyn Observer,
    ) -> Result<GcReport> {
        let trash = loop {
            match begin(store, self, keep) {
                Err(Error::Fs(error)) if error.is_full() => match keep {
                    true => return Err(Error::TrashFull { root: store.path().to_owned(), source: error }),
                    false if freed.make_room(store, self)? => {}
                    false => return Err(error.into()),
                },
                trash => break trash?,
            }
        };
        let (trash, moved, skipped) = move_into(store, trash, self, observer)?;
        let mut report = finish(store, trash, self, moved, observer, lock)?;
        report.skipped.splice(0..0, skipped);
        Ok(report)
    }
}

/// Moves a plan into its transaction, of which nothing is left where it was asked to stop before anything moved.
fn move_into(
    store: &Store,
    trash: Trash<GcPlan>,
    plan: &GcPlan,
    observer: &dyn Observer,
) -> Result<(Trash<GcPlan>, usize, Vec<Skipped>)> {
    match move_all(store, &trash, plan, observer) {
        Err(Error::StoppedRemoval { .. }) if trash.is_empty()? => {
            trash.remove(store)?;
            Err(Error::Stopped)
        }
        Err(error) => Err(error),
        Ok((moved, skipped)) => Ok((trash, moved, skipped)),
    }
}

/// Begins a transaction, or leaves nothing of it.
fn begin(store: &Store, plan: &GcPlan, keep: bool) -> Result<Trash<GcPlan>> {
    let begun = Draft::make(store, Kind::Gc).and_then(|draft| draft.begin(store, plan.clone(), keep));
    if begun.is_err() {
        discard(store)?;
        tidy(store)?;
    }
    begun
}

/// What was deleted where it lay, because the disk had no room for a journal.
#[derive(Debug, Default)]
struct Freed {
    entries: usize,
    disk: u64,
    skipped: Vec<Skipped>,
}

impl Freed {
    /// Deletes the entry that nothing else of the plan leads to, and takes it out of the plan. Tells whether there was one.
    ///
    /// Without a journal nothing can be undone; but parts go in their order, so what a crash leaves is garbage still.
    fn make_room(&mut self, store: &Store, plan: &mut GcPlan) -> Result<bool> {
        let places = Places::open(store)?;
        while let Some(at) = plan.entries.iter().position(is_free) {
            let entry = plan.entries.remove(at);
            let orders: BTreeSet<usize> = entry.parts.iter().map(|part| part.order).collect();
            match entry.parts.iter().try_for_each(|part| delete_one(&places, part)) {
                Ok(()) => {
                    self.entries += 1;
                    self.disk += entry.disk;
                    plan.has_gone(&orders);
                    return Ok(true);
                }
                Err(skipped) => self.skipped.push(skipped),
            }
        }
        Ok(false)
    }
}

/// Tells whether no other entry has parts that go before this one.
fn is_free(entry: &GcEntry) -> bool {
    let own: BTreeSet<usize> = entry.parts.iter().map(|part| part.order).collect();
    entry.parts.iter().all(|part| part.after.is_subset(&own))
}

/// Deletes one part where it lies, if it still is what it was.
fn delete_one(places: &Places, part: &Part) -> Result<(), Skipped> {
    let stays = |reason: String| Skipped { path: part.path.clone(), reason };
    let found = look_again(places, part).map_err(|error| stays(error.to_string()))?;
    let (dir, name) = found.map_err(stays)?;
    let deleted = dir.remove_tree(name).and_then(|()| dir.sync());
    // Crash here: what is left of it is garbage, as are the parts that come after it.
    crash_point("gc:deleted");
    deleted.map_err(|error| stays(error.to_string()))
}

/// Moves the parts of a plan into the trash. Returns how many entries went whole, and what stays.
fn move_all(
    store: &Store,
    trash: &Trash<impl Work>,
    plan: &GcPlan,
    observer: &dyn Observer,
) -> Result<(usize, Vec<Skipped>)> {
    let places = Places::open(store)?;
    observer.on(Event::Begin { what: "removing", total: None });
    let mut parts: Vec<&Part> = plan.parts().collect();
    parts.sort_by_key(|part| part.order);
    let mut skipped: BTreeMap<String, Skipped> = BTreeMap::new();
    // What was to go before this plan and has not.
    let own: HashSet<usize> = parts.iter().map(|part| part.order).collect();
    let mut staying: HashSet<usize> =
        parts.iter().flat_map(|part| &part.after).filter(|order| !own.contains(order)).copied().collect();
    for step in Step::ALL {
        let mut touched: HashMap<&str, Dir> = HashMap::new();
        for part in parts.iter().filter(|part| part.step == step) {
            if observer.wants_stop() {
                break;
            }
            let parent = part.path.rsplit_once('/').map_or("", |(parent, _)| parent);
            let moved = match part.after.iter().any(|order| staying.contains(order)) {
                true => Err("what leads to it stays".to_owned()),
                false => move_one(&places, trash, part)?,
            };
            match moved {
                Ok(dir) => {
                    touched.entry(parent).or_insert(dir);
                }
                Err(reason) => {
                    staying.insert(part.order);
                    skipped.insert(part.path.clone(), Skipped { path: part.path.clone(), reason });
                }
            }
            // Crash here: the piece is in the trash, and what it leads to is garbage still.
            crash_point("gc:moved");
        }
        if !touched.is_empty() {
            trash.sync()?;
            touched.values().try_for_each(Dir::sync)?;
        }
        // Crash here: as after each piece; this step is durable.
        crash_point("gc:step");
        if observer.wants_stop() {
            // Crash here: what was moved waits for an undo or a purge.
            trash.set_state(State::Kept)?;
            return Err(Error::StoppedRemoval { transaction: trash.name.clone(), kept: true });
        }
    }
    observer.on(Event::End);
    let whole = plan.entries.iter().filter(|entry| entry.parts.iter().all(|part| !skipped.contains_key(&part.path)));
    Ok((whole.count(), skipped.into_values().collect()))
}

/// Moves one part, if it still is what it was. Returns the directory it was in, or why it stays.
fn move_one(places: &Places, trash: &Trash<impl Work>, part: &Part) -> Result<Result<Dir, String>, FsError> {
    let (dir, name) = match look_again(places, part)? {
        Ok(found) => found,
        Err(reason) => return Ok(Err(reason)),
    };
    let (to, new) = trash.place(&part.as_move());
    match dir.rename(name, to, &new) {
        Ok(()) => Ok(Ok(dir)),
        // Immutable, busy, or on a mount of its own: nothing has changed by it.
        Err(error) => Ok(Err(error.source.to_string())),
    }
}

/// Finds a part where it was, with its name there; or says why it is not what was planned.
fn look_again<'p>(places: &Places, part: &'p Part) -> Result<Result<(Dir, &'p str), String>, FsError> {
    let Some((dir, name)) = places.parent(&part.path)? else { return Ok(Err("it is not there any more".to_owned())) };
    Ok(match identify(&dir, name)? {
        None => Err("it is not there any more".to_owned()),
        Some(now) if now != part.identity => Err("it has changed since it was planned".to_owned()),
        Some(_) => Ok((dir, name)),
    })
}

/// Deletes what is in the trash, or says that it stays there.
fn finish(
    store: &Store,
    trash: Trash<impl Work>,
    plan: &GcPlan,
    removed: usize,
    observer: &dyn Observer,
    lock: &WriteLock,
) -> Result<GcReport> {
    let transaction = trash.name.clone();
    if trash.journal.keep && !trash.is_empty()? {
        trash.set_state(State::Kept)?;
        // Crash here: all is done.
        crash_point("gc:kept");
        let disk = plan.disk();
        return Ok(GcReport { transaction, removed, disk, kept: true, ..GcReport::default() });
    }
    let PurgeReport { disk, skipped, .. } = purge_one(store, trash, lock, observer)?;
    Ok(GcReport { transaction, removed, disk, skipped, ..GcReport::default() })
}

/// Moves what of a plan has not moved yet and still is garbage: a daemon may have run in between.
pub(crate) fn go_on(
    store: &Store,
    trash: Trash<impl Work>,
    plan: &GcPlan,
    lock: &WriteLock,
    observer: &dyn Observer,
) -> Result<GcReport> {
    let mut orders = HashMap::new();
    for part in plan.parts() {
        if trash.find(&part.as_move())?.is_none() {
            orders.insert(part.path.clone(), part.order);
        }
    }
    let moved = plan.entries.iter().filter(|entry| entry.parts.iter().all(|part| !orders.contains_key(&part.path)));
    let moved = moved.count();
    let (mut now, skipped) = match plan.check(store, lock, observer) {
        Ok(checked) => checked,
        Err(Error::Lost { .. } | Error::Unreadable { .. }) => {
            // What is garbage cannot be told any more: nothing else moves, and nothing is deleted.
            trash.set_state(State::Kept)?;
            return Ok(GcReport { transaction: trash.name, removed: moved, kept: true, ..GcReport::default() });
        }
        Err(error) => return Err(error),
    };
    let renamed: HashMap<usize, usize> =
        now.parts().filter_map(|part| Some((part.order, *orders.get(&part.path)?))).collect();
    for entry in &mut now.entries {
        entry.parts.retain(|part| orders.contains_key(&part.path));
        for part in &mut entry.parts {
            part.order = renamed[&part.order];
            part.after = part.after.iter().filter_map(|order| renamed.get(order)).copied().collect();
        }
    }
    now.entries.retain(|entry| !entry.parts.is_empty());
    let mut skipped: Vec<Skipped> = skipped.into_iter().filter(|skipped| orders.contains_key(&skipped.path)).collect();
    let (more, not_moved) = move_all(store, &trash, &now, observer)?;
    skipped.extend(not_moved);
    let mut report = finish(store, trash, plan, moved + more, observer, lock)?;
    report.skipped.splice(0..0, skipped);
    Ok(report)
}
