//! `repair` of names and configurations of images, and what `gc` takes afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::command::{load, run};
use crate::support::engine::Engine;
use crate::support::repair::{Lab, document, repair};
use crate::support::store::Contents;
use crate::support::tree::Untouched;
use crate::verify::{damage, findings, text, verify};

/// Paths that `gc` would take.
fn garbage(root: &Path) -> BTreeSet<String> {
    let plan = document(&run(root, ["gc", "--dry-run", "--json"]).done());
    let entries = plan["plan"]["entries"].as_array().expect("entries").clone();
    let parts = entries.iter().flat_map(|entry| entry["parts"].as_array().expect("parts").clone());
    parts.map(|part| text(&part, "path").to_owned()).collect()
}

fn names_file(root: &Path) -> PathBuf {
    root.join("image/overlay2/repositories.json")
}

/// Whatever is lost of the names, `repair` leaves nothing to the next `gc` that was not garbage before.
#[test]
fn lost_names_leave_nothing_for_gc() {
    let lab = Lab::new("28-overlay2");
    let before = garbage(&lab.at("base"));
    let images = Contents::read(&lab.at("base"), "overlay2").images;
    for defect in ["references-empty", "references-cut", "references-gone"] {
        let root = lab.damaged("root", &[defect]);
        let untouched = Untouched::note(&root);
        let said = repair(&root, &["-y"]).done();
        let said = String::from_utf8(said.stdout).expect("text");
        assert!(
            said.contains("known names, and name") && said.contains("dockpack-rescued:IMAGE-ID"),
            "{defect}: {said}"
        );
        let taken = garbage(&root);
        assert!(taken.is_subset(&before), "{defect}: {:?}", taken.difference(&before));
        let found = Contents::read(&root, "overlay2");
        assert_eq!(found.images, images, "{defect}");
        let rescued: Vec<_> =
            found.references.iter().filter(|(name, _)| name.starts_with("dockpack-rescued:")).collect();
        assert!(!rescued.is_empty(), "{defect}");
        for (name, image) in rescued {
            assert_eq!(name.strip_prefix("dockpack-rescued:"), image.get(..12), "{defect}");
        }
        let _ = repair(&root, &["--undo"]).done();
        untouched.assert_restored();
    }
}

/// An image whose configuration cannot be read just now gets a name too: another time it can be, and then nothing else keeps it.
#[test]
fn an_image_that_cannot_be_read_keeps_a_name() {
    let lab = Lab::new("28-overlay2");
    let before = garbage(&lab.at("base"));
    for id in Contents::read(&lab.at("base"), "overlay2").images.keys() {
        let root = lab.damaged("root", &["references-empty"]);
        let (config, aside) = (root.join("image/overlay2/imagedb/content/sha256").join(id), lab.at("aside"));
        fs::rename(&config, &aside).expect("moved");
        // Longer than what is read.
        fs::File::create(&config).and_then(|file| file.set_len(1 << 32)).expect("a file");
        let _ = repair(&root, &["-y"]);
        fs::remove_file(&config).expect("removed");
        fs::rename(&aside, &config).expect("moved");
        let taken = garbage(&root);
        assert!(taken.is_subset(&before), "{id}: {:?}", taken.difference(&before));
    }
}

