//! `dockpack verify`.

use std::io::{self, Write};
use std::path::Path;

use super::args::VerifyArgs;
use super::failure::{Exit, Failure};
use super::interrupt;
use super::load;
use super::run::Place;
use super::text;
use super::tree::{BAD, DIM, STRONG};
use super::ui::Ui;
use crate::finding::Severity;
use crate::graph::{self, Node};
use crate::ops::verify::{self, Broken, Effect, Found, Report, Request};
use crate::store::WriteLock;

/// How many findings of one code a person is shown of one object.
const SHOWN: usize = 10;
/// How many images without a name a person is shown one by one.
const NAMELESS: usize = 3;

pub(super) fn verify(args: &VerifyArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    if let Some(input) = &args.input {
        let report = archive(input, &args.refs, ui).map_err(|failure| failure.of_archive(Some(input)))?;
        return show(&report, ui);
    }
    let store = place.open(ui)?;
    let in_use_by = WriteLock::holder(&store);
    let snapshot = store.snapshot()?;
    let images = match args.refs.is_empty() {
        true => None,
        false => Some(graph::select_images(&snapshot, &args.refs)?.into_iter().map(|one| one.image).collect()),
    };
    interrupt::take();
    let request = Request { images, quick: args.quick, in_use_by };
    let report = verify::verify(&store, &snapshot, &request, ui.observer())?;
    let exit = show(&report, ui)?;
    if report.has_damage() && !ui.json() {
        ui.note("`dockpack repair --dry-run` shows what can be repaired");
    }
    Ok(exit)
}

/// Verifies an archive, whoever wrote it: all of it, or only these images.
fn archive(input: &Path, images: &[String], ui: &Ui) -> Result<Report, Failure> {
    let name = input.display().to_string();
    interrupt::take();
    Ok(verify::verify_archive(load::open(Some(input))?.0, &name, images, ui.observer())?)
}

fn show(report: &Report, ui: &Ui) -> Result<Exit, Failure> {
    if ui.json() {
        ui.print_json(report)?;
    } else {
        ui.print(|out| write_findings(report, ui, out))?;
        if let Some(holder) = &report.in_use_by {
            ui.note(&format!("{} works on the store: what does not last some seconds is not told", ui.clean(holder)));
        }
        ui.sum_up(if report.has_damage() { "damaged" } else { "verified" }, &summary(report));
    }
    Ok(if report.has_damage() { Exit::Findings } else { Exit::Done })
}

/// Writes the findings of each object together. Notes are for those who want to know more.
fn write_findings(report: &Report, ui: &Ui, out: &mut dyn Write) -> io::Result<()> {
    let shown = |found: &&Found| ui.verbose() || found.finding.severity > Severity::Note;
    let findings: Vec<&Found> = report.findings.iter().filter(shown).collect();
    let same_object =
        |a: &&Found, b: &&Found| a.object == b.object && (a.object.is_some() || a.finding.object == b.finding.object);
    for object in findings.chunk_by(same_object) {
        write_object(object, ui, out)?;
    }
    Ok(())
}

fn write_object(findings: &[&Found], ui: &Ui, out: &mut dyn Write) -> io::Result<()> {
    let Some(first) = findings.first() else { return Ok(()) };
    let path = first.path.as_deref().map(|path| format!("  {DIM}{}{DIM:#}", ui.clean(path))).unwrap_or_default();
    writeln!(out, "{STRONG}{}{STRONG:#}{path}", ui.clean(&named(first)))?;
    for same in findings.chunk_by(|a, b| a.finding.code == b.finding.code && a.finding.severity == b.finding.severity) {
        let shown = if ui.verbose() { same.len() } else { SHOWN };
        for found in same.iter().take(shown) {
            write_finding(found, ui, out)?;
        }
        if let Some(more) = same.len().checked_sub(shown).filter(|more| *more > 0) {
            writeln!(out, "           … and {more} more; -v shows all")?;
        }
    }
    let mut told: Vec<&Broken> = Vec::new();
    // What is only odd breaks nothing.
    let damage = findings.iter().filter(|found| found.finding.severity == Severity::Damage);
    for broken in damage.flat_map(|found| &found.breaks) {
        if !told.contains(&&**broken) {
            told.push(broken);
            writeln!(out, "  breaks: {}{}", ui.clean(&names(broken, ui)), what(broken.effect))?;
        }
    }
    Ok(())
}

fn write_finding(found: &Found, ui: &Ui, out: &mut dyn Write) -> io::Result<()> {
    let (style, severity) = match found.finding.severity {
        Severity::Damage => (BAD, "damage"),
        Severity::Warning => (STRONG, "warning"),
        Severity::Note => (DIM, "note"),
    };
    let file = found.file.as_deref().map(|file| format!("{file}: ")).unwrap_or_default();
    let evidence = format!("{file}{}", found.finding.evidence);
    writeln!(out, "  {style}{severity:<7}{style:#}  {}: {}", found.finding.code, ui.clean(&evidence))
}

/// Says what an object is.
fn named(found: &Found) -> String {
    match &found.object {
        Some(Node::Dir(_)) => format!("directory {}", found.object.as_ref().map(Node::short).unwrap_or_default()),
        Some(node) => format!("{} {}", node.kind(), node.short()),
        None => found.finding.object.to_string(),
    }
}

/// Names what is broken: images by their references, then containers, then how many images have no name.
fn names(broken: &Broken, ui: &Ui) -> String {
    if broken.effect == Effect::Daemon {
        return "everything".to_owned();
    }
    let (named, nameless): (Vec<_>, Vec<_>) = broken.images.iter().partition(|image| !image.references.is_empty());
    let containers = broken.containers.iter().map(|container| match container.name.as_str() {
        "" => format!("container {}", container.id.short()),
        name => format!("container {name}"),
    });
    let mut names: Vec<String> = named.iter().flat_map(|image| image.names()).collect();
    names.sort();
    names.extend(containers);
    match nameless.len() {
        0 => {}
        number if number > NAMELESS && !ui.verbose() => names.push(format!("{number} images without a name")),
        _ => names.extend(nameless.iter().map(|image| format!("image {}", image.id.short()))),
    }
    names.join(", ")
}

fn what(effect: Effect) -> &'static str {
    match effect {
        Effect::Names => " (the names are lost)",
        Effect::Pull => " (cannot be loaded or pulled)",
        Effect::Save => " (saving and pushing)",
        Effect::Create => " (nothing new can be made on it: no container, build or commit)",
        Effect::Content => " (other content than was built)",
        Effect::Settings => " (started without its ports and limits, or not at all)",
        Effect::Start => " (cannot be started)",
        Effect::Daemon => " (dockerd does not start)",
    }
}

fn summary(report: &Report) -> String {
    let (checked, summary) = (&report.checked, &report.summary);
    let mut parts =
        vec![text::count(checked.images, "image", "images"), text::count(checked.layers, "layer", "layers")];
    if report.quick {
        parts.push("structure only".to_owned());
    } else {
        parts.push(format!("{} proved", text::size(checked.bytes)));
    }
    let mut line = parts.join(", ");
    if summary.damage > 0 {
        let images = text::count(summary.broken_images, "image", "images");
        let containers = text::count(summary.broken_containers, "container", "containers");
        let damage = text::count(summary.damage, "finding", "findings");
        line = format!("{line}: {damage} of damage; {images} and {containers} broken");
    } else if summary.warnings > 0 {
        line = format!("{line}: {}", text::count(summary.warnings, "warning", "warnings"));
    }
    line
}
