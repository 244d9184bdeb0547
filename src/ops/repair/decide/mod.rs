//! From what is wrong to what is done about it: pure.
//!
//! Entries of layerdb come first: they say which directory belongs to which layer and what lies below. Then the layers that
//! are built anew, then what the driver keeps around the trees, then images and names.

mod driver;
mod images;
mod layers;
mod names;
mod part;
mod rebuild;

use std::collections::{BTreeMap, BTreeSet};

use crate::driver::Driver;
use crate::finding::{Code, Finding, Object, Severity};
use crate::graph::Node;
use crate::id::{CacheId, ChainId, ContainerId, LinkId};
use crate::ops::mounts;
use crate::ops::trash::Owned;
use crate::ops::verify::{Found, Report};
use crate::store::{BrokenLayer, Layer, Mount, Snapshot, places};

use super::donor::Donor;
use super::plan::{Act, Left, Mend, Piece, RepairPlan, Reseed, SCHEMA, Step};
use super::survey::Survey;

/// Plans one repair.
pub(super) struct Planner<'a> {
    driver: &'static Driver,
    snapshot: &'a Snapshot,
    survey: &'a Survey,
    source: Option<&'a Donor>,
    mends: BTreeMap<Object, Draft>,
    left: BTreeSet<Left>,
    /// Findings that something else explains: what was compared was not the object.
    explained: BTreeSet<(Object, Code)>,
    /// Paths that a piece changes already.
    taken: BTreeSet<String>,
    /// Layers that are built anew.
    reseeded: BTreeMap<ChainId, Reseed>,
    /// Layers whose content was found to be bad, with the findings.
    bad: BTreeMap<ChainId, Vec<&'a Found>>,
    /// Why layers are rebuilt.
    causes: BTreeMap<ChainId, Found>,
    /// Layers whose tar can be assembled from their own files as it was.
    proved_tars: BTreeSet<ChainId>,
    /// Directories of layers, as they will be.
    dirs: BTreeMap<ChainId, CacheId>,
    /// Layers below layers, as they will be.
    parents: BTreeMap<ChainId, Option<ChainId>>,
    /// Entries of writable layers, as they will be.
    mounts: BTreeMap<ContainerId, Mount>,
    /// `overlay2`: short names of directories, as they will be.
    names: BTreeMap<CacheId, LinkId>,
    /// `repositories.json` is lost, cannot be read, or has lost all that it named.
    references_lost: bool,
}

/// A mend in the making.
#[derive(Debug, Default)]
struct Draft {
    codes: BTreeSet<Code>,
    acts: Vec<String>,
    pieces: Vec<(Step, String, Act)>,
}

