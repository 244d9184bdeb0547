//! Every kind of finding: its name, how bad it is, and what it means in one sentence.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Severity;
use crate::error::ParseError;

/// How bad the findings of one code are.
#[derive(Debug, Clone, Copy)]
enum Weight {
    /// All are equally bad.
    Is(Severity),
    /// It depends on the object, and on what the reader needs it for: whoever makes the finding says it.
    Varies,
}

const DAMAGE: Weight = Weight::Is(Severity::Damage);
const WARNING: Weight = Weight::Is(Severity::Warning);
const NOTE: Weight = Weight::Is(Severity::Note);
const VARIES: Weight = Weight::Varies;

/// What the table says of one code.
struct Row {
    name: &'static str,
    weight: Weight,
    explanation: &'static str,
}

/// Makes the enum and its table out of one list, in the order of the names: codes are sorted by name in what is printed.
macro_rules! codes {
    ($($code:ident, $name:literal, $weight:ident: $explanation:literal;)*) => {
        /// The kind of a finding. Its name is stable; codes are ordered by it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $explanation] $code,)* }

        impl Code {
            /// All codes, sorted by name.
            pub const ALL: &'static [Self] = &[$(Self::$code,)*];

            const fn row(self) -> Row {
                match self {
                    $(Self::$code => Row { name: $name, weight: $weight, explanation: $explanation },)*
                }
            }
        }
    };
}

