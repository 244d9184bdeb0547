//! `dockpack gc`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::args::GcArgs;
use super::failure::{Exit, Failure};
use super::interrupt;
use super::recovered::{self, say_skipped};
use super::run::Place;
use super::table::Table;
use super::text;
use super::ui::Ui;
use crate::error::{Error, ParseError};
use crate::fsx::{OutputFile, Time, open_input};
use crate::ops::gc::{GcKind, GcPlan, GcReport, KeptWhy, Options};
use crate::ops::recover;
use crate::ops::transactions::{Which, hold, purge, undo};
use crate::ops::trash::{Kind, PurgeReport, Skipped, UndoReport};
use crate::store::{SNAPSHOTTERS, Store, WriteLock};

/// Number of the documents' form.
const SCHEMA: u32 = 1;
/// Most images of another store that are named.
const NAMES_SHOWN: usize = 10;
/// Longest plan that is read.
const PLAN_LIMIT: u64 = 1 << 30;

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a GcPlan>,
    /// What works on the store: what the plan shows may be in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_use_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a GcReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    undone: Option<&'a UndoReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purged: Option<&'a PurgeReport>,
}

impl Document<'_> {
    const NOTHING: Self =
        Self { schema: SCHEMA, plan: None, in_use_by: None, report: None, undone: None, purged: None };
}

pub(super) fn gc(args: &GcArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let store = match place.driver().filter(|driver| SNAPSHOTTERS.contains(driver)) {
        Some(snapshotter) => Store::open_beside_containerd(&place.root(), snapshotter)?,
        None => place.open(ui)?,
    };
    if let Some(name) = &args.undo {
        return put_back(&store, name.as_deref(), ui);
    }
    if args.purge && !args.yes && args.apply.is_none() {
        return empty(&store, ui);
    }
    if let Some(path) = &args.apply {
        let plan = read_plan(path)?;
        return remove(&store, args, ui, |store, lock| plan.check(store, lock, ui.observer()));
    }
    let options = options(args);
    if args.dry_run || args.plan.is_some() {
        return look(&store, args, &options, ui);
    }
    if !args.yes && !ask(&store, args, &options, ui)? {
        return Ok(Exit::Done);
    }
    remove(&store, args, ui, |store, _| Ok((GcPlan::make(store, &options, ui.observer())?, Vec::new())))
}

fn options(args: &GcArgs) -> Options {
    let before = args.older_than.map(|age| Time { seconds: ago(age).as_second(), nanos: 0 });
    Options {
        only: args.only.iter().copied().collect(),
        skip: args.skip.iter().copied().collect(),
        before,
        also: args.also.iter().map(|path| path.trim_matches('/').to_owned()).collect(),
    }
}

/// Returns the time that was so long ago.
fn ago(age: Duration) -> Timestamp {
    Timestamp::now().checked_sub(age.min(Duration::from_secs(1 << 36))).unwrap_or(Timestamp::MIN)
}

/// Shows the plan, or writes it to a file.
fn look(store: &Store, args: &GcArgs, options: &Options, ui: &Ui) -> Result<Exit, Failure> {
    let holder = WriteLock::holder(store);
    let plan = GcPlan::make(store, options, ui.observer())?;
    if let Some(path) = &args.plan {
        write_plan(path, &plan, ui)?;
    }
    if ui.json() {
        if args.plan.as_deref() != Some(Path::new("-")) {
            ui.print_json(&Document { plan: Some(&plan), in_use_by: holder.as_deref(), ..Document::NOTHING })?;
        }
    } else if args.plan.is_none() {
        show(&plan, ui)?;
    }
    tell_images(&plan, ui);
    if let Some(holder) = holder {
        ui.note(&format!("{} works on the store: what is shown may be in flight", ui.clean(&holder)));
    }
    ui.sum_up("would remove", &sum(&plan));
    Ok(Exit::Done)
}

