//! `dockpack df`.

use jiff::Timestamp;

use super::failure::{Exit, Failure};
use super::run::Place;
use super::table::Table;
use super::text::{self, NONE};
use super::ui::Ui;
use crate::driver::Sizes;
use crate::ops::inspect::{Copies, ImageUsage, Usage, UsageKind, View};

pub(super) fn df(place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let (store, snapshot) = place.look(ui)?;
    let view = View::new(&store, &snapshot);
    let measured = |home| Sizes::measure(view.driver(), home, snapshot.driver_dirs.keys(), ui.observer());
    let sizes = store.home().map(measured).unwrap_or_default();
    let usage = view.usage(&sizes, Copies::find(&store, &snapshot), ui.verbose());
    if ui.json() {
        ui.print_json(&usage)?;
    } else {
        ui.print_text(&kinds(&usage).text())?;
        if ui.verbose() {
            ui.print_text(&format!("\n{}", images(&usage.images, ui).text()))?;
        }
    }
    if let Some(copies) = usage.copies {
        let files = text::count(copies.files, "file is", "files are");
        let size = text::size(copies.disk);
        ui.note(&format!(
            "{files} no more shared with the layer below, which takes {size}: the store was copied without hard links; \
             `dockpack repair` links them again"
        ));
    }
    let unmeasured = sizes.findings();
    if let Some(first) = unmeasured.first() {
        let places = text::count(unmeasured.len(), "place was", "places were");
        ui.note(&format!("{places} not measured, the first is {}: {}", first.object, first.evidence));
    }
    Ok(Exit::Done)
}

fn kinds(usage: &Usage) -> Table {
    let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    for row in &usage.rows {
        let kind = match row.kind {
            UsageKind::Images => "Images",
            UsageKind::Containers => "Containers",
            UsageKind::Layers => "Layers",
            UsageKind::BuildCache => "Build cache",
            UsageKind::UnreferencedDirectories => "Unreferenced directories",
        };
        let percent = match row.size.disk {
            0 => String::new(),
            size => format!(" ({}%)", u128::from(row.reclaimable.disk) * 100 / u128::from(size)),
        };
        table.row([
            kind.to_owned(),
            row.total.to_string(),
            row.active.to_string(),
            text::size(row.size.disk),
            format!("{}{percent}", text::size(row.reclaimable.disk)),
        ]);
    }
    table
}

fn images(images: &[ImageUsage], ui: &Ui) -> Table {
    let headings = ["IMAGE", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "RECLAIMABLE", "CONTAINERS"];
    let mut table = Table::new(&headings);
    let now = Timestamp::now();
    for image in images {
        let name = image.references.first().map_or(NONE, String::as_str);
        let more = match image.references.len().saturating_sub(1) {
            0 => String::new(),
            more => format!(" (+{more})"),
        };
        table.row([
            format!("{}{more}", ui.clean(name)),
            image.id.short(),
            text::ago(image.created.as_deref(), now),
            text::size(image.size.disk),
            text::size(image.shared),
            text::size(image.unique),
            text::size(image.reclaimable),
            image.containers.to_string(),
        ]);
    }
    table
}
