//! What `repair` mends, and says of what it cannot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use insta::assert_snapshot;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::command::{DOCKPACK, HURRY, Outcome, load, run, save};
use crate::support::disk::Disk;
use crate::support::engine::Engine;
use crate::support::store::{
    Contents, REAL, assert_sound, driver_of, fast_dir, is_below_tree, names, stack, temp_dir, unpack,
};
use crate::support::tree::{Allow, Tree, Untouched, assert_same};
use crate::verify::{Roles, damage, defects, findings, text, verify};

/// A store as it was, and an archive of all that is in it.
struct Lab {
    temp: TempDir,
    fixture: &'static str,
}

impl Lab {
    fn new(fixture: &'static str) -> Self {
        let lab = Self { temp: fast_dir(), fixture };
        unpack(fixture, &lab.at("base"));
        save(&lab.at("base"), &["--all"], &lab.archive());
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn archive(&self) -> PathBuf {
        self.at("all.tar.zst")
    }

    fn driver(&self) -> &'static str {
        driver_of(self.fixture)
    }

    /// Makes a store that is like another.
    fn copy(&self, of: &str, name: &str) -> PathBuf {
        let root = self.at(name);
        let _ = fs::remove_dir_all(&root);
        let status = Command::new("cp").arg("-a").arg(self.at(of)).arg(&root).status().expect("cp");
        assert!(status.success());
        root
    }

    /// Makes a store with these defects.
    fn damaged(&self, name: &str, defects: &[&str]) -> PathBuf {
        let root = self.copy("base", name);
        for defect in defects {
            damage(defect, &root);
        }
        root
    }

    /// Does something for every defect, two at a time, and puts what it gives in order.
    fn for_each(&self, work: impl Fn(&str, &Path) -> String + Sync) -> String {
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

fn repair(root: &Path, arguments: &[&str]) -> Outcome {
    run(root, [&["repair"], arguments].concat())
}

fn document(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stderr))
}

