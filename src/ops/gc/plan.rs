//! What will be removed: pure data, made from candidates, what the disk says of them, and what was asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::fsx::{Footprint, Kind, Time};
use crate::graph::{Id, Node};
use crate::ops::trash::{self, Identity, Move, Skipped, Work};

use super::candidates::{Candidate, Candidates, Step};
use super::decide::decide;
use super::kind::GcKind;
use super::survey::Survey;

/// Number of the form of a plan.
pub(super) const SCHEMA: u32 = 1;

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Take only these kinds; where none is named, all that are taken by default.
    pub only: BTreeSet<GcKind>,
    /// Take none of these kinds.
    pub skip: BTreeSet<GcKind>,
    /// Take only what was last written to before this time.
    pub before: Option<Time>,
    /// Take these too, by path relative to the data root, although no engine gives such names.
    pub also: BTreeSet<String>,
}

impl Options {
    /// Tells whether garbage of this kind is to be taken.
    #[must_use]
    pub fn takes(&self, kind: GcKind) -> bool {
        let is_chosen = if self.only.is_empty() { kind.is_default() } else { self.only.contains(&kind) };
        is_chosen && !self.skip.contains(&kind)
    }
}

/// What will be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcPlan {
    /// Number of the plan's form.
    pub schema: u32,
    /// Graph driver of the store.
    pub driver: String,
    /// What goes, by kind and path.
    pub entries: Vec<GcEntry>,
    /// What nothing reaches and stays all the same, by kind and path.
    pub kept: Vec<Kept>,
    /// Trees of other graph drivers.
    pub stale: Vec<Stale>,
}

/// One piece of garbage, with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcEntry {
    /// What it is.
    pub kind: GcKind,
    /// Where it lies, relative to the data root.
    pub path: String,
    /// Disk space in bytes that is free when it and all before it in the plan are gone.
    pub disk: u64,
    /// When something in it was last written.
    pub modified: Time,
    /// What is removed, in this order.
    pub parts: Vec<Part>,
}

/// A file or directory that is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Place in the order of all parts of the plan; its name in the trash.
    pub order: usize,
    /// When it goes.
    pub step: Step,
    /// Where it lies, relative to the data root.
    pub path: String,
    /// The parts that name it, by their orders: it stays where one of them does.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub after: BTreeSet<usize>,
    /// What it must be.
    #[serde(flatten)]
    pub identity: Identity,
}

/// Garbage that stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// What it is.
    pub kind: GcKind,
    /// Where it lies, relative to the data root.
    pub path: String,
    /// Why it stays.
    #[serde(flatten)]
    pub why: KeptWhy,
}

/// Why garbage stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "why", content = "detail", rename_all = "kebab-case")]
pub enum KeptWhy {
    /// Its kind was not asked for.
    NotSelected,
    /// It is too young.
    TooYoung,
    /// No engine gives such names: it is somebody's.
    Foreign,
    /// Something that stays needs it.
    Needed(String),
    /// Whether it is garbage cannot be told.
    Unknown(String),
    /// It is not what it should be, or cannot be removed.
    Odd(String),
    /// The kernel uses it.
    InUse(String),
}

impl KeptWhy {
    /// Tells whether somebody should look at it: that it stays is not what was asked for.
    #[must_use]
    pub fn is_trouble(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Odd(_) | Self::InUse(_))
    }
}

/// What another graph driver has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stale {
    /// Name of the driver.
    pub driver: String,
    /// Its trees, relative to the data root.
    pub paths: Vec<String>,
    /// References of the images that only its store has, sorted.
    #[serde(default)]
    pub images: Vec<String>,
    /// What keeps them, where something does: a container that was made with the driver.
    pub used_by: Option<String>,
}

impl GcPlan {
    /// Plans. `extra` is what the graph knows nothing of.
    #[must_use]
    pub fn new(candidates: &Candidates<'_>, survey: &Survey, stale: Vec<Stale>, options: &Options) -> Self {
        let is_old = |path: &str| {
            let facts = survey.facts.get(path);
            options.before.is_none_or(|before| facts.is_none_or(|facts| facts.footprint.modified < before))
        };
        let judge = |kind: GcKind, paths: &[&String]| match options.takes(kind) {
            false => Err(KeptWhy::NotSelected),
            true if !paths.iter().all(|path| is_old(path)) => Err(KeptWhy::TooYoung),
            true => Ok(()),
        };
        let wanted = |found: &Candidate| {
            if !candidates.is_drawn(found.id) && !found.paths.iter().any(|(_, path)| options.also.contains(path)) {
                return Err(KeptWhy::Foreign);
            }
            judge(found.kind, &found.paths.iter().map(|(_, path)| path).collect::<Vec<_>>())
        };
        Self::build(candidates, survey, stale, wanted, |kind, path| judge(kind, &[path]))
    }

