//! Copies of a parent's tree, as moby's `graphdriver/copy/copy.go` `DirCopy` makes them.

use std::collections::HashMap;

use crate::error::FsError;
use crate::fsx::{Attrs, Dir, Kind, copy_content};

/// Extended attributes that a copy keeps.
pub(super) type Keeps = &'static [&'static [u8]];

/// How regular files come into a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyFiles {
    HardLink,
    Content,
}

/// Copies a parent's tree: regular files as hard links or with their content, all else made new with owner, mode and
/// times, and few extended attributes.
pub(super) struct Copy {
    files: CopyFiles,
    keeps: Keeps,
    /// Files with several names that were copied already: inode to the place of the copy.
    copied: HashMap<u64, (Dir, Vec<u8>)>,
    /// Inodes of files that came as hard links.
    pub(super) linked: Vec<u64>,
}

impl Copy {
    pub(super) fn new(files: CopyFiles, keeps: Keeps) -> Self {
        Self { files, keeps, copied: HashMap::new(), linked: Vec::new() }
    }

    pub(super) fn tree(&mut self, from: &Dir, to: &Dir) -> Result<(), FsError> {
        for entry in from.entries()? {
            self.node(from, to, &entry.name)?;
        }
        self.finish(from, b".", to, &from.attrs(b".")?)
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
                let (source, copy) = (from.file(name)?, to.make_file(name, 0o600)?);
                copy_content(&source, &copy).map_err(|error| FsError::new("copy", to.shown(name), error))?;
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
        self.finish(from, name, to, &attrs)
    }

    /// Gives a copied node its attributes.
    fn finish(&self, from: &Dir, name: &[u8], to: &Dir, attrs: &Attrs) -> Result<(), FsError> {
        to.set_owner(name, attrs.uid, attrs.gid)?;
        if attrs.kind != Kind::Symlink {
            for (key, value) in from.xattrs(name)?.iter().filter(|(key, _)| self.keeps.contains(&&key[..])) {
                to.set_xattr(name, key, value)?;
            }
        }
        if attrs.kind != Kind::Symlink {
            to.set_mode(name, attrs.mode)?;
        }
        to.set_times(name, attrs.mtime, attrs.mtime)
    }
}
