//! What is known of images and layers on their way from one place to another.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::driver::DriverFacts;
use crate::id::{CacheId, ChainId, DiffId, ImageId, Sha256};

/// Number of the format that this dockpack writes, and the newest that it reads.
pub const FORMAT: u64 = 1;

/// Longest `dockpack/archive.json`, in bytes: of forty thousand layers. What is made of it in memory is up to ten times as
/// long.
pub(crate) const INDEX_LIMIT: u64 = 16 << 20;

/// Most sections.
const SECTIONS_LIMIT: usize = 1 << 20;

/// What a place has of images, with the small documents that are needed whole.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// The images and layers.
    pub index: Index,
    /// Image configurations and OCI manifests, by digest.
    pub blobs: BTreeMap<Sha256, Vec<u8>>,
}

/// Images and layers: of an archive the content of `dockpack/archive.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Number of the format.
    pub format: u64,
    /// Graph driver of the store it was saved from; `None` for archives of other tools, which are of no driver.
    pub driver: Option<String>,
    /// The images, in the order of `manifest.json`.
    pub images: Vec<ImageRecord>,
    /// The layers, parents before children.
    pub layers: Vec<LayerRecord>,
    /// How many of the layers each section holds, in order; section 0 of an archive is the metadata.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "sections")]
    pub sections: Vec<usize>,
}

/// Reads no more numbers than an archive can have sections.
fn sections<'d, D: serde::Deserializer<'d>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct Numbers;
    impl<'d> serde::de::Visitor<'d> for Numbers {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {SECTIONS_LIMIT} sections")
        }

        fn visit_seq<A: serde::de::SeqAccess<'d>>(self, mut numbers: A) -> Result<Self::Value, A::Error> {
            let mut sections = Vec::new();
            while let Some(number) = numbers.next_element()? {
                if sections.len() == SECTIONS_LIMIT {
                    return Err(serde::de::Error::invalid_length(sections.len() + 1, &self));
                }
                sections.push(number);
            }
            Ok(sections)
        }
    }
    deserializer.deserialize_seq(Numbers)
}

impl Index {
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
    /// Tags, as `repositories.json` writes them.
    pub references: Vec<String>,
    /// Content of its layers, bottom first.
    pub diff_ids: Vec<DiffId>,
    /// When it was made, as its configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The image it was built from, where that is in the archive too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ImageId>,
    /// Text of `imagedb/metadata/…/lastUpdated`: a time in the form of RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<String>,
}

impl ImageRecord {
    /// Returns the chain IDs of its layers, bottom first.
    #[must_use]
    pub fn chain_ids(&self) -> Vec<ChainId> {
        ChainId::of_stack(&self.diff_ids)
    }

    /// Returns what messages call it: its references, or its short ID where it has none.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.references[..] {
            [] => self.id.short(),
            references => references.join(", "),
        }
    }

    /// Returns its tags. What is none is refused, where an archive has it.
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
