//! Which candidates go. Pure.
//!
//! Each candidate is judged by itself; what stays then keeps all that it leads to, and a directory that stays keeps the
//! records that name it: a layer that dockerd loads must have its directory.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::fsx::Kind;
use crate::graph::{Id, Node, State};
use crate::store::{Snapshot, Unknown};

use super::candidates::{Candidate, Candidates, Step, holds, mount_dir};
use super::kind::GcKind;
use super::plan::KeptWhy;
use super::survey::Survey;

/// Returns the candidates that stay, each with the first reason found.
pub(super) fn decide(
    candidates: &Candidates<'_>,
    survey: &Survey,
    wanted: impl Fn(&Candidate) -> Result<(), KeptWhy>,
) -> BTreeMap<Id, KeptWhy> {
    let unknown = Doubts::of(candidates);
    let odd = odd_paths(candidates.snapshot);
    let judge = |candidate: &Candidate| -> Result<(), KeptWhy> {
        wanted(candidate)?;
        unknown.about(candidate, candidates)?;
        look_at(candidate, candidates, survey, &odd)
    };
    let mut kept = BTreeMap::new();
    for candidate in &candidates.found {
        if let Err(why) = judge(candidate) {
            kept.insert(candidate.id, why);
        }
    }
    spread(candidates, &mut kept);
    kept
}

/// Adds what the kept candidates keep.
fn spread(candidates: &Candidates<'_>, kept: &mut BTreeMap<Id, KeptWhy>) {
    let graph = candidates.graph;
    let known: HashMap<Id, &Candidate> = candidates.found.iter().map(|found| (found.id, found)).collect();
    let mut beside: HashMap<&str, Vec<Id>> = HashMap::new();
    for id in graph.ids() {
        if let Node::Mount(name) = graph.node(id) {
            beside.entry(mount_dir(name)).or_default().push(id);
        }
    }
    // A mount that lies in the same directory as one that is in use cannot be moved without it.
    let shared = beside.values().filter(|ids| ids.iter().any(|id| candidates.reached.has(*id))).flatten();
    let mut waiting: Vec<Id> = Vec::new();
    for id in shared.filter(|id| known.contains_key(id)) {
        kept.entry(*id).or_insert_with(|| KeptWhy::Needed("a mount in the same directory".to_owned()));
    }
    waiting.extend(kept.keys());
    let mut seen: HashSet<Id> = waiting.iter().copied().collect();
    while let Some(id) = waiting.pop() {
        let mut next: Vec<Id> = graph.from(id).into_iter().map(|(_, to)| to).collect();
        match graph.node(id) {
            Node::Dir(_) if graph.state(id) != &State::Missing => {
                next.extend(graph.to(id).into_iter().filter(|(edge, _)| holds(*edge)).map(|(_, from)| from));
            }
            Node::Mount(name) => next.extend(&beside[mount_dir(name)]),
            _ => {}
        }
        for to in next {
            if candidates.reached.has(to) || !seen.insert(to) {
                continue;
            }
            if known.contains_key(&to) {
                kept.insert(to, KeptWhy::Needed(graph.node(id).to_string()));
            }
            waiting.push(to);
        }
    }
}

/// What cannot be told, with the path of what makes it so.
#[derive(Debug, Default)]
struct Doubts {
    /// Whether an image is used.
    images: Option<String>,
    /// Whether a layer is used.
    layers: Option<String>,
    /// Whether a directory of the graph driver is used.
    dirs: Option<String>,
}

impl Doubts {
    fn of(candidates: &Candidates<'_>) -> Self {
        let mut doubts = Self::default();
        for unreadable in &candidates.snapshot.unreadable {
            let (images, layers, dirs) = match unreadable.what {
                Unknown::References | Unknown::Containers => (true, false, false),
                Unknown::Images => (true, true, false),
                Unknown::Layers | Unknown::Mounts | Unknown::BuildKit => (false, true, true),
                Unknown::DriverDirs => (false, false, !is_of_garbage(&unreadable.path, candidates)),
                Unknown::Distribution => (false, false, false),
            };
            doubts.add(images, layers, dirs, &unreadable.path);
        }
        for (name, layer) in &candidates.snapshot.broken_layers {
            let node = crate::id::ChainId::from_hex(name.as_bytes()).ok().map(Node::Layer);
            let is_used =
                node.and_then(|node| candidates.graph.find(&node)).is_some_and(|id| candidates.reached.has(id));
            if layer.cache_id.is_none() && is_used {
                doubts.add(false, false, true, &format!("image/{}/layerdb/sha256/{name}", candidates.driver));
            }
        }
        // What is written in a mount that is in use and cannot be understood may be any directory or layer.
        for finding in candidates.snapshot.findings.iter().filter(|finding| finding.code == "mount-not-loadable") {
            let name = finding.subject.rsplit_once("layerdb/mounts/").map_or("", |(_, name)| name);
            let node = crate::id::ContainerId::parse(name.as_bytes()).ok().map(Node::Mount);
            if node.and_then(|node| candidates.graph.find(&node)).is_some_and(|id| candidates.reached.has(id)) {
                doubts.add(false, true, true, &finding.subject);
            }
        }
        doubts
    }

