//! Runs the readers, side by side, and puts what they find together.

use super::{Notes, Snapshot, Store, containers, distribution, imagedb, layerdb, mounts, repositories};
use crate::driver;
use crate::error::Result;
use crate::finding::Finding;

impl Store {
    /// Reads everything the store's files say. Needs no lock: beside a live daemon, what vanishes meanwhile was
    /// not there, and the whole may be torn.
    ///
    /// # Errors
    /// None of today's readers gives up: what cannot be read is in the snapshot.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        let (image, home) = rayon::join(|| self.read_image(), || self.read_home());
        let mut notes = Notes::default();
        image(&mut snapshot, &mut notes);
        home(&mut snapshot, &mut notes);
        if let (Some(dir), true) = (self.image(), snapshot.references.is_empty() && !snapshot.images.is_empty())
            && matches!(dir.find("repositories.json"), Ok(None))
        {
            let path = format!("{}/repositories.json", self.image_path());
            notes.findings.push(Finding::warning("references-missing", path, "missing, although there are images"));
        }
        notes.findings.sort();
        notes.findings.dedup();
        notes.strays.sort();
        notes.unreadable.sort();
        snapshot.findings = notes.findings;
        snapshot.strays = notes.strays;
        snapshot.unreadable = notes.unreadable;
        Ok(snapshot)
    }

    /// Reads `image/<driver>`; gives what puts it into a snapshot.
    fn read_image(&self) -> impl FnOnce(&mut Snapshot, &mut Notes) + Send + use<> {
        let at = self.image_path();
        let read = self.image().map(|image| {
            let ((references, layers), (images, (mounts, distribution))) = rayon::join(
                || (repositories::read(image, &at), layerdb::read(image, &at)),
                || (imagedb::read(image, &at), (mounts::read(image, &at), distribution::read(image, &at))),
            );
            (references, layers, images, mounts, distribution)
        });
        move |snapshot, notes| {
            let Some((references, layers, images, mounts, distribution)) = read else { return };
            snapshot.references = references.0;
            snapshot.layers = layers.0.loadable;
            snapshot.broken_layers = layers.0.broken;
            snapshot.images = images.0;
            snapshot.mounts = mounts.0;
            snapshot.distribution = distribution.0;
            for more in [references.1, layers.1, images.1, mounts.1, distribution.1] {
                notes.append(more);
            }
        }
    }

    /// Reads the rest of the data root.
    fn read_home(&self) -> impl FnOnce(&mut Snapshot, &mut Notes) + Send + use<> {
        let (containers, listing) = rayon::join(
            || containers::read(self.root()),
            || self.home().map(|home| driver::list(self.driver(), home)).unwrap_or_default(),
        );
        move |snapshot, notes| {
            snapshot.containers = containers.0;
            snapshot.driver_dirs = listing.dirs;
            notes.append(containers.1);
            notes.append(listing.notes);
        }
    }
}
