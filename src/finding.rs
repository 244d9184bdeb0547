//! What is wrong with a store, as data.

use serde::{Deserialize, Serialize};

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
    /// Stable name of the kind of finding, kebab-case (`layer-directory-missing`).
    pub code: &'static str,
    /// The object: a path relative to the data root, or an identity.
    pub subject: String,
    /// What was expected and what was found.
    pub evidence: String,
}

impl Finding {
    /// Makes a finding of severity [`Severity::Damage`].
    pub fn damage(code: &'static str, subject: impl ToString, evidence: impl ToString) -> Self {
        Self { severity: Severity::Damage, code, subject: subject.to_string(), evidence: evidence.to_string() }
    }

    /// Makes a finding of severity [`Severity::Warning`].
    pub fn warning(code: &'static str, subject: impl ToString, evidence: impl ToString) -> Self {
        Self { severity: Severity::Warning, ..Self::damage(code, subject, evidence) }
    }

    /// Makes a finding of severity [`Severity::Note`].
    pub fn note(code: &'static str, subject: impl ToString, evidence: impl ToString) -> Self {
        Self { severity: Severity::Note, ..Self::damage(code, subject, evidence) }
    }
}
