//! `dockpack repair`.

use std::io::{self, Write};

use serde::Serialize;

use super::args::RepairArgs;
use super::failure::{Exit, Failure};
use super::interrupt;
use super::recovered::{self, say_skipped};
use super::run::Place;
use super::text;
use super::tree::{BAD, DIM, STRONG};
use super::ui::Ui;
use crate::finding::Severity;
use crate::ops::recover;
use crate::ops::repair::{Donor, Left, RepairPlan, RepairReport};
use crate::ops::transactions::undo;
use crate::ops::trash::{Kind, UndoReport};
use crate::store::{Store, WriteLock};

/// Number of the document's form.
const SCHEMA: u32 = 1;

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a RepairPlan>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a RepairReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    undone: Option<&'a UndoReport>,
}

pub(super) fn repair(args: &RepairArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let store = place.open(ui)?;
    if let Some(name) = &args.undo {
        return put_back(&store, name.as_deref(), ui);
    }
    let source = args.from.as_deref().map(|path| Donor::open(path, ui.observer())).transpose()?;
    interrupt::take();
    if args.dry_run {
        let plan = RepairPlan::make(&store, source.as_ref(), ui.observer())?;
        show(&plan, None, ui)?;
        match plan.mends.is_empty() {
            true => nothing(&plan, ui),
            false => ui.sum_up("would repair", &sum(&plan)),
        }
        return Ok(exit(&plan));
    }
    let lock = WriteLock::take(&store)?;
    let planned = recover(&store, &lock, ui.observer()).and_then(|done| {
        recovered::tell(&done, ui);
        RepairPlan::make(&store, source.as_ref(), ui.observer())
    });
    let plan = match planned {
        Ok(planned) => planned,
        Err(error) => {
            lock.abandon()?;
            return Err(error.into());
        }
    };
    mend(&store, plan, lock, source.as_ref(), args.yes, ui)
}

/// Asks, unless -y was given, and repairs.
fn mend(
    store: &Store,
    plan: RepairPlan,
    lock: WriteLock,
    source: Option<&Donor>,
    yes: bool,
    ui: &Ui,
) -> Result<Exit, Failure> {
    if plan.mends.is_empty() {
        lock.abandon()?;
        show(&plan, None, ui)?;
        nothing(&plan, ui);
        return Ok(exit(&plan));
    }
    let answer = if yes { Ok(true) } else { ask(&plan, ui) };
    if !matches!(answer, Ok(true)) {
        lock.abandon()?;
        return answer.map(|_| exit(&plan));
    }
    let done = plan.clone().execute(store, &lock, source, ui.observer());
    lock.release();
    let report = done?;
    // Who was asked has seen the plan.
    if yes || ui.json() {
        show(&plan, Some(&report), ui)?;
    }
    say_skipped(&report.skipped, ui);
    let items = text::count(report.mended, "item", "items");
    let left = match plan.left.len() {
        0 => String::new(),
        left => format!("; {}", remain(left)),
    };
    say_remaining(&report, ui)?;
    match report.mended {
        0 => ui.sum_up("repaired", &format!("nothing{left}")),
        _ => ui
            .sum_up("repaired", &format!("{items}{left}; `dockpack repair --undo` undoes it; {:.1} s", report.seconds)),
    }
    Ok(match &report.remaining {
        _ if !report.skipped.is_empty() => Exit::Failed,
        None => Exit::Failed,
        Some(remaining) if remaining.iter().any(|left| left.severity == Severity::Damage) => Exit::Findings,
        Some(_) => exit(&plan),
    })
}

/// Says what is still wrong of what the plan was to repair.
fn say_remaining(report: &RepairReport, ui: &Ui) -> Result<(), Failure> {
    let remaining = report.remaining.as_deref().unwrap_or_default();
    if ui.json() || remaining.is_empty() {
        return Ok(());
    }
    ui.print(|out| show_left(out, remaining, "still damaged", ui))?;
    ui.note("some damage shows only now: `dockpack repair` looks at it again");
    Ok(())
}

fn show_left(out: &mut dyn Write, all: &[Left], word: &str, ui: &Ui) -> io::Result<()> {
    for left in all {
        let style = if left.severity == Severity::Damage { BAD } else { STRONG };
        writeln!(out, "{STRONG}{}{STRONG:#}  {DIM}{}{DIM:#}", ui.clean(&left.subject), left.code)?;
        writeln!(out, "  {style}{word}{style:#}: {}", ui.clean(&left.needs))?;
    }
    Ok(())
}

fn exit(plan: &RepairPlan) -> Exit {
    if plan.leaves_damage() { Exit::Findings } else { Exit::Done }
}

/// Shows the plan and asks whether to go on.
fn ask(plan: &RepairPlan, ui: &Ui) -> Result<bool, Failure> {
    ui.expect_someone()?;
    show(plan, None, ui)?;
    ui.ask(&format!("Repair {}", sum(plan)))
}

fn put_back(store: &Store, name: Option<&str>, ui: &Ui) -> Result<Exit, Failure> {
    let lock = WriteLock::take(store)?;
    let done = recover(store, &lock, ui.observer()).and_then(|finished| {
        recovered::tell(&finished, ui);
        undo(store, &lock, Kind::Repair, name)
    });
    lock.release();
    let report = done?;
    if ui.json() {
        ui.print_json(&Document { schema: SCHEMA, plan: None, report: None, undone: Some(&report) })?;
    }
    say_skipped(&report.skipped, ui);
    say_skipped(&report.left, ui);
    let items = text::count(report.restored, "item", "items");
    ui.sum_up("restored", &format!("{items} to the state before repair {}", report.transaction));
    Ok(if report.skipped.is_empty() && report.left.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Shows what is repaired, object by object, and what is not.
fn show(plan: &RepairPlan, report: Option<&RepairReport>, ui: &Ui) -> Result<(), Failure> {
    if ui.json() {
        return ui.print_json(&Document { schema: SCHEMA, plan: Some(plan), report, undone: None });
    }
    ui.print(|out| {
        for mend in &plan.mends {
            let codes: Vec<&str> = mend.codes.iter().map(|code| code.name()).collect();
            writeln!(out, "{STRONG}{}{STRONG:#}  {DIM}{}{DIM:#}", ui.clean(&mend.subject), codes.join(", "))?;
            writeln!(out, "  repair: {}", ui.clean(&mend.act))?;
            for piece in mend.pieces.iter().filter(|_| ui.verbose()) {
                writeln!(out, "          {}", ui.clean(&piece.path))?;
            }
        }
        show_left(out, &plan.left, "remains", ui)
    })
}

/// Says that the plan repairs nothing.
fn nothing(plan: &RepairPlan, ui: &Ui) {
    match plan.left.len() {
        0 => ui.sum_up("nothing to repair", "no damage was found"),
        left => ui.sum_up("nothing repaired", &format!("0 repairs possible, {}", remain(left))),
    }
}

fn remain(problems: usize) -> String {
    text::count(problems, "problem remains", "problems remain")
}

fn sum(plan: &RepairPlan) -> String {
    let items = text::count(plan.mends.len(), "item", "items");
    match plan.left.len() {
        0 => items,
        left => format!("{items}; {}", remain(left)),
    }
}
