//! From a word that a person wrote to the image it means, as Docker would take it.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::id::{ImageId, Sha256};
use crate::reference::Reference;
use crate::store::Snapshot;

/// How many near references an error names.
const NEAR: usize = 3;
/// How alike the repository must be for a reference to be named, from 0 to 1.
const LIKENESS: f64 = 0.6;

/// An image that was asked for, with the references it was asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The image.
    pub image: ImageId,
    /// Keys of [`Snapshot::references`]; none where the image was asked for by its ID.
    pub references: BTreeSet<String>,
}

/// Finds the one image that `wanted` means: a tag (`nginx` means `nginx:latest`), a digest reference, an ID with or
/// without `sha256:`, or the beginning of an ID that only one image has. Docker's order: names before prefixes.
///
/// # Errors
/// [`Error::NoSuchImage`] and [`Error::AmbiguousPrefix`].
pub fn resolve_image(snapshot: &Snapshot, wanted: &str) -> Result<ImageId> {
    if let Some(id) = by_full_id(wanted) {
        return snapshot.images.contains_key(&id).then_some(id).ok_or_else(|| no_such(snapshot, wanted));
    }
    match by_key(snapshot, wanted) {
        Some((_, id)) => Ok(id),
        None => by_prefix(snapshot, wanted),
    }
}

/// Finds all images that each of `wanted` means, as `docker save` takes them: a repository without a tag means
/// all its tags; any other word means what [`resolve_image`] says. Images come in the order they were asked for, each once.
///
/// # Errors
/// As [`resolve_image`].
pub fn select_images<W: AsRef<str>>(snapshot: &Snapshot, wanted: impl IntoIterator<Item = W>) -> Result<Vec<Selected>> {
    let mut selected: Vec<Selected> = Vec::new();
    let mut place: BTreeMap<ImageId, usize> = BTreeMap::new();
    for word in wanted {
        for (id, references) in select(snapshot, word.as_ref())? {
            let at = *place.entry(id).or_insert_with(|| {
                selected.push(Selected { image: id, references: BTreeSet::new() });
                selected.len() - 1
            });
            selected[at].references.extend(references);
        }
    }
    Ok(selected)
}

/// Selects every image of the store with all its references, sorted by ID.
#[must_use]
pub fn select_all(snapshot: &Snapshot) -> Vec<Selected> {
    let mut all: BTreeMap<ImageId, BTreeSet<String>> =
        snapshot.images.keys().map(|id| (*id, BTreeSet::new())).collect();
    for (key, id) in &snapshot.references {
        if let Some(references) = all.get_mut(id) {
            references.insert(key.clone());
        }
    }
    all.into_iter().map(|(image, references)| Selected { image, references }).collect()
}

fn select(snapshot: &Snapshot, word: &str) -> Result<Vec<(ImageId, Option<String>)>> {
    if by_full_id(word).is_some() {
        return Ok(vec![(resolve_image(snapshot, word)?, None)]);
    }
    if let Ok(reference) = word.parse::<Reference>()
        && reference.is_name_only()
    {
        let tags = tags_of(snapshot, &reference);
        if !tags.is_empty() {
            return Ok(tags);
        }
    }
    match by_key(snapshot, word) {
        Some((key, id)) => Ok(vec![(id, Some(key))]),
        None => Ok(vec![(by_prefix(snapshot, word)?, None)]),
    }
}

/// Returns every reference of a repository to an image that is there.
fn tags_of(snapshot: &Snapshot, name: &Reference) -> Vec<(ImageId, Option<String>)> {
    let repository = name.repository.familiar();
    snapshot
        .references
        .range(repository.clone()..)
        .take_while(|(key, _)| key.starts_with(&repository))
        .filter(|(key, id)| key[repository.len()..].starts_with([':', '@']) && snapshot.images.contains_key(id))
        .filter(|(key, _)| key.parse::<Reference>().is_ok_and(|found| found.repository == name.repository))
        .map(|(key, id)| (*id, Some(key.clone())))
        .collect()
}

fn by_full_id(wanted: &str) -> Option<ImageId> {
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    Sha256::from_hex(hex.as_bytes()).ok().map(ImageId)
}

fn by_key(snapshot: &Snapshot, wanted: &str) -> Option<(String, ImageId)> {
    let key = wanted.parse::<Reference>().ok()?.or_latest().key();
    let id = *snapshot.references.get(&key)?;
    snapshot.images.contains_key(&id).then_some((key, id))
}

fn by_prefix(snapshot: &Snapshot, wanted: &str) -> Result<ImageId> {
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let Some(range) = prefix_range(hex) else { return Err(no_such(snapshot, wanted)) };
    let range = ImageId(range.0)..=ImageId(range.1);
    let found: Vec<ImageId> = snapshot.images.range(range).map(|(id, _)| *id).collect();
    match found[..] {
        [] => Err(no_such(snapshot, wanted)),
        [id] => Ok(id),
        _ => Err(Error::AmbiguousPrefix {
            wanted: wanted.to_owned(),
            images: found.iter().map(ImageId::short).collect(),
        }),
    }
}

/// Returns the least and the greatest digest that begin with `prefix`: 1 to 64 lower-case hexadecimal digits.
#[must_use]
pub fn prefix_range(prefix: &str) -> Option<(Sha256, Sha256)> {
    if prefix.is_empty() || prefix.len() > 64 {
        return None;
    }
    let filled = |with: &str| Sha256::from_hex(format!("{prefix}{}", with.repeat(64 - prefix.len())).as_bytes()).ok();
    Some((filled("0")?, filled("f")?))
}

