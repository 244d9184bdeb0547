//! What each code means for the images and containers above.

use serde::Serialize;

use crate::driver::Driver;
use crate::finding::{Code, Finding, Severity, Thing};
use crate::id::CacheId;

/// What no longer works, or is other than it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Images are not found by these names any more.
    Names,
    /// Pulling or loading goes wrong.
    Pull,
    /// Images cannot be saved, pushed or exported.
    Save,
    /// No new container and no new layer can be made on them.
    Create,
    /// Programs see other files, or other attributes of files, than were built.
    Content,
    /// Containers are started without what they were told, or not at all.
    Settings,
    /// Images cannot be run, containers cannot be started.
    Start,
    /// dockerd itself does not start.
    Daemon,
}

/// How far the effect of a finding reaches from its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// To everything that stands on the object.
    Above,
    /// To everything that dockerd mounts with the object, not what stands on a copy of it.
    Mounted,
    /// To images of which the object is the topmost layer: dockerd looks at it when it puts something on top.
    Top,
    /// To the object.
    Itself,
    /// To all images and containers.
    Everything,
}

/// What a code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Meaning {
    pub(super) effect: Effect,
    pub(super) reach: Reach,
}

/// Looks up what a finding of `driver` means; nothing for a code that breaks nothing.
pub(super) fn meanings(driver: &Driver, code: Code, thing: &Thing) -> Vec<Meaning> {
    use Effect::{Content, Create, Daemon, Names, Pull, Save, Settings, Start};
    use Reach::{Above, Everything, Itself, Mounted, Top};
    let one = |effect, reach| vec![Meaning { effect, reach }];
    // Where each layer has the whole tree, what is gone in one of them is still there in those above.
    let gone = |effect| match driver.keeps_whole_trees() {
        true => vec![Meaning { effect, reach: Mounted }, Meaning { effect: Save, reach: Above }],
        false => one(effect, Above),
    };
    match code {
        Code::ReferencesUnreadable | Code::DatabaseDamaged | Code::ContainerHostConfigNull => one(Daemon, Everything),
        Code::ReferencesMissing => one(Names, Everything),
        Code::ReferenceInvalid => one(Names, Itself),
        Code::ReferenceWithoutImage | Code::ImageInvalid | Code::ImageUnreadable => one(Start, Itself),
        Code::LayerMissing | Code::LayerNotLoadable | Code::LayerUnreadable => one(Start, Above),
        Code::LayerDirectoryMissing | Code::DriverTreeMissing => gone(Start),
        Code::LayerCacheIdShared => one(Content, Above),
        Code::LayerChainMismatch
        | Code::LayerTarSplitMissing
        | Code::LayerTarSplitDamaged
        | Code::LayerDigestMismatch => one(Save, Above),
        // What was stacked on the directory before has a `lower` of its own.
        Code::DriverUnreadable if matches!(thing, Thing::Lower(_)) => one(Start, Top),
        Code::DriverUnreadable | Code::DriverShortNameLost => one(Start, Above),
        Code::DriverShortNameWrong => one(Content, Above),
        Code::DriverLinkWrong => one(Content, Top),
        // What was made before is stacked on the right one.
        Code::LayerCacheIdWrong => {
            vec![Meaning { effect: Start, reach: Top }, Meaning { effect: Save, reach: Above }]
        }
        Code::LowerDirectoryMissing | Code::DriverLowerLost | Code::DriverLinkLost => one(Start, Top),
        Code::DriverLowerMissing | Code::DriverLowerMismatch => one(Content, Top),
        Code::DriverSubvolumeMissing => one(Create, Top),
        Code::DriverMountPointMissing => one(Start, Above),
        Code::DriverLinksMissing => one(Start, Everything),
        Code::DriverWorkMissing => one(Save, Above),
        Code::MountNotLoadable | Code::MountLayerMissing | Code::MountUnreadable | Code::MountDirectoryMissing => {
            one(Start, Above)
        }
        Code::ContainerUnreadable | Code::ContainerWithoutMount | Code::ContainerImageMountMissing => {
            one(Start, Itself)
        }
        Code::ContainerHostConfigUnreadable => one(Start, Itself),
        Code::ContainerHostConfigMissing => one(Settings, Itself),
        Code::FileMissing => gone(Content),
        Code::FileSize | Code::FileContent | Code::FileUnreadable | Code::FileExtra | Code::TreeUnreadable => {
            one(Content, Above)
        }
        Code::NodeKind | Code::NodeMode | Code::NodeOwner | Code::NodeXattr | Code::NodeTarget | Code::NodeDevice => {
            one(Content, Above)
        }
        Code::WhiteoutMissing | Code::WhiteoutExtra => one(Content, Above),
        // Whose records these are is not known: images that are here are whole.
        Code::DistributionMismatch => one(Pull, Itself),
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
        | Code::ContainerImageMissing
        | Code::ContainerOfAnotherStore
        | Code::DatabasePageDamaged
        | Code::DatabaseUnreadable
        | Code::DirectoryUnknown
        | Code::DistributionRecordInvalid
        | Code::DistributionUnreadable
        | Code::DriverCommittedMissing
        | Code::DriverMode
        | Code::DriverOwner
        | Code::DriverWorkNeedless
        | Code::ImageAmbiguous
        | Code::ImageLayerMissing
        | Code::ImageMissing
        | Code::ImageParentInvalid
        | Code::ImageParentMissing
        | Code::ImageTagTimeInvalid
        | Code::LayerHeadersUnknown
        | Code::LayerSize
        | Code::MountMismatch
        | Code::NodeLink
        | Code::NodeMtime
        | Code::NodeNotShared
        | Code::NotMeasured
        | Code::ReferencesEmpty
        | Code::UnexpectedEntry
        | Code::Unreadable
        | Code::WhiteoutNeedless => Vec::new(),
    }
}

/// Looks up what a finding about a directory of a container means, of its own or of its init layer, where that is another than
/// for a layer. dockerd mounts the container's own by its `lower`, and makes nothing new on either.
pub(super) fn meaning_of_writable(code: Code, id: &CacheId) -> Option<Vec<Meaning>> {
    let is_init = id.is_init();
    match code {
        Code::DriverWorkMissing if !is_init => Some(vec![Meaning { effect: Effect::Start, reach: Reach::Top }]),
        Code::DriverShortNameLost | Code::DriverShortNameWrong if !is_init => Some(Vec::new()),
        Code::DriverLowerMissing | Code::DriverLowerMismatch | Code::DriverWorkMissing if is_init => Some(Vec::new()),
        Code::DriverLinkLost | Code::DriverLinkWrong => Some(Vec::new()),
        _ => None,
    }
}

/// Says how bad a finding of the readers is for whoever wants the store to be whole: for reading, gc and listings
/// some of these are odd and no more.
pub(super) fn weigh(finding: &mut Finding) {
    let is_damage = matches!(
        finding.code,
        Code::ReferenceWithoutImage
            | Code::ReferenceInvalid
            | Code::DriverLinkLost
            | Code::DriverLinkWrong
            | Code::DriverShortNameLost
            | Code::DriverLowerLost
            | Code::ContainerWithoutMount
            | Code::ContainerImageMountMissing
    );
    if is_damage {
        finding.severity = Severity::Damage;
    }
}
