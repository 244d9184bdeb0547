//! An archive that lies unpacked in a directory: an OCI image layout.

use std::collections::VecDeque;
use std::io::{self, Cursor, Read};
use std::path::Path;

use crate::error::{Error, FsError};
use crate::fsx::Dir;

use super::{SUMS, header, is_member_name, padding};

/// Longest list of members that is read, in bytes, and most members that it may name.
const SUMS_LIMIT: u64 = 64 << 20;
const MEMBERS_LIMIT: usize = 1 << 19;

/// Gives out the members of an unpacked archive as the tar they would be, so that there is one way to read both.
pub struct LayoutReader {
    dir: Dir,
    /// Members that are still to come.
    names: VecDeque<String>,
    current: Box<dyn Read + Send>,
}

impl std::fmt::Debug for LayoutReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayoutReader({})", self.dir.shown("").display())
    }
}

impl LayoutReader {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// It is not there, or is not one that dockpack wrote.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let dir = Dir::open_root(path)?;
        let sums = match dir.read(SUMS, SUMS_LIMIT) {
            Err(error) if error.is_not_found() => {
                return Err(Error::Archive {
                    name: path.display().to_string(),
                    reason: format!("it is a directory, but not one that dockpack wrote (it has no {SUMS})"),
                });
            }
            sums => sums?,
        };
        let line_name = |line: &[u8]| {
            let (_, name) = std::str::from_utf8(line).ok()?.split_once("  ")?;
            Some(name.to_owned())
        };
        let lines = sums.split(|byte| *byte == b'\n').filter_map(line_name);
        let mut names: VecDeque<String> = lines.take(MEMBERS_LIMIT + 1).collect();
        if names.len() > MEMBERS_LIMIT {
            let reason = format!("{SUMS} names more than {MEMBERS_LIMIT} members");
            return Err(Error::Archive { name: path.display().to_string(), reason });
        }
        names.push_back(SUMS.to_owned());
        Ok(Self { dir, names, current: Box::new(io::empty()) })
    }

    /// Returns the bytes of all files in the directory at `path`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn size(path: &Path) -> Result<u64, FsError> {
        // Plain files with plain names: what fs_extra counts rightly.
        fs_extra::dir::get_size(path).map_err(|error| FsError::new("measure", path, io::Error::other(error)))
    }

    fn next_member(&mut self) -> io::Result<bool> {
        let Some(name) = self.names.pop_front() else { return Ok(false) };
        if !is_member_name(&name) {
            return Err(io::Error::other(format!("a member has the name {}", name.escape_debug())));
        }
        let file = self.dir.file(&name).map_err(io::Error::other)?;
        let length = file.metadata()?.len();
        let start = Cursor::new(header(&name, length).as_bytes().to_vec());
        let end = Cursor::new(vec![0; padding(length) + if self.names.is_empty() { 1024 } else { 0 }]);
        self.current = Box::new(start.chain(file.take(length)).chain(end));
        Ok(true)
    }
}

impl Read for LayoutReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let got = self.current.read(buffer)?;
            if got > 0 || !self.next_member()? {
                return Ok(got);
            }
        }
    }
}
