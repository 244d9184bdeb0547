//! `dockpack repair`.

use std::io::{self, BufRead as _, IsTerminal as _};

use serde::Serialize;

use super::args::RepairArgs;
use super::failure::{Exit, Failure};
use super::interrupt;
use super::recovered::{self, say_skipped};
use super::run::Place;
use super::text;
use super::tree::{BAD, DIM, STRONG};
use super::ui::Ui;
use crate::error::Error;
use crate::finding::Severity;
use crate::ops::recover;
use crate::ops::repair::{Mend, RepairPlan, RepairReport, Source};
use crate::ops::trash::{Kind, UndoReport, undo};
use crate::store::{Snapshot, Store, WriteLock};

/// Codes of what keeps other things from being looked at.
const HIDING: [&str; 3] = ["layer-missing", "layer-not-loadable", "layer-unreadable"];

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
    let store = place.open()?;
    if let Some(name) = &args.undo {
        return put_back(&store, name.as_deref(), ui);
    }
    let source = args.from.as_deref().map(|path| Source::open(path, ui.observer())).transpose()?;
    interrupt::take();
    if args.dry_run {
        let (plan, _) = RepairPlan::make(&store, source.as_ref(), ui.observer())?;
        show(&plan, None, ui)?;
        ui.sum_up("would mend", &sum(&plan));
        return Ok(exit(&plan));
    }
    let lock = WriteLock::take(&store)?;
    let planned = recover(&store, &lock, ui.observer()).and_then(|done| {
        recovered::tell(&done, ui);
        RepairPlan::make(&store, source.as_ref(), ui.observer())
    });
    let (plan, snapshot) = match planned {
        Ok(planned) => planned,
        Err(error) => {
            lock.abandon()?;
            return Err(error.into());
        }
    };
    mend(&store, plan, &snapshot, lock, source.as_ref(), args.yes, ui)
}

/// Asks, where it was not said before, and mends.
fn mend(
    store: &Store,
    plan: RepairPlan,
    snapshot: &Snapshot,
    lock: WriteLock,
    source: Option<&Source>,
    yes: bool,
    ui: &Ui,
) -> Result<Exit, Failure> {
    if plan.mends.is_empty() {
        lock.abandon()?;
        show(&plan, None, ui)?;
        ui.sum_up("mended", if plan.left.is_empty() { "nothing: nothing is damaged" } else { "nothing" });
        return Ok(exit(&plan));
    }
    let answer = if yes { Ok(true) } else { ask(&plan, ui) };
    if !matches!(answer, Ok(true)) {
        lock.abandon()?;
        return answer.map(|_| exit(&plan));
    }
    let done = plan.clone().execute(store, snapshot, &lock, source, ui.observer());
    lock.release();
    let report = done?;
    // Who was asked has seen the plan.
    if yes || ui.json() {
        show(&plan, Some(&report), ui)?;
    }
    say_skipped(&report.skipped, ui);
    let things = text::count(report.mended, "thing", "things");
    let left = match plan.left.len() {
        0 => String::new(),
        left => format!("; {left} left as they are"),
    };
    let was_hidden = |mend: &Mend| mend.codes.iter().any(|code| HIDING.contains(&code.as_str()));
    if plan.mends.iter().any(was_hidden) {
        ui.note("layers that could not be loaded are looked at only now: run it again, for what they may have");
    }
    ui.sum_up("mended", &format!("{things}{left}; `dockpack repair --undo` takes it back, {:.1} s", report.seconds));
    Ok(if report.skipped.is_empty() { exit(&plan) } else { Exit::Failed })
}

fn exit(plan: &RepairPlan) -> Exit {
    if plan.leaves_damage() { Exit::Findings } else { Exit::Done }
}

/// Shows the plan and asks whether to go on.
fn ask(plan: &RepairPlan, ui: &Ui) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || ui.json() {
        let text = "nobody to ask: -y mends without asking, --dry-run only shows".to_owned();
        return Err(Error::Usage(text).into());
    }
    show(plan, None, ui)?;
    ui.print(|out| write!(out, "Mend {}? [y/N] ", sum(plan)))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Failure::Output)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
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
    let things = text::count(report.restored, "thing", "things");
    ui.sum_up("put back", &format!("{things} as before repair {}", report.transaction));
    Ok(if report.skipped.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Shows what is mended, object by object, and what is not.
fn show(plan: &RepairPlan, report: Option<&RepairReport>, ui: &Ui) -> Result<(), Failure> {
    if ui.json() {
        return ui.print_json(&Document { schema: SCHEMA, plan: Some(plan), report, undone: None });
    }
    ui.print(|out| {
        for mend in &plan.mends {
            writeln!(out, "{STRONG}{}{STRONG:#}  {DIM}{}{DIM:#}", ui.clean(&mend.subject), mend.codes.join(", "))?;
            writeln!(out, "  mend: {}", ui.clean(&mend.act))?;
            for piece in mend.pieces.iter().filter(|_| ui.verbose()) {
                writeln!(out, "        {}", ui.clean(&piece.path))?;
            }
        }
        for left in &plan.left {
            let style = if left.severity == Severity::Damage { BAD } else { STRONG };
            writeln!(out, "{STRONG}{}{STRONG:#}  {DIM}{}{DIM:#}", ui.clean(&left.subject), left.code)?;
            writeln!(out, "  {style}left{style:#}: {}", ui.clean(&left.needs))?;
        }
        Ok(())
    })
}

fn sum(plan: &RepairPlan) -> String {
    let things = text::count(plan.mends.len(), "thing", "things");
    match plan.left.len() {
        0 => things,
        left => format!("{things}, and leave {left}"),
    }
}
