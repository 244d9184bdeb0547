//! `dockpack/archive.json`: what a store knows of its images beyond what OCI and Docker archives hold.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::driver::DriverFacts;
use crate::id::{BlobDigest, CacheId, ChainId, DiffId, ImageId};

/// Number of the format that this dockpack writes, and the newest that it reads.
pub const FORMAT: u64 = 1;

/// The index of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveIndex {
    /// Number of the format.
    pub format: u64,
    /// Graph driver of the store it was saved from; `None` for archives of other tools, which are of no driver.
    pub driver: Option<String>,
    /// The images, in the order of `manifest.json`.
    pub images: Vec<ImageRecord>,
    /// The layers, parents before children.
    pub layers: Vec<LayerRecord>,
    /// How many of the layers each section holds, in order; section 0 of an archive is the metadata.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<usize>,
    /// `distribution/diffid-by-digest` for these layers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub diff_id_by_digest: BTreeMap<BlobDigest, DiffId>,
    /// `distribution/v2metadata-by-diffid` for these layers, as the text that was there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub v2_metadata_by_diff_id: BTreeMap<DiffId, String>,
}

impl ArchiveIndex {
    /// Returns the sections that hold what these layers are built of: their tar-splits, and their tars, which a
    /// layer of the same diff ID before them may have brought.
    #[must_use]
    pub fn sections_of(&self, is_wanted: impl Fn(ChainId) -> bool) -> BTreeSet<u32> {
        let numbers = (1..).zip(&self.sections).flat_map(|(number, layers)| std::iter::repeat_n(number, *layers));
        let mut tars = BTreeMap::new();
        let mut sections = BTreeSet::new();
        for (layer, section) in self.layers.iter().zip(numbers) {
            let tar = *tars.entry(layer.diff).or_insert(section);
            if is_wanted(layer.chain) {
                sections.extend([section, tar]);
            }
        }
        sections
    }
}

/// An image in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// Its ID.
    pub id: ImageId,
    /// Tags and digests, as `repositories.json` writes them.
    pub references: Vec<String>,
    /// Content of its layers, bottom first.
    pub diff_ids: Vec<DiffId>,
    /// When it was made, as its configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The image it was built from, where that is in the archive too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ImageId>,
    /// Text of `imagedb/metadata/…/lastUpdated`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<String>,
    /// Text of `imagedb/metadata/…/builtLocally`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_locally: Option<String>,
}

impl ImageRecord {
    /// Returns the chain IDs of its layers, bottom first.
    #[must_use]
    pub fn chain_ids(&self) -> Vec<ChainId> {
        ChainId::of_stack(&self.diff_ids)
    }

    /// Returns its tags, without its digests.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.references.iter().map(String::as_str).filter(|reference| !reference.contains('@'))
    }
}

/// A layer in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerRecord {
    /// Its identity.
    pub chain: ChainId,
    /// Its content.
    pub diff: DiffId,
    /// The layer below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ChainId>,
    /// Bytes that the layer adds, as Docker counted them.
    pub size: u64,
    /// Bytes of its tar.
    pub tar_size: u64,
    /// Name of its driver directory.
    pub cache_id: CacheId,
    /// What the driver kept besides the tree.
    #[serde(default)]
    pub facts: DriverFacts,
}
