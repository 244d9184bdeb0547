//! What `verify` says of real stores, whole and with one defect each.

mod daemon;
mod writable;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use insta::assert_snapshot;
use serde_json::Value;

use crate::support::command::{load, run, save};
use crate::support::engine::Engine;
use crate::support::store::{Contents, REAL, driver_of, fast_dir, project, stack, temp_dir, unpack};

/// Verifies and returns the exit code and the document.
pub(crate) fn verify(root: &Path, arguments: &[&str]) -> (i32, Value) {
    let outcome = run(root, [&["verify", "--json"], arguments].concat());
    let code = outcome.status.code().expect("an exit code");
    assert!(matches!(code, 0 | 3), "{code}: {}", outcome.stderr);
    (code, serde_json::from_slice(&outcome.stdout).expect("a document"))
}

pub(crate) fn findings(document: &Value) -> &[Value] {
    document["findings"].as_array().expect("findings")
}

pub(crate) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// Fails where anything but notes is found.
#[track_caller]
fn assert_clean(root: &Path) {
    for arguments in [&[][..], &["--quick"]] {
        let (code, document) = verify(root, arguments);
        let bad: Vec<&Value> = findings(&document).iter().filter(|found| found["severity"] != "note").collect();
        assert!(code == 0 && bad.is_empty(), "{bad:#?}");
        assert!(document["checked"]["layers"].as_u64() > Some(0));
    }
}

/// What a store's identities mean, so that snapshots do not depend on the run that made the fixture.
pub(crate) struct Roles {
    names: BTreeMap<String, String>,
    /// Chain IDs of each image's layers, by image ID.
    stacks: BTreeMap<String, Vec<String>>,
    /// Chain IDs by driver directory.
    chains: BTreeMap<String, String>,
}

impl Roles {
    pub(crate) fn of(root: &Path, driver: &str) -> Self {
        let contents = Contents::read(root, driver);
        let mut roles = Self { names: BTreeMap::new(), stacks: BTreeMap::new(), chains: BTreeMap::new() };
        // The image that is damaged gives its names first.
        let mut references: Vec<_> = contents.references.iter().collect();
        references.sort_by_key(|(name, _)| (*name != "nginx:alpine", name.contains('@'), *name));
        for (reference, id) in references {
            roles.name(id, format!("[image {reference}]"));
            let layers = stack(&contents.images[id]);
            for (at, (chain, diff)) in layers.iter().enumerate() {
                roles.name(chain, format!("[layer {at} of {reference}]"));
                roles.name(diff, format!("[diff {at} of {reference}]"));
                let cache_id = &contents.layers[chain];
                roles.name(cache_id, format!("[dir {at} of {reference}]"));
                if let Ok(link) = fs::read_to_string(root.join(driver).join(cache_id).join("link")) {
                    roles.name(&link, format!("[link {at} of {reference}]"));
                }
            }
        }
        for (id, config) in &contents.images {
            roles.stacks.insert(id.clone(), stack(config).into_iter().map(|(chain, _)| chain).collect());
        }
        roles.chains = contents.layers.iter().map(|(chain, cache_id)| (cache_id.clone(), chain.clone())).collect();
        for entry in fs::read_dir(root.join("containers")).expect("containers") {
            let path = entry.expect("a container").path();
            let config: Value =
                serde_json::from_slice(&fs::read(path.join("config.v2.json")).expect("a file")).expect("JSON");
            let (id, name) = (text(&config, "ID"), text(&config, "Name").trim_start_matches('/'));
            let mount = root.join("image").join(driver).join("layerdb/mounts").join(id).join("mount-id");
            let mount = fs::read_to_string(mount).expect("a mount");
            roles.name(id, format!("[container {name}]"));
            if let Ok(link) = fs::read_to_string(root.join(driver).join(format!("{mount}-init/link"))) {
                roles.name(&link, format!("[link of init of {name}]"));
            }
            roles.name(&mount, format!("[dir of {name}]"));
        }
        roles
    }

    fn name(&mut self, id: &str, role: String) {
        self.names.entry(id.to_owned()).or_insert(role);
    }

