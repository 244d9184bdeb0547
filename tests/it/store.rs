//! What the readers say of real stores, and of real stores that were damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use dockpack::finding::Code;
use dockpack::id::{CacheId, ImageId};
use dockpack::store::{Snapshot, Store, StrayKind, Unknown};
use proptest::prelude::any;
use proptest::test_runner::TestRunner;
use serde_json::Value;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

fn unpacked(name: &str) -> tempfile::TempDir {
    let temp = tempfile::tempdir().expect("a temp directory");
    let status = Command::new(format!("{FIXTURES}/unpack")).arg(name).arg(temp.path()).status();
    assert!(status.expect("runs").success(), "{name} unpacks");
    temp
}

fn snapshot(root: &Path) -> Snapshot {
    Store::open(root, None).expect("opens").snapshot().expect("reads")
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn id(value: &Value, key: &str) -> ImageId {
    text(value, key).parse().expect("an image ID")
}

/// Returns the driver directory in a path that the engine gave: `<root>/<driver>/<id>/diff`.
fn directory(path: &str) -> CacheId {
    let name = Path::new(path).parent().and_then(Path::file_name).expect("a directory");
    CacheId::parse(name.as_encoded_bytes()).expect("a cache-id")
}

#[test]
fn real_stores_read_as_their_engines_said() {
    for name in ["20-overlay", "20-overlay2", "28-overlay2"] {
        let root = unpacked(name);
        let snapshot = snapshot(root.path());
        let expected = fs::read(format!("{FIXTURES}/stores/{name}.expected.json")).expect("what the engine said");
        let expected: Value = serde_json::from_slice(&expected).expect("JSON");
        assert_eq!(Store::open(root.path(), None).expect("opens").driver().name(), text(&expected, "driver"));
        check_references(&snapshot, &expected);
        check_images(&snapshot, &expected);
        check_containers(&snapshot, &expected);
        assert!(snapshot.findings.is_empty(), "{:#?}", snapshot.findings);
        assert!(snapshot.strays.is_empty() && snapshot.unreadable.is_empty() && snapshot.broken_layers.is_empty());
        assert!(!snapshot.build_records.is_empty() && snapshot.build_records.values().all(|record| record.owned));
        assert_eq!(unowned(&snapshot), [] as [&CacheId; 0], "{name}");
        assert!(!snapshot.distribution.diff_id_by_digest.is_empty());
        assert!(!snapshot.distribution.v2_metadata_by_diff_id.is_empty());
    }
}

fn check_references(snapshot: &Snapshot, expected: &Value) {
    let mut references = BTreeMap::new();
    for image in expected["images"].as_array().expect("images") {
        let (repository, tag, digest) = (text(image, "Repository"), text(image, "Tag"), text(image, "Digest"));
        if tag != "<none>" {
            references.insert(format!("{repository}:{tag}"), id(image, "ID"));
        }
        if digest != "<none>" {
            references.insert(format!("{repository}@{digest}"), id(image, "ID"));
        }
    }
    assert_eq!(snapshot.references, references);
}

fn check_images(snapshot: &Snapshot, expected: &Value) {
    let inspected = expected["inspect"].as_object().expect("images");
    assert_eq!(snapshot.images.len(), inspected.len());
    for said in inspected.values() {
        let image = &snapshot.images[&id(said, "Id")];
        let layers: Vec<_> = image.diff_ids.iter().map(ToString::to_string).collect();
        assert_eq!(Value::from(layers), said["RootFS"]["Layers"]);
        assert_eq!(expected["layers"][text(said, "Id")], said["RootFS"]["Layers"]);
        assert_eq!(image.architecture, text(said, "Architecture"));
        assert_eq!(image.os, text(said, "Os"));
        assert_eq!(image.created.as_deref(), said["Created"].as_str());
        assert_eq!(image.parent.map(|parent| parent.to_string()).unwrap_or_default(), text(said, "Parent"));
        let tagged = image.last_updated.as_deref().unwrap_or(b"0001-01-01T00:00:00Z");
        assert_eq!(tagged, text(&said["Metadata"], "LastTagTime").as_bytes());
        check_stack(snapshot, &image.chain_ids(), said);
    }
}

/// Compares the layers of an image, and their directories, with those that the engine would mount.
fn check_stack(snapshot: &Snapshot, chains: &[dockpack::id::ChainId], said: &Value) {
    let mut size = 0;
    for (index, chain) in chains.iter().enumerate() {
        let layer = &snapshot.layers[chain];
        assert_eq!(layer.parent, index.checked_sub(1).map(|below| chains[below]));
        assert!(layer.has_tar_split && snapshot.driver_dirs.contains_key(&layer.cache_id));
        size += layer.size;
    }
    assert_eq!(said["Size"], size);
    let top = &snapshot.layers[chains.last().expect("a layer")].cache_id;
    let mounted = &said["GraphDriver"]["Data"];
    let upper = mounted["UpperDir"].as_str().or(mounted["RootDir"].as_str()).expect("a directory");
    assert_eq!(*top, directory(upper));
    let lower: Vec<_> = text(mounted, "LowerDir").split(':').filter(|path| !path.is_empty()).map(directory).collect();
    assert_eq!(snapshot.driver_dirs[top].lower, lower);
}

fn check_containers(snapshot: &Snapshot, expected: &Value) {
    let said = expected["containers"].as_array().expect("containers");
    assert_eq!(snapshot.containers.len(), said.len());
    for said in said {
        let (id, container) =
            snapshot.containers.iter().find(|(id, _)| id.as_str() == text(said, "ID")).expect("the container");
        assert_eq!((container.name.as_str(), container.state.as_str()), (text(said, "Names"), text(said, "State")));
        assert_eq!(container.driver, text(expected, "driver"));
        assert!(container.readable && container.image_mounts.is_empty());
        let mount = &snapshot.mounts[id];
        let init = mount.init_id.as_ref().expect("an init layer");
        assert!(snapshot.driver_dirs.contains_key(mount.mount_id.as_ref().expect("a directory")));
        assert!(snapshot.driver_dirs.contains_key(init) && init.as_str().ends_with("-init"));
        let image = container.image.and_then(|image| snapshot.images.get(&image));
        assert!(image.is_none_or(|image| image.top() == mount.parent));
    }
}

/// Returns directories of the driver that nothing names.
fn unowned(snapshot: &Snapshot) -> Vec<&CacheId> {
    let layers = snapshot.layers.values().map(|layer| &layer.cache_id);
    let mounts = snapshot.mounts.values().flat_map(|mount| [&mount.mount_id, &mount.init_id]).flatten();
    let builds = snapshot.build_records.values().flat_map(|record| &record.dirs);
    let named: BTreeSet<_> = layers.chain(mounts).chain(builds).collect();
    snapshot.driver_dirs.keys().filter(|id| !named.contains(id)).collect()
}

#[test]
fn the_store_of_docker_17_03() {
    let root = unpacked("seed-17.03-overlay");
    let snapshot = snapshot(root.path());
    let nginx = &snapshot.images[&snapshot.references["nginx:alpine"]];
    let top = nginx.top().expect("layers");
    assert_eq!(top.hex(), "1da0e48557625a4d36d61f73e19171eafed4d7f983fb0f733598abdb67a05ebf");
    assert!(snapshot.layers.contains_key(&top));
    let container = snapshot.containers.values().next().expect("a container");
    assert_eq!((container.name.as_str(), container.driver.as_str()), ("nginx", "overlay"));
    let mount = snapshot.mounts.values().next().expect("a mount");
    assert_eq!(mount.parent, Some(top));
    let lower = &snapshot.driver_dirs[mount.mount_id.as_ref().expect("a directory")].lower;
    assert_eq!(*lower, [snapshot.layers[&top].cache_id.clone()]);
    assert!(snapshot.findings.iter().all(|finding| finding.code == Code::LayerTarSplitMissing));
}

/// What one defect in a store makes the readers say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    codes: BTreeSet<&'static str>,
    strays: Vec<StrayKind>,
    unknown: Vec<Unknown>,
    broken: usize,
}

