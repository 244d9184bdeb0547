//! What each code means for the images and containers above.

use serde::Serialize;

use crate::driver::has_whole_trees;
use crate::finding::{Finding, Severity};

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

/// Looks up what a finding of `driver` means. A code that is not listed breaks nothing.
pub(super) fn meanings(driver: &str, code: &str, subject: &str) -> Vec<Meaning> {
    use Effect::{Content, Create, Daemon, Names, Pull, Save, Settings, Start};
    use Reach::{Above, Everything, Itself, Mounted, Top};
    let one = |effect, reach| vec![Meaning { effect, reach }];
    // Where each layer has the whole tree, what is gone in one of them is still there in those above.
    let gone = |effect| match has_whole_trees(driver) {
        true => vec![Meaning { effect, reach: Mounted }, Meaning { effect: Save, reach: Above }],
        false => one(effect, Above),
    };
    match code {
        "references-unreadable" | "database-damaged" | "container-host-config-null" => one(Daemon, Everything),
        "references-missing" => one(Names, Everything),
        "reference-invalid" => one(Names, Itself),
        "reference-without-image" | "image-invalid" | "image-unreadable" => one(Start, Itself),
        "layer-missing" | "layer-not-loadable" | "layer-unreadable" => one(Start, Above),
        "layer-directory-missing" | "driver-tree-missing" => gone(Start),
        "layer-cache-id-shared" => one(Content, Above),
        "layer-chain-mismatch" | "layer-tar-split-missing" | "layer-tar-split-damaged" | "layer-digest-mismatch" => {
            one(Save, Above)
        }
        // What was stacked on the directory before has a `lower` of its own.
        "driver-unreadable" if subject.ends_with("/lower") => one(Start, Top),
        "driver-unreadable" | "driver-short-name-lost" => one(Start, Above),
        "driver-short-name-wrong" => one(Content, Above),
        "lower-directory-missing" | "driver-lower-lost" | "driver-link-lost" => one(Start, Top),
        "driver-lower-missing" | "driver-lower-mismatch" => one(Content, Top),
        "driver-subvolume-missing" => one(Create, Top),
        "driver-mount-point-missing" => one(Start, Above),
        "driver-links-missing" => one(Start, Everything),
        "driver-work-missing" => one(Save, Above),
        "mount-not-loadable" | "mount-layer-missing" | "mount-unreadable" | "mount-directory-missing" => {
            one(Start, Above)
        }
        "container-unreadable" | "container-without-mount" | "container-image-mount-missing" => one(Start, Itself),
        "container-host-config-unreadable" => one(Start, Itself),
        "container-host-config-missing" => one(Settings, Itself),
        "file-missing" => gone(Content),
        "file-size" | "file-content" | "file-unreadable" | "file-extra" | "tree-unreadable" => one(Content, Above),
        "node-kind" | "node-mode" | "node-owner" | "node-xattr" | "node-target" | "node-device" => one(Content, Above),
        "whiteout-missing" | "whiteout-extra" => one(Content, Above),
        // Whose records these are is not known: images that are here are whole.
        "distribution-mismatch" => one(Pull, Itself),
        _ => Vec::new(),
    }
}

/// Looks up what a finding about a directory of a container means, of its own or of its init layer, where that is another than
/// for a layer. dockerd mounts the container's own by its `lower`, and makes nothing new on either.
pub(super) fn meaning_of_writable(code: &str, subject: &str) -> Option<Vec<Meaning>> {
    let is_init = subject.contains("-init");
    match code {
        "driver-work-missing" if !is_init => Some(vec![Meaning { effect: Effect::Start, reach: Reach::Top }]),
        "driver-short-name-lost" | "driver-short-name-wrong" if !is_init => Some(Vec::new()),
        "driver-lower-missing" | "driver-lower-mismatch" | "driver-work-missing" if is_init => Some(Vec::new()),
        "driver-link-lost" => Some(Vec::new()),
        _ => None,
    }
}

/// Says how bad a finding of the readers is for whoever wants the store to be whole: for reading, gc and listings
/// some of these are odd and no more.
pub(super) fn weigh(finding: &mut Finding) {
    let is_damage = matches!(
        finding.code,
        "reference-without-image"
            | "reference-invalid"
            | "driver-link-lost"
            | "driver-short-name-lost"
            | "driver-lower-lost"
            | "container-without-mount"
            | "container-image-mount-missing"
    );
    if is_damage {
        finding.severity = Severity::Damage;
    }
}
