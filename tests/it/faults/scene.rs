//! A store, and a command that is disturbed on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::state::{Known, State};
use crate::gc::Lab;
use crate::support::command::{DOCKPACK, HURRY, Outcome, run, save};
use crate::support::store::{dirs, fast_dir, unpack};
use crate::verify::damage;

/// Images of which a small store is made, and that of which some more is damaged.
const SOME: [&str; 3] = ["alpine:3.4", "rebuilt:latest", "nginx:alpine"];
/// One more where layers are small, with files of every kind. Where each has the whole tree, there would be ten times the
/// calls, of the same kinds.
const ALL_KINDS: &str = "nasty:1";

/// Damage of which each kind is mended in another way.
const DAMAGE: [&str; 6] =
    ["byte-changed", "directory-mode", "tar-split-gone", "layer-entry-gone", "config-gone", "references-empty"];
/// As [`DAMAGE`], where there are short names.
const OF_OVERLAY2: [&str; 3] = ["lower-gone", "short-name-gone", "work-gone"];

/// What a command makes of a store when nothing disturbs it.
pub(super) struct Scene {
    pub(super) name: String,
    /// How many calls of each kind the command makes.
    pub(super) calls: BTreeMap<String, usize>,
    driver: &'static str,
    temp: TempDir,
    /// What is done to each copy of the store before it.
    first: Option<Vec<String>>,
    arguments: Vec<String>,
    /// What brings all back.
    undo: Option<[&'static str; 2]>,
    known: Known,
    before: State,
    after: State,
    code: i32,
    stdout: Vec<u8>,
}

impl Scene {
    /// A command on a store with garbage of every kind, behind others.
    pub(super) fn gc(driver: &'static str, first: &[&[&str]], arguments: &[&str]) -> Self {
        let (lab, _) = base(driver);
        if driver == "vfs" {
            // A store without any container has lost them.
            add_container(&lab);
        }
        lab.plant();
        for arguments in first {
            let _ = run(&lab.root(), *arguments).done();
        }
        let undo = (arguments == ["gc", "-y"]).then_some(["gc", "--undo"]);
        Self::of(driver, lab.temp, arguments.iter().map(|word| (*word).to_owned()).collect(), undo)
    }

    /// `verify` on a store that is whole.
    pub(super) fn verify(driver: &'static str) -> Self {
        let (lab, _) = base(driver);
        Self::of(driver, lab.temp, vec!["verify".to_owned()], None)
    }

    /// `repair`, or its undo, on a store with several defects.
    pub(super) fn repair(driver: &'static str, undo: bool) -> Self {
        let (lab, archive) = base(driver);
        let archive = archive.to_str().expect("text").to_owned();
        if driver == "vfs" {
            // Layers of this driver are not built anew: what is mended is what the records say.
            let image = lab.root().join("image/vfs");
            fs::write(image.join("repositories.json"), "{\"Repositories\":{").expect("a file");
            let entries = fs::read_dir(image.join("layerdb/sha256")).expect("layers");
            let entries: Vec<PathBuf> = entries.map(|entry| entry.expect("a layer").path()).collect();
            let upper = entries.iter().find(|entry| entry.join("parent").exists()).expect("a layer on another");
            fs::write(upper.join("diff"), format!("sha256:{}", "0".repeat(64))).expect("a file");
        } else {
            for defect in OF_OVERLAY2.iter().filter(|_| driver == "overlay2").chain(&DAMAGE) {
                damage(defect, &lab.root());
            }
        }
        let repair = ["repair", "-y", "--from", &archive].map(str::to_owned);
        if undo {
            // What is put back is known by its inode, which a copy has not.
            let arguments = ["repair", "--undo"].map(str::to_owned).to_vec();
            return Self::behind(Some(repair.to_vec()), driver, lab.temp, arguments, None);
        }
        Self::of(driver, lab.temp, repair.to_vec(), Some(["repair", "--undo"]))
    }

    /// `load` of an archive of which the store has one image.
    pub(super) fn load(driver: &'static str) -> Self {
        let (lab, archive) = packed("28-overlay2", driver);
        fs::remove_dir_all(lab.root()).expect("removed");
        fs::create_dir(lab.root()).expect("a directory");
        let _ = crate::support::command::run(
            &lab.root(),
            ["--driver", driver, "load", "-i", archive.to_str().expect("text"), SOME[0]],
        )
        .done();
        let arguments = ["load", "-i", archive.to_str().expect("text")].map(str::to_owned);
        Self::of(driver, lab.temp, arguments.to_vec(), None)
    }

    fn of(driver: &'static str, temp: TempDir, arguments: Vec<String>, undo: Option<[&'static str; 2]>) -> Self {
        Self::behind(None, driver, temp, arguments, undo)
    }

