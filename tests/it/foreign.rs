//! Archives that other tools wrote: what becomes of them, held against what a real Docker makes of the same ones.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::archive::{Members, gzip, tar_of};
use crate::support::command::{dockpack, load, outcome, run, save};
use crate::support::engine::Engine;
use crate::support::foreign;
use crate::support::registry::Registry;
use crate::support::store::{
    Contents, assert_nothing_else, assert_sound, dirs, names, project, sha256, stack, temp_dir, unpack,
};
use crate::support::tree::{Allow, Aspect, Deviation, Tree};

/// Runs a program to its end and returns what it wrote.
#[track_caller]
fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn entry(root: &Path, driver: &str, chain: &str) -> PathBuf {
    root.join("image").join(driver).join("layerdb/sha256").join(chain)
}

/// The tree of a layer as the driver keeps it.
fn tree(root: &Path, driver: &str, cache_id: &str) -> PathBuf {
    let dir = dirs(root, driver).join(cache_id);
    match driver {
        "overlay2" => dir.join("diff"),
        "overlay" => dir.join("root"),
        _ => dir,
    }
}

/// Writes the images of `ci/layer_tars.py`, every attribute, name and dialect of tar that Docker accepts, as
/// an archive of the form that Docker 20.10 writes.
fn nasty(dir: &Path) -> PathBuf {
    let (unpacked, archive) = (dir.join("nasty"), dir.join("nasty.tar"));
    tool(text(&project("ci/layer_tars.py")), &["tiny", "/bin/busybox", text(&unpacked)]);
    tool("tar", &["-C", text(&unpacked), "-cf", text(&archive), "."]);
    archive
}

/// Lines of a layer's tar-split, with neighbouring segments joined: where one is cut is no content.
fn tar_split(root: &Path, driver: &str, chain: &str) -> Vec<(Vec<u8>, String)> {
    let file = File::open(entry(root, driver, chain).join("tar-split.json.gz")).expect("tar-split");
    let mut lines = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut lines).expect("gzip");
    let mut found: Vec<(Vec<u8>, String)> = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(value["position"], number);
        if value["type"] == 2 {
            use base64::Engine as _;
            let bytes = value["payload"].as_str().map(|text| base64::prelude::BASE64_STANDARD.decode(text));
            let bytes = bytes.map_or_else(Vec::new, |bytes| bytes.expect("base64"));
            match found.last_mut() {
                Some((segment, file)) if file.is_empty() => segment.extend(bytes),
                _ if bytes.is_empty() => {}
                _ => found.push((bytes, String::new())),
            }
        } else {
            found.push((Vec::new(), line.rsplit_once(",\"position\"").expect("a position").0.to_owned()));
        }
    }
    found
}

/// Tells whether a path in a layer's directory is of what the driver keeps around the tree.
fn is_around(driver: &str, path: &[u8]) -> bool {
    driver != "vfs" && !path.contains(&b'/')
}

/// Tells whether a deviation is of what Docker makes up as it unpacks: the time of a directory that has no entry, and
/// with the naive drivers to 20.10 its mode too.
fn is_made_up(deviation: &Deviation, since: SystemTime, driver: &str, wanted: &Path, path: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let at = wanted.join(std::ffi::OsStr::from_bytes(path));
    let found = fs::symlink_metadata(at).expect("a node");
    let is_new = found.is_dir() && found.modified().expect("a time") >= since;
    is_new && (deviation.aspect == Aspect::Mtime || deviation.aspect == Aspect::Mode && driver != "overlay2")
}

