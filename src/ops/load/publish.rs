//! Renames what is staged into its place. Every step can be done again: a crash is finished by doing all of them.

use crate::crash::crash_point;
use crate::driver::{Build, Driver};
use crate::error::{Error, FsError, Result};
use crate::fsx::{Dir, Kind};
use crate::id::{ChainId, Sha256};
use crate::store::{WriteLock, places, repositories};

use super::above::leads_nowhere;
use super::build::{DRIVER_DIR, RECORD_DIR};
use super::displaced::CACHE_ID;
use super::plan::{LoadPlan, PlannedLayer};

/// Name within a staged layer of a short name that is made anew.
const LINK: &str = "link";

/// Publishes a load whose staging directory is complete, proved and durable.
pub(super) struct Publish<'a> {
    root: &'a Dir,
    staging: &'a Dir,
    plan: &'a LoadPlan,
    driver: &'static Driver,
    build: &'static dyn Build,
}

impl<'a> Publish<'a> {
    /// # Errors
    /// Layers of the driver cannot be built.
    pub(super) fn new(root: &'a Dir, staging: &'a Dir, plan: &'a LoadPlan, driver: &'static Driver) -> Result<Self> {
        Ok(Self { root, staging, plan, driver, build: driver.builder()? })
    }

    /// Does all steps. The lock is held by the caller for as long as this runs.
    pub(super) fn run(&self, _: &WriteLock) -> Result<()> {
        let places = Places::make(self.root, self.driver)?;
        // Crash here: empty directories, as a daemon makes them at its first start.
        crash_point("load:skeleton");
        self.driver_dirs(&places)?;
        // Crash here: driver directories that nothing names; the next load goes on, and until then gc knows them
        // by the journal.
        crash_point("load:driver-dirs");
        self.records(&places)?;
        // Crash here: whole layers without an image. dockerd loads and ignores them.
        crash_point("load:layers");
        self.images(&places)?;
        // Crash here: images without a name, whose layers are all there.
        crash_point("load:images");
        self.references(&places)?;
        // Crash here: all is there; the next run finds nothing left to do but to clean up.
        crash_point("load:references");
        Ok(())
    }

    fn driver_dirs(&self, places: &Places) -> Result<()> {
        for layer in &self.plan.layers {
            let record = &layer.record;
            let Some(staged) = self.staged(record.chain)? else { continue };
            if staged.find(DRIVER_DIR)?.is_none() {
                continue;
            }
            for (path, target) in self.driver.home_links(&record.cache_id, &record.facts) {
                lead(&places.home, &staged, &path, target.as_bytes())?;
            }
            // Crash here: a short name that leads nowhere yet.
            crash_point("load:link");
            staged.rename(DRIVER_DIR, &places.dirs, record.cache_id.as_str())?;
            // Crash here: as after all of them.
            crash_point("load:driver-dir");
            if let Some(parent) = record.parent.filter(|parent| self.plan.layers_present.contains(parent)) {
                self.mark_present_parent(places, parent)?;
            }
        }
        for (name, _) in self.driver.home_dirs() {
            places.home.dir(name)?.sync()?;
        }
        Ok(places.home.sync()?)
    }

    /// Marks a layer that was there before as having a child now.
    fn mark_present_parent(&self, places: &Places, parent: ChainId) -> Result<()> {
        let cache_id = places.layers.read(format!("{}/cache-id", parent.hex()), 4096)?;
        let layer = places.dirs.dir(cache_id.trim_ascii())?;
        self.build.mark_parent(&layer)?;
        Ok(layer.sync()?)
    }

    fn records(&self, places: &Places) -> Result<()> {
        for layer in &self.plan.layers {
            let Some(staged) = self.staged(layer.record.chain)? else { continue };
            if staged.find(RECORD_DIR)?.is_none() {
                continue;
            }
            let name = layer.record.chain.hex();
            if places.layers.find(&name)?.is_some() {
                if !layer.displaces || !self.plan.makes_room(layer.record.chain, &places.layers)? {
                    // A daemon that ran after a crash has made this layer itself: its own stays.
                    continue;
                }
                displace(places, layer)?;
            }
            staged.rename(RECORD_DIR, &places.layers, &name)?;
            // Crash here: a whole layer whose parents are there.
            crash_point("load:layer");
        }
        Ok(places.layers.sync()?)
    }

    fn images(&self, places: &Places) -> Result<()> {
        for image in &self.plan.images {
            let name = image.id.hex();
            let configs = self.staging.dir("configs")?;
            if configs.find(&name)?.is_some() {
                configs.replace(&name, &places.contents, &name)?;
            }
            if self.plan.images_present.contains(&image.id) {
                continue;
            }
            let parent = image.parent.map(|parent| parent.to_string());
            let files = [("parent", parent.as_deref()), ("lastUpdated", image.last_updated.as_deref())];
            for (file, text) in files.iter().filter_map(|(file, text)| Some((file, (*text)?))) {
                let dir = places.metadata.ensure_dir(&name, 0o700)?;
                dir.write_file(file, text.as_bytes(), 0o600)?;
                dir.sync()?;
            }
        }
        for (image, parent) in &self.plan.parents {
            let dir = places.metadata.ensure_dir(image.hex(), 0o700)?;
            dir.write_file("parent", parent.to_string().as_bytes(), 0o600)?;
            dir.sync()?;
        }
        places.contents.sync()?;
        Ok(places.metadata.sync()?)
    }

