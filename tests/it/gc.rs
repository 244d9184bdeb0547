//! What `gc` finds and removes, in stores that real engines made, with garbage planted in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::command::{Outcome, run};
use crate::support::store::{Contents, dirs, driver_of, names, project, temp_dir, unpack};
use crate::support::tree::{Allow, Tree, assert_same};

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd";

/// A name of 64 hexadecimal digits.
pub(crate) fn hex(number: u8) -> String {
    format!("{HEX}{number:02x}")
}

/// A store, and how to work on it.
pub(crate) struct Lab {
    pub(crate) driver: String,
    /// The small disk that the store is on, where it has one.
    disk: Option<Mount>,
    pub(crate) temp: TempDir,
}

impl Lab {
    pub(crate) fn new(fixture: &str) -> Self {
        let temp = temp_dir();
        unpack(fixture, &temp.path().join("root"));
        Self { temp, driver: driver_of(fixture).to_owned(), disk: None }
    }

    /// A store on an ext4 of its own.
    pub(crate) fn on_disk(fixture: &str, megabytes: u64) -> Self {
        let temp = temp_dir();
        let mount = Mount::ext4(&temp.path().join("disk"), megabytes, &temp.path().join("mnt"));
        unpack(fixture, &temp.path().join("mnt/root"));
        Self { temp, driver: driver_of(fixture).to_owned(), disk: Some(mount) }
    }

    pub(crate) fn copied(temp: TempDir, driver: &str) -> Self {
        Self { temp, driver: driver.to_owned(), disk: None }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.disk.as_ref().map_or(self.temp.path(), |disk| &disk.0).join("root")
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub(crate) fn image(&self, path: &str) -> PathBuf {
        self.at(&format!("image/{}/{path}", self.driver))
    }

    pub(crate) fn write(&self, path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        fs::write(path, text).expect("a file");
    }

    /// Makes a directory of the driver with `size` bytes in it.
    fn dir(&self, name: &str, size: usize) -> PathBuf {
        let dir = dirs(&self.root(), &self.driver).join(name);
        let tree = match self.driver.as_str() {
            "overlay2" => "diff",
            "vfs" => "",
            _ => "root",
        };
        self.write(&dir.join(tree).join("data"), &"x".repeat(size));
        if self.driver == "overlay2" {
            let short = name.to_uppercase().replace('-', "I");
            fs::write(dir.join("link"), &short).expect("a file");
            symlink(format!("../{name}/diff"), self.at(&format!("overlay2/l/{short}"))).expect("a link");
        }
        dir
    }

    fn layer(&self, name: &str, cache_id: &str) {
        let entry = self.image("layerdb/sha256").join(name);
        for (file, text) in
            [("diff", format!("sha256:{}", hex(9))), ("size", "5".to_owned()), ("cache-id", cache_id.to_owned())]
        {
            self.write(&entry.join(file), &text);
        }
    }

    /// Makes a container with its writable layer, by whose presence a store shows that it has its containers.
    pub(crate) fn container(&self, number: u8) {
        let (name, driver) = (hex(number), &self.driver);
        let config = format!(r#"{{"ID":"{name}","Name":"/kept","Driver":"{driver}"}}"#);
        self.write(&self.at(&format!("containers/{name}/config.v2.json")), &config);
        self.write(&self.image(&format!("layerdb/mounts/{name}/mount-id")), &hex(number + 1));
        self.dir(&hex(number + 1), 100);
    }

    /// Removes all garbage for good.
    pub(crate) fn clean(&self) {
        let _ = self.gc(&["-y", "--purge"]).done();
        let _ = self.gc(&["--purge"]).done();
        assert_eq!(self.leaks(), Vec::<String>::new());
    }

    /// Plants garbage of every kind that is taken by default; returns how many pieces of each there are then.
    pub(crate) fn plant(&self) -> BTreeMap<&'static str, u64> {
        let driver = &self.driver;
        // A whole layer that no image has, and one on top of it.
        self.dir(&hex(1), 40_000);
        self.layer(&hex(9), &hex(1));
        // Half an entry, which names a directory.
        self.dir(&hex(2), 5000);
        self.write(&self.image("layerdb/sha256").join(hex(8)).join("cache-id"), &hex(2));
        self.dir(&hex(3), 5000);
        self.layer(&format!("{}-{}-removing", hex(7), hex(6)), &hex(3));
        self.dir(&hex(4), 5000);
        self.write(&self.image("layerdb/tmp/write-set-123/cache-id"), &hex(4));
        self.write(&self.image("layerdb/tmp/write-set-124/tar-split.json.gz"), "");
        for name in [hex(5), format!("{}-init", hex(5)), hex(10), format!("{}-init", hex(11))] {
            self.dir(&name, 3000);
        }
        let mount = self.image("layerdb/mounts").join(hex(12));
        self.write(&mount.join("mount-id"), &hex(5));
        self.write(&mount.join("init-id"), &format!("{}-init", hex(5)));
        self.write(&self.at(&format!("containers/{}/hostconfig.json", hex(13))), "{}");
        self.write(&self.at("tmp-old/GetImageBlob1"), "blob");
        self.write(&self.at(".tmp-engine-id1"), "x");
        self.write(&self.image(".tmp-repositories.json1"), "x");
        self.write(&self.image(&format!("imagedb/metadata/sha256/{}/lastUpdated", hex(14))), "x");
        let mut kinds = BTreeMap::from([
            ("untagged-images", 2),
            ("image-metadata", 1),
            ("unreferenced-layers", 2),
            ("broken-layers", 1),
            ("removing-layers", 1),
            ("write-sets", 2),
            ("dead-mounts", 1),
            ("dead-containers", 1),
            ("orphan-directories", 2),
            ("temp-files", 2),
            ("old-temp", 1),
        ]);
        if driver == "overlay2" {
            fs::create_dir(self.at("overlay2/check-overlayfs-support1")).expect("a directory");
            symlink("../none/diff", self.at("overlay2/l/NOWHERE")).expect("a link");
            kinds.extend([("self-tests", 1), ("dangling-links", 1)]);
        }
        kinds
    }

    /// Runs `dockpack gc ARGUMENTS`.
    #[must_use]
    pub(crate) fn gc(&self, arguments: &[&str]) -> Outcome {
        run(&self.root(), ["gc"].iter().chain(arguments))
    }

    /// Runs `dockpack gc ARGUMENTS --json`.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let done = self.gc(&[arguments, &["--json"]].concat()).done();
        serde_json::from_slice(&done.stdout).expect("one JSON document")
    }

