//! Every graph driver: what real daemons made is saved, loaded into a store of the same driver and of each other, and
//! real daemons list, run and save it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use sha2::Digest as _;

use crate::copy::{copy, store};
use crate::support::command::{DOCKPACK, HURRY, Outcome, load, run, save, try_load};
use crate::support::disk::Disk;
use crate::support::engine::Engine;
use crate::support::store::{
    Contents, assert_nothing_else, assert_same_images, assert_same_names, dirs, names, project, temp_dir, unpack,
};
use crate::support::tree::{Allow, assert_same};

/// Graph drivers that run here, with Docker 20.10; 28 has all but the first.
const DRIVERS: [&str; 5] = ["overlay", "overlay2", "fuse-overlayfs", "vfs", "btrfs"];

/// Drivers whose layers are whole trees.
const WHOLE: [&str; 3] = ["overlay", "vfs", "btrfs"];

/// What the images of a source are called.
const TAGS: [&str; 6] = ["alpine:3.4", "nginx:alpine", "rebuilt:latest", "bk:1", "nasty:1", "nasty:2"];

/// The image with a hard link into a lower layer.
const LINKED: &str = "linked:1";

/// A place for stores of every driver.
struct Lab {
    /// Goes before the directory that it is mounted in.
    btrfs: Disk,
    temp: tempfile::TempDir,
    version: &'static str,
}

impl Lab {
    fn new(version: &'static str) -> Self {
        let temp = temp_dir();
        let btrfs = Disk::make("btrfs", &temp.path().join("btrfs.img"), 2048);
        unpack("20-overlay2", &temp.path().join("fixture"));
        save(&temp.path().join("fixture"), &TAGS, &temp.path().join("fixture.tar"));
        Self { btrfs, temp, version }
    }

    /// The directory of an engine of this driver; the data root is `root` in it.
    fn dir(&self, driver: &str, name: &str) -> PathBuf {
        let base = if driver == "btrfs" { self.btrfs.path() } else { self.temp.path() };
        let dir = base.join(format!("{driver}-{name}"));
        fs::create_dir_all(dir.join("root")).expect("directories");
        dir
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Images that a daemon loaded and built with this driver.
    fn source(&self, driver: &'static str) -> Source<'_> {
        let fixture = self.at("fixture.tar");
        let dir = self.dir(driver, "source");
        let engine = Engine::start(self.version, driver, &dir);
        let loaded = engine.try_docker(&["load", "-q"], File::open(&fixture).expect("an archive"));
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        engine.fill(&["bk"]);
        if WHOLE.contains(&driver) {
            engine.fill(&["linked"]);
        }
        engine.docker(&["create", "--name", "kept", "--network", "none", "nginx:alpine", "true"]);
        engine.stop();
        let archive = self.at(&format!("{driver}.tar.zst"));
        save(&dir.join("root"), &["--all"], &archive);
        Source { lab: self, driver, root: dir.join("root"), archive }
    }
}

/// A store that a daemon made, and its archive.
struct Source<'a> {
    lab: &'a Lab,
    driver: &'static str,
    root: PathBuf,
    archive: PathBuf,
}

impl Source<'_> {
    /// Loaded into an empty root of the same driver, it is the same to the last bit.
    fn round_trip(&self) {
        let dir = self.lab.dir(self.driver, "again");
        let root = dir.join("root");
        let said = load(&root, &self.archive, &[]);
        assert!(!said.stderr.contains("warning"), "{}", said.stderr);
        let [one, other] = [&self.root, &root].map(|root| Contents::read(root, self.driver));
        assert_eq!(one, other);
        // BuildKit on fuse-overlayfs leaves another name of a changed file, and hides what was in a directory that was
        // removed and made again: the layer's tar knows of neither, so nothing proves it.
        const HIDDEN: &[u8] = b"/diff/app/data/.wh.";
        let unproved = ["app/bin/same", "app/bin/third", "app/data", "app/data/.wh..opq", "app/data/.wh..wh..opq"];
        let counts = |path: &[u8]| {
            self.driver != "fuse-overlayfs"
                || !unproved.iter().any(|end| path.ends_with(format!("/diff/{end}").as_bytes()))
                    && !path.windows(HIDDEN.len()).any(|part| part == HIDDEN)
        };
        let trees =
            [(&one, &self.root), (&other, &root)].map(|(contents, root)| contents.layer_trees(root).only(counts));
        assert_same(&trees[0], &trees[1], Allow::REBUILT);
        assert_same(&one.archived(&self.root), &other.archived(&root), Allow::NOTHING);
        assert_same_names(&self.root, &root, self.driver);
        assert_nothing_else(&root, self.driver);
        let again = self.lab.at(&format!("{}-again.tar.zst", self.driver));
        save(&root, &["--all"], &again);
        assert!(fs::read(&self.archive).expect("one") == fs::read(&again).expect("other"), "the archives differ");
        assert_clean(&root);
        self.use_it(self.driver, &dir, &Contents::read(&self.root, self.driver));
    }

