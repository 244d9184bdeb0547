//! Builds the directory of a layer, with its short name.

use std::collections::BTreeSet;

use rustix::io::Errno;

use crate::driver::{Begun, Build, DriverFacts, NewLayer, ShortNames, read_text};
use crate::error::FsError;
use crate::fsx::Dir;
use crate::id::{CacheId, LinkId};
use crate::layer::{Marks, Whiteouts};

use super::Overlay2;

impl Build for Overlay2 {
    fn begin(&self, at: &Dir, name: &str, new: &NewLayer<'_>) -> Result<Begun, FsError> {
        let layer = at.make_dir(name, 0o710)?;
        layer.own_group()?;
        let link = new.facts.link.as_ref().expect("because the plan gives every layer a link");
        layer.new_file("link", link.as_str().as_bytes(), 0o644)?;
        if let Some(parent) = new.parent {
            layer.make_dir("work", self.work_mode)?.own()?;
            layer.new_file("lower", &lower_above(parent)?, 0o644)?;
            if new.facts.merged {
                layer.make_dir("merged", 0o700)?.own()?;
            }
        }
        if new.facts.committed {
            layer.new_file("committed", b"", 0o600)?;
        }
        let whiteouts = if self.marks == Marks::Files { Whiteouts::Files } else { Whiteouts::Overlayfs };
        let tree = layer.make_dir("diff", 0o755)?;
        tree.own()?;
        Ok(Begun { layer, tree, whiteouts, linked: Vec::new() })
    }

    fn mark_parent(&self, layer: &Dir) -> Result<(), FsError> {
        match layer.find("committed")? {
            None => layer.new_file("committed", b"", 0o600),
            _ => Ok(()),
        }
    }
}

impl ShortNames for Overlay2 {
    fn home_links(&self, id: &CacheId, facts: &DriverFacts) -> Vec<(String, String)> {
        facts.link.iter().map(|link| (format!("l/{link}"), format!("../{id}/diff"))).collect()
    }

    fn taken_links(&self, home: &Dir) -> Result<BTreeSet<LinkId>, FsError> {
        match home.dir("l") {
            Err(error) if error.is_not_found() => Ok(BTreeSet::new()),
            links => Ok(links?.entries()?.iter().filter_map(|entry| LinkId::parse(&entry.name).ok()).collect()),
        }
    }
}

/// Text of `lower` for a layer on top of this one.
fn lower_above(parent: &Dir) -> Result<Vec<u8>, FsError> {
    let link = read_text(parent, "link")?
        .filter(|link| LinkId::parse(link).is_ok())
        .ok_or_else(|| FsError::new("read", parent.shown("link"), Errno::INVAL))?;
    let mut lower = [b"l/", &link[..]].concat();
    if let Some(below) = read_text(parent, "lower")? {
        lower.push(b':');
        lower.extend_from_slice(&below);
    }
    Ok(lower)
}