    /// The commit: from here on the images have their names.
    fn references(&self, places: &Places) -> Result<()> {
        let name = places::REFERENCES;
        let old = FsError::found(places.image.read(name, repositories::LIMIT))?;
        let parse = |source| Error::Parse { path: places.image.shown(name), source };
        let now = repositories::parse(old.as_deref().unwrap_or(b"{}")).map_err(parse)?.valid;
        // After a crash a person may have moved a tag: what is not as it was when this was planned stays.
        let moved = |reference: &str, was| now.get(reference).copied() != was;
        let new = self.plan.references.iter().filter(|one| !moved(&one.reference, one.was));
        let text = repositories::merge(old.as_deref(), new.map(|one| (one.reference.as_str(), one.image)));
        let text = text.map_err(parse)?;
        if old.as_deref() != Some(&text[..]) {
            places.image.write_file(name, &text, 0o600)?;
        }
        Ok(places.image.sync()?)
    }

    fn staged(&self, chain: ChainId) -> Result<Option<Dir>, FsError> {
        FsError::found(self.staging.dir(format!("layers/{}", chain.hex())))
    }
}

/// Makes a short name lead to a layer. One that leads nowhere is that of the same layer, whose directory was lost.
fn lead(home: &Dir, staged: &Dir, path: &str, target: &[u8]) -> Result<(), FsError> {
    let (dir, name) = home.parent_of(path.as_bytes())?;
    let Some(found) = dir.find(name)? else { return dir.make_symlink(name, target) };
    if found.kind != Kind::Symlink || !leads_nowhere(home, &dir.read_link(name)?)? || dir.read_link(name)? == target {
        return Ok(());
    }
    if staged.find(LINK)?.is_none() {
        staged.make_symlink(LINK, target)?;
    }
    // Crash here: the old name leads nowhere, as before.
    crash_point("load:link");
    staged.replace(LINK, &dir, name)
}

/// Moves a broken entry of layerdb aside, under the name by which dockerd takes it for a leftover. Its
/// `cache-id` goes first: dockerd would remove the directory it names.
fn displace(places: &Places, layer: &PlannedLayer) -> Result<(), FsError> {
    let name = layer.record.chain.hex();
    let old = places.layers.dir(&name)?;
    if old.find(CACHE_ID)?.is_some() {
        old.remove_file(CACHE_ID)?;
    }
    // Crash here: the entry is as broken as it was.
    crash_point("load:displace");
    let aside = format!("{name}-{}-removing", Sha256::of(layer.record.cache_id.as_str().as_bytes()).hex());
    places.layers.remove_tree(&aside)?;
    places.layers.rename(&name, &places.layers, &aside)
}

/// The directories that things are renamed into.
struct Places {
    home: Dir,
    /// Where in the home the driver directories lie.
    dirs: Dir,
    image: Dir,
    layers: Dir,
    contents: Dir,
    metadata: Dir,
}

impl Places {
    /// Opens them, and makes those that are missing, with the modes that dockerd gives them.
    fn make(root: &Dir, driver: &'static Driver) -> Result<Self, FsError> {
        let image = root.ensure_dir("image", 0o700)?.ensure_dir(driver.name(), 0o700)?;
        let home = root.ensure_dir(driver.name(), 0o710)?;
        for (name, mode) in driver.home_dirs() {
            home.ensure_dir(name, *mode)?;
        }
        let dirs = home.dir(driver.trees())?;
        for dir in [&home, &dirs] {
            dir.own_group()?;
        }
        let (layers, contents, metadata) = make_records(&image)?;
        let places = Self { layers, contents, metadata, dirs, home, image };
        for dir in [&places.image, root] {
            dir.sync()?;
        }
        Ok(places)
    }
}

/// Makes what is missing of the directories in `image/<driver>`, as dockerd makes them at its start. Returns those of layers, and
/// of the configurations and metadata of images.
pub(in crate::ops) fn make_records(image: &Dir) -> Result<(Dir, Dir, Dir), FsError> {
    let imagedb = image.ensure_dir("imagedb", 0o700)?;
    let layerdb = image.ensure_dir("layerdb", 0o700)?;
    // As dockerd makes it at its first start; nothing of an archive goes into it.
    image.ensure_dir("distribution", 0o700)?;
    for name in ["mounts", "tmp"] {
        layerdb.ensure_dir(name, 0o755)?;
    }
    let layers = layerdb.ensure_dir("sha256", 0o755)?;
    let contents = imagedb.ensure_dir("content", 0o700)?.ensure_dir("sha256", 0o700)?;
    let metadata = imagedb.ensure_dir("metadata", 0o700)?.ensure_dir("sha256", 0o700)?;
    for dir in [&imagedb, &layerdb, image] {
        dir.sync()?;
    }
    Ok((layers, contents, metadata))
}
