//! Which part of a store a code is about, as far as it matters for what repairs it.

use crate::finding::Code;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// What the storage driver keeps around the trees of layers.
    Driver,
    /// Attributes of a node in the tree of a layer.
    Node,
    /// A file in the tree of a layer, or a mark that hides one.
    File,
    /// Anything else.
    Other,
}

impl Part {
    /// Returns the part that findings of `code` are about.
    pub(super) fn of(code: Code) -> Self {
        match code {
            Code::DriverCommittedMissing
            | Code::DriverLinkLost
            | Code::DriverLinkWrong
            | Code::DriverLinksMissing
            | Code::DriverLowerLost
            | Code::DriverLowerMismatch
            | Code::DriverLowerMissing
            | Code::DriverMode
            | Code::DriverMountPointMissing
            | Code::DriverOwner
            | Code::DriverShortNameLost
            | Code::DriverShortNameWrong
            | Code::DriverSubvolumeMissing
            | Code::DriverTreeMissing
            | Code::DriverUnreadable
            | Code::DriverWorkMissing
            | Code::DriverWorkNeedless => Self::Driver,
            Code::NodeDevice
            | Code::NodeKind
            | Code::NodeLink
            | Code::NodeMode
            | Code::NodeMtime
            | Code::NodeNotShared
            | Code::NodeOwner
            | Code::NodeTarget
            | Code::NodeXattr => Self::Node,
            Code::FileContent
            | Code::FileExtra
            | Code::FileMissing
            | Code::FileSize
            | Code::FileUnreadable
            | Code::WhiteoutExtra
            | Code::WhiteoutMissing
            | Code::WhiteoutNeedless => Self::File,
            Code::ArchiveBlobMismatch
            | Code::ArchiveBlobMissing
            | Code::ArchiveConfigMismatch
            | Code::ArchiveDamaged
            | Code::ArchiveDifferencesUnproved
            | Code::ArchiveLayerMismatch
            | Code::ArchiveLayerMissing
            | Code::ArchiveNoImage
            | Code::ArchiveTarSplitMismatch
            | Code::BuildCacheDamaged
            | Code::BuildCacheLost
            | Code::BuildRecordDangling
            | Code::BuildkitUnreadable
            | Code::CacheIdInvalid
            | Code::ContainerAbandoned
            | Code::ContainerHostConfigMissing
            | Code::ContainerHostConfigNull
            | Code::ContainerHostConfigUnreadable
            | Code::ContainerImageMissing
            | Code::ContainerImageMountMissing
            | Code::ContainerOfAnotherStore
            | Code::ContainerUnreadable
            | Code::ContainerWithoutMount
            | Code::DatabaseDamaged
            | Code::DatabasePageDamaged
            | Code::DatabaseUnreadable
            | Code::DirectoryUnknown
            | Code::DistributionMismatch
            | Code::DistributionRecordInvalid
            | Code::DistributionUnreadable
            | Code::ImageAmbiguous
            | Code::ImageInvalid
            | Code::ImageLayerMissing
            | Code::ImageMissing
            | Code::ImageParentInvalid
            | Code::ImageParentMissing
            | Code::ImageTagTimeInvalid
            | Code::ImageUnreadable
            | Code::LayerCacheIdShared
            | Code::LayerCacheIdWrong
            | Code::LayerChainMismatch
            | Code::LayerDigestMismatch
            | Code::LayerDirectoryMissing
            | Code::LayerHeadersUnknown
            | Code::LayerMissing
            | Code::LayerNotLoadable
            | Code::LayerSize
            | Code::LayerTarSplitDamaged
            | Code::LayerTarSplitMissing
            | Code::LayerUnreadable
            | Code::LowerDirectoryMissing
            | Code::MountDirectoryMissing
            | Code::MountLayerMissing
            | Code::MountMismatch
            | Code::MountNotLoadable
            | Code::MountUnreadable
            | Code::NotMeasured
            | Code::ReferenceInvalid
            | Code::ReferenceWithoutImage
            | Code::ReferencesEmpty
            | Code::ReferencesMissing
            | Code::ReferencesUnreadable
            | Code::TreeUnreadable
            | Code::UnexpectedEntry
            | Code::Unreadable => Self::Other,
        }
    }
}
