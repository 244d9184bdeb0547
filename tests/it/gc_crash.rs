//! A `gc`, undo or purge that ends in the middle: aborted behind each step, killed at any moment, or cut off with the
//! power. At no time is anything broken that is needed, and the next run ends in the same state.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use dockpack::Error;
use dockpack::ops::gc::{GcPlan, Options};
use dockpack::progress::{Event, Observer};
use dockpack::store::{Store, WriteLock};

use crate::gc::{Lab, content};
use crate::support::command::{DOCKPACK, HURRY, load, run, save};
#[cfg(feature = "crash-points")]
use crate::support::command::{dockpack, outcome};
use crate::support::disk::Disk;
use crate::support::random::Dice;
use crate::support::store::{Contents, assert_sound_part, fast_dir, temp_dir, unpack};
use crate::support::tree::{Allow, Tree, assert_same};

/// Names of the crash points, and what leads there.
#[cfg(feature = "crash-points")]
const CRASHES: [(&str, &[&[&str]]); 16] = [
    ("trash:room", &[&["-y", "--purge"]]),
    ("trash:made", &[&["-y", "--purge"]]),
    ("trash:journal", &[&["-y", "--purge"]]),
    ("gc:moved", &[&["-y", "--purge"]]),
    ("gc:step", &[&["-y", "--purge"]]),
    ("trash:purging", &[&["-y", "--purge"]]),
    ("trash:purged", &[&["-y", "--purge"]]),
    ("trash:emptied", &[&["-y", "--purge"]]),
    ("trash:no-journal", &[&["-y", "--purge"]]),
    ("trash:empty", &[&["-y", "--purge"]]),
    ("gc:kept", &[&["-y"]]),
    ("trash:undoing", &[&["-y"], &["--undo"]]),
    ("trash:restored", &[&["-y"], &["--undo"]]),
    ("trash:undone", &[&["-y"], &["--undo"]]),
    ("trash:no-journal", &[&["-y"], &["--undo"]]),
    ("trash:purged", &[&["-y"], &["--purge"]]),
];

#[cfg(feature = "crash-points")]
#[test]
fn a_crash_at_every_step_of_apply() {
    crashes(|last| last == ["-y", "--purge"]);
}

#[cfg(feature = "crash-points")]
#[test]
fn a_crash_at_every_step_of_undo_and_purge() {
    crashes(|last| last != ["-y", "--purge"]);
}

