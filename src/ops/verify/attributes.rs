//! Compares the tree of a layer with the headers of its tar, without reading a file.

use std::collections::HashSet;

use crate::driver::{BUILDKIT_NAME, Driver, DriverFacts};
use crate::error::{FsError, Result};
use crate::finding::{Code, Severity};
use crate::fsx::{Dir, Inode, Kind};
use crate::id::CacheId;
use crate::layer::{Content, Marks, Members, TarError, TarStream};
use crate::store::{Store, places};
use crate::tarsplit::{Entries, Segments};

use super::headers::Headers;
use super::tree::{Making, Problem, TreeCheck, text};

/// Tells how the tree of a layer came to be. `parent` is the one that it began as a copy of.
pub(super) fn making(
    driver: &'static Driver,
    facts: &DriverFacts,
    id: &CacheId,
    has_parent: bool,
    parent: Option<&Dir>,
) -> Making {
    let is_copy = driver.keeps_whole_trees();
    let is_whole = is_copy && facts.lower_id.is_none();
    let in_place = id.as_str().len() == BUILDKIT_NAME;
    let files = driver.read.marks(facts) == Marks::Files;
    Making {
        in_place,
        whiteouts: !is_copy,
        files,
        mounted: files && in_place || facts.mounted,
        orphan: is_whole && has_parent && parent.is_none(),
        linked: driver.links_files() && is_whole,
    }
}

/// A layer whose tree is to be looked at.
pub(in crate::ops) struct Subject<'a> {
    pub(in crate::ops) driver: &'static Driver,
    /// Its driver directory, and that of the layer below.
    pub(in crate::ops) layer: &'a Dir,
    pub(in crate::ops) parent: Option<&'a Dir>,
    pub(in crate::ops) facts: &'a DriverFacts,
    pub(in crate::ops) id: &'a CacheId,
    pub(in crate::ops) has_parent: bool,
}

/// A node that is not what the layer's tar says.
pub(in crate::ops) struct Damage {
    /// Path below the layer's root.
    pub(in crate::ops) path: Vec<u8>,
    /// It hides what lies below, as far as the layer's own tar tells.
    pub(in crate::ops) is_whiteout: bool,
    /// Its attributes are wrong: those of this file.
    pub(in crate::ops) inode: Option<Inode>,
    evidence: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.is_empty() {
            true => write!(f, "{}", self.evidence),
            false => write!(f, "{}: {}", text(&self.path), self.evidence),
        }
    }
}

impl Subject<'_> {
    /// Finds what `verify` calls damage in the nodes of the tree, but for files whose content is proved by assembling the
    /// tar. Files are not read, but where copies of hard links have to be told from others.
    ///
    /// # Errors
    /// The tree or the headers cannot be read.
    pub(in crate::ops) fn damage(&self, members: &mut Members<impl TarStream>) -> Result<Vec<Damage>, DamageError> {
        let base = self.parent.map(|parent| self.driver.read.base(self.facts, parent)).transpose()?.flatten();
        let headers = Headers::read(members, self.driver.read.marks(self.facts), base.clone())?;
        let making = making(self.driver, self.facts, self.id, self.has_parent, base.as_ref());
        let plain_files = HashSet::new();
        let mut check = TreeCheck::new(&headers, &plain_files, making);
        let tree = self.driver.read.tree(self.layer)?;
        check.run(&tree.0, base.as_ref())?;
        // A hard link of its own tar to a file that it has from below changes that file.
        let own: HashSet<Inode> = match self.driver.keeps_whole_trees() {
            true => check.stamps(&tree.0)?.into_iter().map(|(inode, _)| inode).collect(),
            false => HashSet::new(),
        };
        let damage = |problem: Problem| Damage {
            is_whiteout: problem.code == Code::WhiteoutExtra,
            path: problem.path,
            inode: problem.inode,
            evidence: problem.evidence,
        };
        // What the content of a file is proved with says that best.
        let is_content = |path: &[u8]| {
            let is_file = headers.get(path).is_some_and(|node| node.kind == Some(Kind::File) && node.size > Some(0));
            is_file && !headers.links.contains_key(path) && !headers.sparse.contains_key(path)
        };
        let counts = |problem: &Problem| match problem.code {
            Code::FileSize | Code::FileMissing | Code::NodeKind => !is_content(&problem.path),
            _ => problem.severity == Severity::Damage && problem.inode.is_none_or(|inode| !own.contains(&inode)),
        };
        let bad = std::mem::take(&mut check.problems).into_iter().filter(counts);
        Ok(bad.map(damage).collect())
    }
}

/// Why a tree could not be compared.
#[derive(Debug, thiserror::Error)]
pub(in crate::ops) enum DamageError {
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Tar(#[from] TarError),
}

/// Lists the files that hard links in layers above have changed rightly (`overlay`), of all layers of a store.
///
/// # Errors
/// The store cannot be read.
pub(in crate::ops) fn stamped(store: &Store) -> Result<HashSet<Inode>> {
    let driver = store.driver().readable()?;
    let (snapshot, mut stamped) = (store.snapshot()?, HashSet::new());
    let (Some(image), Some(dirs)) = (store.image(), store.dirs()) else { return Ok(stamped) };
    for (chain, layer) in &snapshot.layers {
        let parts = || -> Result<_, DamageError> {
            let directory = dirs.dir(layer.cache_id.as_str())?;
            let split = image.file(places::tar_split(chain))?;
            let marks = driver.read.marks(&driver.read.facts(&directory)?);
            let mut members = Members::new(Segments::new(Entries::new(split)), Content::Elided);
            let headers = Headers::read(&mut members, marks, None)?;
            Ok((headers, driver.read.tree(&directory)?))
        };
        // A layer that cannot be read explains nothing.
        let Ok((headers, tree)) = parts() else { continue };
        let making = making(driver, &DriverFacts::default(), &layer.cache_id, false, None);
        let plain_files = HashSet::new();
        let check = TreeCheck::new(&headers, &plain_files, making);
        let Ok(stamps) = check.stamps(&tree.0) else { continue };
        stamped.extend(stamps.into_iter().map(|(inode, _)| inode));
    }
    Ok(stamped)
}