/// A file that names nothing is no damage, but where containers know names of images it is told of, and they come back.
#[test]
fn names_come_back_to_an_empty_file() {
    let lab = Lab::new("28-overlay2");
    let before = garbage(&lab.at("base"));
    let root = lab.damaged("root", &[]);
    fs::write(names_file(&root), r#"{"Repositories":{}}"#).expect("written");
    let untouched = Untouched::note(&root);
    let (code, document) = verify(&root, &["--quick"]);
    let is_told = |found: &Value| text(found, "code") == "references-empty" && text(found, "severity") == "warning";
    assert!(code == 0 && findings(&document).iter().any(is_told), "{document:#}");
    let _ = repair(&root, &["-y"]).done();
    let names = Contents::read(&root, "overlay2").references;
    assert_eq!(names.get("nginx:alpine"), Contents::read(&lab.at("base"), "overlay2").references.get("nginx:alpine"));
    let taken = garbage(&root);
    assert!(taken.is_subset(&before), "{:?}", taken.difference(&before));
    assert!(!findings(&verify(&root, &["--quick"]).1).iter().any(is_told));
    let _ = repair(&root, &["--undo"]).done();
    untouched.assert_restored();
}

/// Names that an archive has come back; only an image that had none is given one.
#[test]
fn an_archive_gives_names_back() {
    let lab = Lab::new("28-overlay2");
    let root = lab.damaged("root", &["references-empty"]);
    let archive = lab.archive();
    let _ = repair(&root, &["-y", "--from", archive.to_str().expect("text")]).done();
    let (wanted, found) = (Contents::read(&lab.at("base"), "overlay2"), Contents::read(&root, "overlay2"));
    let is_known = |name: &&String| !name.starts_with("dockpack-rescued:");
    assert!(found.references.keys().filter(is_known).eq(wanted.references.keys()), "{:?}", found.references);
    assert!(garbage(&root).is_subset(&garbage(&lab.at("base"))));
}

/// Takes the configuration of `nginx:alpine` away, and with it what else is asked for.
fn without_config(root: &Path) -> String {
    let id = Contents::read(root, "overlay2").references["nginx:alpine"].clone();
    fs::remove_file(root.join("image/overlay2/imagedb/content/sha256").join(&id)).expect("removed");
    id
}

/// Takes a name out of the references.
fn without_name(root: &Path, repository: &str) {
    let file = names_file(root);
    let mut names: Value = serde_json::from_slice(&fs::read(&file).expect("names")).expect("JSON");
    let _ = names["Repositories"].as_object_mut().expect("an object").remove(repository).expect("it was there");
    fs::write(&file, names.to_string()).expect("written");
}

/// An image whose configuration is gone comes back from an archive: while its name is there, when all names are lost, and
/// when nothing but its layers is left.
#[test]
fn a_lost_configuration_comes_back() {
    let lab = Lab::new("28-overlay2");
    let archive = lab.archive();
    let wanted = Contents::read(&lab.at("base"), "overlay2");
    for (case, lose) in [
        ("its name is there", (|_| {}) as fn(&Path)),
        ("all names are lost", |root| damage("references-empty", root)),
        ("its name is lost too", |root| {
            without_name(root, "nginx");
            // What was made from it tells of it no more.
            let contents = fs::read_dir(root.join("containers")).expect("containers");
            for container in contents {
                fs::remove_dir_all(container.expect("an entry").path()).expect("removed");
            }
            let mounts = root.join("image/overlay2/layerdb/mounts");
            fs::remove_dir_all(&mounts).expect("removed");
            fs::create_dir(&mounts).expect("a directory");
        }),
    ] {
        let root = lab.copy("base", "root");
        let id = without_config(&root);
        lose(&root);
        let untouched = Untouched::note(&root);
        let _ = repair(&root, &["-y", "--from", archive.to_str().expect("text")]).done();
        let found = Contents::read(&root, "overlay2");
        assert_eq!(found.images, wanted.images, "{case}");
        assert_eq!(found.references.get("nginx:alpine"), Some(&id), "{case}");
        let (code, report) = verify(&root, &[]);
        assert_eq!(code, 0, "{case}: {:#?}", findings(&report));
        let _ = repair(&root, &["--undo"]).done();
        untouched.assert_restored();
    }
}

/// An image that the store never had does not come along.
#[test]
fn only_what_the_store_had_comes_back() {
    let lab = Lab::new("28-overlay2");
    let archive = lab.archive();
    let part = lab.at("part");
    fs::create_dir(&part).expect("a directory");
    let _ = load(&part, &archive, &["nginx:alpine"]);
    let before = Untouched::note(&part);
    let done = repair(&part, &["-y", "--from", archive.to_str().expect("text")]).done();
    assert!(done.stderr.contains("nothing to repair"), "{}", done.stderr);
    before.assert_restored();
}

/// A daemon takes the names that images get, and its images survive the next removal of garbage.
#[test]
fn a_daemon_28_takes_rescued_names() {
    let lab = Lab::new("28-overlay2");
    let root = lab.damaged("root", &["references-empty"]);
    let _ = repair(&root, &["-y"]).done();
    let _ = run(&root, ["gc", "-y"]);
    let names = Contents::read(&root, "overlay2").references;
    let engine = Engine::start("28", "overlay2", lab.temp.path());
    let listed = engine.docker(&["image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
    let saved = lab.at("saved.tar");
    for (name, image) in names.iter().filter(|(name, _)| name.starts_with("dockpack-rescued:")) {
        assert!(listed.contains(&format!("{name} sha256:{image}")), "{name}: {listed}");
        engine.docker(&["tag", name, "found:1"]);
        engine.docker(&["image", "save", "-o", saved.to_str().expect("text"), name]);
    }
    engine.stop();
}
