//! Builds the directory of a layer.

use crate::driver::copy::{Copy, CopyFiles};
use crate::driver::{Begun, Build, NewLayer};
use crate::error::FsError;
use crate::fsx::Dir;
use crate::layer::Whiteouts;

use super::{KEEPS, Vfs};

impl Build for Vfs {
    fn begin(&self, at: &Dir, name: &str, new: &NewLayer<'_>) -> Result<Begun, FsError> {
        let layer = at.make_dir(name, 0o755)?;
        layer.own()?;
        if let Some(parent) = new.parent {
            Copy::new(CopyFiles::Content, KEEPS).tree(parent, &layer)?;
        }
        Ok(Begun { tree: layer.clone(), layer, whiteouts: Whiteouts::Remove, linked: Vec::new() })
    }
}
