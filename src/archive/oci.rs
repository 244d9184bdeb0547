//! The documents that other tools read: OCI image layout and Docker's `manifest.json`.

use std::io::{self, Write};

use serde::Serialize;

use crate::id::{DiffId, ImageId, Sha256};
use crate::model::{ImageRecord, Index};
use crate::reference::Reference;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What a manifest is made of.
#[derive(Debug, Clone)]
pub(crate) struct Descriptor {
    pub(crate) digest: Sha256,
    pub(crate) size: u64,
}

// The documents are written as they are made: in memory they would be many times as long.

/// A descriptor as it stands in a document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    media_type: &'a str,
    digest: Sha256,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Names<'a>>,
}

/// The names of an image.
#[derive(Serialize)]
struct Names<'a> {
    /// containerd reads it.
    #[serde(rename = "io.containerd.image.name")]
    canonical: String,
    /// skopeo finds what the user types by it.
    #[serde(rename = "org.opencontainers.image.ref.name")]
    tag: &'a str,
}

/// Elements that are made when they are written.
struct Each<F>(F);

impl<F: Fn() -> I, I: IntoIterator<Item: Serialize>> Serialize for Each<F> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// Returns the OCI manifest of an image; layers are the plain tars.
pub(crate) fn oci_manifest(config: &Descriptor, layers: &[(DiffId, u64)]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest<'a, L> {
        schema_version: u8,
        media_type: &'a str,
        config: Entry<'a>,
        layers: L,
    }
    let entry = |media_type, digest, size| Entry { annotations: None, digest, media_type, size };
    to_bytes(&Manifest {
        config: entry("application/vnd.oci.image.config.v1+json", config.digest, config.size),
        layers: Each(|| {
            layers.iter().map(|(diff, size)| entry("application/vnd.oci.image.layer.v1.tar", diff.0, *size))
        }),
        media_type: MANIFEST,
        schema_version: 2,
    })
}

/// Names of the documents, in the order in which they stand in an archive.
pub(crate) const DOCUMENTS: [&str; 3] = ["oci-layout", "index.json", "manifest.json"];

/// Returns [`DOCUMENTS`] with their names. `manifests` are the OCI manifests of the index's images, in its order; `digest` is
/// of the index's own bytes. So a reader knows that none of the metadata was changed before it acts on it.
pub(crate) fn documents(index: &Index, digest: Sha256, manifests: &[Descriptor]) -> [(&'static str, Vec<u8>); 3] {
    DOCUMENTS.map(|name| {
        let mut bytes = Vec::new();
        write_document(name, index, digest, manifests, &mut bytes)
            .expect("because these documents have only text keys");
        (name, bytes)
    })
}

/// Writes one of [`DOCUMENTS`].
///
/// # Errors
/// `out` takes no more.
pub(crate) fn write_document(
    name: &str,
    index: &Index,
    digest: Sha256,
    manifests: &[Descriptor],
    mut out: impl Write,
) -> io::Result<()> {
    match name {
        "oci-layout" => out.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#),
        "index.json" => Ok(serde_json::to_writer(out, &oci_index(index, digest, manifests))?),
        _ => Ok(serde_json::to_writer(out, &docker_manifest(index))?),
    }
}

fn oci_index<'a>(index: &'a Index, digest: Sha256, manifests: &'a [Descriptor]) -> impl Serialize + 'a {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Index<M> {
        schema_version: u8,
        media_type: &'static str,
        manifests: M,
        annotations: Own,
    }
    #[derive(Serialize)]
    struct Own {
        /// Digest of `dockpack/archive.json`.
        #[serde(rename = "dockpack.archive.digest")]
        digest: Sha256,
    }
    let of_image = |(image, manifest): (&'a ImageRecord, &'a Descriptor)| {
        let entry =
            |annotations| Entry { annotations, digest: manifest.digest, media_type: MANIFEST, size: manifest.size };
        let nameless = image.tags().next().is_none().then(|| entry(None));
        let named = image.tags().map(move |tag| entry(Some(Names { canonical: canonical(tag), tag })));
        nameless.into_iter().chain(named)
    };
    Index {
        annotations: Own { digest },
        manifests: Each(move || index.images.iter().zip(manifests).flat_map(of_image)),
        media_type: "application/vnd.oci.image.index.v1+json",
        schema_version: 2,
    }
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

fn docker_manifest(index: &Index) -> impl Serialize + '_ {
    Each(|| {
        index.images.iter().map(|image| DockerManifest {
            config: blob(&image.id.0),
            repo_tags: image.tags().collect(),
            layers: image.diff_ids.iter().map(|diff| blob(&diff.0)).collect(),
            parent: image.parent,
        })
    })
}

/// Path of a blob.
pub(crate) fn blob(digest: &Sha256) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn to_bytes(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("because these documents have only text keys")
}
