//! Archives that podman, buildah, skopeo and umoci make here (`ci/archives`): Docker and dockpack make the same of each.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use crate::support::command::{load, run};
use crate::support::engine::Engine;
use crate::support::foreign::{assert_same_as_docker, assert_same_layers};
use crate::support::store::{Contents, assert_nothing_else, assert_sound, dirs, names, project, stack, temp_dir};
use crate::support::tree::Tree;

/// An archive, as a line of `ci/archives` tells of it.
struct Made {
    file: String,
    /// The same in a form that Docker takes.
    same: String,
    /// Of a layout: its image's ID, and names.
    layout: Option<(String, Vec<String>)>,
}

/// What the trees of all archives together must have, or the tools have left out what is to be compared.
const TRAITS: [&str; 20] = [
    "block device",
    "character device",
    "directory",
    "file",
    "fraction of a second",
    "hard link",
    "long name",
    "long target",
    "name that is no UTF-8",
    "named pipe",
    "owner",
    "security.capability",
    "set-gid and sticky",
    "set-uid",
    "symbolic link",
    "trusted.overlay.opaque",
    "user.binary",
    "user.directory",
    "user.late",
    "whiteout",
];

fn make(dir: &Path) -> Vec<Made> {
    let output = Command::new(project("ci/archives")).arg(dir).stdin(Stdio::null()).output().expect("ci/archives runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("text");
    let made = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (file, same) = (words.next().expect("a file"), words.next().expect("a file"));
        Made { file, same, layout: words.next().map(|id| (id, words.collect())) }
    };
    lines.lines().map(made).collect()
}

#[test]
fn daemon_28_makes_the_same_of_what_other_tools_make() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    let archives = make(&at("made"));
    assert!(archives.len() >= 18, "{}", archives.len());
    for tool in ["podman", "buildah", "skopeo", "umoci"] {
        assert!(archives.iter().filter(|made| made.file.starts_with(tool)).count() > 2, "{tool}");
    }
    let since = SystemTime::now();
    let engine = Engine::start("28", "overlay2", &at("lab"));
    let docker = at("lab/root");
    let mut traits = BTreeSet::new();
    for made in &archives {
        let (archive, ours) = (at("made").join(&made.file), at(&format!("ours-{}", made.file)));
        let same = File::open(at("made").join(&made.same)).expect("an archive");
        let output = engine.try_docker(&["load"], same);
        assert!(output.status.success(), "{}: {}", made.file, String::from_utf8_lossy(&output.stderr));
        fs::create_dir(&ours).expect("a directory");
        let _ = load(&ours, &archive, &[]);
        check(made, &docker, &ours, since);
        let report = run(&ours, ["verify", "-i", archive.to_str().expect("text")]).done();
        assert!(!String::from_utf8_lossy(&report.stdout).contains("damage "), "{}", made.file);
        for cache_id in Contents::read(&ours, "overlay2").layers.values() {
            traits.extend(Tree::read(&dirs(&ours, "overlay2").join(cache_id).join("diff")).traits());
        }
        // The next one has layers of this one: Docker has to unpack them again.
        let ids = engine.image_ids();
        engine.docker(&["rmi", "-f"].into_iter().chain(ids.iter().map(String::as_str)).collect::<Vec<_>>());
        assert!(names(&docker.join("image/overlay2/layerdb/sha256")).is_empty(), "{}", made.file);
    }
    engine.stop();
    let missing: Vec<_> = TRAITS.iter().filter(|one| !traits.contains(**one)).collect();
    assert!(missing.is_empty(), "no archive has {missing:?}, but {traits:?}");
}

/// Fails where the store that dockpack made is not the one that Docker made of the same archive.
fn check(made: &Made, docker: &Path, ours: &Path, since: SystemTime) {
    assert_sound(ours, "overlay2");
    assert_nothing_else(ours, "overlay2");
    let (wanted, found) = (Contents::read(docker, "overlay2"), Contents::read(ours, "overlay2"));
    assert_eq!(wanted.layers.keys().collect::<Vec<_>>(), found.layers.keys().collect::<Vec<_>>(), "{}", made.file);
    match &made.layout {
        None => {
            assert_eq!(wanted.images, found.images, "{}", made.file);
            assert_same_as_docker(docker, ours, since);
        }
        // What skopeo made of it may have another configuration, and has another name.
        Some((id, named)) => {
            assert_eq!(found.images.keys().collect::<Vec<_>>(), [id], "{}", made.file);
            assert_eq!(found.references.keys().collect::<Vec<_>>(), named.iter().collect::<Vec<_>>(), "{}", made.file);
            let stacks =
                [&wanted, &found].map(|all| all.images.values().map(|config| stack(config)).collect::<Vec<_>>());
            assert_eq!(stacks[0], stacks[1], "{}", made.file);
            assert_same_layers(docker, ours, since);
        }
    }
    let report = run(ours, ["verify"]);
    assert_eq!(report.status.code(), Some(0), "{}: {}", made.file, String::from_utf8_lossy(&report.stdout));
}
