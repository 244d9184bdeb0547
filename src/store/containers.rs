//! Reads `containers/`, of which `config.v2.json` says what a container uses, and `hostconfig.json` how it is started.
//!
//! `containers/<64 hex>/config.v2.json` is JSON with a trailing newline, written by dockerd of every version [moby
//! container/container.go `toDisk`]. dockerd skips a directory whose file it cannot read, or which says another `ID`
//! than the directory's name, or a graph driver other than the active one; nothing of it is removed. `State` is that of
//! the last write: after a crash it says `Running` for ever. Image mounts (28.0+) stand in `MountPoints.*.ID`.
//!
//! Of `hostconfig.json` dockerd reads the first value [moby container/container.go `readHostConfig`]. A container where it
//! cannot it leaves out; `null` crashes it (28.5). Where the file is missing it takes an empty one and writes that: 20.10 starts the container with
//! it, 28 lists it and cannot start it (`no log driver named ''`).

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::host_config;
use super::{Container, Snapshot, Unknown};
use crate::error::{FsError, ParseError};
use crate::finding::{Code, Finding, Object, Thing};
use crate::fsx::{Dir, Entry, Kind};
use crate::id::{ContainerId, ImageId, is_drawn};
use crate::json::{self, fields};
use crate::notes::{Notes, below};
use crate::reference::Reference;

/// Longest `config.v2.json` that is read. Environment and labels may be long.
const LIMIT: u64 = 64 << 20;

/// Containers by ID.
type Containers = BTreeMap<ContainerId, Container>;

/// What Go writes for a time that never was.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

#[derive(Default)]
struct Config {
    id: String,
    name: String,
    image: String,
    driver: String,
    state: Option<State>,
    mount_points: Option<BTreeMap<String, Option<MountPoint>>>,
}
fields!(Config {
    "ID" => id, "Name" => name, "Image" => image, "Driver" => driver, "State" => state, "MountPoints" => mount_points,
});

#[derive(Default)]
struct State {
    running: bool,
    paused: bool,
    restarting: bool,
    removal_in_progress: bool,
    dead: bool,
    started_at: String,
}
fields!(State {
    "Running" => running, "Paused" => paused, "Restarting" => restarting, "RemovalInProgress" => removal_in_progress,
    "Dead" => dead, "StartedAt" => started_at,
});

#[derive(Default)]
struct MountPoint {
    kind: String,
    id: String,
}
fields!(MountPoint { "Type" => kind, "ID" => id });

impl State {
    /// Says the state in one word, as moby's `StateString` does.
    fn word(&self) -> &'static str {
        match self {
            Self { running: true, paused: true, .. } => "paused",
            Self { running: true, restarting: true, .. } => "restarting",
            Self { running: true, .. } => "running",
            Self { removal_in_progress: true, .. } => "removing",
            Self { dead: true, .. } => "dead",
            Self { started_at, .. } if matches!(&started_at[..], "" | ZERO_TIME) => "created",
            _ => "exited",
        }
    }
}

/// Parses the `config.v2.json` of container `id`.
///
/// # Errors
/// What makes dockerd skip the container; an image mount without a name, whose layers would not be known; and what can be
/// read in two ways.
pub(crate) fn parse(id: &ContainerId, text: &[u8]) -> Result<Container, ParseError> {
    let expected = "the configuration of a container";
    let read = json::read(text).map_err(|error| ParseError::because(expected, error))?;
    let config: Config = read.plain().map_err(|odd| ParseError::because(expected, odd))?;
    if config.id != id.as_str() {
        return Err(ParseError::new(format!("container {id}"), config.id.as_bytes()));
    }
    let points = config.mount_points.unwrap_or_default().into_values().flatten();
    let image_mounts = points
        .filter(|point| point.kind == "image")
        .map(|point| ContainerId::parse(point.id.as_bytes()))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Container {
        readable: true,
        config_missing: false,
        was_whole: false,
        name: config.name.trim_start_matches('/').to_owned(),
        image: config.image.parse().ok(),
        driver: config.driver,
        state: config.state.unwrap_or_default().word().to_owned(),
        image_mounts,
    })
}