fn no_such(snapshot: &Snapshot, wanted: &str) -> Error {
    Error::NoSuchImage { wanted: wanted.to_owned(), near: near(snapshot, wanted) }
}

/// Names the references that are spelled most like `wanted`, nearest first. The repository decides; the tag
/// only orders what is equally near.
fn near(snapshot: &Snapshot, wanted: &str) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let asked = wanted.parse::<Reference>().ok();
    let name = asked.as_ref().map_or_else(|| wanted.clone(), |asked| asked.repository.familiar());
    let tag = asked.and_then(|asked| asked.or_latest().tag).unwrap_or_default();
    let mut scored: Vec<(f64, &str)> = Vec::new();
    for (key, id) in &snapshot.references {
        let Some((repository, found_tag)) = key.rsplit_once(':') else { continue };
        if key.contains('@') || !snapshot.images.contains_key(id) {
            continue;
        }
        let last = repository.rsplit('/').next().unwrap_or(repository);
        let likeness = strsim::normalized_damerau_levenshtein(&name, repository)
            .max(strsim::normalized_damerau_levenshtein(&name, last) * 0.99);
        if likeness >= LIKENESS {
            let by_tag = strsim::normalized_damerau_levenshtein(&tag, found_tag);
            scored.push((likeness + by_tag / 10.0, key));
        }
    }
    scored.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(other.1)));
    scored.truncate(NEAR);
    scored.into_iter().map(|(_, key)| key.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Image;

    fn id(text: &str) -> ImageId {
        ImageId(prefix_range(text).expect("digits").0)
    }

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for digits in ["0ae090", "0ae1", "245f", "deadbeef"] {
            snapshot.images.insert(
                id(digits),
                Image {
                    config: Vec::new(),
                    diff_ids: Vec::new(),
                    created: None,
                    architecture: "amd64".into(),
                    os: "linux".into(),
                    parent: None,
                    last_updated: None,
                    built_locally: None,
                },
            );
        }
        let digest = "sha256:aa0daf2b17c370a1da371a767110a43b390a9db90b90d2d1b07862dc81754d61";
        for (key, digits) in [
            ("nginx:alpine", "0ae090"),
            ("nginx:latest", "0ae1"),
            (&format!("nginx@{digest}"), "0ae090"),
            ("nginx-extra:1", "0ae1"),
            ("alpine:3.4", "245f"),
            ("ghcr.io:443/me/app:1", "245f"),
            ("beef:latest", "245f"),
            ("gone:latest", "99"),
        ] {
            snapshot.references.insert(key.to_owned(), id(digits));
        }
        snapshot
    }

    #[test]
    fn words_that_mean_one_image() {
        let snapshot = snapshot();
        let full = id("0ae090");
        for (word, digits) in [
            ("nginx:alpine", "0ae090"),
            ("docker.io/library/nginx:alpine", "0ae090"),
            ("nginx", "0ae1"),
            ("nginx@sha256:aa0daf2b17c370a1da371a767110a43b390a9db90b90d2d1b07862dc81754d61", "0ae090"),
            ("nginx:old@sha256:aa0daf2b17c370a1da371a767110a43b390a9db90b90d2d1b07862dc81754d61", "0ae090"),
            (&full.hex(), "0ae090"),
            (&full.to_string(), "0ae090"),
            ("sha256:0ae09", "0ae090"),
            ("2", "245f"),
            ("ghcr.io:443/me/app:1", "245f"),
            // A name wins over the same letters as a prefix.
            ("beef", "245f"),
            ("dead", "deadbeef"),
        ] {
            assert_eq!(resolve_image(&snapshot, word).ok(), Some(id(digits)), "{word}");
        }
    }

    #[test]
    fn words_that_mean_none() {
        let snapshot = snapshot();
        let near = |word: &str| match resolve_image(&snapshot, word) {
            Err(Error::NoSuchImage { near, .. }) => near,
            other => panic!("{word}: {other:?}"),
        };
        assert_eq!(near("ngnix"), ["nginx:latest", "nginx:alpine"]);
        assert_eq!(near("Nginx:alpine")[0], "nginx:alpine");
        assert_eq!(near("nginx:1.11"), ["nginx:alpine", "nginx:latest"]);
        assert_eq!(near("app"), ["ghcr.io:443/me/app:1"]);
        assert_eq!(near("gone"), Vec::<String>::new());
        assert_eq!(near(""), Vec::<String>::new());
        assert_eq!(near("sha256:"), Vec::<String>::new());
        assert_eq!(near("0AE0"), Vec::<String>::new());
        assert_eq!(near(&id("77").hex()), Vec::<String>::new());
    }

    #[test]
    fn a_prefix_of_two_images() {
        match resolve_image(&snapshot(), "0ae") {
            Err(Error::AmbiguousPrefix { images, .. }) => assert_eq!(images, ["0ae090000000", "0ae100000000"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_repository_means_all_its_tags() {
        let snapshot = snapshot();
        let selected = select_images(&snapshot, ["nginx", "245f", "alpine:3.4"]).expect("all there");
        assert_eq!(selected.len(), 3);
        assert_eq!(selected[0].image, id("0ae090"));
        assert_eq!(selected[0].references.len(), 2);
        assert_eq!(selected[1].references.iter().collect::<Vec<_>>(), ["nginx:latest"]);
        assert_eq!(selected[2].references.iter().collect::<Vec<_>>(), ["alpine:3.4"]);
        assert_eq!(select_all(&snapshot).len(), 4);
    }
}
