//! The documents of archives that other tools wrote, as far as they are needed.

use std::collections::BTreeMap;

use super::platform::Platform;
use crate::json::fields;

/// Docker's list of images.
pub(super) const MANIFEST: &str = "manifest.json";
/// The index of an OCI image layout.
pub(super) const INDEX: &str = "index.json";
/// Docker's list of tags, until 1.10 the only one.
pub(super) const REPOSITORIES: &str = "repositories";

/// Set on what only tells of an image: attestations are no images.
const ABOUT: &str = "vnd.docker.reference.type";
/// Where a descriptor says the image's name: containerd's whole one comes before OCI's, which may be only a tag.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An entry of Docker's `manifest.json` [moby image/tarexport/tarexport.go `manifestItem`].
#[derive(Debug, Default)]
pub(super) struct Saved {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Option<Vec<String>>,
    pub(super) parent: String,
}
fields!(Saved { "Config" => config, "RepoTags" => repo_tags, "Layers" => layers, "Parent" => parent });

/// Docker's `repositories`: names of versions 1 images by repository and tag.
pub(super) type Repositories = BTreeMap<String, BTreeMap<String, String>>;

/// A descriptor of OCI, or Docker's of the same form.
#[derive(Debug, Clone, Default)]
pub(super) struct Descriptor {
    pub(super) digest: String,
    media_type: String,
    annotations: BTreeMap<String, String>,
    pub(super) platform: Option<Platform>,
}
fields!(Descriptor {
    "digest" => digest, "mediaType" => media_type, "annotations" => annotations, "platform" => platform,
});
fields!(Platform { "os" => os, "architecture" => architecture, "variant" => variant });

impl Descriptor {
    /// Returns the image's name, in the words that are there.
    pub(super) fn name(&self) -> Option<&str> {
        NAMES.into_iter().find_map(|key| self.annotations.get(key)).map(String::as_str)
    }

    /// Tells whether it leads to something that is no image by what is said of it.
    pub(super) fn is_about_another(&self) -> bool {
        let unknown = self.platform.as_ref().is_some_and(Platform::is_unknown);
        unknown || self.annotations.contains_key(ABOUT)
    }

    /// Tells whether what it leads to can be a layer of an image.
    fn is_layer(&self) -> bool {
        self.media_type.is_empty() || self.media_type.contains("tar")
    }

    /// Tells whether only who has a key can read what it leads to.
    pub(super) fn is_encrypted(&self) -> bool {
        self.media_type.ends_with("+encrypted")
    }

    /// Tells whether what it leads to can be an image's configuration.
    pub(super) fn is_configuration(&self) -> bool {
        matches!(
            &self.media_type[..],
            "" | "application/vnd.oci.image.config.v1+json"
                | "application/vnd.docker.container.image.v1+json"
                | "application/octet-stream"
                | "application/json"
        )
    }
}

/// An index or a manifest of OCI.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    pub(super) manifests: Option<Vec<Descriptor>>,
    pub(super) config: Option<Descriptor>,
    pub(super) layers: Option<Vec<Descriptor>>,
    artifact_type: String,
    subject: Option<Descriptor>,
}
fields!(Manifest {
    "manifests" => manifests, "config" => config, "layers" => layers, "artifactType" => artifact_type, "subject" => subject,
});

impl Manifest {
    /// Says why a manifest is not that of an image, where it is not: signatures, attestations, charts and whatever else
    /// is kept in registries, often beside the image that it is about.
    pub(super) fn is_of_none(&self) -> Option<String> {
        let config = self.config.as_ref()?;
        if !config.is_configuration() {
            return Some(format!("its configuration is of type {}", config.media_type));
        }
        if !self.artifact_type.is_empty() {
            return Some(format!("it is of type {}", self.artifact_type));
        }
        if let Some(subject) = &self.subject {
            return Some(format!("it tells of {}", subject.digest));
        }
        let other = self.layers.iter().flatten().find(|layer| !layer.is_layer())?;
        Some(format!("it has a layer of type {}", other.media_type))
    }
}

/// Returns the member that a digest names; nothing where it is none that can be proved.
pub(super) fn blob(digest: &str) -> Option<String> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        .then(|| format!("blobs/sha256/{hex}"))
}
