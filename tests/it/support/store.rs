//! Data roots, and what images reach in them. Read with as little of dockpack as possible.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::Digest as _;
use tempfile::TempDir;

use super::tree::{Allow, Tree, assert_same};

/// Stores that real engines made: engine and driver.
pub(crate) const REAL: [&str; 3] = ["20-overlay", "20-overlay2", "28-overlay2"];

/// An empty directory on the file system that the build is on: not on one in memory, as `/tmp` may be.
#[must_use]
pub(crate) fn temp_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// An empty directory in memory, where the system has such: for what writes small files many thousand times.
#[must_use]
pub(crate) fn memory_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| temp_dir())
}

/// An empty directory in memory, where a file in memory can have every attribute.
#[must_use]
pub(crate) fn fast_dir() -> TempDir {
    let memory = memory_dir();
    let probe = memory.path().join("probe");
    fs::write(&probe, "").expect("a file");
    let takes = |key: &str| rustix::fs::setxattr(&probe, key, b"x", rustix::fs::XattrFlags::empty()).is_ok();
    if takes("user.x") && takes("trusted.x") { memory } else { temp_dir() }
}

/// A file of the project.
#[must_use]
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Makes `root` the data root that a fixture holds.
pub(crate) fn unpack(fixture: &str, root: &Path) {
    let status = Command::new(project("fixtures/unpack")).arg(fixture).arg(root).status();
    assert!(status.expect("fixtures/unpack runs").success(), "{fixture} unpacks");
}

/// Returns the driver in a fixture's name.
#[must_use]
pub(crate) fn driver_of(fixture: &str) -> &str {
    fixture.split_once('-').expect("VERSION-DRIVER").1
}

#[must_use]
pub(crate) fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Images and layers below a data root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    driver: String,
    /// Configurations by image ID, in hexadecimal digits.
    pub(crate) images: BTreeMap<String, Vec<u8>>,
    /// Driver directories by chain ID, of the layers that images have.
    pub(crate) layers: BTreeMap<String, String>,
    /// Diff IDs of these layers.
    pub(crate) diffs: BTreeSet<String>,
    /// Image IDs by tag.
    pub(crate) references: BTreeMap<String, String>,
}

impl Contents {
    /// Reads all images of a store; fails where a layer of one is missing.
    #[must_use]
    pub(crate) fn read(root: &Path, driver: &str) -> Self {
        let image = root.join("image").join(driver);
        let mut contents = Self {
            driver: driver.to_owned(),
            images: BTreeMap::new(),
            layers: BTreeMap::new(),
            diffs: BTreeSet::new(),
            references: references(&image),
        };
        for (id, config) in files(&image.join("imagedb/content/sha256")) {
            assert_eq!(sha256(&config), id, "an image's configuration is not what its name says");
            for (chain, diff) in stack(&config) {
                let entry = image.join("layerdb/sha256").join(&chain);
                let text = |file: &str| fs::read_to_string(entry.join(file));
                let cache_id = text("cache-id").unwrap_or_else(|error| panic!("layer {chain} of {id}: {error}"));
                assert_eq!(text("diff").expect("a layer's diff"), format!("sha256:{diff}"));
                assert!(dirs(root, driver).join(&cache_id).is_dir(), "directory {cache_id} of layer {chain}");
                contents.layers.insert(chain, cache_id);
                contents.diffs.insert(diff);
            }
            contents.images.insert(id, config);
        }
        contents
    }

    /// Reads the directories of all layers, as one tree.
    #[must_use]
    pub(crate) fn layer_trees(&self, root: &Path) -> Tree {
        Tree::read_entries(&dirs(root, &self.driver), self.layers.values())
    }

    /// Reads everything that belongs to the images and is no layer's directory: `image/<driver>`, the driver's home
    /// itself, and `overlay2`'s short names.
    #[must_use]
    pub(crate) fn metadata(&self, root: &Path) -> Tree {
        let names: BTreeSet<String> = self.layers.values().filter_map(|id| self.link(root, id)).collect();
        let image = format!("image/{}/", self.driver);
        let tree = Tree::read_entries(root, [&b"image"[..], self.driver.as_bytes()]).without_times();
        tree.only(|path| {
            let path = std::str::from_utf8(path).unwrap_or("?");
            match path.strip_prefix(&image) {
                Some(inner) => self.has_metadata(root, inner),
                None => match path.strip_prefix(&format!("{}/", self.driver)) {
                    Some("l" | "dir" | "subvolumes") => true,
                    Some(inner) => inner.strip_prefix("l/").is_some_and(|name| names.contains(name)),
                    None => true,
                },
            }
        })
    }

