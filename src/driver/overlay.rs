//! `overlay`: whole trees that share unchanged files by hard links (moby@v20.10.27
//! `daemon/graphdriver/overlay/overlay.go`; left Docker with 24.0).
//!
//! ```text
//! overlay/                 0710
//!   <image layer>/         0710
//!     root/                the whole tree of the layer and all below it; unchanged files are hard links
//!   <container, or a layer that BuildKit made>/
//!     lower-id             0600   the directory whose root/ is below
//!     upper/               what is above it, as overlayfs keeps it
//!     work/                0700
//! ```

use std::collections::{BTreeSet, HashMap};

use crate::error::FsError;
use crate::fsx::{Attrs, Dir, Kind};
use crate::id::{CacheId, LinkId};
use crate::layer::Whiteouts;
use crate::layer::differences::{Expected, Prediction};
use crate::tarsplit::LayerTree;

use super::{Begun, DriverFacts, GraphDriver, NewLayer, read_text};

/// Extended attributes that a copy of a parent's tree keeps (moby `graphdriver/copy/copy.go` `DirCopy`).
const COPIED_XATTRS: [&[u8]; 2] = [b"security.capability", b"trusted.overlay.opaque"];

/// The driver.
#[derive(Debug)]
pub(crate) struct Overlay;

impl GraphDriver for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

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

    fn fault(&self, home: &Dir, layer: &Dir, _has_parent: bool) -> Result<Option<String>, FsError> {
        if layer.find("root")?.is_some() {
            return Ok(None);
        }
        let Some(lower) = self.facts(layer)?.lower_id else {
            return Ok(Some("root is missing".to_owned()));
        };
        if layer.find("upper")?.is_none() {
            return Ok(Some("upper is missing".to_owned()));
        }
        match home.dir(format!("{lower}/root")) {
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(Some(format!("{lower}/root, which is below it, is missing"))),
            Err(error) => Err(error),
        }
    }

    fn keeps_whiteouts(&self, facts: &DriverFacts) -> bool {
        facts.lower_id.is_some()
    }

    fn expect(&self, new: &NewLayer<'_>, prediction: &Prediction, path: &[u8]) -> Result<Option<Expected>, FsError> {
        let tree = tree_name(new.facts);
        if path == tree.as_bytes() {
            if let Some(root) = prediction.get(b"").filter(|_| new.facts.lower_id.is_none()) {
                return Ok(Some(root));
            }
            return Ok(inherited(new, prediction, b"")?.or(Some(Expected::made(Kind::Directory, 0o755))));
        }
        if let Some(inner) = path.strip_prefix(tree.as_bytes()).and_then(|rest| rest.strip_prefix(b"/")) {
            return match prediction.get(inner) {
                Some(expected) => Ok(Some(expected)),
                None => inherited(new, prediction, inner),
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
            && let Some(upper) = parent.dir("upper").map(Some).or_else(none_if_missing)?
        {
            collect_whiteouts(&upper, b"upper", &mut found)?;
        }
        Ok(found)
    }

    fn begin(&self, layer: &Dir, new: &NewLayer<'_>) -> Result<Begun, FsError> {
        let tree = layer.make_dir(tree_name(new.facts), 0o755)?;
        match &new.facts.lower_id {
            None => {
                let mut copy = Copy::new(CopyFiles::HardLink);
                if let Some(parent) = new.parent {
                    copy.tree(&parent.dir("root")?, &tree)?;
                }
                Ok(Begun { tree, whiteouts: Whiteouts::Remove, linked: copy.linked })
            }
            Some(lower) => {
                layer.new_file("lower-id", lower.as_str().as_bytes(), 0o600)?;
                layer.make_dir("work", 0o700)?;
                // On top of another such layer, BuildKit's begins as a copy of that one's upper.
                if let Some(below) = new.parent.map(|parent| parent.dir("upper"))
                    && let Some(below) = below.map(Some).or_else(none_if_missing)?
                {
                    Copy::new(CopyFiles::Content).tree(&below, &tree)?;
                }
                let lower = new.lower.expect("because the plan gives a layer with a lower-id its lower directory");
                Ok(Begun { tree, whiteouts: Whiteouts::Above(lower.dir("root")?), linked: Vec::new() })
            }
        }
    }

    fn mark_parent(&self, _: &Dir) -> Result<(), FsError> {
        Ok(())
    }

    fn home_links(&self, _: &CacheId, _: &DriverFacts) -> Vec<(String, String)> {
        Vec::new()
    }

    fn taken_links(&self, _: &Dir) -> Result<BTreeSet<LinkId>, FsError> {
        Ok(BTreeSet::new())
    }

    fn home_dirs(&self) -> &'static [(&'static str, u32)] {
        &[]
    }
}