    /// Copied into an empty root of another driver, it has the same layers. What that driver cannot hold is refused.
    fn goes_to(&self, driver: &'static str) {
        let dir = self.lab.dir(driver, &format!("from-{}", self.driver));
        let root = dir.join("root");
        let copy = |wanted: &[&str]| copy(&store(&self.root), &format!("store:{driver}@{}", root.display()), wanted);
        let wanted = self.put(driver, &root, &copy);
        assert_clean(&root);
        // An archive says the same, whichever driver's store it is of; that of overlay has what others cannot hold.
        if self.driver == "overlay" {
            self.is_loaded_as(driver, &root);
        }
        self.use_it(driver, &dir, &wanted);
    }

    /// Puts all images that a driver can hold into an empty root; returns them.
    fn put(&self, driver: &str, root: &Path, into: &dyn Fn(&[&str]) -> Outcome) -> Contents {
        let mut wanted = Contents::read(&self.root, self.driver);
        if !wanted.references.contains_key(LINKED) || WHOLE.contains(&driver) {
            let _ = into(&[]).done();
            return wanted;
        }
        let said = into(&[]).failed(1).stderr;
        let why = "linked/passwd is a hard link to etc/passwd";
        for words in [driver, "cannot hold layer", why, LINKED, "\nhint: "] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(names(root), [] as [String; 0]);
        let linked = wanted.references.remove(LINKED).expect("it is there");
        wanted.images.remove(&linked);
        let _ = into(&wanted.images.keys().map(String::as_str).collect::<Vec<_>>()).done();
        wanted
    }

    /// Its archive, loaded into an empty root, is what was copied into another.
    fn is_loaded_as(&self, driver: &'static str, copied: &Path) {
        let loaded = self.lab.dir(driver, &format!("loaded-from-{}", self.driver)).join("root");
        let archive = self.archive.to_str().expect("text");
        let load = |wanted: &[&str]| run(&loaded, [&["--driver", driver, "load", "-i", archive], wanted].concat());
        let _ = self.put(driver, &loaded, &load);
        assert_clean(&loaded);
        let [one, other] = [&loaded, copied].map(|root| Contents::read(root, driver));
        assert_eq!(one, other);
        // What no tar says is as old as the store.
        let trees = [(&one, loaded.as_path()), (&other, copied)]
            .map(|(contents, root)| contents.layer_trees(root).without_times());
        assert_same(&trees[0], &trees[1], Allow::REBUILT);
    }

    /// A daemon lists the images, runs them, and saves the same layers.
    fn use_it(&self, driver: &str, dir: &Path, wanted: &Contents) {
        let engine = Engine::start(self.lab.version, driver, dir);
        assert_eq!(engine.image_ids(), wanted.images.keys().cloned().collect(), "{driver} from {}", self.driver);
        for tag in wanted.references.keys() {
            engine.docker(&["run", "--rm", "--network", "none", tag, "true"]);
        }
        assert_eq!(engine.docker(&["run", "--rm", "--network", "none", "bk:1"]), "built by BuildKit\n");
        let saved = self.lab.at(&format!("{driver}-{}.saved.tar", self.driver));
        // fuse-overlayfs does not show what a layer removes and makes again, and Docker cannot save that.
        let nasty = wanted.references.get("nasty:2").filter(|_| driver == "fuse-overlayfs");
        let ids = || wanted.images.keys().filter(|id| nasty != Some(*id));
        let path = saved.to_str().expect("text");
        engine.docker(&["save", "-o", path].into_iter().chain(ids().map(String::as_str)).collect::<Vec<_>>());
        engine.stop();
        let digests = digests_in(&saved);
        fs::remove_file(&saved).expect("is removed");
        for id in ids() {
            let config: Value = serde_json::from_slice(&wanted.images[id]).expect("a configuration");
            for diff in config["rootfs"]["diff_ids"].as_array().into_iter().flatten() {
                let diff = diff.as_str().expect("a diff ID").trim_start_matches("sha256:");
                assert!(digests.contains(diff), "docker save of {driver} from {} has no layer {diff}", self.driver);
            }
        }
    }
}