    fn add(&mut self, images: bool, layers: bool, dirs: bool, path: &str) {
        for (_, doubt) in [(images, &mut self.images), (layers, &mut self.layers), (dirs, &mut self.dirs)]
            .into_iter()
            .filter(|(is_in_doubt, _)| *is_in_doubt)
        {
            doubt.get_or_insert_with(|| path.to_owned());
        }
    }

    fn about(&self, candidate: &Candidate, candidates: &Candidates<'_>) -> Result<(), KeptWhy> {
        let doubt = match (candidate.kind, candidates.graph.node(candidate.id)) {
            (_, Node::Dir(_)) => &self.dirs,
            (GcKind::UntaggedImages | GcKind::ImageMetadata, _) => &self.images,
            (GcKind::UnreferencedLayers | GcKind::BrokenLayers, _) => &self.layers,
            _ => &None,
        };
        match doubt {
            Some(path) => Err(KeptWhy::Unknown(format!("{path} cannot be read"))),
            None => Ok(()),
        }
    }
}

/// Tells whether a file of the driver that cannot be read lies in a directory that nothing reaches.
fn is_of_garbage(path: &str, candidates: &Candidates<'_>) -> bool {
    let dir = path.strip_prefix(candidates.driver).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
    let Some((name, _)) = dir.split_once('/') else { return false };
    let node = crate::id::CacheId::parse(name.as_bytes()).ok().map(Node::Dir);
    node.and_then(|node| candidates.graph.find(&node)).is_some_and(|id| !candidates.reached.has(id))
}

/// Returns the entries of which the reader says that no engine writes such a thing.
fn odd_paths(snapshot: &Snapshot) -> HashMap<&str, &str> {
    let odd = snapshot.findings.iter().filter(|finding| finding.code == "cache-id-invalid");
    odd.map(|finding| (finding.subject.as_str(), finding.evidence.as_str())).collect()
}

fn look_at(
    candidate: &Candidate,
    candidates: &Candidates<'_>,
    survey: &Survey,
    odd: &HashMap<&str, &str>,
) -> Result<(), KeptWhy> {
    for (step, path) in &candidate.paths {
        if let Some(reason) = survey.failed.get(path) {
            return Err(KeptWhy::Odd(reason.clone()));
        }
        if let Some(evidence) = odd.get(path.as_str()) {
            return Err(KeptWhy::Odd(format!("its cache-id makes no sense: {evidence}")));
        }
        if let Some(how) = survey.in_use.of(path) {
            return Err(KeptWhy::InUse(how.to_owned()));
        }
        let Some(facts) = survey.facts.get(path) else { continue };
        if let Some((at, reason)) = &facts.footprint.obstacle {
            return Err(KeptWhy::Odd(format!("{}: {reason}", at.display())));
        }
        if facts.identity.kind != expected(*step, candidate, path, candidates) {
            let is = facts.identity.kind;
            return Err(KeptWhy::Odd(format!("a {} is in its place", word(is))));
        }
    }
    Ok(())
}

/// Returns what there must be at a path of a candidate.
fn expected(step: Step, candidate: &Candidate, path: &str, candidates: &Candidates<'_>) -> Kind {
    let is_file = |part: &str| path.starts_with(&format!("{}/{part}/", candidates.driver));
    match (step, candidate.kind) {
        (Step::Link, _) | (_, GcKind::DanglingLinks) => Kind::Symlink,
        (Step::Image, _) if path.contains("/imagedb/content/") => Kind::File,
        (_, GcKind::TempFiles) => Kind::File,
        (Step::Directory, _) if candidates.driver == "btrfs" && is_file("quotas") => Kind::File,
        (Step::Directory, _) if candidates.driver == "aufs" && is_file("layers") => Kind::File,
        _ => Kind::Directory,
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symbolic link",
        Kind::Block | Kind::Char => "device",
        Kind::Fifo => "named pipe",
        Kind::Socket => "socket",
    }
}
