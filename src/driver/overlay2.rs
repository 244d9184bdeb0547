//! `overlay2`: each layer's delta in a directory of its own (moby `daemon/graphdriver/overlay2/overlay.go`).
//!
//! ```text
//! overlay2/                0710
//!   l/                     0700   short names: <LINK> -> ../<id>/diff
//!   <id>/                  0710
//!     diff/                0755   the tree; whiteouts as devices 0:0, opaque directories by an xattr
//!     link                 0644   the short name, 26 characters
//!     lower                0644   with a parent: l/<LINK>:l/<LINK>… of all layers below, nearest first
//!     work/                0700   with a parent
//!     committed            0600   once a child was made (20.10+)
//! ```

use std::collections::BTreeSet;

use rustix::io::Errno;

use crate::error::FsError;
use crate::fsx::{Dir, Kind};
use crate::id::{CacheId, LinkId};
use crate::layer::Whiteouts;
use crate::layer::differences::{Expected, Prediction};
use crate::tarsplit::LayerTree;

use super::{Begun, DriverFacts, GraphDriver, NewLayer, read_text};

/// The driver.
#[derive(Debug)]
pub(crate) struct Overlay2;

impl GraphDriver for Overlay2 {
    fn name(&self) -> &'static str {
        "overlay2"
    }

    fn tree(&self, layer: &Dir) -> Result<LayerTree, FsError> {
        layer.dir("diff").map(LayerTree)
    }

    fn facts(&self, layer: &Dir) -> Result<DriverFacts, FsError> {
        let link = read_text(layer, "link")?.and_then(|link| LinkId::parse(&link).ok());
        Ok(DriverFacts { link, committed: layer.find("committed")?.is_some(), lower_id: None })
    }

    fn fault(&self, home: &Dir, layer: &Dir, has_parent: bool) -> Result<Option<String>, FsError> {
        if layer.find("diff")?.is_none_or(|found| found.kind != Kind::Directory) {
            return Ok(Some("diff is missing".to_owned()));
        }
        let Some(link) = read_text(layer, "link")?.and_then(|link| LinkId::parse(&link).ok()) else {
            return Ok(Some("link is missing or empty".to_owned()));
        };
        let short_names = home.dir("l")?;
        if short_names.find(link.as_str())?.is_none() {
            return Ok(Some(format!("l/{link} is missing")));
        }
        if has_parent {
            for name in ["lower", "work"] {
                if layer.find(name)?.is_none() {
                    return Ok(Some(format!("{name} is missing")));
                }
            }
        }
        Ok(None)
    }

    fn keeps_whiteouts(&self, _: &DriverFacts) -> bool {
        true
    }

    fn expect(&self, _: &NewLayer<'_>, prediction: &Prediction, path: &[u8]) -> Result<Option<Expected>, FsError> {
        Ok(match path {
            b"" => Some(Expected::made(Kind::Directory, 0o710)),
            b"diff" => Some(Expected {
                xattrs: prediction.get(b"").map(|root| root.xattrs).unwrap_or_default(),
                ..Expected::made(Kind::Directory, 0o755)
            }),
            b"link" | b"lower" => Some(Expected::made(Kind::File, 0o644)),
            b"committed" => Some(Expected::made(Kind::File, 0o600)),
            b"work" => Some(Expected::made(Kind::Directory, 0o700)),
            path => path.strip_prefix(b"diff/").and_then(|path| prediction.get(path)),
        })
    }

    fn expected_whiteouts(&self, _: &NewLayer<'_>, prediction: &Prediction) -> Result<BTreeSet<Vec<u8>>, FsError> {
        Ok(prediction.whiteouts().map(|path| [b"diff/", path].concat()).collect())
    }

    fn begin(&self, layer: &Dir, new: &NewLayer<'_>) -> Result<Begun, FsError> {
        let link = new.facts.link.as_ref().expect("because the plan gives every overlay2 layer a link");
        layer.new_file("link", link.as_str().as_bytes(), 0o644)?;
        if let Some(parent) = new.parent {
            layer.make_dir("work", 0o700)?;
            layer.new_file("lower", &lower_above(parent)?, 0o644)?;
        }
        if new.facts.committed {
            layer.new_file("committed", b"", 0o600)?;
        }
        Ok(Begun { tree: layer.make_dir("diff", 0o755)?, whiteouts: Whiteouts::Overlayfs, linked: Vec::new() })
    }

    fn mark_parent(&self, layer: &Dir) -> Result<(), FsError> {
        match layer.find("committed")? {
            Some(_) => Ok(()),
            None => layer.new_file("committed", b"", 0o600),
        }
    }

    fn home_links(&self, id: &CacheId, facts: &DriverFacts) -> Vec<(String, String)> {
        facts.link.iter().map(|link| (format!("l/{link}"), format!("../{id}/diff"))).collect()
    }

    fn taken_links(&self, home: &Dir) -> Result<BTreeSet<LinkId>, FsError> {
        match home.dir("l") {
            Err(error) if error.is_not_found() => Ok(BTreeSet::new()),
            links => Ok(links?.entries()?.iter().filter_map(|entry| LinkId::parse(&entry.name).ok()).collect()),
        }
    }

    fn home_dirs(&self) -> &'static [(&'static str, u32)] {
        &[("l", 0o700)]
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
