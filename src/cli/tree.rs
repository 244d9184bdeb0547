//! Trees of lines.

use std::io::{self, Write};

use anstyle::{AnsiColor, Effects, Style};

/// Style of the lines between branches, and of what is beside the point.
pub(super) const DIM: Style = Style::new().effects(Effects::DIMMED);
/// Style of what the eye looks for.
pub(super) const STRONG: Style = Style::new().bold();
/// Style of what is missing or garbage.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Style of the names of fields.
pub(super) const FIELD: Style = AnsiColor::Cyan.on_default();

/// A line with others below it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    line: String,
    below: Vec<Tree>,
}

impl Tree {
    /// Makes a line with nothing below it. It may hold styles, but no names that are not sanitised.
    pub(super) fn new(line: impl Into<String>) -> Self {
        Self { line: line.into(), below: Vec::new() }
    }

    /// Adds a line below, and returns it.
    pub(super) fn add(&mut self, line: impl Into<String>) -> &mut Self {
        self.push(Self::new(line))
    }

    /// Adds a line with the name of a field before it.
    pub(super) fn field(&mut self, name: &str, value: impl AsRef<str>) -> &mut Self {
        self.add(format!("{FIELD}{name:<9}{FIELD:#} {}", value.as_ref()))
    }

    /// Adds a tree below, and returns it.
    pub(super) fn push(&mut self, tree: Self) -> &mut Self {
        self.below.push(tree);
        self.below.last_mut().expect("because one was just pushed")
    }

    /// Writes the tree.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.line)?;
        self.write_below("", out)
    }

    fn write_below(&self, indent: &str, out: &mut dyn Write) -> io::Result<()> {
        for (at, tree) in self.below.iter().enumerate() {
            let last = at + 1 == self.below.len();
            let (branch, deeper) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            writeln!(out, "{DIM}{indent}{branch}{DIM:#}{}", tree.line)?;
            tree.write_below(&format!("{indent}{deeper}"), out)?;
        }
        Ok(())
    }
}
