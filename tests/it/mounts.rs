//! Parts of a store on mounts of their own, not mounted, and behind symbolic links: whatever is done then, everything
//! is there when the part is back.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::gc::Lab;
use crate::support::command::{Outcome, run};
use crate::support::disk::Disk;
use crate::support::engine::Engine;
use crate::support::store::{names, temp_dir, unpack};
use crate::support::tree::{Allow, Tree};

/// Where a part of a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// On a mount of its own, of the same file system.
    Bound,
    /// On a file system of its own.
    Disk,
    /// On one that is not mounted: an empty directory is in its place.
    NotMounted,
    /// Behind a symbolic link.
    Link,
}

/// A part of a store that is elsewhere until this goes.
struct Apart {
    at: PathBuf,
    side: PathBuf,
    state: State,
    disk: Option<Disk>,
}

impl Apart {
    fn new(root: &Path, part: &str, state: State) -> Self {
        let (at, side) = (root.join(part), root.with_extension(part.replace('/', ".")));
        let mut apart = Self { at, side, state, disk: None };
        match state {
            State::Disk => {
                let disk = Disk::make("ext4", &apart.side.with_extension("disk"), 100);
                call("cp", &["-a", &format!("{}/.", text(&apart.at)), text(disk.path())]);
                fs::rename(&apart.at, &apart.side).expect("is moved");
                apart.disk = Some(disk);
            }
            _ => fs::rename(&apart.at, &apart.side).expect("is moved"),
        }
        match state {
            State::Link => symlink(&apart.side, &apart.at).expect("a link"),
            _ => fs::create_dir(&apart.at).expect("a directory"),
        }
        apart.mount();
        apart
    }

    /// Mounts the part in its place, where it belongs there.
    fn mount(&self) {
        let from = self.disk.as_ref().map_or(&*self.side, Disk::path);
        if matches!(self.state, State::Bound | State::Disk) {
            call("mount", &["--bind", text(from), text(&self.at)]);
        }
    }

