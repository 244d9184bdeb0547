//! Checks that a directory is a subvolume.

use crate::driver::Check;
use crate::driver::check::One;
use crate::error::FsError;
use crate::finding::{Code, Finding, Severity};

use super::Btrfs;

impl Check for Btrfs {
    /// dockerd makes snapshots of layers only. What a container has is used as it is.
    fn directory(&self, one: &mut One<'_>) -> Result<(), FsError> {
        if one.dir.is_subvolume()? {
            return Ok(());
        }
        let (severity, evidence) = match one.implied.is_layer || one.implied.below.is_none() {
            true => (
                Severity::Damage,
                "a plain directory, as a copy without snapshots leaves it: containers that exist start, and nothing new can \
                 be made on it",
            ),
            false => (
                Severity::Warning,
                "a plain directory of a container: it starts, and Docker before 20.10.6 cannot remove it",
            ),
        };
        let finding = Finding::new(Code::DriverSubvolumeMissing, one.object(), evidence);
        one.findings.push(finding.as_bad_as(severity));
        Ok(())
    }
}
