//! What a finding is about.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::id::{CacheId, ChainId, ContainerId, ImageId};

/// Something that can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Thing {
    /// An image.
    Image(ImageId),
    /// A layer, or its entry in `layerdb/sha256`.
    Layer(ChainId),
    /// A directory of the storage driver, with the files that the driver keeps around its tree.
    Directory(CacheId),
    /// The file in which such a directory says what it is stacked on (`lower`).
    Lower(CacheId),
    /// A writable layer: an entry of `layerdb/mounts`.
    Mount(ContainerId),
    /// A container.
    Container(ContainerId),
    /// A name of an image, as it stands in `repositories.json`.
    Reference(String),
    /// A record of BuildKit's.
    BuildRecord(String),
    /// Something that has no identity, or of which the reader knows none: a path relative to the data root, or what the
    /// file is called otherwise.
    Place(String),
}

/// What a finding is about, and what people are told that it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Object {
    /// What it is.
    pub thing: Thing,
    /// Where the finding was made, relative to the data root, where the thing is called by that and not by its identity.
    at: Option<String>,
}

impl Object {
    /// Makes the object of a finding about what lies at a path relative to the data root, by which it is called.
    pub fn at(thing: Thing, path: impl Into<String>) -> Self {
        Self { thing, at: Some(path.into()) }
    }

    /// Makes the object of a finding about what lies at a path, where nothing more may be known of it.
    pub fn maybe_at(thing: Option<Thing>, path: impl Into<String>) -> Self {
        match thing {
            Some(thing) => Self::at(thing, path),
            None => Thing::Place(path.into()).into(),
        }
    }

    /// Returns the path by which the object is called; `None` where it is called by its identity.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        match (&self.at, &self.thing) {
            (Some(path), _) | (None, Thing::Place(path)) => Some(path),
            (None, _) => None,
        }
    }

    /// Returns the directory of the storage driver that the object is, or is a file of.
    #[must_use]
    pub fn directory(&self) -> Option<&CacheId> {
        match &self.thing {
            Thing::Directory(id) | Thing::Lower(id) => Some(id),
            _ => None,
        }
    }

    /// What people are told.
    fn text(&self) -> Cow<'_, str> {
        match (&self.at, &self.thing) {
            (Some(text), _) => text.into(),
            (None, Thing::Reference(text) | Thing::BuildRecord(text) | Thing::Place(text)) => text.into(),
            (None, Thing::Mount(id) | Thing::Container(id)) => id.as_str().into(),
            (None, Thing::Directory(id) | Thing::Lower(id)) => id.as_str().into(),
            (None, Thing::Image(id)) => id.to_string().into(),
            (None, Thing::Layer(id)) => id.to_string().into(),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text())
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

/// By what people are told: that is the order of everything that is printed.
impl Ord for Object {
    fn cmp(&self, other: &Self) -> Ordering {
        let rest = |object: &Self| (object.at.is_some(), object.thing.clone());
        self.text().cmp(&other.text()).then_with(|| rest(self).cmp(&rest(other)))
    }
}

impl PartialOrd for Object {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<Thing> for Object {
    fn from(thing: Thing) -> Self {
        Self { thing, at: None }
    }
}

impl From<ImageId> for Object {
    fn from(id: ImageId) -> Self {
        Thing::Image(id).into()
    }
}

impl From<ChainId> for Object {
    fn from(id: ChainId) -> Self {
        Thing::Layer(id).into()
    }
}

/// A path relative to the data root, or the name of a file.
impl From<&str> for Object {
    fn from(path: &str) -> Self {
        Thing::Place(path.to_owned()).into()
    }
}

/// As of `&str`.
impl From<&String> for Object {
    fn from(path: &String) -> Self {
        path.as_str().into()
    }
}

/// As of `&str`.
impl From<String> for Object {
    fn from(path: String) -> Self {
        Thing::Place(path).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Sha256;

    #[test]
    fn objects_are_sorted_by_what_is_told() {
        let chain = ChainId(Sha256::of(b"layer"));
        let name = ContainerId::parse(b"c0ffee").expect("a name");
        let mut objects = [
            Object::from(chain),
            Object::at(Thing::Layer(chain), "image/overlay2/layerdb/sha256/0"),
            Thing::Mount(name.clone()).into(),
            Thing::Container(name).into(),
            "buildkit".into(),
        ];
        objects.sort();
        let told: Vec<String> = objects.iter().map(ToString::to_string).collect();
        let chain = chain.to_string();
        assert_eq!(told, ["buildkit", "c0ffee", "c0ffee", "image/overlay2/layerdb/sha256/0", &chain]);
        assert_eq!(serde_json::to_string(&objects[4]).expect("a string"), format!("\"{chain}\""));
        assert_ne!(objects[1], objects[2], "one text, two things");
    }
}