/// Shows the plan and asks whether to go on. Asking needs no lock: everything is looked at again.
fn ask(store: &Store, args: &GcArgs, options: &Options, ui: &Ui) -> Result<bool, Failure> {
    ui.expect_someone()?;
    if let Some(holder) = WriteLock::holder(store) {
        return Err(Error::InUse { root: store.path().to_owned(), holder: Some(holder) }.into());
    }
    let plan = GcPlan::make(store, options, ui.observer())?;
    show(&plan, ui)?;
    if plan.entries.is_empty() {
        ui.sum_up("would remove", "nothing");
        return Ok(false);
    }
    let sum = sum(&plan);
    tell_images(&plan, ui);
    ui.ask(&match args.keep.is_zero() {
        true => format!("Delete {sum}, for good{}", but_for_written(&plan)),
        false => format!("Move {sum} to the trash (`dockpack gc --undo` brings it back)"),
    })
}

/// Names the images that go with the store of another graph driver.
fn tell_images(plan: &GcPlan, ui: &Ui) {
    let goes = |path: &String| plan.parts().any(|part| part.path == *path);
    for stale in plan.stale.iter().filter(|stale| !stale.images.is_empty() && stale.paths.iter().any(goes)) {
        let count = text::count(stale.images.len(), "image has a name", "images have a name");
        let names: Vec<_> = stale.images.iter().take(NAMES_SHOWN).map(|name| ui.clean(name)).collect();
        let more = match stale.images.len().saturating_sub(NAMES_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        ui.warn(&format!("in the store of {} {count}: {}{more}", stale.driver, names.join(", ")));
    }
}

/// Says of a plan that deletes what of it is not deleted.
fn but_for_written(plan: &GcPlan) -> &'static str {
    match plan.entries.iter().any(|entry| entry.kind.is_written()) {
        true => " (what containers wrote goes to the trash)",
        false => "",
    }
}

/// Takes the lock, finishes what was interrupted, plans, and removes.
fn remove(
    store: &Store,
    args: &GcArgs,
    ui: &Ui,
    plan: impl FnOnce(&Store, &WriteLock) -> Result<(GcPlan, Vec<Skipped>), Error>,
) -> Result<Exit, Failure> {
    let lock = WriteLock::take(store)?;
    let (plan, skipped) = match recover(store, &lock, ui.observer()).and_then(|done| {
        recovered::tell(&done, ui);
        plan(store, &lock)
    }) {
        Ok(planned) => planned,
        Err(error) => {
            lock.abandon()?;
            return Err(error.into());
        }
    };
    if args.yes || args.apply.is_some() {
        // Where somebody was asked, that was told before.
        tell_images(&plan, ui);
    }
    let keep = !args.purge && !args.keep.is_zero();
    let which = if args.purge { Which::All } else { Which::Before(ago(args.keep)) };
    if !keep && !plan.entries.is_empty() {
        ui.note(&format!("what is removed is deleted at once, for good{}", but_for_written(&plan)));
    }
    interrupt::take();
    let is_idle = plan.entries.is_empty();
    // First what is older: that may make the room in which to work, and what goes now is not yet to be deleted.
    let done = purge(store, &lock, which, ui.observer()).and_then(|purged| match is_idle {
        true => Ok((GcReport::default(), purged)),
        false => Ok((plan.clone().execute(store, &lock, keep, ui.observer())?, purged)),
    });
    match &done {
        Ok((_, purged)) if is_idle && purged.transactions.is_empty() => lock.abandon()?,
        _ => lock.release(),
    }
    let (mut report, purged) = done?;
    tell_purged(&purged, ui);
    report.skipped.splice(0..0, skipped);
    report.skipped.extend(purged.skipped);
    tell(&plan, &report, args.keep, ui)
}

/// Says what was deleted of what earlier runs had removed.
fn tell_purged(purged: &PurgeReport, ui: &Ui) {
    if !purged.transactions.is_empty() {
        let removals = text::count(purged.transactions.len(), "earlier removal", "earlier removals");
        ui.note(&format!("deleted {removals} from the trash, {}", text::size(purged.disk)));
    }
}

