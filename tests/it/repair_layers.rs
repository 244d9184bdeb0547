//! `repair` of layers: neighbours that are lost together, and attributes that a copy of a data root has lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::command::run;
use crate::support::repair::{Lab, assert_as_before, document, repair, seen};
use crate::support::store::{Contents, dirs, names, sha256, stack, temp_dir, unpack};
use crate::support::tree::{Allow, Untouched, assert_same};
use crate::verify::{damage, findings, verify};

/// Chain IDs and directories of the layers of an image, the lowest first.
pub(crate) fn layers(root: &Path, driver: &str, image: &str) -> Vec<(String, String)> {
    let contents = Contents::read(root, driver);
    let chains = stack(&contents.images[&contents.references[image]]);
    chains.into_iter().map(|(chain, _)| (chain.clone(), contents.layers[&chain].clone())).collect()
}

/// Takes entries and directories of layers away.
pub(crate) fn lose(root: &Path, driver: &str, layers: &[(String, String)]) {
    for (chain, id) in layers {
        fs::remove_dir_all(root.join("image").join(driver).join("layerdb/sha256").join(chain)).expect("removed");
        fs::remove_dir_all(dirs(root, driver).join(id)).expect("removed");
    }
}

#[track_caller]
fn assert_whole(root: &Path, said: &str) {
    let (code, report) = verify(root, &[]);
    let wrong: Vec<&Value> = findings(&report).iter().filter(|found| found["severity"] != "note").collect();
    assert!(code == 0 && wrong.is_empty(), "{said}: {wrong:#?}");
}

/// Neighbours that are lost, entries and directories, are rebuilt in one run.
fn neighbours(fixture: &'static str) {
    neighbours_of(Lab::new(fixture));
}

fn neighbours_of(lab: Lab) {
    let driver = lab.driver();
    let all = layers(&lab.at("base"), driver, "nginx:alpine");
    let archive = lab.archive();
    let top = all.len();
    for (said, lost) in [
        ("the two topmost", &all[top - 2..]),
        ("the three topmost", &all[top - 3..]),
        ("two in the middle", &all[2..4]),
        ("the base and the one above", &all[..2]),
        ("all", &all[..]),
    ] {
        let root = lab.copy("base", "root");
        lose(&root, driver, lost);
        let untouched = Untouched::note(&root);
        let done = repair(&root, &["-y", "--json", "--from", archive.to_str().expect("text")]).done();
        let remaining = document(&done)["report"]["remaining"].as_array().expect("a list").clone();
        // A layer that no image has, and that stands on the lost base, is whole and does not share files with it any more:
        // the next run sees that.
        let is_apart = driver == "overlay" && lost.contains(&all[0]);
        if is_apart {
            assert!(remaining.iter().all(|left| left["code"] == "node-not-shared"), "{said}: {remaining:#?}");
            let _ = repair(&root, &["-y"]).done();
        } else {
            assert!(remaining.is_empty(), "{said}: {remaining:#?}");
        }
        assert_whole(&root, said);
        assert_as_before(&lab.at("base"), &root, driver);
        if is_apart {
            let _ = repair(&root, &["--undo"]).done();
        }
        let _ = repair(&root, &["--undo"]).done();
        untouched.assert_restored();
    }
}

#[test]
fn lost_neighbours_of_overlay2() {
    neighbours("28-overlay2");
}

#[test]
fn lost_neighbours_of_overlay() {
    neighbours("20-overlay");
}

#[test]
fn lost_neighbours_of_fuse_overlayfs() {
    neighbours_of(Lab::of_driver("28-overlay2", "fuse-overlayfs"));
}

#[test]
fn lost_neighbours_of_btrfs() {
    neighbours_of(Lab::of_driver("28-overlay2", "btrfs"));
}

