//! Extended attributes of names in a directory.

use std::os::fd::AsRawFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::attrs::XattrName;
use super::calls;
use super::dir::{Dir, Result, one_name};
use super::file::File;
use super::footprint::Inode;

/// Longest list of names, and longest value, that the kernel gives, in bytes.
const LONGEST: usize = 64 << 10;

/// Most nodes have no more than this, in bytes.
const USUAL: usize = 256;

impl Dir {
    /// Path of a name through this directory's descriptor: there is no `lgetxattrat` before Linux 6.13, and
    /// devices and links cannot be opened for it. The last component is not followed by the `l…xattr` calls.
    fn through_fd(&self, name: &[u8]) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", self.fd().as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        path
    }

    fn key_on_disk(&self, key: &[u8]) -> XattrName {
        self.namespace().map_or_else(|| key.to_vec(), |namespace| namespace.xattr_on_disk(key))
    }

    /// Lists the extended attributes of a name, sorted, with their values.
    ///
    /// # Errors
    /// The file system refuses; one that has no extended attributes gives an empty list.
    pub fn xattrs(&self, name: impl AsRef<[u8]>) -> Result<Vec<(XattrName, Vec<u8>)>> {
        let name = one_name(name.as_ref());
        let path = self.through_fd(name);
        let fail = |errno| self.fail("read extended attributes of", name, errno);
        let names = match read(|buffer| calls::llistxattr(&path[..], buffer)) {
            Err(Errno::NOTSUP) => Vec::new(),
            names => names.map_err(fail)?,
        };
        let mut found = Vec::new();
        for key in names.split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
            let value = read(|buffer| calls::lgetxattr(&path[..], key, buffer)).map_err(fail)?;
            let pair = (key.to_vec(), value);
            found.push(match self.namespace() {
                Some(namespace) => namespace.seen_xattr(pair),
                None => pair,
            });
        }
        found.sort();
        Ok(found)
    }

    /// Sets one extended attribute of a name; of a link itself, not its target.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn set_xattr(&self, name: impl AsRef<[u8]>, key: &[u8], value: &[u8]) -> Result<()> {
        let name = one_name(name.as_ref());
        calls::lsetxattr(self.through_fd(name), &self.key_on_disk(key)[..], value, XattrFlags::empty())
            .map_err(|errno| self.fail("set an extended attribute of", name, errno))
    }

    /// Tells whether the kernel and the file system know extended attributes of this name at all.
    ///
    /// # Errors
    /// The file system cannot be read.
    pub fn takes_xattr(&self, name: impl AsRef<[u8]>, key: &[u8]) -> Result<bool> {
        let name = one_name(name.as_ref());
        let mut value = [0; 1];
        match calls::lgetxattr(&self.through_fd(name)[..], &self.key_on_disk(key)[..], &mut value) {
            Err(Errno::NOTSUP) => Ok(false),
            Ok(_) | Err(Errno::NODATA | Errno::RANGE | Errno::PERM) => Ok(true),
            Err(errno) => Err(self.fail("read extended attributes of", name, errno)),
        }
    }

    /// Removes one extended attribute of a name.
    ///
    /// # Errors
    /// It is not there, or the file system refuses.
    pub fn remove_xattr(&self, name: impl AsRef<[u8]>, key: &[u8]) -> Result<()> {
        let name = one_name(name.as_ref());
        calls::lremovexattr(self.through_fd(name), &self.key_on_disk(key)[..])
            .map_err(|errno| self.fail("remove an extended attribute of", name, errno))
    }
}

/// Returns which file this is, where it has no extended attributes; `None` where it has some, or where that cannot be
/// told. Of an open file this takes an eighth of what [`Dir::xattrs`] takes of a name.
#[must_use]
pub fn inode_without_xattrs(file: &File) -> Option<Inode> {
    let names = calls::flistxattr(file, &mut [0; USUAL][..]);
    let stat = (names == Ok(0)).then(|| calls::fstat(file))?.ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Reads into a small buffer, and into one for all there can be where that is too small.
fn read(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut usual = [0; USUAL];
    match call(&mut usual) {
        Ok(length) => Ok(usual[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut all = vec![0; LONGEST];
            let length = call(&mut all)?;
            all.truncate(length);
            Ok(all)
        }
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_and_many_names() {
        let temp = tempfile::tempdir().expect("a temp directory");
        std::fs::write(temp.path().join("file"), "").expect("a file");
        let dir = Dir::open_root(temp.path()).expect("opens");
        assert_eq!(dir.xattrs("file").expect("lists"), []);
        let attrs = dir.attrs("file").expect("is there");
        let file = dir.file("file").expect("opens");
        assert_eq!(inode_without_xattrs(&file), Some((attrs.file_system, attrs.inode)));
        let wanted: Vec<(XattrName, Vec<u8>)> = (10..40)
            .map(|n| (format!("trusted.a-name-of-some-length-{n}").into_bytes(), vec![n; usize::from(n)]))
            .collect();
        for (key, value) in &wanted {
            dir.set_xattr("file", key, value).expect("is set");
        }
        assert_eq!(dir.xattrs("file").expect("lists"), wanted);
        assert_eq!(inode_without_xattrs(&file), None);
        dir.set_xattr("file", b"trusted.z", &[7; 300]).expect("is set");
        assert_eq!(dir.xattrs("file").expect("lists").pop(), Some((b"trusted.z".to_vec(), vec![7; 300])));
        dir.remove_xattr("file", b"trusted.z").expect("is removed");
        assert_eq!(dir.xattrs("file").expect("lists"), wanted);
    }
}