/// Says what was done, and what was not.
fn tell(plan: &GcPlan, report: &GcReport, keep: Duration, ui: &Ui) -> Result<Exit, Failure> {
    if ui.json() {
        ui.print_json(&Document { plan: Some(plan), report: Some(report), ..Document::NOTHING })?;
    } else {
        show(plan, ui)?;
    }
    say_skipped(&report.skipped, ui);
    let pieces = text::count(report.removed, "piece of garbage", "pieces of garbage");
    let size = text::size(report.disk);
    match (report.removed, report.kept) {
        (0, _) if report.written.is_some() => {}
        (0, _) => ui.sum_up("removed", "nothing"),
        (_, true) => {
            let keep = text::span(keep);
            ui.sum_up("moved to the trash", &format!("{pieces}, {size}, {:.1} s", report.seconds));
            ui.note(&format!(
                "`dockpack gc --undo` brings it back; `dockpack gc --purge` frees its space, as does a gc in {keep}"
            ));
        }
        (_, false) => ui.sum_up("removed", &format!("{pieces}, {size}, {:.1} s", report.seconds)),
    }
    if let Some(written) = &report.written {
        let pieces = text::count(written.removed, "piece of what containers wrote", "pieces of what containers wrote");
        ui.sum_up("moved to the trash", &format!("{pieces}, {}", text::size(written.disk)));
        ui.note("`dockpack gc --undo` brings it back; `dockpack gc --purge` deletes it");
    }
    let trouble = !report.skipped.is_empty() || plan.kept.iter().any(|kept| kept.why.is_trouble());
    Ok(if trouble { Exit::Failed } else { Exit::Done })
}

fn put_back(store: &Store, name: Option<&str>, ui: &Ui) -> Result<Exit, Failure> {
    let lock = WriteLock::take(store)?;
    let recovered = hold(store, &lock).and_then(|()| recover(store, &lock, ui.observer()));
    let done = recovered.and_then(|finished| {
        recovered::tell(&finished, ui);
        undo(store, &lock, Kind::Gc, name)
    });
    lock.release();
    let report = done?;
    if ui.json() {
        ui.print_json(&Document { undone: Some(&report), ..Document::NOTHING })?;
    }
    say_skipped(&report.skipped, ui);
    let pieces = text::count(report.restored, "piece of garbage", "pieces of garbage");
    ui.sum_up("put back", &format!("{pieces} of {}", report.transaction));
    Ok(if report.skipped.is_empty() { Exit::Done } else { Exit::Failed })
}

