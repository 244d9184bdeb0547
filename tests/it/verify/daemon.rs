//! `verify` against daemons: what it calls damaged fails with one, what it advises cures it, and beside one it says nothing
//! that is not so.

#![allow(clippy::print_stderr, reason = "how often was looked")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{findings, text, verify};
use crate::support::command::run;
use crate::support::engine::Engine;
use crate::support::store::{Contents, stack, temp_dir, unpack};

/// The names of a fixture, and a file of no names.
const REFERENCES: &str = "image/overlay2/repositories.json";
const NO_NAMES: &str = r#"{"Repositories":{}}"#;

/// Zeroes a file, from a byte on.
fn zero(path: &Path, from: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[from..].fill(0);
    fs::write(path, bytes).expect("writes");
}

fn cut(path: &Path) {
    cut_to(path, 5000);
}

fn cut_to(path: &Path, length: u64) {
    fs::File::options().write(true).open(path).and_then(|file| file.set_len(length)).expect("is cut");
}

/// Returns the finding with a code.
#[track_caller]
fn finding<'d>(document: &'d Value, code: &str) -> &'d Value {
    let found = findings(document).iter().find(|found| text(found, "code") == code);
    found.unwrap_or_else(|| panic!("no {code}: {document:#}"))
}

/// Does what a finding advises: moves a part of the store away.
fn move_away(root: &Path, finding: &Value) {
    let (_, advice) = text(finding, "evidence").split_once("move ").expect("advice");
    let path = root.join(advice.split_whitespace().next().expect("a path"));
    fs::rename(&path, path.with_extension("damaged")).expect("is moved away");
}

/// Every database in turn, in every way: dockerd does not start, and does where it was moved away.
fn databases(version: &'static str, paths: &[&str]) {
    let ways: [fn(&Path); 3] = [|path| zero(path, 0), cut, |path| zero(path, 2 * 4096)];
    for path in paths {
        for way in ways {
            // A daemon may leave a mount behind, so each has a directory of its own.
            let temp = temp_dir();
            let (dir, root) = (temp.path(), temp.path().join("root"));
            unpack(&format!("{version}-overlay2"), &root);
            way(&root.join(path));
            let (code, document) = verify(&root, &["--quick"]);
            let found = finding(&document, "database-damaged");
            assert_eq!((code, text(found, "subject")), (3, *path));
            assert_eq!(text(&found["breaks"][0], "effect"), "daemon");
            assert!(Engine::try_start(version, "overlay2", dir).is_err(), "{path}: the daemon starts");
            move_away(&root, found);
            assert_eq!(verify(&root, &["--quick"]).0, 0, "{path}");
            drop(Engine::start(version, "overlay2", dir));
        }
        // An empty one is as good as none.
        let temp = temp_dir();
        let root = temp.path().join("root");
        unpack(&format!("{version}-overlay2"), &root);
        fs::write(root.join(path), "").expect("writes");
        assert_eq!(verify(&root, &["--quick"]).0, 0, "{path}");
        drop(Engine::start(version, "overlay2", temp.path()));
    }
}

#[test]
fn databases_with_which_daemon_28_does_not_start() {
    databases(
        "28",
        &["volumes/metadata.db", "network/files/local-kv.db", "buildkit/history.db", "buildkit/metadata_v2.db"],
    );
}

#[test]
fn databases_with_which_daemon_20_does_not_start() {
    databases("20", &["volumes/metadata.db", "network/files/local-kv.db", "buildkit/containerdmeta.db"]);
}

/// The cache's own database: daemon 28 puts it aside where it does not open.
#[test]
fn a_build_cache_that_daemon_28_puts_aside() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    zero(&root.join("buildkit/cache.db"), 0);
    let (code, document) = verify(&root, &["--quick"]);
    assert_eq!((code, document["summary"]["broken_images"].as_u64()), (3, Some(0)));
    finding(&document, "build-cache-damaged");
    Engine::start("28", "overlay2", temp.path()).stop();
    assert_eq!(verify(&root, &["--quick"]).0, 0);
}

