//! Reads `buildkit/`, where BuildKit within dockerd says what it keeps in the graph driver (18.06+).
//!
//! | file | bucket | says |
//! |---|---|---|
//! | `snapshots.db` | `<snapshot key>/` | `parent`: key of the snapshot below, or empty; `committed`: the directory this key is a name for; `chainid`: the layer that the snapshot is too; `iscommitted` [moby builder-next/adapters/snapshot/snapshot.go] |
//! | `containerdmeta.db`, 20.10+ | `v1/<namespace>/leases/<lease>/snapshots/<snapshotter>/<snapshot key>` | a lease keeps a snapshot [leasemanager.go] |
//! | `metadata_v2.db` (to 19.03 `metadata.db`) | `_main/<record>/` | `cache.snapshot`: the record's snapshot key, where that is not its own name; `cache.equalMutable`: a record that shares it; `cache.description`; each as `{"value":…}` [bk cache/metadata.go] |
//!
//! A key is `sha256:<chain ID>` of an image layer, or the 25 base-36 characters of a snapshot, whose directory of the
//! graph driver has that name, or the one that `committed` says. A snapshot that became an image layer has a `chainid`, and that layer's
//! `cache-id` is its directory. `parent` stands with the directory's name, not with the name that was committed.
//!
//! What leases and records name, and the parents of that, is in use. What only `snapshots.db` names was leaked by
//! BuildKit, and a `chainid` there keeps no layer: both stay for ever after a prune. To 19.03 there are no leases, and every
//! snapshot counts as in use.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Deserialize;

use super::bolt::{self, Bolt, BoltError, Bucket, Item};
use super::{BuildRecord, Unknown};
use crate::error::FsError;
use crate::finding::Code;
use crate::fsx::Dir;
use crate::id::{CacheId, ChainId};
use crate::notes::{Notes, below};

/// Bytes that name a snapshot, a record or a lease.
type Key = Vec<u8>;

/// What the databases say, before it is resolved.
#[derive(Debug, Default)]
pub(super) struct BuildKit {
    snapshots: BTreeMap<Key, Snapshot>,
    /// Names of directories that a key was committed for.
    names: HashSet<Key>,
    /// Keys that leases and records keep, and what BuildKit says they are.
    kept: BTreeMap<Key, String>,
    /// Those that count as kept only because nobody says which are.
    supposed: HashSet<Key>,
}

/// A bucket of `snapshots.db`.
#[derive(Debug, Default)]
struct Snapshot {
    parent: Option<Key>,
    committed: Option<Key>,
    chain: Option<ChainId>,
}

/// Reads the databases of the data root.
pub(super) fn read(root: &Dir) -> (BuildKit, Notes) {
    let mut notes = Notes::default();
    let at = "buildkit";
    let Some(dir) = notes.open(root, at, at, Unknown::BuildKit) else { return (BuildKit::default(), notes) };
    let snapshots = read_file(&dir, "snapshots.db", &mut notes, parse_snapshots);
    let leases = read_file(&dir, "containerdmeta.db", &mut notes, parse_leases);
    let records = match read_file(&dir, "metadata_v2.db", &mut notes, parse_records) {
        None => read_file(&dir, "metadata.db", &mut notes, parse_records),
        records => records,
    };
    let mut kept = records.unwrap_or_default();
    // To 19.03, or where the file was lost, nobody says what is not in use.
    let all = snapshots.iter().flatten().map(|(key, _)| key).filter(|_| leases.is_none());
    let supposed: HashSet<Key> = all.filter(|key| !kept.contains_key(*key)).cloned().collect();
    for key in leases.iter().flatten().chain(&supposed) {
        kept.entry(key.clone()).or_default();
    }
    let names_a_directory = |key: &Key| layer_of(key).is_none();
    let told = kept.keys().filter(|key| names_a_directory(key)).count();
    if snapshots.is_none() && notes.unreadable.is_empty() && told > 0 {
        let state = if matches!(dir.find("snapshots.db"), Ok(None)) { "missing" } else { "empty" };
        // dockerd makes it anew without a word, and fails where a build has its result from the cache (20.10.24 and 28.5.2,
        // tried).
        let reason = format!(
            "{state}, and it says which directories are the {told} snapshots of the build cache: builds that find their \
             result there fail, until docker builder prune -af forgets them"
        );
        notes.lost(Unknown::BuildKit, Code::BuildCacheLost, below(at, "snapshots.db"), reason);
    }
    let snapshots = snapshots.unwrap_or_default();
    let names = snapshots.values().filter_map(|snapshot| snapshot.committed.clone()).collect();
    (BuildKit { snapshots, names, kept, supposed }, notes)
}

