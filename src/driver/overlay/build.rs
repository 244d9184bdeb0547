//! Builds the directory of a layer.

use crate::driver::copy::{Copy, CopyFiles};
use crate::driver::{Begun, Build, NewLayer, Read};
use crate::error::FsError;
use crate::fsx::Dir;
use crate::layer::Whiteouts;

use super::{KEEPS, Overlay};

impl Build for Overlay {
    fn begin(&self, at: &Dir, name: &str, new: &NewLayer<'_>) -> Result<Begun, FsError> {
        let layer = at.make_dir(name, 0o710)?;
        layer.own_group()?;
        let tree = layer.make_dir(self.tree_name(new.facts), 0o755)?;
        tree.own()?;
        let Some(lower) = &new.facts.lower_id else {
            let mut copy = Copy::new(CopyFiles::HardLink, KEEPS);
            if let Some(parent) = new.parent {
                copy.tree(&parent.dir("root")?, &tree)?;
            }
            return Ok(Begun { layer, tree, whiteouts: Whiteouts::Remove, linked: copy.linked });
        };
        layer.new_file("lower-id", lower.as_str().as_bytes(), 0o600)?;
        layer.make_dir("work", 0o700)?.own()?;
        // On top of another such layer, BuildKit's begins as a copy of that one's upper.
        if let Some(base) = new.parent.map(|parent| self.base(new.facts, parent)).transpose()?.flatten() {
            Copy::new(CopyFiles::Content, KEEPS).tree(&base, &tree)?;
        }
        let lower = new.lower.expect("because the plan gives a layer with a lower-id its lower directory");
        Ok(Begun { layer, tree, whiteouts: Whiteouts::Above(lower.dir("root")?), linked: Vec::new() })
    }
}
