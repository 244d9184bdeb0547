//! `copy`: images that go from one place to another.

use std::fs;
use std::path::Path;

use crate::drivers::assert_clean;
use crate::round_trip::Lab;
use crate::support::command::{DOCKPACK, HURRY, Outcome, load, outcome, save};
use crate::support::store::{Contents, REAL, assert_nothing_else, assert_same_images, memory_dir, names};
use crate::support::tree::{Allow, Untouched, assert_same};
use crate::verify::damage;

/// Runs `dockpack copy`.
pub(crate) fn copy(from: &str, to: &str, more: &[&str]) -> Outcome {
    let mut command = assert_cmd::Command::new(DOCKPACK);
    command.env_clear().env(HURRY, "1").args(["copy", from, to]).args(more);
    outcome(command)
}

/// What `copy` calls a store.
pub(crate) fn store(root: &Path) -> String {
    format!("store:{}", root.display())
}

fn said(outcome: &Outcome) -> String {
    String::from_utf8(outcome.stdout.clone()).expect("text")
}

#[test]
fn a_copied_store_is_as_one_that_was_loaded() {
    for fixture in REAL {
        let lab = Lab::new(fixture);
        let (copied, loaded, archive) = (lab.empty("copied"), lab.empty("loaded"), lab.at("all.tar"));
        let untouched = Untouched::note(&lab.root());
        let outcome = copy(&store(&lab.root()), &store(&copied), &[]).done();
        assert!(said(&outcome).contains("Copied image: nginx:alpine\n"), "{}", said(&outcome));
        assert!(outcome.stderr.contains("copied: "), "{}", outcome.stderr);
        untouched.assert();
        assert_same_images(&lab.root(), &copied, lab.driver);
        assert_nothing_else(&copied, lab.driver);
        save(&lab.root(), &["--all"], &archive);
        let _ = load(&loaded, &archive, &[]);
        let contents = Contents::read(&copied, lab.driver);
        assert_eq!(contents, Contents::read(&loaded, lab.driver));
        assert_same(&contents.layer_trees(&loaded), &contents.layer_trees(&copied), Allow::REBUILT);
        assert_same(&contents.metadata(&loaded), &contents.metadata(&copied), Allow::NOTHING);
    }
}

#[test]
fn what_is_there_is_not_copied() {
    let lab = Lab::new("28-overlay2");
    let target = lab.empty("target");
    let (from, to) = (store(&lab.root()), store(&target));
    let _ = copy(&from, &to, &["nginx:alpine"]).done();
    let layers = Contents::read(&target, lab.driver).layers.len();
    let again = copy(&from, &to, &["nginx:alpine"]).done();
    assert!(again.stderr.contains("0 new layers: 0 B"), "{}", again.stderr);
    let kept = Untouched::note(&target.join("overlay2"));
    let foreseen = copy(&from, &to, &["--dry-run", "nginx:alpine"]).done();
    assert!(foreseen.stderr.contains(&format!("0 B; {layers} layers there already")), "{}", foreseen.stderr);
    kept.assert();
    let _ = copy(&from, &to, &[]).done();
    assert_same_images(&lab.root(), &target, lab.driver);
}

#[test]
fn a_dry_run_of_copy_changes_nothing() {
    let lab = Lab::new("28-overlay2");
    let target = lab.empty("target");
    let before = Untouched::note(lab.temp.path());
    let shown = copy(&store(&lab.root()), &store(&target), &["--dry-run", "nginx:alpine"]).done();
    assert!(said(&shown).contains("nginx:alpine") && shown.stderr.contains("would copy: 1 image"), "{}", shown.stderr);
    before.assert();
}

#[test]
fn copies_from_and_to_archives_are_saves_and_loads() {
    let lab = Lab::new("20-overlay2");
    let (saved, copied) = (lab.at("saved.tar.zst"), lab.at("copied.tar.zst"));
    save(&lab.root(), &["nginx:alpine", "bk:1"], &saved);
    let _ = copy(&store(&lab.root()), &format!("archive:{}", copied.display()), &["nginx:alpine", "bk:1"]).done();
    assert!(fs::read(&saved).expect("one") == fs::read(&copied).expect("other"), "the archives differ");
    let unpacked = format!("oci:{}", lab.at("unpacked").display());
    let _ = copy(&store(&lab.root()), &unpacked, &[]).done();
    for (name, from) in [("one", format!("archive:{}", copied.display())), ("two", unpacked)] {
        let target = lab.empty(name);
        let _ = copy(&from, &store(&target), &["nginx:alpine"]).done();
        let found = Contents::read(&target, lab.driver);
        assert_eq!(found.references.keys().collect::<Vec<_>>(), ["nginx:alpine"]);
        assert_clean(&target);
    }
}

#[test]
fn copies_that_make_no_sense() {
    let lab = Lab::new("28-overlay2");
    let target = lab.empty("target");
    let (from, to) = (store(&lab.root()), store(&target));
    let refused = copy("archive:a.tar", "archive:b.tar", &[]).failed(2);
    assert!(refused.stderr.contains("one of the two has to be a store"), "{}", refused.stderr);
    let refused = copy(&from, &to, &["--root", "/nowhere"]).failed(2);
    assert!(refused.stderr.contains("--root and --driver mean none of them"), "{}", refused.stderr);
    let refused = copy(&from, "archive:a.tar", &["--dry-run"]).failed(2);
    assert!(refused.stderr.contains("--dry-run shows what a store would get"), "{}", refused.stderr);
    let refused = copy("/var/lib/docker", &to, &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stderr.contains("it is none of store:[DRIVER@]ROOT"), "{}", refused.stderr);
    let refused = copy(&from, &to, &["nginx:alpin"]).failed(1);
    assert!(refused.stderr.contains("nginx:alpine"), "{}", refused.stderr);
    assert_eq!(names(&target), [] as [String; 0]);
    // Nothing is copied into itself, as everything is there.
    let same = copy(&from, &from, &[]).done();
    assert!(same.stderr.contains("0 new layers"), "{}", same.stderr);
}

/// What is damaged in one store does not get into another, and hints are about the store that they name.
#[test]
fn damage_is_not_copied() {
    for defect in ["byte-changed", "directory-gone", "tar-split-gone"] {
        let lab = Lab::new("28-overlay2");
        let target = lab.empty("target");
        damage(defect, &lab.root());
        let refused = copy(&store(&lab.root()), &store(&target), &[]).failed(1);
        let root = lab.root().display().to_string();
        assert!(refused.stderr.contains("layer "), "{defect}: {}", refused.stderr);
        assert!(refused.stderr.contains(&format!("dockpack --root {root} ")), "{defect}: {}", refused.stderr);
        assert!(refused.stderr.contains("name the images that you want"), "{defect}: {}", refused.stderr);
        assert!(!refused.stderr.contains("--partial"), "{defect}: {}", refused.stderr);
        assert_eq!(names(&target), [] as [String; 0], "{defect}");
    }
}

#[test]
fn a_copy_into_another_driver() {
    let lab = Lab::new("28-overlay2");
    let (vfs, back) = (lab.empty("vfs"), memory_dir());
    let _ = copy(&store(&lab.root()), &format!("store:vfs@{}", vfs.display()), &["nginx:alpine", "nasty:2"]).done();
    assert!(vfs.join("vfs/dir").is_dir());
    assert_clean(&vfs);
    let _ = copy(&store(&vfs), &format!("store:overlay2@{}", back.path().display()), &[]).done();
    assert_eq!(Contents::read(&vfs, "vfs").diffs, Contents::read(back.path(), "overlay2").diffs);
    assert_clean(back.path());
}