    /// Checks a plan against a store as it is now: returns what of it still holds, and what does not.
    #[must_use]
    pub fn again(&self, candidates: &Candidates<'_>, survey: &Survey, stale: Vec<Stale>) -> (Self, Vec<Skipped>) {
        let planned: HashMap<&str, &Part> = self.parts().map(|part| (part.path.as_str(), part)).collect();
        let kinds: HashMap<&str, GcKind> = self
            .entries
            .iter()
            .flat_map(|entry| entry.parts.iter().map(|part| (part.path.as_str(), entry.kind)))
            .collect();
        // What has become of a kind that must be asked for was not asked for.
        let asked = |kind: GcKind, path: &str| kind.is_default() || kinds.get(path) == Some(&kind);
        let holds = |path: &String| {
            let now = survey.facts.get(path).map(|facts| &facts.identity);
            now.is_none_or(|now| planned.get(path.as_str()).is_some_and(|part| part.identity == *now))
        };
        let judge = |all: bool| if all { Ok(()) } else { Err(KeptWhy::NotSelected) };
        let wanted = |found: &Candidate| {
            // A build record has nothing of its own; what it leads to goes where such a kind was planned.
            if found.paths.is_empty() && !kinds.values().any(|kind| *kind == found.kind) {
                return judge(false);
            }
            // A short name that is new need not go with its directory; it dangles then.
            let mut paths = found.paths.iter().filter(|(step, _)| *step != Step::Link || found.paths.len() == 1);
            judge(paths.all(|(_, path)| holds(path) && asked(found.kind, path)))
        };
        let wanted_extra = |kind, path: &String| judge(holds(path) && asked(kind, path));
        let now = Self::build(candidates, survey, stale, wanted, wanted_extra);
        let left: HashSet<&str> = now.parts().map(|part| part.path.as_str()).collect();
        let kept: HashMap<&str, &KeptWhy> = now.kept.iter().map(|kept| (kept.path.as_str(), &kept.why)).collect();
        let mut skipped = Vec::new();
        for part in self.parts().filter(|part| !left.contains(part.path.as_str())) {
            let reason = match (survey.facts.get(&part.path), kept.get(part.path.as_str())) {
                (None, _) => "it is not there any more".to_owned(),
                (Some(facts), _) if facts.identity != part.identity => "it has changed since it was planned".to_owned(),
                (Some(_), Some(KeptWhy::Needed(by))) => format!("{by} needs it now"),
                (Some(_), Some(KeptWhy::Odd(why) | KeptWhy::InUse(why) | KeptWhy::Unknown(why))) => why.clone(),
                (Some(_), _) => "it is in use now".to_owned(),
            };
            skipped.push(Skipped { path: part.path.clone(), reason });
        }
        (now, skipped)
    }

