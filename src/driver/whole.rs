//! What the drivers share that keep the whole tree of a layer and all below it: `overlay`, `vfs` and `btrfs`. A tree
//! begins as that of the layer below.

use crate::error::FsError;
use crate::fsx::{Dir, Kind};
use crate::layer::differences::{Expected, Prediction, own_xattrs};

/// What a rebuilt tree has at `path`, where that is known: what the layer's tar says, else what `base`, the tree that it
/// began as, has. `keeps` tells which extended attributes of a node of a kind come along.
pub(super) fn expect(
    base: Option<&Dir>,
    prediction: &Prediction,
    path: &[u8],
    keeps: impl Fn(Kind, &[u8]) -> bool,
) -> Result<Option<Expected>, FsError> {
    if let Some(expected) = prediction.get(path) {
        return Ok(Some(expected));
    }
    match (base, path) {
        (None, b"") => Ok(Some(Expected::made(Kind::Directory, 0o755))),
        (None, _) => Ok(None),
        (Some(base), path) => inherited(base, prediction, path, keeps),
    }
}

/// What a tree has at `path` that began as `base`, where the layer's tar says nothing of it itself.
pub(super) fn inherited(
    base: &Dir,
    prediction: &Prediction,
    path: &[u8],
    keeps: impl Fn(Kind, &[u8]) -> bool,
) -> Result<Option<Expected>, FsError> {
    // A hard link of the tar to a file below gives that file what its own header says.
    let link = prediction.link_below(path);
    let source = link.map_or(path, |link| &link.target);
    let Some((dir, name)) = FsError::found(base.parent_of(source))? else { return Ok(None) };
    let Some(attrs) = dir.find(name)? else { return Ok(None) };
    let mut xattrs = own_xattrs(&dir, name)?;
    xattrs.retain(|key, _| keeps(attrs.kind, key));
    let mut expected = Expected::like(&attrs, xattrs);
    if attrs.kind == Kind::Directory && prediction.touches(path) {
        // Unpacking changes the time.
        expected.mtime = None;
    }
    if let Some(link) = link {
        link.stamp(&mut expected, attrs.kind);
    }
    Ok(Some(expected))
}