fn empty(store: &Store, ui: &Ui) -> Result<Exit, Failure> {
    let lock = WriteLock::take(store)?;
    let done = recover(store, &lock, ui.observer()).and_then(|finished| {
        recovered::tell(&finished, ui);
        interrupt::take();
        purge(store, &lock, Which::All, ui.observer())
    });
    lock.release();
    let report = done?;
    if ui.json() {
        ui.print_json(&Document { purged: Some(&report), ..Document::NOTHING })?;
    }
    say_skipped(&report.skipped, ui);
    let removals = text::count(report.transactions.len(), "removal", "removals");
    ui.sum_up("emptied the trash", &format!("{removals}, {}", text::size(report.disk)));
    Ok(if report.skipped.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Shows a plan: by kind, or with -v each piece.
fn show(plan: &GcPlan, ui: &Ui) -> Result<(), Failure> {
    let mut kinds: BTreeMap<GcKind, (usize, u64)> = BTreeMap::new();
    for entry in &plan.entries {
        let (count, disk) = kinds.entry(entry.kind).or_default();
        *count += 1;
        *disk += entry.disk;
    }
    if ui.verbose() && !plan.entries.is_empty() {
        let mut table = Table::new(&["KIND", "SIZE", "MODIFIED", "PATH"]);
        for entry in &plan.entries {
            let modified = Timestamp::from_second(entry.modified.seconds).map(|time| time.to_string());
            let modified = text::ago(modified.ok().as_deref(), Timestamp::now());
            table.row([entry.kind.to_string(), text::size(entry.disk), modified, ui.clean(&entry.path).into_owned()]);
        }
        ui.print_text(&format!("{}\n", table.text()))?;
    }
    if !kinds.is_empty() {
        let mut table = Table::new(&["KIND", "COUNT", "SIZE"]);
        for (kind, (count, disk)) in &kinds {
            table.row([kind.to_string(), count.to_string(), text::size(*disk)]);
        }
        table.row(["total".to_owned(), plan.entries.len().to_string(), text::size(plan.disk())]);
        ui.print_text(&table.text())?;
    }
    show_kept(plan, ui);
    Ok(())
}

/// Says what is garbage and stays: what is odd, each; else how much of each kind.
fn show_kept(plan: &GcPlan, ui: &Ui) {
    let mut quiet: BTreeMap<(GcKind, &str), usize> = BTreeMap::new();
    for kept in &plan.kept {
        let reason = match &kept.why {
            KeptWhy::Unknown(why) => format!("whether it is garbage cannot be told: {why}"),
            KeptWhy::Odd(why) => why.clone(),
            KeptWhy::InUse(how) => format!("it is {how}"),
            KeptWhy::Foreign => {
                let path = ui.clean(&kept.path);
                ui.note(&format!("keeping {path}: no engine gives such a name (--also {path})"));
                continue;
            }
            KeptWhy::NotSelected => {
                *quiet.entry((kept.kind, "not asked for")).or_default() += 1;
                continue;
            }
            KeptWhy::TooYoung => {
                *quiet.entry((kept.kind, "too young")).or_default() += 1;
                continue;
            }
            KeptWhy::Needed(_) => {
                *quiet.entry((kept.kind, "needed by what stays")).or_default() += 1;
                continue;
            }
        };
        ui.warn(&format!("keeping {}: {}", ui.clean(&kept.path), ui.clean(&reason)));
    }
    for ((kind, why), count) in quiet {
        let hint =
            if why == "not asked for" && !kind.is_default() { format!(" (--only {kind})") } else { String::new() };
        ui.note(&format!("keeping {count} of {kind}: {why}{hint}"));
    }
    for stale in &plan.stale {
        match &stale.used_by {
            Some(user) => ui.note(&format!("{} is here too: {}", stale.driver, ui.clean(user))),
            None if plan.entries.iter().any(|entry| entry.kind == GcKind::StaleDriver) => {}
            None => ui.note(&format!("{} is of another graph driver (--only stale-driver)", stale.paths.join(" and "))),
        }
    }
}

fn sum(plan: &GcPlan) -> String {
    let pieces = text::count(plan.entries.len(), "piece of garbage", "pieces of garbage");
    format!("{pieces}, {}", text::size(plan.disk()))
}

fn write_plan(path: &Path, plan: &GcPlan, ui: &Ui) -> Result<(), Failure> {
    if path == Path::new("-") {
        return ui.print_json(plan);
    }
    let mut file = OutputFile::create(path)?;
    let fail = |source: io::Error| Error::Output { name: path.display().to_string(), source };
    let mut text = serde_json::to_vec_pretty(plan).map_err(|error| fail(error.into()))?;
    text.push(b'\n');
    file.write_all(&text).map_err(fail)?;
    Ok(file.publish()?)
}

fn read_plan(path: &Path) -> Result<GcPlan, Failure> {
    let mut text = Vec::new();
    let file = open_input(path)?;
    io::Read::read_to_end(&mut io::Read::take(file, PLAN_LIMIT), &mut text)
        .map_err(|error| crate::error::FsError::new("read", path, error))?;
    let parsed = serde_json::from_slice(&text);
    let fail =
        |error| Error::Parse { path: path.to_owned(), source: ParseError::because("a plan of dockpack gc", error) };
    Ok(parsed.map_err(fail)?)
}
