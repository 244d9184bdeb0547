//! What each code means for the images and containers above.

use serde::Serialize;

use crate::finding::{Finding, Severity};

/// What no longer works, or is other than it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing.
    None,
    /// Images are not found by these names any more.
    Names,
    /// Pulling or loading goes wrong.
    Pull,
    /// Images cannot be saved, pushed or exported.
    Save,
    /// Programs see other files, or other attributes of files, than were built.
    Content,
    /// Images cannot be run, containers cannot be started.
    Start,
    /// dockerd itself does not start.
    Daemon,
}

/// How far the effect of a finding reaches from its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// To nothing.
    Nothing,
    /// To everything that stands on the object.
    Above,
    /// To images of which the object is the topmost layer: dockerd looks at it when it puts something on top.
    Top,
    /// To the object.
    Itself,
    /// To all images and containers.
    Everything,
}

/// What a code means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meaning {
    pub(super) effect: Effect,
    pub(super) reach: Reach,
}

/// Looks a code up. One that is not listed breaks nothing.
pub(super) fn meaning(code: &str, subject: &str) -> Meaning {
    use Effect::{Content, Daemon, Names, None, Pull, Save, Start};
    use Reach::{Above, Everything, Itself, Nothing, Top};
    let (effect, reach) = match code {
        "references-unreadable" => (Daemon, Everything),
        "references-missing" => (Names, Everything),
        "reference-invalid" => (Names, Itself),
        "reference-without-image" | "image-invalid" | "image-unreadable" | "image-layer-missing" => (Start, Itself),
        "layer-missing" | "layer-not-loadable" | "layer-unreadable" | "layer-directory-missing" => (Start, Above),
        "layer-cache-id-shared" => (Content, Above),
        "layer-chain-mismatch" | "layer-tar-split-missing" | "layer-tar-split-damaged" | "layer-digest-mismatch" => {
            (Save, Above)
        }
        // What was stacked on the directory before has a `lower` of its own.
        "driver-unreadable" if subject.ends_with("/lower") => (Start, Top),
        "driver-unreadable" | "driver-tree-missing" | "driver-short-name-lost" => (Start, Above),
        "lower-directory-missing" | "driver-lower-lost" | "driver-link-lost" => (Start, Top),
        "driver-lower-missing" | "driver-lower-mismatch" => (Content, Top),
        "driver-short-name-wrong" => (Content, Above),
        "driver-links-missing" => (Start, Everything),
        "driver-work-missing" => (Save, Above),
        "mount-not-loadable" | "mount-unreadable" | "mount-directory-missing" | "mount-layer-missing" => (Start, Above),
        "container-unreadable" | "container-without-mount" | "container-image-mount-missing" => (Start, Itself),
        "distribution-mismatch" => (Pull, Above),
        "file-missing" | "file-size" | "file-content" | "file-unreadable" | "file-extra" | "tree-unreadable" => {
            (Content, Above)
        }
        "node-kind" | "node-mode" | "node-owner" | "node-xattr" | "node-target" | "node-device" => (Content, Above),
        "node-mtime" | "whiteout-missing" | "whiteout-extra" => (Content, Above),
        _ => (None, Nothing),
    };
    Meaning { effect, reach }
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