/// Returns the SHA-256 of every file in a tar.
fn digests_in(tar: &Path) -> BTreeSet<String> {
    let mut archive = tar::Archive::new(File::open(tar).expect("an archive"));
    let files = archive.entries().expect("entries").map(|entry| {
        let mut digest = sha2::Sha256::new();
        std::io::copy(&mut entry.expect("an entry"), &mut HashWriter(&mut digest)).expect("content");
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    });
    files.collect()
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Fails where `verify` finds anything that is no note.
#[track_caller]
pub(crate) fn assert_clean(root: &Path) {
    let outcome = run(root, ["verify", "--json"]);
    let document: Value = serde_json::from_slice(&outcome.stdout).unwrap_or_else(|_| panic!("{}", outcome.stderr));
    let found = document["findings"].as_array().expect("findings").iter();
    let bad: Vec<&Value> = found.filter(|found| found["severity"] != "note").collect();
    assert!(outcome.status.success() && bad.is_empty(), "{bad:#?}");
    assert!(document["checked"]["layers"].as_u64() > Some(0));
}

/// Garbage of a driver is found and removed, and all else stays.
fn garbage(source: &Source<'_>) {
    let Source { driver, root, .. } = source;
    assert_clean(root);
    let kept = Contents::read(root, driver);
    let orphan = "0123456789abcdef".repeat(4);
    let at = dirs(root, driver).join(&orphan);
    match *driver {
        "btrfs" => {
            let below = dirs(root, driver).join(kept.layers.values().next().expect("a layer"));
            call("btrfs", &["subvolume", "snapshot", path(&below), path(&at)]);
            call("btrfs", &["subvolume", "create", path(&at.join("nested"))]);
            fs::create_dir(root.join("btrfs/quotas")).expect("a directory");
            fs::write(root.join("btrfs/quotas").join(&orphan), "1073741824").expect("a file");
        }
        "fuse-overlayfs" => {
            let link = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
            fs::create_dir_all(at.join("diff/dir")).expect("directories");
            fs::write(at.join("link"), link).expect("a file");
            symlink(format!("../{orphan}/diff"), root.join(driver).join("l").join(link)).expect("a link");
        }
        _ => fs::create_dir_all(at.join("dir")).expect("directories"),
    }
    fs::write(at.join("file"), vec![7; 1 << 20]).expect("a file");
    let shown = run(root, ["gc", "--dry-run", "--only", "orphan-directories"]).done();
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.contains("orphan-directories"), "{shown}");
    // Brought back from the trash once, then gone for good.
    let _ = run(root, ["gc", "-y", "--only", "orphan-directories"]).done();
    assert!(!at.exists());
    let _ = run(root, ["gc", "--undo"]).done();
    assert!(at.join("file").exists());
    let _ = run(root, ["gc", "-y", "--purge", "--only", "orphan-directories"]).done();
    assert!(!at.exists() && !root.join(".dockpack").exists());
    if *driver == "btrfs" {
        let listed = call("btrfs", &["subvolume", "list", path(source.lab.btrfs.path())]);
        assert!(!listed.contains(&orphan) && !listed.contains(".dockpack"), "{listed}");
        assert_eq!(names(&root.join("btrfs/quotas")), [] as [String; 0]);
    }
    assert_eq!(Contents::read(root, driver), kept);
    assert_clean(root);
    // All that is not garbage stays: there is none left but what BuildKit and Docker may have lost.
    for command in [&["ls"][..], &["df"], &["graph"], &["inspect", "nginx:alpine"], &["why", "nginx:alpine"]] {
        let said = run(root, command).done();
        assert!(!said.stdout.is_empty(), "{command:?}");
    }
    let id = kept.layers.values().next().expect("a layer");
    let why = run(root, ["why", path(&dirs(root, driver).join(id))]).done();
    assert!(String::from_utf8_lossy(&why.stdout).contains("kept by"), "{:?}", why.stdout);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[track_caller]
fn call(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a driver has goes to itself and to each other one.
fn of_20(driver: &'static str) {
    let lab = Lab::new("20");
    let source = lab.source(driver);
    source.round_trip();
    garbage(&source);
    let others: Vec<_> = DRIVERS.into_iter().filter(|other| *other != driver).collect();
    assert_eq!(others.len(), 4);
    others.into_iter().for_each(|other| source.goes_to(other));
}

#[test]
fn daemon_20_takes_what_overlay_has() {
    of_20("overlay");
}

#[test]
fn daemon_20_takes_what_overlay2_has() {
    of_20("overlay2");
}

#[test]
fn daemon_20_takes_what_fuse_overlayfs_has() {
    of_20("fuse-overlayfs");
}

#[test]
fn daemon_20_takes_what_vfs_has() {
    of_20("vfs");
}

#[test]
fn daemon_20_takes_what_btrfs_has() {
    of_20("btrfs");
}

fn of_28(driver: &'static str) {
    let lab = Lab::new("28");
    let source = lab.source(driver);
    source.round_trip();
    garbage(&source);
}

#[test]
fn daemon_28_on_rebuilt_vfs() {
    of_28("vfs");
}

#[test]
fn daemon_28_on_rebuilt_btrfs() {
    of_28("btrfs");
}

#[test]
fn daemon_28_on_rebuilt_fuse_overlayfs() {
    of_28("fuse-overlayfs");
}

/// The graph driver overlay2 of Docker 17.03 to 17.09 mounts layers at directories that are made with them.
#[test]
fn a_store_of_an_early_docker() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    unpack("20-overlay2", &at("fixture"));
    save(&at("fixture"), &["nginx:alpine", "bk:1"], &at("all.tar"));
    fs::create_dir(at("target")).expect("a directory");
    let _ = load(&at("target"), &at("all.tar"), &["nginx:alpine"]);
    let home = at("target/overlay2");
    let before = Contents::read(&at("target"), "overlay2");
    for id in before.layers.values().filter(|id| home.join(id).join("lower").exists()) {
        assert!(!home.join(id).join("merged").exists());
        fs::create_dir(home.join(id).join("merged")).expect("a directory");
    }
    let _ = load(&at("target"), &at("all.tar"), &["bk:1"]);
    let after = Contents::read(&at("target"), "overlay2");
    let new: Vec<&String> = after.layers.values().filter(|id| !before.layers.values().any(|old| old == *id)).collect();
    assert!(new.len() > 2);
    for id in new {
        assert_eq!(id.len(), 64);
        assert_eq!(fs::metadata(home.join(id).join("merged")).expect("is there").mode() & 0o7777, 0o700);
    }
    assert_clean(&at("target"));
}

/// Starts a daemon with `userns-remap`; the host's tables of ids are other ones for it alone.
fn start_remapped(version: &'static str, driver: &str, dir: &Path) -> Engine {
    fs::write(dir.join("subid"), "games:200000:65536\n").expect("a file");
    let script = "mount --bind $1/subid /etc/subuid && mount --bind $1/subid /etc/subgid && \
                  exec $2 start $3 $4 $1 --userns-remap=games:games";
    let engine = project("ci/engine");
    let status = std::process::Command::new("unshare")
        .args(["-m", "bash", "-c", script, "bash", path(dir), path(&engine), version, driver])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("start")).expect("a file"))
        .status();
    let said = fs::read_to_string(dir.join("start")).expect("what it said");
    assert!(status.expect("unshare runs").success(), "{said}");
    Engine::started(version, dir)
}

