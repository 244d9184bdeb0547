//! What a store holds, as far as it matters after a fault, read with no code of dockpack's.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// What is at a path, in one number.
type Print = u64;

/// Prints of files that are as they were when they were read: inode, time of its last change, and whether it lies in a
/// tree.
pub(super) type Known = RefCell<HashMap<(u64, i64, i64, bool), Print>>;

/// A store: what is at each path, and what small files that name a directory say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) prints: BTreeMap<String, Print>,
    names: BTreeMap<String, String>,
    /// What is below `.dockpack`.
    pub(super) rest: BTreeMap<String, Print>,
}

impl State {
    /// Reads a store. What a lock is made of is left out.
    ///
    /// With `any_names` it only counts which images have a name: a repair that could not read what a container says of its
    /// image gives it one of its own.
    pub(super) fn read(root: &Path, known: &Known, any_names: bool) -> Self {
        let mut state = Self::default();
        state.add(root, "", known);
        if any_names {
            for (path, print) in state.prints.iter_mut().filter(|(path, _)| path.ends_with("/repositories.json")) {
                *print = named_images(&root.join(path)).unwrap_or(*print);
            }
        }
        state
    }

    /// Notes the files of a new copy of this store as what they are, so that they need not be read.
    pub(super) fn recognise(&self, root: &Path, known: &Known) {
        for entry in walkdir::WalkDir::new(root).into_iter().map(|entry| entry.expect("an entry")) {
            let path = entry.path().strip_prefix(root).expect("below it").as_os_str().as_bytes();
            let path = path.escape_ascii().to_string();
            let metadata = entry.metadata().expect("a node");
            if let Some(print) = self.prints.get(&path).filter(|_| !metadata.is_dir()) {
                known.borrow_mut().insert(key(&metadata, &path), *print);
            }
        }
    }

    fn add(&mut self, at: &Path, path: &str, known: &Known) {
        let entries = fs::read_dir(at).unwrap_or_else(|error| panic!("{}: {error}", at.display()));
        for entry in entries {
            let entry = entry.expect("an entry");
            let name = entry.file_name().as_bytes().escape_ascii().to_string();
            // What a lock is made of, and what a mount has left in `overlay2/<id>/work/work`.
            let is_work = path.starts_with("overlay2/") && path.ends_with("/work/work");
            if path.is_empty() && name == "volumes" || is_work {
                continue;
            }
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            let metadata = entry.metadata().expect("a node");
            if metadata.is_dir() {
                self.add(&entry.path(), &path, known);
            } else if !path.starts_with(".dockpack/")
                && matches!(name.as_str(), "cache-id" | "mount-id" | "init-id" | "link")
            {
                let text = String::from_utf8_lossy(&fs::read(entry.path()).expect("a file")).into_owned();
                self.names.insert(path.clone(), text);
            }
            let key = key(&metadata, &path);
            let cached = known.borrow().get(&key).copied().filter(|_| !metadata.is_dir());
            let print = cached.unwrap_or_else(|| print(&entry.path(), &path, &metadata));
            known.borrow_mut().insert(key, print);
            let is_rest = path == ".dockpack" || path.starts_with(".dockpack/");
            if is_rest { &mut self.rest } else { &mut self.prints }.insert(path, print);
        }
    }

    /// Lists the paths that are here neither as they were nor as they would have become, and those of which one of
    /// the two says that they stay and which are not there.
    pub(super) fn strangers(&self, before: &Self, after: &Self) -> Vec<String> {
        let mut paths: Vec<&String> = self.prints.keys().chain(before.prints.keys()).collect();
        paths.sort();
        paths.dedup();
        let is_strange = |path: &&String| {
            let [now, was, becomes] = [self, before, after].map(|state| state.prints.get(*path));
            now != was && now != becomes && !is_temporary(path)
        };
        let told = |path: &String| {
            let word = if self.prints.contains_key(path) { "changed" } else { "gone" };
            format!("{path} is {word}")
        };
        paths.into_iter().filter(is_strange).map(told).collect()
    }

    /// Lists records whose directory, and directories that stay whose short name, is gone although it was there.
    /// Nothing of Docker's reads what is in `layerdb/tmp`.
    pub(super) fn torn(&self, before: &Self, after: &Self, driver: &str) -> Vec<String> {
        let target = |path: &str, text: &str| match path.ends_with("/link") {
            true => format!("{driver}/l/{text}"),
            false if driver == "vfs" => format!("vfs/dir/{text}"),
            false => format!("{driver}/{text}"),
        };
        let is_torn = |(path, text): &(&String, &String)| {
            let target = target(path, text);
            let is_torn_after = after.prints.contains_key(*path) && !after.prints.contains_key(&target);
            let matters = !is_torn_after
                && !path.contains("/layerdb/tmp/")
                && (!path.ends_with("/link") || after.prints.contains_key(*path));
            matters && !self.prints.contains_key(&target) && before.prints.contains_key(&target)
        };
        self.names.iter().filter(is_torn).map(|(path, text)| format!("{path} says {text}, which is gone")).collect()
    }