/// Writes what a plan mends and leaves, in lines.
fn lines(roles: &Roles, how: &str, outcome: &Outcome) -> String {
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
fn assert_mended(defect: &str, root: &Path, plan: &Value) {
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
fn mend_and_undo(defect: &str, root: &Path, arguments: &[&str]) -> Outcome {
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

/// Mends every defect, with an archive and without, and takes it back.
fn every_defect(fixture: &'static str) -> String {
    let lab = Lab::new(fixture);
    let roles = Roles::of(&lab.at("base"), lab.driver());
    let archive = lab.archive();
    let from = ["--from", archive.to_str().expect("text")];
    lab.for_each(|defect, root| {
        let alone = mend_and_undo(defect, root, &[]);
        let from = match alone.status.success() {
            // What needs no archive is mended the same with one.
            true => repair(root, &["--dry-run", "--json", from[0], from[1]]),
            false => mend_and_undo(defect, root, &from),
        };
        let said = [("alone", &alone), ("with an archive", &from)].map(|(how, outcome)| lines(&roles, how, outcome));
        said.concat()
    })
}

#[test]
fn every_defect_of_overlay2() {
    assert_snapshot!(every_defect("28-overlay2"));
}

#[test]
fn every_defect_of_overlay() {
    assert_snapshot!(every_defect("20-overlay"));
}

/// A store with nothing wrong has nothing to mend, whoever asks.
#[test]
fn a_clean_store() {
    for fixture in REAL {
        let temp = temp_dir();
        unpack(fixture, temp.path());
        let before = Untouched::note(temp.path());
        for arguments in [&[][..], &["-y"], &["--dry-run"], &["--json"]] {
            let done = repair(temp.path(), arguments).done();
            assert!(arguments.contains(&"--json") || done.stdout.is_empty(), "{done:?}");
        }
        let refused = repair(temp.path(), &["--undo"]).failed(2);
        assert!(refused.stderr.contains("nothing in the trash"), "{}", refused.stderr);
        before.assert_restored();
    }
}

#[test]
fn nobody_to_ask_and_no_source() {
    let lab = Lab::new("28-overlay2");
    let root = lab.damaged("root", &["byte-changed"]);
    let before = Untouched::note(&root);
    let archive = lab.archive();
    let from = archive.to_str().expect("text");
    assert!(repair(&root, &["--from", from]).failed(2).stderr.contains("nobody to ask"));
    assert!(repair(&root, &["-y", "--from", "-"]).failed(2).stderr.contains("several times"));
    let _ = repair(&root, &["-y", "--from", "no-such-file"]).failed(1);
    let needs = String::from_utf8(repair(&root, &["--dry-run"]).stdout).expect("text");
    assert!(needs.contains("give --from an archive, or another store, that holds layer sha256:"), "{needs}");
    // An archive that is cut in the middle of a layer.
    let bytes = fs::read(&archive).expect("an archive");
    let cut = lab.at("cut.tar.zst");
    fs::write(&cut, &bytes[..bytes.len() * 2 / 3]).expect("written");
    let refused = repair(&root, &["-y", "--from", cut.to_str().expect("text")]).failed(1);
    assert!(refused.stderr.contains("cut.tar.zst"), "{}", refused.stderr);
    before.assert_restored();
}

/// Several defects at once, mended out of another host's store, which is left alone.
fn several_from_a_store(fixture: &'static str, defects: &[&str]) {
    let lab = Lab::new(fixture);
    let root = lab.damaged("root", defects);
    let other = lab.damaged("other", &[]);
    let theirs = Untouched::note(&other);
    let done = repair(&root, &["-y", "--json", "--from", other.to_str().expect("text")]).done();
    assert_mended("several", &root, &document(&done)["plan"]);
    theirs.assert();
    assert_as_before(&lab.at("base"), &root, lab.driver());
}

#[test]
fn several_defects_of_overlay2_from_a_store() {
    let defects = ["byte-changed", "link-gone", "lower-empty", "tar-split-gone", "references-cut"];
    several_from_a_store("28-overlay2", &defects);
    several_from_a_store(
        "20-overlay2",
        &["directory-gone", "top-directory-gone", "short-names-gone", "config-changed"],
    );
}

#[test]
fn several_defects_of_overlay_from_a_store() {
    several_from_a_store("20-overlay", &["file-removed", "tar-split-gone", "directory-mode", "config-gone"]);
    several_from_a_store("20-overlay", &["tree-gone", "top-directory-gone"]);
}

/// An archive without what dockpack adds is one of another tool: unpacked, as a tar, and in gzip.
fn from_other_tools(fixture: &'static str, defects: &[&str]) {
    let lab = Lab::new(fixture);
    let (unpacked, tar) = (lab.at("unpacked"), lab.at("docker.tar"));
    let _ = run(&lab.at("base"), ["save", "--all", "-o", &format!("{}/", unpacked.display())]).done();
    fs::remove_dir_all(unpacked.join("dockpack")).expect("removed");
    let packed = Command::new("tar").arg("-C").arg(&unpacked).arg("-cf").arg(&tar).arg(".").status();
    assert!(packed.expect("tar runs").success());
    assert!(Command::new("gzip").arg("--keep").arg(&tar).status().expect("gzip runs").success());
    let mended = |defects: &[&str], archive: &Path| {
        let root = lab.damaged("root", defects);
        let before = Untouched::note(&root);
        let done = repair(&root, &["-y", "--json", "--from", archive.to_str().expect("text")]).done();
        assert_mended("other tools", &root, &document(&done)["plan"]);
        (root, before)
    };
    for archive in [&unpacked, &tar, &lab.at("docker.tar.gz")] {
        let (root, before) = mended(defects, archive);
        let ([wanted, trees], [found, built]) = (seen(&lab.at("base"), lab.driver()), seen(&root, lab.driver()));
        // Tar-splits are made anew, and say the same in other words: that they are right `verify` has proved.
        let same = |tree: Tree| tree.only(|path| !path.ends_with(b"/tar-split.json.gz"));
        assert_same(&same(wanted), &same(found), Allow::REBUILT);
        // No tar says when the root of a layer was changed.
        let inside = |tree: Tree| tree.only(|path| path.iter().filter(|byte| **byte == b'/').count() > 1);
        assert_same(&inside(trees), &inside(built), Allow::REBUILT);
        let _ = repair(&root, &["--undo"]).done();
        before.assert_restored();
    }
    // Such archives do not know what a layer's directory was called, and its size has to be counted.
    let (root, _) = mended(&["layer-entry-gone"], &tar);
    let entries = |root: &Path| {
        let told = |path: &[u8]| ["/diff", "/size", "/parent"].iter().any(|file| path.ends_with(file.as_bytes()));
        state(&root.join("image").join(lab.driver())).only(told)
    };
    assert_same(&entries(&lab.at("base")), &entries(&root), Allow::NOTHING);
}

#[test]
fn archives_of_other_tools_mend_overlay2() {
    from_other_tools("20-overlay2", &["top-directory-gone", "byte-changed", "tar-split-gone", "config-gone"]);
    from_other_tools("28-overlay2", &["tree-gone", "link-gone", "layer-entry-half", "lower-empty"]);
}

#[test]
fn archives_of_other_tools_mend_overlay() {
    from_other_tools("20-overlay", &["top-directory-gone", "file-removed", "tar-split-gone", "config-gone"]);
}

/// Layers of `overlay` share the files they have from below, also when they were mended.
#[test]
fn overlay_goes_on_sharing_files() {
    let lab = Lab::new("20-overlay");
    for defect in ["byte-changed", "directory-gone", "tree-gone", "file-removed"] {
        let root = lab.damaged("root", &[defect]);
        let _ = repair(&root, &["-y", "--from", lab.archive().to_str().expect("text")]).done();
        assert_as_before(&lab.at("base"), &root, "overlay");
    }
}

/// What can be told of a store before and after a crash: all but times that do not matter, and the trash.
fn state(root: &Path) -> Tree {
    // What is in the trash may be a hard link to what is not.
    let names = names(root).into_iter().filter(|name| !matches!(&name[..], ".dockpack" | "volumes"));
    Tree::read_entries(root, names).without_times()
}

/// Defects that take every kind of step.
#[cfg(feature = "crash-points")]
const EVERYTHING: [&str; 10] = [
    "byte-changed",
    "directory-mode",
    "lower-gone",
    "short-name-gone",
    "work-gone",
    "diff-of-another",
    "mount-id-empty",
    "config-gone",
    "record-of-another-layer",
    "references-cut",
];

#[cfg(feature = "crash-points")]
const CRASHES: [&str; 6] =
    ["trash:made", "repair:staged", "trash:journal", "repair:moved", "repair:step", "repair:kept"];
#[cfg(feature = "crash-points")]
const UNDO_CRASHES: [&str; 4] = ["trash:undoing", "trash:restored", "trash:undone", "trash:no-journal"];

/// Runs until a crash point; tells whether it was reached.
#[cfg(feature = "crash-points")]
#[must_use]
fn crash_at(point: &str, time: usize, root: &Path, arguments: &[&str]) -> bool {
    let mut command = crate::support::command::dockpack(root, [&["repair"], arguments].concat());
    command.env("DOCKPACK_CRASH_AT", format!("{point}#{time}"));
    crate::support::command::outcome(command).status.code().is_none()
}

#[cfg(feature = "crash-points")]
#[test]
fn a_crash_at_every_piece_that_moves() {
    crashes(|point| point == "repair:moved");
}

#[cfg(feature = "crash-points")]
#[test]
fn a_crash_at_every_other_step() {
    crashes(|point| point != "repair:moved");
}

/// Wherever it is stopped, the next run ends in the same state, and so does an undo.
#[cfg(feature = "crash-points")]
fn crashes(chosen: impl Fn(&str) -> bool) {
    let lab = Lab::new("28-overlay2");
    let archive = lab.archive();
    let mend = ["-y", "--from", archive.to_str().expect("text")];
    let damaged = lab.damaged("damaged", &EVERYTHING);
    let mended = lab.copy("damaged", "mended");
    let code = repair(&mended, &mend).status.code();
    assert!(matches!(code, Some(0 | 3)), "{code:?}");
    let (damaged, mended) = (state(&damaged), state(&mended));
    for point in CRASHES.into_iter().filter(|point| chosen(point)) {
        for time in 1.. {
            let root = lab.copy("damaged", "crashed");
            let is_reached = crash_at(point, time, &root, &mend);
            assert!(is_reached || time > 1, "{point} is never passed");
            let _ = repair(&root, &mend);
            assert_same(&mended, &state(&root), Allow::REBUILT);
            let _ = repair(&root, &["--undo"]).done();
            assert_same(&damaged, &state(&root), Allow::NOTHING);
            if !is_reached {
                break;
            }
        }
    }
}

/// The same while it is taken back.
#[cfg(feature = "crash-points")]
#[test]
fn a_crash_at_every_step_back() {
    let lab = Lab::new("28-overlay2");
    let archive = lab.archive();
    let mend = ["-y", "--from", archive.to_str().expect("text")];
    let damaged = state(&lab.damaged("damaged", &EVERYTHING));
    for point in UNDO_CRASHES {
        for time in 1.. {
            let root = lab.copy("damaged", "crashed");
            let _ = repair(&root, &mend);
            let is_reached = crash_at(point, time, &root, &["--undo"]);
            assert!(is_reached || time > 1, "{point} is never passed");
            // Whatever takes the lock finishes first.
            let _ = run(&root, ["gc", "-y", "--only", "stale-driver"]);
            assert_same(&damaged, &state(&root), Allow::NOTHING);
            assert!(!root.join(".dockpack").exists(), "{point}#{time}");
            if !is_reached {
                break;
            }
        }
    }
}

/// SIGKILL at any moment.
#[test]
fn twenty_kills() {
    const DEFECTS: [&str; 4] = ["byte-changed", "tar-split-gone", "layer-entry-gone", "references-cut"];
    let lab = Lab::new("20-overlay2");
    let _ = lab.damaged("damaged", &DEFECTS);
    let mended = lab.copy("damaged", "mended");
    let archive = lab.archive();
    let mend = ["-y", "--from", archive.to_str().expect("text")];
    let begun = std::time::Instant::now();
    let _ = repair(&mended, &mend);
    let time = begun.elapsed();
    let mended = state(&mended);
    for kill in 0..20 {
        let root = lab.copy("damaged", "killed");
        let mut command = Command::new(DOCKPACK);
        command.env_clear().env(HURRY, "1").arg("--root").arg(&root).arg("repair").args(mend);
        let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("dockpack runs");
        std::thread::sleep(time.mul_f64(f64::from(kill) / 20.0));
        running.kill().expect("killed");
        let _ = running.wait().expect("it ends");
        let _ = repair(&root, &mend);
        assert_same(&mended, &state(&root), Allow::REBUILT);
    }
}

/// What a daemon sees of a store: everything but times outside layers' trees, and the trash.
fn seen(root: &Path, driver: &str) -> [Tree; 2] {
    let trees = Tree::read(&root.join(driver)).only(is_below_tree);
    [state(root), trees]
}

/// Fails where a daemon would see anything else in a store than in another. Hard links between layers count.
#[track_caller]
fn assert_as_before(wanted: &Path, found: &Path, driver: &str) {
    for (wanted, found) in seen(wanted, driver).iter().zip(&seen(found, driver)) {
        assert_same(wanted, found, Allow::REBUILT);
    }
}

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
    assert!(kinds[0].2.len() > 20, "{:?}", kinds[0].2);
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

/// A dead host's disk that cannot be written: everything that only looks works as ever.
#[test]
fn a_disk_that_is_read_only() {
    let temp = temp_dir();
    let image = temp.path().join("disk");
    drop(Disk::make("ext4", &image, 256));
    // For extended attributes that are longer than a block.
    assert!(
        Command::new("tune2fs").args(["-O", "ea_inode"]).arg(&image).output().expect("tune2fs runs").status.success()
    );
    let disk = Disk::mount(&image);
    unpack("28-overlay2", &disk.path().join("docker"));
    let wanted = Contents::read(&disk.path().join("docker"), "overlay2");
    drop(disk);
    let disk = Disk::mount_read_only(&image);
    let root = disk.path().join("docker");
    let listed = String::from_utf8(run(&root, ["ls", "-a"]).done().stdout).expect("text");
    assert!(listed.contains("nginx"), "{listed}");
    let _ = run(&root, ["verify"]).done();
    let _ = repair(&root, &["--dry-run"]).done();
    let archive = temp.path().join("rescued.tar.zst");
    save(&root, &["--all", "--partial"], &archive);
    let rebuilt = temp.path().join("rebuilt");
    fs::create_dir(&rebuilt).expect("a directory");
    let _ = load(&rebuilt, &archive, &[]);
    let found = Contents::read(&rebuilt, "overlay2");
    assert_eq!(found.images, wanted.images);
    assert_eq!(found.references, wanted.references);
    assert_sound(&rebuilt, "overlay2");
    // What would write says why it cannot.
    let _ = repair(&root, &["-y"]).failed(1);
}

/// Of a damaged store what is whole is saved, and what is not is named.
#[test]
fn the_whole_part_of_a_damaged_store() {
    let lab = Lab::new("28-overlay2");
    let root = lab.damaged("root", &["byte-changed", "config-gone"]);
    let out = lab.at("partial.tar.zst");
    let path = out.to_str().expect("text");
    let refused = run(&root, ["save", "--all", "-o", path]).failed(1);
    assert!(refused.stderr.contains("cannot prove layer"), "{}", refused.stderr);
    assert!(!out.exists());
    let partial = run(&root, ["save", "--all", "--partial", "--json", "-o", path]);
    assert_eq!(partial.status.code(), Some(3), "{}", partial.stderr);
    let said = document(&partial);
    let unproved = said["unproved"].as_array().expect("a list");
    let names: Vec<&Value> = unproved.iter().flat_map(|one| one["references"].as_array().expect("names")).collect();
    assert_eq!(names, ["nginx:alpine"]);
    let reasons: Vec<&str> = unproved.iter().map(|one| text(one, "reason")).collect();
    assert!(reasons.iter().any(|reason| reason.contains("etc/nginx/conf.d/a.conf")), "{reasons:?}");
    assert!(reasons.contains(&"its configuration is missing or damaged"), "{reasons:?}");
    assert_eq!(unproved.len() as u64 + said["images"].as_u64().expect("a number"), 18);
    let (code, found) = verify(&root, &["-i", path]);
    assert_eq!((code, findings(&found)), (0, &[] as &[Value]));
    let one = run(&root, ["save", "--partial", "-o", lab.at("one.tar").to_str().expect("text"), "bk:1"]).done();
    assert!(!one.stderr.contains("left out"), "{}", one.stderr);
    let rest = names.len();
    assert_eq!(rest, 1);
    // Nothing at all can be proved: nothing is written.
    let nothing = lab.damaged("nothing", &["bytes-changed-in-two-files"]);
    let path = lab.at("nothing.tar");
    let none = run(&nothing, ["save", "--partial", "-o", path.to_str().expect("text"), "nginx:alpine"]);
    assert_eq!(none.status.code(), Some(3), "{}", none.stderr);
    assert!(none.stderr.contains("left out nginx:alpine") && !path.exists(), "{}", none.stderr);
}

/// What a container has mounted that runs on without its daemon is left alone.
#[test]
fn what_is_mounted() {
    let lab = Lab::new("28-overlay2");
    let root = lab.damaged("root", &["byte-changed", "lower-gone"]);
    let contents = Contents::read(&root, "overlay2");
    let layers = stack(&contents.images[&contents.references["nginx:alpine"]]);
    let dir = |at: usize| root.join("overlay2").join(&contents.layers[&layers[at].0]).join("diff");
    let at = lab.at("mounted");
    fs::create_dir(&at).expect("a directory");
    let options = format!("lowerdir={}:{}", dir(1).display(), dir(0).display());
    let mount = Command::new("mount").args(["-t", "overlay", "-o", &options, "none"]).arg(&at).status();
    assert!(mount.expect("mount runs").success());
    let archive = lab.archive();
    let outcome = repair(&root, &["-y", "--json", "--from", archive.to_str().expect("text")]);
    assert!(Command::new("umount").arg(&at).status().expect("umount runs").success());
    assert_eq!(outcome.status.code(), Some(3), "{}", outcome.stderr);
    let plan = &document(&outcome)["plan"];
    assert_eq!(plan["mends"].as_array().map(Vec::len), Some(1), "{plan:#}");
    assert!(text(&plan["left"][0], "needs").contains("stop what uses it first"), "{plan:#}");
    let _ = repair(&root, &["-y", "--from", archive.to_str().expect("text")]).done();
    assert_as_before(&lab.at("base"), &root, "overlay2");
}