    /// Puts roles in the place of identities, and `…` in the place of times and other digests.
    pub(crate) fn steady(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (id, role) in &self.names {
            line = line.replace(id, role);
        }
        let mut steady = String::new();
        for word in line.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
            let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let is_digest = bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
            let is_time = bare.len() >= 9 && bare.bytes().all(|byte| byte.is_ascii_digit());
            let is_place = steady.ends_with("at byte ");
            steady += if is_digest || is_time || is_place { "…" } else { bare };
            steady += &word[bare.len()..];
        }
        steady
    }

    /// Writes a document in lines.
    fn lines(&self, code: i32, document: &Value) -> String {
        let mut lines = format!("  exit {code}\n");
        for found in findings(document).iter().filter(|found| found["severity"] != "note") {
            let file = found["file"].as_str().map(|file| format!("{file}: ")).unwrap_or_default();
            let mut line = format!(
                "  {} {} {}: {file}{}",
                text(found, "severity"),
                text(found, "code"),
                text(found, "subject"),
                text(found, "evidence")
            );
            for broken in found["breaks"].as_array().expect("a list") {
                let (named, nameless) = images(broken);
                let mut names: Vec<String> = named.into_iter().collect();
                names.extend(containers(broken).into_iter().map(|name| format!("container {name}")));
                if nameless > 0 {
                    names.push(format!("{nameless} without a name"));
                }
                write!(line, "\n    {}: {}", text(broken, "effect"), names.join(", ")).expect("text");
            }
            lines += &self.steady(&line);
            lines.push('\n');
        }
        lines
    }

    /// Proves what breaks by findings about layers against the configurations of all images.
    fn check_blast(&self, defect: &str, document: &Value) {
        for found in findings(document).iter().filter(|found| found["severity"] != "note") {
            let id = text(&found["object"], "id");
            let chain = match text(&found["object"], "kind") {
                "layer" => id.trim_start_matches("sha256:").to_owned(),
                "dir" => match self.chains.get(id) {
                    Some(chain) => chain.clone(),
                    None => continue,
                },
                _ => continue,
            };
            let code = text(found, "code");
            let top_only = ["driver-link-lost", "driver-lower-missing", "driver-lower-mismatch", "driver-unreadable"];
            if code == "layer-cache-id-shared" {
                // Its directory is that of two layers.
                continue;
            }
            let uses = |stack: &Vec<String>| match top_only.contains(&code) {
                true => stack.last() == Some(&chain),
                false => stack.contains(&chain),
            };
            let wanted: BTreeSet<&str> =
                self.stacks.iter().filter(|(_, stack)| uses(stack)).map(|(id, _)| id.as_str()).collect();
            let harmless =
                ["driver-mode", "driver-owner", "driver-committed-missing", "driver-work-needless", "node-mtime"];
            let wanted = if harmless.contains(&code) { BTreeSet::new() } else { wanted };
            let sets = found["breaks"].as_array().expect("a list").iter();
            let images = sets.flat_map(|broken| broken["images"].as_array().expect("images"));
            let broken: BTreeSet<&str> = images.map(|image| text(image, "id").trim_start_matches("sha256:")).collect();
            assert_eq!(broken, wanted, "{defect}: {code}");
        }
    }
}

/// Returns the references of broken images, and how many have none.
fn images(broken: &Value) -> (BTreeSet<String>, usize) {
    let images = broken["images"].as_array().expect("images");
    let references = |image: &Value| image["references"].as_array().expect("references").clone();
    let named = images.iter().flat_map(references).map(|name| name.as_str().expect("text").to_owned()).collect();
    (named, images.iter().filter(|image| references(image).is_empty()).count())
}

fn containers(broken: &Value) -> Vec<String> {
    let containers = broken["containers"].as_array().expect("containers");
    let name = |container: &Value| match text(container, "name") {
        "" => text(container, "id").to_owned(),
        name => name.to_owned(),
    };
    let mut names: Vec<String> = containers.iter().map(name).collect();
    names.sort();
    names
}

/// Lists the defects that a driver's stores can have.
pub(crate) fn defects(driver: &str) -> Vec<String> {
    let output = Command::new(project("fixtures/damage")).args(["--list", driver]).output().expect("fixtures/damage");
    let list = String::from_utf8(output.stdout).expect("text");
    list.lines().map(str::to_owned).collect()
}

