//! Loads that end in the middle: aborted behind each step, killed at any moment, or cut off with the power.
//!
//! Whatever happens, a store never lists an image that is not there as a whole, and loading again makes it what an
//! undisturbed load makes it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::command::{DOCKPACK, HURRY, load, save};
use crate::support::disk::Disk;
use crate::support::engine::Engine;
use crate::support::random::Dice;
use crate::support::store::{
    Contents, assert_same_images, assert_sound_part, driver_of, memory_dir, names, project, temp_dir, unpack,
};
use crate::support::tree::{Allow, Tree, assert_same};

/// All places at which the sources let a test stop them.
fn all_crash_points() -> BTreeSet<String> {
    let mut points = BTreeSet::new();
    for source in walkdir::WalkDir::new(project("src")) {
        let source = source.expect("the sources");
        if source.file_type().is_file() {
            let source = fs::read_to_string(source.path()).expect("a source file");
            let named = source.split("crash_point(\"").skip(1).filter_map(|rest| rest.split_once('"'));
            points.extend(named.map(|(name, _)| name.to_owned()));
        }
    }
    points
}

/// Those of a load are all tried here; others have tests that name them.
#[test]
fn no_point_is_forgotten() {
    let points = all_crash_points();
    assert!(points.iter().filter(|point| point.starts_with("load:")).count() >= 13, "{points:?}");
    let tests = names(&project("tests/it")).into_iter().filter(|name| name.ends_with(".rs"));
    let tests: String = tests.map(|name| fs::read_to_string(project("tests/it").join(name)).expect("tests")).collect();
    for point in points.iter().filter(|point| !point.starts_with("load:")) {
        assert!(tests.contains(&format!("{point:?}")), "no test stops at {point}");
    }
}

/// Those of a load.
#[cfg(feature = "crash-points")]
fn crash_points() -> BTreeSet<String> {
    all_crash_points().into_iter().filter(|point| point.starts_with("load:")).collect()
}

/// An archive of a real store, and what an undisturbed load makes of it: `whole`.
struct Lab {
    temp: tempfile::TempDir,
    driver: &'static str,
}

/// Enough of a store for what is done many times.
const SOME: [&str; 4] = ["alpine:3.4", "rebuilt:latest", "bk:1", "nginx:alpine"];

/// What the target is before the load.
#[derive(Debug, Clone, Copy)]
enum Before {
    Nothing,
    /// Some of the images.
    Part,
    /// Layers that dockerd cannot use, and the rest of some images.
    Broken,
}

impl Lab {
    fn new(fixture: &'static str, temp: tempfile::TempDir) -> Self {
        let lab = Self::of(&["--all"], fixture, temp);
        assert_same_images(&lab.at("source"), &lab.at("whole"), lab.driver);
        lab
    }

    fn of(images: &[&str], fixture: &'static str, temp: tempfile::TempDir) -> Self {
        let lab = Self { temp, driver: driver_of(fixture) };
        unpack(fixture, &lab.at("source"));
        save(&lab.at("source"), images, &lab.archive());
        fs::create_dir(lab.at("whole")).expect("a directory");
        let _ = load(&lab.at("whole"), &lab.archive(), &[]);
        lab
    }

    /// For disks with a file system of this kind.
    fn on_disk(kind: &str, fixture: &'static str) -> Self {
        let images = match kind {
            // Of a device's number XFS has 18 bits for the minor part; nasty:1 has one of 20.
            "xfs" => {
                &["alpine:3.4", "nginx:alpine", "rebuilt", "bk:1", "team/app", "localhost:5000/team/app", "nasty:2"]
            }
            _ => &["--all"][..],
        };
        Self::of(images, fixture, temp_dir())
    }

    fn whole(&self) -> Contents {
        Contents::read(&self.at("whole"), self.driver)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn archive(&self) -> PathBuf {
        self.at("all.tar.zst")
    }

    /// Makes a target, in place of one that may be there.
    fn target(&self, name: &str, before: Before) -> PathBuf {
        let root = self.at(name);
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).expect("a directory");
        match before {
            Before::Nothing => {}
            Before::Part => drop(load(&root, &self.archive(), &["nginx:alpine", "bk:1"])),
            Before::Broken => {
                let _ = load(&root, &self.archive(), &["nginx:alpine", "rebuilt:latest"]);
                break_layers(&root, self.driver);
            }
        }
        root
    }

