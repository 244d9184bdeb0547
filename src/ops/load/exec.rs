//! Carries a load out.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use crate::crash::crash_point;
use crate::driver::{Build, Driver};
use crate::error::{Error, FsError, Result};
use crate::fsx::Dir;
use crate::id::{CacheId, ChainId};
use crate::model::{ImageRecord, Index, Metadata};
use crate::progress::{Event, Observer};
use crate::store::{Snapshot, Store, Unknown, WriteLock, places};
use crate::transfer::Source;

use super::above::Above;
use super::plan::{LoadPlan, Target};
use super::publish::Publish;
use super::refuse::refuse;
use super::stage::{SPOOL, Stage};

/// Where dockpack keeps what it is working on, below the data root. dockerd looks at none of it.
const WORK: &str = ".dockpack";
/// The staging directory of a load, below [`WORK`].
const LOAD: &str = "load";
/// The plan of a load that is staged, in the staging directory: whoever finds it finishes the load.
const JOURNAL: &str = "journal.json";
/// The journal before it is valid.
const NEW_JOURNAL: &str = "journal.new";
/// Room for what is written when all layers are in their place, in bytes: directory blocks and small files.
const RESERVE: u64 = 1 << 20;
/// The same for each layer.
const RESERVE_PER_LAYER: u64 = 32 << 10;
/// Pause between two times that what was written goes to the disk.
const WRITE_BACK: Duration = Duration::from_millis(200);

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LoadReport {
    /// Number of images.
    pub images: usize,
    /// Number of layers that were built.
    pub layers: usize,
    /// Number of layers that were there.
    pub layers_present: usize,
    /// Bytes of the tars of the layers that were built.
    pub bytes: u64,
    /// Time it took, in seconds.
    pub seconds: f64,
}

/// Makes the directory for what of an archive has to be kept on disk before it can be loaded. It belongs to the load
/// that is carried out next; [`discard`] takes it away where there is none.
///
/// # Errors
/// The file system refuses or is full.
pub fn spool(store: &Store, _: &WriteLock) -> Result<Dir> {
    let work = store.root().ensure_dir(WORK, 0o700)?;
    // Crash here: a staging directory without a journal, which the next run takes away.
    crash_point("foreign:spool");
    Ok(work.ensure_dir(LOAD, 0o700)?.ensure_dir(SPOOL, 0o700)?)
}

/// Takes away what was kept for a load that is not carried out. One that only has to be finished stays.
///
/// # Errors
/// The file system refuses.
pub fn discard(store: &Store, _: &WriteLock) -> Result<()> {
    match store.root().dir(format!("{WORK}/{LOAD}")) {
        Err(error) if error.is_not_found() => Ok(()),
        staging => match staging?.find(JOURNAL)? {
            None => clean_up(store.root()),
            Some(_) => Ok(()),
        },
    }
}

impl LoadPlan {
    /// Plans to bring `images`, chosen by [`super::select`], into `store`.
    ///
    /// # Errors
    /// The archive's index makes no sense, or the store cannot be read.
    pub fn make(store: &Store, metadata: &Metadata, images: Vec<ImageRecord>) -> Result<(Self, Snapshot)> {
        let driver = store.driver();
        driver.builder()?;
        let snapshot = store.snapshot()?;
        for unreadable in &snapshot.unreadable {
            if matches!(unreadable.what, Unknown::References | Unknown::Images | Unknown::Layers) {
                return Err(Error::Unreadable {
                    path: store.path().join(&unreadable.path),
                    reason: unreadable.reason.clone(),
                });
            }
        }
        let references = store.image().map(|image| image.find(places::REFERENCES)).transpose()?.flatten();
        refuse(store.path(), driver.name(), &snapshot, references.is_some())?;
        let target = survey(store, &snapshot, &metadata.index)?;
        let mut plan = Self::new(&metadata.index, images, driver, &snapshot, target)?;
        plan.note_displaced(store, &snapshot)?;
        Ok((plan, snapshot))
    }

