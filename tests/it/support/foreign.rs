//! Archives made by hand as other tools write them, and what Docker makes of archives.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;

use super::archive::{Entry, Layer, Members, gzip};
use super::store::{Contents, sha256};
use super::tree::{Allow, Aspect, Deviation, Tree};

/// The tar of a layer with one file.
pub(crate) fn tar(name: &str) -> Vec<u8> {
    Layer::new(name, [Entry::file(name, "some content")]).tar
}

/// A configuration for a platform of layers with these digests.
#[must_use]
pub(crate) fn config(architecture: &str, diffs: &[String]) -> Vec<u8> {
    let diffs: Vec<String> = diffs.iter().map(|diff| format!("sha256:{diff}")).collect();
    json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diffs}})
        .to_string()
        .into_bytes()
}

/// An archive as Docker to 24 writes it, of one image: the configuration, the layers, and last what they are.
#[must_use]
pub(crate) fn docker(layers: &[Vec<u8>]) -> Members {
    let config = config("amd64", &layers.iter().map(|tar| sha256(tar)).collect::<Vec<_>>());
    let file = format!("{}.json", sha256(&config));
    let paths: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = json!([{"Config": file, "RepoTags": ["evil:1"], "Layers": paths}]);
    let mut members: Members = vec![(file, config)];
    members.extend(paths.into_iter().zip(layers.iter().cloned()));
    members.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
    members
}

/// An OCI image layout of one image, with layers in gzip.
#[must_use]
pub(crate) fn oci(layers: &[Vec<u8>]) -> Members {
    oci_of(layers.iter().map(|tar| (sha256(tar), gzip(tar))).collect())
}

/// An OCI image layout of one image, of layers with what the configuration says of each.
#[must_use]
pub(crate) fn oci_of(layers: Vec<(String, Vec<u8>)>) -> Members {
    let (diffs, layers): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    let config = config("amd64", &diffs);
    let mut members = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec())];
    let descriptor = |bytes: &[u8]| json!({"digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len()});
    let manifest = json!({"config": descriptor(&config), "layers": layers.iter().map(|layer| descriptor(layer)).collect::<Vec<_>>()});
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor(&manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "evil:1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes();
    for bytes in layers.into_iter().chain([config, manifest]) {
        members.push(blob(bytes));
    }
    members.push(("index.json".to_owned(), index));
    members
}

/// A blob as a member.
#[must_use]
pub(crate) fn blob(bytes: Vec<u8>) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", sha256(&bytes)), bytes)
}

/// Puts members into a tar as sparse files, as GNU tar does with `--sparse --format=posix` in one of its versions of that, and
/// bsdtar by itself.
#[must_use]
pub(crate) fn sparse_tar_of(members: Members, version: &str) -> Vec<u8> {
    const PIECE: usize = 64;
    let member = |(path, content): (String, Vec<u8>)| {
        let (mut map, mut parts) = (Vec::new(), Vec::new());
        for (number, piece) in content.chunks(PIECE).enumerate() {
            if piece.iter().any(|byte| *byte != 0) {
                map.extend([number * PIECE, piece.len()].map(|number| number.to_string()));
                parts.extend(piece);
            }
        }
        assert!(!path.ends_with("layer.tar") || parts.len() < content.len(), "{path} has no hole");
        let length = content.len().to_string();
        let entry = Entry::file("GNUSparseFile.0/member", "").record("GNU.sparse.name", path);
        if version == "0.1" {
            let entry = entry.record("GNU.sparse.size", length).record("GNU.sparse.map", map.join(","));
            // Go does not take it without this.
            let entry = entry.record("GNU.sparse.numblocks", (map.len() / 2).to_string());
            return Entry { content: parts, ..entry };
        }
        let entry = entry.record("GNU.sparse.major", "1").record("GNU.sparse.minor", "0");
        let mut front = format!("{}\n{}\n", map.len() / 2, map.join("\n")).into_bytes();
        front.resize(front.len().next_multiple_of(512), 0);
        front.extend(parts);
        Entry { content: front, ..entry.record("GNU.sparse.realsize", length) }
    };
    Layer::new("sparse", members.into_iter().map(member)).tar
}

/// Fails where the store that dockpack made of archives has another name, another image or another layer than the one that Docker
/// made of the same ones with `overlay2`, or anything else in a layer. `since` is when Docker began.
#[track_caller]
pub(crate) fn assert_same_as_docker(docker: &Path, ours: &Path, since: SystemTime) {
    let (wanted, found) = (Contents::read(docker, "overlay2"), Contents::read(ours, "overlay2"));
    assert_eq!(wanted.references, found.references, "{}", ours.display());
    // Docker keeps the image of an archive that it refuses for a name.
    for (id, config) in &found.images {
        let text = |config: &[u8]| String::from_utf8_lossy(config).into_owned();
        assert_eq!(wanted.images.get(id).map(|config| text(config)), Some(text(config)));
    }
    assert_same_layers(docker, ours, since);
}

/// Fails where a layer of a store is not in the one that Docker made, or holds anything else there.
#[track_caller]
pub(crate) fn assert_same_layers(docker: &Path, ours: &Path, since: SystemTime) {
    let (wanted, found) = (Contents::read(docker, "overlay2"), Contents::read(ours, "overlay2"));
    let mut deviations = Vec::new();
    for (chain, cache_id) in &found.layers {
        let dir = |root: &Path, id: &str| root.join("overlay2").join(id).join("diff");
        let (one, other) = (dir(docker, &wanted.layers[chain]), dir(ours, cache_id));
        // Docker leaves the time of unpacking where a directory has no header.
        let is_made_up = |deviation: &Deviation| {
            let found = fs::symlink_metadata(one.join(OsStr::from_bytes(&deviation.path))).expect("a node");
            deviation.aspect == Aspect::Mtime && found.is_dir() && found.modified().expect("a time") >= since
        };
        let all = Tree::read(&one).deviations(&Tree::read(&other), Allow::REBUILT);
        deviations.extend(all.into_iter().filter(|one| !is_made_up(one)).map(|one| format!("{chain}: {one}")));
    }
    assert!(deviations.is_empty(), "{}:\n{}", ours.display(), deviations.join("\n"));
}
