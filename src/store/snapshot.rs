//! Runs the readers, side by side, and puts what they find together.

use std::collections::{BTreeSet, HashSet};

use super::places;
use super::{
    Snapshot, Store, Unknown, buildkit, containers, distribution, imagedb, layerdb, mounts, repositories, strays,
};
use crate::count::count;
use crate::driver::Listing;
use crate::error::{FsError, Result};
use crate::finding::{Code, Finding, Object, Severity, Thing};
use crate::fsx::Dir;
use crate::id::{CacheId, ContainerId};
use crate::notes::{Notes, below};

impl Store {
    /// Reads everything the store's files say. Needs no lock: beside a live daemon, what vanishes meanwhile was
    /// not there, and the whole may be torn.
    ///
    /// # Errors
    /// None of today's readers gives up: what cannot be read is in the snapshot.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut snapshot = Snapshot { driver: self.driver().name().to_owned(), ..Snapshot::default() };
        let mut notes = Notes::default();
        let (image, (rest, (listing, build))) = rayon::join(
            || self.read_image(),
            || {
                let rest = || (containers::read(self.root()), strays::read(self.root()));
                rayon::join(rest, || rayon::join(|| self.list_home(), || buildkit::read(self.root())))
            },
        );
        if let Some(image) = image {
            image(&mut snapshot, &mut notes);
        }
        let ((found, container_notes), root_notes) = rest;
        snapshot.containers = found;
        snapshot.driver_dirs = listing.dirs;
        let (build, build_notes) = build;
        for more in [container_notes, root_notes, listing.notes, build_notes] {
            notes.append(more);
        }
        snapshot.build_records = build.records(&snapshot);
        snapshot.written = self.written(&snapshot);
        snapshot.look_for_lost_containers(&mut notes);
        snapshot.look_for_lost_references(&self.image_path(), &mut notes);
        snapshot.weigh(&mut notes);
        snapshot.take(notes);
        Ok(snapshot)
    }

    /// Reads `image/<driver>`; gives what puts it into a snapshot.
    fn read_image(&self) -> Option<impl FnOnce(&mut Snapshot, &mut Notes) + Send + use<>> {
        let image = self.image()?;
        let at = self.image_path();
        let ((references, layers), (images, (mounts, distribution))) = rayon::join(
            || rayon::join(|| repositories::read(image, &at), || layerdb::read(image, &at)),
            || {
                let rest = || (mounts::read(image, &at), distribution::read(image, &at));
                rayon::join(|| imagedb::read(image, &at), rest)
            },
        );
        Some(move |snapshot: &mut Snapshot, notes: &mut Notes| {
            snapshot.references = references.0;
            snapshot.layers = layers.0.loadable;
            snapshot.broken_layers = layers.0.broken;
            snapshot.images = images.0;
            snapshot.mounts = mounts.0;
            snapshot.distribution = distribution.0;
            for more in [references.1, layers.1, images.1, mounts.1, distribution.1] {
                notes.append(more);
            }
        })
    }

    /// Finds the writable layers without a readable container in which something lies. Where that cannot be told,
    /// something does.
    fn written(&self, snapshot: &Snapshot) -> BTreeSet<ContainerId> {
        let has_config = |id: &ContainerId| snapshot.containers.get(id).is_some_and(|container| container.readable);
        let is_empty = |id: &CacheId| {
            let Some(dirs) = self.dirs() else { return false };
            let Some(upper) = self.driver().written() else { return false };
            match FsError::found(dirs.dir(format!("{id}/{upper}"))) {
                Ok(None) => true,
                found => found.is_ok_and(|dir| dir.is_some_and(|dir| dir.entries().is_ok_and(|all| all.is_empty()))),
            }
        };
        let lost = snapshot.mounts.iter().filter(|(id, _)| !has_config(id));
        lost.filter(|(_, mount)| !mount.mount_id.as_ref().is_some_and(is_empty)).map(|(id, _)| id.clone()).collect()
    }

    fn list_home(&self) -> Listing {
        self.home().map(|home| self.driver().list(home)).unwrap_or_default()
    }
}

