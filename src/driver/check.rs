//! Compares the files that a graph driver keeps around a tree with what layerdb implies.
//!
//! What a directory's own files say is read by [`Driver::list`]; here it is held against the layers: dockerd follows
//! the driver's files without a look at layerdb, and where both differ, what it mounts is not the image. `vfs` keeps no
//! files around a tree.

use super::Driver;
use crate::error::FsError;
use crate::finding::{Code, Finding, Object, Thing};
use crate::fsx::{Attrs, Dir, Kind};
use crate::id::{CacheId, LinkId};

/// What layerdb implies of one directory of the driver.
#[derive(Debug)]
pub(crate) struct Implied<'a> {
    /// The directory.
    pub(crate) id: &'a CacheId,
    /// What it is stacked on, nearest first; `None` where nothing says.
    pub(crate) below: Option<Vec<&'a CacheId>>,
    /// Whether it is stacked on something, where nothing says on what all: a container on its init layer.
    pub(crate) is_stacked: bool,
    /// Whether it is the directory of a layer, not of a container or of BuildKit's.
    pub(crate) is_layer: bool,
    /// Whether something is stacked on it.
    pub(crate) has_child: bool,
}

/// Checks directories of one driver.
#[derive(Debug)]
pub(crate) struct Checker<'a> {
    pub(super) driver: &'static Driver,
    pub(super) home: &'a Dir,
    /// Where the driver directories lie.
    pub(super) dirs: &'a Dir,
    /// Owner and group of the home: those of every directory in it.
    owner: (u32, u32),
    /// Short names (`overlay2`).
    pub(super) links: Option<Dir>,
    /// Whether the engine that made the store marks parents with `committed`.
    pub(super) marks_parents: bool,
}

impl<'a> Checker<'a> {
    /// Prepares to check directories of `driver`, which lie in `dirs` in its home; `some` are some of them.
    ///
    /// # Errors
    /// The file system does not give what all of them are held against.
    pub(crate) fn new(
        driver: &'static Driver,
        home: &'a Dir,
        dirs: &'a Dir,
        some: impl Iterator<Item = &'a CacheId>,
    ) -> Result<Self, FsError> {
        let own = home.attrs(".")?;
        let has_links = driver.has_short_names();
        let mut marks_parents = false;
        for id in some.filter(|_| has_links) {
            let dir = FsError::found(dirs.dir(id.as_str()))?;
            marks_parents = dir.map(|dir| dir.find("committed")).transpose()?.flatten().is_some();
            if marks_parents {
                break;
            }
        }
        let links = if has_links { FsError::found(home.dir("l"))? } else { None };
        Ok(Self { driver, home, dirs, owner: (own.uid, own.gid), links, marks_parents })
    }

    /// Checks what all directories need.
    pub(crate) fn home(&self) -> Vec<Finding> {
        self.driver.check.map(|check| check.home(self)).unwrap_or_default()
    }

    /// Checks one directory that is there.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub(crate) fn check(&self, implied: &Implied<'_>) -> Result<Vec<Finding>, FsError> {
        let dir = self.dirs.dir(implied.id.as_str())?;
        let mut one = One { checker: self, implied, dir, findings: Vec::new() };
        if let Some(check) = self.driver.check {
            check.directory(&mut one)?;
        }
        Ok(one.findings)
    }

    /// Returns where a short name leads to, where it leads anywhere.
    pub(super) fn target(&self, link: &LinkId) -> Result<Option<Vec<u8>>, FsError> {
        let Some(links) = &self.links else { return Ok(None) };
        match links.read_link(link.as_str()) {
            // It is there and no link.
            Err(error) if error.source.kind() == std::io::ErrorKind::InvalidInput => Ok(None),
            target => FsError::found(target),
        }
    }
}

/// One directory that is being checked.
#[derive(Debug)]
pub(crate) struct One<'a> {
    pub(super) checker: &'a Checker<'a>,
    pub(super) implied: &'a Implied<'a>,
    /// The directory.
    pub(super) dir: Dir,
    pub(super) findings: Vec<Finding>,
}

impl One<'_> {
    /// Returns what a finding of the directory is about.
    pub(super) fn object(&self) -> Object {
        let id = self.implied.id;
        Object::at(Thing::Directory(id.clone()), self.checker.driver.path_of(id))
    }

    /// Says that something of the directory is wrong.
    pub(super) fn find(&mut self, code: Code, evidence: impl ToString) {
        self.findings.push(Finding::new(code, self.object(), evidence));
    }

    /// Checks mode and owner of a file or directory that the driver made, `name` below the layer's directory; the empty name is
    /// that of the directory.
    pub(super) fn attributes(&mut self, name: &str, found: &Attrs) {
        let shown = if name.is_empty() { "the directory" } else { name };
        let modes = self.checker.driver.modes(name);
        if !modes.contains(&found.mode) {
            self.find(Code::DriverMode, format!("{shown}: expected mode {:o}, found {:o}", modes[0], found.mode));
        }
        let owner = (found.uid, found.gid);
        let expected = self.checker.owner;
        if expected != owner {
            let evidence =
                format!("{shown}: expected owner {}:{}, found {}:{}", expected.0, expected.1, owner.0, owner.1);
            self.find(Code::DriverOwner, evidence);
        }
    }

    /// Looks for something that the driver makes; says so where it is not there or of another kind.
    pub(super) fn made(&mut self, name: &str, kind: Kind, code: Code) -> Result<Option<Attrs>, FsError> {
        let found = self.dir.find(name)?;
        match found {
            Some(found) if found.kind == kind => return Ok(Some(found)),
            Some(_) => {
                self.find(code, format!("{name} is no {}", if kind == Kind::File { "file" } else { "directory" }))
            }
            None => self.find(code, format!("{name} is missing")),
        }
        Ok(None)
    }
}
