//! What archives say beyond the tars of their layers: nothing that is not proved is saved, verified or loaded.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::archive::{Draft, Entry, Layer};
use crate::support::command::{load, run, save, try_load};
use crate::support::store::{Contents, dirs, memory_dir, temp_dir, unpack};

/// Name of the tree in a layer's directory.
fn tree(driver: &str) -> &'static str {
    match driver {
        "overlay2" => "diff/",
        "overlay" => "root/",
        _ => "",
    }
}

/// Three layers: `etc` is narrow at the bottom, and the top one has not much.
fn draft(driver: &str, top: Layer) -> Draft {
    let bottom = Layer::new(
        "bottom",
        [
            Entry::dir("etc/"),
            Entry::file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
            Entry::dir("etc/secret/").mode(0o700),
            Entry::file("etc/secret/key", "key"),
            Entry::dir("bin/"),
            Entry::file("bin/busybox", "a shell").mode(0o755),
        ],
    );
    let middle = Layer::new("middle", [Entry::dir("etc/"), Entry::file("etc/group", "root:x:0:\n")]);
    Draft { driver: driver.to_owned(), ..Draft::new([("claims:1", vec![bottom, middle, top])]) }
}

fn top(driver: &str, lines: &[Value], in_place: bool) -> Layer {
    let mut layer = Layer::new(
        "top",
        [
            Entry::dir("srv/"),
            Entry::file("srv/tool", "tool").mode(0o755).record("SCHILY.xattr.user.note", b"kept".to_vec()),
            Entry::file("srv/setuid", "tool").mode(0o4755),
            Entry::file("srv/same", "tool").mode(0o755).record("SCHILY.xattr.user.note", b"kept".to_vec()),
            Entry::file("deep/file", "x"),
            Entry::file("etc/.wh.group", ""),
        ],
    );
    let lines = lines.iter().map(|line| line.to_string().replace("TREE/", tree(driver)) + "\n");
    layer.differences = lines.collect::<String>().into_bytes();
    if in_place {
        // A name as BuildKit draws them.
        layer.cache_id = layer.cache_id.bytes().map(|digit| char::from(digit % 26 + b'a')).take(25).collect();
    }
    layer
}

/// Loads and verifies an archive with these differences, and repairs with it.
#[track_caller]
fn claim(driver: &str, lines: &[Value], in_place: bool, is_proved: bool) {
    let temp = memory_dir();
    let what = format!("{driver}, in place {in_place}: {lines:?}");
    let at = |name: &str| temp.path().join(name);
    fs::create_dir(at("target")).expect("a directory");
    fs::write(at("archive.tar"), draft(driver, top(driver, lines, in_place)).tar()).expect("written");
    let archive = at("archive.tar").display().to_string();
    let verified = run(temp.path(), ["verify", "--json", "-i", &archive]);
    let said: Value = serde_json::from_slice(&verified.stdout).expect("JSON");
    let loaded = try_load(&at("target"), &at("archive.tar"), &["--driver", driver]);
    if is_proved {
        assert!(verified.status.success() && loaded.status.success(), "{what}: {said} {}", loaded.stderr);
        let _ = run(&at("target"), ["verify"]).done();
        return;
    }
    assert_eq!(verified.status.code(), Some(3), "{what}: {said} {}", loaded.stderr);
    assert_eq!(said["findings"][0]["code"], "archive-differences-unproved", "{what}");
    let evidence = said["findings"][0]["evidence"].as_str().expect("evidence");
    assert!(loaded.stderr.contains(evidence), "{what}: {evidence}: {}", loaded.stderr);
    assert_eq!(loaded.status.code(), Some(1), "{what}");
    assert_eq!(fs::read_dir(at("target")).expect("a directory").count(), 0, "{what}");
}

/// Nor is a layer built of it that a store has lost.
#[test]
fn repair_does_not_believe_either() {
    for driver in ["overlay2", "overlay"] {
        let line = json!({"path": "TREE/srv/tool", "mode": 0o4755});
        repair_refuses(driver, &[line], "mode 4755, and its tar says 755");
    }
}