/// A layer that is damaged and whose entry cannot be read is made anew, entry and all: no file of the old entry is
/// written besides.
#[test]
fn an_entry_that_is_made_anew_is_one_piece() {
    let lab = Lab::new("28-overlay2");
    let (driver, archive) = (lab.driver(), lab.archive());
    let root = lab.copy("base", "root");
    let (chain, id) = layers(&root, driver, "nginx:alpine").pop().expect("a layer");
    let file = root.join("image").join(driver).join("layerdb/sha256").join(chain).join("cache-id");
    fs::remove_file(&file).and_then(|()| fs::create_dir(&file)).expect("a directory");
    let tree = dirs(&root, driver).join(id).join("diff");
    fs::remove_dir_all(&tree).and_then(|()| fs::create_dir(&tree)).expect("an empty tree");
    let before = Untouched::note(&root);
    let _ = repair(&root, &["-y", "--from", archive.to_str().expect("text")]).done();
    assert_whole(&root, "an entry");
    let _ = repair(&root, &["--undo"]).done();
    before.assert_restored();
}

#[test]
fn lost_neighbours_of_vfs() {
    neighbours_of(Lab::of_driver("28-overlay2", "vfs"));
}

/// Copies the home of the driver as somebody does who forgets an option, or changes it in its place.
pub(crate) fn spoil(root: &Path, driver: &str, how: &[&str]) {
    let home = root.join(driver);
    let run = |program: &str, arguments: &[&str], paths: &[&Path]| {
        let done = Command::new(program).args(arguments).args(paths).output().expect("it runs");
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    };
    match how {
        ["chmod", arguments @ ..] => run("chmod", arguments, &[&home]),
        ["chown", arguments @ ..] => {
            let inside = fs::read_dir(&home).expect("the home").map(|entry| entry.expect("an entry").path());
            inside.for_each(|path| run("chown", arguments, &[&path]));
        }
        arguments => {
            let copy = root.join("copy");
            run("cp", arguments, &[&home, &copy]);
            fs::remove_dir_all(&home).expect("removed");
            fs::rename(&copy, &home).expect("renamed");
        }
    }
}

/// What a copy or a change has taken from all layers comes back out of the headers of their tars.
fn spoiled(fixture: &'static str) {
    spoiled_of(Lab::new(fixture));
}

fn spoiled_of(lab: Lab) {
    let driver = lab.driver();
    for how in [
        &["chmod", "-R", "777"][..],
        &["chown", "-R", "1000:1000"],
        &["-r"],
        // As rsync -a does without -X.
        &["-r", "--preserve=mode,ownership,timestamps,links"],
    ] {
        let root = lab.copy("base", "root");
        spoil(&root, driver, how);
        let (_, report) = verify(&root, &[]);
        if findings(&report).is_empty() {
            // These images have nothing that it loses.
            assert!(driver != "overlay2" && how.len() == 2 && how[0] == "-r", "{how:?}");
            continue;
        }
        let untouched = Untouched::note(&root);
        let done = repair(&root, &["-y", "--json"]);
        assert_eq!(done.status.code(), Some(0), "{how:?}: {} {:#}", done.stderr, document(&done)["plan"]["left"]);
        assert_eq!(document(&done)["report"]["remaining"], Value::Array(Vec::new()), "{how:?}");
        assert_whole(&root, &how.join(" "));
        let _ = repair(&root, &["--undo"]).done();
        untouched.assert_restored();
    }
}

#[test]
fn spoiled_layers_of_overlay2() {
    spoiled("28-overlay2");
}

#[test]
fn spoiled_layers_of_overlay() {
    spoiled("20-overlay");
}

#[test]
fn spoiled_layers_of_fuse_overlayfs() {
    spoiled_of(Lab::of_driver("28-overlay2", "fuse-overlayfs"));
}

#[test]
fn spoiled_layers_of_vfs() {
    spoiled_of(Lab::of_driver("28-overlay2", "vfs"));
}

/// Where one thing is wrong, all the rest of the layer stays as it is, to the nanosecond.
fn one_thing(fixture: &'static str, defects: &[&str]) {
    let lab = Lab::new(fixture);
    for defect in defects {
        let root = lab.damaged("root", &[defect]);
        let _ = repair(&root, &["-y"]).done();
        let (wanted, found) = (seen(&lab.at("base"), lab.driver()), seen(&root, lab.driver()));
        for (wanted, found) in wanted.iter().zip(&found) {
            assert_same(wanted, found, Allow::REBUILT);
        }
    }
}

