//! `dockpack ls`.

use jiff::Timestamp;

use super::args::LsArgs;
use super::failure::{Exit, Failure};
use super::load;
use super::run::Place;
use super::table::Table;
use super::text::{self, NONE};
use super::ui::Ui;
use crate::ops::inspect::{ImageList, ListedImage, View};

pub(super) fn ls(args: &LsArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let list = match &args.input {
        Some(path) => ImageList::of_archive(&*load::contents(path, ui)?, &args.refs),
        None => {
            let (store, snapshot) = place.look(ui)?;
            ImageList::of(&View::new(&store, &snapshot), args.all, &args.refs)
        }
    };
    if ui.json() {
        ui.print_json(&list)?;
    } else if ui.quiet() {
        ui.print(|out| list.images.iter().try_for_each(|image| writeln!(out, "{}", id(image, args))))?;
    } else {
        ui.print_text(&table(&list, args, ui).text())?;
    }
    say_what_is_lost(&list, ui);
    Ok(Exit::Done)
}

fn id(image: &ListedImage, args: &LsArgs) -> String {
    if args.no_trunc { image.id.to_string() } else { image.id.short() }
}

fn table(list: &ImageList, args: &LsArgs, ui: &Ui) -> Table {
    let headings: &[&str] = match args.digests {
        true => &["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"],
        false => &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"],
    };
    let mut table = Table::new(headings);
    let now = Timestamp::now();
    for image in &list.images {
        let created = text::ago(image.created.as_deref(), now);
        for row in image.rows(args.digests) {
            let name = |part: Option<&str>| ui.clean(part.unwrap_or(NONE)).into_owned();
            let mut cells = vec![name(row.repository), name(row.tag)];
            if args.digests {
                cells.push(name(row.digest));
            }
            cells.extend([id(image, args), created.clone(), text::size(image.size)]);
            table.row(cells);
        }
    }
    table
}

/// Says which of the listed images Docker would not list or could not run.
fn say_what_is_lost(list: &ImageList, ui: &Ui) {
    for image in list.images.iter().filter(|image| image.lost_layers > 0) {
        let name = image.tags.first().or(image.digests.first()).cloned().unwrap_or_else(|| image.id.short());
        let lost = text::count(image.lost_layers, "layer", "layers");
        ui.note(&format!("{name} lacks {lost} of {}: dockerd would drop it", image.layers));
    }
    let images = list.images.iter().filter(|image| image.lost_layers == 0 && image.lost_directories > 0).count();
    if images > 0 {
        let images = text::count(images, "image lacks", "images lack");
        ui.note(&format!("{images} directories of layers; `dockpack inspect` shows which"));
    }
}
