//! Where things of a transaction lie, and what is taken away of one that is done.

use crate::crash::crash_point;
use crate::error::{FsError, Result};
use crate::fsx::Dir;
use crate::store::Store;
use crate::store::places::in_root;

use super::{NODES, Skipped, TRASH, WORK, damaged_one, names, read_journal};

/// The directories of one transaction that things lie in.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) dir: Dir,
    /// Paths of what is a mount of its own, each with its slash, and where its things go: not to `dir`.
    pub(super) apart: Vec<(String, Dir)>,
}

impl Slots {
    /// Returns where what belongs to `path` lies.
    pub(super) fn of(&self, path: &str) -> &Dir {
        let apart = self.apart.iter().find(|(mount, _)| path.starts_with(mount.as_str()));
        apart.map_or(&self.dir, |(_, dir)| dir)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Dir> {
        std::iter::once(&self.dir).chain(self.apart.iter().map(|(_, dir)| dir))
    }
}

/// Takes away what is left of the transactions that have no journal. Says which of them hold something: nobody knows where
/// it belongs.
pub(in crate::ops) fn discard(store: &Store) -> Result<Vec<Skipped>> {
    let mut left = Vec::new();
    for name in names(store)? {
        if !matches!(read_journal(store, &name), Ok(None)) {
            continue;
        }
        let bases = std::iter::once(store.root()).chain(mounts(store).map(|(_, base)| base));
        for base in bases {
            let nodes = FsError::found(base.dir(format!("{WORK}/{TRASH}/{name}/{NODES}")))?;
            let held = nodes.map(|nodes| nodes.entries()).transpose()?.unwrap_or_default();
            match held.is_empty() {
                true => clean_up(base, &name)?,
                false => left.push(damaged_one(&name, "it has no journal, and holds something".to_owned())),
            }
        }
    }
    Ok(left)
}

/// Removes a transaction's directory, and those above it that are empty then.
pub(super) fn clean_up(base: &Dir, name: &str) -> Result<(), FsError> {
    let Some(trash) = FsError::found(base.dir(format!("{WORK}/{TRASH}")))? else { return Ok(()) };
    if let Some(dir) = FsError::found(trash.dir(name))? {
        for entry in dir.entries()? {
            match entry.name.as_slice() {
                // Fails where something is in it.
                b"nodes" => dir.remove_dir(NODES)?,
                b"new" | b"build" => dir.remove_tree(&entry.name)?,
                _ => dir.remove_file(&entry.name)?,
            }
        }
        trash.remove_dir(name)?;
    }
    // Crash here: the work is done; the next run takes the empty directories away.
    crash_point("trash:empty");
    remove_empty(base)?;
    base.sync()
}

/// Takes away the directories of work that is done, which a crash may have left empty.
pub(in crate::ops) fn tidy(store: &Store) -> Result<(), FsError> {
    remove_empty(store.root())?;
    mounts(store).try_for_each(|(_, base)| remove_empty(base))
}

/// Returns what may be a mount of its own: path with its slash, and directory.
pub(super) fn mounts(store: &Store) -> impl Iterator<Item = (String, &Dir)> {
    let image = store.image().map(|dir| (in_root(store.driver().name(), ""), dir));
    image.into_iter().chain(store.home().map(|dir| (home_path(store), dir)))
}

/// Returns the path of the driver's home with its slash.
pub(super) fn home_path(store: &Store) -> String {
    format!("{}/", store.driver())
}

/// Removes the trash of this directory where it is empty, and what it is in.
fn remove_empty(base: &Dir) -> Result<(), FsError> {
    let Some(work) = FsError::found(base.dir(WORK))? else { return Ok(()) };
    if let Some(trash) = FsError::found(work.dir(TRASH))?
        && trash.entries()?.is_empty()
    {
        work.remove_dir(TRASH)?;
    }
    if work.entries()?.is_empty() { base.remove_dir(WORK) } else { Ok(()) }
}

/// Opens the places for things of what is a mount of its own: nothing can be renamed from one mount to another.
pub(super) fn apart(store: &Store, name: &str, slots: &str, make: bool) -> Result<Vec<(String, Dir)>> {
    let mut apart = Vec::new();
    for (mount, base) in mounts(store) {
        let on_other_mount = store.root().dir(mount.trim_end_matches('/')).is_err_and(|error| error.is_other_mount());
        let dir = match base.dir(format!("{WORK}/{TRASH}/{name}/{slots}")) {
            Err(error) if error.is_not_found() && make && on_other_mount => {
                let dir = base.ensure_dir(WORK, 0o700)?.ensure_dir(TRASH, 0o700)?.make_dir(name, 0o700)?;
                let slots = dir.make_dir(slots, 0o700)?;
                for dir in [&dir, base] {
                    dir.sync()?;
                }
                slots
            }
            Err(error) if error.is_not_found() => continue,
            dir => dir?,
        };
        apart.push((mount, dir));
    }
    Ok(apart)
}