/// Reads one database; `None` where it is missing, empty or unreadable.
fn read_file<T: Default>(
    dir: &Dir,
    name: &str,
    notes: &mut Notes,
    parse: impl Fn(&Bolt<'_, crate::fsx::File>) -> Result<T, BoltError>,
) -> Option<T> {
    let path = below("buildkit", name);
    let parsed = match FsError::found(dir.file(name)) {
        Ok(None) => return None,
        Ok(Some(file)) if file.metadata().is_ok_and(|attrs| attrs.len() == 0) => return None,
        Ok(Some(file)) => bolt::read(&file, parse).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    // Where the leases cannot be read the rest of what is known still helps to say what a directory is.
    parsed.inspect_err(|reason| notes.unreadable(Unknown::BuildKit, &path, reason)).ok()
}

fn parse_snapshots<S: bolt::Source + ?Sized>(bolt: &Bolt<'_, S>) -> Result<BTreeMap<Key, Snapshot>, BoltError> {
    let mut snapshots = BTreeMap::new();
    for (name, item) in bolt.entries(&bolt.root())? {
        let Item::Bucket(bucket) = item else { continue };
        let mut snapshot = Snapshot::default();
        for (key, item) in bolt.entries(&bucket)? {
            let Item::Value(value) = item else { continue };
            match key.as_slice() {
                b"parent" if !value.is_empty() => snapshot.parent = Some(value),
                b"committed" if !value.is_empty() => snapshot.committed = Some(value),
                b"chainid" if !value.is_empty() => {
                    let chain = layer_of(&value);
                    snapshot.chain = Some(chain.ok_or_else(|| invalid("chainid", &value))?);
                }
                _ => {}
            }
        }
        snapshots.insert(name, snapshot);
    }
    Ok(snapshots)
}

fn parse_leases<S: bolt::Source + ?Sized>(bolt: &Bolt<'_, S>) -> Result<BTreeSet<Key>, BoltError> {
    let mut keys = BTreeSet::new();
    let Some(version) = bolt.find(&[b"v1"])? else { return Ok(keys) };
    for (_, namespace) in inner(bolt, &version)? {
        for (_, leases) in inner(bolt, &namespace)?.into_iter().filter(|(name, _)| name == b"leases") {
            for (_, lease) in inner(bolt, &leases)? {
                for (_, snapshots) in inner(bolt, &lease)?.into_iter().filter(|(name, _)| name == b"snapshots") {
                    for (_, snapshotter) in inner(bolt, &snapshots)? {
                        keys.extend(bolt.entries(&snapshotter)?.into_iter().map(|(key, _)| key));
                    }
                }
            }
        }
    }
    Ok(keys)
}

/// Returns the buckets in a bucket.
fn inner<S: bolt::Source + ?Sized>(bolt: &Bolt<'_, S>, bucket: &Bucket) -> Result<Vec<(Key, Bucket)>, BoltError> {
    let entries = bolt.entries(bucket)?.into_iter();
    Ok(entries
        .filter_map(|(key, item)| if let Item::Bucket(bucket) = item { Some((key, bucket)) } else { None })
        .collect())
}

/// A value of a record.
#[derive(Deserialize)]
struct Field {
    value: String,
}

/// Returns the snapshots of all records, and what the records say of themselves.
fn parse_records<S: bolt::Source + ?Sized>(bolt: &Bolt<'_, S>) -> Result<BTreeMap<Key, String>, BoltError> {
    let mut snapshots = BTreeMap::new();
    let Some(main) = bolt.find(&[b"_main"])? else { return Ok(snapshots) };
    for (record, bucket) in inner(bolt, &main)? {
        let mut names = vec![record];
        let mut description = String::new();
        for (key, item) in bolt.entries(&bucket)? {
            let Item::Value(value) = item else { continue };
            match key.as_slice() {
                b"cache.snapshot" | b"cache.equalMutable" => names.push(parse_field(&value)?.into_bytes()),
                b"cache.description" => description = parse_field(&value)?,
                _ => {}
            }
        }
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let known: &mut String = snapshots.entry(name).or_default();
            if known.is_empty() {
                known.clone_from(&description);
            }
        }
    }
    Ok(snapshots)
}

/// Parses a value of a record: text, or nothing where it was cleared.
fn parse_field(value: &[u8]) -> Result<String, BoltError> {
    if value.is_empty() {
        return Ok(String::new());
    }
    let field: Field = serde_json::from_slice(value).map_err(|_| invalid("a record's value", value))?;
    Ok(field.value)
}

fn invalid(what: &str, value: &[u8]) -> BoltError {
    BoltError::Value(crate::error::ParseError::new(what, value).to_string())
}

/// Returns the layer that a key names.
fn layer_of(key: &[u8]) -> Option<ChainId> {
    ChainId::from_hex(key.strip_prefix(b"sha256:")?).ok()
}

/// What other readers know of directories and layers.
struct Known<'s> {
    snapshot: &'s super::Snapshot,
    /// Directories of layers.
    of_layers: HashSet<&'s CacheId>,
    /// Directories of mounts.
    of_mounts: HashSet<&'s CacheId>,
}