/// Wherever it is stopped, the next run ends in the same state, and at no time is anything missing that is needed.
#[cfg(feature = "crash-points")]
fn crashes(chosen: impl Fn(&[&str]) -> bool) {
    let original = Lab::new("28-overlay2");
    original.plant();
    let cleaned = Lab::copied(fast_dir(), &original.driver);
    copy(&original.root(), &cleaned.root());
    cleaned.clean();
    let (clean, full) = (cleaned.content(), original.content());
    let wanted = Contents::read(&cleaned.root(), "overlay2");
    let times = std::env::var("DOCKPACK_GC_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    for (point, runs) in CRASHES {
        let (last, first) = runs.split_last().expect("a run");
        if !chosen(last) {
            continue;
        }
        for time in 1.. {
            let lab = Lab::copied(fast_dir(), &original.driver);
            copy(&original.root(), &lab.root());
            for arguments in first {
                let _ = lab.gc(arguments).done();
            }
            let mut command = dockpack(&lab.root(), ["gc"].iter().chain(*last));
            command.env("DOCKPACK_CRASH_AT", format!("{point}#{time}"));
            let crashed = outcome(command);
            if crashed.status.success() {
                assert!(time > 1, "{point} is never passed");
                break;
            }
            let found = Contents::read(&lab.root(), "overlay2");
            assert!(wanted.images.keys().all(|id| found.images.contains_key(id)), "{point}#{time}");
            // Anything that takes the lock finishes first; then gc has its way, or the undo has.
            if last.contains(&"--undo") {
                let _ = lab.gc(&["-y", "--purge", "--only", "stale-driver"]).done();
                assert_same(&full, &lab.content(), Allow::NOTHING);
            }
            lab.clean();
            assert_same(&clean, &lab.content(), Allow::NOTHING);
            // Many pieces are alike: a few of them are enough unless more are asked for.
            if time >= times {
                break;
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp runs").success());
}

/// What is there before garbage is taken, and after.
struct States {
    full: Tree,
    clean: Tree,
}

/// `dockpack gc ARGUMENTS`, to be killed.
fn gc(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(DOCKPACK);
    command.env_clear().env(HURRY, "1").arg("--root").arg(root).arg("gc").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Does to its end what may have been done in part, and says which state the store must then have.
fn finish<'s>(root: &Path, arguments: &[&str], states: &'s States) -> &'s Tree {
    match arguments {
        ["--undo"] => {
            // Where it was done already there is nothing in the trash.
            let undone = run(root, ["gc", "--undo"]);
            assert!(matches!(undone.status.code(), Some(0 | 2)), "{}", undone.stderr);
            &states.full
        }
        _ => {
            let _ = run(root, ["gc"].iter().chain(arguments)).done();
            // What containers wrote is still in the trash.
            let _ = run(root, ["gc", "--purge"]).done();
            &states.clean
        }
    }
}

/// Kills `gc ARGUMENTS` at any moment, twenty times and on until one of them was in the middle of its work; `before`
/// is what leads there.
fn kills(fixture: &str, before: &[&[&str]], arguments: &[&str], seed: u64) {
    let original = Lab::new(fixture);
    original.plant();
    let driver = original.driver.clone();
    let again = || {
        let lab = Lab::copied(fast_dir(), &driver);
        copy(&original.root(), &lab.root());
        lab
    };
    let cleaned = again();
    cleaned.clean();
    let states = States { full: original.content(), clean: cleaned.content() };
    let prepared = || {
        let lab = again();
        for arguments in before {
            let _ = lab.gc(arguments).done();
        }
        lab
    };
    let timed = prepared();
    let begun = Instant::now();
    assert!(gc(&timed.root(), arguments).status().expect("dockpack runs").success());
    let time = begun.elapsed();
    let mut dice = Dice(seed);
    let (mut lab, mut middle) = (prepared(), 0);
    for kill in 0..200 {
        if kill >= 20 && middle > 0 {
            break;
        }
        let mut child = gc(&lab.root(), arguments).spawn().expect("dockpack runs");
        std::thread::sleep(dice.up_to(time));
        child.kill().expect("killed");
        let _ = child.wait().expect("it ends");
        assert_sound_part(&original.root(), &lab.root(), &driver);
        middle += usize::from(lab.root().join(".dockpack").exists());
        // Every other time it goes on from where the last one was.
        if kill % 2 == 1 {
            assert_same(finish(&lab.root(), arguments, &states), &lab.content(), Allow::NOTHING);
            lab = prepared();
        }
    }
    assert!(middle > 0, "it was never killed in the middle");
}

#[test]
fn a_gc_that_is_killed_on_overlay2() {
    kills("28-overlay2", &[], &["-y", "--purge"], 1);
}

#[test]
fn a_gc_that_is_killed_on_overlay() {
    kills("20-overlay", &[], &["-y", "--purge"], 2);
}

#[test]
fn an_undo_that_is_killed() {
    kills("28-overlay2", &[&["-y"]], &["--undo"], 3);
}

#[test]
fn a_purge_that_is_killed() {
    kills("28-overlay2", &[&["-y"]], &["--purge"], 4);
}

/// Wants to stop when it was asked so many times.
struct Patience(AtomicI64);

impl Observer for Patience {
    fn on(&self, _: Event<'_>) {}

    fn wants_stop(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) <= 0
    }
}

/// Whenever it is stopped, what was moved can be put back, or goes with a purge.
#[test]
fn a_gc_that_is_stopped() {
    let original = Lab::new("28-overlay2");
    original.plant();
    let full = original.content();
    let again = || {
        let lab = Lab::copied(fast_dir(), &original.driver);
        copy(&original.root(), &lab.root());
        lab
    };
    let cleaned = again();
    cleaned.clean();
    let clean = cleaned.content();
    let mut seen = BTreeSet::new();
    for asked in [0, 1, 3, 10, 20, 40, 45, 50, 60, 70, 1000] {
        let lab = again();
        let store = Store::open(&lab.root(), None).expect("opens");
        let lock = WriteLock::take(&store).expect("locks");
        let plan = GcPlan::make(&store, &Options::default(), &()).expect("a plan");
        let stopped = plan.execute(&store, &lock, false, &Patience(AtomicI64::new(asked)));
        drop(lock);
        assert_sound_part(&original.root(), &lab.root(), "overlay2");
        match stopped {
            Ok(_) => {}
            Err(Error::Stopped | Error::StoppedRemoval { kept: true, .. }) => {
                // What containers wrote has moved by itself, before the rest.
                while lab.at(".dockpack").exists() {
                    let _ = lab.gc(&["--undo"]).done();
                    seen.insert("kept");
                }
                assert_same(&full, &lab.content(), Allow::NOTHING);
            }
            Err(Error::StoppedRemoval { kept: false, .. }) => {
                let _ = lab.gc(&["--purge"]).done();
                assert_same(&clean, &lab.content(), Allow::NOTHING);
                seen.insert("deleting");
            }
            Err(error) => panic!("{error}"),
        }
        lab.clean();
        assert_same(&clean, &lab.content(), Allow::NOTHING);
    }
    assert!(seen.contains("kept"), "{seen:?}");
}

/// Ctrl-C says what has become of it.
#[test]
fn a_gc_that_is_interrupted() {
    use rustix::process::{Pid, Signal, kill_process};
    let lab = Lab::copied(fast_dir(), "overlay2");
    unpack("28-overlay2", &lab.root());
    for number in 0..3000 {
        fs::create_dir_all(lab.root().join(format!("overlay2/{number:064x}/diff/a/b"))).expect("directories");
    }
    let child = gc(&lab.root(), &["-y", "--purge"]).stderr(Stdio::piped()).spawn().expect("dockpack runs");
    let trash = lab.root().join(".dockpack/trash");
    let begun = || {
        fs::read_dir(&trash)
            .is_ok_and(|mut found| found.any(|entry| entry.is_ok_and(|e| e.path().join("nodes").join("9").exists())))
    };
    while !begun() {
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_process(Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid"), Signal::INT)
        .expect("a signal");
    let ended = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8(ended.stderr).expect("text");
    assert_eq!(ended.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("dockpack: stopped") && stderr.contains(" gc --purge`"), "{stderr}");
    let _ = lab.gc(&["--purge"]).done();
    let _ = lab.gc(&["-y", "--purge"]).done();
    assert_eq!(lab.leaks(), Vec::<String>::new());
}

/// An undo of a run that was cut off puts back what had moved; it does not go on with it.
#[cfg(feature = "crash-points")]
#[test]
fn an_undo_after_a_crash() {
    let lab = Lab::new("20-overlay2");
    lab.plant();
    let full = lab.content();
    for held in [false, true] {
        let crashed = gc(&lab.root(), &["-y", "--purge"]).env("DOCKPACK_CRASH_AT", "gc:moved#5").status();
        assert!(!crashed.expect("dockpack runs").success());
        if held {
            let crashed = gc(&lab.root(), &["--undo"]).env("DOCKPACK_CRASH_AT", "trash:held").status();
            assert!(!crashed.expect("dockpack runs").success());
        }
        let _ = lab.gc(&["--undo"]).done();
        assert_same(&full, &lab.content(), Allow::NOTHING);
    }
}

/// A store with garbage on a disk, which lies on another that can copy it at once.
struct Powered {
    temp: tempfile::TempDir,
    driver: &'static str,
    outer: Disk,
    inner: Disk,
    states: States,
}

impl Powered {
    fn new(kind: &str, fixture: &'static str) -> Self {
        let temp = temp_dir();
        unpack(fixture, &temp.path().join("source"));
        let archive = temp.path().join("some.tar.zst");
        // Of a device's number XFS has 18 bits for the minor part; nasty:1 has one of 20.
        save(&temp.path().join("source"), &["alpine:3.4", "rebuilt:latest", "bk:1", "nginx:alpine"], &archive);
        let driver = crate::support::store::driver_of(fixture);
        let lab = Lab::copied(temp, driver);
        fs::create_dir(lab.root()).expect("a directory");
        let _ = load(&lab.root(), &archive, &[]);
        lab.container(60);
        lab.plant();
        let full = lab.content();
        copy(&lab.root(), &lab.temp.path().join("full"));
        for arguments in [&["-y", "--purge"][..], &["--purge"]] {
            let _ = lab.gc(arguments).done();
        }
        let states = States { full, clean: lab.content() };
        let outer = Disk::make("xfs", &lab.temp.path().join("outer.img"), 4096);
        let inner = Disk::make(kind, &outer.path().join("inner.img"), 512);
        Self { temp: lab.temp, driver, outer, inner, states }
    }

    /// Makes the store anew, with all of it on the disk, and returns where it is.
    fn root(&self, before: &[&[&str]]) -> PathBuf {
        let root = self.inner.path().join("root");
        if root.exists() {
            fs::remove_dir_all(&root).expect("removed");
        }
        copy(&self.temp.path().join("full"), &root);
        for arguments in before {
            let _ = run(&root, ["gc"].iter().chain(*arguments)).done();
        }
        assert!(Command::new("sync").arg("-f").arg(self.inner.path()).status().expect("sync runs").success());
        root
    }

    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.outer.path().join(format!("{name}.img"));
        self.inner.copy(&copy);
        copy
    }

    /// Looks at a disk as it was when the power went, and goes on there.
    fn check(&self, image: &Path, arguments: &[&str]) {
        let disk = Disk::mount(image);
        let root = disk.path().join("root");
        let cleaned = self.temp.path().join("root");
        assert_sound_part(&self.temp.path().join("full"), &root, self.driver);
        let (wanted, found) = (Contents::read(&cleaned, self.driver), Contents::read(&root, self.driver));
        assert_eq!(wanted.references, found.references);
        assert_same(finish(&root, arguments, &self.states), &content(&root), Allow::NOTHING);
        drop(disk);
        fs::remove_file(image).expect("removed");
    }
}

fn power_cuts(kind: &str, fixture: &'static str, seed: u64) {
    let powered = Powered::new(kind, fixture);
    let mut dice = Dice(seed);
    let runs: [(&[&[&str]], &[&str]); 3] =
        [(&[], &["-y", "--purge"]), (&[&["-y"]], &["--undo"]), (&[&["-y"]], &["--purge"])];
    for (before, arguments) in runs {
        let root = powered.root(before);
        let begun = Instant::now();
        assert!(gc(&root, arguments).status().expect("dockpack runs").success());
        let time = begun.elapsed();
        let root = powered.root(before);
        let mut moments: Vec<Duration> = (0..5).map(|_| dice.up_to(time)).collect();
        moments.sort();
        let begun = Instant::now();
        let mut child = gc(&root, arguments).spawn().expect("dockpack runs");
        let mut copies = Vec::new();
        for (number, moment) in moments.into_iter().enumerate() {
            std::thread::sleep(moment.saturating_sub(begun.elapsed()));
            copies.push(powered.copy(&number.to_string()));
        }
        assert!(child.wait().expect("it ends").success());
        // The power goes right behind the end.
        copies.push(powered.copy("end"));
        for copy in copies {
            powered.check(&copy, arguments);
        }
    }
}

#[test]
fn power_cuts_of_gc_on_ext4() {
    power_cuts("ext4", "28-overlay2", 5);
}

#[test]
fn power_cuts_of_gc_on_xfs() {
    power_cuts("xfs", "20-overlay", 6);
}

/// The power goes right behind each step, with nothing written since.
#[cfg(feature = "crash-points")]
#[test]
fn power_cuts_at_each_step_of_gc() {
    let powered = Powered::new("ext4", "20-overlay2");
    for (point, runs) in CRASHES {
        let (last, before) = runs.split_last().expect("a run");
        for time in [1, 3] {
            let root = powered.root(before);
            let point = format!("{point}#{time}");
            let ended = gc(&root, last).env("DOCKPACK_CRASH_AT", point).status().expect("dockpack runs");
            if ended.success() {
                assert!(time > 1, "it is never passed");
                continue;
            }
            let copy = powered.copy("copy");
            // What is kept goes with the purge.
            powered.check(&copy, if last == &["-y"] { &["--purge"] } else { last });
        }
    }
}