pub(crate) fn damage(defect: &str, root: &Path) {
    let status = Command::new(project("fixtures/damage")).arg(defect).arg(root).status().expect("fixtures/damage");
    assert!(status.success(), "{defect}");
}

/// Does every kind of damage to a store of its own, and returns what is said of each.
fn damaged(fixture: &str) -> String {
    let temp = fast_dir();
    let base = temp.path().join("base");
    unpack(fixture, &base);
    let roles = Roles::of(&base, driver_of(fixture));
    let defects = defects(driver_of(fixture));
    let waiting = Mutex::new(defects.iter().rev().collect::<Vec<_>>());
    let said = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some(defect) = { waiting.lock().expect("not poisoned").pop() } {
            let root = temp.path().join(defect);
            let status = Command::new("cp").arg("-a").arg(&base).arg(&root).status().expect("cp");
            assert!(status.success());
            damage(defect, &root);
            let (code, document) = verify(&root, &[]);
            roles.check_blast(defect, &document);
            said.lock().expect("not poisoned").insert(defect, roles.lines(code, &document));
            fs::remove_dir_all(&root).expect("removes");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let said = said.into_inner().expect("not poisoned");
    defects.iter().map(|defect| format!("{defect}\n{}", said[defect])).collect()
}

#[test]
fn clean_stores_have_no_findings() {
    for fixture in REAL {
        let temp = temp_dir();
        unpack(fixture, temp.path());
        assert_clean(temp.path());
        let (_, document) = verify(temp.path(), &["nginx:alpine"]);
        assert_eq!(document["checked"]["layers"], 6);
        assert_eq!(findings(&document), [] as [Value; 0]);
        // What was saved and loaded is as good as what the engine made.
        let archive = temp.path().join("all.tar.zst");
        save(temp.path(), &["--all"], &archive);
        let rebuilt = temp_dir();
        let _ = load(rebuilt.path(), &archive, &[]);
        assert_clean(rebuilt.path());
    }
}

#[test]
fn every_defect_of_overlay2_is_named() {
    assert_snapshot!(damaged("28-overlay2"));
}

#[test]
fn every_defect_of_overlay_is_named() {
    assert_snapshot!(damaged("20-overlay"));
}

/// What looks at no file of a layer finds everything else.
#[test]
fn quick_finds_what_is_not_in_files() {
    let temp = temp_dir();
    unpack("28-overlay2", temp.path());
    for (defect, code) in [("byte-changed", None), ("lower-gone", Some("driver-lower-missing"))] {
        damage(defect, temp.path());
        let (_, document) = verify(temp.path(), &["--quick"]);
        let codes: Vec<_> = findings(&document).iter().filter(|found| found["severity"] == "damage").collect();
        assert_eq!(codes.first().map(|found| text(found, "code")), code);
        assert_eq!(document["checked"]["bytes"], 0);
    }
}

/// A whiteout that hides something is damage; one under which nothing lies hides nothing.
#[test]
fn whiteouts_that_hide_nothing() {
    let temp = temp_dir();
    unpack("28-overlay2", temp.path());
    let contents = Contents::read(temp.path(), "overlay2");
    let layers = stack(&contents.images[&contents.references["nginx:alpine"]]);
    let tree = temp.path().join("overlay2").join(&contents.layers[&layers[5].0]).join("diff");
    let mark = |name: &str| {
        let made = Command::new("mknod").arg(tree.join(name)).args(["c", "0", "0"]).status();
        assert!(made.expect("mknod").success());
    };
    mark("tt");
    let (code, document) = verify(temp.path(), &[]);
    let found = findings(&document).iter().find(|found| found["file"] == "tt").expect("the mark is found");
    assert_eq!((code, text(found, "severity"), text(found, "code")), (0, "note", "whiteout-needless"));
    mark("bin");
    let (code, document) = verify(temp.path(), &[]);
    let found = findings(&document).iter().find(|found| found["file"] == "bin").expect("the mark is found");
    assert_eq!((code, text(found, "code")), (3, "whiteout-extra"));
}

/// A time that differs is no other content.
#[test]
fn a_time_that_differs() {
    let temp = temp_dir();
    unpack("28-overlay2", temp.path());
    let contents = Contents::read(temp.path(), "overlay2");
    let layers = stack(&contents.images[&contents.references["nginx:alpine"]]);
    let tree = temp.path().join("overlay2").join(&contents.layers[&layers[0].0]).join("diff");
    assert!(Command::new("touch").arg(tree.join("etc/passwd")).status().expect("touch").success());
    let outcome = run(temp.path(), ["verify"]).done();
    let said = String::from_utf8(outcome.stdout).expect("text");
    assert!(said.contains("node-mtime") && !said.contains("content"), "{said}");
}

/// One image is verified: damage elsewhere is not told, damage in what it shares with others is.
#[test]
fn one_image() {
    let temp = temp_dir();
    unpack("28-overlay2", temp.path());
    damage("byte-changed", temp.path());
    for (image, code) in [("nginx:alpine", 3), ("bk:1", 0), ("alpine:3.4", 0)] {
        assert_eq!(verify(temp.path(), &[image]).0, code, "{image}");
    }
    let outcome = run(temp.path(), ["verify", "no:such"]).failed(1);
    assert!(outcome.stderr.contains("no image no:such"), "{}", outcome.stderr);
}

/// Archives: dockpack's own in all its forms, and as other tools write them.
#[test]
fn archives() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    for name in ["all.tar.zst", "all.tar.gz", "all.tar", "all/"] {
        let archive = temp.path().join(name);
        save(&root, &["--all"], &archive);
        let (code, document) = verify(&root, &["-i", archive.to_str().expect("text")]);
        assert_eq!((code, findings(&document)), (0, &[] as &[Value]), "{name}");
        assert_eq!(document["checked"]["images"], 18);
        assert!(document["checked"]["bytes"].as_u64() > Some(2_000_000));
    }
    let whole = temp.path().join("all.tar");
    let bytes = fs::read(&whole).expect("the archive");
    let base = bytes.windows(8).position(|window| window == b"\x7fELF\x02\x01\x01\0" as &[u8]).expect("a program");
    let mut flipped = bytes.clone();
    flipped[base + 100] ^= 1;
    for (name, damaged) in [("flipped.tar", &flipped[..]), ("cut.tar", &bytes[..bytes.len() / 2])] {
        let archive = temp.path().join(name);
        fs::write(&archive, damaged).expect("writes");
        let (code, document) = verify(&root, &["-i", archive.to_str().expect("text")]);
        assert_eq!(code, 3, "{name}");
        let images = |found: &Value| found["breaks"][0]["images"].as_array().map_or(0, Vec::len);
        assert!(findings(&document).iter().any(|found| images(found) > 0), "{document:#}");
    }
}

