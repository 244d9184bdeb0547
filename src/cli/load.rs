//! `dockpack load`.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::args::LoadArgs;
use super::failure::{Exit, Failure};
use super::interrupt;
use super::recovered;
use super::run::Place;
use super::table::Table;
use super::text;
use super::ui::Ui;
use crate::archive::foreign::{Choice, Platform, Spool};
use crate::archive::{Archive, LayoutReader, OpenArchive};
use crate::driver::USUAL;
use crate::error::Error;
use crate::fsx::{is_dir, open_input};
use crate::model::{ImageRecord, Metadata};
use crate::ops::load::{LoadPlan, LoadReport, discard, select, spool};
use crate::ops::recover;
use crate::store::{Store, WriteLock};
use crate::transfer::Source;

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    plan: &'a LoadPlan,
    #[serde(flatten)]
    report: Option<&'a LoadReport>,
}

pub(super) fn load(args: &LoadArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    load_from(args.input.as_deref(), args, place, ui).map_err(|failure| failure.of_archive(args.input.as_deref()))
}

fn load_from(input: Option<&Path>, args: &LoadArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let (archive, _) = open(input)?;
    let choice = choice(args.platform.as_ref());
    if args.dry_run {
        return foresee(&archive.open(&choice, Spool::Documents, ui.observer())?, &args.refs, place, ui);
    }
    interrupt::take();
    let mut passed = 0;
    let (held, done) = if archive.is_read_once() {
        // It has to be kept in the store before it can be read.
        let held = Held::take(place, None, ui)?;
        let done = spool(&held.store, &held.lock).and_then(|dir| {
            let mut archive = archive.open(&choice, Spool::Layers(&dir), ui.observer())?;
            let images = select(&archive.metadata().index, &args.refs)?;
            held.load(&mut archive, images, ui)
        });
        discard(&held.store, &held.lock)?;
        (held, done)
    } else {
        let mut archive = archive.open(&choice, Spool::Documents, ui.observer())?;
        let images = select(&archive.metadata().index, &args.refs)?;
        let held = Held::take(place, archive.metadata().index.driver.as_deref(), ui)?;
        let mut done = held.load(&mut archive, images, ui);
        if path_of(input).is_none() && matches!(done, Ok((_, None))) {
            done = archive.drain().and(done);
        }
        passed = archive.passed_over();
        (held, done)
    };
    let (plan, report) = held.finish(done)?;
    let read = size(input).map(|bytes| bytes.saturating_sub(passed));
    say(&plan, report.as_ref(), read, Verb::Load, ui)?;
    Ok(Exit::Done)
}

/// Says what a load would do.
fn foresee(archive: &OpenArchive, refs: &[String], place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let metadata = archive.metadata();
    let images = select(&metadata.index, refs)?;
    let store = target(place, metadata.index.driver.as_deref())?;
    let (plan, _) = LoadPlan::make(&store, metadata, images)?;
    archive.require(plan.layers.iter().map(|layer| &layer.record.diff))?;
    show(&plan, &store, Verb::Load, ui)?;
    Ok(Exit::Done)
}

/// What a load has come to: its plan, and what was done where there was something to do.
pub(super) type Loaded = (LoadPlan, Option<LoadReport>);

/// A store that nobody else changes meanwhile.
pub(super) struct Held {
    store: Store,
    lock: WriteLock,
}

impl Held {
    /// Takes the lock and finishes what was interrupted.
    pub(super) fn take(place: &Place, driver: Option<&str>, ui: &Ui) -> Result<Self, Failure> {
        let store = target(place, driver)?;
        let lock = WriteLock::take(&store)?;
        recovered::tell(&recover(&store, &lock, ui.observer())?, ui);
        // What was finished may have made directories.
        Ok(Self { store: target(place, driver)?, lock })
    }

    pub(super) fn load(&self, source: &mut dyn Source, images: Vec<ImageRecord>, ui: &Ui) -> Result<Loaded, Error> {
        let (plan, snapshot) = LoadPlan::make(&self.store, source.metadata(), images)?;
        if plan.is_done() {
            return Ok((plan, None));
        }
        let report = plan.clone().execute(&self.store, &snapshot, &self.lock, source, ui.observer())?;
        Ok((plan, Some(report)))
    }

    /// Lets the store go, with the time that a daemon may need to see what was written.
    pub(super) fn finish(self, done: Result<Loaded, Error>) -> Result<Loaded, Failure> {
        match done {
            Ok((_, Some(_))) | Err(Error::Unfinished(_)) => self.lock.release(),
            Ok((_, None)) | Err(_) => self.lock.abandon()?,
        }
        Ok(done?)
    }
}

/// Which images are loaded where a name has several.
fn choice(platform: Option<&Platform>) -> Choice {
    platform.map_or_else(|| Choice::Fitting(Platform::host()), |platform| Choice::Only(platform.clone()))
}

