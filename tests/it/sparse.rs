//! Layers with sparse files, as GNU tar writes them: Docker loads them and cannot save them again.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::archive::{noise, tar_of};
use crate::support::command::{load, run, save};
use crate::support::engine::Engine;
use crate::support::foreign::docker;
use crate::support::store::{Contents, assert_nothing_else, assert_sound, names, sha256, temp_dir};
use crate::support::tree::{Allow, Tree, assert_same};

const MIB: u64 = 1 << 20;
/// The forms that Docker takes.
const VERSIONS: [&str; 3] = ["0.0", "0.1", "1.0"];

/// Makes files with holes.
fn make(dir: &Path) {
    fs::create_dir(dir).expect("a directory");
    let part = noise(1, 70_000).into_bytes();
    let long = "n".repeat(150);
    let many: Vec<u64> = (0..300).map(|number| number * 64 * 1024).collect();
    let files: [(&str, u64, &[u64]); 7] = [
        ("start", 5 * MIB + 1, &[0]),
        ("end", 5 * MIB, &[5 * MIB - 70_000]),
        ("parts", 9 * MIB + 17, &[MIB, 3 * MIB, 7 * MIB]),
        ("hole", 64 * MIB, &[]),
        ("many", 20 * MIB, &many),
        (&long, 2 * MIB, &[MIB]),
        ("plain", 70_000, &[0]),
    ];
    for (name, length, parts) in files {
        let file = File::create(dir.join(name)).expect("a file");
        file.set_len(length).expect("a length");
        let part = if name == "many" { &part[..4096] } else { &part };
        parts.iter().for_each(|offset| file.write_all_at(part, *offset).expect("written"));
    }
}

/// Writes a layer with sparse files of one form, as an archive of Docker's.
fn archive(dir: &Path, version: &str) -> PathBuf {
    let (layer, archive) = (dir.join("layer.tar"), dir.join(format!("sparse-{version}.tar")));
    let output = Command::new("tar")
        .args(["--sparse", "--format=posix", "--sparse-version", version, "-cf"])
        .arg(&layer)
        .arg("-C")
        .arg(dir.join("files"))
        .arg(".")
        .output()
        .expect("tar runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tar = fs::read(&layer).expect("a tar");
    assert!((tar.len() as u64) < 8 * MIB, "the tar has no holes");
    fs::write(&archive, tar_of(docker(&[tar]))).expect("written");
    archive
}

fn only_layer(root: &Path, driver: &str) -> (PathBuf, PathBuf) {
    let contents = Contents::read(root, driver);
    let (chain, cache_id) = contents.layers.first_key_value().expect("a layer");
    let tree = match driver {
        "vfs" => root.join("vfs/dir").join(cache_id),
        _ => root.join(driver).join(cache_id).join("diff"),
    };
    (root.join("image").join(driver).join("layerdb/sha256").join(chain), tree)
}

/// All but the root itself.
fn read(tree: &Path) -> Tree {
    Tree::read(tree).only(|path| !path.is_empty())
}

/// What verify says of a store that is damaged.
#[track_caller]
fn damage(root: &Path) -> String {
    let report = run(root, ["verify", "--json"]);
    assert_eq!(report.status.code(), Some(3), "{}", report.stderr);
    String::from_utf8(report.stdout).expect("JSON")
}

#[test]
fn sparse_files_come_and_go() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    make(&at("files"));
    for (number, version) in VERSIONS.into_iter().enumerate() {
        let driver = if number == 0 { "vfs" } else { "overlay2" };
        let (root, again) = (at(&format!("root-{version}")), at(&format!("again-{version}")));
        fs::create_dir(&root).expect("a directory");
        fs::create_dir(&again).expect("a directory");
        let archive = archive(temp.path(), version);
        let _ = run(&root, ["--driver", driver, "load", "-i", archive.to_str().expect("text")]).done();
        let (entry, tree) = only_layer(&root, driver);
        assert_same(&read(&at("files")), &read(&tree), Allow::NOTHING);
        let hole = fs::metadata(tree.join("hole")).expect("a file");
        assert!(hole.blocks() * 512 < MIB, "{} blocks", hole.blocks());

        // Go's own program writes the same tar.
        let asm = Command::new("tar-split")
            .args(["asm", "--input"])
            .arg(entry.join("tar-split.json.gz"))
            .arg("--output")
            .arg(at("assembled.tar"))
            .arg("--path")
            .arg(&tree)
            .status();
        assert!(asm.expect("tar-split runs").success());
        let [one, other] = ["assembled.tar", "layer.tar"].map(|name| sha256(&fs::read(at(name)).expect("a tar")));
        assert_eq!(one, other, "{version}");

        let _ = run(&root, ["verify"]).done();
        save(&root, &["evil:1"], &at("own.tar.zst"));
        let _ = run(&again, ["verify", "-i", at("own.tar.zst").to_str().expect("text")]).done();
        let _ = run(&again, ["--driver", driver, "load", "-i", at("own.tar.zst").to_str().expect("text")]).done();
        assert_same(&Tree::read(&tree), &Tree::read(&only_layer(&again, driver).1), Allow::NOTHING);
        let _ = run(&again, ["verify"]).done();
        if driver == "overlay2" {
            assert_nothing_else(&again, driver);
            assert_sound(&again, driver);
        }
    }
}

