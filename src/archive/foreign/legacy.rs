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
//! `MakeConfigFromV1Config`]. The same configuration is made here, so that the IDs are those that Docker 28 gives; versions up
//! to 24 write the author of a step before its command, so their IDs of images with an author or a comment are others.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Code;
use crate::id::{DiffId, ImageId, Sha256};
use crate::image_config::{ContainerConfig, Healthcheck, V1};
use crate::json::{self, GoTime, JsonError, Raw, Words};
use crate::progress::Observer;
use crate::reference::Reference;

use super::documents::Repositories;
use super::images::{ForeignImage, ForeignLayer, Problem, Weight};
use super::members::{Catalog, CatalogError};
use super::platform::Platform;

/// Fields of a configuration of version 1 that one of today has not.
const GONE: [&str; 6] = ["id", "parent", "Size", "parent_id", "layer_id", "throwaway"];
/// The first Docker whose configurations are kept as they are; of those of others there is what dockerd knows.
const KEPT_FROM: [u64; 3] = [1, 8, 3];

/// The fields of a configuration, as they are written.
type Fields = BTreeMap<String, Raw>;

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
                // Docker passes over what it does not take for a tag.
                Ok(at) => work.images[at].references.extend(Some(reference.key()).filter(|key| Reference::is_key(key))),
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
    made: BTreeMap<String, (usize, Vec<String>)>,
    images: Vec<ForeignImage>,
}

impl Work<'_> {
    /// Makes the image of this name and all below it; returns its number.
    fn image(&mut self, id: &str) -> Result<Result<usize, Problem>, CatalogError> {
        let mut stack: Vec<(String, Vec<u8>, V1)> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = Some(id.to_owned());
        while let Some(id) = next.filter(|id| !self.made.contains_key(id)) {
            let path = format!("{id}/json");
            let is_name = !id.is_empty() && !id.contains('/') && id != "." && id != "..";
            if !is_name || !seen.insert(id.clone()) {
                return Ok(Err(problem(&path, "its parents lead nowhere")));
            }
            let Some(json) = self.catalog.document(&path)? else { return Ok(Err(missing(&path))) };
            let view: V1 = match json::read(&json) {
                Ok(view) => view.value,
                Err(error) => return Ok(Err(problem(&path, error))),
            };
            next = Some(view.parent.clone()).filter(|parent| !parent.is_empty());
            stack.push((id, json, view));
        }
        while let Some((id, json, view)) = stack.pop() {
            if let Some(problem) = self.make(&id, &json, view)? {
                return Ok(Err(problem));
            }
        }
        Ok(Ok(self.made[id].0))
    }

    fn make(&mut self, id: &str, json: &[u8], view: V1) -> Result<Option<Problem>, CatalogError> {
        let path = format!("{id}/layer.tar");
        let Some((member, length)) = self.catalog.find(&path)? else { return Ok(Some(missing(&path))) };
        let diff = DiffId(self.catalog.digests(&member, self.observer)?.content);
        let below = self.made.get(&view.parent);
        let (parent, mut history) = match below {
            Some((at, history)) => (Some(&self.images[*at]), history.clone()),
            None => (None, Vec::new()),
        };
        let mut diff_ids = parent.map_or_else(Vec::new, |parent| parent.diff_ids.clone());
        let mut layers = parent.map_or_else(Vec::new, |parent| parent.layers.clone());
        let parent = parent.map(|parent| parent.id);
        diff_ids.push(diff);
        layers.push(ForeignLayer { member, length: Some(length), digest: None });
        history.push(step(&view));
        let config = match config(json, &view, &diff_ids, &history) {
            Ok(config) => config,
            Err(error) => return Ok(Some(problem(&format!("{id}/json"), error))),
        };
        self.made.insert(id.to_owned(), (self.images.len(), history));
        self.images.push(ForeignImage {
            id: ImageId(Sha256::of(&config)),
            config,
            references: BTreeSet::new(),
            diff_ids,
            created: view.created.map(|created| created.as_go()),
            parent,
            platform: Platform { os: view.os, architecture: view.architecture, variant: view.variant },
            layers,
        });
        Ok(None)
    }
}

/// Writes the step of the history that made an image, with its fields in the order of Docker 28.
fn step(view: &V1) -> String {
    let command = view.container_config.cmd.0.as_deref().unwrap_or_default().join(" ");
    let mut out = Object::default();
    out.time("created", view.created.as_ref());
    out.some("created_by", &command);
    out.some("author", &view.author);
    out.some("comment", &view.comment);
    out.end()
}

