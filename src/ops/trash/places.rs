//! From a path of a plan to the directory it lies in.

use crate::error::FsError;
use crate::fsx::Dir;
use crate::store::Store;
use crate::store::places::in_root;

/// The directories that paths of a plan are opened beneath. The driver's home and `image/<driver>` may be mount points:
/// people give them disks of their own, and some daemons mount their home on itself. Nothing below them may be.
#[derive(Debug)]
pub(in crate::ops) struct Places {
    root: Dir,
    /// Path below the root, with its slash, and the directory.
    apart: Vec<(String, Dir)>,
}

impl Places {
    pub(in crate::ops) fn open(store: &Store) -> Result<Self, FsError> {
        let image = store.image().map(|dir| (in_root(store.driver().name(), ""), dir.clone()));
        let home = store.home().map(|dir| (format!("{}/", store.driver()), dir.clone()));
        Ok(Self { root: store.root().clone(), apart: image.into_iter().chain(home).collect() })
    }

    /// Opens the directory at `path`; `None` where it is not there.
    pub(in crate::ops) fn dir(&self, path: &str) -> Result<Option<Dir>, FsError> {
        let with_slash = format!("{path}/");
        let apart = self.apart.iter().find_map(|(at, dir)| Some((dir, with_slash.strip_prefix(at.as_str())?)));
        let (dir, rest) = apart.unwrap_or((&self.root, path));
        FsError::found(dir.dir(rest.trim_end_matches('/')))
    }

    /// Opens the directory that `path` lies in, and returns it with the last component.
    pub(in crate::ops) fn parent<'p>(&self, path: &'p str) -> Result<Option<(Dir, &'p str)>, FsError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(self.dir(parent)?.map(|dir| (dir, name)))
    }
}
