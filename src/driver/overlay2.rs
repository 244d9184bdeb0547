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
//!     merged/              0700   while mounted; to 17.09 made with the layer, and needed
//! ```

use std::collections::BTreeSet;

use rustix::io::Errno;

use crate::error::FsError;
use crate::fsx::{Dir, Kind};
use crate::id::{CacheId, LinkId};
use crate::layer::differences::{Expected, Prediction};
use crate::layer::{Marks, Whiteouts};
use crate::tarsplit::LayerTree;

use super::{Begun, DriverFacts, FILE_LIMIT, GraphDriver, NewLayer, read_text};

/// The driver, and `fuse-overlayfs`, which differs in little.
#[derive(Debug)]
pub(crate) struct Overlay2 {
    pub(super) name: &'static str,
    /// How what is unpacked says that something is removed.
    pub(super) marks: Marks,
    /// Mode of `work`.
    pub(super) work_mode: u32,
    /// Whether a layer with a child has `committed`.
    pub(super) commits: bool,
}

/// `overlay2` itself.
pub(crate) static OVERLAY2: Overlay2 =
    Overlay2 { name: "overlay2", marks: Marks::Overlayfs, work_mode: 0o700, commits: true };

impl GraphDriver for Overlay2 {
    fn name(&self) -> &'static str {
        self.name
    }

    fn tree(&self, layer: &Dir) -> Result<LayerTree, FsError> {
        layer.dir("diff").map(LayerTree)
    }

    fn facts(&self, layer: &Dir) -> Result<DriverFacts, FsError> {
        let link = read_link(layer)?;
        let (committed, mounted) = (layer.find("committed")?.is_some(), layer.is_rootless());
        Ok(DriverFacts { link, committed, mounted, ..DriverFacts::default() })
    }

    fn fault(&self, dirs: &Dir, layer: &Dir, has_parent: bool) -> Result<Option<String>, FsError> {
        if layer.find("diff")?.is_none_or(|found| found.kind != Kind::Directory) {
            return Ok(Some("diff is missing".to_owned()));
        }
        let Some(link) = read_link(layer)? else {
            return Ok(Some("link is missing or empty".to_owned()));
        };
        let short_names = dirs.dir("l")?;
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

    fn marks(&self, _: &DriverFacts) -> Marks {
        self.marks
    }

    fn tree_name(&self, _: &DriverFacts) -> &'static str {
        "diff"
    }

    fn base(&self, _: &DriverFacts, _: &Dir) -> Result<Option<Dir>, FsError> {
        Ok(None)
    }

    fn expect(&self, new: &NewLayer<'_>, prediction: &Prediction, path: &[u8]) -> Result<Option<Expected>, FsError> {
        Ok(match path {
            b"" => Some(Expected::made(Kind::Directory, 0o710)),
            b"diff" => Some(Expected {
                xattrs: prediction.get(b"").map(|root| root.xattrs).unwrap_or_default(),
                ..Expected::made(Kind::Directory, 0o755)
            }),
            b"merged" if new.facts.merged => Some(Expected::made(Kind::Directory, 0o700)),
            b"link" | b"lower" => Some(Expected::made(Kind::File, 0o644)),
            b"committed" => Some(Expected::made(Kind::File, 0o600)),
            b"work" => Some(Expected::made(Kind::Directory, self.work_mode)),
            path => path.strip_prefix(b"diff/").and_then(|path| prediction.get(path)),
        })
    }

    fn expected_whiteouts(&self, _: &NewLayer<'_>, prediction: &Prediction) -> Result<BTreeSet<Vec<u8>>, FsError> {
        Ok(prediction.whiteouts().map(|path| [b"diff/", path].concat()).collect())
    }

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
        if new.facts.committed && self.commits {
            layer.new_file("committed", b"", 0o600)?;
        }
        let whiteouts = if self.marks == Marks::Files { Whiteouts::Files } else { Whiteouts::Overlayfs };
        let tree = layer.make_dir("diff", 0o755)?;
        tree.own()?;
        Ok(Begun { layer, tree, whiteouts, linked: Vec::new() })
    }

    fn layer_size(&self, tree: &Dir, _claimed: u64) -> Result<u64, FsError> {
        tree.content_size()
    }

    fn mark_parent(&self, layer: &Dir) -> Result<(), FsError> {
        match layer.find("committed")? {
            None if self.commits => layer.new_file("committed", b"", 0o600),
            _ => Ok(()),
        }
    }

    fn has_mount_point(&self, layer: &Dir) -> Result<bool, FsError> {
        Ok(layer.find("merged")?.is_some_and(|found| found.kind == Kind::Directory))
    }

    fn has_links(&self) -> bool {
        true
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

/// Reads the short name that a directory says of itself; `None` where it says none.
fn read_link(layer: &Dir) -> Result<Option<LinkId>, FsError> {
    let text = FsError::in_place(layer.read("link", FILE_LIMIT))?;
    Ok(text.and_then(|text| LinkId::parse(text.trim_ascii()).ok()))
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