/// Makes a configuration of today, as Go writes a map: keys in order, values without white space.
fn config(text: &[u8], view: &V1, diff_ids: &[DiffId], history: &[String]) -> Result<Vec<u8>, JsonError> {
    let mut fields: Fields = match is_kept(&view.docker_version) {
        true => json::read(text)?.value,
        false => json::read(known(view).as_bytes())?.value,
    };
    fields.retain(|key, _| !GONE.contains(&&key[..]));
    let diff_ids: Vec<String> = diff_ids.iter().map(|diff| format!("\"{diff}\"")).collect();
    let rootfs = format!("{{\"type\":\"layers\",\"diff_ids\":[{}]}}", diff_ids.join(","));
    fields.insert("rootfs".to_owned(), Raw(rootfs.into_bytes()));
    fields.insert("history".to_owned(), Raw(format!("[{}]", history.join(",")).into_bytes()));
    let fields = fields.iter().map(|(key, value)| [quoted(key).as_bytes(), b":", &compact(&value.0)].concat());
    Ok([&b"{"[..], &fields.collect::<Vec<_>>().join(&b','), b"}"].concat())
}

/// Tells whether dockerd keeps the configurations that this version of Docker made as they are.
fn is_kept(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let found: [u64; 3] = std::array::from_fn(|_| parts.next().unwrap_or(0));
    found >= KEPT_FROM
}

/// Writes what dockerd knows of a configuration.
fn known(view: &V1) -> String {
    let mut out = Object::default();
    out.some("comment", &view.comment);
    match &view.created {
        Some(created) => out.time("created", Some(created)),
        None => out.value("created", "null"),
    }
    out.some("container", &view.container);
    out.value("container_config", &container(&view.container_config));
    out.some("docker_version", &view.docker_version);
    out.some("author", &view.author);
    if let Some(config) = &view.config {
        out.value("config", &container(config));
    }
    out.some("architecture", &view.architecture);
    out.some("variant", &view.variant);
    out.some("os", &view.os);
    out.end()
}

fn container(config: &ContainerConfig) -> String {
    let mut out = Object::default();
    let flag = |flag: bool| flag.to_string();
    let set = |set: &BTreeMap<String, _>| {
        let keys: Vec<String> = set.keys().map(|key| format!("{}:{{}}", quoted(key))).collect();
        format!("{{{}}}", keys.join(","))
    };
    out.value("Hostname", &quoted(&config.hostname));
    out.value("Domainname", &quoted(&config.domainname));
    out.value("User", &quoted(&config.user));
    out.value("AttachStdin", &flag(config.attach_stdin));
    out.value("AttachStdout", &flag(config.attach_stdout));
    out.value("AttachStderr", &flag(config.attach_stderr));
    if let Some(ports) = config.exposed_ports.as_ref().filter(|ports| !ports.is_empty()) {
        out.value("ExposedPorts", &set(ports));
    }
    out.value("Tty", &flag(config.tty));
    out.value("OpenStdin", &flag(config.open_stdin));
    out.value("StdinOnce", &flag(config.stdin_once));
    out.value("Env", &list(config.env.as_ref()));
    out.value("Cmd", &list(config.cmd.0.as_ref()));
    if let Some(check) = &config.healthcheck {
        out.value("Healthcheck", &healthcheck(check));
    }
    if config.args_escaped {
        out.value("ArgsEscaped", "true");
    }
    out.value("Image", &quoted(&config.image));
    out.value("Volumes", &config.volumes.as_ref().map_or_else(|| "null".to_owned(), set));
    out.value("WorkingDir", &quoted(&config.working_dir));
    out.value("Entrypoint", &list(config.entrypoint.0.as_ref()));
    if config.network_disabled {
        out.value("NetworkDisabled", "true");
    }
    out.some("MacAddress", &config.mac_address);
    out.value("OnBuild", &list(config.on_build.as_ref()));
    out.value(
        "Labels",
        &match &config.labels {
            None => "null".to_owned(),
            Some(labels) => {
                let labels = labels.iter().map(|(key, value)| format!("{}:{}", quoted(key), quoted(value)));
                format!("{{{}}}", labels.collect::<Vec<_>>().join(","))
            }
        },
    );
    out.some("StopSignal", &config.stop_signal);
    if let Some(timeout) = config.stop_timeout {
        out.value("StopTimeout", &timeout.to_string());
    }
    out.words("Shell", &config.shell);
    out.end()
}