/// Reads the containers of the data root.
pub(super) fn read(root: &Dir) -> (Containers, Notes) {
    let at = "containers";
    let mut containers = Containers::new();
    let mut notes = Notes::default();
    let Some(dir) = notes.open(root, at, at, Unknown::Containers) else { return (containers, notes) };
    let entries = notes.list(&dir, at, Unknown::Containers);
    let read: Vec<_> = entries.par_iter().map(|entry| read_container(&dir, at, entry)).collect();
    for (container, more) in read {
        containers.extend(container);
        notes.append(more);
    }
    (containers, notes)
}

fn read_container(dir: &Dir, at: &str, entry: &Entry) -> (Option<(ContainerId, Container)>, Notes) {
    let mut notes = Notes::default();
    let id = match ContainerId::parse(&entry.name) {
        Ok(id) if entry.kind == Kind::Directory => id,
        _ => {
            notes.unexpected(at, &entry.name, "expected a directory with the ID of a container as its name");
            return (None, notes);
        }
    };
    let at = below(at, &id);
    let path = below(&at, "config.v2.json");
    let Some(dir) = notes.open_entry(dir, entry, &at, Unknown::Containers) else {
        let listed = !notes.unreadable.is_empty();
        return (listed.then(|| (id, Container::default())), notes);
    };
    // The listing finds, too, what a crash left beside the file.
    let entries = notes.list_one(&dir, &Object::at(Thing::Container(id.clone()), &at), Unknown::Containers);
    let has_draft = notes.strays.iter().any(|stray| stray.path.starts_with(&below(&at, ".tmp-config.v2.json")));
    let was_whole = was_whole(&entries, has_draft);
    let mut unreadable = |reason: String| {
        notes.unreadable(Unknown::Containers, &path, reason);
        Container::default()
    };
    let container = match FsError::found(dir.read("config.v2.json", LIMIT)) {
        Ok(Some(text)) => parse(&id, &text).unwrap_or_else(|error| unreadable(error.to_string())),
        // Somebody else's directory: `lost+found`, `@eaDir`.
        Ok(None) if !is_drawn(id.as_str()) => {
            notes.findings.push(Finding::new(Code::UnexpectedEntry, &at, "no engine gives a container such a name"));
            return (None, notes);
        }
        // What that means depends on the writable layer.
        Ok(None) => Container { config_missing: true, ..Container::default() },
        Err(error) => unreadable(error.to_string()),
    };
    (Some((id, Container { was_whole, ..container })), notes)
}

/// Finds the containers that dockerd leaves out, or of which it knows no settings, for their `hostconfig.json`.
///
/// # Errors
/// The process has no file descriptor or no memory left.
pub(crate) fn host_configs(root: &Dir, snapshot: &Snapshot) -> Result<Vec<Finding>, FsError> {
    let readable: Vec<&ContainerId> =
        snapshot.containers.iter().filter(|(_, container)| container.readable).map(|(id, _)| id).collect();
    let found: Vec<Option<Finding>> = readable.par_iter().map(|id| host_config(root, id)).collect::<Result<_, _>>()?;
    Ok(found.into_iter().flatten().collect())
}

fn host_config(root: &Dir, id: &ContainerId) -> Result<Option<Finding>, FsError> {
    let object = Object::at(Thing::Container(id.clone()), format!("containers/{id}/hostconfig.json"));
    let why = match FsError::found(root.dir_across_mounts(below("containers", id))) {
        // It was removed meanwhile.
        Ok(None) => return Ok(None),
        Ok(Some(dir)) => match FsError::found(dir.read("hostconfig.json", LIMIT)) {
            Ok(Some(text)) if text.trim_ascii().is_empty() => "it is empty".to_owned(),
            Ok(Some(text)) => match host_config::has_settings(&text) {
                Ok(true) => return Ok(None),
                Ok(false) => {
                    let evidence = "it is null: dockerd crashes when it reads it";
                    return Ok(Some(Finding::new(Code::ContainerHostConfigNull, object, evidence)));
                }
                Err(error) => error.to_string(),
            },
            Ok(None) => {
                let evidence = "it is missing: dockerd takes an empty one, without ports, limits and log driver";
                return Ok(Some(Finding::new(Code::ContainerHostConfigMissing, object, evidence)));
            }
            Err(error) if error.is_shortage() => return Err(error),
            Err(error) => error.to_string(),
        },
        Err(error) if error.is_shortage() => return Err(error),
        Err(error) => error.to_string(),
    };
    let evidence = format!("{why}: dockerd leaves the container out, and docker ps -a does not show it");
    Ok(Some(Finding::new(Code::ContainerHostConfigUnreadable, object, evidence)))
}

