//! Paths that the user, or Docker's own configuration, gave: links in them are followed.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::calls;
use super::file::File;
use crate::error::FsError;
use crate::fault::{Call, fault};

/// Resolves every symbolic link of a path.
///
/// # Errors
/// There is nothing at the path.
pub fn real_path(path: &Path) -> Result<PathBuf, FsError> {
    #[allow(clippy::disallowed_methods, reason = "this is the place for it")]
    fault(Call::ReadLink)
        .map_err(Into::into)
        .and_then(|()| std::fs::canonicalize(path))
        .map_err(|error| FsError::new("resolve", path, error))
}

/// Opens a file, pipe or device for reading.
///
/// # Errors
/// There is nothing at the path, or it may not be read.
pub fn open_input(path: &Path) -> Result<File, FsError> {
    calls::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(|errno| FsError::new("open", path, errno))
}

/// Tells whether there is a directory at the path.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    #[allow(clippy::disallowed_methods, reason = "this is the place for it")]
    path.is_dir()
}

/// Returns the last part of a path that is a symbolic link, with what leads to it.
#[must_use]
pub fn link_in(path: &Path) -> Option<&Path> {
    #[allow(clippy::disallowed_methods, reason = "this is the place for it")]
    path.ancestors().find(|path| path.is_symlink())
}
