//! Reads `image/<driver>/layerdb/mounts/`, the writable layers.
//!
//! | path below `layerdb/mounts/<name>/` | content [moby layer/filestore.go `SetMountID` …] |
//! |---|---|
//! | `mount-id` | driver directory of the writable layer |
//! | `init-id` | `<mount-id>-init`; absent when there is no init layer (BuildKit, image mounts) |
//! | `parent` | `sha256:<hex>`, chain ID of the topmost image layer; absent for an image without layers |
//!
//! The name is the ID of a container; a random one of the classic builder; the digest of an image mount (28.0+); or 25
//! base-36 characters of BuildKit's. The files are written in place, in no safe order. dockerd loads every entry with a
//! good `mount-id` and `parent` whether a container has it or not, and each pins its layers.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::layerdb::parse_digest;
use super::notes::{Notes, below};
use super::{Mount, Unknown};
use crate::finding::Finding;
use crate::fsx::{Dir, Entry, Kind};
use crate::id::{CacheId, ContainerId};

/// Writable layers by name.
type Mounts = BTreeMap<ContainerId, Mount>;

/// Reads the mounts below `image`, which is `image/<driver>` at the path `at` below the data root.
pub(super) fn read(image: &Dir, at: &str) -> (Mounts, Notes) {
    let at = below(at, "layerdb/mounts");
    let mut mounts = Mounts::new();
    let mut notes = Notes::default();
    let Some(dir) = notes.open(image, "layerdb/mounts", &at, Unknown::Mounts) else { return (mounts, notes) };
    let entries = notes.list(&dir, &at, Unknown::Mounts);
    let read: Vec<_> = entries.par_iter().map(|entry| read_mount(&dir, &at, entry)).collect();
    for (mount, more) in read {
        mounts.extend(mount);
        notes.append(more);
    }
    (mounts, notes)
}

fn read_mount(dir: &Dir, at: &str, entry: &Entry) -> (Option<(ContainerId, Mount)>, Notes) {
    let mut notes = Notes::default();
    let name = match ContainerId::parse(&entry.name) {
        Ok(name) if entry.kind == Kind::Directory => name,
        _ => {
            notes.unexpected(at, &entry.name, "expected a directory with the name of a writable layer");
            return (None, notes);
        }
    };
    let at = below(at, &name);
    let Some(dir) = notes.open_entry(dir, entry, &at, Unknown::Mounts) else { return (None, notes) };
    let mut bad = Vec::new();
    let mut field = |file: &str| notes.line(&dir, file, &at, Unknown::Mounts);
    let (mount_id, init_id, parent) = (field("mount-id"), field("init-id"), field("parent"));
    let mut cache_id = |file: &str, text: Option<Vec<u8>>| {
        let parsed = text.map(|text| CacheId::parse(text.trim_ascii()))?;
        parsed.inspect_err(|error| bad.push(format!("{file}: {error}"))).ok()
    };
    let mut mount =
        Mount { mount_id: cache_id("mount-id", mount_id), init_id: cache_id("init-id", init_id), parent: None };
    if let Some(text) = parent {
        mount.parent = parse_digest(&text).inspect_err(|error| bad.push(format!("parent: {error}"))).ok();
    }
    if mount.mount_id.is_none() && bad.is_empty() {
        bad.push("mount-id is missing".to_owned());
    }
    if !bad.is_empty() {
        notes.findings.push(Finding::damage("mount-not-loadable", &at, bad.join("; ")));
    }
    (Some((name, mount)), notes)
}
