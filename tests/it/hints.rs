//! What messages say that there is to do: it fits the case, and works.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::copy::{copy, store};
use crate::support::command::{load, run, save, try_load};
use crate::support::disk::Disk;
use crate::support::store::{temp_dir, unpack};

/// A mount that ends with the test.
struct Mounted<'p>(&'p Path);

impl<'p> Mounted<'p> {
    fn make(at: &'p Path, arguments: &[&str]) -> Self {
        let mount = Command::new("mount").args(arguments).arg(at).status().expect("mount runs");
        assert!(mount.success(), "mount {arguments:?}");
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[track_caller]
fn assert_says(said: &str, words: &[&str]) {
    words.iter().for_each(|word| assert!(said.contains(word), "{word}: {said}"));
}

/// Where a data root is not, others near it are named, and what is said of them works.
#[test]
fn a_root_beside_the_one_that_was_meant() {
    let temp = temp_dir();
    let root = temp.path().join("var/lib/docker");
    fs::create_dir_all(&root).expect("directories");
    unpack("28-overlay2", &root);
    for wrong in [temp.path().to_owned(), root.join("overlay2"), root.join("image/overlay2/layerdb")] {
        let said = run(&wrong, ["ls"]).failed(1).stderr;
        let hint = said.lines().find_map(|line| line.split_once("--root ")).expect("a hint").1.to_owned();
        assert_eq!(Path::new(&hint), root.canonicalize().expect("a path"), "{said}");
        let _ = run(Path::new(&hint), ["ls"]).done();
    }
    let nowhere = temp_dir();
    let said = run(nowhere.path(), ["ls"]).failed(1).stderr;
    assert_says(&said, &["--root names another data root"]);
}

/// What an archive does not have is looked for in the archive.
#[test]
fn an_image_that_an_archive_does_not_have() {
    let temp = temp_dir();
    let (root, archive) = (temp.path().join("root"), temp.path().join("a.tar"));
    unpack("28-overlay2", &root);
    save(&root, &["alpine:3.4"], &archive);
    let path = archive.to_str().expect("text");
    let hint = format!("`dockpack --root {} ls -i {path}`", root.display());
    assert_says(&try_load(&root, &archive, &["nothing:1"]).failed(1).stderr, &[&hint]);
    assert_says(&run(&root, ["verify", "-i", path, "nothing:1"]).failed(1).stderr, &[&hint]);
    let _ = run(&root, ["ls", "-i", path]).done();
}

/// A dry run speaks of what would be, and a load of what was.
#[test]
fn a_tag_that_leads_elsewhere() {
    let temp = temp_dir();
    let (root, archive) = (temp.path().join("root"), temp.path().join("a.tar"));
    unpack("28-overlay2", &root);
    save(&root, &["alpine:3.4"], &archive);
    let names = root.join("image/overlay2/repositories.json");
    let mut text: serde_json::Value = serde_json::from_slice(&fs::read(&names).expect("names")).expect("JSON");
    let other = text["Repositories"]["nginx"]["nginx:alpine"].clone();
    text["Repositories"]["alpine"]["alpine:3.4"] = other.clone();
    fs::write(&names, text.to_string()).expect("written");
    let other = &other.as_str().expect("an ID")[7..19];
    let said = run(&root, ["load", "--dry-run", "-i", archive.to_str().expect("text")]).done().stderr;
    assert_says(&said, &[&format!("note: alpine:3.4 leads to {other} and would lead to ")]);
    let said = load(&root, &archive, &[]).stderr;
    assert_says(&said, &[&format!("note: alpine:3.4 led to {other} before")]);
}

/// A disk that is too small: what is needed and what there is, before and after.
#[test]
fn a_disk_that_is_too_small() {
    let temp = temp_dir();
    let (root, archive) = (temp.path().join("root"), temp.path().join("all.tar.zst"));
    unpack("28-overlay2", &root);
    save(&root, &["--all"], &archive);
    let disk = Disk::make("ext4", &temp.path().join("disk.img"), 6);
    let said = run(disk.path(), ["load", "--dry-run", "-i", archive.to_str().expect("text")]).done().stderr;
    assert_says(&said, &["warning: the layers need about 7.5 MB, and ", " are free"]);
    let said = try_load(disk.path(), &archive, &[]).failed(1).stderr;
    assert_says(&said, &["No space left on device", "hint: the layers need about 7.5 MB, and ", " are free in "]);
}

/// A disk with bytes enough, and too few inodes.
#[test]
fn a_disk_that_takes_too_few_files() {
    let temp = temp_dir();
    let (root, disk) = (temp.path().join("root"), temp.path().join("disk"));
    unpack("28-overlay2", &root);
    fs::create_dir(&disk).expect("a directory");
    let _mounted = Mounted::make(&disk, &["-t", "tmpfs", "-o", "size=64m,nr_inodes=64", "none"]);
    let said = copy(&store(&root), &format!("store:overlay2@{}", disk.display()), &[]).failed(1).stderr;
    assert_says(&said, &["No space left on device", "hint: there are bytes enough, but only ", " inodes are free in "]);
}

/// On an overlay no overlay can mark what is removed. Root is not told to become root.
#[test]
fn a_data_root_on_an_overlay() {
    let disk = temp_dir();
    let temp = Disk::make("ext4", &disk.path().join("disk.img"), 64);
    let at = |name: &str| temp.path().join(name);
    ["lower", "upper", "work", "root"].iter().for_each(|name| fs::create_dir(at(name)).expect("a directory"));
    let (store, archive) = (at("store"), at("all.tar"));
    unpack("28-overlay2", &store);
    save(&store, &["nginx:alpine"], &archive);
    let options = ["lower", "upper", "work"].map(|name| format!("{name}dir={}", at(name).display())).join(",");
    let root = at("root");
    let _mounted = Mounted::make(&root, &["-t", "overlay", "-o", &options, "none"]);
    let said = try_load(&root, &archive, &[]).failed(1).stderr;
    assert!(!said.contains("sudo"), "{said}");
    assert_says(&said, &["hint: marks of removed", "--driver vfs"]);
    let _ = run(&root, ["--driver", "vfs", "load", "-i", archive.to_str().expect("text")]).done();
}

/// A file system that cannot be written.
#[test]
fn a_data_root_that_is_mounted_read_only() {
    let temp = temp_dir();
    let (root, at) = (temp.path().join("root"), temp.path().join("at"));
    unpack("28-overlay2", &root);
    fs::create_dir(&at).expect("a directory");
    let _mounted = Mounted::make(&at, &["-o", "bind,ro", root.to_str().expect("text")]);
    let _ = run(&at, ["save", "alpine:3.4", "-o", temp.path().join("a.tar").to_str().expect("text")]).done();
    assert_says(&run(&at, ["gc", "-y"]).failed(1).stderr, &["hint: what only looks works", "mount it to be written"]);
}

/// A daemon that maps users keeps a store of its own below the one it had before.
#[test]
fn a_second_store_of_user_namespaces() {
    let temp = temp_dir();
    let below = temp.path().join("100000.100000");
    unpack("28-overlay2", temp.path());
    fs::create_dir(&below).expect("a directory");
    unpack("20-overlay2", &below);
    let said = run(temp.path(), ["ls"]).done().stderr;
    let hint = said.lines().find_map(|line| line.split_once("in it: --root ")).expect("a note").1.to_owned();
    assert_eq!(Path::new(&hint), below.canonicalize().expect("a path"));
    let _ = run(Path::new(&hint), ["ls"]).done();
}

/// A command that a hint names is for the same store, in words that a shell takes.
#[test]
fn commands_in_hints_work_as_printed() {
    let temp = temp_dir();
    let root = temp.path().join("it's here");
    fs::create_dir(&root).expect("a directory");
    unpack("28-overlay2", &root);
    let said = run(&root, ["inspect", "nothing"]).failed(1).stderr;
    let command = said.split('`').nth(1).expect("a command");
    let program = Path::new(crate::support::command::DOCKPACK);
    let command = command.replace("dockpack ", &format!("{} ", program.display()));
    let done = Command::new("sh").args(["-c", &command]).output().expect("sh runs");
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A link where an administrator has moved something to another disk is not followed; what is said makes a mount of it.
#[test]
fn a_mount_in_place_of_a_link() {
    let cases = [
        ("image", "a mount in its place: ", &["ls"][..]),
        ("containers", "a mount in its place: ", &["gc", "-y"]),
        (".dockpack", "what goes into it: ", &["gc", "-y"]),
    ];
    for (linked, before, arguments) in cases {
        let temp = temp_dir();
        let root = temp.path().join("the root");
        fs::create_dir(&root).expect("a directory");
        unpack("28-overlay2", &root);
        let (at, elsewhere) = (root.join(linked), temp.path().join("else where"));
        fs::create_dir_all(&at).expect("a directory");
        fs::rename(&at, &elsewhere).expect("moved");
        std::os::unix::fs::symlink(&elsewhere, &at).expect("a link");
        let said = run(&root, arguments).failed(1).stderr;
        let command = said.lines().find_map(|line| line.split_once(before)).expect("a hint").1;
        let program = crate::support::command::DOCKPACK;
        let script = format!("{command} && {program} --root '{}' {}", root.display(), arguments.join(" "));
        let done = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().expect("unshare runs");
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// One is not several.
#[test]
fn counts_of_one() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    let names = root.join("image/overlay2/repositories.json");
    let mut text: serde_json::Value = serde_json::from_slice(&fs::read(&names).expect("names")).expect("JSON");
    let image = text["Repositories"]["alpine"]["alpine:3.4"].clone();
    let digest = format!("one/image@sha256:{}", "a".repeat(64));
    text["Repositories"] = serde_json::json!({ "one/image": { "one/image:1": image, digest.clone(): image } });
    fs::write(&names, text.to_string()).expect("written");
    let out = temp.path().join("a.tar");
    let said = run(&root, ["save", "one/image", "-o", out.to_str().expect("text")]).done().stderr;
    assert_says(&said, &[&format!("warning: the reference by digest {digest} is left out: no manifest")]);
    let _ = Command::new("mkdir").arg("-p").arg(root.join("overlay2").join("b".repeat(64)).join("diff")).status();
    let said = run(&root, ["gc", "-y", "--only", "orphan-directories"]).done().stderr;
    assert_says(&said, &["as does a gc in 24 h"]);
}