    /// Fails where a store is not what an undisturbed load makes of a target.
    #[track_caller]
    fn assert_as_undisturbed(&self, root: &Path, undisturbed: &Path) {
        assert_same_images(undisturbed, root, self.driver);
        let [one, other] = [undisturbed, root].map(|root| Tree::read(root).without_times());
        assert_same(&one, &other, Allow::REBUILT);
    }
}

/// Takes the tags away, and from the topmost layers their sizes and directories.
fn break_layers(root: &Path, driver: &str) {
    let image = root.join("image").join(driver);
    fs::write(image.join("repositories.json"), r#"{"Repositories":{}}"#).expect("written");
    fs::remove_dir_all(image.join("imagedb/content/sha256")).expect("removed");
    fs::create_dir(image.join("imagedb/content/sha256")).expect("a directory");
    let layers = image.join("layerdb/sha256");
    let parent = |name: &String| fs::read_to_string(layers.join(name).join("parent")).unwrap_or_default();
    let parents: BTreeSet<String> = names(&layers).iter().map(parent).collect();
    let tops = names(&layers).into_iter().filter(|name| !parents.contains(&format!("sha256:{name}")));
    for top in tops.collect::<Vec<_>>() {
        let cache_id = fs::read_to_string(layers.join(&top).join("cache-id")).expect("a name");
        fs::remove_dir_all(root.join(driver).join(cache_id)).expect("removed");
        fs::remove_file(layers.join(&top).join("size")).expect("removed");
    }
}

fn loading(root: &Path, archive: &Path) -> Command {
    let mut command = Command::new(DOCKPACK);
    command.env_clear().env(HURRY, "1").arg("--root").arg(root).arg("load").arg("-i").arg(archive);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Loads until a crash point; tells whether it was reached.
#[cfg(feature = "crash-points")]
#[must_use]
fn crash_at(point: &str, root: &Path, archive: &Path) -> bool {
    const ABORTED: i32 = 6;
    let status = loading(root, archive).env("DOCKPACK_CRASH_AT", point).status().expect("dockpack runs");
    assert!(status.success() || status.signal() == Some(ABORTED), "{point}: {status}");
    !status.success()
}

#[cfg(feature = "crash-points")]
fn each_crash_point(fixture: &'static str) {
    let lab = Lab::of(&SOME, fixture, memory_dir());
    let mut reached = BTreeSet::new();
    for before in [Before::Nothing, Before::Part, Before::Broken] {
        let undisturbed = lab.target("undisturbed", before);
        let _ = load(&undisturbed, &lab.archive(), &[]);
        for point in crash_points() {
            // Some are passed once, some for every layer.
            for time in [1, 2, 5] {
                let root = lab.target("crashed", before);
                let is_reached = crash_at(&format!("{point}#{time}"), &root, &lab.archive());
                if is_reached {
                    reached.insert(point.clone());
                }
                assert_sound_part(&undisturbed, &root, lab.driver);
                let _ = load(&root, &lab.archive(), &[]);
                lab.assert_as_undisturbed(&root, &undisturbed);
                if !is_reached {
                    break;
                }
            }
        }
    }
    assert_eq!(reached, crash_points(), "each is to be reached");
}

#[cfg(feature = "crash-points")]
#[test]
fn at_each_point_with_overlay() {
    each_crash_point("20-overlay");
}

#[cfg(feature = "crash-points")]
#[test]
fn at_each_point_with_overlay2() {
    each_crash_point("28-overlay2");
}

/// The run that finishes what a crash left crashes too, anywhere; and a third.
#[cfg(feature = "crash-points")]
#[test]
fn while_it_recovers() {
    let lab = Lab::new("20-overlay2", memory_dir());
    let undisturbed = lab.at("whole");
    for point in crash_points() {
        for first in ["load:journal", "load:driver-dir", "load:layer", "load:references"] {
            let root = lab.target("crashed", Before::Nothing);
            assert!(crash_at(first, &root, &lab.archive()));
            for _ in 0..2 {
                let _ = crash_at(&point, &root, &lab.archive());
                assert_sound_part(&undisturbed, &root, lab.driver);
            }
            let _ = load(&root, &lab.archive(), &[]);
            lab.assert_as_undisturbed(&root, &undisturbed);
        }
    }
}

/// What is left of a load is finished by the load of another archive.
#[cfg(feature = "crash-points")]
#[test]
fn before_another_load() {
    let lab = Lab::new("28-overlay2", memory_dir());
    let one = lab.at("one.tar.gz");
    save(&lab.at("source"), &["nasty:1"], &one);
    for point in crash_points() {
        let root = lab.target("crashed", Before::Nothing);
        let reached = crash_at(&point, &root, &lab.archive());
        let other = load(&root, &one, &[]);
        let finished = other.stderr.contains("finished a load that was interrupted: 18 images");
        let before_journal = ["load:staged", "load:durable"].contains(&&point[..]);
        let whole = lab.whole();
        let found = Contents::read(&root, lab.driver);
        assert_sound_part(&lab.at("whole"), &root, lab.driver);
        assert!(found.references.contains_key("nasty:1"), "{point}");
        if before_journal {
            assert!(!finished && found.images.len() == 1, "{point}: {}", other.stderr);
        } else {
            assert!(found == whole, "{point}: {}", other.stderr);
            assert_eq!(finished, reached && point != "load:done", "{point}: {}", other.stderr);
        }
    }
}

/// Runs a command to its end and returns the time it took.
fn time_of(command: &mut Command) -> Duration {
    let begun = Instant::now();
    assert!(command.status().expect("dockpack runs").success());
    begun.elapsed()
}

fn kills(fixture: &'static str, seed: u64) {
    let lab = Lab::of(&SOME, fixture, memory_dir());
    let root = lab.target("timed", Before::Nothing);
    let time = time_of(&mut loading(&root, &lab.archive()));
    let mut dice = Dice(seed);
    let mut root = lab.target("killed", Before::Nothing);
    let (mut killed, mut done) = (0, 0);
    while killed < 30 {
        let mut load = loading(&root, &lab.archive()).spawn().expect("dockpack runs");
        std::thread::sleep(dice.up_to(time));
        load.kill().expect("killed");
        let _ = load.wait().expect("it ends");
        assert_sound_part(&lab.at("whole"), &root, lab.driver);
        if Contents::read(&root, lab.driver) == lab.whole() {
            // It was quicker: what comes next would have nothing to do.
            done += 1;
            root = lab.target("killed", Before::Nothing);
        } else {
            killed += 1;
        }
        assert!(done < 90, "it is always quicker than the kill");
    }
    let _ = load(&root, &lab.archive(), &[]);
    lab.assert_as_undisturbed(&root, &lab.at("whole"));
}

#[test]
fn by_thirty_kills_with_overlay() {
    kills("20-overlay", 20);
}

#[test]
fn by_thirty_kills_with_overlay2() {
    kills("28-overlay2", 28);
}

/// A file appears under its name when it is complete; until then there is nothing.
#[test]
fn a_killed_save_leaves_nothing() {
    let lab = Lab::of(&SOME, "20-overlay2", temp_dir());
    let out = lab.at("out");
    fs::create_dir(&out).expect("a directory");
    let saving = |output: &Path| {
        let mut command = Command::new(DOCKPACK);
        command.env_clear().arg("--root").arg(lab.at("source")).args(["save", "--all", "-o"]).arg(output);
        command.stderr(Stdio::null());
        command
    };
    let time = time_of(&mut saving(&lab.at("timed.tar.zst")));
    let mut dice = Dice(7);
    for _ in 0..20 {
        let mut save = saving(&out.join("all.tar.zst")).spawn().expect("dockpack runs");
        std::thread::sleep(dice.up_to(time));
        save.kill().expect("killed");
        let _ = save.wait().expect("it ends");
        match &names(&out)[..] {
            [] => {}
            // It was complete already.
            [name] if name == "all.tar.zst" => {
                assert!(
                    fs::read(out.join(name)).expect("an archive") == fs::read(lab.at("timed.tar.zst")).expect("one")
                );
                fs::remove_file(out.join(name)).expect("removed");
            }
            left => panic!("{left:?} is left"),
        }
    }
    // An older file of that name stays as it was.
    fs::write(out.join("all.tar.zst"), "older").expect("written");
    let mut save = saving(&out.join("all.tar.zst")).spawn().expect("dockpack runs");
    std::thread::sleep(time / 3);
    save.kill().expect("killed");
    let _ = save.wait().expect("it ends");
    assert_eq!(names(&out), ["all.tar.zst"]);
    assert_eq!(fs::read(out.join("all.tar.zst")).expect("a file"), b"older");
}

/// Checks a disk as it was at a power cut, and loads again.
fn check_after_power_cut(lab: &Lab, image: &Path) -> usize {
    let disk = Disk::mount(image);
    let root = disk.path().join("root");
    assert_sound_part(&lab.at("whole"), &root, lab.driver);
    let listed = Contents::read(&root, lab.driver).references.len();
    let _ = load(&root, &lab.archive(), &[]);
    lab.assert_as_undisturbed(&root, &lab.at("whole"));
    drop(disk);
    fs::remove_file(image).expect("removed");
    listed
}

/// A disk to load to, on a disk that can copy it at once.
fn disks(lab: &Lab, kind: &str) -> (Disk, Disk) {
    let outer = Disk::make("xfs", &lab.at("outer.img"), 4096);
    let inner = Disk::make(kind, &outer.path().join("inner.img"), 512);
    fs::create_dir(inner.path().join("root")).expect("a directory");
    // What is there before is on the disk.
    call_sync(inner.path());
    (outer, inner)
}

fn call_sync(at: &Path) {
    assert!(Command::new("sync").arg("-f").arg(at).status().expect("sync runs").success());
}

fn power_cuts(kind: &str, fixture: &'static str, seed: u64) {
    let lab = Lab::on_disk(kind, fixture);
    let (outer, inner) = disks(&lab, kind);
    let root = inner.path().join("root");
    let time = time_of(&mut loading(&root, &lab.archive()));
    let all = lab.whole().references.len();
    let mut dice = Dice(seed);
    let mut copies = Vec::new();
    for round in 0..3 {
        fs::remove_dir_all(&root).expect("removed");
        fs::create_dir(&root).expect("a directory");
        call_sync(inner.path());
        let mut moments: Vec<Duration> = (0..5).map(|_| dice.up_to(time)).collect();
        moments.sort();
        let begun = Instant::now();
        let mut load = loading(&root, &lab.archive()).spawn().expect("dockpack runs");
        for (number, moment) in moments.into_iter().enumerate() {
            std::thread::sleep(moment.saturating_sub(begun.elapsed()));
            let copy = outer.path().join(format!("{round}-{number}.img"));
            inner.copy(&copy);
            copies.push(copy);
        }
        assert!(load.wait().expect("it ends").success());
        // The power goes right behind the end: all of it is there.
        let copy = outer.path().join("end.img");
        inner.copy(&copy);
        assert_eq!(check_after_power_cut(&lab, &copy), all);
    }
    let listed: Vec<usize> = copies.iter().map(|copy| check_after_power_cut(&lab, copy)).collect();
    assert!(listed.iter().all(|listed| [0, all].contains(listed)), "{listed:?}");
}

#[test]
fn by_power_cuts_on_ext4() {
    power_cuts("ext4", "20-overlay2", 4);
}

#[test]
fn by_power_cuts_on_xfs() {
    power_cuts("xfs", "20-overlay", 8);
}

/// The power goes right behind each step, with nothing written since.
#[cfg(feature = "crash-points")]
fn power_cut_at_each_point(kind: &str, fixture: &'static str) {
    let lab = Lab::on_disk(kind, fixture);
    let (outer, inner) = disks(&lab, kind);
    let root = inner.path().join("root");
    for point in crash_points() {
        fs::remove_dir_all(&root).expect("removed");
        fs::create_dir(&root).expect("a directory");
        call_sync(inner.path());
        let _ = crash_at(&point, &root, &lab.archive());
        let copy = outer.path().join("copy.img");
        inner.copy(&copy);
        let _ = check_after_power_cut(&lab, &copy);
    }
}

#[cfg(feature = "crash-points")]
#[test]
fn by_power_cuts_at_each_point_on_ext4() {
    power_cut_at_each_point("ext4", "28-overlay2");
}

#[cfg(feature = "crash-points")]
#[test]
fn by_power_cuts_at_each_point_on_xfs() {
    power_cut_at_each_point("xfs", "20-overlay");
}

/// A real daemon lists and runs what is there behind a crash or power cut, and what is loaded again.
#[cfg(feature = "crash-points")]
#[test]
fn daemon_between_a_crash_and_the_next_load() {
    let lab = Lab::new("28-overlay2", temp_dir());
    let wanted = lab.whole();
    for (point, images) in [("load:durable", 0), ("load:driver-dirs", 0), ("load:layer", 0), ("load:images", 18)] {
        // overlayfs takes no colon in a path.
        let dir = lab.at(&point.replace(':', "-"));
        let root = dir.join("root");
        fs::create_dir_all(&root).expect("directories");
        assert!(crash_at(point, &root, &lab.archive()));
        let engine = Engine::start("28", "overlay2", &dir);
        let listed = engine.image_ids();
        assert_eq!(listed.len(), images, "{point}");
        for id in &listed {
            engine.docker(&["run", "--rm", "--network", "none", id, "true"]);
        }
        // It makes some of the layers itself meanwhile.
        let one = fs::File::open(lab.archive()).expect("an archive");
        if point == "load:driver-dirs" {
            assert!(engine.try_docker(&["load"], one).status.success());
        }
        engine.stop();
        let _ = load(&root, &lab.archive(), &[]);
        assert_eq!(Contents::read(&root, lab.driver).references, wanted.references, "{point}");
        runs_everything(Engine::start("28", "overlay2", &dir), &wanted);
    }
}

#[test]
fn daemon_after_power_cuts() {
    for (kind, fixture) in [("ext4", "28-overlay2"), ("xfs", "20-overlay")] {
        let lab = Lab::on_disk(kind, fixture);
        let wanted = lab.whole();
        let (outer, inner) = disks(&lab, kind);
        let root = inner.path().join("root");
        let mut load_once = loading(&root, &lab.archive()).spawn().expect("dockpack runs");
        let mut number = 0;
        let mut copy = || {
            number += 1;
            let copy = outer.path().join(format!("{number}.img"));
            inner.copy(&copy);
            copy
        };
        let mut copies = vec![copy()];
        while load_once.try_wait().expect("a child").is_none() {
            copies.push(copy());
        }
        let half = copies.len() / 2;
        // The last but one is the one nearest to the end.
        for image in [&copies[half], &copies[copies.len() - 1]] {
            let disk = Disk::mount(image);
            let version = fixture.split_once('-').expect("VERSION-DRIVER").0;
            let start = || Engine::start(if version == "20" { "20" } else { "28" }, lab.driver, disk.path());
            let engine = start();
            for id in engine.image_ids() {
                engine.docker(&["run", "--rm", "--network", "none", &id, "true"]);
            }
            engine.stop();
            let _ = load(&disk.path().join("root"), &lab.archive(), &[]);
            runs_everything(start(), &wanted);
        }
    }
}

fn runs_everything(engine: Engine, wanted: &Contents) {
    for (reference, id) in &wanted.references {
        let found = engine.docker(&["image", "inspect", "--format", "{{.Id}}", reference]);
        assert_eq!(found.trim_end().trim_start_matches("sha256:"), id);
        engine.docker(&["run", "--rm", "--network", "none", reference, "true"]);
    }
    engine.stop();
}