    fn tree(&self) -> Tree {
        Tree::read(&self.root())
    }

    /// The store without what a lock file is made of, and without the times of directories that things moved out of.
    pub(crate) fn content(&self) -> Tree {
        content(&self.root())
    }

    /// What nothing reaches, as a program finds that knows nothing of dockpack.
    #[must_use]
    pub(crate) fn leaks(&self) -> Vec<String> {
        leaks(&self.root(), &self.driver)
    }
}

/// A store without what a lock file is made of, and without the times of directories.
#[must_use]
pub(crate) fn content(root: &Path) -> Tree {
    Tree::read(root).without_times().only(|path| !path.starts_with(b"volumes"))
}

/// Lists what nothing in a store reaches, by `ci/leaks`.
#[must_use]
pub(crate) fn leaks(root: &Path, driver: &str) -> Vec<String> {
    let output = Command::new(project("ci/leaks")).arg(root).arg(driver).output().expect("ci/leaks runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

pub(crate) fn by_kind(plan: &Value) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for entry in plan["entries"].as_array().expect("entries") {
        *kinds.entry(entry["kind"].as_str().expect("a kind").to_owned()).or_default() += 1;
    }
    kinds
}

pub(crate) fn paths(plan: &Value) -> BTreeSet<String> {
    let entries = plan["entries"].as_array().expect("entries").iter();
    let parts = entries.flat_map(|entry| entry["parts"].as_array().expect("parts"));
    parts.map(|part| part["path"].as_str().expect("a path").to_owned()).collect()
}

/// Exactly the garbage goes: of every kind, and nothing else.
fn exactly_the_garbage(fixture: &str) {
    let lab = Lab::new(fixture);
    let planted = lab.plant();
    let contents = Contents::read(&lab.root(), &lab.driver);
    let before = lab.content();
    assert!(!lab.leaks().is_empty());
    let document = lab.json(&["--dry-run"]);
    assert_eq!(document["schema"], 1);
    let expected = planted.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect();
    assert_eq!(by_kind(&document["plan"]), expected);
    assert_same(&before, &lab.content(), Allow::NOTHING);
    let gone = paths(&document["plan"]);

    lab.clean();
    let stays = |path: &[u8]| {
        let path = String::from_utf8_lossy(path);
        !gone.iter().any(|gone| path == gone.as_str() || path.starts_with(&format!("{gone}/")))
    };
    assert_same(&before.only(stays), &lab.content(), Allow::NOTHING);
    let left = Contents::read(&lab.root(), &lab.driver);
    assert_eq!(contents.references, left.references);
    assert!(lab.json(&["--dry-run"])["plan"]["entries"].as_array().expect("entries").is_empty());
}

#[test]
fn exactly_the_garbage_goes_20_overlay() {
    exactly_the_garbage("20-overlay");
}

#[test]
fn exactly_the_garbage_goes_20_overlay2() {
    exactly_the_garbage("20-overlay2");
}

#[test]
fn exactly_the_garbage_goes_28_overlay2() {
    exactly_the_garbage("28-overlay2");
}

/// What is undone is as it was, node by node.
#[test]
fn undo_puts_everything_back() {
    for fixture in ["20-overlay", "28-overlay2"] {
        let lab = Lab::new(fixture);
        lab.plant();
        let _ = lab.gc(&["--dry-run"]).done();
        let before = lab.tree().only(|path| !path.starts_with(b"volumes") && path != b"");
        let inodes = inodes(&lab.root());
        let _ = lab.gc(&["-y"]).done();
        assert_eq!(lab.leaks(), [".dockpack"]);
        let transaction = names(&lab.at(".dockpack/trash")).remove(0);
        lab.gc(&["--undo", "20200101T000000000Z"]).failed(2);
        let _ = lab.gc(&["--undo", &transaction]).done();
        let after = lab.tree().only(|path| !path.starts_with(b"volumes") && path != b"");
        assert_same(&before, &after, Allow::NOTHING);
        assert_eq!(inodes, self::inodes(&lab.root()));
        lab.gc(&["--undo"]).failed(2);
        lab.clean();
    }
}

/// Of what containers wrote there is no other copy: also where everything is deleted at once, it is still in the trash.
#[test]
fn what_containers_wrote_goes_by_way_of_the_trash() {
    for fixture in ["20-overlay", "28-overlay2"] {
        let lab = Lab::new(fixture);
        lab.plant();
        let written = |document: &Value| -> BTreeSet<String> {
            let entries = document["plan"]["entries"].as_array().expect("entries").iter();
            let is_written = |kind: &Value| *kind == "dead-mounts" || *kind == "dead-containers";
            let parts = entries
                .filter(|entry| is_written(&entry["kind"]))
                .flat_map(|entry| entry["parts"].as_array().expect("parts"));
            parts.map(|part| part["path"].as_str().expect("a path").to_owned()).collect()
        };
        for purge in [&["--purge"][..], &["--keep", "0s"]] {
            let planned = lab.json(&["--dry-run"]);
            let (written, all) = (written(&planned), paths(&planned["plan"]));
            assert!(!written.is_empty() && written.len() < all.len());
            let done = lab.json(&[&["-y"], purge].concat());
            let (pieces, entries) = (&done["report"]["written"]["removed"], &planned["plan"]["entries"]);
            assert_eq!(done["report"]["removed"].as_u64(), entries.as_array().map(|all| (all.len() - 2) as u64));
            assert_eq!((pieces.as_u64(), &done["report"]["kept"]), (Some(2), &Value::from(false)));
            assert!(all.iter().all(|path| !lab.at(path).exists()));
            let _ = lab.gc(&["--undo"]).done();
            assert!(all.iter().all(|path| lab.at(path).exists() == written.contains(path)));
            // The next one has something else to delete, too.
            lab.write(&lab.at("tmp-old/x"), "x");
        }
        lab.clean();
    }
}

/// Inodes of all files but what is new for every run.
fn inodes(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let entry = entry.expect("an entry");
            if entry.file_name() == "volumes" {
                continue;
            }
            if entry.file_type().expect("a type").is_dir() {
                waiting.push(entry.path());
            }
            found.insert(entry.path(), entry.metadata().expect("an inode").ino());
        }
    }
    found
}