fn remapped(version: &'static str, driver: &'static str) {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    unpack("20-overlay2", &at("fixture"));
    save(&at("fixture"), &["alpine:3.4", "nginx:alpine", "rebuilt:latest"], &at("fixture.tar"));
    for name in ["source/root", "target/root/200000.200000", "plain"] {
        fs::create_dir_all(at(name)).expect("directories");
    }
    let engine = start_remapped(version, driver, &at("source"));
    let loaded = engine.try_docker(&["load", "-q"], File::open(at("fixture.tar")).expect("an archive"));
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    engine.docker(&["create", "--network", "none", "nginx:alpine", "true"]);
    engine.stop();
    let above = run(&at("source/root"), ["ls"]).failed(2);
    assert!(above.stderr.contains("200000.200000"), "{}", above.stderr);

    let (source, target) = (at("source/root/200000.200000"), at("target/root/200000.200000"));
    assert_clean(&source);
    save(&source, &["--all"], &at("all.tar"));
    let _ = load(&target, &at("all.tar"), &[]);
    // Compared as it is on disk: owners are shifted, and what is dockerd's own is not.
    assert_same_images(&source, &target, driver);
    assert_clean(&target);
    let owner = |root: &Path, id: &str| {
        let tree = dirs(root, driver).join(id).join(if driver == "overlay2" { "diff/etc" } else { "etc" });
        fs::metadata(tree).map(|found| (found.uid(), found.gid())).ok()
    };
    let contents = Contents::read(&target, driver);
    assert!(contents.layers.values().any(|id| owner(&target, id) == Some((200_000, 200_000))));
    // The archive has the ids of containers: elsewhere they are what they are.
    let _ = load(&at("plain"), &at("all.tar"), &[]);
    assert_clean(&at("plain"));
    assert!(contents.layers.values().any(|id| owner(&at("plain"), id) == Some((0, 0))));
    save(&at("plain"), &["--all"], &at("again.tar"));
    assert!(fs::read(at("all.tar")).expect("one") == fs::read(at("again.tar")).expect("other"));

    // What the namespace has no ids for is refused, as by Docker.
    save(&at("fixture"), &["nasty:1"], &at("nasty.tar"));
    let refused = try_load(&target, &at("nasty.tar"), &[]).failed(1);
    assert!(refused.stderr.contains("is not among the ids of the store's user namespace"), "{}", refused.stderr);

    let engine = start_remapped(version, driver, &at("target"));
    assert_eq!(engine.image_ids(), contents.images.keys().cloned().collect());
    assert_eq!(engine.docker(&["run", "--rm", "--network", "none", "nginx:alpine", "stat", "-c", "%u", "/etc"]), "0\n");
    engine.docker(&["commit", engine.docker(&["create", "nginx:alpine"]).trim_end(), "more:1"]);
    engine.stop();
}

