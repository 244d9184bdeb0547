//! What tests of `repair` are made with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;

use super::command::{Outcome, run, save};
use super::disk::Disk;
use super::store::{dirs, driver_of, fast_dir, is_below_tree, names, unpack};
use super::tree::{Allow, Tree, Untouched, assert_same};
use crate::verify::{Roles, damage, defects, findings, text, verify};

/// A store as it was, and an archive of all that is in it.
pub(crate) struct Lab {
    /// Where the stores lie, if not in `temp`. Goes before the directory that it is mounted in.
    disk: Option<Disk>,
    pub(crate) temp: TempDir,
    driver: &'static str,
}

impl Lab {
    pub(crate) fn new(fixture: &'static str) -> Self {
        let lab = Self { disk: None, temp: fast_dir(), driver: driver_of(fixture) };
        unpack(fixture, &lab.at("base"));
        save(&lab.at("base"), &["--all"], &lab.archive());
        lab
    }

    /// The images of a store in one of another driver.
    pub(crate) fn of_driver(fixture: &'static str, driver: &'static str) -> Self {
        let temp = fast_dir();
        let disk = (driver == "btrfs").then(|| Disk::make("btrfs", &temp.path().join("disk.img"), 2048));
        let lab = Self { disk, temp, driver };
        unpack(fixture, &lab.at("theirs"));
        let theirs = lab.at("theirs.tar.zst");
        save(&lab.at("theirs"), &["--all"], &theirs);
        fs::create_dir(lab.at("base")).expect("a directory");
        let path = theirs.to_str().expect("text");
        // Links into layers below are not for every driver.
        let images = ["nginx:alpine", "bk:1", "team/app:2", "rebuilt:latest"];
        let _ = run(&lab.at("base"), [&["--driver", driver, "load", "-i", path][..], &images].concat()).done();
        save(&lab.at("base"), &["--all"], &lab.archive());
        fs::remove_dir_all(lab.at("theirs")).expect("removed");
        lab
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.disk.as_ref().map_or(self.temp.path(), Disk::path).join(name)
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.at("all.tar.zst")
    }

    pub(crate) fn driver(&self) -> &'static str {
        self.driver
    }

    /// Makes a store that is like another.
    pub(crate) fn copy(&self, of: &str, name: &str) -> PathBuf {
        let root = self.at(name);
        let _ = fs::remove_dir_all(&root);
        copy(&self.at(of), &root);
        if self.driver == "btrfs" {
            make_snapshots(&self.at(of), &root);
        }
        root
    }

    /// Makes a store with these defects.
    pub(crate) fn damaged(&self, name: &str, defects: &[&str]) -> PathBuf {
        let root = self.copy("base", name);
        for defect in defects {
            damage(defect, &root);
        }
        root
    }

    /// Does something for every defect, two at a time, and puts what it gives in order.
    pub(crate) fn for_each(&self, work: impl Fn(&str, &Path) -> String + Sync) -> String {
        let defects = defects(self.driver());
        let waiting = Mutex::new(defects.iter().rev().collect::<Vec<_>>());
        let said = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some(defect) = { waiting.lock().expect("not poisoned").pop() } {
                        let root = self.damaged(defect, &[defect]);
                        let text = work(defect, &root);
                        said.lock().expect("not poisoned").insert(defect, text);
                        fs::remove_dir_all(&root).expect("removes");
                    }
                });
            }
        });
        let said = said.into_inner().expect("not poisoned");
        defects.iter().map(|defect| format!("{defect}\n{}", said[defect])).collect()
    }
}

/// Copies a store as people do. Subvolumes become directories.
pub(crate) fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(status.success());
}

/// Puts a snapshot of each subvolume of one store in the place of its copy in another.
fn make_snapshots(from: &Path, to: &Path) {
    let (from, to) = (dirs(from, "btrfs"), dirs(to, "btrfs"));
    for name in names(&from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if fs::metadata(&from).is_ok_and(|found| found.ino() == SUBVOLUME) {
            fs::remove_dir_all(&to).expect("removed");
            let output = Command::new("btrfs").args(["subvolume", "snapshot"]).arg(&from).arg(&to).output();
            assert!(output.is_ok_and(|output| output.status.success()), "no snapshot of {}", from.display());
        }
    }
}

/// The inode of the root of each subvolume.
pub(crate) const SUBVOLUME: u64 = 256;

pub(crate) fn repair(root: &Path, arguments: &[&str]) -> Outcome {
    run(root, [&["repair"], arguments].concat())
}

