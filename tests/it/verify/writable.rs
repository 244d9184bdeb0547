//! Entries of writable layers that contradict containers, and what a daemon does with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{damage, findings, text, verify};
use crate::support::command::run;
use crate::support::engine::Engine;
use crate::support::store::{Contents, temp_dir, unpack};
use crate::support::tree::Untouched;

/// Damages the entry of a container, checks what `verify` says, and starts a daemon on the store.
fn wrong_entry(defect: &str, code: i32, severity: &str, means: &[&str], look: impl Fn(&Engine)) {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    damage(defect, &root);
    let (exit, document) = verify(&root, &[]);
    let told: Vec<_> = findings(&document).iter().filter(|found| text(found, "severity") != "note").collect();
    assert_eq!((exit, told.len()), (code, 1), "{document:#}");
    let found = told[0];
    assert_eq!((text(found, "code"), text(found, "severity")), ("mount-mismatch", severity));
    let evidence = text(found, "evidence");
    assert!(evidence.contains("the container starts"), "{evidence}");
    assert!(means.iter().all(|means| evidence.contains(means)), "{evidence}");
    let engine = Engine::start("28", "overlay2", temp.path());
    engine.docker(&["start", "--attach", "nginx"]);
    look(&engine);
    engine.stop();
}

fn fails(engine: &Engine, arguments: &[&str]) {
    let output = engine.try_docker(arguments, Stdio::null());
    assert!(!output.status.success(), "docker {} works", arguments.join(" "));
}

/// The image of a container is not known to be in use: removing it takes the container's layers.
#[test]
fn a_container_whose_layer_is_not_known() {
    for defect in ["mount-parent-gone", "mount-parent-of-another"] {
        let means = ["docker rmi -f of its image takes the layers that it stands on"];
        wrong_entry(defect, 0, "warning", &means, |engine| {
            let shown = engine.docker(&["diff", "nginx"]);
            assert!(shown.contains("A /root/awesome-nginx.txt"), "{shown}");
            engine.docker(&["commit", "nginx", "made"]);
            engine.docker(&["rmi", "made"]);
            engine.docker(&["rmi", "-f", "nginx:alpine"]);
            fails(engine, &["start", "nginx"]);
        });
    }
}

#[test]
fn a_container_whose_init_layer_is_not_known() {
    let means = ["docker diff shows what Docker put into it", "docker rm leaves a directory behind"];
    wrong_entry("init-id-gone", 0, "warning", &means, |engine| {
        assert!(engine.docker(&["diff", "nginx"]).contains("/dev/console"));
        let homes = || engine.docker(&["info", "--format", "{{.DockerRootDir}}"]).trim().to_owned();
        let inits = || {
            let entries = fs::read_dir(Path::new(&homes()).join("overlay2")).expect("the home");
            entries
                .filter(|entry| entry.as_ref().expect("one").file_name().to_string_lossy().ends_with("-init"))
                .count()
        };
        let before = inits();
        engine.docker(&["rm", "nginx"]);
        assert_eq!(inits(), before);
    });
}

#[test]
fn a_container_whose_init_layer_is_not_there() {
    wrong_entry("init-id-to-nothing", 3, "damage", &["docker diff and docker commit fail"], |engine| {
        fails(engine, &["diff", "nginx"]);
        fails(engine, &["commit", "nginx"]);
    });
}

/// The directory of a container in a store, and its init layer's.
fn directories(root: &Path) -> [PathBuf; 2] {
    let config = Contents::read(root, "overlay2").references["nginx:alpine"].clone();
    let all = fs::read_dir(root.join("containers")).expect("containers").map(|entry| entry.expect("one").path());
    let mut of_image =
        all.filter(|path| fs::read_to_string(path.join("config.v2.json")).expect("it").contains(&config));
    let container = of_image.next().expect("a container of the image");
    let entry = root.join("image/overlay2/layerdb/mounts").join(container.file_name().expect("an ID"));
    // The image's own configuration and the entry's `parent` are what says on which layers it stands.
    fs::remove_file(root.join("image/overlay2/imagedb/content/sha256").join(config.trim_start_matches("sha256:")))
        .and_then(|()| fs::remove_file(entry.join("parent")))
        .expect("removed");
    ["mount-id", "init-id"].map(|id| root.join("overlay2").join(fs::read_to_string(entry.join(id)).expect("an ID")))
}

/// Where nothing says on which layers a container stands, it still stands on its init layer.
#[test]
fn a_container_without_lower_of_which_no_layer_is_known() {
    let temp = temp_dir();
    unpack("28-overlay2", temp.path());
    let [own, init] = directories(temp.path());
    let lower = |dir: &Path| fs::read_to_string(dir.join("lower")).expect("text");
    let said = || {
        let (_, document) = verify(temp.path(), &[]);
        let all = findings(&document).iter().filter(|found| text(found, "code").starts_with("driver-"));
        all.map(|found| (text(found, "code").to_owned(), text(found, "path").to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(said(), []);
    let was = lower(&own);
    assert!(was.ends_with(&lower(&init)));
    fs::remove_file(own.join("lower")).expect("removed");
    let found = said();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "driver-lower-missing");
    let before = Untouched::note(temp.path());
    let outcome = run(temp.path(), ["repair", "-y"]);
    // The image is not brought back.
    assert_eq!(outcome.status.code(), Some(3), "{}", outcome.stderr);
    assert_eq!((lower(&own), said()), (was, Vec::new()));
    let _ = run(temp.path(), ["repair", "--undo"]).done();
    before.assert_restored();
    // Where that of the init layer is gone too, nothing says it.
    fs::remove_file(init.join("lower")).expect("removed");
    assert_eq!(said().len(), 1);
    let planned = run(temp.path(), ["repair", "--dry-run"]);
    let planned = String::from_utf8(planned.stdout).expect("text");
    assert!(planned.contains("nothing says what it is stacked on"), "{planned}");
}
