//! Lists the home of the driver.
//!
//! Whoever probes the file system leaves directories when it is killed: `check-overlayfs-support*` and others.

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::prelude::*;

use crate::driver::list::{LOWER_LIMIT, Listing};
use crate::driver::{Driver, DriverDir, FILE_LIMIT};
use crate::error::{FsError, ParseError};
use crate::finding::{Code, Finding, Object, Severity, Thing};
use crate::fsx::{Dir, Entry, Kind};
use crate::id::{CacheId, LinkId};
use crate::notes::{Notes, StrayKind, Unknown};

/// Directories that dockerd makes to try what the file system can do [overlay2/check.go, overlayutils, quota].
const SELF_TESTS: [&str; 5] =
    ["check-overlayfs-support", "opaque-bug-check", "metacopy-check", "userxattr-check", "fsutils-dummy"];

/// Short names, and where they lead.
#[derive(Default)]
struct Links {
    found: HashMap<LinkId, CacheId>,
    /// The file system gave all of them.
    is_whole: bool,
}

/// A short name that cannot be taken for one.
enum Bad {
    /// It is none that the driver makes.
    Name(String),
    /// The file system does not give it.
    Unreadable(FsError),
}

/// Parses a `lower` file: short names, nearest first. Text that names none is an error.
pub(crate) fn parse_lower(text: &[u8]) -> Result<Vec<LinkId>, ParseError> {
    let name = |part: &[u8]| part.strip_prefix(b"l/").and_then(|name| LinkId::parse(name).ok());
    let names = text.trim_ascii().split(|byte| *byte == b':').map(name).collect::<Option<_>>();
    names.ok_or_else(|| ParseError::new("short names of layers, l/<name>:l/<name>…", text))
}

/// Parses the target of a short name, `../<id>/diff`.
fn parse_target(target: &[u8]) -> Result<CacheId, ParseError> {
    let id = target.strip_prefix(b"../").and_then(|rest| rest.strip_suffix(b"/diff"));
    CacheId::parse(id.ok_or_else(|| ParseError::new("../<layer>/diff", target))?)
}

/// A directory with the short names it says, before they are looked up.
struct Raw {
    id: CacheId,
    link: Option<LinkId>,
    /// `None` where that is unknown.
    lower: Option<Vec<LinkId>>,
    /// The file system gave both.
    is_whole: bool,
}

/// Lists the home of the driver. How bad a lost file is depends on what uses the
/// directory, which is not known here: it is a warning.
pub(super) fn list(driver: &'static Driver, home: &Dir) -> Listing {
    let at = driver.name();
    let mut notes = Notes::default();
    let entries = notes.list(home, at, Unknown::DriverDirs);
    let entries: Vec<Entry> = entries.into_iter().filter(|entry| is_layer(at, entry, &mut notes)).collect();
    let (links, raw) = rayon::join(
        || read_links(home, at),
        || entries.par_iter().filter_map(|entry| read_dir(home, at, entry)).collect::<Vec<_>>(),
    );
    let (links, link_notes) = links;
    notes.append(link_notes);
    let mut dirs = Vec::with_capacity(raw.len());
    for (dir, more) in raw {
        dirs.push(dir);
        notes.append(more);
    }
    resolve(at, dirs, &links, notes)
}

/// Tells whether an entry of the home is the directory of a layer, and says what it is where not.
fn is_layer(at: &str, entry: &Entry, notes: &mut Notes) -> bool {
    if matches!(entry.name.as_slice(), b"l" | b"backingFsBlockDev") {
        return false;
    }
    if SELF_TESTS.iter().any(|test| entry.name.starts_with(test.as_bytes())) {
        notes.stray(StrayKind::SelfTest, at, &entry.name, None);
        return false;
    }
    let is_layer = entry.kind == Kind::Directory && CacheId::parse(&entry.name).is_ok();
    if !is_layer {
        notes.unexpected(at, &entry.name, "expected the directory of a layer");
    }
    is_layer
}

fn read_links(home: &Dir, at: &str) -> (Links, Notes) {
    let mut notes = Notes::default();
    let at = format!("{at}/l");
    let Some(dir) = notes.open(home, "l", &at, Unknown::DriverDirs) else {
        let is_whole = notes.unreadable.is_empty();
        return (Links { is_whole, ..Links::default() }, notes);
    };
    let entries = notes.list(&dir, &at, Unknown::DriverDirs);
    let read = |entry: &Entry| {
        let name = LinkId::parse(&entry.name).map_err(|error| Bad::Name(error.to_string()))?;
        if entry.kind != Kind::Symlink {
            return Err(Bad::Name("expected a symbolic link".to_owned()));
        }
        let Some(target) = FsError::found(dir.read_link(&entry.name)).map_err(Bad::Unreadable)? else {
            return Ok(None);
        };
        let id = parse_target(&target).map_err(|error| Bad::Name(error.to_string()))?;
        Ok(Some((name, id)))
    };
    let read: Vec<_> = entries.par_iter().map(|entry| (entry, read(entry))).collect();
    let mut links = Links { is_whole: notes.unreadable.is_empty(), ..Links::default() };
    for (entry, link) in read {
        match link {
            Ok(found) => links.found.extend(found),
            Err(Bad::Name(evidence)) => notes.unexpected(&at, &entry.name, evidence),
            Err(Bad::Unreadable(error)) => {
                links.is_whole = false;
                notes.unreadable(Unknown::DriverDirs, format!("{at}/{}", entry.name.escape_ascii()), error);
            }
        }
    }
    (links, notes)
}

