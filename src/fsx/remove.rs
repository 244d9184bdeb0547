//! Removing. A link is never followed and another mount never entered. A subvolume of btrfs goes as a whole.

use rustix::fs::AtFlags;

use super::attrs::{Attrs, Kind};
use super::calls;
use super::dir::{Dir, Entry, one_name};
use crate::error::FsError;

impl Dir {
    /// Removes a name that is not a directory.
    ///
    /// # Errors
    /// The name is not there, is a directory, or the file system refuses.
    pub fn remove_file(&self, name: impl AsRef<[u8]>) -> Result<(), FsError> {
        self.unlink(name.as_ref(), AtFlags::empty())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// The name is not there, is not an empty directory, or the file system refuses.
    pub fn remove_dir(&self, name: impl AsRef<[u8]>) -> Result<(), FsError> {
        self.unlink(name.as_ref(), AtFlags::REMOVEDIR)
    }

    fn unlink(&self, name: &[u8], flags: AtFlags) -> Result<(), FsError> {
        let name = one_name(name);
        calls::unlinkat(self.fd(), name, flags).map_err(|errno| self.fail("remove", name, errno))
    }

    /// Removes whatever a name is, directories with all that is in them. Nothing where nothing is there.
    ///
    /// # Errors
    /// Something in it is a mount point, is immutable, or the file system refuses. What was before it is gone.
    pub fn remove_tree(&self, name: impl AsRef<[u8]>) -> Result<(), FsError> {
        let name = name.as_ref();
        let Some(attrs) = self.find(name)? else { return Ok(()) };
        if attrs.kind != Kind::Directory {
            return self.remove_file(name);
        }
        let inner = self.dir(name)?;
        if self.remove_whole(name, &attrs)? {
            return Ok(());
        }
        let entries = inner.entries()?;
        let mut open = vec![(inner, entries, name.to_vec())];
        // A stack of its own: how deep a tree is, is up to whoever made it.
        while let Some((dir, entries, _)) = open.last_mut() {
            match entries.pop() {
                Some(Entry { name, kind: Kind::Directory }) => {
                    let inner = dir.dir(&name)?;
                    if dir.remove_whole(&name, &dir.attrs(&name)?)? {
                        continue;
                    }
                    let entries = inner.entries()?;
                    open.push((inner, entries, name));
                }
                Some(entry) => dir.remove_file(&entry.name)?,
                None => {
                    let name = open.pop().map(|(_, _, name)| name).unwrap_or_default();
                    open.last().map_or(self, |(dir, ..)| dir).remove_dir(name)?;
                }
            }
        }
        Ok(())
    }

    /// Removes a subvolume of btrfs at once, and tells whether it is gone. The kernel would take mounts in it away, and
    /// refuses where other subvolumes are in it: such a one goes piece by piece, as far as it goes.
    fn remove_whole(&self, name: &[u8], attrs: &Attrs) -> Result<bool, FsError> {
        let may_go = self.has_subvolume(attrs) && self.footprint(name)?.obstacle.is_none();
        Ok(may_go && self.remove_subvolume(name).is_ok())
    }
}
