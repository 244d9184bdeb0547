//! From arguments to an exit code.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;

use super::args::{Cli, Command, Global};
use super::failure::{Exit, Failure};
use super::ui::Ui;
use super::{copy, df, gc, graph, inspect, load, ls, manual, repair, save, verify, why};
use crate::graph::Id;
use crate::ops::inspect::View;
use crate::store::{Configured, Snapshot, Store, Unknown};

/// Runs the command that `args` name; the first is the program's own name.
pub fn run(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ui = Ui::new(&cli.global);
    let exit = dispatch(&cli, &ui).unwrap_or_else(|failure| failure.report(&ui));
    exit.into()
}

/// Prints help, the version, or what is wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    // Whoever reads no more needs no help.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

fn dispatch(cli: &Cli, ui: &Ui) -> Result<Exit, Failure> {
    let place = Place::of(&cli.global);
    match &cli.command {
        Command::Ls(args) => ls::ls(args, &place, ui),
        Command::Inspect(args) => inspect::inspect(args, &place, ui),
        Command::Why(args) => why::why(args, &place, ui),
        Command::Graph(args) => graph::graph(args, &place, ui),
        Command::Df(_) => df::df(&place, ui),
        Command::Save(args) => save::save(args, &place, ui),
        Command::Load(args) => load::load(args, &place, ui),
        Command::Copy(args) => copy::copy(args, &cli.global),
        Command::Gc(args) => gc::gc(args, &place, ui),
        Command::Verify(args) => verify::verify(args, &place, ui),
        Command::Repair(args) => repair::repair(args, &place, ui),
        Command::Completions(args) => manual::completions(args, ui),
        Command::Man(args) => manual::man(args, ui),
    }
}

/// Finds what each of `words` means. One that means nothing is told of, and does not keep the others from being
/// answered: they may come from another command.
pub(super) fn find_all(view: &View<'_>, words: &[String], ui: &Ui) -> (Vec<Id>, Exit) {
    let mut things = Vec::new();
    let mut exit = Exit::Done;
    for word in words {
        match view.find(word) {
            Ok(found) => things.extend(found),
            Err(error) => exit = Failure::from(error).report(ui),
        }
    }
    (things, exit)
}

/// The store that a command works on.
#[derive(Debug)]
pub(super) struct Place {
    root: Option<PathBuf>,
    driver: Option<String>,
}

impl Place {
    pub(super) fn of(global: &Global) -> Self {
        Self { root: global.root.clone(), driver: global.driver.clone() }
    }

    /// Returns the data root: the one that was given, else the one Docker is configured with.
    pub(super) fn root(&self) -> PathBuf {
        self.root.as_deref().map_or_else(|| Configured::read().root(), Path::to_owned)
    }

    /// Returns the graph driver, where one was given.
    pub(super) fn driver(&self) -> Option<&str> {
        self.driver.as_deref()
    }

    /// Opens the store and reads what its files say. Says what cannot be read: a command that only looks goes on.
    pub(super) fn look(&self, ui: &Ui) -> Result<(Store, Snapshot), Failure> {
        let store = self.open(ui)?;
        let snapshot = store.snapshot()?;
        let mut unknown = snapshot.unreadable.iter().filter(|unreadable| unreadable.what != Unknown::Distribution);
        if let Some(first) = unknown.next() {
            let more = match unknown.count() {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            ui.warn(&format!("cannot read {}: {}{more}", first.path, first.reason));
        }
        Ok((store, snapshot))
    }

    /// Opens the store, and says which others are in the same data root.
    pub(super) fn open(&self, ui: &Ui) -> Result<Store, Failure> {
        let store = Store::open(&self.root(), self.driver())?;
        for name in store.remapped() {
            let root = store.path().join(name);
            ui.note(&format!("a daemon with user namespaces has a store of its own in it: --root {}", root.display()));
        }
        if let Some(found) = store.containerd() {
            ui.note(&format!("containerd's image store is in this root too ({found}), and is not looked at"));
        }
        Ok(store)
    }
}
