//! Archives made by hand as other tools write them.

use serde_json::json;

use super::archive::{Entry, Layer, Members, gzip};
use super::store::sha256;

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
