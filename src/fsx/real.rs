//! Paths that the user, or Docker's own configuration, gave: links in them are followed.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::FsError;

/// Resolves every symbolic link of a path.
///
/// # Errors
/// There is nothing at the path.
pub fn real_path(path: &Path) -> Result<PathBuf, FsError> {
    #[allow(clippy::disallowed_methods, reason = "this is the place for it")]
    std::fs::canonicalize(path).map_err(|error| FsError::new("resolve", path, error))
}

/// Opens a file, pipe or device for reading.
///
/// # Errors
/// There is nothing at the path, or it may not be read.
pub fn open_input(path: &Path) -> Result<File, FsError> {
    #[allow(clippy::disallowed_methods, reason = "this is the place for it")]
    File::open(path).map_err(|error| FsError::new("open", path, error))
}

/// Tells whether there is a directory at the path.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    #[allow(clippy::disallowed_methods, reason = "this is the place for it")]
    path.is_dir()
}
