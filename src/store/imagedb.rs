//! Reads `image/<driver>/imagedb/`, the images.
//!
//! | path | content | written by |
//! |---|---|---|
//! | `content/sha256/<id>` | the configuration, byte for byte; its SHA-256 is the name | all [moby image/fs.go `Set`] |
//! | `metadata/sha256/<id>/parent` | `sha256:<hex>` of the image it was built from | classic builder, commit, load |
//! | `metadata/sha256/<id>/lastUpdated` | RFC 3339 with nanoseconds | 17.07+, when tagged by hand |
//! | `metadata/sha256/<id>/builtLocally` | one byte 1 | 26.0+ and some backports |
//!
//! A configuration is read as dockerd reads it (`json`). One with a field of another type than dockerd takes is skipped by it
//! too; one with keys in another case, or twice, is read. Of both it is in doubt what they need, so no layer is garbage beside
//! them.
//!
//! An image without a metadata directory is normal. dockerd ignores names that are no digests, and skips files that
//! are not what their name says or have no `rootfs` [moby image/store.go `restore`]: such an image holds no layer and
//! cannot be removed through the API.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::places;
use super::{Image, StrayKind, Unknown, Unreadable};
use crate::error::{FsError, ParseError};
use crate::finding::{Code, Finding, Object, Thing};
use crate::fsx::{Dir, Entry, Kind};
use crate::id::{DiffId, ImageId, Sha256};
use crate::image_config::{ConfigError, ImageConfig};
use crate::json::{JsonError, is_time};
use crate::notes::{Notes, below};

/// Longest configuration that is read. Registries take 4 MiB.
const CONFIG_LIMIT: u64 = 32 << 20;

/// Longest file below `metadata/` that is read.
const METADATA_LIMIT: u64 = 4096;

/// Images that are what they say.
pub(super) type Images = BTreeMap<ImageId, Image>;

/// Why a configuration is not the one of an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Invalid {
    /// Its content is another, or none: dockerd skips it.
    #[error(transparent)]
    Content(ParseError),
    /// It is the right content, and says something that dockerd does not take: dockerd skips it, but somebody made it.
    #[error("dockerd does not take it: {0}")]
    Refused(String),
}

/// Parses a configuration and proves that it is the one of `id`. There is no metadata in it yet.
///
/// # Errors
/// What makes dockerd skip the image.
pub(crate) fn parse(id: ImageId, config: Vec<u8>) -> Result<Image, Invalid> {
    parse_odd(id, config).map(|(image, _)| image)
}

/// As [`parse`]; also tells what can be read in two ways.
fn parse_odd(id: ImageId, config: Vec<u8>) -> Result<(Image, Option<String>), Invalid> {
    let digest = ImageId(Sha256::of(&config));
    if digest != id {
        let (wanted, found) = (format!("bytes of digest {id}"), format!("bytes of digest {digest}"));
        return Err(Invalid::Content(ParseError::because(wanted, found)));
    }
    let view = match ImageConfig::parse(&config) {
        Ok(view) => view,
        Err(ConfigError::Json(error @ JsonError::Type { .. })) => return Err(Invalid::Refused(error.to_string())),
        Err(error) => return Err(Invalid::Content(ParseError::because("the configuration of an image", error))),
    };
    let diff_ids = view.value.diff_ids().iter().map(|diff| diff.parse()).collect::<Result<Vec<DiffId>, _>>();
    let v1 = view.value.v1;
    let image = Image {
        config,
        diff_ids: diff_ids.map_err(|error| Invalid::Refused(error.to_string()))?,
        created: v1.created.map(|created| created.0),
        architecture: v1.architecture,
        os: if v1.os.is_empty() { "linux".to_owned() } else { v1.os },
        parent: None,
        last_updated: None,
        built_locally: None,
    };
    Ok((image, view.odd))
}

