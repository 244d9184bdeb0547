//! `overlay2`: `link`, `l/`, `lower`, `work` and `committed` of a directory.

use crate::count::count;
use crate::driver::check::{Checker, One};
use crate::driver::{Check, read_text};
use crate::error::FsError;
use crate::finding::{Code, Finding};
use crate::fsx::Kind;
use crate::id::CacheId;

use super::{Overlay2, parse_lower, read_link};

impl Check for Overlay2 {
    fn home(&self, checker: &Checker<'_>) -> Vec<Finding> {
        if checker.links.is_some() {
            return Vec::new();
        }
        let evidence = "the directory of short names is missing: no layer with a parent can be mounted";
        vec![Finding::new(Code::DriverLinksMissing, format!("{}/l", checker.driver), evidence)]
    }

    fn directory(&self, one: &mut One<'_>) -> Result<(), FsError> {
        let own = one.dir.attrs(".")?;
        one.attributes("", &own);
        one.made("diff", Kind::Directory, Code::DriverTreeMissing)?;
        // The reader of the home says where `link` is lost, or where its short name leads elsewhere.
        if let Some(found) = one.dir.find("link")?
            && found.kind == Kind::File
        {
            one.attributes("link", &found);
        }
        let is_marked = one.checker.marks_parents && one.dir.find("committed")?.is_some();
        check_lower(one, is_marked)?;
        if one.implied.has_child && one.checker.marks_parents && !is_marked {
            one.find(Code::DriverCommittedMissing, "committed is missing, and a layer lies above");
        }
        Ok(())
    }
}

/// Checks `lower`, and `work`, which is there with it. `is_marked` says that `committed` is there.
fn check_lower(one: &mut One<'_>, is_marked: bool) -> Result<(), FsError> {
    let text = match read_text(&one.dir, "lower") {
        Ok(text) => text,
        // The reader of the home says so.
        Err(_) => return Ok(()),
    };
    let has_parent = match &one.implied.below {
        Some(below) => !below.is_empty(),
        None => text.is_some() || one.implied.is_stacked,
    };
    match (&text, has_parent) {
        (None, true) => one.find(Code::DriverLowerMissing, "lower is missing: what lies below would not be mounted"),
        (Some(text), false) => {
            let evidence = format!("it has no parent, and lower says {}", text.escape_ascii());
            one.find(Code::DriverLowerMismatch, evidence);
        }
        (Some(text), true) => {
            if let Some(found) = one.dir.find("lower")? {
                one.attributes("lower", &found);
            }
            compare_lower(one, text)?;
        }
        (None, false) => {}
    }
    // dockerd mounts a layer that is marked for reading alone.
    let code = if is_marked { Code::DriverWorkNeedless } else { Code::DriverWorkMissing };
    if has_parent && let Some(found) = one.made("work", Kind::Directory, code)? {
        one.attributes("work", &found);
    }
    Ok(())
}

/// Compares the short names in `lower`, each by where its link leads to, with what is implied.
fn compare_lower(one: &mut One<'_>, text: &[u8]) -> Result<(), FsError> {
    let Some(below) = &one.implied.below else { return Ok(()) };
    // What cannot be parsed is told by the reader of the home.
    let Ok(names) = parse_lower(text) else { return Ok(()) };
    if names.len() != below.len() {
        let named = count(names.len(), "directory", "directories");
        let evidence = format!("lower names {named}, and {} below", count(below.len(), "is", "are"));
        one.find(Code::DriverLowerMismatch, evidence);
        return Ok(());
    }
    // What is in the place of a directory, or of its `link`, is a finding of that directory too.
    let own_link = |id: &CacheId| read_link(one.checker.dirs, format!("{id}/link"));
    // A short name is right by what the directory says of itself, or by where its link leads to. That the two
    // differ is a finding of that directory, not of this one.
    for (name, id) in names.iter().zip(below) {
        if own_link(id)?.as_ref() == Some(name) {
            continue;
        }
        let leads = match one.checker.target(name)? {
            Some(target) if target == format!("../{id}/diff").into_bytes() => continue,
            Some(target) => target.escape_ascii().to_string(),
            None => "nothing".to_owned(),
        };
        let evidence = format!("lower names l/{name}, which leads to {leads}, where {id} is below");
        one.find(Code::DriverLowerMismatch, evidence);
        break;
    }
    Ok(())
}
