//! Containers that run on without their daemon (live-restore): whatever is done to the store, by whatever name, their
//! files stay, and it is said what is in use.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::command::{Outcome, run};
use crate::support::store::{Contents, dirs, project, temp_dir};

/// Files in the directory that a container is watched by.
const FILES: usize = 40;

/// A daemon with a container that runs.
struct Lab {
    _temp: tempfile::TempDir,
    dir: PathBuf,
    version: &'static str,
    driver: &'static str,
}

impl Lab {
    fn new(version: &'static str, driver: &'static str) -> Self {
        let temp = temp_dir();
        let dir = temp.path().join("lab");
        for path in ["root", "alias"] {
            fs::create_dir_all(dir.join(path)).expect("directories");
        }
        Self { _temp: temp, dir, version, driver }
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn engine(&self, arguments: &[&str]) {
        let mut command = Command::new(project("ci/engine"));
        let log = fs::File::create(self.dir.join("engine.log")).expect("a file");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let status = command.status().expect("ci/engine runs");
        let said = || fs::read_to_string(self.dir.join("engine.log")).unwrap_or_default();
        assert!(status.success(), "ci/engine {arguments:?}: {}", said());
    }

    fn start(&self) {
        self.engine(&["start", self.version, self.driver, self.text(), "--live-restore"]);
    }

    fn text(&self) -> &str {
        self.dir.to_str().expect("text")
    }

    #[track_caller]
    fn docker(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(project("ci/engine"));
        let output = command.args(["docker", self.version, self.text()]).args(arguments).output().expect("it runs");
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Makes `base:1`, and on top of it `top:1` with many files in `/srv`; an archive of both; and a container of the
    /// first that does not run.
    fn fill(&self) {
        let work = self.dir.join("work");
        fs::create_dir_all(work.join("srv")).expect("directories");
        fs::copy("/bin/busybox", work.join("busybox")).expect("a static program");
        for number in 0..FILES {
            fs::write(work.join(format!("srv/{number}")), format!("file {number}")).expect("a file");
        }
        let tar = self.dir.join("base.tar");
        call(Command::new("tar").arg("-C").arg(&work).arg("-cf").arg(&tar).arg("busybox"));
        self.docker(&["import", tar.to_str().expect("text"), "base:1"]);
        self.docker(&["create", "--name", "made", "--network", "none", "base:1", "/busybox", "true"]);
        self.docker(&["cp", work.join("srv").to_str().expect("text"), "made:/srv"]);
        self.docker(&["commit", "made", "top:1"]);
        self.docker(&["rm", "made"]);
        self.docker(&["create", "--name", "idle", "--network", "none", "base:1", "/busybox", "true"]);
        let archive = self.archive();
        let _ = run(&self.root(), ["save", "--all", "-o", archive.to_str().expect("text")]).done();
    }

    fn archive(&self) -> PathBuf {
        self.dir.join("all.tar.zst")
    }

    /// Starts a container of `top:1`, and ends the daemon without it. The store gets another name.
    fn leave_running(&self) -> Container {
        let script = "/busybox echo written >/srv/own; exec /busybox sleep 1000";
        let id =
            self.docker(&["run", "-d", "--name", "db", "--network", "none", "top:1", "/busybox", "sh", "-c", script]);
        let pid = self.docker(&["inspect", "-f", "{{.State.Pid}}", &id]);
        let container = Container { id, root: PathBuf::from(format!("/proc/{pid}/root")) };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !container.root.join("srv/own").exists() {
            assert!(std::time::Instant::now() < end, "the container does not write");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        self.engine(&["leave", self.text()]);
        container.assert_whole("without its daemon");
        call(Command::new("mount").arg("--bind").arg(self.root()).arg(self.dir.join("alias")));
        container
    }

    /// Does something by both names of the store; the container's files stay.
    #[track_caller]
    fn by_both_names(&self, container: &Container, arguments: &[&str]) -> [Outcome; 2] {
        ["alias", "root"].map(|name| {
            let outcome = run(&self.dir.join(name), arguments);
            container.assert_whole(&format!("{name}: dockpack {}: {}", arguments.join(" "), outcome.stderr));
            outcome
        })
    }

    /// Returns the directory of the layer of `top:1` that has the files.
    fn top(&self) -> PathBuf {
        let contents = Contents::read(&self.root(), self.driver);
        let (_, dir) = self.top_layer(&contents);
        dirs(&self.root(), self.driver).join(dir)
    }

    fn top_layer(&self, contents: &Contents) -> (String, String) {
        let config: Value = serde_json::from_slice(&contents.images[&contents.references["top:1"]]).expect("JSON");
        let top = config["rootfs"]["diff_ids"].as_array().expect("a list").last().expect("one").clone();
        let top = top.as_str().expect("text").to_owned();
        let entry = |chain: &str| self.root().join("image").join(self.driver).join("layerdb/sha256").join(chain);
        let is_it = |chain: &str| fs::read_to_string(entry(chain).join("diff")).is_ok_and(|diff| diff == top);
        let (chain, dir) = contents.layers.iter().find(|(chain, _)| is_it(chain)).expect("the layer");
        (chain.clone(), dir.clone())
    }

    /// Tells whether containers use the directories of images, and not copies of them.
    fn shares_layers(&self) -> bool {
        !matches!(self.driver, "vfs" | "btrfs")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.join("alias")).stderr(Stdio::null()).status();
        let mut remove = Command::new(project("ci/engine"));
        let _ = remove.arg("remove").arg(&self.dir).stderr(Stdio::null()).status();
    }
}

/// A container that runs.
struct Container {
    id: String,
    root: PathBuf,
}

impl Container {
    #[track_caller]
    fn assert_whole(&self, after: &str) {
        let root = fs::read_link(&self.root).expect("it runs");
        assert_eq!(root, Path::new("/"), "after {after}");
        let files = fs::read_dir(self.root.join("srv")).map_or(0, Iterator::count);
        assert_eq!(files, FILES + 1, "after {after}");
        for (name, text) in [("1", "file 1"), ("own", "written\n")] {
            let read = fs::read_to_string(self.root.join("srv").join(name));
            assert_eq!(read.unwrap_or_default(), text, "after {after}");
        }
    }
}

#[track_caller]
fn call(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Hides files and directories, and brings them back.
struct Hidden(BTreeMap<PathBuf, PathBuf>);

impl Hidden {
    fn new(lab: &Lab, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let hidden = paths.into_iter().enumerate().map(|(number, path)| {
            let aside = lab.dir.join(format!("hidden-{number}"));
            call(Command::new("mv").arg(&path).arg(&aside));
            (path, aside)
        });
        Self(hidden.collect())
    }

    fn bring_back(self) {
        for (path, aside) in self.0 {
            call(Command::new("mv").arg("-T").arg(aside).arg(path));
        }
    }
}

/// The records of a container are lost, and the image has no name: gc and a purge leave what it has mounted.
fn gc(lab: &Lab, container: &Container) {
    let (top, image) = (lab.top(), lab.root().join("image").join(lab.driver));
    let references = image.join("repositories.json");
    let named = fs::read_to_string(&references).expect("text");
    let mut fewer: Value = serde_json::from_str(&named).expect("JSON");
    fewer["Repositories"].as_object_mut().expect("names").remove("top").expect("it is there");
    let lost = [lab.root().join("containers").join(&container.id), image.join("layerdb/mounts").join(&container.id)];
    let hidden = Hidden::new(lab, lost);
    fs::write(&references, fewer.to_string()).expect("is written");
    for outcome in lab.by_both_names(container, &["gc", "-y"]) {
        assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
        let says = |text: &str| outcome.stderr.contains(text);
        assert!(says("mounted at") || says("part of the mount of fuse-overlayfs"), "{}", outcome.stderr);
    }
    assert!(!lab.shares_layers() || top.is_dir());
    let _ = lab.by_both_names(container, &["gc", "--undo"]);
    fs::write(&references, &named).expect("is written");
    assert!(top.is_dir());
    // Nothing else is garbage then, but the container's own directories.
    for outcome in lab.by_both_names(container, &["gc", "-y", "--purge"]) {
        assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
    }
    hidden.bring_back();
}

/// A file of the layer is damaged: repair does not replace what the container has mounted.
fn repair(lab: &Lab, container: &Container) {
    let top = lab.top();
    let tree = ["diff", "root"].map(|name| top.join(name)).into_iter().find(|tree| tree.is_dir()).unwrap_or(top);
    let file = tree.join("srv/7");
    let text = fs::read_to_string(&file).expect("text");
    fs::write(&file, text.replace('f', "F")).expect("is written");
    let archive = lab.archive();
    let [alias, root] = lab.by_both_names(container, &["repair", "-y", "--from", archive.to_str().expect("text")]);
    if lab.shares_layers() {
        for outcome in [alias, root] {
            assert_eq!(outcome.status.code(), Some(3), "{}", outcome.stderr);
        }
        fs::write(&file, text).expect("is written");
    }
}

/// A record is broken: load would replace it, and the directory with it, which the container has mounted.
fn load(lab: &Lab, container: &Container) {
    let archive = lab.archive();
    let load = ["load", "-i", archive.to_str().expect("text")];
    for outcome in lab.by_both_names(container, &load) {
        let _ = outcome.done();
    }
    if lab.shares_layers() {
        let (chain, _) = lab.top_layer(&Contents::read(&lab.root(), lab.driver));
        let records = lab.root().join("image").join(lab.driver).join("layerdb/sha256");
        let hidden = Hidden::new(lab, [records.join(chain).join("tar-split.json.gz")]);
        for outcome in lab.by_both_names(container, &load) {
            assert!(outcome.failed(4).stderr.contains("its directory "));
        }
        hidden.bring_back();
    }
}

/// All of it, and in the end a daemon takes the container over.
fn all(version: &'static str, driver: &'static str) {
    let lab = Lab::new(version, driver);
    lab.start();
    lab.fill();
    let container = lab.leave_running();
    gc(&lab, &container);
    repair(&lab, &container);
    load(&lab, &container);
    call(Command::new("umount").arg(lab.dir.join("alias")));
    lab.start();
    assert_eq!(lab.docker(&["ps", "--format", "{{.Names}}"]), "db");
    assert_eq!(lab.docker(&["exec", "db", "/busybox", "cat", "/srv/own"]), "written");
    container.assert_whole("a daemon took it over");
}

#[test]
fn daemon_28_overlay2_is_gone() {
    all("28", "overlay2");
}

#[test]
fn daemon_20_overlay_is_gone() {
    all("20", "overlay");
}

#[test]
fn daemon_28_vfs_is_gone() {
    all("28", "vfs");
}

#[test]
fn daemon_28_btrfs_is_gone() {
    all("28", "btrfs");
}

#[test]
fn daemon_28_fuse_overlayfs_is_gone() {
    all("28", "fuse-overlayfs");
}

/// A layer was repaired, and a container of it runs on without its daemon.
fn undo(version: &'static str, driver: &'static str) {
    let lab = Lab::new(version, driver);
    lab.start();
    lab.fill();
    lab.engine(&["stop", lab.text()]);
    let top = lab.top();
    let tree = ["diff", "root"].map(|name| top.join(name)).into_iter().find(|tree| tree.is_dir()).expect("a tree");
    fs::write(tree.join("srv/7"), "FILE 7").expect("is written");
    let archive = lab.archive();
    let _ = run(&lab.root(), ["repair", "-y", "--from", archive.to_str().expect("text")]).done();
    lab.start();
    let container = lab.leave_running();
    for arguments in [["repair", "--undo"], ["gc", "--purge"]] {
        for outcome in lab.by_both_names(&container, &arguments) {
            assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
            assert!(outcome.stderr.contains("part of what is mounted at"), "{}", outcome.stderr);
        }
    }
    call(Command::new("umount").arg(lab.dir.join("alias")));
    lab.start();
    lab.docker(&["rm", "-f", "db"]);
    lab.engine(&["stop", lab.text()]);
    // Nothing is in use any more.
    let _ = run(&lab.root(), ["repair", "--undo"]).done();
    assert_eq!(fs::read_to_string(tree.join("srv/7")).expect("text"), "FILE 7");
}

#[test]
fn daemon_28_overlay2_is_gone_after_a_repair() {
    undo("28", "overlay2");
}

#[test]
fn daemon_20_overlay_is_gone_after_a_repair() {
    undo("20", "overlay");
}
