//! Names of images: `repositories.json`.
//!
//! What is written here must leave no image that the next `gc` takes for garbage because its name is lost. While the file
//! cannot be read nothing is garbage; once it can, every image without a name is. So each image that no name, no container
//! and no image built from it keeps gets a name of ours.

use std::collections::{BTreeMap, BTreeSet};

use crate::count::count;
use crate::id::ImageId;
use crate::ops::verify::Found;
use crate::reference::Reference;
use crate::store::{places, repositories};

use super::super::plan::{Act, Left, Step};
use super::images::reference_of;
use super::layers::root_file;
use super::{Planner, left};

/// The repository of the names that are given to images of which no name is known.
const RESCUED: &str = "dockpack-rescued";
/// Digits of an image ID that people know.
const SHORT: usize = 12;

impl<'a> Planner<'a> {
    /// Collects all references that are known: what is left of the file comes before what containers say, and that before
    /// what the source says.
    fn known_references(&self) -> BTreeMap<String, ImageId> {
        let mut known: BTreeMap<String, ImageId> = BTreeMap::new();
        if let Some(source) = self.source {
            for image in &source.index.images {
                let names = image.references.iter().filter(|name| Reference::is_key(name));
                known.extend(names.map(|name| (name.clone(), image.id)));
            }
        }
        // Of two containers the younger has the word.
        known.extend(self.survey.of_containers.iter().filter(|(_, image)| self.will_have(image)).cloned());
        known.retain(|_, image| self.will_have(image));
        known.extend(self.survey.salvaged.clone());
        known
    }

    /// Tells whether the store has an image, or will have it.
    fn will_have(&self, image: &ImageId) -> bool {
        self.snapshot.images.contains_key(image)
            || self.survey.returning.contains(image)
            || self.survey.unread.contains(image)
    }

    /// Returns the references that the file has and that stay.
    fn present_references(&self) -> BTreeMap<String, ImageId> {
        if self.references_lost { BTreeMap::new() } else { self.snapshot.references.clone() }
    }

    /// Returns the references that are written to the file.
    pub(super) fn new_names(&self) -> BTreeMap<String, ImageId> {
        let known = self.known_references();
        let mut new = BTreeMap::new();
        if self.references_lost {
            new.extend(known);
        } else {
            let invalid = self.survey.invalid.iter();
            new.extend(invalid.filter_map(|name| Some((name.clone(), *known.get(name)?))));
            // An image that comes back gets its names, where no other image has them now.
            let is_free = |name: &String| !self.snapshot.references.contains_key(name);
            let back = known.into_iter().filter(|(_, image)| self.survey.returning.contains(image));
            new.extend(back.filter(|(name, _)| is_free(name)));
        }
        let rescued = self.rescued(&new);
        new.extend(rescued);
        new
    }

    /// Names the images that nothing would keep but a file of references that cannot be read.
    fn rescued(&self, new: &BTreeMap<String, ImageId>) -> BTreeMap<String, ImageId> {
        let images = &self.snapshot.images;
        let parent = |id: &ImageId| images.get(id).and_then(|image| image.parent);
        let mut kept: BTreeSet<ImageId> = BTreeSet::new();
        let keep = |kept: &mut BTreeSet<ImageId>, image: ImageId| {
            let mut next = Some(image);
            while let Some(id) = next.filter(|id| kept.insert(*id)) {
                next = parent(&id);
            }
        };
        let readable = self.snapshot.containers.values().filter(|container| container.readable);
        let by_containers: Vec<ImageId> = readable.filter_map(|container| container.image).collect();
        for image in self.present_references().values().chain(new.values()).chain(&by_containers) {
            keep(&mut kept, *image);
        }
        let mut lost: Vec<ImageId> = self.survey.returning.iter().copied().collect();
        if self.references_lost {
            lost.extend(images.keys());
            lost.extend(&self.survey.unread);
        }
        // What others were built from comes last: it is kept by them. Last of all, but not never, what is in a circle.
        let parents: BTreeSet<ImageId> = images.keys().filter_map(parent).collect();
        lost.sort_by_key(|id| (parents.contains(id), *id));
        let mut rescued = BTreeMap::new();
        for image in lost {
            if !kept.contains(&image) {
                keep(&mut kept, image);
                rescued.insert(self.rescue_name(image), image);
            }
        }
        rescued
    }

    /// Makes a name of an image's ID.
    fn rescue_name(&self, image: ImageId) -> String {
        let hex = image.hex();
        let others = self.snapshot.images.keys().chain(&self.survey.returning).chain(&self.survey.unread);
        let short = &hex[..SHORT];
        let is_unique = others.filter(|id| id.hex().starts_with(short)).all(|id| *id == image);
        format!("{RESCUED}:{}", if is_unique { short } else { &hex[..] })
    }

    /// Returns what writes `repositories.json`, with all names that it gets; `None` where that cannot be.
    pub(super) fn references_piece(&self) -> Option<(Step, String, Act)> {
        let old = self.survey.references.as_deref().filter(|_| !self.references_lost);
        let new = self.new_names();
        let text = repositories::merge(old, new.iter().map(|(name, image)| (name.as_str(), *image))).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Some((Step::Reference, self.image_path(places::REFERENCES), root_file(text, 0o600)))
    }

    /// Writes `repositories.json` anew, of all that is known.
    pub(super) fn references(&mut self, found: &Found) {
        let Some(piece) = self.references_piece() else { return };
        let new = self.new_names();
        let (rescued, known): (Vec<_>, Vec<_>) =
            new.iter().partition(|(name, image)| **name == self.rescue_name(**image));
        let act = match (known.len(), rescued.len()) {
            (0, 0) => "rewrite it without names: there is no image".to_owned(),
            (known, 0) => format!("rewrite it with the {}", count(known, "known name", "known names")),
            (known, rescued) => format!(
                "rewrite it with the {}, and name {} {RESCUED}:IMAGE-ID, so that gc keeps what has lost its name",
                count(known, "known name", "known names"),
                count(rescued, "other image", "other images")
            ),
        };
        self.mend(found, act, [piece]);
        for (name, image) in rescued {
            let hint = self.pulled_from(*image).map(|from| format!(" (its layers were pulled from {from})"));
            let hint = hint.unwrap_or_default();
            let needs = format!("no name of this image is known{hint}: `docker tag {name} NAME` gives it one");
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

    /// Gives a reference its image back. There is one file, so all of them are given back at once.
    pub(super) fn reference(&mut self, found: &Found) {
        let Some(name) = reference_of(found) else { return };
        let Some(image) = self.new_names().get(name).copied() else {
            return self.leave(found, "nothing says which image it was: docker tag gives the name to one");
        };
        let Some(piece) = self.references_piece() else { return };
        self.mend(found, format!("let {name} lead to {}", image.short()), [piece]);
    }
}