/// Returns the directory of a container.
fn container(root: &Path, name: &str) -> PathBuf {
    let all = fs::read_dir(root.join("containers")).expect("containers").map(|entry| entry.expect("one").path());
    let is_it = |path: &PathBuf| {
        let config = fs::read_to_string(path.join("config.v2.json")).expect("a configuration");
        config.contains(&format!(r#""Name":"/{name}""#))
    };
    all.into_iter().find(is_it).expect("a container")
}

/// What a daemon makes of a `hostconfig.json` that is damaged or gone.
fn host_configs(version: &'static str, starts_without: bool) {
    let of_another_type = [r#"{"Memory":"1g"}"#, r#"{"LogConfig":{"Type":7}}"#].map(Some);
    let texts = [Some(""), Some("\0\0\0\0"), Some(r#"{"Binds":"#), Some("[]"), None].into_iter().chain(of_another_type);
    for text_of_file in texts {
        let temp = temp_dir();
        let root = temp.path().join("root");
        unpack(&format!("{version}-overlay2"), &root);
        let file = container(&root, "changed").join("hostconfig.json");
        match text_of_file {
            Some(text) => fs::write(&file, text).expect("writes"),
            None => fs::remove_file(&file).expect("removes"),
        }
        let (code, document) = verify(&root, &["--quick"]);
        assert_eq!((code, document["summary"]["broken_containers"].as_u64()), (3, Some(1)), "{document:#}");
        finding(
            &document,
            match text_of_file {
                Some(_) => "container-host-config-unreadable",
                None => "container-host-config-missing",
            },
        );
        let engine = Engine::start(version, "overlay2", temp.path());
        let is_listed = engine.docker(&["ps", "-a", "--format", "{{.Names}}"]).contains("changed");
        let starts = engine.try_docker(&["start", "changed"], std::process::Stdio::null()).status.success();
        assert_eq!((is_listed, starts), (text_of_file.is_none(), text_of_file.is_none() && starts_without));
    }
}

/// What is damaged and how, and the code and the effect by which `verify` tells of it.
type Case = (&'static str, fn(&Path), &'static str, &'static str);

/// What all images hang on: dockerd does not start, or knows no name, or starts nothing; and does all of it when that is
/// mended.
#[test]
fn what_daemon_28_reads_of_all_images() {
    let cases: [Case; 5] = [
        ("empty", |root| fs::write(root.join(REFERENCES), "").expect("writes"), "references-unreadable", "daemon"),
        ("cut", |root| cut_to(&root.join(REFERENCES), 100), "references-unreadable", "daemon"),
        ("of nothing", |root| fs::write(root.join(REFERENCES), NO_NAMES).expect("writes"), "references-empty", ""),
        ("gone", |root| fs::remove_file(root.join(REFERENCES)).expect("removes"), "references-missing", "names"),
        (
            "links",
            |root| fs::remove_dir_all(root.join("overlay2/l")).expect("removes"),
            "driver-links-missing",
            "start",
        ),
    ];
    for (what, damage, code, effect) in cases {
        let temp = temp_dir();
        let root = temp.path().join("root");
        unpack("28-overlay2", &root);
        damage(&root);
        let (exit, document) = verify(&root, &["--quick"]);
        let found = finding(&document, code);
        // A file without names may be what was wanted: that is a warning.
        let wanted = (if effect.is_empty() { 0 } else { 3 }, effect);
        assert_eq!((exit, text(&found["breaks"][0], "effect")), wanted, "{what}: {found:#}");
        let run = ["run", "--rm", "--network", "none", "--pull", "never", "nginx:alpine", "true"];
        match Engine::try_start("28", "overlay2", temp.path()) {
            Err(_) => assert_eq!(effect, "daemon", "{what}"),
            Ok(engine) => {
                assert_ne!(effect, "daemon", "{what}");
                let is_named = !engine.docker(&["image", "ls", "-q", "nginx:alpine"]).is_empty();
                assert_eq!(is_named, effect == "start", "{what}");
                assert!(!engine.try_docker(&run, std::process::Stdio::null()).status.success(), "{what}");
                engine.stop();
            }
        }
        let _ = crate::support::repair::repair(&root, &["-y"]);
        assert_eq!(verify(&root, &["--quick"]).0, 0, "{what}");
        let engine = Engine::start("28", "overlay2", temp.path());
        engine.docker(&run);
        engine.stop();
    }
}

#[test]
fn settings_that_daemon_28_crashes_on() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    fs::write(container(&root, "changed").join("hostconfig.json"), "null\n").expect("writes");
    let (code, document) = verify(&root, &["--quick"]);
    assert_eq!((code, document["summary"]["broken_containers"].as_u64()), (3, Some(4)), "{document:#}");
    finding(&document, "container-host-config-null");
    let said = Engine::try_start("28", "overlay2", temp.path()).expect_err("it crashes");
    assert!(said.contains("did not come up"), "{said}");
}

#[test]
fn containers_that_daemon_28_leaves_out() {
    host_configs("28", false);
}

#[test]
fn containers_that_daemon_20_leaves_out() {
    host_configs("20", true);
}

/// A size that is not that of the layer's files is a warning.
#[test]
fn a_wrong_size_of_a_layer() {
    let temp = temp_dir();
    unpack("28-overlay2", temp.path());
    let layerdb = temp.path().join("image/overlay2/layerdb/sha256");
    for entry in fs::read_dir(&layerdb).expect("layerdb") {
        fs::write(entry.expect("a layer").path().join("size"), "123456789012").expect("writes");
    }
    let (code, document) = verify(temp.path(), &[]);
    let sizes = findings(&document).iter().filter(|found| text(found, "code") == "layer-size").count();
    // Of two of its layers no greatest size is known.
    assert_eq!((code, sizes), (0, fs::read_dir(&layerdb).expect("layerdb").count() - 2));
}

/// Builds an image in two stages, of which only the build cache has the first.
fn build(engine: &Engine, context: &Path, name: &str) -> bool {
    let dockerfile = format!("FROM scratch AS a\nCOPY x /x\nFROM scratch\nCOPY --from=a /x /{name}\n");
    fs::create_dir_all(context).expect("a directory");
    fs::write(context.join("x"), "x").expect("writes");
    fs::write(context.join("Dockerfile"), dockerfile).expect("writes");
    engine.buildkit(context).status.success()
}

/// Directories that only BuildKit names are removed: a build that needs one fails, and after the prune none does.
fn build_cache(version: &'static str) {
    let temp = temp_dir();
    let (root, context) = (temp.path().join("root"), temp.path().join("context"));
    let engine = Engine::start(version, "overlay2", temp.path());
    assert!(build(&engine, &context, "y"));
    engine.stop();
    assert_eq!(verify(&root, &[]).0, 0);
    let layerdb = root.join("image/overlay2/layerdb/sha256");
    let layers: Vec<String> = fs::read_dir(layerdb)
        .expect("layerdb")
        .map(|entry| fs::read_to_string(entry.expect("a layer").path().join("cache-id")).expect("a name"))
        .collect();
    for entry in fs::read_dir(root.join("overlay2")).expect("the home") {
        let entry = entry.expect("a directory");
        let name = entry.file_name().into_string().expect("text");
        if name != "l" && !layers.contains(&name) {
            fs::remove_dir_all(entry.path()).expect("removes");
        }
    }
    let (code, document) = verify(&root, &[]);
    let found = finding(&document, "build-cache-lost");
    assert_eq!(code, 3);
    assert!(text(found, "evidence").contains("docker builder prune -af"), "{found}");
    let engine = Engine::start(version, "overlay2", temp.path());
    assert!(!build(&engine, &context, "z"), "the build cache is whole");
    engine.docker(&["builder", "prune", "-af"]);
    assert!(build(&engine, &context, "z") && build(&engine, &context, "w"));
    engine.stop();
    assert_eq!(verify(&root, &[]).0, 0);
}

#[test]
fn a_build_cache_that_daemon_28_misses() {
    build_cache("28");
}

#[test]
fn a_build_cache_that_daemon_20_misses() {
    build_cache("20");
}

/// The file that names the directories of the build cache is lost: a build that is all in the cache fails, another one
/// works, and after the prune both do.
fn names_of_build_cache(version: &'static str, state: &str, lose: impl Fn(&Path)) {
    let temp = temp_dir();
    let (root, context) = (temp.path().join("root"), temp.path().join("context"));
    let engine = Engine::start(version, "overlay2", temp.path());
    assert!(build(&engine, &context, "y"));
    engine.stop();
    lose(&root.join("buildkit/snapshots.db"));
    let (code, document) = verify(&root, &[]);
    let bad: Vec<_> = findings(&document).iter().filter(|found| text(found, "severity") != "note").collect();
    assert_eq!((code, bad.len()), (3, 1), "{document:#}");
    assert_eq!(["code", "subject"].map(|part| text(bad[0], part)), ["build-cache-lost", "buildkit/snapshots.db"]);
    let evidence = text(bad[0], "evidence");
    assert!(evidence.starts_with(state) && evidence.contains("docker builder prune -af"), "{evidence}");
    let planned = run(&root, ["repair", "--dry-run"]);
    let planned = String::from_utf8(planned.stdout).expect("text");
    assert!(planned.contains("docker builder prune -af, once Docker runs again"), "{planned}");
    let engine = Engine::start(version, "overlay2", temp.path());
    assert!(build(&engine, &context, "z"), "no build works");
    assert!(!build(&engine, &context, "y"), "the build cache is whole");
    // No image is broken by it.
    assert_eq!(engine.docker(&["images", "--quiet", "--no-trunc"]).lines().count(), 2);
    engine.docker(&["builder", "prune", "-af"]);
    assert!(build(&engine, &context, "y") && build(&engine, &context, "z"));
    engine.stop();
    assert_eq!(verify(&root, &[]).0, 0);
}

#[test]
fn a_build_cache_of_which_daemon_28_lost_the_names() {
    names_of_build_cache("28", "missing, ", |file| fs::remove_file(file).expect("removes"));
}

#[test]
fn a_build_cache_of_which_daemon_20_lost_the_names() {
    names_of_build_cache("20", "empty, ", |file| fs::write(file, "").expect("writes"));
}

/// Makes and removes containers, images and build cache, until told to stop. Returns how often.
fn churn(engine: &Engine, context: &Path, stop: &AtomicBool) -> u32 {
    fs::create_dir_all(context).expect("a directory");
    let null = || std::process::Stdio::null();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            return round;
        }
        fs::write(context.join("x"), round.to_string()).expect("writes");
        fs::write(context.join("Dockerfile"), "FROM nginx:alpine\nCOPY x /x\n").expect("writes");
        let built = engine.buildkit(context);
        let image = String::from_utf8(built.stdout).expect("text");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let _ = engine.try_docker(&["run", "--rm", "--network", "none", image.trim(), "true"], null());
        let _ = engine.try_docker(&["create", "--name", "made", image.trim()], null());
        let _ = engine.try_docker(&["rm", "made"], null());
        let _ = engine.try_docker(&["rmi", image.trim()], null());
        if round % 3 == 0 {
            let _ = engine.try_docker(&["builder", "prune", "-af"], null());
        }
    }
    0
}

/// Beside a daemon that works on the store nothing is called damaged that is only being made or removed; what is damaged is.
/// For 20 seconds, or those that `DOCKPACK_CHURN` says.
#[test]
fn beside_a_daemon_28_that_churns() {
    let seconds = std::env::var("DOCKPACK_CHURN").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    let engine = Engine::start("28", "overlay2", temp.path());
    let stop = AtomicBool::new(false);
    let (rounds, looks) = std::thread::scope(|scope| {
        let churning = [0, 1].map(|number| {
            let (engine, stop) = (&engine, &stop);
            let context = temp.path().join(format!("context-{number}"));
            scope.spawn(move || churn(engine, &context, stop))
        });
        let begun = Instant::now();
        let mut bad = None;
        let mut looks = 0;
        while begun.elapsed() < Duration::from_secs(seconds) && bad.is_none() {
            for arguments in [&[][..], &["--quick"]] {
                let (code, document) = verify(&root, arguments);
                assert!(text(&document, "in_use_by").starts_with("dockerd"), "{document:#}");
                bad = bad.or((code != 0).then_some(document));
                looks += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let rounds: u32 = churning.map(|thread| thread.join().expect("it churns")).iter().sum();
        assert!(bad.is_none(), "{bad:#?}");
        (rounds, looks)
    });
    eprintln!("verified {looks} times beside {rounds} rounds of work");
    assert!(rounds > 1 && looks > 1, "{rounds} rounds, {looks} looks");
    let config = container(&root, "waiting").join("hostconfig.json");
    fs::write(config, "").expect("writes");
    let (code, document) = verify(&root, &["--quick"]);
    assert_eq!(code, 3, "{document:#}");
    finding(&document, "container-host-config-unreadable");
}

/// dockerd mounts a layer for reading alone where `committed` marks it as one that others lie on; without, it needs `work` to
/// save the layer.
#[test]
fn a_layer_without_work_that_daemon_28_saves_or_not() {
    let temp = temp_dir();
    let dir = temp.path().join("engine");
    let root = dir.join("root");
    unpack("28-overlay2", &root);
    let contents = Contents::read(&root, "overlay2");
    let layers = stack(&contents.images[&contents.references["nginx:alpine"]]);
    let (chain, _) = layers.last().expect("a layer");
    let top = root.join("overlay2").join(&contents.layers[chain]);
    fs::remove_dir_all(top.join("work")).expect("removed");
    let (code, document) = verify(&root, &["--quick"]);
    assert_eq!((code, text(finding(&document, "driver-work-needless"), "severity")), (0, "warning"));
    let saved = |is_saved: bool| {
        let engine = Engine::start("28", "overlay2", &dir);
        let archive = temp.path().join("saved.tar");
        let output = engine.try_docker(&["save", "-o", archive.to_str().expect("text"), "nginx:alpine"], Stdio::null());
        assert_eq!(output.status.success(), is_saved, "{}", String::from_utf8_lossy(&output.stderr));
        engine.stop();
    };
    saved(true);

    fs::remove_file(top.join("committed")).expect("removed");
    let (code, document) = verify(&root, &["--quick"]);
    let found = finding(&document, "driver-work-missing");
    assert_eq!((code, text(&found["breaks"][0], "effect")), (3, "save"));
    saved(false);
}
