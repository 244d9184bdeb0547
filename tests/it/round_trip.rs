//! What was saved and loaded is the same, to the last bit of metadata.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::command::{dockpack, load, outcome, run, save};
use crate::support::store::{
    Contents, REAL, assert_nothing_else, assert_same_images, driver_of, is_below_tree, names, stack, temp_dir, unpack,
};
use crate::support::tree::{Allow, Untouched, assert_same};

/// An unpacked store, `root`, with room beside it.
pub(crate) struct Lab {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) driver: &'static str,
}

impl Lab {
    pub(crate) fn new(fixture: &'static str) -> Self {
        let temp = temp_dir();
        unpack(fixture, &temp.path().join("root"));
        Self { temp, driver: driver_of(fixture) }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.at("root")
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn empty(&self, name: &str) -> PathBuf {
        fs::create_dir(self.at(name)).expect("a directory");
        self.at(name)
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// As `assert_eq`, without printing megabytes.
#[track_caller]
fn assert_same_bytes(one: &Path, other: &Path) {
    assert!(bytes(one) == bytes(other), "{} and {} differ", one.display(), other.display());
}

fn round_trip(fixture: &'static str) {
    let lab = Lab::new(fixture);
    let before = Untouched::note(&lab.root());
    let archive = lab.at("all.tar.zst");
    save(&lab.root(), &["--all"], &archive);
    before.assert();
    let target = lab.empty("target");
    let _ = load(&target, &archive, &[]);
    assert_same_images(&lab.root(), &target, lab.driver);
    assert_nothing_else(&target, lab.driver);

    let again = lab.at("again.tar.zst");
    save(&target, &["--all"], &again);
    assert_same_bytes(&archive, &again);
}

#[test]
fn of_20_overlay() {
    round_trip("20-overlay");
}

#[test]
fn of_20_overlay2() {
    round_trip("20-overlay2");
}

#[test]
fn of_28_overlay2() {
    round_trip("28-overlay2");
}

#[test]
fn of_every_form_of_archive() {
    let lab = Lab::new("28-overlay2");
    for form in ["all.tar.zst", "all.tar.gz", "all.tgz", "all.tar"] {
        let archive = lab.at(form);
        save(&lab.root(), &["--all"], &archive);
        let target = lab.empty(&format!("target of {form}"));
        let _ = load(&target, &archive, &[]);
        assert_same_images(&lab.root(), &target, lab.driver);
    }
    // Nothing is left beside the archives.
    let beside = names(lab.temp.path());
    assert_eq!(beside.iter().filter(|name| !name.starts_with("target of ")).count(), 5, "{beside:?}");
    assert_same_bytes(&lab.at("all.tar.gz"), &lab.at("all.tgz"));

    // All hold the same tar.
    let tar = bytes(&lab.at("all.tar"));
    let unpacked = zstd::decode_all(&bytes(&lab.at("all.tar.zst"))[..]).expect("zstd reads it");
    assert!(unpacked == tar, "the tar in zstd differs");
    let mut unpacked = Vec::new();
    let packed = bytes(&lab.at("all.tar.gz"));
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).expect("gzip");
    assert!(unpacked == tar, "the tar in gzip differs");
}

#[test]
fn of_an_unpacked_layout() {
    let lab = Lab::new("20-overlay2");
    for (name, output) in [("layout", format!("oci:{}", lab.at("layout").display())), ("dir", String::new())] {
        let output = if output.is_empty() { format!("{}/", lab.at(name).display()) } else { output };
        let _ = run(&lab.root(), ["save", "--all", "-o", &output]).done();
        assert_eq!(names(&lab.at(name)), ["blobs", "dockpack", "index.json", "manifest.json", "oci-layout"]);
        let target = lab.empty(&format!("target of {name}"));
        let _ = run(&target, ["load", "-i", &output]).done();
        assert_same_images(&lab.root(), &target, lab.driver);
    }
}

#[test]
fn through_pipes() {
    for fixture in REAL {
        let lab = Lab::new(fixture);
        let saved = outcome(dockpack(&lab.root(), ["save", "--all", "-o", "-"])).done().stdout;
        for (name, arguments) in [("implied", &["load"][..]), ("named", &["load", "-i", "-"])] {
            let target = lab.empty(name);
            let mut command = dockpack(&target, arguments);
            command.write_stdin(saved.clone());
            let _ = outcome(command).done();
            assert_same_images(&lab.root(), &target, lab.driver);
        }
        let file = lab.at("file.tar.zst");
        save(&lab.root(), &["--all"], &file);
        assert!(bytes(&file) == saved, "a pipe takes other bytes than a file");
    }
}

#[test]
fn the_same_images_give_the_same_bytes() {
    for fixture in REAL {
        let lab = Lab::new(fixture);
        let zst = |name: &str| lab.at(&format!("{name}.tar.zst"));
        save(&lab.root(), &["--all"], &zst("first"));
        save(&lab.root(), &["--all"], &zst("second"));
        assert_same_bytes(&zst("first"), &zst("second"));
        for threads in ["1", "2", "3", "7"] {
            save(&lab.root(), &["--all", "--threads", threads], &zst(threads));
            assert_same_bytes(&zst("first"), &zst(threads));
        }
        save(&lab.root(), &["--all"], &lab.at("first.tar.gz"));
        save(&lab.root(), &["--all", "--threads", "5"], &lab.at("second.tar.gz"));
        assert_same_bytes(&lab.at("first.tar.gz"), &lab.at("second.tar.gz"));
        // Another copy of the store, whose directories list their entries in another order.
        let other = Lab::new(fixture);
        save(&other.root(), &["--all"], &zst("other"));
        assert_same_bytes(&zst("first"), &zst("other"));
    }
}

#[test]
fn a_second_load_has_nothing_to_do() {
    for fixture in REAL {
        let lab = Lab::new(fixture);
        let archive = lab.at("all.tar.zst");
        save(&lab.root(), &["--all"], &archive);
        let target = lab.empty("target");
        let _ = load(&target, &archive, &[]);
        let before = Untouched::note(&target);
        let again = load(&target, &archive, &[]);
        assert!(again.stderr.contains("0 new layers"), "{}", again.stderr);
        before.assert();

        // The store that it came from has everything too.
        let before = Untouched::note(&lab.root());
        let _ = load(&lab.root(), &archive, &[]);
        before.assert();
    }
}

#[test]
fn one_image_of_several() {
    for fixture in REAL {
        let lab = Lab::new(fixture);
        let archive = lab.at("all.tar.zst");
        save(&lab.root(), &["--all"], &archive);
        let source = Contents::read(&lab.root(), lab.driver);
        for (name, wanted) in [("by tag", "nginx:alpine"), ("by repository", "nginx"), ("by ID", "")] {
            let id = &source.references["nginx:alpine"];
            let wanted = if wanted.is_empty() { &id[..10] } else { wanted };
            let target = lab.empty(name);
            let _ = load(&target, &archive, &[wanted]);
            let found = Contents::read(&target, lab.driver);
            assert_eq!(found.images.keys().collect::<Vec<_>>(), [id]);
            assert_eq!(found.references.iter().collect::<Vec<_>>(), [(&"nginx:alpine".to_owned(), id)]);
            let chains: BTreeSet<String> = stack(&source.images[id]).into_iter().map(|(chain, _)| chain).collect();
            assert_eq!(found.layers.keys().cloned().collect::<BTreeSet<_>>(), chains);
            assert_same(&found.layer_trees(&lab.root()), &found.layer_trees(&target), Allow::REBUILT);
            assert_nothing_else(&target, lab.driver);
            // The image that it was built from is not there, and is not named.
            let metadata = target.join("image").join(lab.driver).join("imagedb/metadata/sha256").join(id);
            assert!(!names(&metadata).contains(&"parent".to_owned()));
        }
    }
}

/// Layers that are there are left alone; what is added is the same as if all had come at once.
#[test]
fn what_is_there_is_skipped() {
    for fixture in REAL {
        let lab = Lab::new(fixture);
        let all = lab.at("all.tar.zst");
        save(&lab.root(), &["--all"], &all);
        let target = lab.empty("target");
        for (step, wanted) in ["alpine:3.4", "bk:1", "nasty:2", "nginx:alpine"].into_iter().enumerate() {
            let archive = lab.at(&format!("{step}.tar.zst"));
            save(&lab.root(), &[wanted], &archive);
            let before = Contents::read(&target, lab.driver);
            let kept = before.layer_trees(&target);
            let _ = load(&target, &archive, &[]);
            let after = Contents::read(&target, lab.driver);
            assert!(after.layers.len() > before.layers.len() && after.references.contains_key(wanted));
            let marks = |path: &[u8]| !path.ends_with(b"/committed");
            // A new child marks its parent; overlayfs's directories in it get a new time.
            let still = before.layer_trees(&target);
            assert_same(
                &kept.only(is_below_tree),
                &still.only(|path| is_below_tree(path) && marks(path)),
                Allow::NOTHING,
            );
        }
        let _ = load(&target, &all, &[]);
        assert_same_images(&lab.root(), &target, lab.driver);
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let lab = Lab::new("28-overlay2");
    let archive = lab.at("all.tar.zst");
    save(&lab.root(), &["--all"], &archive);
    let target = lab.empty("target");
    let before = Untouched::note(lab.temp.path());
    let shown = run(&target, ["load", "--dry-run", "-i", archive.to_str().expect("text")]).done();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("nginx:alpine"));
    before.assert();
}
