//! Which candidates go. Pure.
//!
//! Each candidate is judged by itself; what stays then keeps all that it leads to, and a directory that stays keeps the
//! records that name it: a layer that dockerd loads must have its directory.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::finding::{Code, Finding, Thing};
use crate::fsx::Kind;
use crate::graph::{Id, Node, State};
use crate::id::{DiffId, ImageId};
use crate::store::{Image, Snapshot, Unknown, places};

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
    let mut doubts = Doubts::of(candidates);
    let odd = OddEntries::of(candidates.snapshot);
    loop {
        let judge = |candidate: &Candidate| -> Result<(), KeptWhy> {
            wanted(candidate)?;
            doubts.about(candidate, candidates)?;
            look_at(candidate, candidates, survey, &odd)
        };
        let mut kept = BTreeMap::new();
        for candidate in &candidates.found {
            if let Err(why) = judge(candidate) {
                kept.insert(candidate.id, why);
            }
        }
        keep_parents(candidates, &mut kept);
        spread(candidates, &mut kept);
        if !doubts.grow(&kept) {
            return kept;
        }
    }
}

/// Keeps the images that others may have been built from, where the records of that are lost as a whole: each that has
/// the lowest layers of an image that stays.
fn keep_parents(candidates: &Candidates<'_>, kept: &mut BTreeMap<Id, KeptWhy>) {
    let images = &candidates.snapshot.images;
    let is_recorded =
        |image: &Image| image.parent.is_some() || image.last_updated.is_some() || image.built_locally.is_some();
    if images.values().any(is_recorded) {
        return;
    }
    let stays = |id: &ImageId| candidates.graph.find(&Node::Image(*id)).is_some_and(|id| candidates.reached.has(id));
    let mut above: HashMap<&[DiffId], ImageId> = HashMap::new();
    for (id, image) in images.iter().filter(|(id, _)| stays(id)) {
        for end in 1..=image.diff_ids.len() {
            above.entry(&image.diff_ids[..end]).or_insert(*id);
        }
    }
    for candidate in candidates.found.iter().filter(|found| found.kind == GcKind::UntaggedImages) {
        let Node::Image(id) = candidates.graph.node(candidate.id) else { continue };
        let child = images.get(id).and_then(|image| above.get(&image.diff_ids[..]));
        if let Some(child) = child {
            kept.entry(candidate.id).or_insert_with(|| KeptWhy::Needed(Node::Image(*child).to_string()));
        }
    }
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

/// What cannot be told, each with the reason.
#[derive(Debug, Default)]
struct Doubts {
    /// Whether an image is used.
    images: Option<String>,
    /// Whether a layer is used.
    layers: Option<String>,
    /// Whether a writable layer is used.
    mounts: Option<String>,
    /// Whether a directory of the graph driver is used.
    dirs: Option<String>,
    /// What a directory is stacked on that nothing reaches: it matters where that directory stays.
    unreached: Vec<(Id, String)>,
}

/// Things of which it may be unknown whether they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matter {
    Images,
    Layers,
    Mounts,
    Dirs,
}

impl Doubts {
    fn of(candidates: &Candidates<'_>) -> Self {
        use Matter::{Dirs, Images, Layers, Mounts};
        let mut doubts = Self::default();
        let Candidates { snapshot, graph, driver, reached, .. } = candidates;
        for unreadable in &snapshot.unreadable {
            let reason = format!("{} cannot be read", unreadable.path);
            let matters: &[Matter] = match unreadable.what {
                Unknown::References => &[Images],
                Unknown::Containers => &[Images, Mounts],
                Unknown::Images => &[Images, Layers],
                Unknown::Layers | Unknown::Mounts | Unknown::BuildKit => &[Layers, Dirs],
                Unknown::DriverDirs => match unreached_dir(&unreadable.path, candidates) {
                    Some(id) => {
                        doubts.unreached.push((id, reason));
                        continue;
                    }
                    // A record goes together with its directory, so which directories there are must be known.
                    None => &[Layers, Mounts, Dirs],
                },
                Unknown::Distribution => &[],
            };
            doubts.add(matters, reason);
        }
        for doubtful in snapshot.doubtful.iter().filter(|doubtful| doubtful.what == Unknown::Images) {
            doubts.add(&[Images, Layers], format!("{}: {}", doubtful.path, doubtful.reason));
        }
        for (reference, image) in &snapshot.references {
            if !snapshot.images.contains_key(image) {
                let reason = format!("{reference} names image {}, whose configuration is not there", image.short());
                doubts.add(&[Images, Layers], reason);
            }
        }
        for id in snapshot.without_mount(driver.name()) {
            let reason = format!("container {} has no entry in {}", id.short(), places::MOUNTS);
            doubts.add(&[Layers, Dirs], reason);
        }
        for (name, layer) in &snapshot.broken_layers {
            let node = crate::id::ChainId::from_hex(name.as_bytes()).ok().map(Node::Layer);
            let is_used = node.and_then(|node| graph.find(&node)).is_some_and(|id| reached.has(id));
            if layer.cache_id.is_none() && is_used {
                doubts.add(
                    &[Dirs],
                    format!("{} cannot be read", places::in_root(driver.name(), places::layer_named(name))),
                );
            }
        }
        // What is written in a mount that is in use and cannot be understood may be any directory or layer.
        for finding in snapshot.findings.iter().filter(|finding| finding.code == Code::MountNotLoadable) {
            let node = match &finding.object.thing {
                Thing::Mount(name) => graph.find(&Node::Mount(name.clone())),
                _ => None,
            };
            // Of one that is no node nothing says that it is not in use.
            if node.is_none_or(|id| reached.has(id)) {
                doubts.add(&[Layers, Dirs], format!("{} cannot be read", finding.object));
            }
        }
        doubts
    }

