//! `dockpack save`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::SaveArgs;
use super::failure::{Exit, Failure};
use super::interrupt;
use super::run::Place;
use super::text;
use super::ui::Ui;
use crate::archive::{ArchiveWriter, Compression, WINDOW, ZstdOptions};
use crate::error::Error;
use crate::fsx::{OutputDir, OutputFile};
use crate::graph;
use crate::ops::save::{SavePlan, SaveReport, Unproved, provable};

/// Where an archive goes.
enum Output {
    /// A pipe.
    Standard,
    /// A file.
    File(PathBuf),
    /// A directory, unpacked.
    Directory(PathBuf),
}

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    output: &'a Path,
    #[serde(flatten)]
    report: &'a SaveReport,
    /// With `--partial`: images that were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    unproved: Option<&'a [Unproved]>,
}

pub(super) fn save(args: &SaveArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let (output, compression) = output(args, ui)?;
    let (store, snapshot) = place.look(ui)?;
    let selected = match args.all {
        true => graph::select_all(&snapshot),
        false => graph::select_images(&snapshot, &args.refs)?,
    };
    interrupt::take();
    let (selected, unproved) = match args.partial {
        true => provable(&store, &snapshot, selected, args.all, ui.observer())?,
        false => (selected, Vec::new()),
    };
    say_unproved(&unproved, ui);
    if selected.is_empty() && !unproved.is_empty() {
        ui.sum_up("saved", "nothing: no image can be proved");
        return Ok(Exit::Findings);
    }
    let plan = SavePlan::new(&snapshot, store.driver(), &selected)?;
    let name = match &output {
        Output::Standard => "standard output".to_owned(),
        Output::File(path) | Output::Directory(path) => path.display().to_string(),
    };
    let failed = |source| Error::Output { name: name.clone(), source };
    let tar = |out: &mut dyn Write| -> Result<SaveReport, Failure> {
        let archive = ArchiveWriter::tar(out, compression).map_err(failed)?;
        Ok(plan.clone().execute(&store, archive, &name, ui.observer())?)
    };
    let report = match &output {
        Output::Standard => {
            // Not through `io::stdout`, which looks for lines.
            let out = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
            tar(&mut File::from(out))?
        }
        Output::File(path) => {
            let mut file = OutputFile::create(path)?;
            let report = tar(&mut file)?;
            file.publish()?;
            report
        }
        Output::Directory(path) => {
            let directory = OutputDir::create(path)?;
            let archive = ArchiveWriter::<io::Sink>::directory(directory.stage().clone());
            let report = plan.clone().execute(&store, archive, &name, ui.observer())?;
            directory.publish("index.json")?;
            report
        }
    };
    if ui.json() {
        ui.print_json(&Document {
            schema: 1,
            output: &args.output,
            report: &report,
            unproved: args.partial.then_some(&unproved),
        })?;
    } else {
        ui.sum_up("saved", &summary(&report));
    }
    Ok(if unproved.is_empty() { Exit::Done } else { Exit::Findings })
}

/// Names the images that are left out, each with the reason.
fn say_unproved(unproved: &[Unproved], ui: &Ui) {
    for one in unproved {
        let name = if one.references.is_empty() { one.image.short() } else { one.references.join(", ") };
        let layer = one.layer.map(|chain| format!("layer {}: ", chain.short())).unwrap_or_default();
        ui.warn(&format!("left out {}: {layer}{}", ui.clean(&name), ui.clean(&one.reason)));
    }
}

/// Finds out from the arguments where the archive goes and how it is compressed.
fn output(args: &SaveArgs, ui: &Ui) -> Result<(Output, Compression), Failure> {
    let threads = args.threads.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, |threads| u32::try_from(threads.get()).unwrap_or(1))
    });
    let zstd = Compression::Zstd(ZstdOptions { level: args.level, window: args.window.unwrap_or(WINDOW), threads });
    let text = args.output.to_string_lossy();
    if text == "-" {
        if ui.out_is_terminal() {
            return Err(Error::Usage("an archive is no text for a terminal: use -o FILE, or a pipe".to_owned()).into());
        }
        if ui.json() {
            return Err(Error::Usage("--json and -o - both want standard output".to_owned()).into());
        }
        return Ok((Output::Standard, zstd));
    }
    if let Some(directory) = text.strip_prefix("oci:") {
        return Ok((Output::Directory(directory.into()), zstd));
    }
    if text.ends_with('/') {
        return Ok((Output::Directory(args.output.clone()), zstd));
    }
    let ends = |endings: &[&str]| endings.iter().any(|ending| text.ends_with(ending));
    let compression = match () {
        () if ends(&[".zst", ".tzst"]) => zstd,
        () if ends(&[".tar.gz", ".tgz"]) => Compression::Gzip,
        () if ends(&[".tar"]) => Compression::Plain,
        () => {
            let text = format!("{text} does not say how to compress: end it in .tar.zst, .tar.gz, .tar or /");
            return Err(Error::Usage(text).into());
        }
    };
    Ok((Output::File(args.output.clone()), compression))
}

fn summary(report: &SaveReport) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a ratio of two digits")]
    let ratio = report.bytes_in as f64 / report.bytes_out.max(1) as f64;
    format!(
        "{}, {}: {} in {} ({ratio:.1}x), {:.1} s",
        text::count(report.images, "image", "images"),
        text::count(report.layers, "layer", "layers"),
        text::size(report.bytes_in),
        text::size(report.bytes_out),
        report.seconds
    )
}