    /// Returns all parts, by entry.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.entries.iter().flat_map(|entry| &entry.parts)
    }

    /// Returns the disk space in bytes that will be free.
    #[must_use]
    pub fn disk(&self) -> u64 {
        self.entries.iter().map(|entry| entry.disk).sum()
    }

    /// Takes what containers have written out of the plan, with whatever has to go before it.
    pub(super) fn take_written(&mut self) -> Self {
        let owners: HashMap<usize, usize> = self
            .entries
            .iter()
            .enumerate()
            .flat_map(|(at, entry)| entry.parts.iter().map(move |part| (part.order, at)))
            .collect();
        let mut waiting: Vec<usize> =
            (0..self.entries.len()).filter(|at| self.entries[*at].kind.is_written()).collect();
        let mut taken: HashSet<usize> = waiting.iter().copied().collect();
        while let Some(at) = waiting.pop() {
            let before =
                self.entries[at].parts.iter().flat_map(|part| &part.after).filter_map(|order| owners.get(order));
            waiting.extend(before.copied().filter(|at| taken.insert(*at)));
        }
        let entries = std::mem::take(&mut self.entries).into_iter().enumerate();
        let (written, rest): (Vec<_>, Vec<_>) = entries.partition(|(at, _)| taken.contains(at));
        self.entries = rest.into_iter().map(|(_, entry)| entry).collect();
        let entries = written.into_iter().map(|(_, entry)| entry).collect();
        Self { schema: self.schema, driver: self.driver.clone(), entries, kept: Vec::new(), stale: Vec::new() }
    }

    /// Tells the plan that parts have gone that were to go before others.
    pub(super) fn has_gone(&mut self, orders: &BTreeSet<usize>) {
        for part in self.entries.iter_mut().flat_map(|entry| &mut entry.parts) {
            part.after.retain(|order| !orders.contains(order));
        }
    }

    fn build(
        candidates: &Candidates<'_>,
        survey: &Survey,
        stale: Vec<Stale>,
        wanted: impl Fn(&Candidate) -> Result<(), KeptWhy>,
        wanted_extra: impl Fn(GcKind, &String) -> Result<(), KeptWhy>,
    ) -> Self {
        let kept_ids = decide(candidates, survey, wanted);
        let mut builder = Builder::new(candidates, survey);
        let mut kept: Vec<Kept> = Vec::new();
        for candidate in &candidates.found {
            match kept_ids.get(&candidate.id) {
                None => builder.take(candidate, &kept_ids),
                Some(why) => kept.extend(builder.kept(candidate, why)),
            }
        }
        for (kind, path) in candidates.extra(&kept_ids, &stale) {
            match builder.look_extra(&path).and_then(|()| wanted_extra(kind, &path)) {
                // The records of another driver go before its directories.
                Ok(()) => {
                    builder.add(None, kind, path.clone(), &[(Step::Rest, path.clone())], path.matches('/').count())
                }
                Err(why) => kept.push(Kept { kind, path, why }),
            }
        }
        for (path, owners) in candidates.lost_links() {
            builder.take_lost_link(path, &owners, &kept_ids, &wanted_extra);
        }
        kept.extend(survey.odd.iter().map(|(path, reason)| Kept {
            kind: GcKind::OrphanDirectories,
            path: path.clone(),
            why: KeptWhy::Odd(reason.clone()),
        }));
        kept.sort();
        kept.dedup();
        Self { schema: SCHEMA, driver: candidates.driver.name().to_owned(), entries: builder.finish(), kept, stale }
    }
}

impl Work for GcPlan {
    fn kind(&self) -> trash::Kind {
        trash::Kind::Gc
    }

    fn driver(&self) -> &str {
        &self.driver
    }

    fn moves(&self) -> Vec<Move<'_>> {
        self.parts().map(Part::as_move).collect()
    }

    fn groups(&self) -> Vec<Vec<usize>> {
        self.entries.iter().map(|entry| entry.parts.iter().map(|part| part.order).collect()).collect()
    }

    fn count(&self) -> usize {
        self.entries.len()
    }
}

impl Part {
    /// Says how the part moves.
    pub(super) fn as_move(&self) -> Move<'_> {
        Move::away(self.order, self.step as usize, &self.path)
    }
}

/// A part before it has its place in the order.
struct Loose {
    owner: Option<Id>,
    step: Step,
    depth: usize,
    path: String,
}

/// Puts what goes together to entries.
struct Builder<'c> {
    candidates: &'c Candidates<'c>,
    survey: &'c Survey,
    by_id: HashMap<Id, &'c Candidate>,
    entries: BTreeMap<(GcKind, String), Vec<Loose>>,
}

impl<'c> Builder<'c> {
    fn new(candidates: &'c Candidates<'c>, survey: &'c Survey) -> Self {
        let by_id = candidates.found.iter().map(|found| (found.id, found)).collect();
        Self { candidates, survey, by_id, entries: BTreeMap::new() }
    }

    fn take(&mut self, candidate: &Candidate, kept: &BTreeMap<Id, KeptWhy>) {
        let Some((_, main)) = candidate.paths.last() else { return };
        let mut owner = (candidate.kind, main.clone());
        if matches!(self.candidates.graph.node(candidate.id), Node::Dir(_)) {
            // The directory goes with the record that names it.
            let namers = self.candidates.namers(candidate.id).into_iter().filter(|namer| !kept.contains_key(namer));
            let records = namers.filter_map(|namer| self.by_id.get(&namer));
            let record = records.filter_map(|found| Some((found.kind, found.paths.last()?.1.clone()))).min();
            owner = record.unwrap_or(owner);
        }
        let (kind, path) = owner;
        self.add(Some(candidate.id), kind, path, &candidate.paths, candidate.depth);
    }

    fn add(&mut self, owner: Option<Id>, kind: GcKind, main: String, paths: &[(Step, String)], depth: usize) {
        let loose = paths.iter().filter(|(step, path)| self.is_there(*step, path, paths));
        let loose = loose.map(|(step, path)| Loose { owner, step: *step, depth, path: path.clone() });
        let loose: Vec<Loose> = loose.collect();
        self.entries.entry((kind, main)).or_default().extend(loose);
    }

