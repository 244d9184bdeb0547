//! Archives from before Docker 1.10: images of version 1, each a layer with a configuration of its own.
//!
//! ```text
//! repositories        {"<repository>":{"<tag>":"<id>"}}
//! <id>/json           the configuration, with "id" and "parent"
//! <id>/layer.tar
//! <id>/VERSION        1.0
//! ```
//!
//! dockerd makes an image of each of them [moby image/tarexport/load.go `legacyLoadImage`, image/v1/imagev1.go
//! `MakeConfigFromV1Config`]. The same configuration is made here, so that the IDs are the same. (Of images that Docker
//! before 1.8.3 made, dockerd leaves out fields that it does not know; they are kept here, and the IDs are then others.)

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::id::{DiffId, ImageId, Sha256};
use crate::progress::Observer;
use crate::reference::Reference;

use super::documents::Repositories;
use super::images::{ForeignImage, ForeignLayer, Problem};
use super::members::{Catalog, CatalogError};
use super::platform::Platform;

/// Fields of a configuration of version 1 that one of today has not.
const GONE: [&str; 6] = ["id", "parent", "Size", "parent_id", "layer_id", "throwaway"];

/// What a configuration of version 1 says, as far as it is needed.
#[derive(Debug, Deserialize)]
struct View {
    parent: Option<String>,
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    container_config: Option<ContainerConfig>,
    #[serde(flatten)]
    platform: Platform,
}

#[derive(Debug, Deserialize)]
struct ContainerConfig {
    #[serde(rename = "Cmd")]
    cmd: Option<Vec<String>>,
}

/// A step of an image's history, with its fields in Go's order.
#[derive(Debug, Clone, Serialize)]
struct Step {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

#[derive(Debug, Serialize)]
struct RootFs<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    diff_ids: &'a [DiffId],
}

/// Makes images of all that tags lead to, parents first.
pub(super) fn images(
    catalog: &Catalog,
    repositories: &Repositories,
    observer: &dyn Observer,
) -> Result<Result<Vec<ForeignImage>, Problem>, CatalogError> {
    let mut work = Work { catalog, observer, made: BTreeMap::new(), images: Vec::new() };
    for (repository, tags) in repositories {
        for (tag, id) in tags {
            let name = format!("{repository}:{tag}");
            let Ok(reference) = name.parse::<Reference>() else {
                return Ok(Err(problem("repositories", format!("\"{}\" is no tag", name.escape_debug()))));
            };
            match work.image(id)? {
                Ok(at) => drop(work.images[at].references.insert(reference.key())),
                Err(problem) => return Ok(Err(problem)),
            }
        }
    }
    Ok(Ok(work.images))
}

struct Work<'a> {
    catalog: &'a Catalog,
    observer: &'a dyn Observer,
    /// Images by their names of version 1, with the history of each.
    made: BTreeMap<String, (usize, Vec<Step>)>,
    images: Vec<ForeignImage>,
}

