//! Tables as Docker draws them: no lines, three spaces between columns.

use comfy_table::{CellAlignment, ContentArrangement, Table as Comfy, presets};

/// Spaces between columns.
const GAP: u16 = 3;

/// A table.
pub(super) struct Table(Comfy);

impl Table {
    /// Begins a table with its headings.
    pub(super) fn new(headings: &[&str]) -> Self {
        let mut table = Comfy::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings);
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP)).set_cell_alignment(CellAlignment::Left);
        }
        Self(table)
    }

    /// Adds a row, which must have as many cells as there are headings.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells);
    }

    /// Returns the table as lines without blanks at their ends, with a newline after each.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for line in self.0.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}