    /// Tells whether there is something, and, of a short name, whether it is the directory's.
    fn is_there(&self, step: Step, path: &str, beside: &[(Step, String)]) -> bool {
        let Some(facts) = self.survey.facts.get(path) else { return false };
        let Some(target) = facts.identity.target.as_deref().filter(|_| step == Step::Link) else { return true };
        let id = target.strip_prefix("../").and_then(|rest| rest.strip_suffix("/diff")).unwrap_or_default();
        beside.iter().any(|(step, dir)| *step == Step::Directory && dir.rsplit('/').next() == Some(id))
    }

    fn kept(&self, candidate: &Candidate, why: &KeptWhy) -> Option<Kept> {
        let (_, path) = candidate.paths.last()?;
        let is_there = candidate
            .paths
            .iter()
            .any(|(_, path)| self.survey.facts.contains_key(path) || self.survey.failed.contains_key(path));
        is_there.then(|| Kept { kind: candidate.kind, path: path.clone(), why: why.clone() })
    }

    fn look_extra(&self, path: &str) -> Result<(), KeptWhy> {
        if let Some(reason) = self.survey.failed.get(path) {
            return Err(KeptWhy::Odd(reason.clone()));
        }
        if let Some(how) = self.survey.in_use.of(path) {
            return Err(KeptWhy::InUse(how.to_owned()));
        }
        match self.survey.facts.get(path).and_then(|facts| facts.footprint.obstacle.as_ref()) {
            Some((at, reason)) => Err(KeptWhy::Odd(format!("{}: {reason}", at.display()))),
            None => Ok(()),
        }
    }

    /// A short name that leads nowhere goes once no directory that stays is stacked on it.
    fn take_lost_link(
        &mut self,
        path: String,
        owners: &[crate::id::CacheId],
        kept: &BTreeMap<Id, KeptWhy>,
        wanted: impl Fn(GcKind, &String) -> Result<(), KeptWhy>,
    ) {
        let goes = |id: Id| self.by_id.contains_key(&id) && !kept.contains_key(&id);
        let all_go = owners.iter().all(|id| self.candidates.graph.find(&Node::Dir(id.clone())).is_some_and(goes));
        let is_link = self.survey.facts.get(&path).is_some_and(|facts| facts.identity.kind == Kind::Symlink);
        if all_go && is_link && wanted(GcKind::DanglingLinks, &path).is_ok() {
            self.add(None, GcKind::DanglingLinks, path.clone(), &[(Step::Rest, path)], 0);
        }
    }

    /// Puts the parts in order, and counts what goes with each.
    fn finish(self) -> Vec<GcEntry> {
        let Self { candidates, survey, entries, .. } = self;
        let all: HashSet<String> = entries.values().flatten().map(|loose| loose.path.clone()).collect();
        let is_within = |path: &str| path.match_indices('/').any(|(slash, _)| all.contains(&path[..slash]));
        let mut order: Vec<(usize, &Loose)> = Vec::new();
        let mut seen = HashSet::new();
        for (at, parts) in entries.values().enumerate() {
            let parts = parts.iter().filter(|part| !is_within(&part.path) && seen.insert(part.path.clone()));
            order.extend(parts.map(|part| (at, part)));
        }
        order.sort_by_key(|(at, part)| (part.step, std::cmp::Reverse(part.depth), *at, &part.path));
        let disk = Footprint::freed(order.iter().map(|(_, part)| &survey.facts[&part.path].footprint));
        let entry = |(kind, path): &(GcKind, String)| GcEntry {
            kind: *kind,
            path: path.clone(),
            disk: 0,
            modified: Time::from((i64::MIN, 0)),
            parts: Vec::new(),
        };
        let mut done: Vec<GcEntry> = entries.keys().map(entry).collect();
        let mut owned: HashMap<Id, Vec<usize>> = HashMap::new();
        for (order, ((at, part), disk)) in order.into_iter().zip(disk).enumerate() {
            let Loose { owner, step, path, .. } = part;
            let facts = &survey.facts[path];
            // What its entry has before it, and whatever is tied to it, has to go first: a record without its
            // directory is worse than a directory without its record.
            let before = done[at].parts.last().map(|part| part.order);
            let namers = owner.iter().flat_map(|owner| candidates.graph.to(*owner));
            let namers = namers.filter_map(|(_, namer)| owned.get(&namer)).flatten().copied();
            let after = before.into_iter().chain(namers).collect();
            done[at].disk += disk;
            done[at].modified = done[at].modified.max(facts.footprint.modified);
            let identity = facts.identity.clone();
            done[at].parts.push(Part { order, step: *step, path: path.clone(), after, identity });
            if let Some(owner) = owner {
                owned.entry(*owner).or_default().push(order);
            }
        }
        done.retain(|entry| !entry.parts.is_empty());
        done
    }
}