    fn add(&mut self, matters: &[Matter], reason: String) {
        for matter in matters {
            self.of_matter(*matter).get_or_insert_with(|| reason.clone());
        }
    }

    fn of_matter(&mut self, matter: Matter) -> &mut Option<String> {
        match matter {
            Matter::Images => &mut self.images,
            Matter::Layers => &mut self.layers,
            Matter::Mounts => &mut self.mounts,
            Matter::Dirs => &mut self.dirs,
        }
    }

    /// Adds what is unknown because directories stay that cannot say what they are stacked on. Tells whether there is any.
    fn grow(&mut self, kept: &BTreeMap<Id, KeptWhy>) -> bool {
        let staying = self.unreached.iter().position(|(id, _)| kept.contains_key(id));
        let Some(at) = staying.filter(|_| self.dirs.is_none()) else { return false };
        let (_, reason) = self.unreached.swap_remove(at);
        self.add(&[Matter::Dirs], reason);
        true
    }

    /// Says why it cannot be told whether a candidate is garbage.
    fn about(&self, candidate: &Candidate, candidates: &Candidates<'_>) -> Result<(), KeptWhy> {
        let is_dir = matches!(candidates.graph.node(candidate.id), Node::Dir(_));
        let doubts: &[&Option<String>] = match candidate.kind {
            _ if is_dir => &[&self.dirs],
            GcKind::UntaggedImages | GcKind::ImageMetadata => &[&self.images],
            GcKind::UnreferencedLayers | GcKind::BrokenLayers | GcKind::RemovingLayers | GcKind::WriteSets => {
                &[&self.layers]
            }
            GcKind::DeadMounts | GcKind::DeadContainers => &[&self.mounts],
            GcKind::OrphanDirectories | GcKind::DanglingLinks | GcKind::LeakedBuildCache => &[&self.dirs],
            GcKind::SelfTests | GcKind::TempFiles | GcKind::OldTemp => &[],
            GcKind::DistributionRecords | GcKind::StaleDriver => &[],
        };
        match doubts.iter().find_map(|doubt| doubt.as_ref()) {
            Some(reason) => Err(KeptWhy::Unknown(reason.clone())),
            None => Ok(()),
        }
    }
}

/// Returns the directory that a file of the driver lies in, where nothing reaches it.
fn unreached_dir(path: &str, candidates: &Candidates<'_>) -> Option<Id> {
    let dir = path.strip_prefix(candidates.driver.name())?.strip_prefix('/')?;
    let (name, _) = dir.split_once('/')?;
    let id = candidates.graph.find(&Node::Dir(crate::id::CacheId::parse(name.as_bytes()).ok()?))?;
    (!candidates.reached.has(id)).then_some(id)
}

/// Entries of layerdb of which the reader says that no engine writes such a thing.
struct OddEntries<'s>(Vec<&'s Finding>);

impl<'s> OddEntries<'s> {
    fn of(snapshot: &'s Snapshot) -> Self {
        Self(snapshot.findings.iter().filter(|finding| finding.code == Code::CacheIdInvalid).collect())
    }

    /// Returns what is odd about a node, of which `path` is a part.
    fn about(&self, node: &Node, path: &str) -> Option<&'s str> {
        let is_of_it = |finding: &&&Finding| match (&finding.object.thing, node) {
            (Thing::Layer(odd), Node::Layer(chain)) => odd == chain,
            // What has no identity, of what dockerd was removing or writing, is told by where it lies.
            _ => finding.object.place() == Some(path),
        };
        self.0.iter().find(is_of_it).map(|finding| finding.evidence.as_str())
    }
}

fn look_at(
    candidate: &Candidate,
    candidates: &Candidates<'_>,
    survey: &Survey,
    odd: &OddEntries<'_>,
) -> Result<(), KeptWhy> {
    for (step, path) in &candidate.paths {
        if let Some(reason) = survey.failed.get(path) {
            return Err(KeptWhy::Odd(reason.clone()));
        }
        if let Some(evidence) = odd.about(candidates.graph.node(candidate.id), path) {
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
    match (step, candidate.kind) {
        (Step::Link, _) | (_, GcKind::DanglingLinks) => Kind::Symlink,
        (Step::Image, _) if places::name_in(places::IMAGES, path).is_some() => Kind::File,
        (_, GcKind::TempFiles) => Kind::File,
        (Step::Directory, _) => candidates.driver.kind_at(path),
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