    /// Carries the plan out. On an error before the journal is written the store is as it was.
    ///
    /// # Errors
    /// The archive is damaged, or the file system refuses or is full.
    pub fn execute(
        self,
        store: &Store,
        snapshot: &Snapshot,
        lock: &WriteLock,
        source: &mut dyn Source,
        observer: &dyn Observer,
    ) -> Result<LoadReport> {
        let begun = Instant::now();
        let build = store.driver().builder()?;
        let root = store.root();
        observer.on(Event::Begin { what: "loading", total: Some(self.bytes()) });
        let staging = root.ensure_dir(WORK, 0o700)?.ensure_dir(LOAD, 0o700)?;
        let staged = Staging { plan: &self, store, snapshot, build, dir: &staging, observer }.fill(source);
        if let Err(error) = staged {
            clean_up(root)?;
            return Err(match error {
                _ if observer.wants_stop() => Error::Stopped,
                Error::Fs(source) if source.is_full() => Error::NoRoom {
                    root: store.path().to_owned(),
                    needs: self.bytes(),
                    free: root.free()?,
                    free_inodes: root.free_inodes()?,
                    source,
                },
                error => error,
            });
        }
        observer.on(Event::End);
        finish(root, &staging, &self, store.driver(), lock).map_err(|error| Error::Unfinished(Box::new(error)))?;
        Ok(LoadReport {
            images: self.images.len(),
            layers: self.layers.len(),
            layers_present: self.layers_present.len(),
            bytes: self.bytes(),
            seconds: begun.elapsed().as_secs_f64(),
        })
    }
}

/// What the staging directory is filled from.
struct Staging<'a> {
    plan: &'a LoadPlan,
    store: &'a Store,
    snapshot: &'a Snapshot,
    build: &'static dyn Build,
    dir: &'a Dir,
    observer: &'a dyn Observer,
}

impl Staging<'_> {
    /// Makes everything in the staging directory, proves all that it reads of the archive, and makes it durable.
    fn fill(&self, source: &mut dyn Source) -> Result<()> {
        one_mount(self.store)?;
        self.store.namespace()?;
        self.build.takes(self.store.root())?;
        self.configs(source.metadata())?;
        let stage = Stage::new(self.plan, self.build, self.dir, self.store, self.snapshot, self.observer)?;
        write_back(self.dir, || stage.run(source))?;
        // Crash here: the store is as it was, with a staging directory that the next run takes away.
        crash_point("load:staged");
        self.dir.remove_tree(SPOOL)?;
        self.dir.reserve("reserve", RESERVE + RESERVE_PER_LAYER * self.plan.layers.len() as u64)?;
        let journal = serde_json::to_vec(self.plan).expect("because a plan has only text keys");
        self.dir.new_file(NEW_JOURNAL, &journal, 0o600)?;
        self.dir.sync_file_system()?;
        self.dir.remove_file("reserve")?;
        // Crash here: as above; a journal under another name is none.
        crash_point("load:durable");
        Ok(())
    }

    fn configs(&self, metadata: &Metadata) -> Result<()> {
        let configs = self.dir.make_dir("configs", 0o700)?;
        for image in self.plan.images.iter().filter(|image| !self.plan.images_present.contains(&image.id)) {
            let config = metadata.blobs.get(&image.id.0).expect("because metadata is proved to have each");
            configs.new_file(&image.id.hex(), config, 0o600)?;
        }
        Ok(())
    }
}

/// Does `work`, while what it writes goes to the disk: the processor and the disk are then busy at the same time, and
/// the sync at the end has little to wait for.
fn write_back(dir: &Dir, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let (at_work, end) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            while end.recv_timeout(WRITE_BACK) == Err(RecvTimeoutError::Timeout) {
                dir.sync_file_system()?;
            }
            Ok(())
        });
        let done = work();
        drop(at_work);
        // An error is told of once: that the sync at the end finds none says nothing then.
        let written: Result<(), FsError> = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done?;
        Ok(written?)
    })
}

/// Makes the journal valid and publishes.
fn finish(root: &Dir, staging: &Dir, plan: &LoadPlan, driver: &'static Driver, lock: &WriteLock) -> Result<()> {
    if staging.find(JOURNAL)?.is_none() {
        staging.rename(NEW_JOURNAL, staging, JOURNAL)?;
        staging.sync()?;
    }
    // Crash here: everything is durable; the next run publishes it.
    crash_point("load:journal");
    Publish::new(root, staging, plan, driver)?.run(lock)?;
    // The journal goes first: what is left of the staging directory is then only garbage.
    staging.remove_file(JOURNAL)?;
    staging.sync()?;
    // Crash here: the load is done; the next run takes the staging directory away.
    crash_point("load:done");
    clean_up(root)
}

/// Finishes a load that was interrupted, or takes away what it had staged. Returns what it finished.
///
/// # Errors
/// The file system refuses, or the journal cannot be read.
pub(crate) fn recover(store: &Store, lock: &WriteLock) -> Result<Option<LoadPlan>> {
    let root = store.root();
    let Some(staging) = FsError::found(root.dir(format!("{WORK}/{LOAD}")))? else { return Ok(None) };
    let Some(bytes) = FsError::found(staging.read(JOURNAL, 1 << 30))? else {
        clean_up(root)?;
        return Ok(None);
    };
    let plan: LoadPlan = serde_json::from_slice(&bytes).map_err(|error| Error::Parse {
        path: staging.shown(JOURNAL),
        source: crate::error::ParseError::because("the journal of a load", error),
    })?;
    finish(root, &staging, &plan, Driver::named(&plan.driver), lock)?;
    Ok(Some(plan))
}