/// Reads the images below `image`, which is `image/<driver>` at the path `at` below the data root.
pub(super) fn read(image: &Dir, at: &str) -> (Images, Notes) {
    let (mut images, present, mut notes) = read_content(image, &below(at, places::IMAGES));
    let at = below(at, places::METADATA);
    let Some(dir) = notes.open(image, places::METADATA, &at, Unknown::Images) else { return (images, notes) };
    let entries = notes.list(&dir, &at, Unknown::Images);
    let read: Vec<_> = entries.par_iter().map(|entry| (entry, read_metadata(&dir, &at, entry))).collect();
    for (entry, (metadata, more)) in read {
        notes.append(more);
        let id = ImageId::from_hex(&entry.name);
        match id.as_ref().ok().and_then(|id| images.get_mut(id)) {
            Some(image) => {
                image.parent = metadata.parent;
                image.last_updated = metadata.last_updated;
                image.built_locally = metadata.built_locally;
            }
            None if id.is_err() => notes.unexpected(&at, &entry.name, "expected the ID of an image"),
            // An image that is there but damaged keeps its metadata: loading it again heals it.
            None if present.contains(&entry.name) => {}
            None => notes.stray(StrayKind::MetadataWithoutContent, &at, &entry.name, None),
        }
    }
    (images, notes)
}

/// Returns the images, the names of all files, and notes.
fn read_content(image: &Dir, at: &str) -> (Images, BTreeSet<Vec<u8>>, Notes) {
    let mut notes = Notes::default();
    let Some(dir) = notes.open(image, places::IMAGES, at, Unknown::Images) else {
        return (Images::new(), BTreeSet::new(), notes);
    };
    let entries = notes.list(&dir, at, Unknown::Images);
    let read: Vec<_> = entries.par_iter().map(|entry| (entry, read_image(&dir, entry))).collect();
    let mut images = Images::new();
    for (entry, result) in read {
        match result {
            Ok(Some((id, image, odd))) => {
                images.insert(id, image);
                if let Some(odd) = odd {
                    let path = below(at, id.hex());
                    notes.doubtful(Unknown::Images, &path, &odd);
                    notes.findings.push(Finding::new(Code::ImageAmbiguous, Object::at(Thing::Image(id), path), odd));
                }
            }
            Ok(None) => {}
            Err(Bad::Name) => notes.unexpected(at, &entry.name, "expected a file with the ID of an image as its name"),
            Err(Bad::Unreadable(error)) => {
                notes.unreadable(Unknown::Images, object_of(at, entry), error);
            }
            Err(Bad::Invalid(error)) => {
                let path = below(at, entry.name.escape_ascii());
                if let Invalid::Refused(reason) = &error {
                    notes.doubtful(Unknown::Images, &path, reason);
                }
                notes.findings.push(Finding::new(Code::ImageInvalid, object_of(at, entry), error));
                notes.stray(StrayKind::InvalidImage, at, &entry.name, None);
            }
        }
    }
    (images, entries.into_iter().map(|entry| entry.name).collect(), notes)
}

/// Returns the image that an entry of this name, in the directory `at`, is of.
fn object_of(at: &str, entry: &Entry) -> Object {
    let thing = ImageId::from_hex(&entry.name).ok().map(Thing::Image);
    Object::maybe_at(thing, below(at, entry.name.escape_ascii()))
}

/// Why an entry of `content/sha256` is no image.
enum Bad {
    Name,
    Unreadable(FsError),
    Invalid(Invalid),
}

/// An image with its ID, and what can be read in two ways of it.
type Named = (ImageId, Image, Option<String>);

fn read_image(dir: &Dir, entry: &Entry) -> Result<Option<Named>, Bad> {
    let id = ImageId::from_hex(&entry.name).map_err(|_| Bad::Name)?;
    if entry.kind != Kind::File {
        return Err(Bad::Name);
    }
    let Some(config) = FsError::found(dir.read(&entry.name, CONFIG_LIMIT)).map_err(Bad::Unreadable)? else {
        return Ok(None);
    };
    parse_odd(id, config).map(|(image, odd)| Some((id, image, odd))).map_err(Bad::Invalid)
}

