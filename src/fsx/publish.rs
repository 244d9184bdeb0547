//! Writing a file so that it is there whole or not at all.

use std::io::Write;

use super::dir::Dir;
use crate::error::FsError;

/// Docker's own name for a file that is being written (`moby/sys` `atomicwriter`): what a crash leaves under
/// this name is garbage to Docker and to us.
const TEMP_PREFIX: &str = ".tmp-";

impl Dir {
    /// Writes a new file with exactly these bytes and permission bits. It is durable only with the next
    /// [`Dir::sync_file_system`].
    ///
    /// # Errors
    /// The name is taken, or the file system refuses or is full.
    pub fn new_file(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), FsError> {
        self.make_file(name, mode)?.write_all(bytes).map_err(|error| FsError::new("write", self.shown(name), error))
    }

    /// Writes `name` with exactly these bytes and permission bits, in place of a file of that name: temp file,
    /// sync, rename. The caller owes a [`Dir::sync`] of this directory, once for all files written to it.
    ///
    /// # Errors
    /// The file system refuses or is full; then the old file is as it was.
    pub fn write_file(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), FsError> {
        let temp = format!("{TEMP_PREFIX}{name}dockpack");
        self.remove_tree(&temp)?;
        let mut file = self.make_file(&temp, mode)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // The first error is the one to tell; the temp file is garbage either way.
            let _ = self.remove_file(&temp);
            return Err(FsError::new("write", self.shown(name), error));
        }
        // Crash here: a `.tmp-` file is left, which nothing reads.
        self.replace(&temp, self, name)
    }
}