    fn unmount(&self) {
        if matches!(self.state, State::Bound | State::Disk) {
            call("umount", &[text(&self.at)]);
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).stderr(Stdio::null()).status();
        // What was written into the empty directory is what the disk hides when it is mounted again.
        let _ = if self.state == State::Link { fs::remove_file(&self.at) } else { fs::remove_dir_all(&self.at) };
        fs::rename(&self.side, &self.at).expect("is moved back");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[track_caller]
fn call(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What is done to a store. `gc` comes last: it takes something even where nothing is wrong.
const COMMANDS: [&[&str]; 4] =
    [&["verify"], &["repair", "-y", "--from", ARCHIVE], &["load", "-i", ARCHIVE], &["gc", "-y"]];
/// Stands for the archive of all images.
const ARCHIVE: &str = "ARCHIVE";

/// A store with garbage, an archive of its images, and what must not change.
struct Store {
    lab: Lab,
    archive: PathBuf,
    needed: Tree,
    garbage: BTreeSet<String>,
    /// Names of images, each with what it names.
    references: BTreeSet<String>,
}

impl Store {
    fn new() -> Self {
        let lab = Lab::new("28-overlay2");
        let archive = lab.temp.path().join("all.tar.zst");
        let _ = run(&lab.root(), ["save", "--all", "-o", text(&archive)]).done();
        lab.plant();
        let garbage = garbage(&lab.root(), &[]);
        assert!(garbage.len() > 10);
        let needed = without(content(&lab.root()), &garbage);
        let references = references(&lab.root());
        Self { lab, archive, needed, garbage, references }
    }

    fn run(&self, command: &[&str]) -> Outcome {
        let archive = text(&self.archive);
        run(&self.lab.root(), command.iter().map(|word| if *word == ARCHIVE { archive } else { *word }))
    }

    /// Fails where anything is missing or has changed that a run on the whole store keeps.
    #[track_caller]
    fn check(&self, when: &str, allow: Allow) {
        let now = without(content(&self.lab.root()), &self.garbage);
        let mut wrong = self.needed.deviations(&now, allow);
        // repair names images that it brings back; what had a name keeps it.
        assert!(self.references.is_subset(&references(&self.lab.root())), "{when}: a name is gone");
        wrong.retain(|deviation| !allow.bookkeeping || !deviation.path.ends_with(b"/repositories.json"));
        let shown: Vec<String> = wrong.iter().take(10).map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{when}: {} deviations:\n{}", wrong.len(), shown.join("\n"));
    }
}

/// Lists the names of images, each with what it names.
fn references(root: &Path) -> BTreeSet<String> {
    let text = fs::read(root.join("image/overlay2/repositories.json")).expect("a file");
    let document: Value = serde_json::from_slice(&text).expect("JSON");
    let repositories = document["Repositories"].as_object().expect("an object").values();
    let all = repositories.flat_map(|names| names.as_object().expect("an object"));
    all.map(|(name, image)| format!("{name} {image}")).collect()
}

/// Lists what `gc` would take.
fn garbage(root: &Path, driver: &[&str]) -> BTreeSet<String> {
    let plan = run(root, [driver, &["gc", "--dry-run", "--json"]].concat()).done();
    let plan: Value = serde_json::from_slice(&plan.stdout).expect("JSON");
    let entries = plan["plan"]["entries"].as_array().expect("entries").iter();
    let parts = entries.flat_map(|entry| entry["parts"].as_array().expect("parts"));
    parts.map(|part| part["path"].as_str().expect("a path").to_owned()).collect()
}

/// Reads a store without its locks, the times of its directories, and what dockpack or a file system keeps for itself.
fn content(root: &Path) -> Tree {
    let names = names(root).into_iter().filter(|name| name != ".dockpack" && name != "volumes");
    Tree::read_entries(root, names).without_times().only(|path| {
        let mut parts = path.split(|byte| *byte == b'/');
        !parts.any(|part| part == b".dockpack" || part == b"lost+found")
    })
}

/// A tree without some paths.
fn without(tree: Tree, paths: &BTreeSet<String>) -> Tree {
    tree.only(|path| {
        let path = String::from_utf8_lossy(path);
        let mut parents = std::iter::successors(Some(&*path), |path| path.rsplit_once('/').map(|(parent, _)| parent));
        !parents.any(|path| paths.contains(path))
    })
}

/// Does everything with a part that is elsewhere; afterwards what is needed is there, and each command did what it does to
/// the whole store, or said what it could not do and where. Each part comes with the commands that must not even try.
fn a_part_elsewhere(state: State, parts: &[(&str, &[&str])]) {
    let whole = Store::new();
    let codes = COMMANDS.map(|command| whole.run(command).status.code());
    whole.check("nothing is elsewhere", Allow::NOTHING);
    for (part, refuses) in parts {
        let store = Store::new();
        let mut apart = None;
        for (command, whole) in COMMANDS.iter().zip(codes) {
            let when = format!("{part} {state:?}: {}", command[0]);
            let place = apart.take().unwrap_or_else(|| Apart::new(&store.lab.root(), part, state));
            let Outcome { status, stderr, stdout } = store.run(command);
            // What is mounted can be seen where it is.
            if matches!(state, State::Bound | State::Disk) {
                apart = Some(place);
            } else {
                drop(place);
            }
            let code = status.code();
            let said = format!("{stderr}{}", String::from_utf8_lossy(&stdout));
            assert!(!said.contains("panicked"), "{when}: {said}");
            let names_it = said.contains(&format!("/{part}")) || said.contains(&format!("{part}/"));
            assert!(!refuses.contains(&command[0]) || code == Some(1), "{when} ended with {code:?}: {said}");
            // repair names the first thing that it cannot build, wherever that is.
            let is_fair = code == whole || matches!(code, Some(1 | 3)) && (names_it || command[0] == "repair");
            assert!(is_fair, "{when} ended with {code:?}: {said}");
            // dockpack follows no link, and says what works instead.
            let is_told = code != Some(1) || state != State::Link || said.contains("mount --bind");
            assert!(is_told, "{when} does not say what to do: {said}");
            // Beside directories without their records repair builds them anew in their place: all but what overlayfs
            // notes for itself is as it was.
            let is_exact = state != State::NotMounted || command[0] == "verify";
            store.check(&when, if is_exact { Allow::NOTHING } else { Allow::REBUILT });
        }
    }
}

const PARTS: [(&str, &[&str]); 5] =
    [("containers", &[]), ("overlay2", &[]), ("image", &[]), ("image/overlay2", &[]), ("volumes", &[])];

#[test]
fn a_part_on_a_mount_of_its_own() {
    a_part_elsewhere(State::Bound, &PARTS);
}

/// The home is left out: not every file system takes the devices and attributes that its layers have.
#[test]
fn a_part_on_a_disk_of_its_own() {
    let parts: Vec<_> = PARTS.into_iter().filter(|(part, _)| *part != "overlay2").collect();
    a_part_elsewhere(State::Disk, &parts);
}

#[test]
fn a_part_behind_a_symbolic_link() {
    a_part_elsewhere(State::Link, &PARTS);
}

#[test]
fn a_part_that_is_not_mounted() {
    let both: &[&str] = &["gc", "load"];
    let parts = [("overlay2", both), ("image", both), ("image/overlay2", both)];
    a_part_elsewhere(State::NotMounted, &parts);
}

#[test]
fn containers_that_are_not_mounted() {
    a_part_elsewhere(State::NotMounted, &[("containers", &["gc"]), ("volumes", &[])]);
}

#[test]
fn a_part_of_the_records_that_is_not_mounted() {
    let at = |part: &str| format!("image/overlay2/{part}");
    let (mounts, layers, images) = (at("layerdb/mounts"), at("layerdb/sha256"), at("imagedb/content/sha256"));
    let parts: [(&str, &[&str]); 3] = [(&mounts, &["gc"]), (&layers, &["gc", "load"]), (&images, &["gc"])];
    a_part_elsewhere(State::NotMounted, &parts);
}

/// The store of another driver lies beside, with containers of its own.
#[test]
fn the_store_of_another_driver_beside() {
    let temp = temp_dir();
    let (root, other) = (temp.path().join("root"), temp.path().join("other"));
    unpack("28-overlay2", &root);
    unpack("20-overlay", &other);
    // The databases of BuildKit are those of the driver in use.
    fs::remove_dir_all(other.join("buildkit")).expect("is removed");
    let mut gone = garbage(&root, &[]);
    gone.extend(garbage(&other, &[]));
    let archives = [(&root, "overlay2"), (&other, "overlay")].map(|(root, driver)| {
        let archive = temp.path().join(format!("{driver}.tar"));
        let _ = run(root, ["save", "--all", "-o", text(&archive)]).done();
        archive
    });
    for part in ["overlay", "image/overlay"] {
        fs::rename(other.join(part), root.join(part)).expect("is moved");
    }
    for entry in fs::read_dir(other.join("containers")).expect("containers") {
        let entry = entry.expect("an entry");
        fs::rename(entry.path(), root.join("containers").join(entry.file_name())).expect("is moved");
    }
    let needed = without(content(&root), &gone);
    let check = |when: &str| {
        let wrong = needed.deviations(&without(content(&root), &gone), Allow::NOTHING);
        let shown: Vec<String> = wrong.iter().take(10).map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{when}: {} deviations:\n{}", wrong.len(), shown.join("\n"));
    };
    for (driver, archive) in ["overlay2", "overlay"].iter().zip(&archives) {
        for command in COMMANDS {
            let words: Vec<&str> =
                command.iter().map(|word| if *word == ARCHIVE { text(archive) } else { word }).collect();
            let when = format!("{} beside", command[0]);
            let unnamed = run(&root, &words);
            assert_eq!(unnamed.status.code(), Some(2), "{when}: {}", unnamed.stderr);
            check(&when);
            let done = run(&root, [&["--driver", driver], &words[..]].concat());
            let when = format!("{when}, with --driver {driver}: {}", done.stderr);
            assert!(!done.stderr.contains("panicked") && matches!(done.status.code(), Some(0 | 1 | 3)), "{when}");
            check(&when);
        }
    }
}

/// A daemon's store of which each part has a mount of its own, and what a daemon says of it.
struct Daemon {
    // Unmounted before the directory is removed.
    parts: Vec<Apart>,
    archive: PathBuf,
    temp: tempfile::TempDir,
}

impl Daemon {
    fn new(parts: &[(&str, State)]) -> Self {
        let temp = temp_dir();
        let lab = temp.path().join("lab");
        fs::create_dir(&lab).expect("a directory");
        let root = lab.join("root");
        unpack("28-overlay2", &root);
        let _ = run(&root, ["gc", "-y"]).done();
        let archive = temp.path().join("all.tar.zst");
        let _ = run(&root, ["save", "--all", "-o", text(&archive)]).done();
        let parts = parts.iter().map(|(part, state)| Apart::new(&root, part, *state)).collect();
        let daemon = Self { parts, archive, temp };
        // dockerd makes such a mount itself where it finds none, and would hide those below.
        daemon.parts.iter().for_each(Apart::unmount);
        call("mount", &["--bind", text(&root), text(&root)]);
        call("mount", &["--make-shared", text(&root)]);
        daemon.parts.iter().for_each(Apart::mount);
        daemon
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("lab/root")
    }

    /// Does everything that changes a store.
    fn commands(&self) {
        for command in COMMANDS {
            let archive = text(&self.archive);
            let done = run(&self.root(), command.iter().map(|word| if *word == ARCHIVE { archive } else { *word }));
            assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
        }
    }

    /// Starts a daemon, which lists all that the fixture has, starts all containers and makes some of all images.
    fn works(&self) {
        let engine = Engine::start("28", "overlay2", &self.temp.path().join("lab"));
        let images =
            engine.docker(&["image", "ls", "-a", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"]);
        let names: BTreeSet<&str> = images.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        let wanted = ["alpine:3.4", "bk:1", "localhost:5000/team/app:1", "nasty:1", "nasty:2", "nginx:alpine"];
        let more = ["rebuilt:latest", "team/app:2"];
        assert!(wanted.iter().chain(&more).all(|name| names.contains(name)), "{images}");
        let ids: BTreeSet<&str> = images.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(ids.len(), 16, "{images}");
        for image in ids {
            let id = engine.docker(&["create", "--network", "none", image, "/bin/busybox", "true"]);
            let _ = engine.docker(&["rm", id.trim()]);
        }
        for container in ["waiting", "nginx", "changed", "orphan"] {
            let _ = engine.docker(&["start", container]);
            let exported = engine.try_docker(&["export", container], Stdio::null());
            assert!(exported.status.success(), "{container}: {}", String::from_utf8_lossy(&exported.stderr));
        }
        assert!(engine.docker(&["diff", "nginx"]).contains("awesome-nginx.txt"));
        engine.stop();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", text(&self.root())]).status();
    }
}

/// Each part was not mounted while everything was done that dockpack does. Then all are mounted, and a daemon misses
/// nothing.
#[test]
fn a_daemon_whose_disks_were_not_mounted() {
    let parts = ["containers", "overlay2", "image", "volumes"].map(|part| (part, State::Bound));
    let daemon = Daemon::new(&parts);
    daemon.commands();
    for part in &daemon.parts {
        part.unmount();
        daemon.commands();
        // What they have left there is hidden.
        part.mount();
    }
    daemon.commands();
    daemon.works();
}

/// dockerd takes these parts behind links.
#[test]
fn a_daemon_with_parts_behind_links() {
    let daemon = Daemon::new(&["containers", "image", "volumes"].map(|part| (part, State::Link)));
    daemon.commands();
    daemon.works();
    daemon.commands();
}