/// Returns the reference that a container was made by, its image, and when that was.
pub(crate) fn made_from(config: &[u8]) -> Option<(String, ImageId, String)> {
    #[derive(Default)]
    struct Document {
        image: String,
        created: String,
        config: Inner,
    }
    #[derive(Default)]
    struct Inner {
        image: String,
    }
    fields!(Document { "Image" => image, "Created" => created, "Config" => config });
    fields!(Inner { "Image" => image });
    let Document { image, created, config } = json::read(config).ok()?.plain().ok()?;
    let (image, word): (ImageId, String) = (image.parse().ok()?, config.image);
    let hex = word.strip_prefix("sha256:").unwrap_or(&word);
    if image.hex().starts_with(hex) {
        // It was made by the image's ID.
        return None;
    }
    let reference: Reference = word.parse().ok()?;
    Some((reference.or_latest().key(), image, created))
}

/// Collects the references by which containers were made, of images that are there.
pub(crate) fn names_of_images(root: &Dir, snapshot: &Snapshot) -> BTreeSet<String> {
    let config = |id: &ContainerId| {
        let dir = root.dir_across_mounts(below("containers", id)).ok()?;
        made_from(&dir.read("config.v2.json", LIMIT).ok()?)
    };
    let made = snapshot.containers.keys().filter_map(config);
    made.filter(|(_, image, _)| snapshot.images.contains_key(image)).map(|(name, ..)| name).collect()
}

/// Tells whether the container once had a configuration: what dockerd makes at a start is there, its log or what it mounts
/// into the container; or `hostconfig.json`, without the draft of the configuration that dockerd keeps until it has written
/// that one.
fn was_whole(entries: &[Entry], has_draft: bool) -> bool {
    let has = |is: &dyn Fn(&[u8]) -> bool| entries.iter().any(|entry| is(&entry.name));
    has(&|name| matches!(name, b"hostname" | b"hosts" | b"resolv.conf" | b"local-logs") || name.ends_with(b".log"))
        || has(&|name| name == b"hostconfig.json") && !has_draft
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ContainerId {
        ContainerId::parse(b"c0ffee").expect("a name")
    }

    #[test]
    fn states_as_docker_ps_says_them() {
        for (state, word) in [
            (r#"{"Running":true,"Paused":true}"#, "paused"),
            (r#"{"Running":true,"Restarting":true}"#, "restarting"),
            (r#"{"Running":true}"#, "running"),
            (r#"{"RemovalInProgress":true,"Dead":true}"#, "removing"),
            (r#"{"Dead":true}"#, "dead"),
            (r#"{"StartedAt":"0001-01-01T00:00:00Z"}"#, "created"),
            (r#"{"StartedAt":"2024-01-01T00:00:00Z"}"#, "exited"),
        ] {
            let text = format!(r#"{{"ID":"c0ffee","State":{state}}}"#);
            assert_eq!(parse(&id(), text.as_bytes()).expect("parses").state, word);
        }
    }

    #[test]
    fn image_mounts_are_found() {
        let text = r#"{"ID":"c0ffee","Name":"/x","MountPoints":{"/a":{"Type":"image","ID":"c0ffee-a/b:1"},"/b":{"Type":"volume"}}}"#;
        let container = parse(&id(), text.as_bytes()).expect("parses");
        assert_eq!((container.name.as_str(), container.image_mounts.len()), ("x", 1));
    }

    #[test]
    fn what_can_be_read_in_two_ways() {
        for text in [
            r#"{"Id":"c0ffee"}"#,
            r#"{"ID":"c0ffee","image":"x"}"#,
            r#"{"ID":"c0ffee","Image":"x","Image":"x"}"#,
            r#"{"ID":"c0ffee","MountPoints":{"/a":{"type":"image"}}}"#,
            r#"{"ID":"c0ffee","MountPoints":{"/a":{"Type":"image"},"/a":null}}"#,
        ] {
            assert!(parse(&id(), text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_dockerd_skips() {
        for text in
            ["", "{}", r#"{"ID":"other"}"#, "[]", r#"{"ID":"c0ffee","MountPoints":[]}"#, r#"{"ID":"c0ffee","Image":1}"#]
        {
            assert!(parse(&id(), text.as_bytes()).is_err(), "{text}");
        }
    }
}
