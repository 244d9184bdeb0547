//! Subvolumes that a copy to another btrfs made plain directories of: `verify` says what works and what does not,
//! and `repair` makes subvolumes of them again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

#[cfg(feature = "crash-points")]
use crate::repair_crash::{CRASHES, UNDO_CRASHES, crash_at};
use crate::support::command::{run, save};
use crate::support::disk::Disk;
use crate::support::engine::Engine;
use crate::support::repair::{Lab, SUBVOLUME, copy, document, repair, state};
use crate::support::store::{dirs, names, temp_dir, unpack};
use crate::support::tree::{Allow, Untouched, assert_same};
use crate::verify::{findings, text, verify};

const CODE: &str = "driver-subvolume-missing";

/// Returns how many directories of layers and containers there are, and how many of them are subvolumes.
fn count(root: &Path) -> (usize, usize) {
    let dirs = dirs(root, "btrfs");
    let names = names(&dirs);
    let is_subvolume = |name: &&String| fs::metadata(dirs.join(name)).expect("a directory").ino() == SUBVOLUME;
    (names.len(), names.iter().filter(is_subvolume).count())
}

/// Returns what a report says of plain directories: how bad each is, and what it breaks.
fn plain(report: &Value) -> Vec<(String, BTreeSet<String>)> {
    let found = findings(report).iter().filter(|found| text(found, "code") == CODE);
    let broken = |found: &Value, kind: &str| -> Vec<String> {
        let all = found["breaks"].as_array().expect("a list").iter();
        let of_kind = all.flat_map(|one| one[kind].as_array().into_iter().flatten().map(|_| text(one, "effect")));
        of_kind.map(|effect| format!("{kind} {effect}")).collect()
    };
    let said = |found: &Value| [broken(found, "images"), broken(found, "containers")].concat().into_iter().collect();
    found.map(|found| (text(found, "severity").to_owned(), said(found))).collect()
}

/// A store whose subvolumes a copy made directories of.
fn flat(lab: &Lab, name: &str) {
    let root = lab.at(name);
    let _ = fs::remove_dir_all(&root);
    copy(&lab.at("base"), &root);
    assert_eq!(count(&root).1, 0);
}

/// All subvolumes are plain directories. They become subvolumes again; an undo gives the directories back.
#[test]
fn plain_directories_become_subvolumes() {
    let lab = Lab::of_driver("28-overlay2", "btrfs");
    flat(&lab, "root");
    let root = lab.at("root");
    let all = count(&root).0;
    let before = Untouched::note(&root);
    let (code, report) = verify(&root, &[]);
    let said = plain(&report);
    assert_eq!((code, said.len()), (3, all));
    assert!(said.iter().all(|(severity, _)| severity == "damage"), "{said:?}");
    let effects: BTreeSet<&String> = said.iter().flat_map(|(_, effects)| effects).collect();
    assert_eq!(effects, [&"images create".to_owned()].into());

    for _ in 0..2 {
        let mended = repair(&root, &["-y", "--json"]).done();
        assert_eq!(document(&mended)["report"]["mended"], all);
        assert_eq!((verify(&root, &[]).0, count(&root)), (0, (all, all)));
        assert_same(&state(&lab.at("base")), &state(&root), Allow::NOTHING);
        let _ = repair(&root, &["--undo"]).done();
        assert_eq!(count(&root), (all, 0));
        before.assert_restored();
    }
}

/// A layer that is plain and damaged besides is rebuilt, out of itself or out of an archive, on layers that are plain too.
#[test]
fn plain_directories_with_damage_are_rebuilt() {
    let lab = Lab::of_driver("28-overlay2", "btrfs");
    let (root, archive) = (lab.at("root"), lab.archive());
    let from = ["-y", "--from", archive.to_str().expect("text")];
    for (what, arguments) in [("mode", &from[..1]), ("content", &from[..])] {
        flat(&lab, "root");
        let all = count(&root).0;
        let dirs = dirs(&root, "btrfs");
        // A layer that stands on others: its tree has what they have.
        let layers: Vec<_> =
            names(&dirs).into_iter().map(|name| dirs.join(name).join("etc/nginx/nginx.conf")).collect();
        let file = layers.iter().find(|file| file.exists()).expect("a layer of nginx");
        match what {
            "mode" => fs::set_permissions(file, PermissionsExt::from_mode(0o600)).expect("its mode"),
            _ => fs::write(file, "other").expect("written"),
        }
        let damaged = Untouched::note(&root);
        let (code, report) = verify(&root, &[]);
        assert!(code == 3 && findings(&report).iter().any(|found| text(found, "code") != CODE), "{report:#}");
        let _ = repair(&root, arguments).done();
        assert_eq!((verify(&root, &[]).0, count(&root)), (0, (all, all)), "{what}");
        let _ = repair(&root, &["--undo"]).done();
        damaged.assert_restored();
    }
}

