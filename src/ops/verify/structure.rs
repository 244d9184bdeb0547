//! What can be told without reading a file of a layer: how references, images, layers, directories, mounts and
//! containers are tied together.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::driver::DriverDir;
use crate::driver::check::{Checker, Implied};
use crate::error::{FsError, Result};
use crate::finding::{Code, Finding, Object, Severity, Thing};
use crate::graph::{Edge, Graph, Node, State};
use crate::id::{BlobDigest, CacheId, ChainId, ContainerId, DiffId};
use crate::ops::mounts;
use crate::store::{Layer, Mount, Snapshot, Store, Unknown, containers, databases, places};

use super::{codes, consequences};

/// First bytes of a gzip stream.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Finds what is wrong with how things are tied together. Findings that only follow from others are left out.
///
/// # Errors
/// The process has no file descriptor or no memory left.
pub(super) fn check(store: &Store, snapshot: &Snapshot, graph: &Graph) -> Result<Vec<Finding>> {
    let mut findings: Vec<Finding> = snapshot.findings.iter().chain(graph.findings()).cloned().collect();
    references(store, snapshot, &mut findings);
    empty_references(store, snapshot, &mut findings);
    layers(graph, &mut findings);
    shared_directories(store, snapshot, &mut findings);
    distribution(store, snapshot, &mut findings);
    let (tar_splits, directories) = rayon::join(|| tar_splits(store, snapshot), || directories(store, snapshot));
    findings.extend(tar_splits);
    findings.extend(directories);
    short_names(store, snapshot, &mut findings);
    wrong_cache_ids(store, snapshot, &mut findings);
    findings.extend(build_cache(snapshot));
    mount_entries(snapshot, graph, &mut findings);
    findings.extend(databases::check(store.root())?);
    findings.extend(containers::host_configs(store.root(), snapshot)?);
    consequences::leave_out(snapshot, graph, &mut findings);
    for finding in findings.iter_mut().filter(|finding| finding.code == Code::BuildkitUnreadable) {
        finding.evidence = format!("{}; {}", finding.evidence, databases::cure(&finding.object.to_string()));
    }
    findings.iter_mut().for_each(codes::weigh);
    findings.sort();
    findings.dedup();
    Ok(findings)
}

/// Tells short names that lead elsewhere, and directories that say another's, from those that are gone.
fn short_names(store: &Store, snapshot: &Snapshot, findings: &mut [Finding]) {
    let Some(Ok(links)) = store.home().map(|home| home.dir("l")) else { return };
    for finding in findings.iter_mut().filter(|finding| finding.code == Code::DriverShortNameLost) {
        let dir = finding.object.directory().and_then(|id| snapshot.driver_dirs.get(id));
        let Some(link) = dir.and_then(|dir| dir.link.as_ref()) else { continue };
        let has_it = |dir: &DriverDir| dir.link.as_ref() == Some(link) && dir.names.contains(link);
        if let Some((id, _)) = snapshot.driver_dirs.iter().find(|(_, dir)| has_it(dir)) {
            finding.code = Code::DriverLinkWrong;
            finding.evidence = format!("link says {link}, the short name of {id}");
        } else if matches!(links.find(link.as_str()), Ok(Some(_))) {
            finding.code = Code::DriverShortNameWrong;
        }
    }
}

/// Tells layers whose `cache-id` is wrong from those whose directory is gone: all that is made on them is stacked on a
/// directory that is there, and that no layer names.
fn wrong_cache_ids(store: &Store, snapshot: &Snapshot, findings: &mut [Finding]) {
    if store.driver().keeps_whole_trees() {
        return;
    }
    let named: BTreeSet<&CacheId> = snapshot.layers.values().map(|layer| &layer.cache_id).collect();
    for finding in findings.iter_mut().filter(|finding| finding.code == Code::LayerDirectoryMissing) {
        let Thing::Layer(chain) = &finding.object.thing else { continue };
        let layers = snapshot.layers.values().filter(|layer| layer.parent == Some(*chain)).map(|layer| &layer.cache_id);
        let mounts = snapshot.mounts.values().filter(|mount| mount.parent == Some(*chain));
        let made = layers.chain(mounts.filter_map(|mount| mount.init_id.as_ref()));
        let made: Vec<&DriverDir> = made.filter_map(|id| snapshot.driver_dirs.get(id)).collect();
        let below: BTreeSet<Option<&CacheId>> =
            made.iter().map(|dir| dir.lower.first().filter(|_| dir.lost.is_empty())).collect();
        if let [Some(id)] = below.into_iter().collect::<Vec<_>>()[..]
            && !named.contains(id)
        {
            finding.code = Code::LayerCacheIdWrong;
            finding.evidence = format!("cache-id names no directory, and what is above is stacked on {id}");
        }
    }
}

