//! One store with a copy of an image, and a container of it, for each defect: so one daemon shows what all of them do.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Kind;
use super::probe::Daemon;
use crate::support::archive::{Entry as Member, Layer};
use crate::support::command::{load, run};
use crate::support::engine::Engine;
use crate::support::store::{Contents, fast_dir, project, sha256, stack, unpack};
use crate::support::tree::Tree;

/// A file of each copy that makes it another image than the others.
pub(super) const MARK: &str = "damaged-by";

/// A copy of an image, and a container of it, that have one defect.
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) defect: String,
    /// The image that it is a copy of, and how much of that.
    pub(super) of: (String, usize),
    /// ID of the image, without `sha256:`.
    pub(super) image: String,
    pub(super) container: String,
    /// What findings may call it, or a part of it.
    names: Vec<String>,
}

impl Victim {
    pub(super) fn reference(&self) -> String {
        format!("damaged:{}", self.defect)
    }

    /// Tells whether something that breaks is the image or the container, or a name that was the image's.
    pub(super) fn is(&self, broken: &Value) -> bool {
        let id = broken["id"].as_str().expect("an ID").trim_start_matches("sha256:");
        let is_name = broken["references"].as_array().is_some_and(|names| names.contains(&self.reference().into()));
        id == self.image || id == self.container || is_name
    }

    /// Tells whether a subject of a finding is this, or a part of it.
    pub(super) fn is_named_by(&self, subject: &str) -> bool {
        self.names.iter().any(|name| subject.contains(name.as_str()))
    }
}

/// A whole store with victims, and what a daemon shows of their images.
pub(super) struct Scene {
    pub(super) temp: TempDir,
    pub(super) victims: Vec<Victim>,
    /// What programs in a container of an image see, by image.
    pub(super) trees: BTreeMap<(String, usize), Tree>,
}

impl Scene {
    /// Makes a store with a victim for each of these defects, whole as yet.
    pub(super) fn new(kinds: &[Kind]) -> Self {
        let temp = fast_dir();
        let dir = temp.path().join("whole");
        let root = dir.join("root");
        unpack("28-overlay2", &root);
        add_copies(&root, temp.path(), kinds);
        let engine = Engine::start("28", "overlay2", &dir);
        let daemon = Daemon::new(&dir);
        let mut trees = BTreeMap::new();
        let mut containers = BTreeMap::new();
        for kind in kinds {
            let image = format!("damaged:{}", kind.defect);
            if let Entry::Vacant(tree) = trees.entry(part(kind)) {
                let container = daemon.create(None, &image).expect("a container");
                daemon.start(&container).expect("it starts");
                tree.insert(daemon.tree(&container).expect("a tree"));
                daemon.remove(&container);
            }
            containers.insert(&kind.defect, daemon.create(Some(&kind.defect), &image).expect("a container"));
        }
        engine.stop();
        let contents = Contents::read(&root, "overlay2");
        let victims = kinds.iter().map(|kind| victim(&root, &contents, kind, &containers[&kind.defect])).collect();
        Self { temp, victims, trees }
    }

    pub(super) fn whole(&self) -> PathBuf {
        self.temp.path().join("whole/root")
    }

    /// Copies a store to a place where a daemon can be started, and returns that.
    pub(super) fn copy(&self, root: &Path, name: &str) -> PathBuf {
        let dir = self.temp.path().join(name);
        fs::create_dir(&dir).expect("a directory");
        let status = Command::new("cp").arg("-a").arg(root).arg(dir.join("root")).status().expect("cp");
        assert!(status.success());
        dir
    }

    /// Writes an archive of all images that are whole.
    pub(super) fn archive(&self) -> PathBuf {
        let path = self.temp.path().join("all.tar.zst");
        let _ = run(&self.whole(), ["save", "--all", "-o", path.to_str().expect("text")]).done();
        path
    }
}

/// Does damage to a store.
pub(super) fn damage<'d>(root: &Path, defects: impl IntoIterator<Item = &'d str>) {
    let output = Command::new(project("fixtures/damage")).args(defects).arg(root).output().expect("fixtures/damage");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Names the part of an image that a copy is of.
fn part(kind: &Kind) -> (String, usize) {
    (kind.of.clone().expect("an image"), kind.layers)
}

fn victim(root: &Path, contents: &Contents, kind: &Kind, container: &str) -> Victim {
    let defect = &kind.defect;
    let image = contents.references[&format!("damaged:{defect}")].clone();
    let mut names = vec![image.clone(), container.to_owned(), format!("damaged:{defect}")];
    for (chain, _) in stack(&contents.images[&image]) {
        names.push(contents.layers[&chain].clone());
        names.push(chain);
    }
    let mount = root.join("image/overlay2/layerdb/mounts").join(container);
    names.push(fs::read_to_string(mount.join("mount-id")).expect("a mount"));
    Victim { defect: defect.to_owned(), of: part(kind), image, container: container.to_owned(), names }
}

/// Loads a copy of its image for each defect. No layer of one has the chain ID of a layer of another, as the lowest of
/// each has a file of its own.
fn add_copies(root: &Path, temp: &Path, kinds: &[Kind]) {
    let layout = temp.join("layout");
    let mut images: Vec<&str> = kinds.iter().filter_map(|kind| kind.of.as_deref()).collect();
    images.sort_unstable();
    images.dedup();
    let out = format!("{}/", layout.display());
    let _ = run(root, [&["save", "-o", &out][..], &images].concat()).done();
    for other in ["dockpack", "index.json", "oci-layout"] {
        let path = layout.join(other);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.expect("removed");
    }
    let manifest = layout.join("manifest.json");
    let saved: Vec<Value> = serde_json::from_slice(&fs::read(&manifest).expect("a manifest")).expect("JSON");
    let find = |kind: &Kind| saved.iter().find(|image| image["RepoTags"][0].as_str() == kind.of.as_deref());
    let copies = kinds.iter().map(|kind| copy(&layout, find(kind).expect("the image is saved"), kind));
    let copies = copies.collect();
    fs::write(&manifest, Value::Array(copies).to_string()).expect("written");
    let _ = load(root, &layout, &[]);
    fs::remove_dir_all(&layout).expect("removed");
}

/// Writes a copy of an image into a layout, and returns its entry of `manifest.json`.
fn copy(layout: &Path, original: &Value, kind: &Kind) -> Value {
    let defect = &kind.defect;
    let read = |path: &Value| fs::read(layout.join(path.as_str().expect("a path"))).expect("a blob");
    let add = |bytes: &[u8]| {
        let digest = sha256(bytes);
        let path = format!("blobs/sha256/{digest}");
        fs::write(layout.join(&path), bytes).expect("written");
        (path, digest)
    };
    let mark = Layer::new(defect, [Member::file(MARK, defect)]).tar;
    // Without the two blocks at its end.
    let lowest = [&mark[..mark.len() - 1024], &read(&original["Layers"][0])].concat();
    let (lowest, diff) = add(&lowest);
    let mut config: Value = serde_json::from_slice(&read(&original["Config"])).expect("a configuration");
    config["rootfs"]["diff_ids"][0] = format!("sha256:{diff}").into();
    let mut layers = original["Layers"].clone();
    layers[0] = lowest.into();
    if kind.layers > 0 {
        for list in [&mut config["rootfs"]["diff_ids"], &mut layers] {
            list.as_array_mut().expect("a list").truncate(kind.layers);
        }
        let _ = config.as_object_mut().expect("an object").remove("history");
    }
    let (config, _) = add(config.to_string().as_bytes());
    json!({"Config": config, "RepoTags": [format!("damaged:{defect}")], "Layers": layers})
}
