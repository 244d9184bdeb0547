//! What the directory of a layer says that its tar does not, where the layer is rebuilt out of itself.
//!
//! Rebuilding makes all that the headers of the tar say. Of the rest, which `save` would list as differences, what may be
//! the damage itself must not come back: a mode that a header contradicts, a mark of something removed that the tar does
//! not have, a mark that is missing. What no header speaks of stays as it is: directories that the tar does not hold,
//! fractions of seconds, extended attributes of trees that BuildKit made in place.
//!
//! Where modes or owners of other nodes of the layer are wrong (`Origin::Tar`), those of nodes that the tar does not hold
//! cannot be trusted either. Then they are what unpacking gives; and a directory in a tree that BuildKit made, which is only
//! there because something in it was touched, is left out, so that the one below is seen.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::driver::{Driver, NewLayer};
use crate::error::FsError;
use crate::fsx::{Kind, Time};
use crate::id::CacheId;
use crate::layer::Marks;
use crate::layer::differences::{Difference, Expected, Group, Prediction};

use super::plan::Origin;

/// Length of the names that BuildKit draws for directories.
const BUILDKIT_NAME: usize = 25;
/// Extended attributes that change what is seen or allowed.
const TELLING: [&str; 3] = ["security.capability", "trusted.overlay.opaque", "user.overlay.opaque"];

/// Chooses among the differences of one layer.
pub(super) struct Untold<'a> {
    driver: &'static Driver,
    new: &'a NewLayer<'a>,
    prediction: &'a Prediction,
    origin: Origin,
    /// BuildKit made the tree, and then its tar.
    in_place: bool,
    /// What is removed is marked by whoever wrote the tree, in its own way.
    own_marks: bool,
}

impl<'a> Untold<'a> {
    pub(super) fn new(
        driver: &'static Driver,
        new: &'a NewLayer<'a>,
        prediction: &'a Prediction,
        origin: Origin,
        id: &CacheId,
    ) -> Self {
        let in_place = id.as_str().len() == BUILDKIT_NAME;
        let files = driver.read.marks(new.facts) == Marks::Files;
        let is_copy = driver.keeps_whole_trees();
        Self { driver, new, prediction, origin, in_place, own_marks: is_copy || files && in_place || new.facts.mounted }
    }

    /// Returns the differences that are made again.
    pub(super) fn of(&self, all: Vec<Difference>) -> Result<Vec<Difference>, FsError> {
        let mut kept = Vec::new();
        for mut difference in all {
            if self.is_drivers_own(&difference.path.0) {
                (difference.mode, difference.owner) = (None, None);
            }
            if self.origin == Origin::Itself {
                kept.push(difference);
                continue;
            }
            let expected = self.driver.read.expect(self.new, self.prediction, &difference.path.0)?;
            let nothing = Difference { path: difference.path.clone(), ..Difference::default() };
            kept.extend(self.one(difference, expected).filter(|kept| *kept != nothing));
        }
        Ok(kept)
    }

    /// Tells whether a path is of what the driver makes around a tree: that is made as the driver makes it.
    fn is_drivers_own(&self, path: &[u8]) -> bool {
        let is_apart = self.driver.trees().is_empty();
        is_apart && !path.contains(&b'/') && ![&b"diff"[..], b"root", b"upper"].contains(&path)
    }

    fn one(&self, mut difference: Difference, expected: Option<Expected>) -> Option<Difference> {
        if difference.gone || matches!(difference.make, Some(kind) if kind != Kind::Directory) {
            return self.own_marks.then_some(difference);
        }
        let Some(expected) = expected else {
            // A directory that the tar does not hold, nor anything that it is a copy of.
            if self.origin == Origin::Tar {
                (difference.mode, difference.owner) = (None, None);
                if self.in_place {
                    return None;
                }
            }
            return Some(difference);
        };
        let is_told = matches!(expected.group, Some(Group::Tar(_))) && expected.mtime.is_some();
        let is_inherited = matches!(expected.group, Some(Group::Inherited(_)));
        if is_told || is_inherited || self.origin == Origin::Tar {
            (difference.mode, difference.owner) = (None, None);
        }
        if is_inherited {
            // It comes with the copy of the layer below, as it should be.
            (difference.mtime, difference.xattrs) = (None, None);
        }
        if is_told {
            let is_same_second = |found: &Time| expected.mtime.is_some_and(|told| told.seconds == found.seconds);
            difference.mtime = difference.mtime.filter(is_same_second);
            difference.xattrs = difference.xattrs.and_then(|found| self.xattrs(found, &expected));
        }
        Some(difference)
    }

    /// Adds to the extended attributes that a header tells those that only a tree made in place has.
    fn xattrs(&self, found: BTreeMap<String, String>, expected: &Expected) -> Option<BTreeMap<String, String>> {
        let told = expected.xattrs.iter();
        let told: BTreeMap<String, String> =
            told.map(|(key, value)| (key.escape_ascii().to_string(), BASE64_STANDARD.encode(value))).collect();
        let mut wanted = told.clone();
        // Docker 20.10 does not set empty ones.
        wanted.retain(|key, value| !value.is_empty() || found.contains_key(key));
        for (key, value) in found {
            if !TELLING.contains(&key.as_str()) && (self.in_place || key.starts_with("security.")) {
                wanted.entry(key).or_insert(value);
            }
        }
        (wanted != told).then_some(wanted)
    }
}