fn said(root: &Path) -> Said {
    let snapshot = snapshot(root);
    Said {
        codes: snapshot.findings.iter().map(|finding| finding.code.name()).collect(),
        strays: snapshot.strays.iter().map(|stray| stray.kind).collect(),
        unknown: snapshot.unreadable.iter().map(|unreadable| unreadable.what).collect(),
        broken: snapshot.broken_layers.len(),
    }
}

#[test]
fn each_defect_is_said() {
    let root = unpacked("28-overlay2");
    let at = |path: &str| root.path().join(path);
    let before = snapshot(root.path());
    let bk = &before.images[&before.references["bk:1"]];
    let chains = bk.chain_ids();
    let entry = |index: usize| format!("image/overlay2/layerdb/sha256/{}", chains[index].hex());
    let dir = |index: usize| format!("overlay2/{}", before.layers[&chains[index]].cache_id);
    let above_second = before.layers.keys().filter(|chain| is_above(&before, **chain, chains[1])).count();
    let container = before.containers.keys().next().expect("a container");
    let config = format!("image/overlay2/imagedb/content/sha256/{}", before.references["bk:1"].hex());
    let untagged = before.images.keys().find(|id| !before.references.values().any(|tagged| tagged == *id));
    let untagged = format!("image/overlay2/imagedb/content/sha256/{}", untagged.expect("an image").hex());
    let link = before.driver_dirs[&before.layers[&chains[1]].cache_id].link.clone().expect("a short name");
    let hex = "0".repeat(64);
    let removing = format!("image/overlay2/layerdb/sha256/{hex}-{hex}-removing");

    // Each: what is written where (`None`: removed), and what is to be said.
    type Defect<'d> = (&'d str, Option<&'d [u8]>, &'d [&'static str], &'d [StrayKind], &'d [Unknown], usize);
    let defects: &[Defect<'_>] = &[
        ("image/overlay2/repositories.json", Some(b""), &["references-unreadable"], &[], &[Unknown::References], 0),
        ("image/overlay2/repositories.json", None, &["references-empty"], &[], &[], 0),
        (
            "image/overlay2/repositories.json",
            Some(br#"{"Repositories":{"a":{"a:1":"x"}}}"#),
            &["reference-invalid", "references-empty"],
            &[],
            &[],
            0,
        ),
        ("image/overlay2/.tmp-repositories.json123", Some(b""), &[], &[StrayKind::TempFile], &[], 0),
        ("image/overlay2/surprise", Some(b""), &["unexpected-entry"], &[], &[], 0),
        (
            &config,
            Some(b"{}"),
            &["image-invalid", "image-unreadable"],
            &[StrayKind::InvalidImage],
            &[Unknown::Images],
            0,
        ),
        (&untagged, Some(b""), &["image-invalid"], &[StrayKind::InvalidImage], &[], 0),
        (&config, None, &[], &[StrayKind::MetadataWithoutContent], &[], 0),
        (&format!("{}/diff", entry(1)), None, &["layer-not-loadable"], &[], &[], above_second),
        (&format!("{}/cache-id", entry(1)), Some(b"\n"), &["layer-not-loadable"], &[], &[], above_second),
        (&format!("{}/size", entry(1)), Some(b"12\n"), &["layer-not-loadable"], &[], &[], above_second),
        (&format!("{}/parent", entry(1)), Some(b"sha256:"), &["layer-not-loadable"], &[], &[], above_second),
        (&format!("{}/parent", entry(1)), None, &["layer-chain-mismatch"], &[], &[], 0),
        (&format!("{}/tar-split.json.gz", entry(1)), None, &["layer-tar-split-missing"], &[], &[], 0),
        (
            &format!("{}/cache-id", entry(1)),
            Some(before.layers[&chains[0]].cache_id.as_str().as_bytes()),
            &["layer-cache-id-shared"],
            &[],
            &[],
            0,
        ),
        (&format!("{removing}/cache-id"), Some(b"abc"), &[], &[], &[], 1),
        ("image/overlay2/layerdb/sha256/odd", Some(b""), &["unexpected-entry"], &[], &[], 0),
        (&format!("image/overlay2/layerdb/sha256/{hex}"), Some(b""), &["layer-not-loadable"], &[], &[], 1),
        ("image/overlay2/layerdb/tmp/write-set-1/cache-id", Some(b"abc"), &[], &[StrayKind::WriteSet], &[], 0),
        (&format!("image/overlay2/layerdb/mounts/{container}/mount-id"), None, &["mount-not-loadable"], &[], &[], 0),
        (
            &format!("containers/{container}/config.v2.json"),
            Some(b"{"),
            &["container-unreadable"],
            &[],
            &[Unknown::Containers],
            0,
        ),
        (&format!("containers/{container}/.tmp-config.v2.json1"), Some(b"{"), &[], &[StrayKind::TempFile], &[], 0),
        (&format!("{}/link", dir(1)), Some(b""), &["driver-link-lost"], &[], &[], 0),
        (&format!("{}/link", dir(1)), None, &["driver-link-lost"], &[], &[], 0),
        (&format!("overlay2/l/{link}"), None, &["driver-short-name-lost"], &[], &[], 0),
        (&format!("{}/lower", dir(1)), Some(b"l/"), &["driver-unreadable"], &[], &[Unknown::DriverDirs], 0),
        (&format!("{}/lower", dir(1)), Some(b"l/NOWHERE"), &["driver-lower-lost"], &[], &[], 0),
        ("overlay2/check-overlayfs-support1/x", Some(b""), &[], &[StrayKind::SelfTest], &[], 0),
        ("overlay2/odd.name/x", Some(b""), &["unexpected-entry"], &[], &[], 0),
        ("tmp-old/x", Some(b""), &[], &[StrayKind::OldTemp], &[], 0),
        ("buildkit/snapshots.db", Some(&[0; 9000]), &["buildkit-unreadable"], &[], &[Unknown::BuildKit], 0),
        ("buildkit/metadata_v2.db", Some(b"bolt"), &["buildkit-unreadable"], &[], &[Unknown::BuildKit], 0),
        ("buildkit/containerdmeta.db", Some(b"bolt"), &["buildkit-unreadable"], &[], &[Unknown::BuildKit], 0),
    ];
    for (path, content, codes, strays, unknown, broken) in defects {
        let undo = replace(&at(path), *content);
        let expected = Said {
            codes: codes.iter().copied().collect(),
            strays: strays.to_vec(),
            unknown: unknown.to_vec(),
            broken: *broken,
        };
        assert_eq!(said(root.path()), expected, "{path} becomes {content:?}");
        undo();
        assert_eq!(said(root.path()), Said::default(), "{path} is as it was");
    }
}

fn is_above(snapshot: &Snapshot, chain: dockpack::id::ChainId, below: dockpack::id::ChainId) -> bool {
    let mut next = Some(chain);
    while let Some(chain) = next {
        if chain == below {
            return true;
        }
        next = snapshot.layers[&chain].parent;
    }
    false
}

/// Writes or removes a file, with the directories it needs; gives what makes it as it was.
fn replace(path: &Path, content: Option<&[u8]>) -> impl FnOnce() + use<> {
    let path = path.to_owned();
    let missing = path.ancestors().skip(1).take_while(|dir| !dir.exists()).last().map(Path::to_owned);
    let target = fs::read_link(&path);
    let old = fs::read(&path);
    match content {
        Some(content) => {
            fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
            fs::write(&path, content).expect("writes");
        }
        None => fs::remove_file(&path).expect("removes"),
    }
    move || match (missing, target, old) {
        (Some(missing), ..) => fs::remove_dir_all(missing).expect("removes"),
        (None, Ok(target), _) => std::os::unix::fs::symlink(target, path).expect("links"),
        (None, Err(_), Ok(old)) => fs::write(path, old).expect("writes"),
        (None, Err(_), Err(_)) => fs::remove_file(path).expect("removes"),
    }
}

#[test]
fn links_out_of_the_store_are_not_followed() {
    let root = unpacked("28-overlay2");
    let content = root.path().join("image/overlay2/imagedb/content");
    let outside = tempfile::tempdir().expect("a temp directory");
    fs::rename(content.join("sha256"), outside.path().join("sha256")).expect("moves");
    std::os::unix::fs::symlink(outside.path().join("sha256"), content.join("sha256")).expect("links");
    let snapshot = snapshot(root.path());
    assert!(snapshot.images.is_empty());
    assert_eq!(snapshot.unreadable.iter().map(|unreadable| unreadable.what).collect::<Vec<_>>(), [Unknown::Images]);
}

/// Files of a store that the readers read.
fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).expect("lists") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a type");
        match entry.file_name().as_encoded_bytes() {
            b"diff" if kind.is_dir() => {}
            _ if kind.is_dir() => files(&entry.path(), found),
            _ if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

#[test]
fn no_damage_makes_the_readers_panic() {
    let root = unpacked("20-overlay2");
    let mut paths = Vec::new();
    for part in ["image", "containers", "buildkit", "overlay2"] {
        files(&root.path().join(part), &mut paths);
    }
    paths.sort();
    let hit = (0..paths.len(), any::<Vec<u8>>(), 0..5_u8);
    let config = proptest::test_runner::Config { max_shrink_iters: 0, cases: 100, ..Default::default() };
    let result = TestRunner::new(config).run(&proptest::collection::vec(hit, 1..20), |hits| {
        let old: BTreeMap<_, _> =
            hits.iter().map(|(file, ..)| (*file, fs::read(&paths[*file]).expect("reads"))).collect();
        for (file, bytes, how) in &hits {
            damage(&paths[*file], &old[file], bytes, *how);
        }
        let _ = snapshot(root.path());
        for (file, old) in old {
            let _ = fs::remove_dir(&paths[file]);
            let _ = fs::remove_file(&paths[file]);
            fs::write(&paths[file], old).expect("writes");
        }
        Ok(())
    });
    result.expect("no panic");
    assert!(snapshot(root.path()).findings.is_empty(), "all is as it was");
}

/// Puts something else in the place of a file.
fn damage(path: &Path, old: &[u8], bytes: &[u8], how: u8) {
    let at = bytes.len() * 7919 % (old.len() + 1);
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir(path);
    let done = match how {
        0 => fs::create_dir(path),
        1 => std::os::unix::fs::symlink("/etc/passwd", path),
        2 => Ok(()),
        3 => fs::write(path, &old[..at]),
        _ => fs::write(path, [&old[..at], bytes, &old[(at + bytes.len()).min(old.len())..]].concat()),
    };
    done.expect("damages");
}