    /// Lists the paths at which there is something else in another state.
    fn differing(&self, other: &Self) -> Vec<String> {
        let mut paths: Vec<&String> = self.prints.keys().chain(other.prints.keys()).collect();
        paths.sort();
        paths.dedup();
        paths.into_iter().filter(|path| self.prints.get(*path) != other.prints.get(*path)).cloned().collect()
    }

    /// Lists the topmost of these paths: all that differs is one of them or below one.
    pub(super) fn differing_tops(&self, other: &Self) -> Vec<String> {
        let mut tops: Vec<String> = Vec::new();
        for path in self.differing(other) {
            if !tops.iter().any(|top| path.starts_with(&format!("{top}/"))) {
                tops.push(path);
            }
        }
        tops
    }

    /// Says in what another state differs.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        let words = |path: &String| match (self.prints.contains_key(path), other.prints.contains_key(path)) {
            (true, false) => format!("{path} is missing"),
            (false, true) => format!("{path} is there"),
            _ => format!("{path} is another"),
        };
        let found: Vec<String> = self.differing(other).iter().map(words).collect();
        (!found.is_empty()).then(|| format!("{} deviations: {}", found.len(), found[..found.len().min(5)].join(", ")))
    }
}

fn key(metadata: &Metadata, path: &str) -> (u64, i64, i64, bool) {
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec(), is_in_tree(path))
}

/// Returns a print of which images a file of references names, but for those that others were built from, which are kept with
/// a name and without one; `None` where it is damaged.
fn named_images(file: &Path) -> Option<Print> {
    let names: serde_json::Value = serde_json::from_slice(&fs::read(file).expect("a file")).ok()?;
    let repositories = names["Repositories"].as_object()?.values();
    let images = repositories.filter_map(|references| references.as_object()).flat_map(|names| names.values());
    let metadata = fs::read_dir(file.with_file_name("imagedb/metadata/sha256")).ok()?;
    let parent = |entry: std::io::Result<fs::DirEntry>| fs::read_to_string(entry.ok()?.path().join("parent")).ok();
    let parents: BTreeSet<String> = metadata.filter_map(parent).collect();
    let images: BTreeSet<&str> =
        images.filter_map(|image| image.as_str()).filter(|image| !parents.contains(*image)).collect();
    let mut hasher = DefaultHasher::new();
    images.hash(&mut hasher);
    Some(hasher.finish())
}

/// Tells whether this is a name under which a file is written before it takes its place.
fn is_temporary(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.starts_with(".tmp-") || name.starts_with(".dockpack-")
}

/// Attributes that an overlay gives to what was written through it, and that say nothing of content.
const NOTES: [&[u8]; 3] = [b"trusted.overlay.impure", b"trusted.overlay.origin", b"trusted.overlay.uuid"];

fn print(at: &Path, path: &str, metadata: &Metadata) -> Print {
    let mut hasher = DefaultHasher::new();
    (metadata.mode(), metadata.uid(), metadata.gid(), metadata.rdev()).hash(&mut hasher);
    // Which time a directory has that no tar speaks of is not said, nor when something was removed: a layer that cannot be
    // read comes from the archive then.
    let is_whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
    if is_in_tree(path) && !metadata.is_dir() && !is_whiteout {
        (metadata.mtime(), metadata.mtime_nsec()).hash(&mut hasher);
    }
    if metadata.is_file() {
        use sha2::Digest as _;
        sha2::Sha256::digest(fs::read(at).expect("a file")).as_slice().hash(&mut hasher);
    } else if metadata.is_symlink() {
        fs::read_link(at).expect("a link").hash(&mut hasher);
    }
    let mut names = [0; 4096];
    let length = rustix::fs::llistxattr(at, &mut names[..]).expect("extended attributes");
    let mut names: Vec<&[u8]> = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    // What the kernel notes for itself; a layer that cannot be read comes from the archive without it.
    names.retain(|name| !NOTES.contains(name));
    names.sort_unstable();
    for name in names {
        let mut value = [0; 4096];
        let length = rustix::fs::lgetxattr(at, name, &mut value[..]).expect("an extended attribute");
        (name, &value[..length]).hash(&mut hasher);
    }
    hasher.finish()
}

/// Tells whether a path lies in the tree of a layer, where times matter too.
fn is_in_tree(path: &str) -> bool {
    let mut parts = path.split('/');
    let (home, first, second) = (parts.next(), parts.next(), parts.next());
    match home {
        Some("vfs") => first == Some("dir") && second.is_some() && parts.next().is_some(),
        Some("overlay" | "overlay2") => matches!(second, Some("diff" | "root" | "upper")),
        _ => false,
    }
}
