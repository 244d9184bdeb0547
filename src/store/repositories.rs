//! Reads `image/<driver>/repositories.json`, the references to images.
//!
//! dockerd of every version writes it [moby refstore/store.go `save`], as compact JSON with sorted keys:
//!
//! ```json
//! {"Repositories":{"alpine":{"alpine:3.4":"sha256:<image>","alpine@sha256:<manifest>":"sha256:<image>"}}}
//! ```
//!
//! The inner key is the whole familiar reference. Digest references are made by pull and push only. The file is read
//! once, at start; a missing one is an empty one; a damaged one stops dockerd (`Couldn't create reference store
//! repository`). An entry that names an image which is not there is ignored and kept.

use std::collections::BTreeMap;

use super::Unknown;
use super::places::REFERENCES;
use crate::error::{FsError, ParseError};
use crate::finding::{Code, Finding, Severity, Thing};
use crate::fsx::{Dir, Kind};
use crate::id::ImageId;
use crate::json::{self, fields};
use crate::notes::{Notes, below};
use crate::reference::Reference;

/// Longest file that is read: some forty thousand references. What is made of it in memory, with what `verify` says of each,
/// is up to forty times as long.
pub(crate) const LIMIT: u64 = 6 << 20;

/// How many entries may make no sense, until the whole file makes none.
const MAX_INVALID: usize = 1000;

/// References, and entries whose value is not an image ID.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) valid: BTreeMap<String, ImageId>,
    pub(crate) invalid: Vec<(String, String)>,
}

/// References by the repositories that they belong to.
type Repositories = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Default)]
struct Document {
    repositories: Repositories,
}
fields!(Document { "Repositories" => repositories });

/// Reads the text of the file, where there is only one way to read it.
fn read_text(bytes: &[u8]) -> Result<Repositories, ParseError> {
    let expected = "a JSON object of references";
    let read = json::read(bytes).map_err(|error| ParseError::because(expected, error))?;
    let document: Document = read.plain().map_err(|odd| ParseError::because(expected, odd))?;
    Ok(document.repositories)
}

/// Parses the file. Fails where dockerd refuses to start; entries that make no sense are told apart.
pub(crate) fn parse(bytes: &[u8]) -> Result<References, ParseError> {
    let mut references = References::default();
    for (reference, image) in read_text(bytes)?.into_values().flatten() {
        match image.parse() {
            Ok(image) => {
                references.valid.insert(reference, image);
            }
            Err(error) if references.invalid.len() == MAX_INVALID => return Err(error),
            Err(_) => references.invalid.push((reference, image)),
        }
    }
    Ok(references)
}

