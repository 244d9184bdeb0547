//! `overlay2`: `link`, `l/`, `lower`, `work` and `committed` of a directory.

use crate::count::count;
use crate::driver::read_text;
use crate::error::FsError;
use crate::finding::Code;
use crate::fsx::Kind;
use crate::id::{CacheId, LinkId};

use super::One;

impl One<'_> {
    pub(super) fn overlay2(&mut self) -> Result<(), FsError> {
        let own = self.dir.attrs(".")?;
        // 17.03 made them 0700.
        self.attributes(".", &own, &[0o710, 0o700]);
        self.made("diff", Kind::Directory, Code::DriverTreeMissing)?;
        // The reader of the home says where `link` is lost, or where its short name leads elsewhere.
        if let Some(found) = self.dir.find("link")? {
            // Some releases wrote it with the mode 0666.
            if found.kind == Kind::File {
                self.attributes("link", &found, &[0o644, 0o666]);
            }
        }
        self.lower()?;
        if self.implied.has_child && self.checker.marks_parents && self.dir.find("committed")?.is_none() {
            self.find(Code::DriverCommittedMissing, "committed is missing, and a layer lies above");
        }
        Ok(())
    }

    fn lower(&mut self) -> Result<(), FsError> {
        let text = match read_text(&self.dir, "lower") {
            Ok(text) => text,
            // The reader of the home says so.
            Err(_) => return Ok(()),
        };
        let has_parent = match &self.implied.below {
            Some(below) => !below.is_empty(),
            None => text.is_some(),
        };
        match (&text, has_parent) {
            (None, true) => {
                self.find(Code::DriverLowerMissing, "lower is missing: what lies below would not be mounted")
            }
            (Some(text), false) => {
                let evidence = format!("it has no parent, and lower says {}", text.escape_ascii());
                self.find(Code::DriverLowerMismatch, evidence);
            }
            (Some(text), true) => {
                if let Some(found) = self.dir.find("lower")? {
                    self.attributes("lower", &found, &[0o644, 0o666]);
                }
                self.compare_lower(text)?;
            }
            (None, false) => {}
        }
        // dockerd mounts a layer that is marked for reading alone.
        let is_marked = self.checker.marks_parents && self.dir.find("committed")?.is_some();
        let code = if is_marked { Code::DriverWorkNeedless } else { Code::DriverWorkMissing };
        if has_parent && let Some(found) = self.made("work", Kind::Directory, code)? {
            let mode = if self.checker.driver == "overlay2" { 0o700 } else { 0o710 };
            self.attributes("work", &found, &[mode]);
        }
        Ok(())
    }

    /// Compares the short names in `lower`, each by where its link leads to, with what is implied.
    fn compare_lower(&mut self, text: &[u8]) -> Result<(), FsError> {
        let Some(below) = &self.implied.below else { return Ok(()) };
        let names: Option<Vec<LinkId>> = text
            .split(|byte| *byte == b':')
            .map(|part| part.strip_prefix(b"l/").and_then(|name| LinkId::parse(name).ok()))
            .collect();
        // What cannot be parsed is told by the reader of the home.
        let Some(names) = names else { return Ok(()) };
        if names.len() != below.len() {
            let named = count(names.len(), "directory", "directories");
            let evidence = format!("lower names {named}, and {} below", count(below.len(), "is", "are"));
            self.find(Code::DriverLowerMismatch, evidence);
            return Ok(());
        }
        // What is in the place of a directory, or of its `link`, is a finding of that directory too.
        let own_link = |id: &CacheId| -> Result<Option<LinkId>, FsError> {
            let text = FsError::in_place(self.checker.dirs.read(format!("{id}/link"), super::super::FILE_LIMIT))?;
            Ok(text.and_then(|text| LinkId::parse(text.trim_ascii()).ok()))
        };
        // A short name is right by what the directory says of itself, or by where its link leads to. That the two
        // differ is a finding of that directory, not of this one.
        for (name, id) in names.iter().zip(below) {
            if own_link(id)?.as_ref() == Some(name) {
                continue;
            }
            let leads = match self.checker.target(name)? {
                Some(target) if target == format!("../{id}/diff").into_bytes() => continue,
                Some(target) => target.escape_ascii().to_string(),
                None => "nothing".to_owned(),
            };
            let evidence = format!("lower names l/{name}, which leads to {leads}, where {id} is below");
            self.find(Code::DriverLowerMismatch, evidence);
            break;
        }
        Ok(())
    }
}