#[test]
fn daemon_20_with_remapped_users() {
    remapped("20", "overlay2");
    remapped("20", "vfs");
}

#[test]
fn daemon_28_with_remapped_users() {
    remapped("28", "overlay2");
}

/// A daemon without root, in a user namespace of its own, as rootlesskit starts it.
fn start_rootless(dir: &Path) -> Engine {
    let script = "export XDG_RUNTIME_DIR=$1 HOME=$1; mount -t tmpfs run /run && mount -t tmpfs docker /etc/docker && \
                  exec $2 start 20 overlay2 $1 --rootless";
    let engine = project("ci/engine");
    let status = std::process::Command::new(project("ci/user-namespace"))
        .args(["bash", "-c", script, "bash", path(dir), path(&engine)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.with_extension("start")).expect("a file"))
        .status();
    let said = fs::read_to_string(dir.with_extension("start")).expect("what it said");
    assert!(status.expect("it runs").success(), "{said}");
    Engine::started("20", dir)
}

/// Runs dockpack on a host whose tables give user 1234 the ids that `ci/user-namespace` uses.
fn with_ids(dir: &Path, root: &Path, arguments: &[&str]) -> String {
    fs::write(dir.join("subid"), "1234:300000:65536\n").expect("a file");
    let script = "mount --bind $1 /etc/subuid && mount --bind $1 /etc/subgid && shift && exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "bash", "-c", script, "bash", path(&dir.join("subid")), DOCKPACK, "--root", path(root)]);
    let output = command.args(arguments).env(HURRY, "1").stdin(Stdio::null()).output().expect("unshare runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn daemon_20_without_root() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    // Every directory above must be open to the user.
    fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    unpack("20-overlay2", &at("fixture"));
    save(&at("fixture"), &["alpine:3.4", "nginx:alpine", "rebuilt:latest"], &at("fixture.tar"));
    let user_owns = |dir: &Path| {
        // The last is how his daemon's store is told from an empty directory.
        for at in [dir.to_owned(), dir.join("root"), dir.join("root/image")] {
            fs::create_dir_all(&at).expect("directories");
            fs::set_permissions(&at, PermissionsExt::from_mode(0o700)).expect("a mode");
            chown(&at, Some(1234), Some(1234)).expect("an owner");
        }
    };
    let (source, target, all) = (at("source/root"), at("target/root"), at("all.tar"));
    user_owns(&at("source"));
    let engine = start_rootless(&at("source"));
    let loaded = engine.try_docker(&["load", "-q"], File::open(at("fixture.tar")).expect("an archive"));
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    engine.docker(&["create", "--network", "none", "nginx:alpine", "true"]);
    engine.stop();

    // Without the tables nobody knows the ids; listing needs none.
    let refused = run(&source, ["save", "--all", "-o", path(&all)]).failed(1);
    assert!(refused.stderr.contains("cannot tell which ids user 1234"), "{}", refused.stderr);
    let _ = run(&source, ["ls"]).done();

    let _ = with_ids(temp.path(), &source, &["verify"]);
    let _ = with_ids(temp.path(), &source, &["save", "--all", "-o", path(&all)]);
    user_owns(&at("target"));
    let _ = with_ids(temp.path(), &target, &["load", "-i", path(&all)]);
    assert_same_images(&source, &target, "overlay2");
    let _ = with_ids(temp.path(), &target, &["verify"]);
    // Elsewhere they are images as any.
    fs::create_dir(at("plain")).expect("a directory");
    let _ = load(&at("plain"), &all, &[]);
    assert_clean(&at("plain"));
    // And images from elsewhere come here.
    user_owns(&at("other"));
    let _ = with_ids(temp.path(), &at("other/root"), &["load", "-i", path(&at("fixture.tar"))]);
    let _ = with_ids(temp.path(), &at("other/root"), &["verify"]);

    let wanted = Contents::read(&source, "overlay2");
    for name in ["target", "other"] {
        let engine = start_rootless(&at(name));
        assert_eq!(engine.image_ids(), wanted.images.keys().cloned().collect());
        let owner =
            engine.docker(&["run", "--rm", "--network", "none", "nginx:alpine", "stat", "-c", "%u", "/etc/nginx"]);
        assert_eq!(owner, "0\n");
        // What a layer made anew hides what is below.
        let listed = engine.docker(&["run", "--rm", "--network", "none", "nginx:alpine", "ls", "/etc/nginx/conf.d"]);
        assert_eq!(listed, "default.conf\n");
        engine.docker(&["commit", engine.docker(&["create", "nginx:alpine"]).trim_end(), "more:1"]);
        engine.stop();
    }
}

#[test]
fn btrfs_needs_its_file_system() {
    let temp = temp_dir();
    unpack("20-overlay2", &temp.path().join("fixture"));
    let archive = temp.path().join("all.tar");
    save(&temp.path().join("fixture"), &["alpine:3.4"], &archive);
    let target = temp.path().join("target");
    fs::create_dir(&target).expect("a directory");
    let refused = run(&target, ["--driver", "btrfs", "load", "-i", path(&archive)]).failed(1);
    assert!(refused.stderr.contains("needs a btrfs file system"), "{}", refused.stderr);
    assert_eq!(names(&target), [] as [String; 0]);
    let refused = run(&target, ["--driver", "aufs", "load", "-i", path(&archive)]).failed(1);
    assert!(refused.stderr.contains("cannot load into a store of graph driver aufs"), "{}", refused.stderr);
    let refused = run(&target, ["--driver", "zfs", "load", "-i", path(&archive)]).failed(1);
    assert!(refused.stderr.contains("cannot work on graph driver zfs"), "{}", refused.stderr);
    assert_eq!(names(&target), [] as [String; 0]);
    let _ = try_load(&target, &archive, &[]).done();
}

/// A load that fails leaves no subvolume; a directory that is none is found, and replaced by a load.
#[test]
fn subvolumes_are_whole_or_not_there() {
    let temp = temp_dir();
    let disk = Disk::make("btrfs", &temp.path().join("disk.img"), 512);
    let at = |name: &str| temp.path().join(name);
    unpack("20-overlay2", &at("fixture"));
    save(&at("fixture"), &["nginx:alpine", "rebuilt:latest"], &at("all.tar"));
    let root = disk.path().join("root");
    fs::create_dir(&root).expect("a directory");
    let subvolumes = || call("btrfs", &["subvolume", "list", path(disk.path())]);

    let bytes = fs::read(at("all.tar")).expect("an archive");
    fs::write(at("cut.tar"), &bytes[..bytes.len() - 2048]).expect("written");
    let cut = at("cut.tar");
    let _ = run(&root, ["--driver", "btrfs", "load", "-i", path(&cut)]).failed(1);
    assert_eq!((names(&root), subvolumes()), (Vec::new(), String::new()));

    let all = at("all.tar");
    let _ = run(&root, ["--driver", "btrfs", "load", "-i", path(&all)]).done();
    assert_clean(&root);
    let before = Contents::read(&root, "btrfs");
    assert_eq!(subvolumes().lines().count(), before.layers.len());

    // As a copy with a tool that knows nothing of subvolumes would leave it.
    let layer = dirs(&root, "btrfs").join(before.layers.values().next().expect("a layer"));
    let aside = layer.with_extension("aside");
    fs::rename(&layer, &aside).expect("is renamed");
    call("cp", &["-a", path(&aside), path(&layer)]);
    call("btrfs", &["subvolume", "delete", path(&aside)]);
    let found = run(&root, ["verify"]);
    assert_eq!(found.status.code(), Some(3));
    let said = String::from_utf8(found.stdout).expect("text");
    assert!(said.contains("driver-subvolume-missing"), "{said}");
    let _ = load(&root, &all, &[]);
    assert_clean(&root);
    let after = Contents::read(&root, "btrfs");
    assert_eq!((&after.images, &after.references), (&before.images, &before.references));
    let _ = run(&root, ["gc", "-y", "--purge", "--only", "orphan-directories,removing-layers"]).done();
    assert!(!layer.exists());
    assert_clean(&root);
    assert_eq!(subvolumes().lines().count(), after.layers.len());
}

/// What of a driver whose layers are no directories can be told is told, and the rest refused.
#[test]
fn drivers_that_are_only_recognised() {
    for (driver, words) in [("zfs", "datasets"), ("devicemapper", "thin pool")] {
        let temp = temp_dir();
        let root = temp.path().join("root");
        unpack("20-overlay2", &root);
        fs::rename(root.join("image/overlay2"), root.join("image").join(driver)).expect("is renamed");
        fs::remove_dir_all(root.join("overlay2")).expect("is removed");
        fs::create_dir(root.join(driver)).expect("a directory");
        for command in [&["ls"][..], &["inspect", "nginx:alpine"], &["why", "nginx:alpine"], &["graph"]] {
            let said = run(&root, command).done();
            assert!(String::from_utf8_lossy(&said.stdout).contains("nginx"), "{command:?}");
        }
        let archive = temp.path().join("all.tar");
        for command in [&["save", "--all", "-o", path(&archive)][..], &["verify"]] {
            let refused = run(&root, command);
            assert_eq!(refused.status.code(), Some(1));
            for words in [&format!("cannot work on graph driver {driver}")[..], words, "docker save"] {
                assert!(refused.stderr.contains(words), "{}", refused.stderr);
            }
        }
        assert!(!archive.exists());
    }
}

/// Makes a store of `overlay2` one of `aufs`: nothing runs that driver any more. What it keeps where follows moby
/// 20.10 `daemon/graphdriver/aufs`. Containers and build records, which name their driver, go.
fn make_aufs(root: &Path) {
    let (old, new) = (root.join("overlay2"), root.join("aufs"));
    for place in ["diff", "layers", "mnt"] {
        fs::create_dir_all(new.join(place)).expect("directories");
    }
    fs::rename(root.join("image/overlay2"), root.join("image/aufs")).expect("is renamed");
    for gone in ["containers", "buildkit", "image/aufs/layerdb/mounts"] {
        fs::remove_dir_all(root.join(gone)).expect("is removed");
    }
    let kept: BTreeSet<String> = fs::read_dir(root.join("image/aufs/layerdb/sha256"))
        .expect("layers")
        .map(|entry| fs::read_to_string(entry.expect("an entry").path().join("cache-id")).expect("a cache ID"))
        .collect();
    for id in &kept {
        let lower = fs::read_to_string(old.join(id).join("lower")).unwrap_or_default();
        let below = lower.split(':').filter(|name| !name.is_empty()).map(|name| {
            let target = fs::read_link(old.join(name)).expect("a short name");
            let id = target.parent().and_then(Path::file_name).expect("../<id>/diff");
            format!("{}\n", id.to_str().expect("text"))
        });
        fs::write(new.join("layers").join(id), below.collect::<String>()).expect("a file");
        fs::create_dir(new.join("mnt").join(id)).expect("a directory");
        let diff = new.join("diff").join(id);
        fs::rename(old.join(id).join("diff"), &diff).expect("is renamed");
        mark_as_files(&diff);
        fs::write(diff.join(".wh..wh.aufs"), "").expect("a file");
        fs::create_dir(diff.join(".wh..wh.plnk")).expect("a directory");
    }
    fs::remove_dir_all(old).expect("is removed");
}

/// Turns overlayfs's marks of what is removed into files.
fn mark_as_files(dir: &Path) {
    let mut value = [0; 16];
    if rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value[..]).is_ok() {
        rustix::fs::lremovexattr(dir, "trusted.overlay.opaque").expect("is removed");
        fs::write(dir.join(".wh..wh..opq"), "").expect("a file");
    }
    for entry in fs::read_dir(dir).expect("a directory") {
        let at = entry.expect("an entry").path();
        let found = fs::symlink_metadata(&at).expect("a node");
        if found.is_dir() {
            mark_as_files(&at);
        } else if found.file_type().is_char_device() && found.rdev() == 0 {
            fs::remove_file(&at).expect("is removed");
            let mut name = std::ffi::OsString::from(".wh.");
            name.push(at.file_name().expect("a name"));
            fs::write(dir.join(&name), "").expect("a file");
            let mode = PermissionsExt::from_mode(0o644);
            fs::set_permissions(dir.join(name), mode).expect("a mode");
        }
    }
}