#[track_caller]
fn repair_refuses(driver: &str, lines: &[Value], evidence: &str) {
    let (temp, in_place) = (memory_dir(), false);
    let at = |name: &str| temp.path().join(name);
    let what = format!("{driver}: {lines:?}");
    fs::create_dir(at("good")).expect("a directory");
    fs::write(at("archive.tar"), draft(driver, top(driver, lines, in_place)).tar()).expect("written");
    let archive = at("archive.tar").display().to_string();
    fs::write(at("good.tar"), draft(driver, top(driver, &[], in_place)).tar()).expect("written");
    let _ = try_load(&at("good"), &at("good.tar"), &["--driver", driver]).done();
    let contents = Contents::read(&at("good"), driver);
    let tool =
        contents.layers.values().map(|id| dirs(&at("good"), driver).join(id).join(tree(driver)).join("srv/tool"));
    let tool = tool.into_iter().find(|tool| tool.exists()).expect("the top layer");
    fs::write(&tool, "loot").expect("written");
    let repaired = run(&at("good"), ["repair", "-y", "--from", &archive]);
    assert!(repaired.stderr.contains(evidence), "{what}: {evidence}: {}", repaired.stderr);
    assert_ne!(repaired.status.code(), Some(0), "{what}");
}

#[test]
fn what_no_tar_proves_is_refused() {
    for (driver, places) in [("overlay2", &[false, true][..]), ("overlay", &[true]), ("vfs", &[true])] {
        for in_place in places.iter().copied() {
            let refused = |lines: &[Value]| claim(driver, lines, in_place, false);
            // Rights, in the layer's own nodes and in what it has from below.
            refused(&[json!({"path": "TREE/srv/tool", "mode": 0o4755})]);
            refused(&[json!({"path": "TREE/srv/tool", "owner": [1000, 1000]})]);
            refused(&[
                json!({"path": "TREE/srv/tool", "xattrs": {"security.capability": "AQAAAgAEAAAAAAAAAAAAAAAAAAA="}}),
            ]);
            refused(&[
                json!({"path": "TREE/srv/tool", "xattrs": {"user.note": "a2VwdA==", "system.posix_acl_access": "eA=="}}),
            ]);
            refused(&[json!({"path": "TREE/srv/tool", "xattrs": {}})]);
            refused(&[json!({"path": "TREE/bin/busybox", "mode": 0o4755})]);
            refused(&[json!({"path": "TREE/srv", "mode": 0o777})]);
            // What turns the kernel to another place.
            refused(&[json!({"path": "TREE/srv", "xattrs": {"trusted.overlay.redirect": "L2V0Yw=="}})]);
            refused(&[json!({"path": "TREE/srv", "xattrs": {"user.overlay.redirect": "L2V0Yw=="}})]);
            // What lies below is hidden, or shows again.
            refused(&[json!({"path": "TREE/etc/passwd", "make": "char"})]);
            refused(&[json!({"path": "TREE/etc", "make": "directory", "xattrs": {"trusted.overlay.opaque": "eQ=="}})]);
            if driver == "overlay2" {
                refused(&[json!({"path": "TREE/etc/group", "gone": true})]);
            }
            // Directories that the tar does not have.
            refused(&[json!({"path": "TREE/etc/secret", "make": "directory", "mode": 0o777})]);
            refused(&[json!({"path": "TREE/etc/secret", "make": "directory", "owner": [1000, 1000], "mode": 0o700})]);
            refused(&[json!({"path": "TREE/deep", "make": "directory", "mode": 0o777})]);
            refused(&[json!({"path": "TREE/extra", "make": "directory", "mode": 0o777})]);
            // One file of two would have the rights of the other.
            refused(&[json!({"path": "TREE/srv/tool", "link": {"path": format!("{}srv/setuid", tree(driver))}})]);
            // What is not there.
            refused(&[json!({"path": "TREE/none", "mtime": [1, 1]})]);
            refused(&[
                json!({"path": "TREE/srv/tool", "mtime": [1, 1]}),
                json!({"path": "TREE/srv/../srv", "mtime": [1, 1]}),
            ]);
            if driver != "vfs" {
                // What is around the tree is the driver's.
                refused(&[json!({"path": "", "mode": 0o777})]);
                refused(&[json!({"path": "", "owner": [1000, 1000]})]);
                refused(&[json!({"path": "other", "make": "directory"})]);
            }
        }
    }
    // A directory that is made over one with other rights.
    claim("overlay2", &[json!({"path": "TREE/etc/secret", "make": "directory"})], true, false);
}

