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
use crate::archive::foreign::{Choice, ForeignArchive, Platform, Spool};
use crate::archive::{Archive, ArchiveReader, ImageRecord, LayoutReader, Metadata, Source};
use crate::driver::USUAL;
use crate::error::Error;
use crate::fsx::{is_dir, open_input};
use crate::ops::load::{Layers, LoadPlan, LoadReport, discard, select, spool};
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
    load_from(args.input.as_deref(), args, place, ui).map_err(|failure| failure.of_archive(args.input.as_deref()))
}

fn load_from(input: Option<&Path>, args: &LoadArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let (archive, name) = open(input)?;
    if args.dry_run {
        let (metadata, foreign) = match archive {
            Archive::Own(mut archive) => (archive.metadata()?, None),
            Archive::Foreign(source) => {
                let mut archive = ForeignArchive::open(source, &name, Spool::Documents, ui.observer())?;
                (archive.metadata(&choice(args.platform.as_ref()), ui.observer())?, Some(archive))
            }
        };
        let images = select(&metadata.index, &args.refs)?;
        let store = target(place, metadata.index.driver.as_deref())?;
        let (plan, _) = LoadPlan::make(&store, &metadata, images)?;
        if let Some(archive) = foreign {
            archive.require(plan.layers.iter().map(|layer| &layer.record.diff))?;
        }
        show(&plan, ui)?;
        let free = store.root().free()?;
        if free < plan.bytes() {
            ui.warn(&format!("the layers need about {}, and {} are free", text::size(plan.bytes()), text::size(free)));
        }
        return Ok(Exit::Done);
    }
    interrupt::take();
    let mut passed = 0;
    let (plan, report) = match archive {
        Archive::Own(mut archive) => {
            let metadata = archive.metadata()?;
            let images = select(&metadata.index, &args.refs)?;
            let held = Held::take(place, metadata.index.driver.as_deref(), ui)?;
            let done = held.load(&metadata, images, Layers::Own(&mut archive), ui).and_then(|done| {
                if done.1.is_none() {
                    drain(input, &mut archive)?;
                }
                Ok(done)
            });
            passed = archive.passed_over();
            held.finish(done)?
        }
        Archive::Foreign(source) => load_foreign(source, &name, args, place, ui)?,
    };
    let present = plan.layers_present.len();
    let report =
        report.unwrap_or(LoadReport { images: plan.images.len(), layers_present: present, ..LoadReport::default() });
    let read = size(input).map(|bytes| bytes.saturating_sub(passed));
    say(&plan, &report, read, ui)?;
    Ok(Exit::Done)
}

/// What a load has come to: its plan, and what was done where there was something to do.
type Loaded = (LoadPlan, Option<LoadReport>);

/// A store that nobody else changes meanwhile.
struct Held {
    store: Store,
    lock: WriteLock,
}

impl Held {
    /// Takes the lock and finishes what was interrupted.
    fn take(place: &Place, driver: Option<&str>, ui: &Ui) -> Result<Self, Failure> {
        let store = target(place, driver)?;
        let lock = WriteLock::take(&store)?;
        recovered::tell(&recover(&store, &lock, ui.observer())?, ui);
        // What was finished may have made directories.
        Ok(Self { store: target(place, driver)?, lock })
    }

    fn load(
        &self,
        metadata: &Metadata,
        images: Vec<ImageRecord>,
        layers: Layers<'_>,
        ui: &Ui,
    ) -> Result<Loaded, Error> {
        let (plan, snapshot) = LoadPlan::make(&self.store, metadata, images)?;
        if plan.is_done() {
            return Ok((plan, None));
        }
        let report = plan.clone().execute(&self.store, &snapshot, &self.lock, metadata, layers, ui.observer())?;
        Ok((plan, Some(report)))
    }

    /// Lets the store go, with the time that a daemon may need to see what was written.
    fn finish(self, done: Result<Loaded, Error>) -> Result<Loaded, Failure> {
        match done {
            Ok((_, Some(_))) | Err(Error::Unfinished(_)) => self.lock.release(),
            Ok((_, None)) | Err(_) => self.lock.abandon()?,
        }
        Ok(done?)
    }
}

/// Loads an archive that another tool wrote. What comes from a pipe has to be kept in the store before it can be read.
fn load_foreign(source: Source, name: &str, args: &LoadArgs, place: &Place, ui: &Ui) -> Result<Loaded, Failure> {
    let is_pipe = matches!(source, Source::Stream(_));
    let read = |keep: Spool<'_>| {
        let mut archive = ForeignArchive::open(source, name, keep, ui.observer())?;
        let metadata = archive.metadata(&choice(args.platform.as_ref()), ui.observer())?;
        let images = select(&metadata.index, &args.refs)?;
        Ok::<_, Error>((archive, metadata, images))
    };
    let (held, done) = if is_pipe {
        let held = Held::take(place, None, ui)?;
        let done = spool(&held.store, &held.lock).and_then(|dir| {
            let (mut archive, metadata, images) = read(Spool::Layers(&dir))?;
            held.load(&metadata, images, Layers::Foreign(&mut archive), ui)
        });
        discard(&held.store, &held.lock)?;
        (held, done)
    } else {
        let (mut archive, metadata, images) = read(Spool::Documents)?;
        let held = Held::take(place, None, ui)?;
        let done = held.load(&metadata, images, Layers::Foreign(&mut archive), ui);
        (held, done)
    };
    held.finish(done)
}

/// Which images are loaded where a name has several.
fn choice(platform: Option<&Platform>) -> Choice {
    platform.map_or_else(|| Choice::Fitting(Platform::host()), |platform| Choice::Only(platform.clone()))
}

/// Reads what an archive that another tool wrote holds.
fn metadata(source: Source, name: &str, choice: &Choice, ui: &Ui) -> Result<Metadata, Error> {
    ForeignArchive::open(source, name, Spool::Documents, ui.observer())?.metadata(choice, ui.observer())
}

/// Reads what an archive holds.
pub(super) fn contents(input: &Path, ui: &Ui) -> Result<Metadata, Failure> {
    match open(Some(input))? {
        (Archive::Own(mut archive), _) => Ok(archive.metadata()?),
        (Archive::Foreign(source), name) => Ok(metadata(source, &name, &Choice::All, ui)?),
    }
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
fn target(place: &Place, driver: Option<&str>) -> Result<Store, Failure> {
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

/// Whoever writes the pipe is not to fail because there is nothing to do here.
fn drain(input: Option<&Path>, archive: &mut ArchiveReader) -> Result<(), Error> {
    if path_of(input).is_none() {
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
        "would load",
        &format!("{images}, {new}: {bytes}; {} there already", text::count(present, "layer", "layers")),
    );
    Ok(())
}

/// Says what was done, in `docker load`'s words. `read` is what was read of the archive, in bytes.
fn say(plan: &LoadPlan, report: &LoadReport, read: Option<u64>, ui: &Ui) -> Result<(), Failure> {
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
    warn_of_names(plan, "got", ui);
    ui.sum_up("loaded", &summary(report, read));
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
