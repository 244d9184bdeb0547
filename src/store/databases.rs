//! Looks at the databases that dockerd opens when it starts. All are of bolt.
//!
//! | file | holds | read at start |
//! |---|---|---|
//! | `volumes/metadata.db` | names, drivers and labels of volumes | all of it |
//! | `network/files/local-kv.db` | networks and their end points | all of it |
//! | `buildkit/*.db` | BuildKit's cache, its leases, and the history of builds | some of it |
//!
//! One that is missing or empty is made anew. With one that does not open dockerd ends at its start; only `cache.db` is put
//! aside by newer ones. At a page that is damaged it crashes, whenever it comes there (20.10.24 and 28.5.2, tried).

use super::bolt::{self, BoltError};
use crate::error::FsError;
use crate::finding::{Code, Finding};
use crate::fsx::Dir;

/// BuildKit's databases: those of before 19.03 and after, and of the containerd store.
const BUILDKIT: [&str; 7] =
    ["cache.db", "containerdmeta.db", "history.db", "history_c8d.db", "metadata.db", "metadata_v2.db", "snapshots.db"];

/// What a person can do about a database that is damaged.
#[must_use]
pub(crate) fn cure(path: &str) -> String {
    let (what, lost) = match path {
        "volumes/metadata.db" => (path, "labels of volumes are lost, and not what is in them"),
        "network/files/local-kv.db" => (path, "networks that users made are lost"),
        "buildkit/history.db" | "buildkit/history_c8d.db" => (path, "the history of builds is lost"),
        _ => ("buildkit", "the build cache is lost, and no image"),
    };
    format!("move {what} away while Docker is stopped: dockerd makes it anew, and {lost}")
}

/// Checks each database that is there.
///
/// # Errors
/// The process has no file descriptor or no memory left.
pub(crate) fn check(root: &Dir) -> Result<Vec<Finding>, FsError> {
    let places = [("volumes", &["metadata.db"][..]), ("network/files", &["local-kv.db"]), ("buildkit", &BUILDKIT)];
    let mut findings = Vec::new();
    for (at, names) in places {
        let dir = match FsError::found(root.dir_across_mounts(at)) {
            Ok(None) => continue,
            Ok(Some(dir)) => dir,
            Err(error) => {
                findings.push(unread(at, error)?);
                continue;
            }
        };
        for name in names {
            findings.extend(check_one(&dir, name, &format!("{at}/{name}"))?);
        }
    }
    Ok(findings)
}

fn check_one(dir: &Dir, name: &str, path: &str) -> Result<Option<Finding>, FsError> {
    let file = match FsError::found(dir.file(name)) {
        Ok(None) => return Ok(None),
        Ok(Some(file)) => file,
        Err(error) => return unread(path, error).map(Some),
    };
    let checked = bolt::read(&file, |bolt| {
        bolt.opens()?;
        Ok(bolt.check().err())
    });
    Ok(match checked {
        // Whoever writes it has it in good order.
        Ok(None) | Err(BoltError::Busy) | Ok(Some(BoltError::Busy)) => None,
        Err(BoltError::Io(error)) | Ok(Some(BoltError::Io(error))) => {
            Some(unread(path, FsError::new("read", dir.shown(name), error))?)
        }
        Err(error) => Some(damaged(path, &error, true)),
        Ok(Some(error)) => Some(damaged(path, &error, false)),
    })
}

/// Says that a database cannot be read, where that is for what lies on the disk.
fn unread(path: &str, error: FsError) -> Result<Finding, FsError> {
    if error.is_shortage() { Err(error) } else { Ok(Finding::new(Code::DatabaseUnreadable, path, error)) }
}

/// Says what fails by a database that does not open, or of which a page below the root is damaged, and what to do.
fn damaged(path: &str, error: &BoltError, at_start: bool) -> Finding {
    let is_put_aside = path == "buildkit/cache.db" && matches!(error, BoltError::NoDatabase | BoltError::Cut(_));
    let (code, fails) = match (at_start, path) {
        _ if is_put_aside => {
            (Code::BuildCacheDamaged, "dockerd 20.10 does not start with it, and 28 begins with an empty cache")
        }
        (true, _) | (_, "volumes/metadata.db" | "network/files/local-kv.db") => {
            (Code::DatabaseDamaged, "dockerd does not start with it")
        }
        (false, _) => (Code::DatabasePageDamaged, "dockerd crashes when it reads it, at its start or in a build"),
    };
    Finding::new(code, path, format!("{error}: {fails}; {}", cure(path)))
}