codes! {
    ArchiveBlobMismatch, "archive-blob-mismatch", DAMAGE:
        "A file in the archive does not have the content that its name, a digest, promises.";
    ArchiveBlobMissing, "archive-blob-missing", DAMAGE:
        "The archive's documents name a file that is not in the archive.";
    ArchiveConfigMismatch, "archive-config-mismatch", VARIES:
        "The configuration of an image in the archive is not the one that its name promises, or cannot be understood.";
    ArchiveDamaged, "archive-damaged", DAMAGE:
        "The archive is truncated, was changed, or is not what its format demands, so what comes behind is not readable.";
    ArchiveDifferencesUnproved, "archive-differences-unproved", DAMAGE:
        "The archive's list of differences for a layer says things that the layer's tar does not confirm.";
    ArchiveLayerMismatch, "archive-layer-mismatch", DAMAGE:
        "The content of a layer in the archive does not have the digest that the image names.";
    ArchiveLayerMissing, "archive-layer-missing", DAMAGE:
        "A layer that an image needs is not in the archive.";
    ArchiveNoImage, "archive-no-image", NOTE:
        "Something in the archive is not a container image, such as a signature, and Docker ignores it.";
    ArchiveTarSplitMismatch, "archive-tar-split-mismatch", DAMAGE:
        "The tar of a layer in the archive is not the one that the layer's tar-split file describes.";
    BuildCacheDamaged, "build-cache-damaged", DAMAGE:
        "The database of the build cache is damaged in a way that newer versions of Docker repair by emptying the cache.";
    BuildCacheLost, "build-cache-lost", DAMAGE:
        "Directories of the build cache are gone, or the file that names them, so builds that use them fail.";
    BuildRecordDangling, "build-record-dangling", NOTE:
        "A record of the build cache names a layer or directory that is not there.";
    BuildkitUnreadable, "buildkit-unreadable", DAMAGE:
        "A database of the build cache cannot be read, so it is unknown which directories the cache uses.";
    CacheIdInvalid, "cache-id-invalid", DAMAGE:
        "The file that says which directory a layer has contains something that is no name of a directory.";
    ContainerAbandoned, "container-abandoned", WARNING:
        "The directory of a container has no configuration, as an interrupted create or rm leaves it.";
    ContainerHostConfigMissing, "container-host-config-missing", DAMAGE:
        "A container's hostconfig.json is missing, so Docker starts it without its ports, limits and log driver.";
    ContainerHostConfigNull, "container-host-config-null", DAMAGE:
        "A container's hostconfig.json contains only null, which makes dockerd crash when it starts.";
    ContainerHostConfigUnreadable, "container-host-config-unreadable", DAMAGE:
        "A container's hostconfig.json cannot be read or understood, so Docker leaves the container out.";
    ContainerImageMissing, "container-image-missing", NOTE:
        "The image that a container was made from is not there any more; the container itself still works.";
    ContainerImageMountMissing, "container-image-mount-missing", VARIES:
        "A container mounts an image, and the record of that mount is gone.";
    ContainerOfAnotherStore, "container-of-another-store", NOTE:
        "A container belongs to another storage driver, or to the containerd image store, and Docker skips it here.";
    ContainerUnreadable, "container-unreadable", DAMAGE:
        "The configuration of a container cannot be read or understood, so Docker does not know the container.";
    ContainerWithoutMount, "container-without-mount", VARIES:
        "The record of a container's writable layer is gone, so the container cannot start.";
    DatabaseDamaged, "database-damaged", DAMAGE:
        "A database that dockerd opens when it starts is damaged, so dockerd does not start.";
    DatabasePageDamaged, "database-page-damaged", DAMAGE:
        "A page of a database is damaged, so dockerd crashes when it reads that page.";
    DatabaseUnreadable, "database-unreadable", DAMAGE:
        "A database that dockerd opens when it starts cannot be read.";
    DirectoryUnknown, "directory-unknown", WARNING:
        "A damaged record does not say which directory it uses, so it may be any that nothing else names.";
    DistributionMismatch, "distribution-mismatch", WARNING:
        "Docker's records of which layer a downloaded file is contradict each other, so pulling or pushing it may go wrong.";
    DistributionRecordInvalid, "distribution-record-invalid", NOTE:
        "A record of what was pulled from a registry contains something that Docker does not understand and ignores.";
    DistributionUnreadable, "distribution-unreadable", NOTE:
        "A record of what was pulled from a registry cannot be read; Docker then only downloads more than it must.";
    DriverCommittedMissing, "driver-committed-missing", WARNING:
        "A layer lacks the file committed, by which the storage driver marks layers that others lie on.";
    DriverLinkLost, "driver-link-lost", VARIES:
        "The file link, in which a layer's directory says its short name, is missing or empty.";
    DriverLinkWrong, "driver-link-wrong", VARIES:
        "The file link of a layer's directory says the short name of another one, so what is made on it shows wrong files.";
    DriverLinksMissing, "driver-links-missing", DAMAGE:
        "The directory l, which holds the short names of all layers, is missing, so nothing can be mounted.";
    DriverLowerLost, "driver-lower-lost", VARIES:
        "The file that says which layers lie below names some that are not there.";
    DriverLowerMismatch, "driver-lower-mismatch", DAMAGE:
        "The storage driver would mount other layers below this one than the image has.";
    DriverLowerMissing, "driver-lower-missing", DAMAGE:
        "The file that says which layers lie below is missing, so they would not be mounted.";
    DriverMode, "driver-mode", WARNING:
        "A file or directory that the storage driver made has other permissions than the driver gives it.";
    DriverMountPointMissing, "driver-mount-point-missing", DAMAGE:
        "The directory at which the storage driver mounts a layer is missing, so it cannot be mounted.";
    DriverOwner, "driver-owner", WARNING:
        "A file or directory that the storage driver made belongs to another user or group than the driver gives it.";
    DriverShortNameLost, "driver-short-name-lost", VARIES:
        "The short name by which other layers refer to this one does not exist any more, so they cannot be mounted.";
    DriverShortNameWrong, "driver-short-name-wrong", VARIES:
        "The short name by which other layers refer to this one leads to another layer, so they show wrong files.";
    DriverSubvolumeMissing, "driver-subvolume-missing", VARIES:
        "A directory of the btrfs storage driver is a plain directory and no subvolume, so Docker cannot build on it.";
    DriverTreeMissing, "driver-tree-missing", DAMAGE:
        "The directory that holds the files of a layer or container is missing.";
    DriverUnreadable, "driver-unreadable", DAMAGE:
        "A file or directory of the storage driver cannot be read.";
    DriverWorkMissing, "driver-work-missing", DAMAGE:
        "The directory work, which the kernel needs to mount a layer or container for writing, is missing.";
    DriverWorkNeedless, "driver-work-needless", WARNING:
        "The directory work of a layer is missing; Docker since 20.10 mounts it without.";
    FileContent, "file-content", DAMAGE:
        "A file of a layer has other content than when the layer was made.";
    FileExtra, "file-extra", VARIES:
        "A layer's directory contains something that is not part of the layer.";
    FileMissing, "file-missing", DAMAGE:
        "A file or directory of a layer is missing.";
    FileSize, "file-size", DAMAGE:
        "A file of a layer is longer or shorter than when the layer was made.";
    FileUnreadable, "file-unreadable", DAMAGE:
        "A file of a layer cannot be read.";
    ImageAmbiguous, "image-ambiguous", NOTE:
        "The configuration of an image can be read in two ways, so another program may understand it differently.";
    ImageInvalid, "image-invalid", DAMAGE:
        "The configuration of an image was changed or cannot be understood, so Docker does not know the image.";
    ImageLayerMissing, "image-layer-missing", DAMAGE:
        "An image needs a layer that is missing or that Docker cannot load.";
    ImageMissing, "image-missing", DAMAGE:
        "The configuration of an image that the store once had is missing.";
    ImageParentInvalid, "image-parent-invalid", WARNING:
        "The record of which image another one was built from contains no image ID.";
    ImageParentMissing, "image-parent-missing", NOTE:
        "The image that another one was built from is not there any more; nothing needs it.";
    ImageTagTimeInvalid, "image-tag-time-invalid", WARNING:
        "The note of when an image was last tagged contains no time, so docker image inspect fails for the image.";
    ImageUnreadable, "image-unreadable", DAMAGE:
        "The configuration or another record of an image cannot be read.";
    LayerCacheIdShared, "layer-cache-id-shared", DAMAGE:
        "Several layers name one directory as their own, so all but one of them show wrong files.";
    LayerCacheIdWrong, "layer-cache-id-wrong", DAMAGE:
        "The entry of a layer names a directory that is not there, and the layers above are stacked on another one.";
    LayerChainMismatch, "layer-chain-mismatch", DAMAGE:
        "The record of a layer names another parent or content than the layer's ID is made of.";
    LayerDigestMismatch, "layer-digest-mismatch", DAMAGE:
        "All files of a layer are right, but its tar cannot be put together as it was, so the image cannot be saved.";
    LayerDirectoryMissing, "layer-directory-missing", DAMAGE:
        "The directory with the files of a layer is missing.";
    LayerHeadersUnknown, "layer-headers-unknown", WARNING:
        "The headers in a layer's tar-split file cannot be understood, so attributes of its files cannot be checked.";
    LayerMissing, "layer-missing", DAMAGE:
        "Docker has no record of a layer that images or containers need.";
    LayerNotLoadable, "layer-not-loadable", DAMAGE:
        "The record of a layer is incomplete or damaged, so Docker does not load it and cannot pull it again.";
    LayerSize, "layer-size", WARNING:
        "The size that Docker noted for a layer is not that of its files, so listings show a wrong size.";
    LayerTarSplitDamaged, "layer-tar-split-damaged", DAMAGE:
        "A layer's tar-split file is damaged, and without it Docker cannot save or push the layer.";
    LayerTarSplitMissing, "layer-tar-split-missing", DAMAGE:
        "A layer's tar-split file is missing, and without it Docker cannot save or push the layer.";
    LayerUnreadable, "layer-unreadable", DAMAGE:
        "The record of a layer cannot be read.";
    LowerDirectoryMissing, "lower-directory-missing", DAMAGE:
        "A directory of the storage driver stands on another one that is missing, so it cannot be mounted.";
    MountDirectoryMissing, "mount-directory-missing", DAMAGE:
        "The directory with what a container wrote, or the one it was prepared with, is missing.";
    MountLayerMissing, "mount-layer-missing", DAMAGE:
        "The record of a container's writable layer names an image layer that is missing.";
    MountMismatch, "mount-mismatch", VARIES:
        "The record of a container's writable layer contradicts the container's image or its directories.";
    MountNotLoadable, "mount-not-loadable", DAMAGE:
        "The record of a container's writable layer is incomplete or cannot be understood, so Docker does not load it.";
    MountUnreadable, "mount-unreadable", DAMAGE:
        "The record of a container's writable layer cannot be read.";
    NodeDevice, "node-device", DAMAGE:
        "A device file of a layer stands for another device than when the layer was made.";
    NodeKind, "node-kind", DAMAGE:
        "Something in a layer is of another kind than it was, such as a file in place of a directory.";
    NodeLink, "node-link", NOTE:
        "Two names of one file became two separate files with the same content.";
    NodeMode, "node-mode", DAMAGE:
        "A file or directory of a layer has other permissions than when the layer was made.";
    NodeMtime, "node-mtime", WARNING:
        "A file of a layer has another time of last change than when the layer was made.";
    NodeNotShared, "node-not-shared", WARNING:
        "Files that layers shared on disk became separate copies, which only takes more space.";
    NodeOwner, "node-owner", DAMAGE:
        "A file or directory of a layer belongs to another user or group than when the layer was made.";
    NodeTarget, "node-target", DAMAGE:
        "A symbolic link of a layer leads to another place than when the layer was made.";
    NodeXattr, "node-xattr", VARIES:
        "An extended attribute of a file or directory of a layer is missing, has another value, or is one too many.";
    NotMeasured, "not-measured", WARNING:
        "The size of something could not be measured, so the sizes that are shown are too small.";
    ReferenceInvalid, "reference-invalid", VARIES:
        "A name of an image leads to something that is no image ID.";
    ReferenceWithoutImage, "reference-without-image", VARIES:
        "A name leads to an image that is not there or that Docker does not accept.";
    ReferencesEmpty, "references-empty", VARIES:
        "The file with the names of all images contains no name, although there are images.";
    ReferencesMissing, "references-missing", VARIES:
        "The file with the names of all images is missing, although there are images.";
    ReferencesUnreadable, "references-unreadable", DAMAGE:
        "The file with the names of all images cannot be read or understood, so dockerd does not start.";
    TreeUnreadable, "tree-unreadable", DAMAGE:
        "The directory with the files of a layer cannot be read.";
    UnexpectedEntry, "unexpected-entry", NOTE:
        "Something lies in Docker's directories that no version of Docker puts there.";
    Unreadable, "unreadable", WARNING:
        "A file that says what is in use cannot be read, so it is unknown what it keeps.";
    WhiteoutExtra, "whiteout-extra", DAMAGE:
        "A layer's directory hides something of the layers below that the layer does not remove.";
    WhiteoutMissing, "whiteout-missing", DAMAGE:
        "A layer removes something of the layers below, and the mark that hides it is missing.";
    WhiteoutNeedless, "whiteout-needless", NOTE:
        "A layer's directory hides something that does not exist in the layers below.";
}

