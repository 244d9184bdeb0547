//! Reads the directory of a layer, and says what there would be in one that is built.

use std::collections::BTreeSet;

use crate::driver::{DriverFacts, NewLayer, Read, read_text, whole};
use crate::error::FsError;
use crate::fsx::{Dir, Kind};
use crate::id::CacheId;
use crate::layer::Marks;
use crate::layer::differences::{Expected, Prediction};
use crate::tarsplit::LayerTree;

use super::{KEEPS, Overlay};

impl Read for Overlay {
    fn tree(&self, layer: &Dir) -> Result<LayerTree, FsError> {
        match layer.dir("root") {
            Err(error) if error.is_not_found() && layer.find("upper")?.is_some() => layer.dir("upper"),
            opened => opened,
        }
        .map(LayerTree)
    }

    fn facts(&self, layer: &Dir) -> Result<DriverFacts, FsError> {
        let lower_id = match layer.find("root")? {
            Some(_) => None,
            None => read_text(layer, "lower-id")?.and_then(|id| CacheId::parse(&id).ok()),
        };
        Ok(DriverFacts { lower_id, ..DriverFacts::default() })
    }

    fn fault(&self, dirs: &Dir, layer: &Dir, _has_parent: bool) -> Result<Option<String>, FsError> {
        if layer.find("root")?.is_some() {
            return Ok(None);
        }
        let Some(lower) = self.facts(layer)?.lower_id else {
            return Ok(Some("root is missing".to_owned()));
        };
        if layer.find("upper")?.is_none() {
            return Ok(Some("upper is missing".to_owned()));
        }
        match dirs.dir(format!("{lower}/root")) {
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(Some(format!("{lower}/root, which is below it, is missing"))),
            Err(error) => Err(error),
        }
    }

    fn marks(&self, facts: &DriverFacts) -> Marks {
        if facts.lower_id.is_some() { Marks::Overlayfs } else { Marks::None }
    }

    fn tree_name(&self, facts: &DriverFacts) -> &'static str {
        if facts.lower_id.is_some() { "upper" } else { "root" }
    }

    fn base(&self, facts: &DriverFacts, parent: &Dir) -> Result<Option<Dir>, FsError> {
        FsError::found(parent.dir(self.tree_name(facts)))
    }

    fn expect(&self, new: &NewLayer<'_>, prediction: &Prediction, path: &[u8]) -> Result<Option<Expected>, FsError> {
        let (tree, is_upper) = (self.tree_name(new.facts).as_bytes(), new.facts.lower_id.is_some());
        let inner = match path.strip_prefix(tree) {
            Some(b"") => Some(&b""[..]),
            Some(rest) => rest.strip_prefix(b"/"),
            None => None,
        };
        if let Some(inner) = inner {
            let base = new.parent.map(|parent| self.base(new.facts, parent)).transpose()?.flatten();
            // A file that came as a hard link has all that it had.
            let keeps = |kind, key: &[u8]| kind == Kind::File && !is_upper || KEEPS.contains(&key);
            // The header of the root itself is not used where whiteouts are kept.
            return match (is_upper && inner.is_empty(), &base) {
                (true, Some(base)) => whole::inherited(base, prediction, inner, keeps),
                (true, None) => Ok(Some(Expected::made(Kind::Directory, 0o755))),
                (false, base) => whole::expect(base.as_ref(), prediction, inner, keeps),
            };
        }
        Ok(match path {
            b"" => Some(Expected::made(Kind::Directory, 0o710)),
            b"lower-id" => Some(Expected::made(Kind::File, 0o600)),
            b"work" => Some(Expected::made(Kind::Directory, 0o700)),
            _ => None,
        })
    }

    fn expected_whiteouts(&self, new: &NewLayer<'_>, prediction: &Prediction) -> Result<BTreeSet<Vec<u8>>, FsError> {
        let mut found: BTreeSet<_> = prediction.whiteouts().map(|path| [b"upper/", path].concat()).collect();
        // Of those below, a directory that was removed and made again hides some.
        if let (Some(parent), Some(_)) = (new.parent, &new.facts.lower_id)
            && let Some(upper) = FsError::found(parent.dir("upper"))?
        {
            collect_whiteouts(&upper, b"upper", &mut found)?;
        }
        Ok(found)
    }
}

/// Collects the paths of whiteouts below the directory at `path`.
fn collect_whiteouts(dir: &Dir, path: &[u8], found: &mut BTreeSet<Vec<u8>>) -> Result<(), FsError> {
    for entry in dir.entries()? {
        let below = [path, b"/", &entry.name].concat();
        match entry.kind {
            Kind::Directory => collect_whiteouts(&dir.dir(&entry.name)?, &below, found)?,
            Kind::Char if dir.attrs(&entry.name)?.is_whiteout() => {
                found.insert(below);
            }
            _ => {}
        }
    }
    Ok(())
}
