//! Reads `image/<driver>/distribution/`, what pull and push remember of registries.
//!
//! | path | content [moby distribution/metadata/v2_metadata_service.go] |
//! |---|---|
//! | `diffid-by-digest/sha256/<blob>` | `sha256:<hex>`: diff ID of the content of a compressed blob |
//! | `v2metadata-by-diffid/sha256/<diff>` | JSON array of `{"Digest","SourceRepository","HMAC"}`, newest last, at most 50 |
//!
//! A pure cache, of every version: a stale record costs a download. Removing an image leaves its records.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::layerdb::parse_digest;
use super::places;
use super::{Distribution, Unknown};
use crate::error::{FsError, ParseError};
use crate::finding::{Code, Finding};
use crate::fsx::Dir;
use crate::id::{BlobDigest, DiffId};
use crate::notes::{Notes, below};

/// Longest record that is read; 50 sources of a layer take some 15 KiB.
const LIMIT: u64 = 1 << 20;

/// Reads the records below `image`, which is `image/<driver>` at the path `at` below the data root.
pub(super) fn read(image: &Dir, at: &str) -> (Distribution, Notes) {
    let mut notes = Notes::default();
    let distribution = Distribution {
        diff_id_by_digest: read_map(image, at, places::DIFF_ID_BY_DIGEST, &mut notes, |name, text| {
            Ok((BlobDigest::from_hex(name)?, parse_digest(&text)?))
        }),
        v2_metadata_by_diff_id: read_map(image, at, places::V2_METADATA_BY_DIFF_ID, &mut notes, |name, text| {
            Ok((DiffId::from_hex(name)?, parse_sources(text)?))
        }),
    };
    (distribution, notes)
}

/// Takes the text of a `v2metadata-by-diffid` record as it is when it is a JSON array.
fn parse_sources(text: Vec<u8>) -> Result<String, ParseError> {
    let expected = "a JSON array of sources";
    let text = String::from_utf8(text).map_err(|error| ParseError::because(expected, error))?;
    let _: Vec<serde::de::IgnoredAny> =
        serde_json::from_str(&text).map_err(|error| ParseError::because(expected, error))?;
    Ok(text)
}

fn read_map<K: Ord + Send, V: Send>(
    image: &Dir,
    at: &str,
    path: &str,
    notes: &mut Notes,
    parse: impl Fn(&[u8], Vec<u8>) -> Result<(K, V), ParseError> + Sync,
) -> BTreeMap<K, V> {
    let at = below(at, path);
    let Some(dir) = notes.open(image, path, &at, Unknown::Distribution) else { return BTreeMap::new() };
    let entries = notes.list(&dir, &at, Unknown::Distribution);
    let read: Vec<_> = entries.par_iter().map(|entry| (entry, FsError::found(dir.read(&entry.name, LIMIT)))).collect();
    let mut map = BTreeMap::new();
    for (entry, text) in read {
        let path = || below(&at, entry.name.escape_ascii());
        match text {
            Ok(None) => {}
            Err(error) => notes.unreadable(Unknown::Distribution, path(), error),
            Ok(Some(text)) => match parse(&entry.name, text) {
                Ok((key, value)) => {
                    map.insert(key, value);
                }
                Err(error) => notes.findings.push(Finding::new(Code::DistributionRecordInvalid, path(), error)),
            },
        }
    }
    map
}
