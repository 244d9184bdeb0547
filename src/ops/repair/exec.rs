//! Makes a plan, and carries it out.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use serde::Serialize;

use crate::crash::crash_point;
use crate::driver::Driver;
use crate::error::{Error, FsError, Result};
use crate::finding::Severity;
use crate::fsx::Dir;
use crate::id::ChainId;
use crate::ops::load::make_records;
use crate::ops::trash::{Draft, How, Kind, Move, Places, Skipped, State, Trash, Work, identify};
use crate::ops::verify::{self, Found, Request};
use crate::progress::{Event, Observer};
use crate::store::places::in_root;
use crate::store::{Layer, Snapshot, Store, WriteLock};

use super::decide::Planner;
use super::donor::Donor;
use super::plan::{Act, Left, Piece, RepairPlan, Step};
use super::stage::Staging;
use super::survey::Survey;

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairReport {
    /// Name of the transaction; empty where there was none.
    pub transaction: String,
    /// Number of objects that were repaired.
    pub mended: usize,
    /// What was planned and was not done.
    pub skipped: Vec<Skipped>,
    /// What verifying the store afterwards found that the plan did not leave: all of its structure, and the content of the
    /// layers that were touched. `None` where it could not be verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<Vec<Left>>,
    /// Time it took, in seconds.
    pub seconds: f64,
}

impl RepairPlan {
    /// Verifies a store and plans to repair what is wrong, with the help of `source`. Changes nothing and needs no lock.
    ///
    /// # Errors
    /// The store cannot be looked at, the file system does not give what it holds, or the observer wanted to stop.
    pub fn make(store: &Store, source: Option<&Donor>, observer: &dyn Observer) -> Result<Self> {
        let snapshot = store.snapshot()?;
        refuse(store, &snapshot)?;
        let report = verify::verify(store, &snapshot, &Request::default(), observer)?;
        let survey = Survey::take(store, &snapshot, &report, source, observer)?;
        let mut plan = Planner::new(store.driver(), &snapshot, &survey, source).plan(&report);
        plan.identify(store)?;
        plan.leave_used(&store.in_use());
        Ok(plan)
    }

    /// Notes what is there now, of all that changes.
    fn identify(&mut self, store: &Store) -> Result<(), FsError> {
        let places = Places::open(store)?;
        for piece in self.mends.iter_mut().flat_map(|mend| &mut mend.pieces) {
            if let Some((dir, name)) = places.parent(&piece.path)? {
                piece.was = identify(&dir, name)?;
            }
        }
        for mend in &mut self.mends {
            let needs_one = |act: &Act| matches!(act, Act::Remove | Act::Attributes { .. });
            mend.pieces.retain(|piece| piece.was.is_some() || !needs_one(&piece.act));
        }
        Ok(())
    }

    /// Carries the plan out, which must have been made under this lock, and verifies what it touched. All that is new is made,
    /// proved and durable before anything moves; what was there before stays in the trash.
    ///
    /// # Errors
    /// The source is damaged, or the file system refuses: nothing has changed then. Or moving fails: the next run goes on.
    pub fn execute(
        self,
        store: &Store,
        lock: &WriteLock,
        source: Option<&Donor>,
        observer: &dyn Observer,
    ) -> Result<RepairReport> {
        let begun = Instant::now();
        let draft = Draft::make(store, Kind::Repair)?;
        let staging = Staging { plan: &self, store, source, draft: &draft, observer };
        if let Err(error) = staging.fill().and_then(|()| Ok(draft.probe_exchange()?)) {
            draft.abandon(store)?;
            return Err(if observer.wants_stop() { Error::Stopped } else { error });
        }
        self.make_places(store)?;
        // Crash here: the store is as it was, with a transaction that the next run takes away; and with empty directories that
        // dockerd, too, would make.
        crash_point("repair:staged");
        let trash = draft.begin(store, self.clone(), true)?;
        let report = go_on(store, &trash, &self, lock)?;
        let remaining = match self.remaining(store, observer) {
            Ok(remaining) => Some(remaining),
            Err(error) => {
                observer.on(Event::Warning(&format!("what was repaired is not verified: {error}")));
                None
            }
        };
        Ok(RepairReport { remaining, seconds: begun.elapsed().as_secs_f64(), ..report })
    }

