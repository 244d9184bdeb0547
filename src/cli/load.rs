//! `dockpack load`.

use std::io::{self, IsTerminal as _};
use std::path::Path;

use serde::Serialize;

use super::args::LoadArgs;
use super::failure::{Exit, Failure};
use super::interrupt;
use super::recovered;
use super::run::Place;
use super::table::Table;
use super::text;
use super::ui::Ui;
use crate::archive::{ArchiveReader, LayoutReader, Metadata};
use crate::error::Error;
use crate::fsx::{is_dir, open_input};
use crate::ops::load::{LoadPlan, LoadReport, select};
use crate::ops::recover;
use crate::store::{Store, WriteLock};

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    plan: &'a LoadPlan,
    #[serde(flatten)]
    report: Option<&'a LoadReport>,
}

pub(super) fn load(args: &LoadArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let mut archive = open(args.input.as_deref())?;
    let metadata = archive.metadata()?;
    let images = select(&metadata.index, &args.refs)?;
    let store = target(place, &metadata)?;
    if args.dry_run {
        let (plan, _) = LoadPlan::make(&store, &metadata, images)?;
        show(&plan, ui)?;
        return Ok(Exit::Done);
    }
    interrupt::take();
    let lock = WriteLock::take(&store)?;
    recovered::tell(&recover(&store, &lock, ui.observer())?, ui);
    // What was finished may have made directories.
    let store = target(place, &metadata)?;
    let done = LoadPlan::make(&store, &metadata, images).and_then(|(plan, snapshot)| {
        if plan.is_done() {
            drain(args, &mut archive)?;
            return Ok((plan, None));
        }
        let report = plan.clone().execute(&store, &snapshot, &lock, &metadata, &mut archive, ui.observer())?;
        Ok((plan, Some(report)))
    });
    match done {
        Ok((_, Some(_))) | Err(Error::Unfinished(_)) => lock.release(),
        Ok((_, None)) | Err(_) => lock.abandon()?,
    }
    let (plan, report) = done?;
    let present = plan.layers_present.len();
    let report =
        report.unwrap_or(LoadReport { images: plan.images.len(), layers_present: present, ..LoadReport::default() });
    say(&plan, &report, size(args.input.as_deref()), ui)?;
    Ok(Exit::Done)
}

/// Returns the path of an archive; `None` for standard input.
fn path_of(input: Option<&Path>) -> Option<&Path> {
    let path = input.filter(|path| *path != Path::new("-"))?;
    Some(path.to_str().and_then(|text| text.strip_prefix("oci:")).map_or(path, Path::new))
}

/// Returns the bytes of an archive, where that can be told.
fn size(input: Option<&Path>) -> Option<u64> {
    let path = path_of(input)?;
    match is_dir(path) {
        true => LayoutReader::size(path).ok(),
        false => open_input(path).ok()?.metadata().ok().filter(std::fs::Metadata::is_file).map(|found| found.len()),
    }
}

/// Opens an archive: a file, an unpacked one, or standard input.
pub(super) fn open(input: Option<&Path>) -> Result<ArchiveReader, Failure> {
    let Some(path) = path_of(input) else {
        if io::stdin().is_terminal() {
            return Err(Error::Usage("no archive: name one with -i, or pipe it in".to_owned()).into());
        }
        return Ok(ArchiveReader::new(Box::new(io::stdin()), "standard input")?);
    };
    let name = path.display().to_string();
    match is_dir(path) {
        true => Ok(ArchiveReader::new(Box::new(LayoutReader::open(path)?), &name)?),
        false => Ok(ArchiveReader::open(open_input(path)?, &name)?),
    }
}

/// Opens the store to load into; in an empty directory a new one, of the driver that was asked for or else of the
/// archive's.
fn target(place: &Place, metadata: &Metadata) -> Result<Store, Failure> {
    match Store::open(&place.root(), place.driver()) {
        Err(Error::NoStore { .. }) => {
            let driver = place.driver().unwrap_or(&metadata.index.driver);
            let store = Store::open_fresh(&place.root(), driver)?;
            match store.is_empty()? {
                true => Ok(store),
                false => Err(Error::NoStore { root: store.path().to_owned() }.into()),
            }
        }
        store => Ok(store?),
    }
}

/// Whoever writes the pipe is not to fail because there is nothing to do here.
fn drain(args: &LoadArgs, archive: &mut ArchiveReader) -> Result<(), Error> {
    if path_of(args.input.as_deref()).is_none() {
        while archive.next_part()?.is_some() {}
    }
    Ok(())
}

/// Says what would be done.
fn show(plan: &LoadPlan, ui: &Ui) -> Result<(), Failure> {
    if ui.json() {
        return ui.print_json(&Document { schema: 1, plan, report: None });
    }
    let mut table = Table::new(&["REFERENCE", "IMAGE ID", "LAYERS", "NEW LAYERS", "SIZE OF NEW"]);
    for image in &plan.images {
        let chains = image.chain_ids();
        let new: Vec<_> = plan.layers.iter().filter(|layer| chains.contains(&layer.record.chain)).collect();
        let size = new.iter().map(|layer| layer.record.tar_size).sum();
        let names = if image.references.is_empty() { vec![text::NONE.to_owned()] } else { image.references.clone() };
        for name in names {
            let name = ui.clean(&name).into_owned();
            let (layers, new) = (chains.len().to_string(), new.len().to_string());
            table.row([name, image.id.short(), layers, new, text::size(size)]);
        }
    }
    ui.print_text(&table.text())?;
    for tagging in &plan.references {
        if let Some(was) = tagging.was {
            ui.note(&format!("{} now leads to {}", tagging.reference, was.short()));
        }
    }
    let new = text::count(plan.layers.len(), "new layer", "new layers");
    let images = text::count(plan.images.len(), "image", "images");
    let (bytes, present) = (text::size(plan.bytes()), plan.layers_present.len());
    ui.sum_up(
        "would load",
        &format!("{images}, {new}: {bytes}; {} there already", text::count(present, "layer", "layers")),
    );
    Ok(())
}

/// Says what was done, in `docker load`'s words.
fn say(plan: &LoadPlan, report: &LoadReport, archive: Option<u64>, ui: &Ui) -> Result<(), Failure> {
    if ui.json() {
        return ui.print_json(&Document { schema: 1, plan, report: Some(report) });
    }
    ui.print(|out| {
        for image in &plan.images {
            for reference in &image.references {
                writeln!(out, "Loaded image: {}", ui.clean(reference))?;
            }
            if image.references.is_empty() {
                writeln!(out, "Loaded image ID: {}", image.id)?;
            }
        }
        Ok(())
    })?;
    for tagging in &plan.references {
        if let Some(was) = tagging.was {
            ui.note(&format!("{} led to {} before", tagging.reference, was.short()));
        }
    }
    ui.sum_up("loaded", &summary(report, archive));
    Ok(())
}

fn summary(report: &LoadReport, archive: Option<u64>) -> String {
    let from = archive.filter(|bytes| *bytes > 0 && report.layers > 0).map_or_else(String::new, |bytes| {
        #[expect(clippy::cast_precision_loss, reason = "a ratio of two digits")]
        let ratio = report.bytes as f64 / bytes as f64;
        format!(" from {} ({ratio:.1}x)", text::size(bytes))
    });
    format!(
        "{}, {}: {}{from}; {} there already; {:.1} s",
        text::count(report.images, "image", "images"),
        text::count(report.layers, "new layer", "new layers"),
        text::size(report.bytes),
        text::count(report.layers_present, "layer", "layers"),
        report.seconds
    )
}