/// Collects what lies below each layer, as far as its entry proves it. One that names no parent has lost the name, where its
/// chain ID is of a layer on another.
fn parents(
    layers: &BTreeMap<ChainId, Layer>,
    broken: &[(ChainId, &BrokenLayer)],
) -> BTreeMap<ChainId, Option<ChainId>> {
    let proved = layers.iter().filter(|(chain, layer)| ChainId::stack(layer.parent, layer.diff) == **chain);
    let proved = proved.map(|(chain, layer)| (*chain, layer.parent));
    let named = broken.iter().filter_map(|(chain, layer)| Some((*chain, Some(layer.parent?))));
    proved.chain(named).collect()
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        driver: &'static Driver,
        snapshot: &'a Snapshot,
        survey: &'a Survey,
        source: Option<&'a Donor>,
    ) -> Self {
        let layers = &snapshot.layers;
        let broken = snapshot.broken_layers.iter().filter(|(_, layer)| !layer.removing);
        let broken = broken.filter_map(|(hex, layer)| Some((ChainId::from_hex(hex.as_bytes()).ok()?, layer)));
        let broken: Vec<_> = broken.collect();
        let broken_dirs = broken.iter().filter_map(|(chain, layer)| Some((*chain, layer.cache_id.clone()?)));
        Self {
            driver,
            snapshot,
            survey,
            source,
            mends: BTreeMap::new(),
            left: BTreeSet::new(),
            taken: BTreeSet::new(),
            reseeded: BTreeMap::new(),
            bad: BTreeMap::new(),
            causes: BTreeMap::new(),
            proved_tars: BTreeSet::new(),
            dirs: layers.iter().map(|(chain, layer)| (*chain, layer.cache_id.clone())).chain(broken_dirs).collect(),
            parents: parents(layers, &broken),
            mounts: (snapshot.mounts.iter())
                .map(|(name, mount)| (name.clone(), mounts::corrected(snapshot, name, mount)))
                .collect(),
            explained: BTreeSet::new(),
            names: BTreeMap::new(),
            references_lost: false,
        }
    }

    /// Plans what to do about all that a report found.
    pub(super) fn plan(mut self, report: &'a Report) -> RepairPlan {
        let findings: Vec<&'a Found> =
            report.findings.iter().filter(|found| found.finding.severity > Severity::Note).collect();
        let is_lost =
            |code: Code| matches!(code, Code::ReferencesUnreadable | Code::ReferencesMissing | Code::ReferencesEmpty);
        self.references_lost = findings.iter().any(|found| is_lost(found.finding.code));
        self.proved_tars.clone_from(&report.proved_tars);
        self.correct_known_entries();
        findings.iter().for_each(|found| self.entry(found));
        self.layers_of_returning();
        findings.iter().for_each(|found| self.content(found));
        self.rebuild();
        self.above();
        self.settle();
        findings.iter().for_each(|found| self.driver_files(found));
        findings.iter().for_each(|found| self.images(found));
        self.lost_images();
        let told: BTreeSet<(&str, Code)> = self.left.iter().map(|left| (left.subject.as_str(), left.code)).collect();
        let is_left = |found: &Finding| told.contains(&(&*found.object.to_string(), found.code));
        let unknown = findings.iter().filter(|found| !self.is_handled(found) && !is_left(&found.finding));
        let more: Vec<Left> =
            unknown.map(|found| left(found, "nothing here can bring it back: take it from a backup")).collect();
        self.left.extend(more);
        self.finish()
    }

    /// Tells whether something is done about a finding, or something else explains it.
    fn is_handled(&self, found: &Found) -> bool {
        let Finding { object, code, .. } = &found.finding;
        self.mends.get(object).is_some_and(|draft| draft.codes.contains(code))
            || self.explained.contains(&(object.clone(), *code))
    }

    /// Adds a change to what is done about a finding. A path changes once.
    fn mend(&mut self, found: &Found, act: impl Into<String>, pieces: impl IntoIterator<Item = (Step, String, Act)>) {
        let new: Vec<_> = pieces.into_iter().filter(|(_, path, _)| self.taken.insert(path.clone())).collect();
        let draft = self.mends.entry(found.finding.object.clone()).or_default();
        draft.codes.insert(found.finding.code);
        let act = act.into();
        if !new.is_empty() && !act.is_empty() && !draft.acts.contains(&act) {
            draft.acts.push(act);
        }
        draft.pieces.extend(new);
    }

    fn leave(&mut self, found: &Found, needs: impl Into<String>) {
        self.left.insert(left(found, needs));
    }

    /// Returns the path of something below `image/<driver>`.
    fn image_path(&self, rest: impl std::fmt::Display) -> String {
        places::in_root(self.driver.name(), rest)
    }

    /// Returns the path of an entry of layerdb, or of a file in it.
    fn entry_path(&self, chain: ChainId, file: &str) -> String {
        let path = self.image_path(places::layer(&chain));
        if file.is_empty() { path } else { format!("{path}/{file}") }
    }

    /// Returns the path of a directory of the driver, or of a file in it.
    fn dir_path(&self, id: &CacheId, file: &str) -> String {
        let path = self.driver.path_of(id);
        if file.is_empty() { path } else { format!("{path}/{file}") }
    }

    /// The file `name` in the directory of a layer, as the driver makes it.
    fn driver_file(&self, name: &str, text: impl Into<String>) -> Act {
        Act::Write { text: text.into(), owned: self.owned(self.driver.mode(name)) }
    }

    /// The directory `name` in that of a layer, as the driver makes it.
    fn driver_directory(&self, name: &str) -> Act {
        Act::Directory { links: Vec::new(), owned: self.owned(self.driver.mode(name)) }
    }

    fn owned(&self, mode: u32) -> Owned {
        let (uid, gid) = self.survey.owner;
        Owned { mode, uid, gid }
    }

    /// Returns the layers below a layer, nearest first, as they will be; `None` where that is not known.
    fn below(&self, chain: ChainId) -> Option<Vec<ChainId>> {
        let mut below = Vec::new();
        let mut at = chain;
        while let Some(parent) = self.parents.get(&at)? {
            // A wrong parent may lead round in a circle.
            if below.len() > self.parents.len() {
                return None;
            }
            below.push(*parent);
            at = *parent;
        }
        Some(below)
    }

    /// Returns how many layers lie below a layer: what is lower comes first.
    fn depth(&self, chain: ChainId) -> usize {
        self.below(chain).map_or(usize::MAX, |below| below.len())
    }

    /// Returns the layer of a directory, as it will be.
    fn layer_of(&self, id: &CacheId) -> Option<ChainId> {
        self.dirs.iter().find(|(_, dir)| *dir == id).map(|(chain, _)| *chain)
    }

    fn finish(self) -> RepairPlan {
        let dirs = self.reseeded.values().map(|reseed| self.dir_path(&reseed.layer.record.cache_id, ""));
        let pieces = self.mends.values().flat_map(|draft| &draft.pieces);
        let entries =
            pieces.filter(|(_, _, act)| matches!(act, Act::LayerEntry { .. })).map(|(_, path, _)| path.clone());
        let built: BTreeSet<String> = dirs.chain(entries).map(|path| path + "/").collect();
        let is_built = |path: &str| built.iter().any(|dir| path.starts_with(dir.as_str()));
        let mut order: Vec<(Step, String, &Object, Act)> = Vec::new();
        let mut mends: BTreeMap<&Object, Mend> = BTreeMap::new();
        for (object, draft) in &self.mends {
            // What lies in a directory that is rebuilt is made with it.
            let is_covered = !draft.pieces.is_empty() && draft.pieces.iter().all(|(_, path, _)| is_built(path));
            if draft.acts.is_empty() || is_covered {
                continue;
            }
            let codes = draft.codes.iter().copied().collect();
            let mend = Mend { subject: object.to_string(), codes, act: draft.acts.join("; "), pieces: Vec::new() };
            mends.insert(object, mend);
            let pieces = draft.pieces.iter().filter(|(_, path, _)| !is_built(path)).cloned();
            order.extend(pieces.map(|(step, path, act)| (step, path, object, act)));
        }
        order.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (order, (step, path, object, act)) in order.into_iter().enumerate() {
            if let Some(mend) = mends.get_mut(object) {
                mend.pieces.push(Piece { order, step, path, was: None, act });
            }
        }
        let mut layers: Vec<Reseed> = self.reseeded.values().cloned().collect();
        layers.sort_by_cached_key(|reseed| (self.depth(reseed.layer.record.chain), reseed.layer.record.chain));
        let below = layers.iter().filter_map(|reseed| reseed.layer.record.parent);
        let stands_on = below.filter(|chain| !self.reseeded.contains_key(chain));
        let stands_on = stands_on.filter_map(|chain| Some((chain, self.dirs.get(&chain)?.clone()))).collect();
        RepairPlan {
            schema: SCHEMA,
            driver: self.driver.name().to_owned(),
            mends: mends.into_values().collect(),
            left: self.left.into_iter().collect(),
            layers,
            stands_on,
        }
    }
}

fn left(found: &Found, needs: impl Into<String>) -> Left {
    Left {
        subject: found.finding.object.to_string(),
        code: found.finding.code,
        severity: found.finding.severity,
        needs: needs.into(),
    }
}

/// Returns the layer that a finding is about.
fn chain_of(found: &Found) -> Option<ChainId> {
    match found.object {
        Some(Node::Layer(chain)) => Some(chain),
        _ => None,
    }
}

/// Returns the directory that a finding is about.
fn dir_of(found: &Found) -> Option<&CacheId> {
    match &found.object {
        Some(Node::Dir(id)) => Some(id),
        _ => None,
    }
}