/// Tells a file of references that is lost from one that was never written.
fn references(store: &Store, snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let Some(image) = store.image() else { return };
    let is_missing = matches!(image.find(places::REFERENCES), Ok(None));
    if !is_missing || snapshot.images.is_empty() {
        return;
    }
    findings.retain(|finding| finding.code != Code::ReferencesEmpty);
    let subject = places::in_root(store.driver().name(), places::REFERENCES);
    let was_tagged = snapshot.images.values().any(|image| image.last_updated.is_some());
    let was_pulled = !snapshot.distribution.diff_id_by_digest.is_empty();
    let evidence = format!("the file is missing, and there are {} images", snapshot.images.len());
    let severity = if was_tagged || was_pulled { Severity::Damage } else { Severity::Warning };
    findings.push(Finding::new(Code::ReferencesMissing, subject, evidence).as_bad_as(severity));
}

/// Tells a file of references that has lost all of them from one of which all were taken away, as far as containers say.
fn empty_references(store: &Store, snapshot: &Snapshot, findings: &mut [Finding]) {
    if findings.iter().any(|finding| finding.code == Code::ReferenceInvalid) {
        return;
    }
    let Some(empty) = findings.iter_mut().find(|finding| finding.code == Code::ReferencesEmpty) else { return };
    let names = containers::names_of_images(store.root(), snapshot);
    if let Some(first) = names.first() {
        let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
        empty.evidence = format!("{}; containers were made by {first}{more}: repair gives names back", empty.evidence);
        empty.severity = Severity::Warning;
    }
}

/// Names each layer that is missing, once: not by every image that needs it.
fn layers(graph: &Graph, findings: &mut Vec<Finding>) {
    findings.retain(|finding| !matches!(finding.code, Code::ImageLayerMissing | Code::MountLayerMissing));
    for id in graph.ids() {
        let Node::Layer(chain) = graph.node(id) else { continue };
        let is_lowest = graph.follow(id, Edge::ParentLayer).is_none_or(|parent| graph.is_present(parent));
        if *graph.state(id) == State::Missing && is_lowest {
            let named_by: Vec<&str> = graph.to(id).into_iter().map(|(_, from)| graph.node(from).kind()).collect();
            let kinds: BTreeSet<&str> = named_by.iter().copied().collect();
            let kinds: Vec<&str> = kinds.into_iter().collect();
            let evidence = format!("there is no such entry in layerdb, and it is named by: {}", kinds.join(", "));
            findings.push(Finding::new(Code::LayerMissing, *chain, evidence));
        }
    }
}

/// Names a directory that several layers have, once for all of them.
fn shared_directories(store: &Store, snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    findings.retain(|finding| finding.code != Code::LayerCacheIdShared);
    let mut users: BTreeMap<&CacheId, Vec<ChainId>> = BTreeMap::new();
    for (chain, layer) in &snapshot.layers {
        users.entry(&layer.cache_id).or_default().push(*chain);
    }
    for (id, chains) in users.iter().filter(|(_, chains)| chains.len() > 1) {
        let mut chains: Vec<&ChainId> = chains.iter().collect();
        chains.sort_by_key(|chain| stack(snapshot, Some(**chain)).len());
        let chains: Vec<String> = chains.into_iter().map(ToString::to_string).collect();
        let evidence = format!("it is the directory of layers {}", chains.join(" and "));
        findings.push(Finding::new(Code::LayerCacheIdShared, directory(store, id), evidence));
    }
}

/// The directory of the driver as the object of a finding.
fn directory(store: &Store, id: &CacheId) -> Object {
    Object::at(Thing::Directory(id.clone()), store.driver().path_of(id))
}

/// Finds the records of blobs that contradict each other. A blob has one content, so all but one of them are wrong, and nothing
/// says which is right.
fn distribution(store: &Store, snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Source {
        digest: Option<BlobDigest>,
    }
    let maps = &snapshot.distribution;
    let path = |path: String| places::in_root(store.driver().name(), path);
    // By blob: the content that each record gives it.
    let mut said: BTreeMap<BlobDigest, Vec<(DiffId, String)>> = BTreeMap::new();
    for (blob, diff) in &maps.diff_id_by_digest {
        let file = path(format!("{}/{}", places::DIFF_ID_BY_DIGEST, blob.hex()));
        said.entry(*blob).or_default().push((*diff, file));
    }
    for (diff, text) in &maps.v2_metadata_by_diff_id {
        let file = path(format!("{}/{}", places::V2_METADATA_BY_DIFF_ID, diff.hex()));
        let sources = serde_json::from_str::<Vec<Source>>(text).unwrap_or_default();
        for blob in sources.into_iter().filter_map(|source| source.digest) {
            said.entry(blob).or_default().push((*diff, file.clone()));
        }
    }
    for (blob, records) in &said {
        for (diff, file) in records {
            if let Some((other, _)) = records.iter().find(|(other, _)| other != diff) {
                let evidence = format!("it has blob {blob} as {diff}, and another record has the blob as {other}");
                findings.push(Finding::new(Code::DistributionMismatch, file.as_str(), evidence));
            }
        }
    }
}

