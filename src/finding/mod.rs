//! What is wrong with a store, as data.

mod code;
mod object;

use serde::{Deserialize, Serialize};

pub use code::Code;
pub use object::{Object, Thing};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Odd, but nothing breaks by it.
    Note,
    /// Something cannot be told, or will break in a rare case.
    Warning,
    /// An image or container is broken by it.
    Damage,
}

/// Something wrong in a store. A finding is not an error: looking went well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of finding it is.
    pub code: Code,
    /// What it is about; in documents its text, a path relative to the data root or an identity.
    #[serde(rename = "subject")]
    pub object: Object,
    /// What was expected and what was found.
    pub evidence: String,
}

impl Finding {
    /// Makes a finding as bad as the table of [`Code`] says; where that depends on the object it is damage, unless
    /// [`Self::as_bad_as`] says otherwise.
    pub fn new(code: Code, object: impl Into<Object>, evidence: impl ToString) -> Self {
        let severity = code.severity().unwrap_or(Severity::Damage);
        Self { severity, code, object: object.into(), evidence: evidence.to_string() }
    }

    /// Says how bad the finding is, for a code with which that depends on the object.
    #[must_use]
    pub fn as_bad_as(self, severity: Severity) -> Self {
        debug_assert!(self.code.severity().is_none_or(|all| all == severity), "{} is not {severity:?}", self.code);
        Self { severity, ..self }
    }
}
