//! `dockpack copy`.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::args::{CopyArgs, Global, LoadArgs, SaveArgs, ZSTD_LEVEL};
use super::failure::{Exit, Failure};
use super::interrupt;
use super::load::{self, Held, Verb};
use super::run::Place;
use super::save;
use super::ui::Ui;
use crate::driver::Driver;
use crate::error::Error;
use crate::graph;
use crate::ops::load::LoadPlan;
use crate::ops::save::{SavePlan, StoreSource};
use crate::transfer::Source as _;

/// A place that images come from or go to.
#[derive(Debug, Clone)]
pub enum Spot {
    /// A store: its driver, where that is said, and its data root.
    Store(Option<String>, PathBuf),
    /// An archive, as `save -o` and `load -i` call it.
    Archive(PathBuf),
}

impl FromStr for Spot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            _ if text == "-" => Ok(Self::Archive("-".into())),
            Some((_, "")) => Err("nothing stands behind the colon".to_owned()),
            Some(("store", root)) => Ok(match root.split_once('@') {
                Some((driver, root)) if Driver::known(driver).is_some() => {
                    Self::Store(Some(driver.to_owned()), root.into())
                }
                _ => Self::Store(None, root.into()),
            }),
            Some(("archive", file)) => Ok(Self::Archive(file.into())),
            // `save` and `load` know it by its whole name.
            Some(("oci", _)) => Ok(Self::Archive(text.into())),
            _ => Err("it is none of store:[DRIVER@]ROOT, archive:FILE, oci:DIR and -".to_owned()),
        }
    }
}

/// A store, and what talks of it: hints are for that store.
struct Side {
    place: Place,
    ui: Ui,
}

impl Side {
    fn new(driver: Option<&str>, root: &Path, global: &Global) -> Self {
        let driver = driver.map(str::to_owned);
        let global = Global { root: Some(root.to_owned()), driver, ..global.clone() };
        Self { place: Place::of(&global), ui: Ui::new(&global) }
    }

    /// Tells of a failure that this side is to blame for.
    fn tell(&self, result: Result<Exit, Failure>) -> Exit {
        result.unwrap_or_else(|failure| failure.of_copy().report(&self.ui))
    }
}

pub(super) fn copy(args: &CopyArgs, global: &Global) -> Result<Exit, Failure> {
    if global.root.is_some() || global.driver.is_some() {
        let text = "copy names its stores itself, as store:[DRIVER@]ROOT: --root and --driver mean none of them";
        return Err(Error::Usage(text.to_owned()).into());
    }
    match (&args.from, &args.to) {
        (Spot::Store(driver, root), Spot::Store(to_driver, to_root)) => {
            let from = Side::new(driver.as_deref(), root, global);
            let to = Side::new(to_driver.as_deref(), to_root, global);
            Ok(between_stores(args, &from, &to))
        }
        (Spot::Store(driver, root), Spot::Archive(output)) => {
            if args.dry_run {
                let text = "--dry-run shows what a store would get; an archive can be written elsewhere first";
                return Err(Error::Usage(text.to_owned()).into());
            }
            let from = Side::new(driver.as_deref(), root, global);
            let save = SaveArgs {
                refs: args.refs.clone(),
                all: args.refs.is_empty(),
                output: output.clone(),
                partial: false,
                level: ZSTD_LEVEL,
                window: None,
                threads: None,
            };
            Ok(from.tell(save::save(&save, &from.place, &from.ui)))
        }
        (Spot::Archive(input), Spot::Store(driver, root)) => {
            let to = Side::new(driver.as_deref(), root, global);
            let load =
                LoadArgs { refs: args.refs.clone(), input: Some(input.clone()), platform: None, dry_run: args.dry_run };
            Ok(to.tell(load::load(&load, &to.place, &to.ui)))
        }
        (Spot::Archive(_), Spot::Archive(_)) => {
            let text = "one of the two has to be a store: an archive is copied as the file that it is";
            Err(Error::Usage(text.to_owned()).into())
        }
    }
}

/// Copies images of one store straight into another.
fn between_stores(args: &CopyArgs, from: &Side, to: &Side) -> Exit {
    let mut source = match open(&args.refs, from) {
        Ok(source) => source,
        Err(failure) => return from.tell(Err(failure)),
    };
    match take(&mut source, args.dry_run, to) {
        Err(Failure::Error(error @ (Error::Layer { .. } | Error::Source { .. }))) => from.tell(Err(error.into())),
        done => to.tell(done),
    }
}

/// Opens the images: those that are meant, or all.
fn open(refs: &[String], from: &Side) -> Result<StoreSource, Failure> {
    let (store, snapshot) = from.place.look(&from.ui)?;
    let selected = match refs {
        [] => graph::select_all(&snapshot),
        refs => graph::select_images(&snapshot, refs)?,
    };
    interrupt::take();
    Ok(SavePlan::new(&snapshot, store.driver(), &selected)?.open(&store, from.ui.observer())?)
}

fn take(source: &mut StoreSource, is_dry_run: bool, to: &Side) -> Result<Exit, Failure> {
    let metadata = Arc::clone(source.metadata());
    let (images, driver) = (metadata.index.images.clone(), metadata.index.driver.as_deref());
    if is_dry_run {
        let store = load::target(&to.place, driver)?;
        let (plan, _) = LoadPlan::make(&store, &metadata, images)?;
        load::show(&plan, &store, Verb::Copy, &to.ui)?;
        return Ok(Exit::Done);
    }
    let held = Held::take(&to.place, driver, &to.ui)?;
    let done = held.load(source, images, &to.ui);
    let (plan, report) = held.finish(done)?;
    load::say(&plan, report.as_ref(), None, Verb::Copy, &to.ui)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::Spot;

    fn shown(text: &str) -> String {
        match text.parse::<Spot>() {
            Ok(Spot::Store(driver, root)) => format!("{} {}", driver.unwrap_or_default(), root.display()),
            Ok(Spot::Archive(path)) => path.display().to_string(),
            Err(reason) => reason,
        }
    }

    #[test]
    fn spots() {
        assert_eq!(shown("store:/var/lib/docker"), " /var/lib/docker");
        assert_eq!(shown("store:vfs@/var/lib/docker"), "vfs /var/lib/docker");
        assert_eq!(shown("store:/mnt/a@b"), " /mnt/a@b");
        assert_eq!(shown("store:mine@home"), " mine@home");
        assert_eq!(shown("archive:a:b.tar"), "a:b.tar");
        assert_eq!(shown("oci:dir"), "oci:dir");
        assert_eq!(shown("-"), "-");
        assert_eq!(shown("store:"), "nothing stands behind the colon");
        assert!(shown("/var/lib/docker").starts_with("it is none of"));
        assert!(shown("docker://nginx").starts_with("it is none of"));
    }
}