/// Takes the staging directory away.
fn clean_up(root: &Dir) -> Result<()> {
    let work = root.dir(WORK)?;
    work.remove_tree(LOAD)?;
    if work.entries()?.is_empty() {
        root.remove_dir(WORK)?;
    }
    Ok(())
}

/// Renames do not cross mounts; not even where both are of one file system, as when a killed daemon leaves its home
/// mounted on itself.
fn one_mount(store: &Store) -> Result<()> {
    for name in [store.driver().name().to_owned(), places::records(store.driver().name())] {
        if store.root().dir(&name).is_err_and(|error| error.is_other_mount()) {
            let error = std::io::Error::other("it is on another mount than the data root");
            return Err(FsError::new("load into", store.path().join(name), error).into());
        }
    }
    Ok(())
}

/// Looks which layers of the target are whole and which names are taken.
fn survey(store: &Store, snapshot: &Snapshot, index: &Index) -> Result<Target> {
    let driver = store.driver();
    let mut target = Target {
        has_short_names: driver.has_short_names(),
        is_rootless: store.root().is_rootless(),
        ..Target::default()
    };
    let own = driver.home_dirs().iter().map(|(name, _)| name.as_bytes().to_vec());
    let there = store.dirs().map(Dir::entries).transpose()?.unwrap_or_default().into_iter().map(|entry| entry.name);
    target.cache_ids = own.chain(there).filter_map(|name| CacheId::parse(&name).ok()).collect();
    let Some(home) = store.home() else { return Ok(target) };
    let named = snapshot
        .driver_dirs
        .keys()
        .chain(snapshot.layers.values().map(|layer| &layer.cache_id))
        .chain(snapshot.broken_layers.values().filter_map(|layer| layer.cache_id.as_ref()))
        .chain(snapshot.mounts.values().flat_map(|mount| mount.mount_id.iter().chain(&mount.init_id)))
        .chain(snapshot.strays.iter().filter_map(|stray| stray.cache_id.as_ref()));
    target.cache_ids.extend(named.cloned());
    target.links = driver.taken_links(home)?;
    let Some(dirs) = store.dirs() else { return Ok(target) };
    let faults: Vec<(ChainId, bool)> = snapshot
        .layers
        .par_iter()
        .map(|(chain, layer)| {
            Ok((*chain, is_whole(dirs, driver, &layer.cache_id, layer.parent.is_some())? && layer.has_tar_split))
        })
        .collect::<Result<_, FsError>>()?;
    target.is_early = is_early(dirs, driver, snapshot)?;
    let sound: BTreeSet<ChainId> = faults.into_iter().filter_map(|(chain, whole)| whole.then_some(chain)).collect();
    for chain in &sound {
        let mut below = Some(*chain);
        let mut whole = true;
        while let Some(at) = below {
            whole &= sound.contains(&at);
            below = snapshot.layers.get(&at).and_then(|layer| layer.parent).filter(|_| whole);
        }
        if whole {
            target.whole.insert(*chain);
        }
    }
    if driver.has_short_names() {
        target.above = Above::read(home, snapshot, index, &target.whole)?;
        // Nothing else gets them.
        target.links.extend(target.above.keeps.values().cloned());
    }
    Ok(target)
}

/// Tells whether every layer on top of another has a directory to be mounted at, as only Docker 17.03 to 17.09 keep it.
pub(in crate::ops) fn is_early(dirs: &Dir, driver: &'static Driver, snapshot: &Snapshot) -> Result<bool, FsError> {
    let mut layers = snapshot.layers.values().filter(|layer| layer.parent.is_some()).peekable();
    if layers.peek().is_none() {
        return Ok(false);
    }
    for layer in layers {
        let has_it = match dirs.dir(layer.cache_id.as_str()) {
            Err(error) if error.is_not_found() => true,
            dir => driver.read.has_mount_point(&dir?)?,
        };
        if !has_it {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_whole(dirs: &Dir, driver: &'static Driver, id: &CacheId, has_parent: bool) -> Result<bool, FsError> {
    match dirs.dir(id.as_str()) {
        Err(error) if error.is_not_found() => Ok(false),
        layer => Ok(driver.read.fault(dirs, &layer?, has_parent)?.is_none()),
    }
}
