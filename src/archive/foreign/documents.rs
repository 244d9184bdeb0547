//! The documents of archives that other tools wrote, as far as they are needed.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::platform::Platform;

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
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Option<Vec<String>>,
    pub(super) parent: Option<String>,
}

/// Docker's `repositories`: names of versions 1 images by repository and tag.
pub(super) type Repositories = BTreeMap<String, BTreeMap<String, String>>;

/// A descriptor of OCI, or Docker's of the same form.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) digest: String,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
}

impl Descriptor {
    /// Returns the image's name, in the words that are there.
    pub(super) fn name(&self) -> Option<&str> {
        let annotations = self.annotations.as_ref()?;
        NAMES.into_iter().find_map(|key| annotations.get(key)).map(String::as_str)
    }

    /// Tells whether it leads to something that is no image by what is said of it.
    pub(super) fn is_about_another(&self) -> bool {
        let unknown = self.platform.as_ref().is_some_and(Platform::is_unknown);
        unknown || self.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(ABOUT))
    }

    /// Tells whether what it leads to can be an image's configuration.
    pub(super) fn is_configuration(&self) -> bool {
        matches!(
            &self.media_type[..],
            "" | "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
        )
    }
}

/// An index or a manifest of OCI.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) manifests: Option<Vec<Descriptor>>,
    pub(super) config: Option<Descriptor>,
    pub(super) layers: Option<Vec<Descriptor>>,
}

/// Returns the member that a digest names; nothing where it is none that can be proved.
pub(super) fn blob(digest: &str) -> Option<String> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        .then(|| format!("blobs/sha256/{hex}"))
}
