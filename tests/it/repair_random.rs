//! Damage of any kind anywhere in a store, one to three at a time: `verify` and `repair` bear it.
//!
//! No command panics; `repair` never leaves more broken than there was; what it says is left is what a fresh `verify` says;
//! `--undo` gives the store as it was. Some damages for each driver; `DOCKPACK_DAMAGES=70` is so many.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::command::Outcome;
use crate::support::random::Dice;
use crate::support::repair::{Lab, SUBVOLUME, copy, document, repair, state};
use crate::support::tree::{Allow, Untouched, assert_same};
use crate::verify::{findings, text, verify};

/// Directories of records.
const DIRS: [&str; 10] = [
    "layerdb/sha256",
    "layerdb/mounts",
    "layerdb/tmp",
    "layerdb",
    "imagedb/content/sha256",
    "imagedb/content",
    "imagedb/metadata/sha256",
    "imagedb/metadata",
    "imagedb",
    "distribution",
];

/// How many runs each driver has.
const RUNS: u64 = 8;

/// Lists all that is below a directory, in an order that does not change.
fn below(dir: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        into.push(path.clone());
        if path.is_dir() && !path.is_symlink() {
            below(&path, into);
        }
    }
}

/// Does something bad to something in the store; says what.
fn harm(root: &Path, driver: &str, dice: &mut Dice) -> String {
    let mut paths = Vec::new();
    // Half of it to records, of which there are fewer and which matter more.
    match dice.below(2) {
        0 => below(&root.join("image"), &mut paths),
        _ => below(&root.join(driver), &mut paths),
    }
    if dice.below(6) == 0 && root.join("containers").exists() {
        paths.clear();
        below(&root.join("containers"), &mut paths);
    }
    let path = paths.swap_remove(dice.below(paths.len()));
    let kind = fs::symlink_metadata(&path).expect("a node").file_type();
    let is_subvolume = driver == "btrfs" && fs::metadata(&path).is_ok_and(|found| found.ino() == SUBVOLUME);
    let said = match (dice.below(6), kind) {
        (4 | 5, kind) if kind.is_dir() && is_subvolume => {
            let aside = path.with_extension("aside");
            copy(&path, &aside);
            fs::remove_dir_all(&path).expect("removed");
            fs::rename(&aside, &path).expect("renamed");
            "became a plain directory"
        }
        (0 | 1, kind) if kind.is_dir() => {
            fs::remove_dir_all(&path).expect("removed");
            "removed"
        }
        (2, kind) if kind.is_dir() => {
            fs::remove_dir_all(&path).expect("removed");
            fs::write(&path, "a file").expect("a file");
            "became a file"
        }
        (3, kind) if kind.is_dir() => {
            fs::create_dir(path.join("more")).expect("a directory");
            "has more in it"
        }
        (_, kind) if kind.is_dir() => {
            fs::set_permissions(&path, PermissionsExt::from_mode(0o705)).expect("its mode");
            "has another mode"
        }
        (0, _) => {
            fs::remove_file(&path).expect("removed");
            "removed"
        }
        (1, _) => {
            fs::remove_file(&path).expect("removed");
            symlink("/nowhere", &path).expect("a link");
            "became a link"
        }
        (2, _) => {
            fs::remove_file(&path).expect("removed");
            fs::create_dir(&path).expect("a directory");
            "became a directory"
        }
        (_, kind) if kind.is_symlink() || kind.is_char_device() || !kind.is_file() => {
            fs::remove_file(&path).expect("removed");
            "removed"
        }
        (how, _) => {
            // Another file: what shares its inode is not harmed.
            let mut bytes = fs::read(&path).expect("a file");
            let middle = bytes.len() / 2;
            match how {
                3 => bytes.truncate(middle),
                4 => bytes.clear(),
                _ => bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1),
            }
            let metadata = fs::metadata(&path).expect("a file");
            fs::remove_file(&path).expect("removed");
            fs::write(&path, bytes).expect("a file");
            fs::set_permissions(&path, metadata.permissions()).expect("its mode");
            ["cut", "emptied", "changed"][how - 3]
        }
    };
    format!("{}: {said}", path.strip_prefix(root).expect("below").display())
}