/// Makes the marks of what is removed those of the tars, which a daemon of the driver unpacked: each that they have, with mode
/// and owner. Tells whether any was another.
fn own_marks(root: &Path) -> bool {
    let text = |found: &Value, key: &str| found[key].as_str().unwrap_or_default().to_owned();
    let checked = run(root, ["verify", "--json"]);
    let document: Value = serde_json::from_slice(&checked.stdout).unwrap_or_else(|_| panic!("{}", checked.stderr));
    let mut is_changed = false;
    for found in
        document["findings"].as_array().expect("findings").iter().filter(|found| text(found, "file").contains(".wh."))
    {
        let chain = text(found, "subject").trim_start_matches("sha256:").to_owned();
        let id = fs::read_to_string(root.join("image/aufs/layerdb/sha256").join(chain).join("cache-id"));
        let at = root.join("aufs/diff").join(id.expect("a layer")).join(text(found, "file"));
        let evidence = text(found, "evidence");
        let expected = |what: &str| Some(evidence.strip_prefix(what)?.split(',').next()?.to_owned());
        is_changed |= text(found, "severity") == "damage";
        if text(found, "code") == "whiteout-missing" {
            fs::write(at, "").expect("a file");
        } else if let Some(mode) = expected("expected mode ") {
            let mode = PermissionsExt::from_mode(u32::from_str_radix(&mode, 8).expect("a mode"));
            fs::set_permissions(at, mode).expect("a mode");
        } else if let Some((uid, gid)) = expected("expected owner ").as_deref().and_then(|owner| owner.split_once(':'))
        {
            chown(at, Some(uid.parse().expect("an ID")), Some(gid.parse().expect("an ID"))).expect("an owner");
        }
    }
    is_changed
}