fn read_dir(home: &Dir, at: &str, entry: &Entry) -> Option<(Raw, Notes)> {
    let mut notes = Notes::default();
    let id = CacheId::parse(&entry.name).ok()?;
    let link = FsError::in_place(home.read(format!("{id}/link"), FILE_LIMIT));
    let lower = FsError::found(home.read(format!("{id}/lower"), LOWER_LIMIT));
    let path = format!("{at}/{id}");
    if matches!(link, Ok(None)) && matches!(home.find(&entry.name), Ok(None)) {
        return None;
    }
    let file = || Object::at(Thing::Directory(id.clone()), format!("{path}/link"));
    let link = link.inspect_err(|error| notes.unreadable(Unknown::DriverDirs, file(), error));
    let (is_known, link) = (link.is_ok(), link.ok().flatten());
    let link = match link.as_deref().map(<[u8]>::trim_ascii) {
        None => Err("link is missing, or is no file".to_owned()),
        Some(text) => LinkId::parse(text).map_err(|error| format!("link: {error}")),
    };
    let lost = |evidence: &String| lost(Code::DriverLinkLost, &id, &path, evidence);
    let link = link.inspect_err(|evidence| notes.findings.extend(is_known.then(|| lost(evidence))));
    let is_whole = is_known && lower.is_ok();
    let lower = lower.map_err(|error| error.to_string()).and_then(|text| {
        text.map(|text| parse_lower(&text))
            .transpose()
            .map(Option::unwrap_or_default)
            .map_err(|error| error.to_string())
    });
    let file = || Object::at(Thing::Lower(id.clone()), format!("{path}/lower"));
    let unknown = |reason: &String| notes.unreadable(Unknown::DriverDirs, file(), reason);
    let lower = lower.inspect_err(unknown).ok();
    Some((Raw { id, link: link.ok(), lower, is_whole }, notes))
}

/// Says that a file in the directory `id` at `path` is lost.
fn lost(code: Code, id: &CacheId, path: &str, evidence: impl ToString) -> Finding {
    Finding::new(code, Object::at(Thing::Directory(id.clone()), path), evidence).as_bad_as(Severity::Warning)
}

/// Looks the short names up, and finds those that lead nowhere or that nothing needs. What the file system did not give
/// makes nothing lost.
fn resolve(at: &str, raw: Vec<Raw>, links: &Links, mut notes: Notes) -> Listing {
    let ids: HashSet<&CacheId> = raw.iter().map(|dir| &dir.id).collect();
    // What a directory calls itself helps where its symbolic link is lost.
    let own: HashMap<&LinkId, &CacheId> = raw.iter().filter_map(|dir| Some((dir.link.as_ref()?, &dir.id))).collect();
    let by_id: HashMap<&CacheId, &LinkId> = own.iter().map(|(link, id)| (*id, *link)).collect();
    let mut needed: HashSet<&LinkId> = HashSet::new();
    let all_listed = notes.unlisted.is_empty() && links.is_whole;
    let all_read = all_listed && raw.iter().all(|dir| dir.is_whole);
    let Links { found: links, .. } = links;
    let mut dirs = BTreeMap::new();
    for dir in &raw {
        let mut found = DriverDir { link: dir.link.clone(), ..DriverDir::default() };
        for name in dir.lower.iter().flatten() {
            needed.insert(name);
            match links.get(name).filter(|id| ids.contains(id)).or(own.get(name).copied()) {
                Some(id) => found.lower.push(id.clone()),
                None if all_read => found.lost.push(name.clone()),
                None => {}
            }
        }
        if let Some(link) = dir.link.as_ref().filter(|link| all_listed && links.get(link) != Some(&dir.id)) {
            let evidence = format!("l/{link} does not lead to it");
            notes.findings.push(lost(Code::DriverShortNameLost, &dir.id, &format!("{at}/{}", dir.id), evidence));
        }
        if !found.lost.is_empty() {
            let names: Vec<_> = found.lost.iter().map(LinkId::as_str).collect();
            let evidence = format!("lower names {} that lead to no directory", names.join(", "));
            notes.findings.push(lost(Code::DriverLowerLost, &dir.id, &format!("{at}/{}", dir.id), evidence));
        }
        dirs.insert(dir.id.clone(), found);
    }
    for (name, id) in links {
        if let Some(dir) = dirs.get_mut(id) {
            dir.names.push(name.clone());
        }
    }
    for (name, id) in links.iter().filter(|(name, _)| !needed.contains(name)) {
        let owner_says_otherwise = by_id.get(id).is_some_and(|link| *link != name);
        if all_listed && (!ids.contains(id) || owner_says_otherwise) {
            notes.stray(StrayKind::DanglingLink, &format!("{at}/l"), name.as_str().as_bytes(), None);
        }
    }
    Listing { dirs, notes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_files() {
        let names = parse_lower(b"l/AAAA:l/BBBB").expect("parses");
        assert_eq!(names.iter().map(LinkId::as_str).collect::<Vec<_>>(), ["AAAA", "BBBB"]);
        for damaged in [&b""[..], b"l/", b"l", b"l/A:", b"l/A:l/", b"../x", b"l/../x", b"\0\0"] {
            assert!(parse_lower(damaged).is_err());
        }
    }

    #[test]
    fn targets_of_short_names() {
        assert_eq!(parse_target(b"../abc/diff").expect("parses").as_str(), "abc");
        for other in [&b""[..], b"../diff", b"../../diff", b"/abc/diff", b"../a/b/diff"] {
            assert!(parse_target(other).is_err());
        }
    }
}
