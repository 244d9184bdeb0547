//! Where a path that the user gave really leads.

use std::path::{Path, PathBuf};

use crate::error::FsError;

/// Resolves every symbolic link of a path that the user, or Docker's own configuration, gave.
///
/// # Errors
/// There is nothing at the path.
pub fn real_path(path: &Path) -> Result<PathBuf, FsError> {
    std::fs::canonicalize(path).map_err(|error| FsError::new("resolve", path, error))
}