#[test]
fn daemon_28_runs_images_of_aufs() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    unpack("20-overlay2", &at("source"));
    let wanted = Contents::read(&at("source"), "overlay2");
    make_aufs(&at("source"));
    let listed = run(&at("source"), ["ls", "-a"]).done();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("nginx"));
    let checked = run(&at("source"), ["verify", "--json"]);
    let document: Value = serde_json::from_slice(&checked.stdout).unwrap_or_else(|_| panic!("{}", checked.stderr));
    let structure = ["driver-", "layer-", "file-", "node-kind", "whiteout-"];
    for found in document["findings"].as_array().expect("findings").iter().filter(|one| one["severity"] != "note") {
        let code = found["code"].as_str().expect("a code");
        // The times and owners of the marks are those of this test.
        let of_a_mark = found["file"].as_str().is_some_and(|file| file.contains(".wh."));
        assert!(of_a_mark || !structure.iter().any(|start| code.starts_with(start)), "{found:#}");
    }
    assert!((0..4).any(|_| !own_marks(&at("source"))), "marks are others still");
    save(&at("source"), &["--all"], &at("all.tar"));

    fs::create_dir_all(at("target/root")).expect("directories");
    let refused = try_load(&at("target/root"), &at("all.tar"), &[]).failed(1);
    assert!(refused.stderr.contains("--driver overlay2"), "{}", refused.stderr);
    let archive = at("all.tar");
    let _ = run(&at("target/root"), ["--driver", "overlay2", "load", "-i", path(&archive)]).done();
    assert_clean(&at("target/root"));
    let found = Contents::read(&at("target/root"), "overlay2");
    assert_eq!((&found.images, &found.diffs), (&wanted.images, &wanted.diffs));
    let engine = Engine::start("28", "overlay2", &at("target"));
    assert_eq!(engine.image_ids(), wanted.images.keys().cloned().collect());
    for tag in TAGS {
        engine.docker(&["run", "--rm", "--network", "none", tag, "true"]);
    }
    engine.stop();

    let orphan = "0123456789abcdef".repeat(4);
    for place in ["diff", "mnt"] {
        fs::create_dir(at("source/aufs").join(place).join(&orphan)).expect("a directory");
    }
    fs::write(at("source/aufs/layers").join(&orphan), "").expect("a file");
    let _ = run(&at("source"), ["gc", "-y", "--purge", "--only", "orphan-directories"]).done();
    for place in ["diff", "mnt", "layers"] {
        assert!(!at("source/aufs").join(place).join(&orphan).exists());
    }
}