/// The same images as another tool would write them: documents last, no word of dockpack's.
#[test]
fn archives_of_other_tools() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    save(&root, &["nginx:alpine", "bk:1"], &temp.path().join("layout/"));
    let layout = temp.path().join("layout");
    fs::remove_dir_all(layout.join("dockpack")).expect("removes");
    let pack = |name: &str, without: &str| {
        let archive = temp.path().join(name);
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&layout).arg("-cf").arg(&archive).arg(format!("--exclude={without}"));
        assert!(tar.args(["blobs", "index.json", "manifest.json", "oci-layout"]).status().expect("tar").success());
        archive
    };
    for (name, without) in [("docker.tar", "./none"), ("oci.tar", "manifest.json")] {
        let archive = pack(name, without);
        let (code, document) = verify(&root, &["-i", archive.to_str().expect("text")]);
        assert_eq!((code, findings(&document)), (0, &[] as &[Value]), "{name}");
        assert_eq!((&document["checked"]["images"], &document["checked"]["layers"]), (&2.into(), &12.into()));
    }
    let blob = fs::read_dir(layout.join("blobs/sha256"))
        .expect("blobs")
        .map(|entry| entry.expect("a blob").path())
        .max_by_key(|path| fs::metadata(path).expect("a file").len())
        .expect("the base layer");
    let mut bytes = fs::read(&blob).expect("a blob");
    bytes[5000] ^= 1;
    fs::write(&blob, &bytes).expect("writes");
    let (code, document) = verify(&root, &["-i", pack("changed.tar", "./none").to_str().expect("text")]);
    let codes: BTreeSet<&str> = findings(&document).iter().map(|found| text(found, "code")).collect();
    assert_eq!((code, codes), (3, BTreeSet::from(["archive-blob-mismatch", "archive-layer-mismatch"])));
    let (named, _) = findings(&document).iter().filter_map(|found| found["breaks"].get(0)).fold(
        (BTreeSet::new(), 0),
        |(mut all, count), broken| {
            all.extend(images(broken).0);
            (all, count + 1)
        },
    );
    assert_eq!(named, BTreeSet::from(["bk:1".to_owned(), "nginx:alpine".to_owned()]));
}

