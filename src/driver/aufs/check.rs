//! `aufs`: `layers/<id>` and `mnt/<id>` of a directory.

use crate::count::count;
use crate::driver::Check;
use crate::driver::check::One;
use crate::error::FsError;
use crate::finding::Code;
use crate::fsx::Kind;
use crate::id::CacheId;

use super::Aufs;

impl Check for Aufs {
    fn directory(&self, one: &mut One<'_>) -> Result<(), FsError> {
        let id = one.implied.id;
        let text = FsError::found(one.checker.home.read(format!("layers/{id}"), 1 << 20))?;
        let is_mount_point = match one.checker.home.dir("mnt") {
            Ok(mounts) => mounts.find(id.as_str())?.is_some_and(|found| found.kind == Kind::Directory),
            Err(error) if error.is_not_found() => false,
            Err(error) => return Err(error),
        };
        if !is_mount_point {
            one.find(Code::DriverMountPointMissing, format!("mnt/{id} is missing"));
        }
        let Some(text) = text else {
            one.find(Code::DriverLowerMissing, format!("layers/{id} is missing: what lies below would not be mounted"));
            return Ok(());
        };
        let Some(below) = &one.implied.below else { return Ok(()) };
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        let is_right = lines.iter().copied().eq(below.iter().map(|id: &&CacheId| id.as_str().as_bytes()));
        if !is_right {
            let named = count(lines.len(), "directory", "directories");
            let evidence = format!("layers/{id} names {named}, and others are below");
            one.find(Code::DriverLowerMismatch, evidence);
        }
        Ok(())
    }
}