    /// As [`Contents::metadata`], but for what no archive proves: where an image was built, and what registries said. The
    /// names are for [`assert_same_names`].
    #[must_use]
    pub(crate) fn archived(&self, root: &Path) -> Tree {
        let image = format!("image/{}/", self.driver);
        self.metadata(root).only(|path| {
            let Some(inner) = std::str::from_utf8(path).ok().and_then(|path| path.strip_prefix(&image)) else {
                return true;
            };
            let parts: Vec<&str> = inner.split('/').collect();
            match parts[..] {
                ["imagedb", "metadata", "sha256", _, "builtLocally"]
                | ["distribution", _, ..]
                | ["repositories.json"] => false,
                ["imagedb", "metadata", "sha256", _] => names(&root.join(&image).join(inner)) != ["builtLocally"],
                _ => true,
            }
        })
    }

    fn link(&self, root: &Path, cache_id: &str) -> Option<String> {
        fs::read_to_string(root.join(&self.driver).join(cache_id).join("link")).ok()
    }

    /// Tells whether a path below `image/<driver>` belongs to the images.
    fn has_metadata(&self, root: &Path, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["layerdb", "sha256", chain, ..] => self.layers.contains_key(chain),
            ["layerdb", "mounts" | "tmp", ..] => parts.len() == 2,
            ["imagedb", "content" | "metadata", "sha256", id, ..] => self.images.contains_key(id),
            ["distribution", "v2metadata-by-diffid", "sha256", diff] => self.diffs.contains(diff),
            ["distribution", "diffid-by-digest", "sha256", _] => {
                let text = fs::read_to_string(root.join("image").join(&self.driver).join(path)).expect("a diff ID");
                self.diffs.contains(text.trim_start_matches("sha256:"))
            }
            _ => true,
        }
    }
}

/// Fails where the images of two stores are not the same in everything that is kept on disk.
#[track_caller]
pub(crate) fn assert_same_images(wanted: &Path, found: &Path, driver: &str) {
    let (one, other) = (Contents::read(wanted, driver), Contents::read(found, driver));
    assert!(!one.layers.is_empty(), "nothing to compare");
    assert_eq!(one, other);
    assert_same(&one.layer_trees(wanted), &other.layer_trees(found), Allow::REBUILT);
    assert_same(&one.archived(wanted), &other.archived(found), Allow::NOTHING);
    assert_same_names(wanted, found, driver);
}

/// Fails where a store was not given the names of another as dockerd would write them. References by digest stay where they
/// are: no archive proves them.
#[track_caller]
pub(crate) fn assert_same_names(wanted: &Path, found: &Path, driver: &str) {
    let at = |root: &Path| root.join("image").join(driver).join("repositories.json");
    let mut names: BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>> =
        serde_json::from_slice(&fs::read(at(wanted)).expect("repositories.json")).expect("repositories.json");
    for repositories in names.values_mut() {
        repositories.values_mut().for_each(|references| references.retain(|reference, _| !reference.contains('@')));
        repositories.retain(|_, references| !references.is_empty());
    }
    let text = fs::read_to_string(at(found)).expect("repositories.json");
    assert_eq!(text, serde_json::to_string(&names).expect("text"));
    assert_eq!(fs::metadata(at(found)).expect("repositories.json").permissions().mode() & 0o7777, 0o600);
}

/// Fails where a data root holds anything but the images: nothing else may be left of a load.
#[track_caller]
pub(crate) fn assert_nothing_else(root: &Path, driver: &str) {
    assert_eq!(BTreeSet::from_iter(names(root)), ["image", driver, "volumes"].map(str::to_owned).into());
    assert_eq!(names(&root.join("image")), [driver]);
    assert_eq!(names(&root.join("volumes")), ["metadata.db"]);
    let contents = Contents::read(root, driver);
    let image = format!("image/{driver}");
    let all = Tree::read_entries(root, [&b"image"[..]]).without_times();
    let reached = contents.metadata(root).only(|path| path.starts_with(b"image"));
    assert_same(&reached, &all, Allow::NOTHING);
    assert!(names(&root.join(&image).join("layerdb/tmp")).is_empty());
    let mut wanted: BTreeSet<String> = contents.layers.values().cloned().collect();
    if matches!(driver, "overlay2" | "fuse-overlayfs") {
        wanted.insert("l".to_owned());
        let links: BTreeSet<_> = contents.layers.values().filter_map(|id| contents.link(root, id)).collect();
        assert_eq!(names(&root.join(driver).join("l")), Vec::from_iter(links));
    }
    let dirs = dirs(root, driver);
    assert_eq!(names(&dirs), Vec::from_iter(wanted));
    if dirs != root.join(driver) {
        assert_eq!(names(&root.join(driver)).len(), 1);
    }
}

