//! Reads `image/<driver>/layerdb/mounts/`, the writable layers.
//!
//! | path below `layerdb/mounts/<name>/` | content [moby layer/filestore.go `SetMountID` …] |
//! |---|---|
//! | `mount-id` | driver directory of the writable layer |
//! | `init-id` | `<mount-id>-init`; absent when there is no init layer (BuildKit, image mounts) |
//! | `parent` | `sha256:<hex>`, chain ID of the topmost image layer; absent for an image without layers |
//!
//! The name is the ID of a container; a random one of the classic builder; 25 base-36 characters of BuildKit's; or that
//! of an image mount (28.0+). In 28 that is `<container>-<reference>` as the user wrote it, so `foo/bar:1` makes a
//! directory in a directory: after its next start dockerd does not find it any more, cannot remove it with the
//! container, and never takes its directories away. Later it is the digest of `<container>-src=…-dst=…`.
//!
//! The files are written in place, in no safe order. dockerd loads every entry with a good `mount-id` and `parent`,
//! whether a container has it or not, and each pins its layers.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::layerdb::parse_digest;
use super::places;
use super::{Mount, StrayKind, Unknown};
use crate::finding::{Code, Finding, Object, Thing};
use crate::fsx::{Dir, Entry, Kind};
use crate::id::{CacheId, ContainerId};
use crate::notes::{Notes, below};

/// Writable layers by name.
type Mounts = BTreeMap<ContainerId, Mount>;

/// A mount of which nothing can be read.
const NOTHING_KNOWN: Mount = Mount { mount_id: None, init_id: None, parent: None };

/// How many directories an image mount may lie deep; a reference has at most 127 components.
const DEPTH_LIMIT: u32 = 128;

/// Reads the mounts below `image`, which is `image/<driver>` at the path `at` below the data root.
pub(super) fn read(image: &Dir, at: &str) -> (Mounts, Notes) {
    let at = below(at, places::MOUNTS);
    let mut mounts = Mounts::new();
    let mut notes = Notes::default();
    let Some(dir) = notes.open(image, places::MOUNTS, &at, Unknown::Mounts) else { return (mounts, notes) };
    let entries = notes.list(&dir, &at, Unknown::Mounts);
    let read: Vec<_> = entries.par_iter().map(|entry| read_mount(&dir, &at, entry, DEPTH_LIMIT)).collect();
    for (mount, more) in read {
        mounts.extend(mount);
        notes.append(more);
    }
    (mounts, notes)
}

/// Reads the mount at `name` below `mounts`, and those in it.
fn read_mount(mounts: &Dir, at: &str, entry: &Entry, depth: u32) -> (Mounts, Notes) {
    let mut notes = Notes::default();
    let name = match ContainerId::parse(&entry.name) {
        Ok(name) if entry.kind == Kind::Directory => name,
        _ => {
            notes.unexpected(at, &entry.name, "expected a directory with the name of a writable layer");
            return (Mounts::new(), notes);
        }
    };
    let path = below(at, &name);
    let Some(dir) = notes.open_entry(mounts, entry, &path, Unknown::Mounts) else {
        // It is there, whatever it says.
        let is_there = !notes.unreadable.is_empty();
        return (is_there.then_some((name, NOTHING_KNOWN)).into_iter().collect(), notes);
    };
    let mount = read_fields(&dir, &name, &path, &mut notes);
    let mut found = Mounts::new();
    if mount.is_none() || name.as_str().contains('-') {
        let entries = notes.list_one(&dir, &Object::at(Thing::Mount(name.clone()), &path), Unknown::Mounts);
        if entries.is_empty() && notes.unreadable.is_empty() {
            notes.stray(StrayKind::EmptyMount, at, &entry.name, None);
            return (found, notes);
        }
        for inner in entries.into_iter().filter(|inner| inner.kind == Kind::Directory) {
            if depth == 0 {
                notes.unreadable(Unknown::Mounts, &path, "too many directories in each other");
                break;
            }
            let name = [entry.name.as_slice(), b"/", &inner.name].concat();
            let (more, more_notes) = read_mount(mounts, at, &Entry { name, ..inner }, depth - 1);
            found.extend(more);
            notes.append(more_notes);
        }
    }
    match mount {
        None if !found.is_empty() => {}
        mount => {
            let mount = mount.unwrap_or_else(|| {
                if notes.unreadable.is_empty() {
                    let object = Object::at(Thing::Mount(name.clone()), &path);
                    notes.findings.push(Finding::new(Code::MountNotLoadable, object, "mount-id is missing"));
                }
                NOTHING_KNOWN
            });
            found.insert(name, mount);
        }
    }
    (found, notes)
}

