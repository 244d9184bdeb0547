//! What readers of a store collect beside the facts, and the way they read small files.
//!
//! Both the readers of Docker's own files ([`store`](crate::store)) and those of the graph drivers' homes
//! ([`driver`](crate::driver)) do.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::error::FsError;
use crate::finding::{Code, Finding, Object};
use crate::fsx::{Dir, Entry};
use crate::id::CacheId;

/// Docker's name for a file that is being written atomically [aw `New`]; after a crash it stays for ever.
const TEMP_PREFIX: &[u8] = b".tmp-";

/// Longest file of one line (an identity, a number, a time) that is read. Real ones have at most 71 bytes.
const LINE_LIMIT: u64 = 4096;

/// What is unknown when a file cannot be read or parsed. Nothing that depends on it may be called garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// Which images are referred to (`repositories.json`).
    References,
    /// Which layers an image that is referred to holds (`imagedb/`).
    Images,
    /// Which driver directory a layer names (`layerdb/sha256/`, `layerdb/tmp/`).
    Layers,
    /// Which driver directories and layers a writable layer uses (`layerdb/mounts/`).
    Mounts,
    /// Which image and which image mounts a container uses (`containers/`).
    Containers,
    /// Which layers and driver directories BuildKit uses (`buildkit/*.db`).
    BuildKit,
    /// Which directories the graph driver has, or which others one of them needs (`<driver>/`).
    DriverDirs,
    /// What `distribution/` says: a cache, nothing depends on it.
    Distribution,
}

/// A file or directory that is there and cannot be read or parsed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unreadable {
    /// What is unknown by it.
    pub what: Unknown,
    /// Path relative to the data root.
    pub path: String,
    /// Why it cannot be read.
    pub reason: String,
}

/// Kind of a [`Stray`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrayKind {
    /// `layerdb/tmp/write-set-*`: a layer that was being written.
    WriteSet,
    /// `.tmp-*` beside a file that is written atomically.
    TempFile,
    /// `tmp-old/` in the root.
    OldTemp,
    /// `<driver>/l/<link>` that no layer directory has as its `link`, or whose layer is gone.
    DanglingLink,
    /// A directory of a driver's self-test (`check-overlayfs-support*`, …).
    SelfTest,
    /// An empty directory in `layerdb/mounts`: what is left of an image mount whose reference has a slash.
    EmptyMount,
    /// `imagedb/metadata/sha256/<id>` without content.
    MetadataWithoutContent,
    /// A file in `imagedb/content/sha256` that dockerd does not take for an image.
    InvalidImage,
}

/// Something that no reader of Docker's ever looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stray {
    /// What it is.
    pub kind: StrayKind,
    /// Path relative to the data root.
    pub path: String,
    /// The driver directory it names, where it names one.
    pub cache_id: Option<CacheId>,
}

/// Findings, strays and what could not be read, collected by a reader.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) findings: Vec<Finding>,
    pub(crate) strays: Vec<Stray>,
    pub(crate) unreadable: Vec<Unreadable>,
    pub(crate) doubtful: Vec<Unreadable>,
    /// Paths of what says of many things that they are there, and that the file system does not give.
    pub(crate) unlisted: BTreeSet<String>,
}

impl Notes {
    /// Adds what another reader collected.
    pub(crate) fn append(&mut self, other: Self) {
        self.findings.extend(other.findings);
        self.strays.extend(other.strays);
        self.unreadable.extend(other.unreadable);
        self.doubtful.extend(other.doubtful);
        self.unlisted.extend(other.unlisted);
    }

    /// Says that something cannot be read, and what is unknown by that. The object is called by its path.
    pub(crate) fn unreadable(&mut self, what: Unknown, object: impl Into<Object>, reason: impl ToString) {
        let (object, reason) = (object.into(), reason.to_string());
        let path = object.to_string();
        self.findings.push(Finding::new(what.code(), object, &reason));
        self.unreadable.push(Unreadable { what, path, reason });
    }

    /// Says that something is not there that others need, and what is unknown by that.
    pub(crate) fn lost(&mut self, what: Unknown, code: Code, path: String, reason: String) {
        self.findings.push(Finding::new(code, path.clone(), &reason));
        self.unreadable.push(Unreadable { what, path, reason });
    }

    /// Says that what a record does not name may be needed all the same.
    pub(crate) fn doubtful(&mut self, what: Unknown, path: &str, reason: impl ToString) {
        self.doubtful.push(Unreadable { what, path: path.to_owned(), reason: reason.to_string() });
    }

