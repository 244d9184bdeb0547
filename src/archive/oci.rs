//! The documents that other tools read: OCI image layout and Docker's `manifest.json`.

use serde::Serialize;
use serde_json::json;

use crate::id::{DiffId, ImageId, Sha256};
use crate::reference::Reference;

use super::index::ArchiveIndex;

/// Annotation of `index.json`: digest of `dockpack/archive.json`.
const DIGEST: &str = "dockpack.archive.digest";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What a manifest is made of.
#[derive(Debug, Clone)]
pub(crate) struct Descriptor {
    pub(crate) digest: Sha256,
    pub(crate) size: u64,
}

/// Returns the OCI manifest of an image; layers are the plain tars.
pub(crate) fn oci_manifest(config: &Descriptor, layers: &[(DiffId, u64)]) -> Vec<u8> {
    let descriptor = |kind: &str, digest: Sha256, size: u64| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size});
    let layers: Vec<_> = layers.iter().map(|(diff, size)| descriptor("layer.v1.tar", diff.0, *size)).collect();
    to_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("config.v1+json", config.digest, config.size),
        "layers": layers,
    }))
}

/// Returns `oci-layout`, `index.json` and `manifest.json` with their names. `manifests` are the OCI manifests of
/// the index's images, in its order; `digest` is of the index's own bytes. So a reader knows that none of the
/// metadata was changed before it acts on it.
pub(crate) fn documents(
    index: &ArchiveIndex,
    digest: Sha256,
    manifests: &[Descriptor],
) -> [(&'static str, Vec<u8>); 3] {
    [
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json", oci_index(index, digest, manifests)),
        ("manifest.json", docker_manifest(index)),
    ]
}

fn oci_index(index: &ArchiveIndex, digest: Sha256, manifests: &[Descriptor]) -> Vec<u8> {
    let mut entries = Vec::new();
    for (image, manifest) in index.images.iter().zip(manifests) {
        let entry = json!({"mediaType": MANIFEST, "digest": manifest.digest, "size": manifest.size});
        let mut tags = image.tags().peekable();
        if tags.peek().is_none() {
            entries.push(entry.clone());
        }
        for tag in tags {
            let mut named = entry.clone();
            // containerd reads the first; skopeo finds what the user types by the second.
            named["annotations"] = json!({
                "io.containerd.image.name": canonical(tag),
                "org.opencontainers.image.ref.name": tag,
            });
            entries.push(named);
        }
    }
    to_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
        "annotations": {DIGEST: digest},
    }))
}

/// A tag that Docker took but we cannot parse stands as it is.
fn canonical(tag: &str) -> String {
    tag.parse::<Reference>().map_or_else(|_| tag.to_owned(), |reference| reference.canonical())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest<'a> {
    config: String,
    repo_tags: Vec<&'a str>,
    layers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<ImageId>,
}

fn docker_manifest(index: &ArchiveIndex) -> Vec<u8> {
    let manifests: Vec<_> = index
        .images
        .iter()
        .map(|image| DockerManifest {
            config: blob(&image.id.0),
            repo_tags: image.tags().collect(),
            layers: image.diff_ids.iter().map(|diff| blob(&diff.0)).collect(),
            parent: image.parent,
        })
        .collect();
    to_bytes(&manifests)
}

/// Path of a blob.
pub(crate) fn blob(digest: &Sha256) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn to_bytes(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("because these documents have only text keys")
}
