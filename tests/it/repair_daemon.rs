//! What `repair` made is what a real daemon takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use serde_json::Value;

use crate::repair_layers::{layers, lose, spoil};
use crate::support::archive::tar_of;
use crate::support::engine::Engine;
use crate::support::foreign;
use crate::support::registry::Registry;
use crate::support::repair::{Lab, repair, seen};
use crate::support::store::{Contents, names, sha256, stack, temp_dir, unpack};
use crate::support::tree::{Allow, Tree};
use crate::verify::{damage, findings, verify};

/// A daemon lists, runs and saves the image, and starts the container made from it.
fn works(version: &'static str, driver: &str, root: &Path, images: &Contents, said: &str) {
    let temp = temp_dir();
    let status = Command::new("cp").arg("-a").arg(root).arg(temp.path().join("root")).status().expect("cp");
    assert!(status.success());
    let engine = Engine::start(version, driver, temp.path());
    let listed = engine.image_ids();
    assert!(images.images.keys().all(|id| listed.contains(id)), "{said}: {listed:?}");
    let id = &images.references["nginx:alpine"];
    let names = engine.docker(&["image", "ls", "--no-trunc", "nginx:alpine"]);
    assert!(names.contains(id.as_str()), "{said}: {names}");
    engine.docker(&["run", "--rm", "--network", "none", "nginx:alpine", "true"]);
    let saved = temp.path().join("saved.tar");
    for image in ["nginx:alpine", "nasty:1", "nasty:2"] {
        // The names of others are lost with a file of references.
        engine.docker(&["save", "-o", saved.to_str().expect("text"), &images.references[image]]);
    }
    engine.docker(&["start", "nginx"]);
    engine.stop();
}

/// Mended stores in which a daemon sees the same: what that is, one of them, and their defects.
type Alike = ([Tree; 2], PathBuf, Vec<String>);

/// Mends each defect, and starts a daemon on what comes of it. Stores in which a daemon sees the same are one.
fn mended_for_a_daemon(version: &'static str, fixture: &'static str) {
    let lab = Lab::new(fixture);
    let archive = lab.archive();
    let driver = lab.driver();
    let images = Contents::read(&lab.at("base"), driver);
    let kinds: Mutex<Vec<Alike>> = Mutex::new(vec![(seen(&lab.at("base"), driver), lab.at("base"), Vec::new())]);
    let left = Mutex::new(Vec::new());
    let _ = lab.for_each(|defect, root| {
        let outcome = repair(root, &["-y", "--from", archive.to_str().expect("text")]);
        match outcome.status.code() {
            Some(0) => {}
            Some(3) => {
                left.lock().expect("not poisoned").push(defect.to_owned());
                return String::new();
            }
            code => panic!("{defect}: {code:?}: {}", outcome.stderr),
        }
        let found = seen(root, driver);
        let same = |kind: &[Tree; 2]| {
            kind.iter().zip(&found).all(|(one, other)| one.deviations(other, Allow::REBUILT).is_empty())
        };
        let mut kinds = kinds.lock().expect("not poisoned");
        match kinds.iter_mut().find(|(kind, ..)| same(kind)) {
            Some((.., defects)) => defects.push(defect.to_owned()),
            None => {
                let kept = lab.at(&format!("kept-{defect}"));
                fs::rename(root, &kept).expect("renamed");
                fs::create_dir(root).expect("a directory");
                kinds.push((found, kept, vec![defect.to_owned()]));
            }
        }
        String::new()
    });
    let kinds = kinds.into_inner().expect("not poisoned");
    // References that were lost come back without those by digest, so their stores are of other kinds.
    assert!(kinds[0].2.len() >= 20, "{:?}", kinds[0].2);
    for (_, root, defects) in kinds {
        works(version, driver, &root, &images, &defects.join(", "));
    }
    let mut left = left.into_inner().expect("not poisoned");
    left.sort();
    assert!(
        left.iter().all(|defect| ["container", "init", "mount-entry"].iter().any(|word| defect.contains(word))),
        "{left:?}"
    );
}

#[test]
fn daemon_20_overlay_takes_what_was_mended() {
    mended_for_a_daemon("20", "20-overlay");
}