    /// Adds a stray. One with a name that is not UTF-8 has no path that could be told, and becomes a finding.
    pub(crate) fn stray(&mut self, kind: StrayKind, at: &str, name: &[u8], cache_id: Option<CacheId>) {
        match std::str::from_utf8(name) {
            Ok(name) => self.strays.push(Stray { kind, path: below(at, name), cache_id }),
            Err(_) => self.unexpected(at, name, "a name that no engine gives"),
        }
    }

    /// Says that a name is nothing Docker puts there.
    pub(crate) fn unexpected(&mut self, at: &str, name: &[u8], evidence: impl ToString) {
        self.findings.push(Finding::new(Code::UnexpectedEntry, below(at, name.escape_ascii()), evidence));
    }

    /// Says that the file system does not give what tells of many things, and what is unknown by that: then that one
    /// of them was not seen does not say that it is missing.
    pub(crate) fn unlisted(&mut self, what: Unknown, path: &str, error: FsError) {
        self.unlisted.insert(path.to_owned());
        self.unreadable(what, path, error);
    }

    /// Lists the entries of `dir` that are not temporary files; those become strays.
    pub(crate) fn list(&mut self, dir: &Dir, at: &str, what: Unknown) -> Vec<Entry> {
        match dir.entries() {
            Ok(entries) => self.without_temporary(entries, at),
            Err(error) => {
                self.unlisted(what, at, error);
                Vec::new()
            }
        }
    }

    /// As [`Notes::list`], of the directory of one thing, which is called by its path.
    pub(crate) fn list_one(&mut self, dir: &Dir, object: &Object, what: Unknown) -> Vec<Entry> {
        match dir.entries() {
            Ok(entries) => self.without_temporary(entries, &object.to_string()),
            Err(error) => {
                self.unreadable(what, object.clone(), error);
                Vec::new()
            }
        }
    }

    fn without_temporary(&mut self, entries: Vec<Entry>, at: &str) -> Vec<Entry> {
        let (temporary, rest): (Vec<_>, _) = entries.into_iter().partition(|entry| entry.name.starts_with(TEMP_PREFIX));
        for entry in temporary {
            self.stray(StrayKind::TempFile, at, &entry.name, None);
        }
        rest
    }

    /// Opens a directory that may be missing.
    pub(crate) fn open(&mut self, parent: &Dir, name: &str, at: &str, what: Unknown) -> Option<Dir> {
        match FsError::found(parent.dir_across_mounts(name)) {
            Ok(dir) => dir,
            Err(error) => {
                self.unlisted(what, at, error);
                None
            }
        }
    }

    /// Opens a directory that was listed; `None` where it has vanished since, or cannot be read.
    pub(crate) fn open_entry(&mut self, parent: &Dir, entry: &Entry, at: &str, what: Unknown) -> Option<Dir> {
        match FsError::found(parent.dir(&entry.name)) {
            Ok(dir) => dir,
            Err(error) => {
                self.unreadable(what, at, error);
                None
            }
        }
    }

    /// Reads one small file of `dir`; `Ok(None)` where it is missing, empty bytes and all. Where it cannot be read, says
    /// so and returns why.
    pub(crate) fn line(&mut self, dir: &Dir, name: &str, at: &str, what: Unknown) -> Result<Option<Vec<u8>>, String> {
        FsError::found(dir.read(name, LINE_LIMIT)).map_err(|error| {
            self.unreadable(what, below(at, name), &error);
            format!("{name}: {error}")
        })
    }
}

impl Unknown {
    /// Returns the code of the finding for something unreadable of this kind.
    fn code(self) -> Code {
        match self {
            Self::References => Code::ReferencesUnreadable,
            Self::Images => Code::ImageUnreadable,
            Self::Layers => Code::LayerUnreadable,
            Self::Mounts => Code::MountUnreadable,
            Self::Containers => Code::ContainerUnreadable,
            Self::BuildKit => Code::BuildkitUnreadable,
            Self::DriverDirs => Code::DriverUnreadable,
            Self::Distribution => Code::DistributionUnreadable,
        }
    }
}

/// Returns the path of `name` below `at`, both relative to the data root.
pub(crate) fn below(at: &str, name: impl std::fmt::Display) -> String {
    if at.is_empty() { name.to_string() } else { format!("{at}/{name}") }
}