/// Reads what an archive holds.
pub(super) fn contents(input: &Path, ui: &Ui) -> Result<Arc<Metadata>, Failure> {
    let archive = open(Some(input))?.0.open(&Choice::All, Spool::Documents, ui.observer())?;
    Ok(Arc::clone(archive.metadata()))
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

/// Opens an archive, a file, an unpacked one, or standard input, and returns it with what messages call it.
pub(super) fn open(input: Option<&Path>) -> Result<(Archive, String), Failure> {
    let Some(path) = path_of(input) else {
        if io::stdin().is_terminal() {
            return Err(Error::Usage("no archive: name one with -i, or pipe it in".to_owned()).into());
        }
        let name = "standard input";
        return Ok((Archive::of_stream(Box::new(io::stdin()), name)?, name.to_owned()));
    };
    let name = path.display().to_string();
    Ok((Archive::at(path, &name)?, name))
}

/// Opens the store to load into; in an empty directory a new one, of the driver that was asked for or else of the
/// archive's.
pub(super) fn target(place: &Place, driver: Option<&str>) -> Result<Store, Failure> {
    match Store::open(&place.root(), place.driver()) {
        Err(Error::NoStore { .. }) => {
            let driver = place.driver().or(driver).unwrap_or(USUAL.name());
            let store = Store::open_fresh(&place.root(), driver)?;
            match store.is_empty()? {
                true => Ok(store),
                false => Err(Error::NoStore { root: store.path().to_owned() }.into()),
            }
        }
        store => {
            let store = store?;
            if place.driver().is_none() {
                store.expect_only_store()?;
            }
            Ok(store)
        }
    }
}

/// Says what would be done, and warns where there is no room for it.
pub(super) fn show(plan: &LoadPlan, store: &Store, verb: Verb, ui: &Ui) -> Result<(), Failure> {
    if ui.json() {
        ui.print_json(&Document { schema: 1, plan, report: None })?;
    } else {
        show_text(plan, verb, ui)?;
    }
    let free = store.root().free()?;
    if free < plan.bytes() {
        ui.warn(&format!("the layers need about {}, and {} are free", text::size(plan.bytes()), text::size(free)));
    }
    Ok(())
}

fn show_text(plan: &LoadPlan, verb: Verb, ui: &Ui) -> Result<(), Failure> {
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
            ui.note(&format!(
                "{} leads to {} and would lead to {}",
                tagging.reference,
                was.short(),
                tagging.image.short()
            ));
        }
    }
    warn_of_names(plan, "would get", ui);
    let new = text::count(plan.layers.len(), "new layer", "new layers");
    let images = text::count(plan.images.len(), "image", "images");
    let (bytes, present) = (text::size(plan.bytes()), plan.layers_present.len());
    ui.sum_up(
        verb.would(),
        &format!("{images}, {new}: {bytes}; {} there already", text::count(present, "layer", "layers")),
    );
    Ok(())
}

/// What a command that writes to a store calls what it does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verb {
    Load,
    Copy,
}

impl Verb {
    fn would(self) -> &'static str {
        match self {
            Self::Load => "would load",
            Self::Copy => "would copy",
        }
    }

    /// Returns its past: at the beginning of a line, and within one.
    fn did(self) -> (&'static str, &'static str) {
        match self {
            Self::Load => ("Loaded", "loaded"),
            Self::Copy => ("Copied", "copied"),
        }
    }
}

/// Says what was done, in `docker load`'s words; without a report, that all was there. `read` is what was read of an archive,
/// in bytes.
pub(super) fn say(
    plan: &LoadPlan,
    report: Option<&LoadReport>,
    read: Option<u64>,
    verb: Verb,
    ui: &Ui,
) -> Result<(), Failure> {
    let (did, done) = verb.did();
    let (images, layers_present) = (plan.images.len(), plan.layers_present.len());
    let nothing = LoadReport { images, layers_present, ..LoadReport::default() };
    let report = report.unwrap_or(&nothing);
    if ui.json() {
        return ui.print_json(&Document { schema: 1, plan, report: Some(report) });
    }
    ui.print(|out| {
        for image in &plan.images {
            for reference in &image.references {
                writeln!(out, "{did} image: {}", ui.clean(reference))?;
            }
            if image.references.is_empty() {
                writeln!(out, "{did} image ID: {}", image.id)?;
            }
        }
        Ok(())
    })?;
    for tagging in &plan.references {
        if let Some(was) = tagging.was {
            ui.note(&format!("{} led to {} before", tagging.reference, was.short()));
        }
    }
    warn_of_names(plan, "got", ui);
    ui.sum_up(done, &summary(report, read));
    Ok(())
}

/// Tells of layers that what stands on them calls by a name that is another's.
fn warn_of_names(plan: &LoadPlan, got: &str, ui: &Ui) {
    for chain in &plan.called_otherwise {
        ui.warn(&format!(
            "layer {} {got} another short name than containers or layers above it say: containers may not \
             start before `dockpack repair` writes it anew",
            chain.short()
        ));
    }
}

fn summary(report: &LoadReport, read: Option<u64>) -> String {
    let from = read.filter(|bytes| *bytes > 0 && report.layers > 0).map_or_else(String::new, |bytes| {
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