#[test]
fn daemon_20_overlay2_takes_what_was_mended() {
    mended_for_a_daemon("20", "20-overlay2");
}

#[test]
fn daemon_28_overlay2_takes_what_was_mended() {
    mended_for_a_daemon("28", "28-overlay2");
}

/// Two neighbours that were lost, and then all modes of the driver's home.
#[test]
fn daemon_28_overlay2_takes_what_was_lost_and_spoiled() {
    let lab = Lab::new("28-overlay2");
    let images = Contents::read(&lab.at("base"), "overlay2");
    let root = lab.copy("base", "root");
    let all = layers(&root, "overlay2", "nginx:alpine");
    lose(&root, "overlay2", &all[all.len() - 2..]);
    let _ = repair(&root, &["-y", "--from", lab.archive().to_str().expect("text")]).done();
    spoil(&root, "overlay2", &["chmod", "-R", "777"]);
    let _ = repair(&root, &["-y"]).done();
    works("28", "overlay2", &root, &images, "lost and spoiled");
}

/// A record of a registry that names another layer: pulling goes wrong by it, as `verify` says, until `repair` takes it away.
#[test]
fn daemon_28_pulls_beside_a_mended_record() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    let registry = Registry::start(temp.path());
    let image = format!("127.0.0.1:{}/pulled:1", registry.port);
    let archive = temp.path().join("pulled.tar");
    let layers = [foreign::tar("below"), foreign::tar("above")];
    fs::write(&archive, tar_of(foreign::docker(&layers))).expect("written");

    let engine = Engine::start("28", "overlay2", temp.path());
    engine.docker(&["load", "-i", archive.to_str().expect("text")]);
    engine.docker(&["tag", "evil:1", &image]);
    engine.docker(&["push", &image]);
    engine.docker(&["rmi", "evil:1", &image]);
    engine.docker(&["pull", &image]);
    engine.docker(&["rmi", &image]);
    engine.stop();
    let records = root.join("image/overlay2/distribution/diffid-by-digest/sha256");
    let (below, other) = (format!("sha256:{}", sha256(&layers[0])), lowest_layer(&root));
    let is_below = |record: &PathBuf| fs::read_to_string(record).is_ok_and(|text| text == below);
    let record = names(&records).into_iter().map(|name| records.join(name)).find(is_below).expect("a record");
    fs::write(&record, &other).expect("written");

    let (_, document) = verify(&root, &[]);
    let pull: Vec<&Value> =
        findings(&document).iter().filter(|found| found["code"] == "distribution-mismatch").collect();
    // One record or the other is wrong.
    assert_eq!(pull.len(), 2, "{document:#}");
    let engine = Engine::start("28", "overlay2", temp.path());
    let failed = engine.try_docker(&["pull", &image], Stdio::null());
    assert!(!failed.status.success(), "{}", String::from_utf8_lossy(&failed.stdout));
    engine.stop();
    let _ = repair(&root, &["-y"]).done();
    let engine = Engine::start("28", "overlay2", temp.path());
    engine.docker(&["pull", &image]);
    engine.stop();
    assert_eq!(verify(&root, &[]).0, 0);
}

/// Returns the diff ID of the lowest layer of an image.
fn lowest_layer(root: &Path) -> String {
    let contents = Contents::read(root, "overlay2");
    let (_, diff) = &stack(&contents.images[&contents.references["nginx:alpine"]])[0];
    format!("sha256:{diff}")
}

/// A store that a daemon works on is not mended.
#[test]
fn a_live_daemon_28_keeps_its_store() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    damage("lower-gone", &root);
    let engine = Engine::start("28", "overlay2", temp.path());
    for arguments in [&["-y"][..], &["--undo"]] {
        let refused = repair(&root, arguments).failed(4);
        assert!(refused.stderr.contains("is in use by dockerd"), "{}", refused.stderr);
    }
    let looked = repair(&root, &["--dry-run"]);
    assert!(looked.status.success(), "{}", looked.stderr);
    engine.stop();
    let _ = repair(&root, &["-y"]).done();
}