/// Wherever a repair or its undo is stopped, the next run ends in the same state, and no subvolume is left over.
#[cfg(feature = "crash-points")]
#[test]
fn a_crash_while_subvolumes_are_made() {
    let lab = Lab::of_driver("28-overlay2", "btrfs");
    flat(&lab, "root");
    let (root, all) = (lab.at("root"), count(&lab.at("root")).0);
    let before = Untouched::note(&root);
    let is_undone = || {
        before.assert_restored();
        assert!(!root.join(".dockpack").exists());
        assert_eq!(subvolumes_elsewhere(&lab), Vec::<String>::new());
    };
    for point in CRASHES {
        for time in 1.. {
            let is_reached = crash_at(point, time, &root, &["-y"]);
            assert!(is_reached || time > 1, "{point} is never passed");
            let _ = repair(&root, &["-y"]).done();
            assert_same(&state(&lab.at("base")), &state(&root), Allow::NOTHING);
            assert_eq!(count(&root), (all, all), "{point}#{time}");
            let _ = repair(&root, &["--undo"]).done();
            is_undone();
            if !is_reached {
                break;
            }
        }
    }
    for point in UNDO_CRASHES {
        for time in 1.. {
            let _ = repair(&root, &["-y"]).done();
            let is_reached = crash_at(point, time, &root, &["--undo"]);
            assert!(is_reached || time > 1, "{point} is never passed");
            // Whatever takes the lock finishes first.
            let _ = run(&root, ["gc", "-y", "--only", "stale-driver"]);
            is_undone();
            if !is_reached {
                break;
            }
        }
    }
}

/// Lists the subvolumes that are none of the untouched store's.
#[cfg(feature = "crash-points")]
fn subvolumes_elsewhere(lab: &Lab) -> Vec<String> {
    let disk = lab.at("");
    let listed =
        std::process::Command::new("btrfs").args(["subvolume", "list"]).arg(&disk).output().expect("btrfs runs");
    let listed = String::from_utf8(listed.stdout).expect("text");
    let paths = listed.lines().filter_map(|line| line.split_once(" path "));
    paths.map(|(_, path)| path.to_owned()).filter(|path| !path.starts_with("base/")).collect()
}

fn says(output: &Output) -> (bool, String) {
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A store that a daemon made is copied to another disk. What `verify` says of it is what a daemon does; after a repair the
/// daemon makes new things again.
fn copied_to_another_disk(version: &'static str) {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    let [old, new] = ["old", "new"].map(|name| Disk::make("btrfs", &at(&format!("{name}.img")), 2048));
    unpack("28-overlay2", &at("fixture"));
    save(&at("fixture"), &["alpine:3.4", "nginx:alpine"], &at("fixture.tar"));
    fs::create_dir_all(old.path().join("lab/root")).expect("directories");
    fs::create_dir_all(new.path().join("lab")).expect("a directory");
    let engine = Engine::start(version, "btrfs", &old.path().join("lab"));
    let loaded = engine.try_docker(&["load", "-q"], fs::File::open(at("fixture.tar")).expect("an archive"));
    assert!(loaded.status.success(), "{}", says(&loaded).1);
    engine.fill(&["bk"]);
    engine.docker(&["create", "--name", "kept", "--network", "none", "alpine:3.4", "sh", "-c", "echo more >>/written"]);
    engine.docker(&["start", "-a", "kept"]);
    engine.stop();
    let root = new.path().join("lab/root");
    copy(&old.path().join("lab/root"), &root);
    assert_eq!(count(&root).1, 0);
    let (code, report) = verify(&root, &[]);
    assert_eq!(code, 3);
    for (severity, breaks) in plain(&report) {
        assert!(severity == "damage" || breaks.is_empty(), "{severity} {breaks:?}");
        assert!(breaks.iter().all(|what| what == "images create"), "{breaks:?}");
    }
    assert_eq!(plain(&report).iter().filter(|(severity, _)| severity == "warning").count(), 2, "{report:#}");
    let context = at("context");
    fs::create_dir(&context).expect("a directory");
    fs::write(context.join("Dockerfile"), "FROM nginx:alpine\nCOPY Dockerfile /built\n").expect("a file");
    let create = ["create", "--network", "none", "nginx:alpine", "cat", "/etc/alpine-release"];
    let engine = Engine::start(version, "btrfs", &new.path().join("lab"));
    engine.docker(&["start", "-a", "kept"]);
    for refused in [&create[..], &["commit", "kept", "more:1"]] {
        let (done, said) = says(&engine.try_docker(refused, Stdio::null()));
        assert!(!done && said.contains("Failed to create btrfs snapshot"), "{refused:?}: {said}");
    }
    let (done, said) = says(&engine.buildkit(&context));
    assert!(!done && said.contains("btrfs snapshot"), "{said}");
    engine.stop();

    let (before, all) = (Untouched::note(&root), count(&root).0);
    let _ = repair(&root, &["-y"]).done();
    assert_eq!((verify(&root, &[]).0, count(&root)), (0, (all, all)));
    let _ = repair(&root, &["--undo"]).done();
    before.assert_restored();
    let _ = repair(&root, &["-y"]).done();
    let engine = Engine::start(version, "btrfs", &new.path().join("lab"));
    engine.docker(&create);
    engine.docker(&["run", "--rm", "--network", "none", "bk:1"]);
    engine.docker(&["start", "-a", "kept"]);
    engine.docker(&["commit", "kept", "more:1"]);
    assert_eq!(engine.docker(&["run", "--rm", "--network", "none", "more:1", "cat", "/written"]), "more\n".repeat(3));
    let built = engine.buildkit(&context);
    assert!(built.status.success(), "{}", says(&built).1);
    engine.stop();
    assert_eq!(verify(&root, &[]).0, 0);

    // What the container has written since would be lost.
    let now = Untouched::note(&root);
    let refused = repair(&root, &["--undo"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("/written has changed since"), "{}", refused.stderr);
    now.assert_restored();
    let _ = run(&root, ["gc", "--purge", "-y"]).done();
    assert_eq!(verify(&root, &[]).0, 0);
}

#[test]
fn daemon_28_on_subvolumes_that_were_plain() {
    copied_to_another_disk("28");
}

#[test]
fn daemon_20_on_subvolumes_that_were_plain() {
    copied_to_another_disk("20");
}