#[test]
fn what_the_tars_prove_is_taken() {
    for driver in ["overlay2", "overlay", "vfs"] {
        for in_place in [false, true] {
            let taken = |lines: &[Value]| claim(driver, lines, in_place, true);
            taken(&[json!({"path": "TREE/srv/tool", "mtime": [1, 1]}), json!({"path": "TREE/deep", "mtime": [2, 2]})]);
            taken(&[json!({"path": "TREE/deep", "make": "directory", "mtime": [2, 2]})]);
            taken(&[json!({"path": "TREE/srv/same", "link": {"path": format!("{}srv/tool", tree(driver))}})]);
            if driver != "vfs" {
                taken(&[json!({"path": "", "mode": 0o700, "mtime": [3, 3]})]);
            }
        }
        let noted = json!({"path": "TREE/srv/tool", "xattrs": {"user.note": "a2VwdA==", "user.other": "eA=="}});
        claim(driver, std::slice::from_ref(&noted), true, true);
        claim(driver, &[noted], false, false);
    }
    claim("overlay2", &[json!({"path": "TREE/etc/secret", "make": "directory", "mode": 0o700})], true, true);
    claim("overlay2", &[json!({"path": "TREE/extra", "make": "directory"})], true, true);
}

/// A reference by digest is of a manifest that no archive has: it is neither saved nor believed, and nothing says that
/// the image was built here.
#[test]
fn digests_that_no_manifest_proves() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    unpack("28-overlay2", &at("source"));
    fs::create_dir(at("target")).expect("a directory");
    let text = |root: &str| fs::read_to_string(at(root).join("image/overlay2/repositories.json")).expect("names");
    let metadata = |root: &str| {
        let found = Command::new("find").arg(at(root).join("image/overlay2")).args(["-name", "builtLocally"]).output();
        String::from_utf8(found.expect("find").stdout).expect("text").lines().count()
    };
    assert!(text("source").contains("@sha256:") && metadata("source") > 0);
    let out = at("all.tar").display().to_string();
    let saved = run(&at("source"), ["save", "--all", "-o", &out]).done();
    let said = "the reference by digest localhost:5000/team/app@sha256:";
    assert!(saved.stderr.contains(said) && saved.stderr.contains("is left out"), "{}", saved.stderr);
    let _ = load(&at("target"), &at("all.tar"), &[]);
    assert!(!text("target").contains('@') && text("target").contains("localhost:5000/team/app:1"));
    assert_eq!(metadata("target"), 0);
    let distribution = at("target").join("image/overlay2/distribution");
    assert_eq!(fs::read_dir(distribution).expect("a directory").count(), 0);

    let mut claimed = draft("overlay2", top("overlay2", &[], false));
    let digest = "5e83b916f15ed2c4540b08546dad4d7d23a73d2f11aa3ebbcbbf77eca054bd31";
    claimed.images[0].references.push(format!("nginx@sha256:{digest}"));
    fs::write(at("claimed.tar"), claimed.tar()).expect("written");
    let claimed = at("claimed.tar").display().to_string();
    let verified = run(temp.path(), ["verify", "-i", &claimed]);
    assert_eq!(verified.status.code(), Some(3), "{}", verified.stderr);
    let loaded = try_load(&at("target"), &at("claimed.tar"), &[]).failed(1);
    for said in [&loaded.stderr, &String::from_utf8_lossy(&verified.stdout).into_owned()] {
        assert!(said.contains("no manifest proves nginx@sha256:"), "{said}");
    }
}

/// Looks for a path in the trees of a store's layers.
fn find(root: &Path, driver: &str, path: &str) -> PathBuf {
    let mut places: Vec<PathBuf> = fs::read_dir(dirs(root, driver))
        .expect("directories")
        .map(|entry| entry.expect("an entry").path().join(tree(driver)).join(path))
        .filter(|path| fs::symlink_metadata(path).is_ok())
        .collect();
    // The layer that was made first is the base.
    let made = |path: &PathBuf| fs::symlink_metadata(path).map(|found| (found.ctime(), found.ctime_nsec()));
    places.sort_by_key(|path| made(path).expect("it is there"));
    places.into_iter().next().unwrap_or_else(|| panic!("no {path} in {driver}"))
}