    fn behind(
        first: Option<Vec<String>>,
        driver: &'static str,
        temp: TempDir,
        arguments: Vec<String>,
        undo: Option<[&'static str; 2]>,
    ) -> Self {
        let mut scene = Self {
            name: format!("{} on {driver}", arguments[..arguments.len().min(2)].join(" ")),
            calls: BTreeMap::new(),
            driver,
            temp,
            first,
            arguments,
            undo,
            known: Known::default(),
            before: State::default(),
            after: State::default(),
            code: 0,
            stdout: Vec::new(),
        };
        // Later reads of directories find what the first makes.
        scene.copy();
        scene.before = scene.read(&scene.at("work"));
        let done = scene.run(None);
        let code = done.status.code();
        assert!(matches!(code, Some(0 | 3)), "{}: {code:?}: {}", scene.name, done.stderr);
        (scene.code, scene.stdout) = (code.expect("a code"), done.stdout);
        scene.after = scene.read(&scene.at("work"));
        for line in scene.log().lines() {
            *scene.calls.entry(line.to_owned()).or_default() += 1;
        }
        scene.restore(&scene.after);
        scene
    }

    fn at(&self, path: &str) -> PathBuf {
        self.temp.path().join(path)
    }

    fn read(&self, root: &Path) -> State {
        State::read(root, &self.known, self.arguments[0] == "repair")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    fn copy(&self) {
        let work = self.at("work");
        if work.exists() {
            fs::remove_dir_all(&work).expect("removed");
        }
        let status = Command::new("cp").arg("-a").arg(self.at("root")).arg(&work).status();
        assert!(status.expect("cp runs").success());
        let Some(first) = &self.first else { return self.before.recognise(&work, &self.known) };
        let done = run(&work, first);
        assert!(matches!(done.status.code(), Some(0 | 3)), "{}", done.stderr);
    }

    /// Makes the store what it was.
    fn restore(&self, now: &State) {
        if self.driver == "overlay" || self.arguments[0] != "gc" {
            // Files of several names, or of the same name and another content, are many.
            return self.copy();
        }
        let mut changed = self.before.differing_tops(now);
        changed.push(".dockpack".to_owned());
        for path in &changed {
            let at = self.at("work").join(path);
            match fs::symlink_metadata(&at) {
                Err(_) => {}
                Ok(found) if found.is_dir() => fs::remove_dir_all(&at).expect("removed"),
                Ok(_) => fs::remove_file(&at).expect("removed"),
            }
        }
        changed.retain(|path| fs::symlink_metadata(self.at("root").join(path)).is_ok());
        if !changed.is_empty() {
            let mut copy = Command::new("cp");
            copy.current_dir(self.at("root")).args(["-a", "--parents"]).args(changed).arg(self.at("work"));
            assert!(copy.status().expect("cp runs").success());
        }
    }

    /// Runs the command, with a fault where one is wanted, else telling of all calls.
    fn run(&self, fault: Option<&str>) -> Outcome {
        let _ = fs::remove_file(self.at("log"));
        let mut command = Command::new(DOCKPACK);
        command.env_clear().env(HURRY, "1").env("DOCKPACK_FAULT_LOG", self.at("log"));
        // The calls of one thread are always the same ones.
        command.env("RAYON_NUM_THREADS", "1").envs(fault.map(|fault| ("DOCKPACK_FAULT", fault)));
        command.arg("--root").arg(self.at("work")).args(&self.arguments).stdin(Stdio::null());
        let output = command.output().expect("dockpack runs");
        let stderr = String::from_utf8(output.stderr).expect("messages are text");
        Outcome { status: output.status, stdout: output.stdout, stderr }
    }

    /// Lets one call fail. Tells whether it was made, and what is wrong then.
    pub(super) fn fail(&self, fault: &str, number: usize) -> (bool, Vec<String>) {
        let outcome = self.run(Some(fault));
        let now = self.read(&self.at("work"));
        let mut wrong = self.look(&outcome, &now);
        let is_untouched = now.difference(&self.before).is_none() && now.rest == self.before.rest;
        if !is_untouched {
            if wrong.is_empty() {
                wrong = self.go_on(number);
            }
            self.restore(&self.read(&self.at("work")));
        }
        let said = || outcome.stderr.lines().take(4).collect::<Vec<_>>().join(" | ");
        (!self.log().is_empty(), wrong.into_iter().map(|text| format!("{text}\n    {}", said())).collect())
    }

    /// Looks at what a disturbed run has left.
    fn look(&self, outcome: &Outcome, now: &State) -> Vec<String> {
        let mut wrong = now.strangers(&self.before, &self.after);
        wrong.extend(now.torn(&self.before, &self.after, self.driver));
        let code = outcome.status.code();
        if code.is_none_or(|code| !(0..=4).contains(&code)) || outcome.stderr.contains("panicked") {
            wrong.push(format!("it ended with {}", outcome.status));
        }
        if code == Some(0) {
            wrong.extend(self.after.difference(now).map(|text| format!("exit code 0, and {text}")));
            if now.rest.is_empty() != self.after.rest.is_empty() {
                wrong.push("exit code 0, and the trash is not what it should be".to_owned());
            }
            if self.arguments == ["verify"] && outcome.stdout != self.stdout {
                wrong.push("exit code 0, and it says something else".to_owned());
            }
        }
        wrong.truncate(4);
        wrong
    }

    /// Runs the command once more, or takes all back, as if nothing had been.
    fn go_on(&self, number: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(undo) = self.undo.filter(|_| number % 2 == 1) {
            let undone = run(&self.at("work"), undo);
            let state = self.read(&self.at("work"));
            // What was deleted, or never moved, is not put back: it says that there is nothing.
            let is_done = undone.status.code() == Some(2) && self.after.difference(&state).is_none();
            if !matches!(undone.status.code(), Some(0 | 2)) {
                wrong.push(format!("undo fails: {}", undone.stderr));
            } else if !is_done {
                wrong.extend(self.before.difference(&state).map(|text| format!("behind the undo {text}")));
            }
            return wrong;
        }
        let again = self.run(None);
        let state = self.read(&self.at("work"));
        let is_late = self.arguments.len() == 2 && again.status.code() == Some(2);
        if again.status.code() != Some(self.code) && !is_late {
            wrong.push(format!("the next run ends with {}: {}", again.status, again.stderr));
        }
        wrong.extend(self.after.difference(&state).map(|text| format!("behind the next run {text}")));
        if self.after.rest.is_empty() && !state.rest.is_empty() {
            wrong.push("behind the next run something is in .dockpack".to_owned());
        }
        wrong
    }
}

/// Makes a container, with its writable layer, on one of the layers.
fn add_container(lab: &Lab) {
    let id = "ab".repeat(32);
    let layers = fs::read_dir(lab.image("layerdb/sha256")).expect("layers");
    let names = layers.map(|layer| layer.expect("a layer").file_name().into_string().expect("a chain ID"));
    let mount = lab.image("layerdb/mounts").join(&id);
    lab.write(&mount.join("mount-id"), &"cd".repeat(32));
    lab.write(&mount.join("parent"), &format!("sha256:{}", names.min().expect("a layer")));
    fs::create_dir(dirs(&lab.root(), &lab.driver).join("cd".repeat(32))).expect("a directory");
    let config = format!(r#"{{"ID":"{id}","Name":"/some","Driver":"{}","State":{{}}}}"#, lab.driver);
    lab.write(&lab.at(&format!("containers/{id}/config.v2.json")), &config);
}

/// A store of a driver, and an archive of images that are in it.
fn base(driver: &str) -> (Lab, PathBuf) {
    let (lab, archive) = packed(if driver == "overlay" { "20-overlay" } else { "28-overlay2" }, driver);
    let root = lab.root();
    if driver == "vfs" {
        fs::remove_dir_all(&root).expect("removed");
        fs::create_dir(&root).expect("a directory");
        let _ = run(&root, ["--driver", "vfs", "load", "-i", archive.to_str().expect("text")]).done();
    }
    if driver == "overlay" {
        // What else the fixture has goes, for the same reason.
        let file = root.join("image/overlay/repositories.json");
        let mut names: serde_json::Value = serde_json::from_slice(&fs::read(&file).expect("a file")).expect("JSON");
        let repositories = names["Repositories"].as_object_mut().expect("an object");
        repositories.retain(|name, _| SOME.iter().any(|image| image.split(':').next() == Some(name)));
        fs::write(&file, names.to_string()).expect("written");
        let _ = run(&root, ["gc", "-y", "--purge"]).done();
        let _ = run(&root, ["gc", "--purge", "-y"]).done();
    }
    (lab, archive)
}

/// A fixture in a lab for a driver, and an archive of some of its images.
fn packed(fixture: &str, driver: &str) -> (Lab, PathBuf) {
    let temp = fast_dir();
    let (root, archive) = (temp.path().join("root"), temp.path().join("some.tar"));
    unpack(fixture, &root);
    let more = (driver == "overlay2").then_some(ALL_KINDS);
    let images: Vec<&str> = SOME.into_iter().chain(more).collect();
    save(&root, &images, &archive);
    (Lab::copied(temp, driver), archive)
}
