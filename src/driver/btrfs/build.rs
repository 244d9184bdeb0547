//! Builds the subvolume of a layer.

use rustix::io::Errno;

use crate::driver::{Begun, Build, NewLayer};
use crate::error::FsError;
use crate::fsx::Dir;
use crate::layer::Whiteouts;

use super::Btrfs;

impl Build for Btrfs {
    fn takes(&self, root: &Dir) -> Result<(), FsError> {
        if root.is_btrfs() {
            return Ok(());
        }
        let error = std::io::Error::new(Errno::NOTTY.kind(), "the graph driver btrfs needs a btrfs file system");
        Err(FsError::new("load into", root.shown(""), error))
    }

    fn begin(&self, at: &Dir, name: &str, new: &NewLayer<'_>) -> Result<Begun, FsError> {
        let layer = match new.parent {
            Some(parent) if parent.is_subvolume()? => at.make_snapshot(parent, name)?,
            // The layer below came from another disk as a plain directory, of which no snapshot can be made.
            Some(parent) => {
                let layer = at.make_subvolume(name)?;
                let _ = parent.copy_exactly(&layer)?;
                layer
            }
            None => at.make_subvolume(name)?,
        };
        if new.parent.is_none() {
            layer.set_mode(".", 0o755)?;
            layer.own()?;
        }
        Ok(Begun { tree: layer.clone(), layer, whiteouts: Whiteouts::Remove, linked: Vec::new() })
    }
}