/// Fails where a store names something that is not there or cannot be used: a reference without its image, an image
/// without a layer, a layer without its directory.
#[track_caller]
pub(crate) fn assert_sound(root: &Path, driver: &str) {
    let contents = Contents::read(root, driver);
    for (reference, id) in &contents.references {
        assert!(contents.images.contains_key(id), "{reference} leads to an image that is not there");
    }
    for (chain, cache_id) in &contents.layers {
        let entry = root.join("image").join(driver).join("layerdb/sha256").join(chain);
        for file in ["size", "tar-split.json.gz"] {
            assert!(entry.join(file).is_file(), "layer {chain} has no {file}");
        }
        let home = root.join(driver);
        let dir = home.join(cache_id);
        let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
        if driver == "overlay2" {
            let lower = text("lower");
            let short = [format!("l/{}", text("link"))];
            for link in short.iter().map(String::as_str).chain(lower.split(':').filter(|link| !link.is_empty())) {
                assert!(home.join(link).is_dir(), "{link}, which {cache_id} needs, leads nowhere");
            }
            assert_eq!(lower.is_empty(), !entry.join("parent").exists(), "lower of {cache_id}");
        } else {
            let lower = text("lower-id");
            assert!(dir.join("root").is_dir() || dir.join("upper").is_dir(), "{cache_id} is empty");
            assert!(lower.is_empty() || home.join(&lower).join("root").is_dir(), "lower-id of {cache_id}");
        }
    }
}

/// Fails where images of a store are not sound, or their layers hold anything else than in another store.
#[track_caller]
pub(crate) fn assert_sound_part(whole: &Path, part: &Path, driver: &str) {
    assert_sound(part, driver);
    let contents = Contents::read(part, driver);
    if !contents.layers.is_empty() {
        let below_tree = |tree: Tree| tree.only(is_below_tree);
        let trees = [whole, part].map(|root| below_tree(contents.layer_trees(root)));
        assert_same(&trees[0], &trees[1], Allow::REBUILT);
    }
}

/// Tells whether a path in a tree of layers is within a layer's own tree, not one of the driver's files around it.
#[must_use]
pub(crate) fn is_below_tree(path: &[u8]) -> bool {
    let mut parts = path.split(|byte| *byte == b'/').skip(1);
    parts.next().is_some_and(|part| matches!(part, b"diff" | b"root" | b"upper"))
}

/// Returns where the driver directories of layers lie.
#[must_use]
pub(crate) fn dirs(root: &Path, driver: &str) -> PathBuf {
    root.join(driver).join(match driver {
        "vfs" => "dir",
        "btrfs" => "subvolumes",
        _ => return root.join(driver),
    })
}

/// Lists a directory, sorted.
#[must_use]
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    match dir.is_dir() {
        true => names(dir).into_iter().map(|name| (name.clone(), fs::read(dir.join(name)).expect("a file"))).collect(),
        false => BTreeMap::new(),
    }
}

/// Returns chain ID and diff ID of each layer of an image, bottom first.
#[must_use]
pub(crate) fn stack(config: &[u8]) -> Vec<(String, String)> {
    // The text is looked through, as not every reader of JSON takes what Go takes.
    let config = String::from_utf8_lossy(config).to_lowercase();
    let diffs = config.rfind("\"diff_ids\"").map_or("", |at| &config[at..]);
    let diffs = diffs.split(']').next().unwrap_or_default();
    let mut chain: Option<String> = None;
    diffs
        .split("sha256:")
        .skip(1)
        .map(|diff| {
            let diff = &diff[..64];
            let next = match &chain {
                None => diff.to_owned(),
                Some(below) => sha256(format!("sha256:{below} sha256:{diff}").as_bytes()),
            };
            chain = Some(next.clone());
            (next, diff.to_owned())
        })
        .collect()
}

fn references(image: &Path) -> BTreeMap<String, String> {
    let Ok(text) = fs::read(image.join("repositories.json")) else { return BTreeMap::new() };
    let document: Value = serde_json::from_slice(&text).expect("repositories.json");
    let repositories = document["Repositories"].as_object().expect("an object");
    let all = repositories.values().flat_map(|references| references.as_object().expect("an object"));
    all.map(|(name, id)| {
        (name.clone(), id.as_str().and_then(|id| id.strip_prefix("sha256:")).expect("an ID").to_owned())
    })
    .filter(|(name, _): &(String, String)| !name.contains('@'))
    .collect()
}
