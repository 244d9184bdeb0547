//! What real Docker engines make of rebuilt stores and of archives.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::command::{DOCKPACK, load, run, save, try_load};
use crate::support::engine::Engine;
use crate::support::store::{Contents, REAL, assert_same_images, driver_of, names, project, sha256, temp_dir, unpack};
use crate::support::tree::Tree;

/// Tags that every fixture has.
const TAGS: [&str; 8] = [
    "alpine:3.4",
    "nginx:alpine",
    "rebuilt:latest",
    "bk:1",
    "localhost:5000/team/app:1",
    "team/app:2",
    "nasty:1",
    "nasty:2",
];

/// A directory with a saved fixture: `source` and `all.tar.zst`, and others beside it.
struct Lab {
    temp: tempfile::TempDir,
    fixture: &'static str,
}

impl Lab {
    fn new(fixture: &'static str) -> Self {
        let lab = Self { temp: temp_dir(), fixture };
        unpack(fixture, &lab.source());
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn source(&self) -> PathBuf {
        self.at("source")
    }

    fn driver(&self) -> &'static str {
        driver_of(self.fixture)
    }

    fn version(&self) -> &'static str {
        self.fixture.split('-').next().expect("a version")
    }

    /// Saves everything in the form that a file's name says.
    fn archive(&self, name: &str) -> PathBuf {
        save(&self.source(), &["--all"], &self.at(name));
        self.at(name)
    }

    /// Makes a root for an engine: `NAME/root`.
    fn engine_root(&self, name: &str) -> PathBuf {
        let root = self.at(name).join("root");
        fs::create_dir_all(&root).expect("directories");
        root
    }

    fn start(&self, name: &str) -> Engine {
        Engine::start(self.version(), self.driver(), &self.at(name))
    }
}

fn expected(fixture: &str) -> Value {
    let path = project(&format!("fixtures/stores/{fixture}.expected.json"));
    serde_json::from_slice(&fs::read(path).expect("the description")).expect("JSON")
}

/// The engine that made a store finds the same images in the rebuilt one, byte for byte, and runs them.
fn rebuilt(fixture: &'static str) {
    let lab = Lab::new(fixture);
    let root = lab.engine_root("rebuilt");
    let _ = load(&root, &lab.archive("all.tar.zst"), &[]);
    let engine = lab.start("rebuilt");
    let (mut described, mut expected) = (engine.describe(), expected(fixture));
    for description in [&mut described, &mut expected] {
        // An image counts its containers, which are no part of it.
        for image in description["images"].as_array_mut().expect("images") {
            image["Containers"].take();
        }
    }
    // No manifest proves references by digest, so no archive has them.
    for image in expected["images"].as_array_mut().expect("images") {
        image["Digest"] = "<none>".into();
    }
    for image in expected["inspect"].as_object_mut().expect("images").values_mut() {
        image["RepoDigests"] = Value::Array(Vec::new());
    }
    for part in ["version", "driver", "images", "inspect", "layers"] {
        assert_eq!(described[part], expected[part], "{part}");
    }
    for tag in TAGS {
        engine.docker(&["run", "--rm", "--network", "none", tag, "true"]);
    }
    let said = engine.docker(&["run", "--rm", "--network", "none", "bk:1"]);
    assert_eq!(said, "built by BuildKit\n");
    for line in engine.log().lines() {
        let complains = ["not restoring", "layer does not exist", "failed to load layer", "failed to verify"];
        assert!(!complains.iter().any(|words| line.contains(words)), "{line}");
    }
    // It can be built upon, and what is removed is gone. (Docker 28 itself leaks layers that it has saved, until it
    // is started anew.)
    engine.stop();
    let engine = lab.start("rebuilt");
    engine.docker(&["commit", engine.docker(&["create", "nginx:alpine"]).trim_end(), "more:1"]);
    engine.docker(&["system", "prune", "-af"]);
    assert!(engine.image_ids().is_empty());
    let image = root.join("image").join(lab.driver());
    assert_eq!(names(&image.join("layerdb/sha256")), [] as [String; 0]);
    engine.stop();
}

#[test]
fn daemon_on_rebuilt_20_overlay() {
    rebuilt("20-overlay");
}