pub(crate) fn document(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stderr))
}

/// Writes what a plan mends and leaves, in lines.
pub(crate) fn lines(roles: &Roles, how: &str, outcome: &Outcome) -> String {
    let document = document(outcome);
    let mut lines = format!("  {how}: exit {}\n", outcome.status.code().expect("an exit code"));
    let list = |key: &str| document["plan"][key].as_array().expect("a list").clone();
    for mend in list("mends") {
        writeln!(lines, "    mend {}: {}", text(&mend, "subject"), text(&mend, "act")).expect("text");
    }
    for left in list("left") {
        writeln!(lines, "    left {} {}: {}", text(&left, "code"), text(&left, "subject"), text(&left, "needs"))
            .expect("text");
    }
    lines.lines().map(|line| format!("{}\n", roles.steady(line))).collect()
}

/// Fails where anything is found that the plan did not leave.
#[track_caller]
pub(crate) fn assert_mended(defect: &str, root: &Path, plan: &Value) {
    let (_, found) = verify(root, &[]);
    let name = |found: &Value| {
        let subject = text(found, "subject").rsplit('/').next().unwrap_or_default().to_owned();
        subject.trim_start_matches("sha256:").to_owned()
    };
    let left: Vec<String> = plan["left"].as_array().expect("a list").iter().map(name).collect();
    let more: Vec<&Value> =
        findings(&found).iter().filter(|found| found["severity"] != "note" && !left.contains(&name(found))).collect();
    assert!(more.is_empty(), "{defect}: {more:#?}");
}

/// Mends what there is to mend, and takes it back; returns what was said.
pub(crate) fn mend_and_undo(defect: &str, root: &Path, arguments: &[&str]) -> Outcome {
    let before = Untouched::note(root);
    let outcome = repair(root, &[&["-y", "--json"], arguments].concat());
    let code = outcome.status.code();
    assert!(matches!(code, Some(0 | 3)), "{defect}: {code:?}: {}", outcome.stderr);
    let document = document(&outcome);
    if document["report"].is_object() {
        assert!(document["report"]["skipped"].as_array().is_some_and(Vec::is_empty), "{defect}: {document:#}");
        assert_mended(defect, root, &document["plan"]);
        let _ = repair(root, &["--undo"]).done();
    }
    before.assert_restored();
    outcome
}

/// What can be told of a store before and after a crash: all but times that do not matter, and the trash.
pub(crate) fn state(root: &Path) -> Tree {
    // What is in the trash may be a hard link to what is not.
    let names = names(root).into_iter().filter(|name| !matches!(&name[..], ".dockpack" | "volumes"));
    Tree::read_entries(root, names).without_times()
}

/// Defects that take every kind of step.
/// What a daemon sees of a store: everything but times outside layers' trees, and the trash.
pub(crate) fn seen(root: &Path, driver: &str) -> [Tree; 2] {
    let trees = Tree::read(&root.join(driver)).only(is_below_tree);
    [state(root), trees]
}

/// Fails where a daemon would see anything else in a store than in another. Hard links between layers count.
#[track_caller]
pub(crate) fn assert_as_before(wanted: &Path, found: &Path, driver: &str) {
    for (wanted, found) in seen(wanted, driver).iter().zip(&seen(found, driver)) {
        assert_same(wanted, found, Allow::REBUILT);
    }
}

/// Takes the names away that `repair` gives to images which had none before they were lost.
pub(crate) fn forget_rescued(root: &Path, driver: &str) {
    forget(root, driver, |repository, _| repository == "dockpack-rescued");
}

/// Takes the references by digest away: no manifest proves them, so no archive and no other store gives them back.
pub(crate) fn forget_digests(root: &Path, driver: &str) {
    forget(root, driver, |_, reference| reference.contains('@'));
}

/// Takes references away; the file stays byte for byte where there are none of them.
fn forget(root: &Path, driver: &str, is_meant: impl Fn(&str, &str) -> bool) {
    let file = root.join("image").join(driver).join("repositories.json");
    let text = fs::read_to_string(&file).expect("names");
    let mut names: Value = serde_json::from_str(&text).expect("JSON");
    let repositories = names["Repositories"].as_object_mut().expect("repositories");
    repositories.retain(|repository, references| {
        let references = references.as_object_mut().expect("references");
        let before = references.len();
        references.retain(|reference, _| !is_meant(repository, reference));
        before == 0 || !references.is_empty()
    });
    let left = names.to_string();
    if left.len() < text.trim_end().len() {
        fs::write(&file, left).expect("written");
    }
}