/// What is in a sparse file is no part of the tar that is assembled: verify proves it all the same.
#[test]
fn changes_of_sparse_files_are_found() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    make(&at("files"));
    fs::create_dir(at("root")).expect("a directory");
    let _ = load(&at("root"), &archive(temp.path(), "1.0"), &[]);
    let (_, tree) = only_layer(&at("root"), "overlay2");
    let cases = [
        ("parts", 0, "file-content"),
        ("parts", MIB, "file-content"),
        ("parts", 7 * MIB + 69_999, "file-content"),
        ("parts", 9 * MIB + 16, "file-content"),
        ("parts", 9 * MIB + 17, "file-size"),
        ("hole", 33 * MIB, "file-content"),
        ("start", 5 * MIB, "file-content"),
        ("end", 5 * MIB - 70_001, "file-content"),
        ("plain", 5, "file-content"),
    ];
    for (name, offset, code) in cases {
        let path = tree.join(name);
        let before = fs::metadata(&path).expect("a file");
        let file = File::options().read(true).write(true).open(&path).expect("a file");
        let mut byte = [0];
        let _ = file.read_at(&mut byte, offset).expect("read");
        file.write_all_at(&[byte[0] ^ 1], offset).expect("written");
        let said = damage(&at("root"));
        assert!(said.contains(code) && said.contains(name), "{name} at {offset}: {said}");
        file.write_all_at(&byte, offset).expect("written");
        file.set_len(before.len()).expect("a length");
        file.set_modified(before.modified().expect("a time")).expect("a time");
        let _ = run(&at("root"), ["verify"]).done();
    }
    fs::remove_file(tree.join("end")).expect("removed");
    let said = damage(&at("root"));
    assert!(said.contains("file-missing") && !said.contains("file-unreadable"), "{said}");
}

#[test]
fn a_lost_size_is_that_of_the_files() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    make(&temp.path().join("files"));
    fs::create_dir(&root).expect("a directory");
    let _ = load(&root, &archive(temp.path(), "1.0"), &[]);
    let size = only_layer(&root, "overlay2").0.join("size");
    let before = fs::read_to_string(&size).expect("a size");
    assert!(before.parse::<u64>().expect("a number") > 100 * MIB, "{before}");
    fs::remove_file(&size).expect("removed");
    let _ = run(&root, ["repair", "-y"]).done();
    assert_eq!(fs::read_to_string(&size).expect("a size"), before);
}

/// What dockpack loaded Docker saves bit for bit. What Docker itself loaded it cannot save, and dockpack says so.
#[test]
fn daemon_28_saves_them() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    make(&at("files"));
    for version in VERSIONS {
        let archive = archive(temp.path(), version);
        let lab = at(&format!("lab-{version}"));
        fs::create_dir_all(lab.join("root")).expect("directories");
        let _ = load(&lab.join("root"), &archive, &[]);
        let engine = Engine::start("28", "overlay2", &lab);
        let saved = at("saved.tar");
        engine.docker(&["save", "-o", saved.to_str().expect("text"), "evil:1"]);
        engine.stop();
        fs::create_dir(at("again")).expect("a directory");
        let _ = load(&at("again"), &saved, &[]);
        let [one, other] = [&lab.join("root"), &at("again")].map(|root| Contents::read(root, "overlay2"));
        assert_eq!((one.images, one.layers), (other.images, other.layers));
        fs::remove_dir_all(at("again")).expect("removed");
    }

    let engine = Engine::start("28", "overlay2", &at("docker"));
    let loaded = engine.try_docker(&["load"], File::open(at("sparse-1.0.tar")).expect("the archive"));
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    engine.stop();
    let root = at("docker/root");
    let (_, tree) = only_layer(&root, "overlay2");
    assert_same(&read(&at("files")), &read(&tree), Allow::NOTHING);
    let said = damage(&root);
    assert!(said.contains("of which Docker has not kept"), "{said}");
    let saved = run(&root, ["save", "evil:1", "-o", at("no.tar").to_str().expect("text")]);
    assert_eq!(saved.status.code(), Some(1), "{}", saved.stderr);
    assert!(saved.stderr.contains("cannot prove layer"), "{}", saved.stderr);
    assert!(!names(temp.path()).contains(&"no.tar".to_owned()));
}

/// What was a hole when Docker made the layer is zeros in its tar, and becomes a hole again.
#[test]
fn zeros_of_plain_files_become_holes() {
    let temp = temp_dir();
    // A debug build takes a second for 50 MiB.
    let length = 256 * MIB;
    let archive = temp.path().join("holes.tar");
    let files = temp.path().join("files");
    fs::create_dir(&files).expect("a directory");
    let file = File::create(files.join("big")).expect("a file");
    file.set_len(length).expect("a length");
    file.write_all_at(b"in the middle", 128 * MIB + 5).expect("written");
    let layer = temp.path().join("layer.tar");
    let packed = Command::new("tar").arg("-C").arg(&files).arg("-cf").arg(&layer).arg("big").status();
    assert!(packed.expect("tar runs").success());
    fs::write(&archive, tar_of(docker(&[fs::read(&layer).expect("a tar")]))).expect("written");
    for driver in ["overlay2", "vfs"] {
        let root = temp.path().join(driver);
        let again = temp.path().join(format!("{driver}-again"));
        [&root, &again].into_iter().for_each(|root| fs::create_dir(root).expect("a directory"));
        let _ = run(&root, ["--driver", driver, "load", "-i", archive.to_str().expect("text")]).done();
        let own = temp.path().join("own.tar.zst");
        save(&root, &["--all"], &own);
        let _ = load(&again, &own, &[]);
        for root in [&root, &again] {
            let (record, tree) = only_layer(root, driver);
            let found = fs::metadata(tree.join("big")).expect("the file");
            assert_eq!(found.len(), length);
            assert!(found.blocks() * 512 < 4 * MIB, "{} bytes on disk", found.blocks() * 512);
            assert_eq!(fs::read_to_string(record.join("size")).expect("a size"), length.to_string());
            let _ = run(root, ["verify"]).done();
            fs::remove_dir_all(root).expect("removed");
        }
        fs::remove_file(&own).expect("removed");
    }
}
