//! Configurations of images, containers, and records of registries.

use crate::finding::{Code, Finding, Thing};
use crate::graph::Node;
use crate::id::ImageId;
use crate::ops::mounts;
use crate::ops::verify::Found;
use crate::store::{databases, places};

use super::super::plan::{Act, Step};
use super::Planner;
use super::layers::root_file;

impl<'a> Planner<'a> {
    /// Configurations, references, mounts, distribution.
    pub(super) fn images(&mut self, found: &'a Found) {
        let object = &found.finding.object;
        match found.finding.code {
            Code::ReferencesUnreadable | Code::ReferencesMissing | Code::ReferencesEmpty => self.references(found),
            Code::ReferenceInvalid => self.reference(found),
            Code::ReferenceWithoutImage => {
                match reference_of(found).and_then(|name| self.snapshot.references.get(name)) {
                    Some(image) => self.config(found, *image),
                    None => self.leave(found, "nothing says which image it was"),
                }
            }
            Code::ImageInvalid | Code::ImageUnreadable => {
                if let Thing::Image(image) = object.thing {
                    self.config(found, image);
                }
            }
            Code::MountNotLoadable | Code::MountLayerMissing | Code::MountMismatch => self.mount(found),
            Code::MountDirectoryMissing if self.is_known_to_be_there(&object.thing) => self.mount(found),
            Code::MountDirectoryMissing | Code::ContainerWithoutMount => {
                self.leave(found, "what the container wrote is lost: remove it and make it again");
            }
            Code::ContainerUnreadable => {
                self.leave(
                    found,
                    "nothing else says how it was made: take the file from a backup, or remove the directory",
                );
            }
            Code::ContainerHostConfigUnreadable | Code::ContainerHostConfigMissing | Code::ContainerHostConfigNull => {
                self.leave(found, "nothing else says how it was started: take the file from a backup");
            }
            Code::DatabaseDamaged | Code::DatabasePageDamaged | Code::BuildCacheDamaged | Code::BuildkitUnreadable => {
                self.leave(found, databases::cure(&object.to_string()));
            }
            Code::BuildCacheLost => self.leave(found, "docker builder prune -af, once Docker runs again"),
            Code::ImageTagTimeInvalid => {
                let piece = object.place().map(|path| (Step::Image, path.to_owned(), Act::Remove));
                self.mend(found, "forget when it was tagged, as of an image that never was", piece);
            }
            Code::LayerSize => self.leave(found, "nothing: only listings of Docker's show another size by it"),
            Code::DistributionMismatch => {
                let piece = object.place().map(|path| (Step::Distribution, path.to_owned(), Act::Remove));
                self.mend(found, "forget which blob is which layer: pulling and pushing find out", piece);
            }
            _ => {}
        }
    }

    /// Brings the configuration of an image back.
    fn config(&mut self, found: &Found, image: ImageId) {
        if self.source.is_some_and(|source| source.configs.contains_key(&image)) {
            let path = self.image_path(places::image(&image));
            self.mend(found, "bring its configuration back", [(Step::Image, path, Act::Config { image })]);
        } else {
            self.leave(
                found,
                match self.source {
                    None => format!("give --from an archive, or another store, that holds image {image}"),
                    Some(_) => format!("what --from names does not hold image {image}: give one that does"),
                },
            );
        }
    }

    /// Brings images back of which the store has neither the configuration nor a name, and that it had.
    pub(super) fn lost_images(&mut self) {
        for image in self.survey.returning.clone() {
            let found = lost(image);
            let path = self.image_path(places::image(&image));
            if !self.taken.contains(&path) {
                self.mend(&found, "bring its configuration back", [(Step::Image, path, Act::Config { image })]);
            }
            if let Some(name) = self.new_names().into_iter().find(|(_, named)| *named == image).map(|(name, _)| name)
                && let Some(piece) = self.references_piece()
            {
                self.mend(&found, format!("name it {name}"), [piece]);
            }
        }
    }

    /// Tells whether the directories of a writable layer are there, whatever its entry says.
    fn is_known_to_be_there(&self, thing: &Thing) -> bool {
        let Thing::Mount(name) = thing else { return false };
        let mount = self.mounts.get(name);
        let mut ids = mount.into_iter().flat_map(|mount| mount.mount_id.iter().chain(&mount.init_id));
        mount.is_some_and(|mount| mount.mount_id.is_some()) && ids.all(|id| self.snapshot.driver_dirs.contains_key(id))
    }

    /// Completes or corrects the entry of a writable layer, out of its other half and what the container says.
    fn mount(&mut self, found: &Found) {
        let Some(Node::Mount(name) | Node::Container(name)) = &found.object else { return };
        let was = self.snapshot.mounts.get(name).unwrap_or(&mounts::EMPTY);
        let must = self.mounts.get(name).unwrap_or(&mounts::EMPTY);
        if must.mount_id.is_none() {
            return self.leave(found, "nothing says which directory is the container's: remove it and make it again");
        }
        let at = self.image_path(places::mount(name));
        let pieces: Vec<_> = mounts::wrong_files(was, must)
            .into_iter()
            .filter_map(|(file, _, must)| Some((Step::Mount, format!("{at}/{file}"), root_file(must?, 0o644))))
            .collect();
        if pieces.is_empty() {
            return self.leave(found, "nothing says what stood there: remove the container and make it again");
        }
        self.mend(found, "complete the entry of the writable layer", pieces);
    }
}

/// Returns the name that a finding is about, as it stands in `repositories.json`.
pub(super) fn reference_of(found: &Found) -> Option<&str> {
    match &found.finding.object.thing {
        Thing::Reference(name) => Some(name),
        _ => None,
    }
}

/// The finding that an image is lost, of which nothing in the store says that it is.
pub(super) fn lost(image: ImageId) -> Found {
    Found {
        finding: Finding::new(Code::ImageMissing, image, "its configuration is missing"),
        object: Some(Node::Image(image)),
        path: None,
        file: None,
        breaks: Vec::new(),
    }
}
