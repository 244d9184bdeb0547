//! Where a data root may be when it is not where it was looked for.
//!
//! | where | whose |
//! |---|---|
//! | `var/lib/docker` | the packages of Docker and of distributions: below the mounted disk of another host |
//! | `var/snap/docker/common/var-lib-docker` | the snap |
//! | `root/.local/share/docker`, `home/<user>/.local/share/docker` | a daemon without root |
//! | `@docker`, `volume<N>/@docker` | Synology's package |
//! | `docker` | whoever has put it on a disk of its own |

use std::path::{Path, PathBuf};

use super::Store;
use super::layout::{Configured, DEFAULT_ROOT};
use crate::error::Error;
use crate::fsx::{Dir, real_path};

/// Data roots below another directory.
const BELOW: [&str; 6] = [
    "var/lib/docker",
    "var/snap/docker/common/var-lib-docker",
    ".local/share/docker",
    "root/.local/share/docker",
    "@docker",
    "docker",
];
/// Directories of which each name may be the one above.
const EACH: [(&str, &str, &str); 2] = [("home", "", ".local/share/docker"), ("", "volume", "@docker")];
/// How far above what was named a data root is looked for: a driver's home lies in one, a layer in that.
const ABOVE: usize = 4;
/// Most names of a directory that are tried.
const NAMES_LIMIT: usize = 64;

/// Looks for data roots near `root`, at which there is none: above and below it, and, where it is Docker's own, where else
/// engines of this host keep theirs. Those that are found are real paths.
#[must_use]
pub fn nearby(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let is_default = root == Path::new(DEFAULT_ROOT) || root == Configured::read().root();
    let host = is_default.then(|| Path::new("/"));
    let above = root.ancestors().skip(1).take(ABOVE).map(Path::to_owned);
    let below = [Some(root), host].into_iter().flatten().flat_map(places_below);
    for path in below.chain(above) {
        let Ok(real) = real_path(&path) else { continue };
        if !found.contains(&real) && is_store(&real) {
            found.push(real);
        }
    }
    found
}

fn places_below(base: &Path) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = BELOW.iter().map(|path| base.join(path)).collect();
    for (dir, prefix, path) in EACH {
        let dir = base.join(dir);
        let names = Dir::open_root(&dir).and_then(|dir| dir.entries()).unwrap_or_default();
        let names = names.into_iter().filter_map(|entry| String::from_utf8(entry.name).ok());
        let names = names.filter(|name| name.starts_with(prefix)).take(NAMES_LIMIT);
        places.extend(names.map(|name| dir.join(name).join(path)));
    }
    places
}

/// Tells whether a directory is a data root, also one that has to be asked for in more words.
fn is_store(path: &Path) -> bool {
    let is_one = |error: &Error| {
        matches!(error, Error::SeveralDrivers { .. } | Error::RemappedRoot { .. } | Error::ContainerdStore { .. })
    };
    match Store::open(path, None) {
        Ok(store) => store.image().is_some(),
        Err(error) => is_one(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_roots_of_other_hosts() {
        let temp = tempfile::tempdir().expect("a temp directory");
        let base = real_path(temp.path()).expect("a path");
        let store = "image/overlay2/layerdb/sha256/x";
        for place in [
            "var/lib/docker",
            "var/snap/docker/common/var-lib-docker",
            "home/somebody/.local/share/docker",
            "volume1/@docker",
        ] {
            let root = base.join(place);
            std::fs::create_dir_all(root.join(store)).expect("directories");
            assert_eq!(nearby(&base), [root.as_path()], "{place}");
            std::fs::create_dir_all(root.join("overlay2/x/diff")).expect("directories");
            assert_eq!(nearby(&root.join("overlay2")), [root.as_path()], "{place}");
            assert_eq!(nearby(&root.join("overlay2/x/diff")), [root.as_path()], "{place}");
            std::fs::remove_dir_all(base.join(place)).expect("removed");
            assert!(nearby(&base).is_empty(), "{place}");
        }
    }
}
