//! What commands that change a store say of interrupted ones that they finished first.

use super::text;
use super::ui::Ui;
use crate::ops::Recovered;
use crate::ops::trash::Skipped;

pub(super) fn tell(recovered: &Recovered, ui: &Ui) {
    if let Some(finished) = &recovered.load {
        let images = text::count(finished.images.len(), "image", "images");
        ui.note(&format!("finished a load that was interrupted: {images}"));
    }
    for report in &recovered.gc {
        let removed = text::count(report.removed, "piece of garbage", "pieces of garbage");
        match report.kept {
            true => {
                ui.note(&format!("finished a gc that was interrupted: {removed} in the trash, {}", report.transaction))
            }
            false => ui.note(&format!("finished a gc that was interrupted: {removed}, {}", text::size(report.disk))),
        }
        say_skipped(&report.skipped, ui);
    }
    for report in &recovered.repairs {
        let items = text::count(report.mended, "item", "items");
        ui.note(&format!("finished a repair that was interrupted: {items} repaired, {}", report.transaction));
        say_skipped(&report.skipped, ui);
    }
    for damaged in &recovered.damaged {
        let path = ui.clean(&damaged.path).into_owned();
        let reason = ui.clean(&damaged.reason).into_owned();
        ui.warn(&format!(
            "leaving {path}: {reason}; nothing in it is in use by Docker: delete it when nothing in it is missed"
        ));
    }
    for report in &recovered.undone {
        ui.note(&format!("finished putting back {}", report.transaction));
        say_skipped(&report.skipped, ui);
        say_skipped(&report.left, ui);
    }
}

pub(super) fn say_skipped(skipped: &[Skipped], ui: &Ui) {
    for skipped in skipped {
        ui.warn(&format!("kept {}: {}", ui.clean(&skipped.path), ui.clean(&skipped.reason)));
    }
}