const TOLD: [&str; 10] = [
    "file-mode",
    "file-owner",
    "file-xattr",
    "capability-lost",
    "file-mtime",
    "link-target",
    "device-number",
    "file-added",
    "whiteout-removed",
    "opaque-lost",
];

#[test]
fn one_thing_of_overlay2() {
    one_thing("28-overlay2", &TOLD);
}

/// Docker 20.10 sets no extended attributes that are empty, which headers tell.
#[test]
fn one_thing_of_an_older_overlay2() {
    one_thing("20-overlay2", &["capability-lost", "file-mode"]);
}

/// Content that cannot be proved any more needs an archive, which is said.
#[test]
fn content_is_not_guessed() {
    let lab = Lab::new("28-overlay2");
    let root = lab.damaged("root", &["byte-changed", "file-mode"]);
    let before = Untouched::note(&root);
    let refused = repair(&root, &["-y"]);
    assert_eq!(refused.status.code(), Some(3), "{}", refused.stderr);
    let said = String::from_utf8(refused.stdout).expect("text");
    assert!(said.contains("give --from an archive, or another store, that holds layer"), "{said}");
    before.assert_restored();
}

/// Hard links between layers are lost where a data root is copied without them: verify tells, and repair makes them again.
#[test]
fn files_that_layers_of_overlay_shared() {
    let lab = Lab::new("20-overlay");
    let root = lab.copy("base", "root");
    let room = |root: &Path| {
        let du = Command::new("du").args(["-s", "-B1"]).arg(root.join("overlay")).output().expect("du");
        let text = String::from_utf8(du.stdout).expect("text");
        text.split_whitespace().next().and_then(|bytes| bytes.parse::<u64>().ok()).expect("bytes")
    };
    let copies = || {
        let usage: Value = serde_json::from_slice(&run(&root, ["df", "--json"]).done().stdout).expect("a document");
        usage["copies"]["disk"].as_u64()
    };
    let shared = room(&root);
    assert_eq!(copies(), None);
    spoil(&root, "overlay", &["-r", "--preserve=mode,ownership,timestamps,xattr"]);
    assert!(room(&root) > shared * 2, "{} of {shared}", room(&root));
    // What containers have of a layer's files is told by nothing.
    let (told, more) = (copies().expect("there are some"), room(&root) - shared);
    assert!((more * 3 / 4..=more).contains(&told), "{told} of {more}");
    assert!(run(&root, ["df"]).done().stderr.contains("repair` links them again"));
    let (code, report) = verify(&root, &[]);
    let not_shared: Vec<&Value> = findings(&report).iter().filter(|found| found["code"] == "node-not-shared").collect();
    assert!(code == 0 && !not_shared.is_empty(), "{report:#}");
    let untouched = Untouched::note(&root);
    let done = repair(&root, &["-y", "--json"]).done();
    assert_eq!(document(&done)["report"]["remaining"], Value::Array(Vec::new()));
    assert_whole(&root, "linked again");
    let _ = repair(&root, &["--undo"]).done();
    untouched.assert_restored();
    let _ = repair(&root, &["-y"]).done();
    let _ = run(&root, ["gc", "--purge", "-y"]).done();
    assert!(room(&root) < shared * 11 / 10, "{} of {shared}", room(&root));
    assert_eq!(copies(), None);
}

/// What a layer or container is stacked on is written only where something proves it: with the images lost, a lost or wrong
/// `parent` does not mean that nothing is below.
#[test]
fn what_is_below_is_not_guessed() {
    let cases =
        [("mount-parent-gone", "byte-changed"), ("parent-of-another", "lower-gone"), ("parent-gone", "lower-gone")];
    for (of_records, of_driver) in cases {
        let temp = temp_dir();
        unpack("28-overlay2", temp.path());
        damage(of_records, temp.path());
        damage(of_driver, temp.path());
        let configs = temp.path().join("image/overlay2/imagedb/content/sha256");
        for name in names(&configs) {
            fs::remove_file(configs.join(name)).expect("removed");
        }
        let before = lowers(temp.path());
        assert!(before.len() > 10, "{of_records}");
        let _ = repair(temp.path(), &["-y"]);
        assert_eq!(lowers(temp.path()), before, "{of_records} {of_driver}");
    }
}

