//! `overlay`: `root`, or `lower-id`, `upper` and `work` of a directory.

use crate::driver::check::One;
use crate::driver::{Check, read_text};
use crate::error::FsError;
use crate::finding::Code;
use crate::fsx::Kind;
use crate::id::CacheId;

use super::Overlay;

impl Check for Overlay {
    fn directory(&self, one: &mut One<'_>) -> Result<(), FsError> {
        let own = one.dir.attrs(".")?;
        one.attributes("", &own);
        let lower_id = read_text(&one.dir, "lower-id")?;
        if one.dir.find("root")?.is_some() || (one.implied.is_layer && lower_id.is_none()) {
            one.made("root", Kind::Directory, Code::DriverTreeMissing)?;
            return Ok(());
        }
        one.made("upper", Kind::Directory, Code::DriverTreeMissing)?;
        if let Some(found) = one.made("work", Kind::Directory, Code::DriverWorkMissing)? {
            one.attributes("work", &found);
        }
        let Some(found) = one.made("lower-id", Kind::File, Code::DriverLowerMissing)? else { return Ok(()) };
        one.attributes("lower-id", &found);
        let Some(below) = &one.implied.below else { return Ok(()) };
        let has = |id: &CacheId, tree: &str| -> Result<bool, FsError> {
            Ok(FsError::found(one.checker.dirs.dir(format!("{id}/{tree}")))?.is_some())
        };
        let mut nearest = None;
        for id in below {
            if has(id, "root")? {
                nearest = nearest.or(Some(id));
            } else if !has(id, "upper")? {
                // What is nearer than the first whole tree stands in `upper`, if it is there at all.
                return Ok(());
            }
        }
        let lower = String::from_utf8_lossy(&lower_id.unwrap_or_default()).into_owned();
        match nearest {
            Some(expected) if expected.as_str() == lower => {}
            Some(expected) => {
                let evidence = format!("lower-id names {}, and {expected} is below", lower.escape_debug());
                one.find(Code::DriverLowerMismatch, evidence);
            }
            // What is below is gone, which is a finding of its own.
            None => {}
        }
        Ok(())
    }
}