impl<'s> Known<'s> {
    fn new(snapshot: &'s super::Snapshot) -> Self {
        let mounts = snapshot.mounts.values();
        Self {
            snapshot,
            of_layers: snapshot.layers.values().map(|layer| &layer.cache_id).collect(),
            of_mounts: mounts.flat_map(|mount| [&mount.mount_id, &mount.init_id]).flatten().collect(),
        }
    }

    fn is_dir(&self, id: &CacheId) -> bool {
        self.snapshot.driver_dirs.contains_key(id)
    }

    fn is_layer(&self, chain: &ChainId) -> bool {
        self.snapshot.layers.contains_key(chain)
    }
}

impl BuildKit {
    /// Resolves every key that is in use to layers and directories, and finds directories that were leaked.
    pub(super) fn records(&self, snapshot: &super::Snapshot) -> BTreeMap<String, BuildRecord> {
        let known = Known::new(snapshot);
        let mut records = BTreeMap::new();
        let mut reached = HashSet::new();
        for (key, description) in &self.kept {
            let mut record = self.follow(key, &known, &mut reached);
            record.description.clone_from(description);
            if self.supposed.contains(key) {
                // It may be what a removal has left.
                record.lost.clear();
            }
            if !(record.layers.is_empty() && record.dirs.is_empty() && record.lost.is_empty()) {
                records.insert(text(key), record);
            }
        }
        for (key, snapshot) in &self.snapshots {
            let name = snapshot.committed.as_ref().unwrap_or(key);
            let Ok(id) = CacheId::parse(name) else { continue };
            let is_used = reached.contains(name) || known.of_layers.contains(&id) || known.of_mounts.contains(&id);
            // Two buckets are there for one directory: its own, and that of the name it was committed under.
            let is_named = snapshot.committed.is_none() && self.names.contains(key);
            if !is_used && !is_named && known.is_dir(&id) {
                records.insert(text(key), BuildRecord { dirs: vec![id], ..BuildRecord::default() });
            }
        }
        records
    }

    /// Collects what `key` and its parents are, and adds their directories' names to `reached`.
    fn follow<'k>(&'k self, key: &'k Key, known: &Known<'_>, reached: &mut HashSet<&'k Key>) -> BuildRecord {
        let mut record = BuildRecord { owned: true, ..BuildRecord::default() };
        let mut seen = HashSet::new();
        let mut next = Some(key);
        // A snapshot that is its own ancestor ends the walk.
        while let Some(key) = next.filter(|key| seen.insert(*key)) {
            let snapshot = self.snapshots.get(key);
            let committed = snapshot.and_then(|snapshot| snapshot.committed.as_ref());
            let name = committed.unwrap_or(key);
            let own = self.snapshots.get(name);
            reached.insert(name);
            let chain = layer_of(key).or(snapshot.and_then(|s| s.chain)).or(own.and_then(|s| s.chain));
            if let Some(chain) = chain
                && !record.layers.iter().any(|above| known.is_layer(above))
            {
                record.layers.push(chain);
            }
            if let Ok(id) = CacheId::parse(name) {
                // A record that shares its snapshot has no directory of its own; one that was committed must have one.
                let is_there = known.is_dir(&id) || (committed.is_some() && chain.is_none());
                // BuildKit makes the directory before the bucket.
                if !known.is_dir(&id) && own.or(snapshot).is_some() && chain.is_none() {
                    record.lost.push(id.clone());
                }
                if is_there && !known.of_layers.contains(&id) {
                    record.dirs.push(id);
                }
            }
            next = snapshot.and_then(|s| s.parent.as_ref()).or(own.and_then(|s| s.parent.as_ref()));
        }
        record
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

#[cfg(test)]
mod tests;