impl Work<'_> {
    /// Makes the image of this name and all below it; returns its number.
    fn image(&mut self, id: &str) -> Result<Result<usize, Problem>, CatalogError> {
        let mut stack: Vec<(String, Vec<u8>, View)> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = Some(id.to_owned());
        while let Some(id) = next.filter(|id| !self.made.contains_key(id)) {
            let path = format!("{id}/json");
            let is_name = !id.is_empty() && !id.contains('/') && id != "." && id != "..";
            if !is_name || !seen.insert(id.clone()) {
                return Ok(Err(problem(&path, "its parents lead nowhere")));
            }
            let Some(json) = self.catalog.document(&path)? else { return Ok(Err(missing(&path))) };
            let view: View = match serde_json::from_slice(&json) {
                Ok(view) => view,
                Err(error) => return Ok(Err(problem(&path, error))),
            };
            next = view.parent.clone().filter(|parent| !parent.is_empty());
            stack.push((id, json, view));
        }
        while let Some((id, json, view)) = stack.pop() {
            if let Some(problem) = self.make(&id, &json, view)? {
                return Ok(Err(problem));
            }
        }
        Ok(Ok(self.made[id].0))
    }

    fn make(&mut self, id: &str, json: &[u8], view: View) -> Result<Option<Problem>, CatalogError> {
        let path = format!("{id}/layer.tar");
        let Some((member, length)) = self.catalog.find(&path)? else { return Ok(Some(missing(&path))) };
        let diff = DiffId(self.catalog.digests(&member, self.observer)?.content);
        let below = view.parent.as_ref().and_then(|parent| self.made.get(parent));
        let (parent, mut history) = match below {
            Some((at, history)) => (Some(&self.images[*at]), history.clone()),
            None => (None, Vec::new()),
        };
        let mut diff_ids = parent.map_or_else(Vec::new, |parent| parent.diff_ids.clone());
        let mut layers = parent.map_or_else(Vec::new, |parent| parent.layers.clone());
        let parent = parent.map(|parent| parent.id);
        diff_ids.push(diff);
        layers.push(ForeignLayer { member, length: Some(length), digest: None });
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let created = view.created.map(|text| go_time(&text));
        let cmd = view.container_config.and_then(|config| config.cmd).unwrap_or_default().join(" ");
        history.push(Step {
            created: created.clone(),
            author: some(view.author),
            created_by: some(Some(cmd)),
            comment: some(view.comment),
        });
        let config = match config(json, &diff_ids, &history) {
            Ok(config) => config,
            Err(error) => return Ok(Some(problem(&format!("{id}/json"), error))),
        };
        self.made.insert(id.to_owned(), (self.images.len(), history));
        self.images.push(ForeignImage {
            id: ImageId(Sha256::of(&config)),
            config,
            references: BTreeSet::new(),
            diff_ids,
            created,
            parent,
            platform: view.platform,
            layers,
        });
        Ok(None)
    }
}

/// Makes a configuration of today, as Go writes a map: keys in order, values without white space.
fn config(json: &[u8], diff_ids: &[DiffId], history: &[Step]) -> serde_json::Result<Vec<u8>> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(json)?;
    fields.retain(|key, _| !GONE.contains(&&key[..]));
    fields.insert("rootfs".to_owned(), serde_json::value::to_raw_value(&RootFs { kind: "layers", diff_ids })?);
    fields.insert("history".to_owned(), serde_json::value::to_raw_value(history)?);
    Ok(compact(&serde_json::to_string(&fields)?).into_bytes())
}

/// Takes white space between values out, and escapes what Go escapes.
fn compact(json: &str) -> String {
    let (mut out, mut quoted, mut escaped) = (String::with_capacity(json.len()), false, false);
    for letter in json.chars() {
        match letter {
            ' ' | '\n' | '\r' | '\t' if !quoted => continue,
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
        quoted ^= letter == '"' && !escaped;
        escaped = quoted && letter == '\\' && !escaped;
    }
    out
}

/// Writes a time as Go does: no zeros at the end of a fraction.
fn go_time(text: &str) -> String {
    let Some((seconds, rest)) = text.split_once('.') else { return text.to_owned() };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (fraction, zone) = rest.split_at(digits);
    match fraction.trim_end_matches('0') {
        "" => format!("{seconds}{zone}"),
        fraction => format!("{seconds}.{fraction}{zone}"),
    }
}

fn problem(subject: &str, evidence: impl ToString) -> Problem {
    Problem { code: "archive-damaged", subject: subject.to_owned(), evidence: evidence.to_string(), image: None }
}

fn missing(path: &str) -> Problem {
    let evidence = "a part of an image that repositories names".to_owned();
    Problem { code: "archive-blob-missing", subject: path.to_owned(), evidence, image: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_go() {
        assert_eq!(go_time("2015-09-08T10:00:00.120300Z"), "2015-09-08T10:00:00.1203Z");
        assert_eq!(go_time("2015-09-08T10:00:00.000+01:00"), "2015-09-08T10:00:00+01:00");
        assert_eq!(go_time("2015-09-08T10:00:00Z"), "2015-09-08T10:00:00Z");
        assert_eq!(
            compact("{ \"a\" : \"x \\\" <b\\\\\" , \"c\":[1.50, 2] }"),
            "{\"a\":\"x \\\" \\u003cb\\\\\",\"c\":[1.50,2]}"
        );
    }
}