/// Puts references into the text of the file, as dockerd would write it; what else it says is kept. `None`
/// stands for a file that is not there.
pub(crate) fn merge<'a>(
    bytes: Option<&[u8]>,
    references: impl IntoIterator<Item = (&'a str, ImageId)>,
) -> Result<Vec<u8>, ParseError> {
    #[derive(serde::Serialize)]
    struct Whole {
        #[serde(rename = "Repositories")]
        repositories: Repositories,
    }
    let mut whole = Whole { repositories: bytes.map(read_text).transpose()?.unwrap_or_default() };
    for (reference, image) in references {
        let repository = repository_of(reference).to_owned();
        let entries = whole.repositories.entry(repository).or_default();
        entries.insert(reference.to_owned(), image.to_string());
    }
    let text = serde_json::to_string(&whole).map_err(|error| ParseError::because("references", error))?;
    // As Go escapes it. These characters stand in text only.
    Ok(text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e").into_bytes())
}

/// Finds what references can still be read in a damaged file: each name that an image ID follows.
pub(crate) fn salvage(bytes: &[u8]) -> BTreeMap<String, ImageId> {
    // Neither names nor IDs have a quotation mark or an escape in them.
    let text = String::from_utf8_lossy(bytes);
    let parts: Vec<&str> = text.split('"').collect();
    let pairs = parts.windows(4).filter(|window| window[1].trim() == ":");
    pairs
        .filter(|window| Reference::is_key(window[0]))
        .filter_map(|window| Some((window[0].to_owned(), window[2].parse().ok()?)))
        .collect()
}

/// Returns the repository that a reference of the file belongs to.
fn repository_of(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or_default();
    let slash = name.rfind('/').map_or(0, |slash| slash + 1);
    name[slash..].find(':').map_or(name, |colon| &name[..slash + colon])
}

/// Reads the file of `image`, which is `image/<driver>` at the path `at` below the data root.
pub(super) fn read(image: &Dir, at: &str) -> (BTreeMap<String, ImageId>, Notes) {
    let mut notes = Notes::default();
    let path = below(at, REFERENCES);
    for entry in notes.list(image, at, Unknown::References) {
        let known = matches!(entry.name.as_slice(), b"repositories.json" | b"imagedb" | b"layerdb" | b"distribution");
        if !known && entry.kind == Kind::File {
            notes.unexpected(at, &entry.name, "nothing that dockerd reads");
        }
    }
    let bytes = match FsError::found(image.read(REFERENCES, LIMIT)) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return (BTreeMap::new(), notes),
        Err(error) => {
            notes.unlisted(Unknown::References, &path, error);
            return (BTreeMap::new(), notes);
        }
    };
    match parse(&bytes) {
        Ok(references) => {
            for (reference, image) in references.invalid {
                let evidence = format!("expected an image ID, found {:?}", image.chars().take(80).collect::<String>());
                let finding = Finding::new(Code::ReferenceInvalid, Thing::Reference(reference), evidence);
                notes.findings.push(finding.as_bad_as(Severity::Warning));
            }
            (references.valid, notes)
        }
        Err(error) => {
            notes.unreadable(Unknown::References, &path, error);
            (BTreeMap::new(), notes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "sha256:1da0e48557625a4d36d61f73e19171eafed4d7f983fb0f733598abdb67a05ebf";

    #[test]
    fn tags_and_digests() {
        let text =
            format!(r#"{{"Repositories":{{"a":{{"a:1":"{ID}","a@{ID}":"{ID}"}},"b\u003cc":{{"b\u003cc:1":"x"}}}}}}"#);
        let references = parse(text.as_bytes()).expect("parses");
        assert_eq!(references.valid.keys().collect::<Vec<_>>(), ["a:1", &format!("a@{ID}")]);
        assert_eq!(references.invalid, [("b<c:1".to_owned(), "x".to_owned())]);
    }

    #[test]
    fn empty_stores_of_all_forms() {
        for text in
            [r#"{"Repositories":{}}"#, r#"{"Repositories":null}"#, "{}", "null", r#"{"Repositories":{"a":null}}"#]
        {
            assert_eq!(parse(text.as_bytes()), Ok(References::default()), "{text}");
            let image = ID.parse().expect("an ID");
            let merged = merge(Some(text.as_bytes()), [("a:1", image)]).expect("it takes more");
            assert_eq!(parse(&merged).expect("parses").valid, BTreeMap::from([("a:1".to_owned(), image)]), "{text}");
        }
    }

    #[test]
    fn what_is_left_of_a_damaged_file() {
        let text =
            format!(r#"{{"Repositories":{{"a":{{"a:1":"{ID}","a@{ID}":"{ID}"}},"b":{{"b:1":"{ID}","b:2":"sha256:1da"#);
        let left = salvage(text.as_bytes());
        assert_eq!(left.keys().collect::<Vec<_>>(), ["a:1", &format!("a@{ID}"), "b:1"]);
        assert!(salvage(b"\0\0\0").is_empty());
        assert!(salvage(format!(r#""a:1":"{ID}"#).as_bytes()).is_empty(), "an ID that is cut may be another's");
    }

    #[test]
    fn what_stops_dockerd_is_an_error() {
        for text in ["", "{", "[1]", r#"{"Repositories":{"a":{"a:1":1}}}"#, "\0\0\0\0"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