impl Snapshot {
    /// Reads a file of `dir`, which is `at` below the data root. `None` too where the snapshot tells that it cannot be read:
    /// that is what is to be mended. Another failure says nothing of the file.
    pub(crate) fn read_known(&self, dir: &Dir, at: &str, path: &str, limit: u64) -> Result<Option<Vec<u8>>, FsError> {
        let is_known = || self.unreadable.iter().any(|file| file.path == below(at, path));
        match FsError::in_place(dir.read(path, limit)) {
            Err(_) if is_known() => Ok(None),
            read => read,
        }
    }

    /// Says which images that are referred to cannot be understood, and whether all references are gone.
    fn look_for_lost_references(&self, image: &str, notes: &mut Notes) {
        let invalid: HashSet<String> = notes
            .strays
            .iter()
            .filter(|stray| stray.kind == super::StrayKind::InvalidImage)
            .map(|stray| stray.path.clone())
            .collect();
        for (reference, id) in &self.references {
            let path = below(image, places::image(id));
            if invalid.contains(&path) {
                let object = Object::at(Thing::Image(*id), path);
                notes.unreadable(Unknown::Images, object, format!("{reference} names it, and it is damaged"));
            }
        }
        let is_unreadable = notes.unreadable.iter().any(|unreadable| unreadable.what == Unknown::References);
        if self.references.is_empty() && !self.images.is_empty() && !is_unreadable {
            let evidence = format!("it names nothing, beside {}", count(self.images.len(), "image", "images"));
            let finding = Finding::new(Code::ReferencesEmpty, below(image, places::REFERENCES), evidence);
            notes.findings.push(finding.as_bad_as(Severity::Note));
        }
    }

    /// Tells containers whose configuration is lost from what is left of one that was never whole, or is gone.
    fn look_for_lost_containers(&self, notes: &mut Notes) {
        for (id, _) in self.containers.iter().filter(|(_, container)| container.config_missing) {
            let object = |file: &str| Object::at(Thing::Container(id.clone()), format!("containers/{id}{file}"));
            match self.is_abandoned(id) {
                true => {
                    let evidence = "there is no config.v2.json: what a create or rm left that was cut off";
                    notes.findings.push(Finding::new(Code::ContainerAbandoned, object(""), evidence));
                }
                false => notes.unreadable(Unknown::Containers, object("/config.v2.json"), "it is missing"),
            }
        }
    }

    /// Says how bad it is when a directory's own files are lost: with a layer or mount in it, it is damage; else it is
    /// what a crash left while the directory was made.
    fn weigh(&self, notes: &mut Notes) {
        let layers = self.layers.values().map(|layer| &layer.cache_id);
        let mounts = self.mounts.values().flat_map(|mount| [&mount.mount_id, &mount.init_id]).flatten();
        let used: HashSet<&CacheId> = layers.chain(mounts).collect();
        let is_lost = |finding: &&mut Finding| {
            matches!(finding.code, Code::DriverLinkLost | Code::DriverLowerLost | Code::DriverShortNameLost)
        };
        for finding in notes.findings.iter_mut().filter(is_lost) {
            let is_used = finding.object.directory().is_some_and(|id| used.contains(id));
            finding.severity = if is_used { Severity::Damage } else { Severity::Note };
        }
    }

    /// Takes the notes in an order that does not depend on the readers'.
    fn take(&mut self, mut notes: Notes) {
        notes.findings.sort();
        notes.findings.dedup();
        notes.strays.sort();
        notes.unreadable.sort();
        notes.doubtful.sort();
        self.findings = notes.findings;
        self.strays = notes.strays;
        self.unreadable = notes.unreadable;
        self.doubtful = notes.doubtful;
        self.unlisted = notes.unlisted;
    }
}
