//! Kinds of garbage.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ParseError;

/// A kind of garbage. Its name is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GcKind {
    /// Images without a reference, a container, or a child that stays.
    UntaggedImages,
    /// Metadata of images that are not there.
    ImageMetadata,
    /// Whole entries of layerdb that nothing reaches, with their directories.
    UnreferencedLayers,
    /// Entries of layerdb that dockerd does not load and nothing reaches, with their directories.
    BrokenLayers,
    /// `layerdb/sha256/*-removing`: layers whose removal was cut off.
    RemovingLayers,
    /// `layerdb/tmp/*`: layers whose making was cut off.
    WriteSets,
    /// Entries of `layerdb/mounts` without a container, with their directories.
    DeadMounts,
    /// Directories of containers without a configuration, with their writable layers.
    DeadContainers,
    /// Directories of the graph driver that nothing names.
    OrphanDirectories,
    /// Directories in which dockerd tries what the file system can do.
    SelfTests,
    /// `<driver>/l/*` that lead to no directory.
    DanglingLinks,
    /// `.tmp-*`: files whose writing was cut off.
    TempFiles,
    /// `tmp-old` in the data root.
    OldTemp,
    /// What BuildKit has lost track of but still names in `snapshots.db`. Not taken unless asked for.
    LeakedBuildCache,
    /// Records in `distribution/` of layers that are gone. Not taken unless asked for.
    DistributionRecords,
    /// Trees of graph drivers that are no longer in use. Not taken unless asked for.
    StaleDriver,
}

impl GcKind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Self; 16] = [
        Self::UntaggedImages,
        Self::ImageMetadata,
        Self::UnreferencedLayers,
        Self::BrokenLayers,
        Self::RemovingLayers,
        Self::WriteSets,
        Self::DeadMounts,
        Self::DeadContainers,
        Self::OrphanDirectories,
        Self::SelfTests,
        Self::DanglingLinks,
        Self::TempFiles,
        Self::OldTemp,
        Self::LeakedBuildCache,
        Self::DistributionRecords,
        Self::StaleDriver,
    ];

    /// Returns the kind's stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UntaggedImages => "untagged-images",
            Self::ImageMetadata => "image-metadata",
            Self::UnreferencedLayers => "unreferenced-layers",
            Self::BrokenLayers => "broken-layers",
            Self::RemovingLayers => "removing-layers",
            Self::WriteSets => "write-sets",
            Self::DeadMounts => "dead-mounts",
            Self::DeadContainers => "dead-containers",
            Self::OrphanDirectories => "orphan-directories",
            Self::SelfTests => "self-tests",
            Self::DanglingLinks => "dangling-links",
            Self::TempFiles => "temp-files",
            Self::OldTemp => "old-temp",
            Self::LeakedBuildCache => "leaked-build-cache",
            Self::DistributionRecords => "distribution-records",
            Self::StaleDriver => "stale-driver",
        }
    }

    /// Tells whether the kind is taken where nothing else is asked for.
    #[must_use]
    pub fn is_default(self) -> bool {
        !matches!(self, Self::LeakedBuildCache | Self::DistributionRecords | Self::StaleDriver)
    }

    /// Tells whether containers have written it: of that there is no other copy, so it goes by way of the trash.
    #[must_use]
    pub fn is_written(self) -> bool {
        matches!(self, Self::DeadMounts | Self::DeadContainers)
    }
}

impl std::fmt::Display for GcKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for GcKind {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let names: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| ParseError::new(format!("one of {}", names.join(", ")), text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_json() {
        for kind in GcKind::ALL {
            assert_eq!(serde_json::to_value(kind).expect("JSON"), kind.name());
            assert_eq!(kind.name().parse(), Ok(kind));
        }
    }
}