/// A reviewed plan is carried out as it is: what has changed since, or is needed by now, stays and is named.
#[test]
fn a_reviewed_plan() {
    let lab = Lab::new("28-overlay2");
    lab.plant();
    let file = lab.beside("plan.json");
    let file = file.to_str().expect("text");
    let _ = lab.gc(&["--plan", file]).done();
    assert!(!lab.leaks().is_empty());
    // Garbage that came later is not in it; what is gone by now is named; so is what has changed.
    lab.dir(&hex(20), 100);
    fs::remove_dir_all(lab.at("tmp-old")).expect("is removed");
    lab.write(&lab.image("layerdb/tmp/write-set-124/diff"), "later");
    // A layer that is an image's by now.
    let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#, hex(9));
    let id = crate::support::store::sha256(config.as_bytes());
    lab.write(&lab.image("imagedb/content/sha256").join(&id), &config);
    let references = fs::read_to_string(lab.image("repositories.json")).expect("references");
    let more = references.replacen(
        r#"{"Repositories":{"#,
        &format!(r#"{{"Repositories":{{"new":{{"new:1":"sha256:{id}"}},"#),
        1,
    );
    fs::write(lab.image("repositories.json"), more).expect("references");

    let done = lab.gc(&["--apply", file, "--purge"]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    for (path, reason) in [
        ("tmp-old", "not there any more"),
        ("image/overlay2/layerdb/tmp/write-set-124", "has changed"),
        (&format!("image/overlay2/layerdb/sha256/{}", hex(9)), "in use now"),
        (&format!("overlay2/{}", hex(1)), "in use now"),
    ] {
        let said = done.stderr.lines().find(|line| line.contains(&format!("kept {path}:")));
        assert!(said.is_some_and(|line| line.contains(reason)), "{path}: {}", done.stderr);
    }
    let _ = lab.gc(&["--purge"]).done();
    assert_eq!(lab.leaks(), [format!("overlay2/{}", hex(20)), "layerdb/tmp/write-set-124".to_owned()]);
    lab.gc(&["--apply", "/dev/null"]).failed(1);
    let text = fs::read_to_string(file).expect("a plan").replace("overlay2\",", "vfs\",");
    fs::write(file, text).expect("a plan");
    lab.gc(&["--apply", file]).failed(2);
}

#[test]
fn kinds_and_ages() {
    let lab = Lab::new("28-overlay2");
    lab.plant();
    let kinds = |arguments: &[&str]| by_kind(&lab.json(&[&["--dry-run"], arguments].concat())["plan"]);
    assert_eq!(kinds(&["--only", "write-sets"]).into_keys().collect::<Vec<_>>(), ["write-sets"]);
    let two = kinds(&["--only", "write-sets,old-temp", "--skip", "old-temp"]);
    assert_eq!(two.into_keys().collect::<Vec<_>>(), ["write-sets"]);
    // An image that stays keeps its layers.
    assert_eq!(kinds(&["--skip", "untagged-images"])["unreferenced-layers"], 1);
    assert_eq!(kinds(&["--only", "dead-mounts"])["dead-mounts"], 1);
    // What the fixtures hold is older than what was planted now; images of the fixture were written when it was made.
    assert!(kinds(&["--older-than", "10000days"]).is_empty());
    let aged = |path: &str| {
        let touch = Command::new("touch").args(["-d", "3 days ago"]).arg(lab.at(path)).status();
        assert!(touch.expect("touch runs").success());
    };
    // A directory is as old as what was last written in it.
    aged("tmp-old");
    assert_eq!(kinds(&["--older-than", "2days"]).get("old-temp"), None);
    aged("tmp-old/GetImageBlob1");
    assert_eq!(kinds(&["--older-than", "2days"]).get("old-temp"), Some(&1));
    assert!(kinds(&["--older-than", "4days", "--only", "old-temp"]).is_empty());
    lab.gc(&["--dry-run", "--only", "everything"]).failed_to_parse();
    lab.gc(&["--dry-run", "--older-than", "soon"]).failed_to_parse();
    lab.gc(&[]).failed(2);

    // Not by default: records of layers that are gone, and trees of other drivers.
    lab.write(&lab.image(&format!("distribution/diffid-by-digest/sha256/{}", hex(1))), &format!("sha256:{}", hex(2)));
    lab.write(&lab.at("vfs/dir/x/y"), "old");
    fs::create_dir_all(lab.at("image/vfs/imagedb")).expect("directories");
    lab.gc(&["--dry-run"]).failed(2);
    let chosen = |arguments: &[&str]| {
        let all = ["--dry-run", "--driver", "overlay2"];
        by_kind(&lab.json(&[&all, arguments].concat())["plan"])
    };
    assert!(!chosen(&[]).contains_key("stale-driver"));
    assert_eq!(chosen(&["--only", "stale-driver"]), BTreeMap::from([("stale-driver".to_owned(), 2)]));
    assert_eq!(chosen(&["--only", "distribution-records"]), BTreeMap::from([("distribution-records".to_owned(), 1)]));
    let _ = lab.gc(&["-y", "--purge", "--driver", "overlay2", "--only", "stale-driver,distribution-records"]).done();
    assert!(!lab.at("vfs").exists() && !lab.at("image/vfs").exists());
    assert!(names(&lab.image("distribution/diffid-by-digest/sha256")).iter().all(|name| *name != hex(1)));
}

impl Outcome {
    /// Fails where the arguments were understood.
    #[track_caller]
    fn failed_to_parse(self) {
        assert_eq!(self.status.code(), Some(2), "{}", self.stderr);
    }
}

/// Leaves of a directory what is there of a file system that is not mounted.
fn empty(dir: &Path) {
    fs::remove_dir_all(dir).expect("a directory");
    fs::create_dir(dir).expect("a directory");
}

/// Lost records make everything look like garbage: then nothing is removed, and the file is named.
#[test]
fn refusals() {
    type Damage = fn(&Lab);
    let damages: [(&str, &str, Damage); 16] = [
        ("28-overlay2", "root/containers:", |lab| empty(&lab.at("containers"))),
        ("20-overlay", "root/containers:", |lab| fs::remove_dir_all(lab.at("containers")).expect("a directory")),
        ("28-overlay2", "layerdb/mounts", |lab| fs::remove_dir_all(lab.image("layerdb/mounts")).expect("a directory")),
        ("20-overlay", "layerdb/mounts", |lab| empty(&lab.image("layerdb/mounts"))),
        ("28-overlay2", "root/overlay2:", |lab| empty(&lab.at("overlay2"))),
        ("20-overlay2", "imagedb/metadata", |lab| {
            fs::remove_dir_all(lab.image("imagedb/metadata")).expect("a directory");
        }),
        ("28-overlay2", "repositories.json", |lab| empty(&lab.at("image"))),
        ("28-overlay2", "repositories.json", |lab| fs::write(lab.image("repositories.json"), "").expect("a file")),
        ("28-overlay2", "repositories.json", |lab| fs::write(lab.image("repositories.json"), "{").expect("a file")),
        ("28-overlay2", "repositories.json", |lab| fs::remove_file(lab.image("repositories.json")).expect("a file")),
        ("20-overlay", "repositories.json", |lab| {
            fs::write(lab.image("repositories.json"), r#"{"Repositories":{}}"#).expect("a file");
        }),
        ("20-overlay2", "imagedb/content/sha256", |lab| fs::remove_dir_all(lab.image("imagedb")).expect("a directory")),
        ("28-overlay2", "imagedb/content/sha256", |lab| {
            fs::remove_dir_all(lab.image("imagedb/content/sha256")).expect("a directory");
            fs::create_dir(lab.image("imagedb/content/sha256")).expect("a directory");
        }),
        ("28-overlay2", "layerdb/sha256", |lab| fs::remove_dir_all(lab.image("layerdb")).expect("a directory")),
        ("28-overlay2", "buildkit/snapshots.db", |lab| fs::write(lab.at("buildkit/snapshots.db"), "").expect("a file")),
        ("20-overlay2", "buildkit/snapshots.db", |lab| {
            fs::write(lab.at("buildkit/snapshots.db"), [7; 40_000]).expect("a file");
        }),
    ];
    for (fixture, file, damage) in damages {
        let lab = Lab::new(fixture);
        lab.plant();
        damage(&lab);
        let before = lab.content();
        for arguments in [&["-y", "--purge"][..], &["--dry-run"]] {
            let refused = lab.gc(arguments).failed(1);
            assert!(refused.stderr.contains(file), "{file}: {}", refused.stderr);
        }
        assert_same(&before, &lab.content(), Allow::NOTHING);
    }
}

/// What somebody planted in the store leads out of it, cannot be removed, or is no name: it stays, and is named.
#[test]
fn hostile_stores() {
    let lab = Lab::new("28-overlay2");
    lab.plant();
    let outside = lab.beside("outside");
    lab.write(&outside.join("precious"), "x");
    let link = lab.at(&format!("overlay2/{}", hex(30)));
    symlink(&outside, &link).expect("a link");
    symlink(&outside, lab.image(&format!("layerdb/sha256/{}", hex(31)))).expect("a link");
    symlink(&outside, lab.image("layerdb/tmp/write-set-9")).expect("a link");
    lab.layer(&hex(32), "../..");
    // Links within garbage are removed, not followed.
    let dir = lab.dir(&hex(33), 10);
    symlink(&outside, dir.join("diff/out")).expect("a link");
    let mounted = lab.dir(&hex(34), 10).join("diff/mnt");
    fs::create_dir(&mounted).expect("a directory");
    let _mount = Mount::bind(&outside, &mounted);
    let frozen = lab.dir(&hex(35), 10).join("diff/data");
    let _frozen = Attribute::set(&frozen, 'i');

    let done = lab.gc(&["-y", "--purge"]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    let kept = [
        format!("overlay2/{}", hex(30)),
        format!("image/overlay2/layerdb/sha256/{}", hex(31)),
        "image/overlay2/layerdb/tmp/write-set-9".to_owned(),
        format!("image/overlay2/layerdb/sha256/{}", hex(32)),
        format!("overlay2/{}", hex(34)),
        format!("overlay2/{}", hex(35)),
    ];
    for path in &kept {
        assert!(done.stderr.contains(&format!("keeping {path}:")), "{path}: {}", done.stderr);
        assert!(lab.at(path).symlink_metadata().is_ok(), "{path}");
    }
    assert!(!dir.exists());
    assert_eq!(fs::read_to_string(outside.join("precious")).expect("it is there"), "x");
    let _ = lab.gc(&["--purge"]).done();
    let left: Vec<String> = lab.leaks();
    assert_eq!(left.len(), kept.len(), "{left:?}");
    assert!(lab.at(&format!("overlay2/l/{}", hex(34).to_uppercase())).symlink_metadata().is_ok());
}

/// A mount that is there as long as this lives.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn bind(from: &Path, to: &Path) -> Self {
        let status = Command::new("mount").arg("--bind").arg(from).arg(to).status();
        assert!(status.expect("mount runs").success());
        Self(to.to_owned())
    }

    /// Makes a file system of its own in a file.
    fn ext4(image: &Path, megabytes: u64, at: &Path) -> Self {
        let file = fs::File::create(image).expect("a file");
        file.set_len(megabytes << 20).expect("room");
        let options = ["-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        let made = Command::new("mkfs.ext4").args(options).arg(image).status();
        assert!(made.expect("mkfs.ext4 runs").success());
        fs::create_dir_all(at).expect("a directory");
        let status = Command::new("mount").args(["-o", "loop"]).arg(image).arg(at).status();
        assert!(status.expect("mount runs").success());
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// An attribute of `chattr` that a file has as long as this lives.
pub(crate) struct Attribute(PathBuf, char);

impl Attribute {
    pub(crate) fn set(path: &Path, letter: char) -> Self {
        assert!(Command::new("chattr").arg(format!("+{letter}")).arg(path).status().expect("chattr runs").success());
        Self(path.to_owned(), letter)
    }
}

impl Drop for Attribute {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg(format!("-{}", self.1)).arg(&self.0).status();
    }
}

/// What is said to be freed is what the file system gains, also where layers share files by hard links.
#[test]
fn bytes_are_those_of_statfs() {
    for fixture in ["20-overlay", "28-overlay2"] {
        let temp = temp_dir();
        let at = temp.path().join("mnt");
        let _mount = Mount::ext4(&temp.path().join("disk"), 200, &at);
        unpack(fixture, &at.join("root"));
        let driver = driver_of(fixture);
        let tree = if driver == "overlay2" { "diff" } else { "root" };
        let write = |name: String, files: usize| {
            let dir = at.join("root").join(driver).join(name).join(tree);
            fs::create_dir_all(&dir).expect("directories");
            for file in 0..files {
                fs::write(dir.join(format!("{file}")), "y".repeat(file * 700)).expect("a file");
            }
            dir
        };
        let (one, other) = (write(hex(40), 150), write(hex(41), 100));
        for file in 0..50 {
            fs::hard_link(one.join(format!("{file}")), other.join(format!("same-{file}"))).expect("a link");
        }
        // Shared with what stays: these are not freed.
        let kept = at.join("root/image").join(driver).join("layerdb/kept");
        fs::create_dir(&kept).expect("a directory");
        for file in 100..150 {
            fs::hard_link(one.join(format!("{file}")), kept.join(format!("{file}"))).expect("a link");
        }
        let free = || {
            assert!(Command::new("sync").arg("-f").arg(&at).status().expect("sync runs").success());
            let found = rustix::fs::statfs(&at).expect("statfs");
            found.f_bfree * u64::try_from(found.f_bsize).expect("a size")
        };
        let before = free();
        let done = run(&at.join("root"), ["gc", "-y", "--purge", "--json"]).done();
        let document: Value = serde_json::from_slice(&done.stdout).expect("JSON");
        let gained = free() - before;
        let (said, planned) = (document["report"]["disk"].as_u64(), &document["plan"]["entries"]);
        let said = said.expect("bytes");
        let planned: u64 =
            planned.as_array().expect("entries").iter().map(|e| e["disk"].as_u64().expect("bytes")).sum();
        assert_eq!(said, planned, "{fixture}");
        assert!(said.abs_diff(gained) * 100 <= gained, "{fixture}: said {said}, gained {gained}");
        assert!(gained > 5_000_000, "{fixture}: {gained}");
    }
}

/// A driver's home on a disk of its own has its trash there.
#[test]
fn a_home_that_is_a_mount() {
    let lab = Lab::new("28-overlay2");
    lab.plant();
    let home = lab.at("overlay2");
    let _mount = Mount::bind(&home, &home);
    let before = lab.content();
    let _ = lab.gc(&["-y"]).done();
    assert!(lab.at("overlay2/.dockpack/trash").is_dir());
    let _ = lab.gc(&["--undo"]).done();
    assert_same(&before, &lab.content(), Allow::NOTHING);
    lab.clean();
    assert!(!lab.at("overlay2/.dockpack").exists());
}

/// What cannot be read is taken for used, with all that depends on it.
#[test]
fn unknown_means_keep() {
    let lab = Lab::new("28-overlay2");
    lab.plant();
    // A container whose configuration is damaged may have been made from any image, and its mounts may be anyone's.
    let container = names(&lab.at("containers")).into_iter().find(|name| *name != hex(13)).expect("a container");
    fs::write(lab.at(&format!("containers/{container}/config.v2.json")), "{").expect("a file");
    let kinds = by_kind(&lab.json(&["--dry-run"])["plan"]);
    assert!(!kinds.contains_key("untagged-images") && !kinds.contains_key("dead-mounts"), "{kinds:?}");
    assert!(kinds.contains_key("orphan-directories"));
    // A layer of an image that does not say its directory may have any.
    let lab = Lab::new("28-overlay2");
    lab.plant();
    let contents = Contents::read(&lab.root(), "overlay2");
    let tagged = contents.references.values().next().expect("an image");
    let (top, _) = crate::support::store::stack(&contents.images[tagged]).pop().expect("a layer");
    fs::write(lab.image(&format!("layerdb/sha256/{top}/cache-id")), "").expect("a file");
    let document = lab.json(&["--dry-run"]);
    assert!(
        paths(&document["plan"])
            .iter()
            .all(|path| !path.starts_with("overlay2/") || path.contains("check-") || path.contains("/l/NOWHERE")),
        "{:?}",
        paths(&document["plan"])
    );
    assert_eq!(lab.gc(&["-y", "--purge"]).status.code(), Some(1));
    assert!(lab.at(&format!("overlay2/{}", contents.layers[&top])).is_dir());
}