/// What a person is shown.
#[test]
fn the_report() {
    let temp = temp_dir();
    unpack("28-overlay2", temp.path());
    let roles = Roles::of(temp.path(), "overlay2");
    for defect in ["bytes-changed-in-two-files", "file-mode", "short-name-gone", "mount-id-empty"] {
        damage(defect, temp.path());
    }
    let outcome = run(temp.path(), ["verify"]);
    assert_eq!(outcome.status.code(), Some(3));
    let mut said = format!("{}---\n{}", String::from_utf8(outcome.stdout).expect("text"), outcome.stderr);
    for (id, role) in &roles.names {
        said = said.replace(id, role);
        said = said.replace(id.get(..12).expect("a long ID"), role);
    }
    said = said.replace(temp.path().to_str().expect("text"), "ROOT");
    assert_snapshot!(said);
}

/// A store in which containers ran, images were built and removed, has no findings, while the engine runs and after.
fn used(version: &'static str, driver: &'static str) {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack(&format!("{version}-{driver}"), &root);
    let engine = Engine::start(version, driver, temp.path());
    engine.docker(&["start", "nginx"]);
    for image in ["nginx:alpine", "bk:1", "nasty:1"] {
        engine.docker(&["run", "--name", &image.replace(':', "-"), "--network", "none", image, "true"]);
    }
    engine.docker(&["commit", "changed", "committed:1"]);
    engine.docker(&["run", "-d", "--name", "running", "--network", "none", "committed:1", "sleep", "600"]);
    let saved = temp.path().join("saved.tar");
    engine.docker(&["save", "-o", saved.to_str().expect("text"), "nasty:2", "bk:1"]);
    let (code, document) = verify(&root, &["-i", saved.to_str().expect("text")]);
    assert_eq!((code, findings(&document)), (0, &[] as &[Value]));
    assert_eq!(document["checked"]["images"], 2);
    assert_clean(&root);
    engine.docker(&["rm", "-f", "running"]);
    engine.stop();
    assert_clean(&root);
}

#[test]
fn daemon_20_overlay_leaves_nothing_to_find() {
    used("20", "overlay");
}

#[test]
fn daemon_20_overlay2_leaves_nothing_to_find() {
    used("20", "overlay2");
}

#[test]
fn daemon_28_overlay2_leaves_nothing_to_find() {
    used("28", "overlay2");
}

/// A container of another graph driver, or of the containerd store, is whole: it is noted, and nothing is damaged.
#[test]
fn containers_of_another_store_are_whole() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    for (number, driver) in ["overlayfs", "vfs", "zfs"].into_iter().enumerate() {
        let id = format!("{number:064}");
        let dir = root.join("containers").join(&id);
        fs::create_dir(&dir).expect("a directory");
        let config = format!(r#"{{"ID":"{id}","Name":"/other-{number}","Driver":"{driver}","Image":"sha256:{id}"}}"#);
        fs::write(dir.join("config.v2.json"), config).expect("a file");
        fs::write(dir.join("hostconfig.json"), "{}").expect("a file");
    }
    fs::create_dir(root.join("containers/@eaDir")).expect("a directory");
    let verified = run(&root, ["verify", "--json"]).done();
    let document: serde_json::Value = serde_json::from_slice(&verified.stdout).expect("JSON");
    let findings = document["findings"].as_array().expect("findings");
    let others = findings.iter().filter(|finding| finding["code"] == "container-of-another-store").count();
    assert_eq!(others, 3, "{document}");
    let repaired = run(&root, ["repair", "--dry-run"]).done();
    assert!(!repaired.stderr.contains("lost"), "{}", repaired.stderr);
}