/// Names the entries of writable layers that are not what containers and directories say.
fn mount_entries(snapshot: &Snapshot, graph: &Graph, findings: &mut Vec<Finding>) {
    let not_loadable = findings.iter().filter(|found| found.code == Code::MountNotLoadable);
    let not_loadable: BTreeSet<ContainerId> = not_loadable
        .filter_map(|found| match &found.object.thing {
            Thing::Mount(name) => Some(name.clone()),
            _ => None,
        })
        .collect();
    for (name, mount) in &snapshot.mounts {
        let must = mounts::corrected(snapshot, name, mount);
        let path = places::in_root(&snapshot.driver, places::mount(name));
        let Some(evidence) = mounts::mismatch(mount, &must).filter(|_| !not_loadable.contains(name)) else { continue };
        let (severity, means) = mount_meaning(mount, &must);
        if mount.mount_id != must.mount_id {
            // That the directory is missing is found already.
            continue;
        }
        let code = match lost_layer(graph, mount.parent.filter(|_| mount.parent != must.parent)) {
            Some(layer) => {
                let layer = Thing::Layer(layer);
                // Nothing lacks the layer: the name is wrong.
                findings.retain(|found| found.code != Code::LayerMissing || found.object.thing != layer);
                Code::MountLayerMissing
            }
            None => Code::MountMismatch,
        };
        let object = Object::at(Thing::Mount(name.clone()), path);
        findings.push(match code {
            Code::MountMismatch => {
                Finding::new(code, object.clone(), format!("{evidence}: {means}")).as_bad_as(severity)
            }
            code => Finding::new(code, object.clone(), evidence),
        });
        if mount.init_id != must.init_id {
            findings.retain(|found| found.code != Code::MountDirectoryMissing || found.object.thing != object.thing);
        }
    }
}

/// Says how bad it is that the entry of a writable layer says something else than it must, and what dockerd does then: it
/// mounts what `lower` says, and looks at the entry for all else (28.5.2, tried).
fn mount_meaning(mount: &Mount, must: &Mount) -> (Severity, String) {
    let mut means = Vec::new();
    if mount.parent != must.parent {
        means.push("docker rmi -f of its image takes the layers that it stands on");
    }
    let severity = match &mount.init_id {
        init if *init == must.init_id => Severity::Warning,
        None => {
            means.push("docker diff shows what Docker put into it, and docker rm leaves a directory behind");
            Severity::Warning
        }
        Some(_) => {
            means.push("docker diff and docker commit fail");
            Severity::Damage
        }
    };
    (severity, format!("the container starts, but {}", means.join(", and ")))
}

/// Returns a layer if it is not there, and only one thing names it.
fn lost_layer(graph: &Graph, layer: Option<ChainId>) -> Option<ChainId> {
    let id = graph.find(&Node::Layer(layer?))?;
    layer.filter(|_| *graph.state(id) == State::Missing && graph.to(id).len() == 1)
}

/// Says, once for all records, that directories of the build cache are gone.
fn build_cache(snapshot: &Snapshot) -> Option<Finding> {
    // Where the home cannot be listed nothing says what is in it.
    if snapshot.unreadable.iter().any(|unreadable| unreadable.what == Unknown::DriverDirs) {
        return None;
    }
    let records = snapshot.build_records.values().filter(|record| record.owned && !record.lost.is_empty());
    let lost: BTreeSet<&CacheId> = records.flat_map(|record| &record.lost).collect();
    let first = lost.first()?;
    let named = match lost.len() {
        1 => format!("its directory {first} is gone"),
        number => format!("{number} of its directories are gone, {first} first"),
    };
    let evidence = format!("{named}: builds that use them fail, until docker builder prune -af forgets them");
    Some(Finding::new(Code::BuildCacheLost, "buildkit", evidence))
}

