//! The ids that a container sees, and those on disk.
//!
//! With `userns-remap`, and where dockerd runs without root, container id 0 is another one on disk. A [`Dir`] of such a
//! store tells and takes the ids of containers, those that layer tars have.

use std::io;

use super::attrs::{Attrs, XattrName};
use super::dir::{Dir, Result};
use crate::error::FsError;

/// Owner that the kernel shows for one that a namespace does not have.
const OVERFLOW: u32 = 65534;
/// `struct vfs_ns_cap_data`: version 3, and its length; version 2 is shorter by the owner of the namespace.
const CAPABILITY_3: (u32, usize) = (0x0300_0000, 24);
const CAPABILITY_2: (u32, usize) = (0x0200_0000, 20);
const CAPABILITY_VERSION: u32 = 0xff00_0000;

/// Ids that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first, as containers see it.
    pub container: u32,
    /// The first, as it is on disk.
    pub host: u32,
    /// How many there are.
    pub length: u32,
}

/// How ids of containers and ids on disk belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNamespace {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
    /// dockerd itself runs in it, without root: overlayfs keeps `user.overlay.…` instead of `trusted.overlay.…`, and
    /// capabilities name the owner of the namespace.
    pub is_rootless: bool,
}

/// Returns the id that containers see. Root of the host, who owns what dockerd writes around the trees, is theirs too.
fn to_container(ranges: &[IdRange], host: u32) -> u32 {
    let inside = |range: &&IdRange| host >= range.host && host - range.host < range.length;
    match ranges.iter().find(inside) {
        Some(range) => range.container + (host - range.host),
        None if host == 0 => 0,
        None => OVERFLOW,
    }
}

fn to_host(ranges: &[IdRange], container: u32) -> Option<u32> {
    let inside = |range: &&IdRange| container >= range.container && container - range.container < range.length;
    ranges.iter().find(inside).map(|range| range.host + (container - range.container))
}

impl UserNamespace {
    /// Gives attributes the ids that containers see.
    pub(super) fn seen(&self, attrs: Attrs) -> Attrs {
        Attrs { uid: to_container(&self.uids, attrs.uid), gid: to_container(&self.gids, attrs.gid), ..attrs }
    }

    /// Returns owner and group on disk.
    pub(super) fn on_disk(&self, uid: u32, gid: u32) -> io::Result<(u32, u32)> {
        match (to_host(&self.uids, uid), to_host(&self.gids, gid)) {
            (Some(uid), Some(gid)) => Ok((uid, gid)),
            _ => {
                let text = format!("owner {uid}:{gid} is not among the ids of the store's user namespace");
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
        }
    }

    /// Gives an extended attribute the form that it has where there is no namespace.
    pub(super) fn seen_xattr(&self, (key, mut value): (XattrName, Vec<u8>)) -> (XattrName, Vec<u8>) {
        if !self.is_rootless {
            return (key, value);
        }
        if let Some(rest) = key.strip_prefix(b"user.overlay.") {
            return ([b"trusted.overlay.", rest].concat(), value);
        }
        if key == b"security.capability" && value.len() == CAPABILITY_3.1 {
            let magic = u32::from_le_bytes([value[0], value[1], value[2], value[3]]);
            if magic & CAPABILITY_VERSION == CAPABILITY_3.0 {
                value.truncate(CAPABILITY_2.1);
                value[..4].copy_from_slice(&(magic & !CAPABILITY_VERSION | CAPABILITY_2.0).to_le_bytes());
            }
        }
        (key, value)
    }

    /// Returns the name that an extended attribute has on disk.
    pub(super) fn xattr_on_disk(&self, key: &[u8]) -> XattrName {
        match key.strip_prefix(b"trusted.overlay.") {
            Some(rest) if self.is_rootless => [b"user.overlay.", rest].concat(),
            _ => key.to_vec(),
        }
    }
}

impl Dir {
    /// Tells whether the daemon of this directory's store runs without root.
    #[must_use]
    pub fn is_rootless(&self) -> bool {
        self.namespace().is_some_and(|namespace| namespace.is_rootless)
    }

    /// Gives a directory that was just made, and is the process's own, to root of the namespace; does nothing where
    /// there is none.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn own(&self) -> Result<()> {
        if self.namespace().is_some() { self.set_owner(".", 0, 0) } else { Ok(()) }
    }

    /// As [`Dir::own`], but only its group: dockerd, where it is root itself, may enter it, and so may containers.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn own_group(&self) -> Result<()> {
        match self.namespace() {
            None => Ok(()),
            Some(namespace) if namespace.is_rootless => self.own(),
            Some(namespace) => {
                let group = to_host(&namespace.gids, 0).unwrap_or_default();
                self.set_group_on_disk(group)
            }
        }
    }

    /// Gives what was just made to the daemon that is to read it, where that is not root itself.
    pub(super) fn give(&self, name: &[u8]) -> Result<()> {
        if self.is_rootless() { self.set_owner(name, 0, 0) } else { Ok(()) }
    }

    pub(super) fn on_disk(&self, name: &[u8], uid: u32, gid: u32) -> Result<(u32, u32)> {
        match self.namespace() {
            None => Ok((uid, gid)),
            Some(namespace) => {
                namespace.on_disk(uid, gid).map_err(|error| FsError::new("change owner of", self.shown(name), error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_there_and_back() {
        let ranges = [
            IdRange { container: 0, host: 1000, length: 1 },
            IdRange { container: 1, host: 100_000, length: 65536 },
            IdRange { container: 65537, host: u32::MAX - 1, length: 2 },
        ];
        for (container, host) in [(0, 1000), (1, 100_000), (65536, 165_535), (65537, u32::MAX - 1), (65538, u32::MAX)] {
            assert_eq!(to_host(&ranges, container), Some(host));
            assert_eq!(to_container(&ranges, host), container);
        }
        assert_eq!(to_host(&ranges, 65539), None);
        assert_eq!((to_container(&ranges, 0), to_container(&ranges, 1001)), (0, OVERFLOW));
    }

    #[test]
    fn attributes_without_root() {
        let namespace = UserNamespace { uids: Vec::new(), gids: Vec::new(), is_rootless: true };
        let opaque = namespace.seen_xattr((b"user.overlay.opaque".to_vec(), b"y".to_vec()));
        assert_eq!(opaque, (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()));
        assert_eq!(namespace.xattr_on_disk(&opaque.0), b"user.overlay.opaque");
        let (mut second, mut third) = (vec![1, 0, 0, 2], vec![1, 0, 0, 3]);
        second.extend([7; 16]);
        third.extend([[7; 16].as_slice(), &1000_u32.to_le_bytes()].concat());
        let key = b"security.capability".to_vec();
        assert_eq!(namespace.seen_xattr((key.clone(), third)), (key.clone(), second.clone()));
        assert_eq!(namespace.seen_xattr((key.clone(), second.clone())), (key, second));
    }
}