fn healthcheck(check: &Healthcheck) -> String {
    let mut out = Object::default();
    out.words("Test", &Words(check.test.clone()));
    for (key, number) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Retries", check.retries),
    ] {
        if number != 0 {
            out.value(key, &number.to_string());
        }
    }
    out.end()
}

/// An object that is written as Go writes a struct.
#[derive(Default)]
struct Object(String);

impl Object {
    fn value(&mut self, key: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(&format!("\"{key}\":{value}"));
    }

    /// Writes a text that is left out where it is empty.
    fn some(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.value(key, &quoted(text));
        }
    }

    /// Writes a list that is left out where it is empty.
    fn words(&mut self, key: &str, words: &Words) {
        if words.0.as_ref().is_some_and(|words| !words.is_empty()) {
            self.value(key, &list(words.0.as_ref()));
        }
    }

    fn time(&mut self, key: &str, time: Option<&GoTime>) {
        if let Some(time) = time {
            self.value(key, &quoted(&time.as_go()));
        }
    }

    fn end(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

fn list(texts: Option<&Vec<String>>) -> String {
    match texts {
        None => "null".to_owned(),
        Some(texts) => format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(",")),
    }
}

/// Writes text in quotation marks, as Go does.
fn quoted(text: &str) -> String {
    let json = serde_json::to_string(text).expect("because text is JSON");
    String::from_utf8(compact(json.as_bytes())).expect("because it was text")
}

/// Takes white space between values out, and escapes what Go escapes.
fn compact(json: &[u8]) -> Vec<u8> {
    let (mut out, mut quoted, mut escaped) = (Vec::with_capacity(json.len()), false, false);
    for (at, byte) in json.iter().copied().enumerate() {
        match (byte, &json[at..]) {
            (b' ' | b'\n' | b'\r' | b'\t', _) if !quoted => continue,
            (b'<' | b'>' | b'&', _) => out.extend(format!("\\u{byte:04x}").into_bytes()),
            // Two characters that end a line of JavaScript.
            (0xe2, [_, 0x80, last @ (0xa8 | 0xa9), ..]) => out.extend(format!("\\u20{:02x}", last & 0x7f).into_bytes()),
            (0x80, _) if at > 0 && matches!(json[at - 1..], [0xe2, _, 0xa8 | 0xa9, ..]) => {}
            (0xa8 | 0xa9, _) if at > 1 && json[at - 2..].starts_with(&[0xe2, 0x80]) => {}
            _ => out.push(byte),
        }
        quoted ^= byte == b'"' && !escaped;
        escaped = quoted && byte == b'\\' && !escaped;
    }
    out
}

fn problem(name: &str, evidence: impl ToString) -> Problem {
    let (code, weight, object) = (Code::ArchiveDamaged, Weight::Fatal, name.into());
    Problem { code, weight, object, evidence: evidence.to_string(), image: None }
}

fn missing(path: &str) -> Problem {
    let evidence = "a part of an image that repositories names is missing".to_owned();
    let (code, weight, object) = (Code::ArchiveBlobMissing, Weight::Fatal, path.into());
    Problem { code, weight, object, evidence, image: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_go() {
        let compact = |text: &str| String::from_utf8(super::compact(text.as_bytes())).expect("text");
        assert_eq!(
            compact("{ \"a\" : \"x \\\" <b\\\\\" , \"c\":[1.50, 2] }"),
            "{\"a\":\"x \\\" \\u003cb\\\\\",\"c\":[1.50,2]}"
        );
        assert_eq!(compact("\"\u{2027}\u{2028}\u{2029}\u{e8}\""), "\"\u{2027}\\u2028\\u2029\u{e8}\"");
    }

    #[test]
    fn versions_whose_configurations_are_kept() {
        for kept in ["1.8.3", "1.9.1", "1.10.0-dev", "17.03.0-ce", "1.8.3.1"] {
            assert!(is_kept(kept), "{kept}");
        }
        for known in ["", "1.8.2", "1.8.3-dev", "0.11", "x"] {
            assert!(!is_kept(known), "{known}");
        }
    }
}
