//! What moves between a store and the trash.

use serde::{Deserialize, Serialize};

use crate::error::FsError;
use crate::fsx::{Attrs, Dir, Kind, Time};

/// What tells whether a path still holds the same thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its type.
    pub kind: Kind,
    /// Its inode.
    pub inode: u64,
    /// `btrfs`: the number of the subvolume whose root it is. All roots have the same inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subvolume: Option<u64>,
    /// When it was last changed.
    pub modified: Time,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Something that was planned and was not done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    /// Where it lies, relative to the data root.
    pub path: String,
    /// Why it stays.
    pub reason: String,
}

/// Mode and owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owned {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Identity {
    /// Tells whether both are of the same node, which may have changed.
    pub(in crate::ops) fn is_same_node(&self, other: &Self) -> bool {
        let told = |one: &Self| (one.kind, one.inode, one.subvolume);
        told(self) == told(other)
    }
}

impl Owned {
    /// Returns those of a node.
    pub(in crate::ops) fn of(found: &Attrs) -> Self {
        Self { mode: found.mode, uid: found.uid, gid: found.gid }
    }

    /// Gives them to a name that is no symbolic link.
    pub(in crate::ops) fn give(self, dir: &Dir, name: &str) -> Result<(), FsError> {
        dir.set_owner(name, self.uid, self.gid)?;
        dir.set_mode(name, self.mode)
    }
}

/// What happens at one path.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Move<'w> {
    /// Place in the order of all moves; the name in the trash.
    pub(in crate::ops) order: usize,
    /// Group of the order: each is durable before the next.
    pub(in crate::ops) step: usize,
    /// The path, relative to the data root.
    pub(in crate::ops) path: &'w str,
    /// What happens.
    pub(in crate::ops) how: How<'w>,
}

/// What happens to a thing.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) enum How<'w> {
    /// It goes to the trash, where it still is this.
    Away(Option<&'w Identity>),
    /// Something new comes from the trash, where nothing was.
    Put,
    /// Something new comes from the trash, and what was there goes to its place in the trash, in one step.
    Exchange(&'w Identity),
    /// It gets another mode and owner.
    Attributes {
        /// What it is.
        node: &'w Identity,
        /// What it had.
        was: Owned,
        /// What it gets.
        now: Owned,
    },
}

impl<'w> Move<'w> {
    pub(in crate::ops) fn away(order: usize, step: usize, path: &'w str) -> Self {
        Self { order, step, path, how: How::Away(None) }
    }

    /// Returns the path of the directory it is in.
    pub(in crate::ops) fn parent(&self) -> &'w str {
        self.path.rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    /// Says that it was not done.
    pub(in crate::ops) fn skipped(&self, reason: impl Into<String>) -> Skipped {
        Skipped { path: self.path.to_owned(), reason: reason.into() }
    }
}

/// Something that was made, for a place where it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::ops) struct Made {
    #[serde(flatten)]
    identity: Identity,
    /// When it was made, where the file system tells: an inode that is free is given again, and a directory changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    born: Option<Time>,
}

impl Made {
    /// Notes what has a name; `None` where nothing is there.
    pub(in crate::ops) fn find(dir: &Dir, name: &str) -> Result<Option<Self>, FsError> {
        let Some(identity) = identify(dir, name)? else { return Ok(None) };
        Ok(Some(Self { identity, born: dir.born(name)? }))
    }

    /// Tells whether a name is it. In a directory something may have changed.
    pub(in crate::ops) fn is_at(&self, dir: &Dir, name: &str) -> Result<bool, FsError> {
        let Some(now) = Self::find(dir, name)? else { return Ok(false) };
        let is_changed = self.identity != now.identity && self.identity.kind != Kind::Directory;
        Ok(self.identity.is_same_node(&now.identity)
            && !is_changed
            && (self.born == now.born || self.born.is_none() || now.born.is_none()))
    }
}

/// Returns what tells whether a name is still the same thing; `None` where nothing is there.
pub(in crate::ops) fn identify(dir: &Dir, name: &str) -> Result<Option<Identity>, FsError> {
    let Some(Attrs { kind, inode, mtime, .. }) = dir.find(name)? else { return Ok(None) };
    let target = match kind {
        Kind::Symlink => Some(String::from_utf8_lossy(&dir.read_link(name)?).into_owned()),
        _ => None,
    };
    Ok(Some(Identity { kind, inode, subvolume: dir.subvolume(name)?, modified: mtime, target }))
}
