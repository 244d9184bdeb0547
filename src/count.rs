//! Counts as they stand in sentences.

/// Writes a count with its noun: that of one, or that of several.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