/// The same archive, loaded by Docker and by dockpack, gives the same store but for names that are random and times of
/// unpacking.
fn as_docker_loads_it(version: &'static str, driver: &'static str) {
    let temp = temp_dir();
    let archive = nasty(temp.path());
    let since = SystemTime::now() - Duration::from_secs(1);
    let engine = Engine::start(version, driver, &temp.path().join("lab"));
    let output = engine.try_docker(&["load"], File::open(&archive).expect("the archive"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    engine.stop();
    let (docker, ours) = (temp.path().join("lab/root"), temp.path().join("ours"));
    fs::create_dir(&ours).expect("a directory");
    let _ = run(&ours, ["--driver", driver, "load", "-i", text(&archive)]).done();

    let (wanted, found) = (Contents::read(&docker, driver), Contents::read(&ours, driver));
    assert_eq!(wanted.images, found.images);
    assert_eq!(wanted.references, found.references);
    assert_eq!(Vec::from_iter(wanted.layers.keys()), Vec::from_iter(found.layers.keys()));
    let mut deviations = Vec::new();
    for (chain, cache_id) in &wanted.layers {
        let entries = [&docker, &ours].map(|root| entry(root, driver, chain));
        for file in ["diff", "size", "parent"] {
            let [one, other] = entries.each_ref().map(|entry| fs::read_to_string(entry.join(file)).ok());
            assert_eq!(one, other, "{file} of {chain}");
        }
        let records = entries.map(|entry| Tree::read(&entry).without_times().only(|path| path != b"cache-id"));
        let records = records[0].deviations(&records[1], Allow::NOTHING);
        let is_size =
            |one: &Deviation| matches!(one.aspect, Aspect::Content | Aspect::Size) && one.path == b"tar-split.json.gz";
        assert!(records.iter().all(is_size), "{records:?}");
        let lines = [&docker, &ours].map(|root| tar_split(root, driver, chain));
        assert_eq!(lines[0].len(), lines[1].len(), "tar-split of {chain}");
        for (one, other) in lines[0].iter().zip(&lines[1]) {
            assert!(one == other, "tar-split of {chain}: {} {}", one.1, other.1);
        }
        let trees = [tree(&docker, driver, cache_id), tree(&ours, driver, &found.layers[chain])];
        // Docker 20.10 leaves out an attribute without a value, 28 sets it.
        let is_empty =
            |one: &Deviation| version == "20" && (&one.path[..], one.aspect) == (b"xattrs/binary", Aspect::Xattrs);
        let made_up = |one: &Deviation| is_made_up(one, since, driver, &trees[0], &one.path) || is_empty(one);
        let all = Tree::read(&trees[0]).deviations(&Tree::read(&trees[1]), Allow::REBUILT);
        deviations.extend(all.into_iter().filter(|one| !made_up(one)).map(|one| format!("{chain}: {one}")));
        let [one, other] = [dirs(&docker, driver).join(cache_id), dirs(&ours, driver).join(&found.layers[chain])]
            .map(|dir| Tree::read(&dir).without_times().only(|path| is_around(driver, path)));
        let around = one.deviations(&other, Allow::NOTHING);
        deviations.extend(
            around.into_iter().filter(|one| one.aspect != Aspect::Content).map(|one| format!("{chain}: {one}")),
        );
    }
    assert!(deviations.is_empty(), "{}:\n{}", deviations.len(), deviations[..deviations.len().min(40)].join("\n"));
}

#[test]
fn daemon_20_overlay_loads_the_same() {
    as_docker_loads_it("20", "overlay");
}

#[test]
fn daemon_20_overlay2_loads_the_same() {
    as_docker_loads_it("20", "overlay2");
}

#[test]
fn daemon_20_vfs_loads_the_same() {
    as_docker_loads_it("20", "vfs");
}

#[test]
fn daemon_28_overlay2_loads_the_same() {
    as_docker_loads_it("28", "overlay2");
}

/// Go's own program rebuilds every layer, also of the odd tars, out of the tar-split that is made here.
#[test]
fn tar_split_rebuilds_every_layer() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    fs::create_dir(&root).expect("a directory");
    let _ = load(&root, &nasty(temp.path()), &[]);
    let contents = Contents::read(&root, "overlay2");
    assert!(contents.layers.len() > 15, "{}", contents.layers.len());
    for (chain, cache_id) in &contents.layers {
        let (input, output) =
            (entry(&root, "overlay2", chain).join("tar-split.json.gz"), temp.path().join("layer.tar"));
        let path = tree(&root, "overlay2", cache_id);
        tool("tar-split", &["asm", "--input", text(&input), "--output", text(&output), "--path", text(&path)]);
        let diff = fs::read_to_string(entry(&root, "overlay2", chain).join("diff")).expect("a diff ID");
        assert_eq!(format!("sha256:{}", sha256(&fs::read(&output).expect("a tar"))), diff, "{chain}");
    }
    let report = run(&root, ["verify"]);
    assert_eq!(report.status.code(), Some(0), "{}", String::from_utf8_lossy(&report.stdout));
    assert_nothing_else(&root, "overlay2");
}

/// Every form of archive that tools of today and of old write of the same images: all give the same store, and a daemon takes it for
/// its own.
#[test]
fn daemon_lists_and_runs_what_every_tool_wrote() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    let nasty = nasty(temp.path());
    let mut archives: Vec<PathBuf> = vec![nasty.clone()];
    for (version, driver) in [("20", "overlay2"), ("28", "overlay2"), ("28", "containerd")] {
        let engine = Engine::start(version, driver, &at(&format!("lab-{version}-{driver}")));
        let output = engine.try_docker(&["load"], File::open(&nasty).expect("the archive"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let saved = at(&format!("docker-{version}-{driver}.tar"));
        engine.docker(&["save", "-o", text(&saved), "alpine:3.4", "nasty:1", "nasty:2"]);
        engine.stop();
        archives.push(saved);
    }
    let docker = format!("docker-archive:{}", text(&archives[2]));
    // Skopeo writes one image at a time, into an archive of Docker's or into one of OCI's with compressed layers.
    for (name, transport) in
        [("skopeo-docker.tar", "docker-archive"), ("skopeo-oci.tar", "oci-archive"), ("skopeo-layout", "oci")]
    {
        for tag in ["alpine:3.4", "nasty:1", "nasty:2"] {
            if transport == "oci" || tag == "nasty:1" {
                let from = format!("{docker}:{tag}");
                tool(
                    "skopeo",
                    &["copy", "-q", "--insecure-policy", &from, &format!("{transport}:{}:{tag}", text(&at(name)))],
                );
            }
        }
        archives.push(at(name));
    }
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            "--insecure-policy",
            "--dest-compress-format",
            "zstd",
            "--dest-compress",
            &format!("{docker}:nasty:1"),
            &format!("oci:{}:nasty:1", text(&at("zstd-layout"))),
        ],
    );
    archives.push(at("zstd-layout"));
    for (program, name) in [("gzip", "packed.tar.gz"), ("zstd", "packed.tar.zst")] {
        let packed = File::create(at(name)).expect("a file");
        let status = Command::new(program).arg("-c").arg(&archives[1]).stdout(packed).status();
        assert!(status.expect("it runs").success());
        archives.push(at(name));
    }

    let reference = at("reference");
    fs::create_dir(&reference).expect("a directory");
    let _ = load(&reference, &nasty, &[]);
    let wanted = Contents::read(&reference, "overlay2");
    for (number, archive) in archives.iter().enumerate() {
        let root = at(&format!("root-{number}"));
        fs::create_dir(&root).expect("a directory");
        let listed = outcome(dockpack(&root, ["ls", "-a", "-q", "--no-trunc", "-i", text(archive)])).done();
        let _ = load(&root, archive, &[]);
        assert_nothing_else(&root, "overlay2");
        assert_sound(&root, "overlay2");
        let found = Contents::read(&root, "overlay2");
        assert!(!found.images.is_empty());
        let name = archive.display();
        // Skopeo writes a configuration of OCI's form out of one of Docker's: the same layers, another ID.
        if !text(archive).contains("-oci.tar") && !text(archive).contains("-layout") {
            for (id, config) in &found.images {
                assert_eq!(wanted.images.get(id), Some(config), "{name}: {id}");
            }
        }
        for (reference, id) in &found.references {
            let layers =
                [(&wanted, &wanted.references[reference]), (&found, id)].map(|(all, id)| stack(&all.images[id]));
            assert_eq!(layers[0], layers[1], "{name}: {reference}");
        }
        let many = !text(archive).contains("skopeo-docker")
            && !text(archive).contains("skopeo-oci")
            && !text(archive).contains("zstd-layout");
        assert_eq!(found.references.len(), if many { 3 } else { 1 }, "{name}");
        assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), found.images.len(), "{name}");
        for (chain, cache_id) in &found.layers {
            assert_eq!(wanted.layers.get(chain), Some(cache_id), "{name}");
            let trees = [&reference, &root].map(|root| Tree::read(&tree(root, "overlay2", cache_id)));
            let deviations = trees[0].deviations(&trees[1], Allow::NOTHING);
            let is_time = |one: &Deviation| one.aspect == Aspect::Mtime;
            assert!(deviations.iter().all(is_time), "{name}: {deviations:?}");
            let entries = [&reference, &root].map(|root| entry(root, "overlay2", chain));
            for file in ["size", "diff", "tar-split.json.gz"] {
                let [one, other] = entries.each_ref().map(|entry| fs::read(entry.join(file)).expect("a file"));
                assert!(one == other, "{name}: {file} of {chain}");
            }
        }
        let report = run(&root, ["verify", "-i", text(archive)]);
        assert_eq!(report.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&report.stdout));
    }
    // From a pipe it is the same, and nothing of it is left.
    for archive in archives.iter().filter(|archive| archive.is_file()) {
        let root = temp_dir();
        let mut command = dockpack(root.path(), ["load"]);
        command.pipe_stdin(archive).expect("an archive");
        let _ = outcome(command).done();
        assert_nothing_else(root.path(), "overlay2");
        assert_sound(root.path(), "overlay2");
    }

    // umoci puts a layer of its own on top.
    let layer = at("layer.tar");
    fs::write(at("added"), "by umoci").expect("a file");
    tool("tar", &["-C", text(temp.path()), "-cf", text(&layer), "added"]);
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            "--insecure-policy",
            &format!("{docker}:alpine:3.4"),
            &format!("oci:{}:one", text(&at("umoci"))),
        ],
    );
    tool("umoci", &["raw", "add-layer", "--image", &format!("{}:one", text(&at("umoci"))), text(&layer)]);
    let lab = at("lab");
    fs::create_dir_all(lab.join("root")).expect("directories");
    let said = load(&lab.join("root"), &at("umoci"), &[]);
    let said = String::from_utf8(said.stdout).expect("text");
    let id = said.trim().strip_prefix("Loaded image ID: ").expect("an image without a name");
    let _ = load(&lab.join("root"), &archives[3], &[]);
    let engine = Engine::start("28", "overlay2", &lab);
    assert_eq!(engine.docker(&["run", "--rm", "--network", "none", id, "cat", "/added"]), "by umoci");
    for tag in ["alpine:3.4", "nasty:1", "nasty:2"] {
        let id = engine.docker(&["image", "inspect", "--format", "{{.Id}}", tag]);
        assert_eq!(id.trim_end().trim_start_matches("sha256:"), wanted.references[tag]);
        engine.docker(&["run", "--rm", "--network", "none", tag, "true"]);
    }
    // It gives back every layer, byte for byte.
    let saved = at("again.tar");
    engine.docker(&["save", "-o", text(&saved), "alpine:3.4", "nasty:1", "nasty:2", id]);
    for line in engine.log().lines() {
        let complains = ["not restoring", "layer does not exist", "failed to load layer", "could not verify"];
        assert!(!complains.iter().any(|words| line.contains(words)), "{line}");
    }
    engine.stop();
    let report = run(&lab.join("root"), ["verify", "-i", text(&saved)]);
    assert_eq!(report.status.code(), Some(0), "{}", String::from_utf8_lossy(&report.stdout));
}

