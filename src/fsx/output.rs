//! Files that a command writes for the user, at a path as the user gave it.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Dir;
use super::calls;
use super::file::File;
use crate::error::FsError;

/// A file that appears under its name only when it is complete. Until then it has no name, where the file system
/// can do that; a crash then leaves nothing.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    path: PathBuf,
    /// Name of the file until it is complete, where it has one.
    temp: Option<PathBuf>,
    /// A pipe or device: written as it is.
    special: bool,
}

impl OutputFile {
    /// Begins a file for `path`. A file that is there is replaced in the end, not before.
    ///
    /// # Errors
    /// `path` is a directory, or its directory cannot be written to.
    pub fn create(path: &Path) -> Result<Self, FsError> {
        let fail = |errno: Errno| FsError::new("write", path, errno);
        let mode = Mode::from_raw_mode(0o666);
        match calls::stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Directory) => return Err(fail(Errno::ISDIR)),
            Ok(FileType::RegularFile) | Err(Errno::NOENT) => {}
            Ok(_) => {
                let fd = calls::open(path, OFlags::WRONLY | OFlags::CLOEXEC, mode).map_err(fail)?;
                return Ok(Self { file: fd.into(), path: path.to_owned(), temp: None, special: true });
            }
            Err(errno) => return Err(fail(errno)),
        }
        let unnamed = calls::open(directory(path), OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode);
        if let Ok(fd) = unnamed {
            return Ok(Self { file: fd.into(), path: path.to_owned(), temp: None, special: false });
        }
        let temp = temp_name(path).map_err(fail)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = calls::open(&temp, flags, mode).map_err(fail)?;
        Ok(Self { file: fd.into(), path: path.to_owned(), temp: Some(temp), special: false })
    }

    /// Makes the content durable and gives the file its name.
    ///
    /// # Errors
    /// The disk is full or fails; then there is no such file, or the old one.
    pub fn publish(mut self) -> Result<(), FsError> {
        if self.special {
            return Ok(());
        }
        let fail = |error: io::Error| FsError::new("write", &self.path, error);
        self.file.sync_all().map_err(fail)?;
        let temp = match self.temp.take() {
            Some(temp) => temp,
            None => self.give_name().map_err(|errno| fail(errno.into()))?,
        };
        let renamed = calls::rename(&temp, &self.path);
        if renamed.is_err() {
            self.temp = Some(temp);
        }
        renamed.map_err(|errno| FsError::new("write", &self.path, errno))?;
        Dir::open_root(directory(&self.path))?.sync()
    }

    /// Links the unnamed file: a link cannot replace a file, so it gets a temp name first.
    fn give_name(&self) -> Result<PathBuf, Errno> {
        let temp = temp_name(&self.path)?;
        let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        calls::linkat(CWD, unnamed, CWD, &temp, AtFlags::SYMLINK_FOLLOW)?;
        Ok(temp)
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(temp) = &self.temp {
            // Nothing more can be done for it.
            let _ = calls::unlink(temp);
        }
    }
}

/// A directory that is complete when its last file has its name. Until then all is in a directory within it, so
/// that it may be a mount point.
#[derive(Debug)]
pub struct OutputDir {
    dir: Dir,
    stage: Dir,
    stage_name: String,
    /// The directory was made for this, and is taken away on failure.
    made: Option<PathBuf>,
    published: bool,
}

impl OutputDir {
    /// Begins to fill the directory at `path`, which must be empty or not be there.
    ///
    /// # Errors
    /// There is something else of that name, something in it, or it cannot be written to.
    pub fn create(path: &Path) -> Result<Self, FsError> {
        let fail = |errno: Errno| FsError::new("write", path, errno);
        let made = match calls::mkdir(path, Mode::from_raw_mode(0o777)) {
            Ok(()) => Some(path.to_owned()),
            Err(Errno::EXIST) => None,
            Err(errno) => return Err(fail(errno)),
        };
        let dir = Dir::open_root(path)?;
        // A new file system has one entry of its own.
        if dir.entries()?.iter().any(|entry| entry.name != b"lost+found") {
            return Err(fail(Errno::NOTEMPTY));
        }
        let stage_name = format!(".dockpack-{}", std::process::id());
        let stage = dir.make_dir(&stage_name, 0o755)?;
        Ok(Self { dir, stage, stage_name, made, published: false })
    }

    /// Returns where to write.
    #[must_use]
    pub fn stage(&self) -> &Dir {
        &self.stage
    }

    /// Moves everything to its place; `last` is what readers look for first.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn publish(mut self, last: &str) -> Result<(), FsError> {
        let entries = self.stage.entries()?;
        for entry in entries.iter().filter(|entry| entry.name != last.as_bytes()) {
            self.stage.rename(&entry.name, &self.dir, &entry.name)?;
        }
        self.dir.sync()?;
        // Crash here: without the last file it is no archive.
        self.stage.rename(last, &self.dir, last)?;
        self.dir.remove_dir(&self.stage_name)?;
        self.published = true;
        self.dir.sync()
    }
}

impl Drop for OutputDir {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // Nothing more can be done for what cannot be removed.
        let _ = self.dir.remove_tree(&self.stage_name);
        if let Some(made) = &self.made {
            let _ = calls::rmdir(made);
        }
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A hidden name beside `path` that no other process takes.
fn temp_name(path: &Path) -> Result<PathBuf, Errno> {
    let name = path.file_name().ok_or(Errno::ISDIR)?;
    let mut temp = std::ffi::OsString::from(".");
    temp.push(name);
    temp.push(format!(".dockpack-{}", std::process::id()));
    Ok(path.with_file_name(temp))
}