    /// Makes the directories anew that records lie in, where one is lost as a whole.
    fn make_places(&self, store: &Store) -> Result<(), FsError> {
        let (places, home) = (Places::open(store)?, in_root(&self.driver, ""));
        let Some(image) = store.image() else { return Ok(()) };
        for piece in self.pieces().filter(|piece| piece.path.starts_with(&home)) {
            if places.parent(&piece.path)?.is_none() {
                return make_records(image).map(drop);
            }
        }
        Ok(())
    }

    /// Verifies what the plan has touched, and returns what is wrong and was not left on purpose.
    fn remaining(&self, store: &Store, observer: &dyn Observer) -> Result<Vec<Left>> {
        // What was not there when it was opened may be there now.
        let store = Store::open(store.path(), Some(&self.driver))?;
        let snapshot = store.snapshot()?;
        let report = verify::verify_layers(&store, &snapshot, &self.touched(store.driver(), &snapshot), observer)?;
        let is_left = |found: &Found| {
            let same =
                |left: &Left| left.subject == found.finding.object.to_string() && left.code == found.finding.code;
            self.left.iter().any(same)
        };
        let wrong = report.findings.iter().filter(|found| found.finding.severity > Severity::Note && !is_left(found));
        let remaining: BTreeSet<Left> = wrong
            .map(|found| Left {
                subject: found.finding.object.to_string(),
                code: found.finding.code,
                severity: found.finding.severity,
                needs: match &found.file {
                    Some(file) => format!("{file}: {}", found.finding.evidence),
                    None => found.finding.evidence.clone(),
                },
            })
            .collect();
        Ok(remaining.into_iter().collect())
    }

    /// Returns the layers that were rebuilt, or whose entry was changed, and those that are compared with them. Above an entry
    /// that was damaged nothing was looked at before.
    fn touched(&self, driver: &Driver, snapshot: &Snapshot) -> BTreeSet<ChainId> {
        let rebuilt = self.layers.iter().map(|reseed| reseed.layer.record.chain);
        let entries = self.pieces().filter(|piece| piece.step == Step::Layer);
        let entries: BTreeSet<ChainId> = entries
            .flat_map(|piece| piece.path.split('/'))
            .filter_map(|part| ChainId::from_hex(part.as_bytes()).ok())
            .collect();
        let mut touched: BTreeSet<ChainId> = rebuilt.collect();
        let copied = |piece: &Piece| matches!(piece.act, Act::Subvolume { .. });
        let copied: BTreeSet<&str> =
            self.pieces().filter(|piece| copied(piece)).filter_map(|piece| piece.path.rsplit('/').next()).collect();
        let copied = snapshot.layers.iter().filter(|(_, layer)| copied.contains(layer.cache_id.as_str()));
        touched.extend(copied.map(|(chain, _)| *chain));
        if driver.keeps_whole_trees() {
            let is_above = |layer: &&Layer| layer.parent.is_some_and(|parent| touched.contains(&parent));
            let above = snapshot.layers.iter().filter(|(_, layer)| is_above(layer)).map(|(chain, _)| *chain);
            let above: Vec<ChainId> = above.collect();
            touched.extend(above);
        }
        let parent = |chain: &ChainId| snapshot.layers.get(chain).and_then(|layer| layer.parent);
        let stands_on_entry = |chain: &ChainId| {
            std::iter::successors(Some(*chain), parent)
                .take(snapshot.layers.len() + 1)
                .any(|chain| entries.contains(&chain))
        };
        touched.extend(snapshot.layers.keys().filter(|chain| stands_on_entry(chain)));
        touched
    }
}

/// Fails where the file system does not give what says of many things that they are there: what was not seen is not
/// lost then.
fn refuse(store: &Store, snapshot: &Snapshot) -> Result<()> {
    let unlisted = snapshot.unreadable.iter().find(|file| snapshot.unlisted.contains(&file.path));
    unlisted.map_or(Ok(()), |file| {
        Err(Error::Unreadable { path: store.path().join(&file.path), reason: file.reason.clone() })
    })
}