/// Archives from before Docker 1.10 have no `manifest.json`: Docker 28 still makes images of them, with IDs that come from
/// what it makes of their configurations. (Docker 20.10 writes a step's author before its command, so an image that has one
/// has another ID there.)
#[test]
fn daemon_28_gives_images_of_version_1_the_same_ids() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    unpack("20-overlay2", &at("lab/root"));
    let engine = Engine::start("20", "overlay2", &at("lab"));
    let saved = at("saved.tar");
    engine.docker(&["save", "-o", text(&saved), "nginx:alpine", "alpine:3.4", "rebuilt:latest"]);
    engine.stop();
    // What is left without the newer documents is what Docker 1.9 wrote.
    let old = at("old.tar");
    fs::create_dir(at("old")).expect("a directory");
    tool("tar", &["-C", text(&at("old")), "-xf", text(&saved)]);
    for name in fs::read_dir(at("old")).expect("members").map(|entry| entry.expect("a member").path()) {
        if name.extension().is_some() {
            fs::remove_file(name).expect("removed");
        }
    }
    tool("tar", &["-C", text(&at("old")), "-cf", text(&old), "."]);
    let engine = Engine::start("28", "overlay2", &at("docker"));
    let output = engine.try_docker(&["load"], File::open(&old).expect("the archive"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    engine.stop();
    fs::create_dir(at("ours")).expect("a directory");
    let _ = load(&at("ours"), &old, &[]);
    let [wanted, found] = ["docker/root", "ours"].map(|root| Contents::read(&at(root), "overlay2"));
    assert_eq!(wanted.references, found.references);
    assert_eq!(Vec::from_iter(wanted.images.keys()), Vec::from_iter(found.images.keys()));
    let metadata = |root: &str| {
        let dir = at(root).join("image/overlay2/imagedb/metadata/sha256");
        Tree::read(&dir).without_times()
    };
    let deviations = metadata("docker/root").deviations(&metadata("ours"), Allow::NOTHING);
    assert!(deviations.is_empty(), "{deviations:?}");
    // Compressed, and from a pipe, the layers have to be digested before it is known what they are.
    fs::write(at("old.tar.gz"), gzip(&fs::read(&old).expect("the archive"))).expect("written");
    let _ = load(&at("ours"), &at("old.tar.gz"), &[]);
    let root = temp_dir();
    let mut command = dockpack(root.path(), ["load"]);
    command.pipe_stdin(&old).expect("an archive");
    let _ = outcome(command).done();
    assert_eq!(Contents::read(root.path(), "overlay2").references, wanted.references);
}

/// The way on that the README shows: from a stopped store into a registry, and out of it into another store.
#[test]
fn through_a_registry() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    unpack("28-overlay2", &at("source"));
    save(&at("source"), &["bk:1"], &at("bk.tar"));
    save(&at("source"), &["nasty:2"], &at("nasty/"));
    let registry = Registry::start(temp.path());
    let copy = |from: &str, to: &str| {
        tool(
            "skopeo",
            &["copy", "-q", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", from, to],
        );
    };
    let remote = |name: &str| format!("docker://127.0.0.1:{}/{name}", registry.port);
    copy(&format!("oci-archive:{}:bk:1", text(&at("bk.tar"))), &remote("bk:1"));
    copy(&format!("oci:{}:nasty:2", text(&at("nasty"))), &remote("nasty:2"));
    copy(&remote("bk:1"), &format!("oci-archive:{}:bk:1", text(&at("back.tar"))));
    copy(&remote("nasty:2"), &format!("docker-archive:{}:nasty:2", text(&at("back-docker.tar"))));
    fs::create_dir(at("target")).expect("a directory");
    let _ = load(&at("target"), &at("back.tar"), &[]);
    let _ = load(&at("target"), &at("back-docker.tar"), &[]);
    let (wanted, found) = (Contents::read(&at("source"), "overlay2"), Contents::read(&at("target"), "overlay2"));
    for tag in ["bk:1", "nasty:2"] {
        assert_eq!(wanted.references[tag], found.references[tag], "{tag}");
    }
    assert_eq!(found.layers.keys().filter(|chain| !wanted.layers.contains_key(*chain)).count(), 0);
    let report = run(&at("target"), ["verify"]);
    assert_eq!(report.status.code(), Some(0), "{}", String::from_utf8_lossy(&report.stdout));
}

/// An image for several platforms: this host's is loaded, or the one that is asked for.
#[test]
fn platforms() {
    let temp = temp_dir();
    let mut members: Members = Vec::new();
    let mut pointers = Vec::new();
    let platforms = [("amd64", ""), ("arm64", "v8"), ("arm", "v6"), ("arm", "v7"), ("s390x", "")];
    for (architecture, variant) in platforms {
        let layer = foreign::tar(&format!("{architecture}{variant}"));
        let config = foreign::config(architecture, &[sha256(&layer)]);
        let descriptor = |bytes: &[u8]| json!({"digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len()});
        let manifest = json!({"config": descriptor(&config), "layers": [descriptor(&layer)]}).to_string().into_bytes();
        let mut pointer = descriptor(&manifest);
        pointer["platform"] = json!({"os": "linux", "architecture": architecture, "variant": variant});
        pointers.push(pointer);
        // What is for s390x is named and not there, as Docker's containerd store leaves it out.
        if architecture != "s390x" {
            members.extend([layer, config, manifest].map(foreign::blob));
        }
    }
    let about =
        json!({"digest": format!("sha256:{}", sha256(b"x")), "platform": {"os": "unknown", "architecture": "unknown"}});
    pointers.push(about);
    let inner = json!({"schemaVersion": 2, "manifests": pointers}).to_string().into_bytes();
    let name =
        json!({"io.containerd.image.name": "docker.io/library/many:1", "org.opencontainers.image.ref.name": "1"});
    let pointer = json!({"digest": format!("sha256:{}", sha256(&inner)), "size": inner.len(), "annotations": name});
    members.push(foreign::blob(inner));
    members.push(("index.json".to_owned(), json!({"manifests": [pointer]}).to_string().into_bytes()));
    let archive = temp.path().join("many.tar");
    fs::write(&archive, tar_of(members)).expect("written");

    let loaded = |more: &[&str]| {
        let root = temp_dir();
        let outcome = run(root.path(), [&["load", "-i", text(&archive)], more].concat());
        let files: Vec<String> = Contents::read(root.path(), "overlay2")
            .layers
            .values()
            .flat_map(|id| names(&tree(root.path(), "overlay2", id)))
            .collect();
        let references = Contents::read(root.path(), "overlay2").references;
        assert_eq!(outcome.status.success(), references.contains_key("many:1"), "{}", outcome.stderr);
        (files.join(" "), outcome.stderr)
    };
    let host = if cfg!(target_arch = "aarch64") { "arm64v8" } else { "amd64" };
    assert_eq!(loaded(&[]).0, host);
    for (wanted, found) in
        [("linux/arm64", "arm64v8"), ("linux/arm", "armv7"), ("linux/arm/v6", "armv6"), ("linux/arm/v8", "armv7")]
    {
        assert_eq!(loaded(&["--platform", wanted]).0, found, "{wanted}");
    }
    let (files, said) = loaded(&["--platform", "linux/s390x"]);
    assert_eq!(files, "");
    assert!(said.contains("linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64/v8 only"), "{said}");
    let wrong = run(temp.path(), ["load", "-i", text(&archive), "--platform", "arm"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", wrong.stderr);
    let listed = run(temp.path(), ["ls", "--json", "-i", text(&archive)]).done();
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed["images"].as_array().map(Vec::len), Some(4));
    let report = run(temp.path(), ["verify", "-i", text(&archive)]);
    assert_eq!(report.status.code(), Some(0), "{}", String::from_utf8_lossy(&report.stdout));
}

/// A load from a pipe that is interrupted leaves the store as it was or is finished by the next one, and nothing of
/// what it kept stays.
#[cfg(feature = "crash-points")]
#[test]
fn crashes_while_a_pipe_is_loaded() {
    let temp = temp_dir();
    let archive = temp.path().join("some.tar");
    fs::write(&archive, tar_of(foreign::docker(&[foreign::tar("below"), foreign::tar("above")]))).expect("written");
    for point in
        ["foreign:spool", "load:staged", "load:durable", "load:journal", "load:driver-dir", "load:images", "load:done"]
    {
        let root = temp_dir();
        let mut command = dockpack(root.path(), ["load"]);
        command.env("DOCKPACK_CRASH_AT", point).pipe_stdin(&archive).expect("the archive");
        let crashed = outcome(command);
        assert!(!crashed.status.success(), "{point} is not reached");
        assert_sound(root.path(), "overlay2");
        let mut command = dockpack(root.path(), ["load"]);
        command.pipe_stdin(&archive).expect("the archive");
        let _ = outcome(command).done();
        assert_sound(root.path(), "overlay2");
        assert_nothing_else(root.path(), "overlay2");
        assert_eq!(Contents::read(root.path(), "overlay2").images.len(), 1, "{point}");
    }
}

/// An image of more layers than Docker takes is whole, and what else is in the archive can be loaded.
#[test]
fn images_of_too_many_layers() {
    let temp = temp_dir();
    let tars: Vec<Vec<u8>> = (0..126).map(|number| foreign::tar(&format!("file-{number}"))).collect();
    let mut members = foreign::docker(&tars);
    let (_, manifest) = members.pop().expect("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let config = foreign::config("amd64", &[sha256(&tars[0])]);
    let file = format!("{}.json", sha256(&config));
    let small = json!({"Config": file, "RepoTags": ["small:1"], "Layers": ["0/layer.tar"]});
    manifest.as_array_mut().expect("a list").push(small);
    members.extend([(file, config), ("manifest.json".to_owned(), manifest.to_string().into_bytes())]);
    let archive = temp.path().join("deep.tar");
    fs::write(&archive, tar_of(members)).expect("writes");
    let root = temp.path().join("root");
    fs::create_dir(&root).expect("a directory");
    let listed = run(&root, ["ls", "-i", text(&archive)]).done();
    let listed = String::from_utf8(listed.stdout).expect("text");
    assert!(listed.contains("evil") && listed.contains("small"), "{listed}");
    let verified = run(&root, ["verify", "-i", text(&archive)]).done();
    assert!(verified.stderr.contains("127 layers"), "{}", verified.stderr);
    for wanted in [&["evil:1"][..], &[]] {
        let refused = run(&root, [&["load", "--driver", "overlay2", "-i", text(&archive)], wanted].concat()).failed(1);
        assert!(refused.stderr.contains("image evil:1 has 126 layers; Docker takes 125"), "{}", refused.stderr);
    }
    let _ = run(&root, ["load", "--driver", "overlay2", "-i", text(&archive), "small:1"]).done();
    assert_eq!(Contents::read(&root, "overlay2").references.keys().collect::<Vec<_>>(), ["small:1"]);
}