#[derive(Default)]
struct Metadata {
    parent: Option<ImageId>,
    last_updated: Option<Vec<u8>>,
    built_locally: Option<Vec<u8>>,
}

fn read_metadata(dir: &Dir, at: &str, entry: &Entry) -> (Metadata, Notes) {
    let mut metadata = Metadata::default();
    let mut notes = Notes::default();
    let object = object_of(at, entry);
    let at = below(at, entry.name.escape_ascii());
    if entry.kind != Kind::Directory {
        return (metadata, notes);
    }
    let dir = match FsError::found(dir.dir(&entry.name)) {
        Ok(Some(dir)) => dir,
        Ok(None) => return (metadata, notes),
        Err(error) => {
            notes.unreadable(Unknown::Images, object, error);
            return (metadata, notes);
        }
    };
    for file in notes.list_one(&dir, &object, Unknown::Images) {
        let bytes = match FsError::found(dir.read(&file.name, METADATA_LIMIT)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(error) => {
                notes.unreadable(Unknown::Images, below(&at, file.name.escape_ascii()), error);
                continue;
            }
        };
        match file.name.as_slice() {
            b"parent" => match std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default().parse() {
                Ok(parent) => metadata.parent = Some(parent),
                Err(error) => {
                    // Which image it was built from is unknown, not nothing.
                    let path = below(&at, "parent");
                    notes.findings.push(Finding::new(Code::ImageParentInvalid, &path, &error));
                    notes.unreadable.push(Unreadable { what: Unknown::Images, path, reason: error.to_string() });
                }
            },
            b"lastUpdated" => {
                // One that is empty is none to dockerd.
                if !bytes.is_empty() && !is_time(&bytes) {
                    let evidence = "it is no time, so docker image inspect fails until the image is tagged again";
                    notes.findings.push(Finding::new(Code::ImageTagTimeInvalid, below(&at, "lastUpdated"), evidence));
                }
                metadata.last_updated = Some(bytes);
            }
            b"builtLocally" => metadata.built_locally = Some(bytes),
            name => notes.unexpected(&at, name, "nothing that dockerd reads"),
        }
    }
    (metadata, notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_named(config: &str) -> Result<Image, Invalid> {
        parse(ImageId(Sha256::of(config.as_bytes())), config.into())
    }

    #[test]
    fn an_image_without_layers() {
        let image = parse_named(r#"{"rootfs":{"type":"layers"},"os":"","x":[1]}"#).expect("parses");
        assert_eq!((image.os.as_str(), image.diff_ids.len(), image.top()), ("linux", 0, None));
    }

    #[test]
    fn what_can_be_read_in_two_ways() {
        let odd = |config: &str| {
            let id = ImageId(Sha256::of(config.as_bytes()));
            parse_odd(id, config.into()).expect("an image").1.is_some()
        };
        assert!(!odd(r#"{"rootfs":{"type":"layers"},"config":{"Labels":{"a":"1","A":"2"}}}"#));
        assert!(odd(r#"{"rootfS":{"type":"layers"}}"#));
        assert!(odd(r#"{"rootfs":{},"rootfs":{}}"#));
        assert!(odd(r#"{"rootfs":{"Diff_IDs":[]}}"#));
    }

    #[test]
    fn other_types_are_not_taken_for_damage() {
        for config in [r#"{"rootfs":[]}"#, r#"{"rootfs":{},"created":1}"#, r#"{"rootfs":{"diff_ids":["sha256:1"]}}"#] {
            assert!(matches!(parse_named(config), Err(Invalid::Refused(_))), "{config}");
        }
        assert!(matches!(parse_named("x"), Err(Invalid::Content(_))));
    }

    #[test]
    fn what_dockerd_skips() {
        for config in ["", "{}", r#"{"rootfs":null}"#, r#"{"rootfs":{"diff_ids":["sha256:1"]}}"#, "[]"] {
            assert!(parse_named(config).is_err(), "{config}");
        }
        assert!(parse(ImageId(Sha256::of(b"x")), br#"{"rootfs":{}}"#.to_vec()).is_err());
    }
}