/// Moves what has not moved yet. What belongs together with something that cannot move, or that is in use, stays as it is.
///
/// # Errors
/// The file system refuses.
pub(in crate::ops) fn go_on(
    store: &Store,
    trash: &Trash<impl Work>,
    plan: &RepairPlan,
    _: &WriteLock,
) -> Result<RepairReport> {
    let places = Places::open(store)?;
    let mut moves = trash.journal.work.moves();
    moves.sort_by_key(|moved| moved.order);
    let mut skipped = Vec::new();
    let held = plan.held(&store.in_use());
    let mends = plan.mends.iter().enumerate();
    let mend_of: HashMap<usize, usize> =
        mends.flat_map(|(at, mend)| mend.pieces.iter().map(move |piece| (piece.order, at))).collect();
    let mut stopped = BTreeSet::new();
    for step in moves.chunk_by(|a, b| a.step == b.step) {
        let mut touched: HashMap<&str, Dir> = HashMap::new();
        for moved in step {
            let mend = mend_of.get(&moved.order);
            let done = match held.get(&moved.order).filter(|_| !trash.is_done(moved).unwrap_or(false)) {
                Some(how) => Err(format!("it is {how}, or belongs to what is")),
                None if mend.is_some_and(|mend| stopped.contains(mend)) => {
                    Err("something that it belongs to could not be changed".to_owned())
                }
                None => move_one(&places, trash, moved)?,
            };
            match done {
                Ok(dir) => drop(touched.insert(moved.parent(), dir)),
                Err(reason) => {
                    stopped.extend(mend.copied());
                    skipped.push(moved.skipped(reason));
                }
            }
            // Crash here: what is repaired is whole, what is not is as it was; the next run goes on.
            crash_point("repair:moved");
        }
        touched.values().try_for_each(Dir::sync)?;
        trash.sync()?;
        // Crash here: as after each piece; this step is durable.
        crash_point("repair:step");
    }
    trash.set_state(State::Kept)?;
    // Crash here: all is done.
    crash_point("repair:kept");
    let failed: BTreeSet<&str> = skipped.iter().map(|skipped: &Skipped| skipped.path.as_str()).collect();
    let is_whole = |pieces: &[Piece]| pieces.iter().all(|piece| !failed.contains(piece.path.as_str()));
    let mended = plan.mends.iter().filter(|mend| is_whole(&mend.pieces)).count();
    Ok(RepairReport { transaction: trash.name.clone(), mended, skipped, ..RepairReport::default() })
}

/// Makes one move, if it was not made and what is there still is what it was. Returns the directory it is in, or why
/// nothing was done.
fn move_one(places: &Places, trash: &Trash<impl Work>, moved: &Move<'_>) -> Result<Result<Dir, String>, FsError> {
    let Some((dir, name)) = places.parent(moved.path)? else {
        return Ok(Err("the directory it lies in is gone".to_owned()));
    };
    if trash.is_done(moved)? {
        return Ok(Ok(dir));
    }
    let there = identify(&dir, name)?;
    let (slot, number) = trash.place(moved);
    let changed = || Ok(Err("it has changed since it was planned".to_owned()));
    let done = match moved.how {
        How::Away(_) if there.is_none() => return Ok(Ok(dir)),
        How::Away(was) if there.as_ref() != was => return changed(),
        How::Away(_) => dir.rename(name, slot, number),
        How::Put if there.is_some() => return changed(),
        How::Put => slot.rename(number, &dir, name),
        How::Exchange(was) if there.as_ref() != Some(was) => return changed(),
        How::Exchange(_) => slot.exchange(number, &dir, name),
        How::Attributes { node, .. } if there.as_ref() != Some(node) => return changed(),
        How::Attributes { now, .. } => now.give(&dir, name),
    };
    Ok(done.map(|()| dir).map_err(|error| error.source.to_string()))
}