type Damage = (&'static str, fn(&Path));

/// Kinds of damage that cost no content: the tar is right.
const DAMAGE: [Damage; 7] = [
    ("bin/busybox", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o4777)).expect("a mode")),
    ("etc", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("a mode")),
    ("etc/passwd", |path| lchown(path, Some(1000), Some(1000)).expect("an owner")),
    ("bin/sh", |path| {
        fs::remove_file(path).expect("removed");
        symlink("elsewhere", path).expect("a link");
    }),
    ("bin/busybox", |path| {
        let set = "import os,sys; os.setxattr(sys.argv[1], 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))";
        assert!(Command::new("python3").args(["-c", set]).arg(path).status().expect("python3").success());
    }),
    ("tmp", |path| fs::remove_dir(path).expect("removed")),
    ("etc/group", |path| {
        // An empty file in the place of another is told by its length; a named pipe by its kind.
        fs::remove_file(path).expect("removed");
        assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
    }),
];

#[test]
fn damage_does_not_travel() {
    let temp = memory_dir();
    let at = |name: &str| temp.path().join(name);
    unpack("20-overlay2", &at("fixture"));
    save(&at("fixture"), &["nginx:alpine"], &at("all.tar"));
    for driver in ["overlay2", "overlay", "vfs"] {
        fs::create_dir(at(driver)).expect("a directory");
        let _ = try_load(&at(driver), &at("all.tar"), &["--driver", driver]).done();
        for (number, (path, damage)) in DAMAGE.iter().enumerate() {
            let root = at(&format!("{driver}-{number}"));
            assert!(Command::new("cp").arg("-a").args([&at(driver), &root]).status().expect("cp").success());
            damage(&find(&root, driver, path));
            assert_kept(&root, path);
        }
    }
    // A whiteout that is not there, and one too many.
    for makes in [false, true] {
        let root = at(&format!("whiteout-{makes}"));
        unpack("28-overlay2", &root);
        let mut trees = Contents::read(&root, "overlay2")
            .layers
            .into_values()
            .map(|id| root.join("overlay2").join(id).join("diff"));
        let hidden = "usr/share/nginx/html/50x.html";
        let is_whiteout = |tree: &PathBuf| {
            let found = fs::symlink_metadata(tree.join(hidden));
            found.is_ok_and(|found| found.rdev() == 0 && found.mode() & 0o170_000 == 0o020_000)
        };
        let tree = trees.find(is_whiteout).expect("a layer with a whiteout");
        let path = if makes { "bin" } else { hidden };
        match makes {
            false => fs::remove_file(tree.join(path)).expect("removed"),
            true => {
                let made = Command::new("mknod").arg(tree.join(path)).args(["c", "0", "0"]).status();
                assert!(made.expect("mknod").success());
            }
        }
        assert_kept(&root, path);
    }
}

/// What `verify` calls damage is not saved, and what can be saved is sound.
#[track_caller]
fn assert_kept(root: &Path, path: &str) {
    let temp = memory_dir();
    let at = |name: &str| temp.path().join(name);
    let what = format!("{}: {path}", root.display());
    let verified = run(root, ["verify"]);
    let text = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.code() == Some(3) && text.contains(path), "{what}: {text} {}", verified.stderr);
    let out = at("out.tar").display().to_string();
    let saved = run(root, ["save", "-q", "nginx:alpine", "-o", &out]);
    assert_eq!(saved.status.code(), Some(1), "{what}: {text} {}", saved.stderr);
    for words in ["cannot prove layer", path, "nginx:alpine"] {
        assert!(saved.stderr.contains(words), "{what}: {words}: {}", saved.stderr);
    }
    assert!(!at("out.tar").exists(), "{what}");
    let partial = run(root, ["save", "--partial", "-q", "--all", "-o", &out]);
    assert_eq!(partial.status.code(), Some(3), "{what}: {}", partial.stderr);
    assert!(partial.stderr.contains(path), "{what}: {}", partial.stderr);
    if at("out.tar").exists() {
        fs::create_dir(at("new")).expect("a directory");
        let _ = load(&at("new"), &at("out.tar"), &[]);
        let _ = run(&at("new"), ["verify"]).done();
    }
}
