//! What a layer's tree is stacked on: tells what a whiteout hides.
//!
//! A mount that was written through may leave whiteouts where nothing lies below: fuse-overlayfs does for each mount point
//! that BuildKit makes and removes again.

use crate::driver::Driver;
use crate::error::FsError;
use crate::fsx::{Dir, Kind};
use crate::store::{Layer, Snapshot, Store};

/// The file in a directory of which nothing that lies below is seen.
const OPAQUE_FILE: &[u8] = b".wh..wh..opq";

/// The trees below a layer, nearest first.
pub(super) struct Below(Vec<Dir>);

/// What one tree says of a path.
enum Says {
    There,
    /// Neither in this tree nor in those below it.
    Gone,
    Nothing,
}

impl Below {
    /// Opens the trees; `None` where not all of them are there.
    pub(super) fn of(
        store: &Store,
        snapshot: &Snapshot,
        driver: &'static Driver,
        layer: &Layer,
    ) -> Result<Option<Self>, FsError> {
        let (Some(dirs), mut trees, mut next) = (store.dirs(), Vec::new(), layer.parent) else { return Ok(None) };
        while let Some(parent) = next {
            let Some(below) = snapshot.layers.get(&parent) else { return Ok(None) };
            let Some(dir) = FsError::in_place(dirs.dir(below.cache_id.as_str()))? else { return Ok(None) };
            let Some(tree) = FsError::in_place(driver.read.tree(&dir))? else { return Ok(None) };
            trees.push(tree.0);
            next = below.parent;
        }
        Ok(Some(Self(trees)))
    }

    /// Tells whether anything lies below at a path.
    pub(super) fn has(&self, path: &[u8]) -> Result<bool, FsError> {
        for tree in &self.0 {
            match says(tree, path)? {
                Says::There => return Ok(true),
                Says::Gone => return Ok(false),
                Says::Nothing => {}
            }
        }
        Ok(false)
    }
}

fn says(tree: &Dir, path: &[u8]) -> Result<Says, FsError> {
    let mut dir = tree.clone();
    let mut parts = path.split(|byte| *byte == b'/').peekable();
    while let Some(name) = parts.next() {
        let Some(found) = dir.find(name)? else {
            let mark = [b".wh.", name].concat();
            let is_hidden = is_opaque(&dir)? || dir.find(mark)?.is_some();
            return Ok(if is_hidden { Says::Gone } else { Says::Nothing });
        };
        match parts.peek() {
            _ if found.is_whiteout() => return Ok(Says::Gone),
            None => return Ok(Says::There),
            // Something that is no directory is in the place of one.
            Some(_) if found.kind != Kind::Directory => return Ok(Says::Gone),
            Some(_) => dir = dir.dir(name)?,
        }
    }
    Ok(Says::There)
}

fn is_opaque(dir: &Dir) -> Result<bool, FsError> {
    let is_mark = |name: &[u8]| name.ends_with(b"overlay.opaque") || name.ends_with(b"fuseoverlayfs.opaque");
    Ok(dir.find(OPAQUE_FILE)?.is_some() || dir.xattrs(b".")?.into_iter().any(|(name, _)| is_mark(&name)))
}