/// Reads the files of a mount; `None` where none of them is there.
fn read_fields(dir: &Dir, name: &ContainerId, at: &str, notes: &mut Notes) -> Option<Mount> {
    let [mount_id, init_id, parent] =
        ["mount-id", "init-id", "parent"].map(|file| notes.line(dir, file, at, Unknown::Mounts));
    if [&mount_id, &init_id, &parent].into_iter().all(|text| matches!(text, Ok(None))) {
        return None;
    }
    let mut bad = Vec::new();
    if matches!(mount_id, Ok(None)) {
        bad.push("mount-id is missing".to_owned());
    }
    // What cannot be read is a finding already.
    let mut cache_id = |file: &str, text: Result<Option<Vec<u8>>, String>| {
        let parsed = CacheId::parse(text.ok()??.trim_ascii());
        parsed.inspect_err(|error| bad.push(format!("{file}: {error}"))).ok()
    };
    let (mount_id, init_id) = (cache_id("mount-id", mount_id), cache_id("init-id", init_id));
    let parent = parent.ok().flatten().map(|text| parse_digest(&text));
    let parent = parent.and_then(|parsed| parsed.inspect_err(|error| bad.push(format!("parent: {error}"))).ok());
    if !bad.is_empty() {
        let object = Object::at(Thing::Mount(name.clone()), at);
        notes.findings.push(Finding::new(Code::MountNotLoadable, object, bad.join("; ")));
    }
    Some(Mount { mount_id, init_id, parent })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: &str = "sha256:1da0e48557625a4d36d61f73e19171eafed4d7f983fb0f733598abdb67a05ebf";

    #[test]
    fn mounts_within_mounts_and_empty_ones() {
        let temp = tempfile::tempdir().expect("a temp directory");
        let mounts = temp.path().join("layerdb/mounts");
        for (name, file, text) in [
            ("c0ffee", "mount-id", "aa"),
            ("c0ffee", "init-id", "aa-init"),
            ("c0ffee", "parent", CHAIN),
            ("c0ffee-foo", "mount-id", "bb"),
            ("c0ffee-foo/bar/baz:1", "mount-id", "cc"),
            ("half", "parent", CHAIN),
            ("bad", "mount-id", "../x"),
        ] {
            std::fs::create_dir_all(mounts.join(name)).expect("directories");
            std::fs::write(mounts.join(name).join(file), text).expect("a file");
        }
        std::fs::create_dir(mounts.join("c0ffee-old")).expect("a directory");
        let (found, notes) = read(&Dir::open_root(temp.path()).expect("opens"), "image/x");
        let ids: Vec<_> = found.iter().map(|(n, m)| (n.as_str(), m.mount_id.as_ref().map(CacheId::as_str))).collect();
        assert_eq!(
            ids,
            [
                ("bad", None),
                ("c0ffee", Some("aa")),
                ("c0ffee-foo", Some("bb")),
                ("c0ffee-foo/bar/baz:1", Some("cc")),
                ("half", None)
            ]
        );
        assert_eq!(notes.findings.iter().map(|f| f.code).collect::<Vec<_>>(), [Code::MountNotLoadable; 2]);
        assert_eq!(notes.strays.len(), 1);
        assert_eq!(notes.strays[0].path, "image/x/layerdb/mounts/c0ffee-old");
    }
}