/// Looks at the first bytes of each tar-split.
fn tar_splits(store: &Store, snapshot: &Snapshot) -> Vec<Finding> {
    let Some(image) = store.image() else { return Vec::new() };
    let look = |chain: &ChainId| {
        use std::io::Read as _;
        let path = places::tar_split(chain);
        let mut start = Vec::new();
        let read = FsError::found(image.file(&path)).and_then(|file| match file {
            Some(file) => (file.take(2).read_to_end(&mut start).map(drop))
                .map_err(|error| FsError::new("read", image.shown(&path), error)),
            None => Ok(()),
        });
        let evidence = match (&read, &start[..]) {
            (Err(error), _) => &error.to_string(),
            (_, []) => "tar-split.json.gz is empty",
            (_, start) if *start != GZIP => "tar-split.json.gz is no gzip",
            _ => return None,
        };
        Some(Finding::new(Code::LayerTarSplitDamaged, *chain, evidence))
    };
    // A failure to read that passes is no damage: nothing is rebuilt for it.
    let check = |chain: &ChainId| look(chain).and_then(|_| look(chain));
    let layers: Vec<&ChainId> =
        snapshot.layers.iter().filter(|(_, layer)| layer.has_tar_split).map(|(chain, _)| chain).collect();
    layers.into_par_iter().filter_map(check).collect()
}

/// Compares each directory of the driver with what layerdb implies of it.
fn directories(store: &Store, snapshot: &Snapshot) -> Vec<Finding> {
    let (Some(home), Some(dirs)) = (store.home(), store.dirs()) else { return Vec::new() };
    let checker = match Checker::new(store.driver(), home, dirs, snapshot.driver_dirs.keys()) {
        Ok(checker) => checker,
        Err(error) => return vec![Finding::new(Code::DriverUnreadable, store.driver().name(), error)],
    };
    let mut findings = checker.home();
    let implied = implied(snapshot);
    let checked: Vec<Finding> = implied
        .par_iter()
        .flat_map_iter(|implied| {
            checker.check(implied).unwrap_or_else(|error| match error.is_not_found() {
                true => Vec::new(),
                false => {
                    vec![Finding::new(Code::DriverUnreadable, directory(store, implied.id), error)]
                }
            })
        })
        .collect();
    findings.extend(checked);
    findings
}

/// Says of each directory that is there what layerdb implies.
fn implied(snapshot: &Snapshot) -> Vec<Implied<'_>> {
    let mut below: BTreeMap<&CacheId, (Vec<&CacheId>, bool)> = BTreeMap::new();
    let mut parents: BTreeSet<&CacheId> = BTreeSet::new();
    let mut stacked: BTreeSet<CacheId> = BTreeSet::new();
    for layer in snapshot.layers.values() {
        let stack = stack(snapshot, layer.parent);
        parents.extend(stack.first());
        below.insert(&layer.cache_id, (stack, true));
    }
    for (name, mount) in &snapshot.mounts {
        let mount = mounts::corrected(snapshot, name, mount);
        // Of a mount whose layer is not there, or is not known, only this is implied: that it stands on its init layer.
        let is_known = match &mount.parent {
            Some(parent) => snapshot.layers.contains_key(parent),
            None => mounts::stands_on_nothing(snapshot, name),
        };
        if !is_known {
            let has_init = mount.init_id.is_some_and(|id| snapshot.driver_dirs.contains_key(&id));
            stacked.extend(mount.mount_id.filter(|_| has_init));
            continue;
        }
        let mut stack = stack(snapshot, mount.parent);
        parents.extend(stack.first());
        let known = |id: Option<CacheId>| snapshot.driver_dirs.get_key_value(&id?).map(|(id, _)| id);
        if let Some(init) = known(mount.init_id) {
            below.insert(init, (stack.clone(), false));
            stack.insert(0, init);
            parents.insert(init);
        }
        if let Some(id) = known(mount.mount_id) {
            below.insert(id, (stack, false));
        }
    }
    snapshot
        .driver_dirs
        .keys()
        .map(|id| {
            let known = below.remove(id);
            let is_layer = known.as_ref().is_some_and(|(_, is_layer)| *is_layer);
            let (is_stacked, has_child) = (stacked.contains(id), parents.contains(id));
            Implied { id, below: known.map(|(below, _)| below), is_stacked, is_layer, has_child }
        })
        .collect()
}

/// Returns the directories of a layer and all below it, nearest first.
pub(super) fn stack(snapshot: &Snapshot, top: Option<ChainId>) -> Vec<&CacheId> {
    let next = |layer: &&Layer| layer.parent.and_then(|parent| snapshot.layers.get(&parent));
    let first = top.and_then(|top| snapshot.layers.get(&top));
    std::iter::successors(first, next).map(|layer| &layer.cache_id).collect()
}