fn tree_name(facts: &DriverFacts) -> &'static str {
    if facts.lower_id.is_some() { "upper" } else { "root" }
}

fn none_if_missing<T>(error: FsError) -> Result<Option<T>, FsError> {
    if error.is_not_found() { Ok(None) } else { Err(error) }
}

/// What a new tree has at `path` from the tree it began as a copy of.
fn inherited(new: &NewLayer<'_>, prediction: &Prediction, path: &[u8]) -> Result<Option<Expected>, FsError> {
    let Some(parent) = new.parent else { return Ok(None) };
    let Some(tree) = parent.dir(tree_name(new.facts)).map(Some).or_else(none_if_missing)? else { return Ok(None) };
    let Some((dir, name)) = tree.parent_of(path).map(Some).or_else(none_if_missing)? else { return Ok(None) };
    let Some(attrs) = dir.find(name)? else { return Ok(None) };
    let mut xattrs = crate::layer::differences::own_xattrs(&dir, name)?;
    if attrs.kind != Kind::File || new.facts.lower_id.is_some() {
        xattrs.retain(|key, _| COPIED_XATTRS.contains(&&key[..]));
    }
    let mut expected = Expected::like(&attrs, xattrs);
    if attrs.kind == Kind::Directory && prediction.touches(path) {
        // Unpacking changes the time.
        expected.mtime = None;
    }
    Ok(Some(expected))
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

/// How regular files come into a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyFiles {
    HardLink,
    Content,
}

/// Copies a parent's tree as Docker's `DirCopy` does: regular files as hard links or with their content, all
/// else made new with owner, mode and times, and only [`COPIED_XATTRS`].
struct Copy {
    files: CopyFiles,
    /// Files with several names that were copied already: inode to the place of the copy.
    copied: HashMap<u64, (Dir, Vec<u8>)>,
    /// Inodes of files that came as hard links.
    linked: Vec<u64>,
}

impl Copy {
    fn new(files: CopyFiles) -> Self {
        Self { files, copied: HashMap::new(), linked: Vec::new() }
    }

    fn tree(&mut self, from: &Dir, to: &Dir) -> Result<(), FsError> {
        for entry in from.entries()? {
            self.node(from, to, &entry.name)?;
        }
        finish(from, b".", to, &from.attrs(b".")?)
    }

    fn node(&mut self, from: &Dir, to: &Dir, name: &[u8]) -> Result<(), FsError> {
        let attrs = from.attrs(name)?;
        match attrs.kind {
            Kind::File if self.files == CopyFiles::HardLink => {
                self.linked.push(attrs.inode);
                return to.hard_link(from, name, name);
            }
            Kind::File => {
                if let Some((dir, first)) = self.copied.get(&attrs.inode) {
                    return to.hard_link(dir, first, name);
                }
                let (mut source, mut copy) = (from.file(name)?, to.make_file(name, 0o600)?);
                std::io::copy(&mut source, &mut copy).map_err(|error| FsError::new("copy", to.shown(name), error))?;
                if attrs.links > 1 {
                    self.copied.insert(attrs.inode, (to.clone(), name.to_vec()));
                }
            }
            Kind::Directory => {
                let inner = to.make_dir(name, 0o700)?;
                return self.tree(&from.dir(name)?, &inner);
            }
            Kind::Symlink => to.make_symlink(name, &from.read_link(name)?)?,
            // A socket cannot be copied; Docker makes a named pipe of it.
            Kind::Socket => to.make_node(name, Kind::Fifo, 0o600, (0, 0))?,
            kind => to.make_node(name, kind, 0o600, attrs.device)?,
        }
        finish(from, name, to, &attrs)
    }
}

/// Gives a copied node its attributes.
fn finish(from: &Dir, name: &[u8], to: &Dir, attrs: &Attrs) -> Result<(), FsError> {
    to.set_owner(name, attrs.uid, attrs.gid)?;
    if attrs.kind != Kind::Symlink {
        for (key, value) in from.xattrs(name)?.iter().filter(|(key, _)| COPIED_XATTRS.contains(&&key[..])) {
            to.set_xattr(name, key, value)?;
        }
    }
    if attrs.kind != Kind::Symlink {
        to.set_mode(name, attrs.mode)?;
    }
    to.set_times(name, attrs.mtime, attrs.mtime)
}