fn named(finding: &Value) -> String {
    format!("{} {}", text(finding, "code"), text(finding, "subject"))
}

/// What is damaged, and which images and containers are broken by it.
fn damaged(report: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut found, mut broken) = (BTreeSet::new(), BTreeSet::new());
    for finding in findings(report).iter().filter(|finding| finding["severity"] == "damage") {
        found.insert(named(finding));
        for breaks in finding["breaks"].as_array().expect("a list") {
            for kind in ["images", "containers"] {
                let all = breaks[kind].as_array().into_iter().flatten();
                broken.extend(all.map(|one| one["id"].as_str().expect("an ID").to_owned()));
            }
        }
    }
    (found, broken)
}

fn assert_calm(said: &str, outcome: &Outcome) {
    let code = outcome.status.code();
    assert!(
        matches!(code, Some(0..=3)) && !outcome.stderr.contains("panicked"),
        "{said}: {code:?}: {}",
        outcome.stderr
    );
}

fn damages(lab: &Lab, seed: u64) {
    let runs = std::env::var("DOCKPACK_DAMAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(RUNS);
    let archive = lab.archive();
    for run in 0..runs {
        let mut dice = Dice(seed * 1000 + run);
        let root = lab.copy("base", "root");
        let harms: Vec<String> = (0..=dice.below(3)).map(|_| harm(&root, lab.driver(), &mut dice)).collect();
        let said = format!("{} {seed} {run}: {}", lab.driver(), harms.join(", "));
        let (_, report) = verify(&root, &[]);
        let (_, broken) = damaged(&report);
        let (before, content) = (Untouched::note(&root), state(&root));
        let image = root.join("image").join(lab.driver());
        // What dockerd makes at its start, and repair where something is to lie in it; the deepest first.
        let mut was_missing: Vec<PathBuf> = DIRS.iter().map(|dir| image.join(dir)).collect();
        was_missing.retain(|dir| !dir.exists());
        let done = repair(&root, &["-y", "--json", "--from", archive.to_str().expect("text")]);
        assert_calm(&said, &done);
        if done.stdout.is_empty() || !document(&done)["report"].is_object() {
            before.assert_restored();
            continue;
        }
        assert_ne!(done.status.code(), Some(1), "{said}: {}", done.stderr);
        let (_, report) = verify(&root, &[]);
        let (left, still_broken) = damaged(&report);
        let all: BTreeSet<String> = findings(&report).iter().map(named).collect();
        let more: Vec<_> = still_broken.difference(&broken).collect();
        assert!(more.is_empty(), "{said}: broken by repair: {more:?}: {left:?}");
        let document = document(&done);
        let listed = |list: &Value| -> BTreeSet<String> {
            let list = list.as_array().expect("a list").iter();
            list.map(named).collect()
        };
        let (remaining, not_mended) = (listed(&document["report"]["remaining"]), listed(&document["plan"]["left"]));
        assert!(remaining.is_subset(&all), "{said}: {remaining:?}, {all:?}");
        let untold: Vec<_> =
            left.iter().filter(|one| !remaining.contains(*one) && !not_mended.contains(*one)).collect();
        assert!(untold.is_empty(), "{said}: {untold:?}: {document:#}");
        assert!(left.is_empty() || done.status.code() == Some(3), "{said}: {left:?}");
        assert_calm(&said, &repair(&root, &["--undo"]).done());
        if was_missing.is_empty() {
            before.assert_restored();
            continue;
        }
        for dir in was_missing {
            // Empty, or it is not removed.
            let _ = fs::remove_dir(dir);
        }
        assert_same(&content, &state(&root), Allow::NOTHING);
    }
}

#[test]
fn repair_of_anything_on_overlay() {
    damages(&Lab::new("20-overlay"), 1);
}

#[test]
fn repair_of_anything_on_overlay2() {
    damages(&Lab::new("28-overlay2"), 2);
}

#[test]
fn repair_of_anything_on_vfs() {
    damages(&Lab::of_driver("28-overlay2", "vfs"), 3);
}

#[test]
fn repair_of_anything_on_btrfs() {
    damages(&Lab::of_driver("28-overlay2", "btrfs"), 4);
}