impl Code {
    /// Returns the stable name, in kebab-case (`layer-directory-missing`).
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns how bad findings of this code are; `None` where that depends on the object. What nothing needs is never
    /// more than a note.
    #[must_use]
    pub const fn severity(self) -> Option<Severity> {
        match self.row().weight {
            Weight::Is(severity) => Some(severity),
            Weight::Varies => None,
        }
    }

    /// Returns one sentence that says what is wrong, for people who know Docker and not its files.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        self.row().explanation
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Code {
    type Err = ParseError;

    fn from_str(name: &str) -> Result<Self, ParseError> {
        let known = Self::ALL.binary_search_by(|code| code.name().cmp(name));
        known.map(|at| Self::ALL[at]).map_err(|_| ParseError::new("the code of a finding", name.as_bytes()))
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the name that an identifier must have.
    fn kebab(code: Code) -> String {
        let mut name = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    #[test]
    fn names_are_those_of_the_enum_in_order() {
        assert!(Code::ALL.iter().all(|code| code.name() == kebab(*code)), "a name is not its identifier in kebab-case");
        assert!(Code::ALL.is_sorted_by(|a, b| a < b && a.name() < b.name()), "a name stands twice, or out of order");
    }

    #[test]
    fn each_code_is_one_sentence() {
        for code in Code::ALL {
            let text = code.explanation();
            let is_sentence = text.starts_with(char::is_uppercase) && text.ends_with('.') && !text.contains(". ");
            assert!(is_sentence && text.len() > 30, "{code}: {text}");
        }
    }

    #[test]
    fn names_are_read_back() {
        for code in Code::ALL {
            let json = serde_json::to_string(code).expect("a string");
            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Code>(&json).expect("a code"), *code);
        }
        let error = serde_json::from_str::<Code>("\"layer-gone\"").expect_err("no code");
        assert!(error.to_string().contains("expected the code of a finding, found \"layer-gone\""), "{error}");
    }
}
