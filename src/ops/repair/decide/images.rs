//! Images, their names, containers, and records of registries.

use std::collections::BTreeMap;

use crate::graph::Node;
use crate::id::{CacheId, ImageId};
use crate::ops::verify::Found;
use crate::reference::Reference;
use crate::store::{Mount, repositories};

use super::super::plan::{Act, Left, Step};
use super::layers::root_file;
use super::{Planner, left};

impl<'a> Planner<'a> {
    /// Configurations, references, mounts, distribution.
    pub(super) fn images(&mut self, found: &'a Found) {
        let subject = &found.finding.subject;
        match found.finding.code {
            "references-unreadable" | "references-missing" => self.references(found),
            "reference-invalid" => self.reference(found),
            "reference-without-image" => match self.snapshot.references.get(subject).copied() {
                Some(image) => self.config(found, image),
                None => self.leave(found, "nothing says which image it was"),
            },
            "image-invalid" | "image-unreadable" => {
                let name = subject.rsplit('/').next().unwrap_or_default();
                if let Ok(image) = ImageId::from_hex(name.as_bytes()) {
                    self.config(found, image);
                }
            }
            "mount-not-loadable" => self.mount(found),
            "mount-directory-missing" | "container-without-mount" => {
                self.leave(found, "what the container wrote is lost: remove it and make it again");
            }
            "container-unreadable" => {
                self.leave(
                    found,
                    "nothing else says how it was made: take the file from a backup, or remove the directory",
                );
            }
            "distribution-mismatch" => {
                let piece = (Step::Distribution, subject.clone(), Act::Remove);
                self.mend(found, "forget which layer the blob is: pulling it finds out", [piece]);
            }
            _ => {}
        }
    }

    /// Brings the configuration of an image back.
    fn config(&mut self, found: &Found, image: ImageId) {
        if self.source.is_some_and(|source| source.configs.contains_key(&image)) {
            let path = self.image_path(format_args!("imagedb/content/sha256/{}", image.hex()));
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

    /// Collects all references that are known, those first that are most likely to be what was there.
    fn known_references(&self) -> BTreeMap<String, ImageId> {
        let mut known: BTreeMap<String, ImageId> = BTreeMap::new();
        if let Some(source) = self.source {
            for image in &source.index.images {
                let names = image.references.iter().filter(|name| Reference::is_key(name));
                known.extend(names.map(|name| (name.clone(), image.id)));
            }
        }
        known.retain(|_, image| self.snapshot.images.contains_key(image));
        known.extend(self.survey.of_containers.clone());
        known.extend(self.survey.salvaged.clone());
        known
    }

    /// Writes `repositories.json` anew, of all that is known.
    fn references(&mut self, found: &Found) {
        let known = self.known_references();
        let text = match repositories::merge(None, known.iter().map(|(name, image)| (name.as_str(), *image))) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => return self.leave(found, error.to_string()),
        };
        let path = self.image_path(repositories::NAME);
        let act = match known.len() {
            0 => "write it anew, without a name: none is known any more".to_owned(),
            number => format!("write it anew with the {number} names that are known"),
        };
        self.mend(found, act, [(Step::Reference, path, root_file(text, 0o600))]);
        let nameless: Vec<ImageId> = self
            .snapshot
            .images
            .keys()
            .filter(|id| !known.values().any(|named| named == *id))
            // What others were built from had no name before, most likely.
            .filter(|id| !self.snapshot.images.values().any(|image| image.parent == Some(**id)))
            .copied()
            .collect();
        for image in nameless {
            let hint = self.pulled_from(image).map(|from| format!(" (its layers were pulled from {from})"));
            let needs = format!("no name of this image is known{}: docker tag gives it one", hint.unwrap_or_default());
            self.left.insert(Left {
                subject: image.to_string(),
                severity: crate::finding::Severity::Warning,
                ..left(found, needs)
            });
        }
    }

    /// Returns the repository that the topmost layer of an image came from, as `distribution` remembers it.
    fn pulled_from(&self, image: ImageId) -> Option<String> {
        let top = self.snapshot.images.get(&image)?.diff_ids.last()?;
        let text = self.snapshot.distribution.v2_metadata_by_diff_id.get(top)?;
        let sources: Vec<serde_json::Value> = serde_json::from_str(text).ok()?;
        sources.last()?["SourceRepository"].as_str().map(str::to_owned)
    }

    /// Gives a reference its image back.
    fn reference(&mut self, found: &Found) {
        let name = found.finding.subject.clone();
        let Some(image) = self.known_references().get(&name).copied() else {
            return self.leave(found, "nothing says which image it was: docker tag gives the name to one");
        };
        let Some(bytes) = &self.survey.references else { return };
        let invalid = repositories::parse(bytes).map(|parsed| parsed.invalid).unwrap_or_default();
        let known = self.known_references();
        // All of them, as there is one file.
        let back = invalid.iter().filter_map(|(name, _)| Some((name.as_str(), *known.get(name)?)));
        let path = self.image_path(repositories::NAME);
        let Ok(text) = repositories::merge(Some(bytes), back) else { return };
        let act = format!("let {name} lead to {}", image.short());
        self.mend(found, act, [(Step::Reference, path, root_file(String::from_utf8_lossy(&text), 0o600))]);
    }

    /// Completes the entry of a writable layer out of its other half and what the container says.
    fn mount(&mut self, found: &Found) {
        let Some(Node::Mount(name)) = &found.object else { return };
        let empty = Mount { mount_id: None, init_id: None, parent: None };
        let mount = self.snapshot.mounts.get(name).unwrap_or(&empty);
        let is_there = |id: &CacheId| self.snapshot.driver_dirs.contains_key(id);
        let mount_id = mount.mount_id.clone().or_else(|| {
            let init = mount.init_id.as_ref()?.as_str().strip_suffix("-init")?;
            CacheId::parse(init.as_bytes()).ok().filter(is_there)
        });
        let container = self.snapshot.containers.get(name);
        let image = container.and_then(|container| container.image).and_then(|id| self.snapshot.images.get(&id));
        let parent = mount.parent.or_else(|| image.and_then(|image| image.top()));
        let Some(mount_id) = mount_id else {
            return self.leave(found, "nothing says which directory is the container's: remove it and make it again");
        };
        let at = self.image_path(format_args!("layerdb/mounts/{name}"));
        let mut pieces = Vec::new();
        if mount.mount_id.is_none() {
            pieces.push((Step::Mount, format!("{at}/mount-id"), root_file(mount_id.as_str(), 0o644)));
        }
        if let (None, Some(parent)) = (mount.parent, parent) {
            pieces.push((Step::Mount, format!("{at}/parent"), root_file(parent.to_string(), 0o644)));
        }
        self.mend(found, "complete the entry of the writable layer", pieces);
    }
}