/// Reads what each directory says that it is stacked on.
fn lowers(root: &Path) -> BTreeMap<String, String> {
    let home = root.join("overlay2");
    let read = |name: String| Some((name.clone(), fs::read_to_string(home.join(name).join("lower")).ok()?));
    names(&home).into_iter().filter_map(read).collect()
}

/// Lets a layer name a directory that is not there.
fn misname(root: &Path, driver: &str, (chain, _): &(String, String)) {
    let path = root.join("image").join(driver).join("layerdb/sha256").join(chain).join("cache-id");
    fs::write(path, sha256(chain.as_bytes())).expect("written");
}

/// Copies the directory of a layer to one that nothing names.
fn copy_of(root: &Path, driver: &str, (chain, id): &(String, String)) -> PathBuf {
    let copy = dirs(root, driver).join(sha256(id.as_bytes()).replace(|letter: char| letter.is_ascii_digit(), "0"));
    let done = Command::new("cp").arg("-a").arg(dirs(root, driver).join(id)).arg(&copy).status().expect("cp");
    assert!(done.success(), "{chain}");
    copy
}

/// A layer that names a directory which is not there gets the one that proves to be its own, and is not rebuilt.
fn found_again(lab: &Lab, lost: &[usize]) {
    let driver = lab.driver();
    let root = lab.copy("base", "root");
    let all = layers(&root, driver, "nginx:alpine");
    for layer in lost {
        misname(&root, driver, &all[*layer]);
        // The copy of another layer proves nothing, and one of the layer itself is not what the others stand on.
        let _ = copy_of(&root, driver, &all[layer - 1]);
        if driver == "overlay2" {
            let _ = copy_of(&root, driver, &all[*layer]);
        }
    }
    let before = Untouched::note(&root);
    assert_eq!(verify(&root, &[]).0, 3);
    let done = repair(&root, &["-y", "--json"]).done();
    let plan = &document(&done)["plan"];
    assert_eq!(plan["layers"], Value::Array(Vec::new()), "{plan:#}");
    assert_eq!(layers(&root, driver, "nginx:alpine"), all, "{lost:?}");
    assert_whole(&root, "found again");
    let _ = repair(&root, &["--undo"]).done();
    before.assert_restored();
}

#[test]
fn a_directory_of_overlay2_is_found_again() {
    let lab = Lab::new("28-overlay2");
    for lost in [&[2][..], &[1, 2], &[5], &[1, 4, 5]] {
        found_again(&lab, lost);
    }
}

#[test]
fn a_directory_of_overlay_is_found_again() {
    let lab = Lab::new("20-overlay");
    found_again(&lab, &[2]);
}

#[test]
fn a_directory_of_vfs_is_found_again() {
    let lab = Lab::of_driver("28-overlay2", "vfs");
    found_again(&lab, &[2]);
    found_again(&lab, &[5]);
}

/// A directory that was changed proves nothing: then the layer is rebuilt, and only out of something else.
#[test]
fn a_directory_that_proves_nothing_is_left() {
    let lab = Lab::new("28-overlay2");
    let (driver, archive) = (lab.driver(), lab.archive());
    let root = lab.copy("base", "root");
    let layer = layers(&root, driver, "nginx:alpine").swap_remove(1);
    let changed = dirs(&root, driver).join(&layer.1).join("diff/etc/nginx/conf.d/a.conf");
    fs::write(changed, "changed").expect("written");
    misname(&root, driver, &layer);
    let before = Untouched::note(&root);
    let said = String::from_utf8(repair(&root, &["--dry-run"]).stdout).expect("text");
    assert!(said.contains(&format!("that holds layer sha256:{}", layer.0)), "{said}");
    before.assert_restored();
    let _ = repair(&root, &["-y", "--from", archive.to_str().expect("text")]).done();
    assert_ne!(layers(&root, driver, "nginx:alpine")[1], layer);
    assert_whole(&root, "rebuilt");
}
