//! Reads the directory of a layer, and says what there would be in one that is built.

use std::collections::BTreeSet;

use crate::driver::{DriverFacts, NewLayer, Read};
use crate::error::FsError;
use crate::fsx::{Dir, Kind};
use crate::layer::Marks;
use crate::layer::differences::{Expected, Prediction};
use crate::tarsplit::LayerTree;

use super::{Overlay2, read_link};

impl Read for Overlay2 {
    fn tree(&self, layer: &Dir) -> Result<LayerTree, FsError> {
        layer.dir("diff").map(LayerTree)
    }

    fn facts(&self, layer: &Dir) -> Result<DriverFacts, FsError> {
        let link = read_link(layer, "link")?;
        let (committed, mounted) = (layer.find("committed")?.is_some(), layer.is_rootless());
        Ok(DriverFacts { link, committed, mounted, ..DriverFacts::default() })
    }

    fn fault(&self, dirs: &Dir, layer: &Dir, has_parent: bool) -> Result<Option<String>, FsError> {
        if layer.find("diff")?.is_none_or(|found| found.kind != Kind::Directory) {
            return Ok(Some("diff is missing".to_owned()));
        }
        let Some(link) = read_link(layer, "link")? else {
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

    fn layer_size(&self, tree: &Dir, _claimed: u64) -> Result<u64, FsError> {
        tree.content_size()
    }

    fn has_mount_point(&self, layer: &Dir) -> Result<bool, FsError> {
        Ok(layer.find("merged")?.is_some_and(|found| found.kind == Kind::Directory))
    }
}