#[test]
fn daemon_on_rebuilt_20_overlay2() {
    rebuilt("20-overlay2");
}

#[test]
fn daemon_on_rebuilt_28_overlay2() {
    rebuilt("28-overlay2");
}

fn docker_loads(lab: &Lab, version: &'static str, driver: &'static str, name: &str) {
    let archive = lab.archive(name);
    let at = format!("{version} {name}");
    lab.engine_root(&at);
    let engine = Engine::start(version, driver, &lab.at(&at));
    let output = engine.try_docker(&["load"], File::open(archive).expect("an archive"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let described = expected(lab.fixture);
    let wanted = Contents::read(&lab.source(), lab.driver());
    assert_eq!(engine.image_ids(), wanted.images.keys().cloned().collect(), "{name}");
    for tag in TAGS {
        let id = engine.docker(&["image", "inspect", "--format", "{{.Id}}", tag]);
        assert_eq!(id.trim_end().trim_start_matches("sha256:"), wanted.references[tag], "{tag}");
        engine.docker(&["run", "--rm", "--network", "none", tag, "true"]);
    }
    for (id, layers) in described["layers"].as_object().expect("an object") {
        let inspected: Value = serde_json::from_str(&engine.docker(&["image", "inspect", id])).expect("JSON");
        assert_eq!(&inspected[0]["RootFS"]["Layers"], layers);
    }
    engine.stop();
}

#[test]
fn daemon_28_loads_archives() {
    for fixture in REAL {
        docker_loads(&Lab::new(fixture), "28", "overlay2", "all.tar.zst");
    }
}

#[test]
fn daemon_28_with_containerd_store_loads_archives() {
    let lab = Lab::new("28-overlay2");
    let archive = lab.archive("all.tar.zst");
    lab.engine_root("containerd");
    let engine = Engine::start("28", "containerd", &lab.at("containerd"));
    let output = engine.try_docker(&["load"], File::open(archive).expect("an archive"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for tag in TAGS {
        engine.docker(&["run", "--rm", "--network", "none", tag, "true"]);
    }
    engine.stop();
}

#[test]
fn daemon_20_loads_archives() {
    docker_loads(&Lab::new("20-overlay"), "20", "overlay2", "all.tar.gz");
    docker_loads(&Lab::new("20-overlay2"), "20", "overlay", "all.tar");
    docker_loads(&Lab::new("28-overlay2"), "20", "overlay2", "all.tar.gz");
}

/// Beside a daemon whose containers run and whose images are mounted.
#[test]
fn daemon_alive_while_its_images_are_saved() {
    for fixture in REAL {
        let lab = Lab::new(fixture);
        let root = lab.engine_root("live");
        unpack(fixture, &root);
        let engine = lab.start("live");
        for image in ["bk:1", "nginx:alpine"] {
            engine.docker(&[
                "run",
                "-d",
                "--network",
                "none",
                image,
                "sh",
                "-c",
                "while :; do date >/d; sleep 0.1; done",
            ]);
        }
        let archive = lab.at("live.tar.zst");
        save(&root, &["--all"], &archive);
        assert_eq!(engine.docker(&["ps", "-q"]).lines().count(), 2, "containers go on");
        engine.stop();
        let target = lab.at("target");
        fs::create_dir(&target).expect("a directory");
        let _ = load(&target, &archive, &[]);
        assert_eq!(Contents::read(&target, lab.driver()), Contents::read(&lab.source(), lab.driver()));
    }
}

#[test]
fn daemon_alive_refuses_a_load() {
    for fixture in REAL {
        let lab = Lab::new(fixture);
        let archive = lab.archive("all.tar.zst");
        lab.engine_root("live");
        let engine = lab.start("live");
        let root = lab.at("live/root");
        let before = Tree::read_entries(&root, ["image", lab.driver()]);
        let refused = try_load(&root, &archive, &[]).failed(4);
        assert!(refused.stderr.contains(&format!("dockerd (pid {})", engine.pid())), "{}", refused.stderr);
        assert!(refused.stderr.contains("\nhint: "), "{}", refused.stderr);
        assert_eq!(refused.stdout, b"");
        // Looking is allowed.
        let _ = run(&root, ["load", "--dry-run", "-i", archive.to_str().expect("text")]).done();
        let _ = run(&root, ["ls"]).done();
        assert!(before == Tree::read_entries(&root, ["image", lab.driver()]), "something was written");
        assert!(!root.join(".dockpack").exists());
        assert_eq!(engine.docker(&["image", "ls", "-aq"]), "");
        engine.stop();
        // With the daemon gone it goes.
        let _ = load(&root, &archive, &[]);
        let engine = lab.start("live");
        assert_eq!(engine.describe()["layers"], expected(fixture)["layers"]);
        engine.stop();
    }
}

/// A daemon that is started while a load works gives up, and starts when it is done.
#[test]
fn daemon_waits_for_a_load() {
    for fixture in ["20-overlay2", "28-overlay2"] {
        let lab = Lab::new(fixture);
        let bytes = fs::read(lab.archive("all.tar.zst")).expect("an archive");
        let root = lab.engine_root("target");
        let mut command = Command::new(DOCKPACK);
        command.arg("--root").arg(&root).arg("load").stdin(Stdio::piped()).stdout(Stdio::null());
        let mut load = command.stderr(Stdio::piped()).spawn().expect("dockpack runs");
        let mut pipe = load.stdin.take().expect("a pipe");
        pipe.write_all(&bytes[..bytes.len() / 2]).expect("written");
        wait_for(|| root.join(".dockpack/load/layers").is_dir());

        let log = Engine::try_start(lab.version(), lab.driver(), &lab.at("target")).expect_err("it must not start");
        assert!(log.contains("error while opening volume store metadata database"), "{log}");
        let loading = load.try_wait().expect("a child").is_none();
        assert!(loading, "the load has ended");

        pipe.write_all(&bytes[bytes.len() / 2..]).expect("written");
        drop(pipe);
        let output = load.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_same_images(&lab.source(), &root, lab.driver());
        let engine = lab.start("target");
        assert_eq!(engine.describe()["layers"], expected(fixture)["layers"]);
        engine.stop();
    }
}

fn wait_for(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
fn skopeo(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output().expect("skopeo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "skopeo {}: {said}", arguments.join(" "));
    output.stdout
}

/// Reads what skopeo wrote as an OCI layout, and returns the digest of the one image's configuration.
fn config_digest(layout: &Path) -> String {
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON") };
    let blob = |digest: &Value| layout.join("blobs").join(digest.as_str().expect("a digest").replace(':', "/"));
    let manifest = read(blob(&read(layout.join("index.json"))["manifests"][0]["digest"]));
    let config = fs::read(blob(&manifest["config"]["digest"])).expect("a configuration");
    sha256(&config)
}

#[test]
fn skopeo_reads_archives_and_layouts() {
    for fixture in REAL {
        let lab = Lab::new(fixture);
        let wanted = Contents::read(&lab.source(), lab.driver());
        lab.archive("all.tar");
        lab.archive("all.tar.gz");
        lab.archive("all.tar.zst");
        let layout = format!("oci:{}", lab.at("layout").display());
        let _ = run(&lab.source(), ["save", "--all", "-o", &layout]).done();
        let source = |how: &str, name: &str| format!("{how}:{}", lab.at(name).display());
        for tag in TAGS {
            for source in [
                source("oci-archive", "all.tar"),
                source("oci-archive", "all.tar.gz"),
                source("oci-archive", "all.tar.zst"),
                source("docker-archive", "all.tar"),
                source("docker-archive", "all.tar.zst"),
                layout.clone(),
            ] {
                let image = format!("{source}:{tag}");
                let inspected: Value = serde_json::from_slice(&skopeo(&["inspect", &image])).expect("JSON");
                assert!(inspected["Layers"].as_array().is_some_and(|layers| !layers.is_empty()), "{image}");
                let config = skopeo(&["inspect", "--config", "--raw", &image]);
                assert_eq!(sha256(&config), wanted.references[tag], "{image}");
            }
        }
        for (number, source) in [source("oci-archive", "all.tar.zst"), layout].iter().enumerate() {
            let copy = lab.at(&format!("copy-{number}"));
            skopeo(&["copy", "-q", &format!("{source}:nginx:alpine"), &format!("oci:{}", copy.display())]);
            assert_eq!(config_digest(&copy), wanted.references["nginx:alpine"]);
        }
    }
}
