//! From a word to the things in a store that it means.

use std::collections::BTreeSet;

use super::View;
use crate::error::{Error, Result};
use crate::graph::{Id, Node, prefix_range, resolve_image};
use crate::id::{CacheId, ChainId, ContainerId, DiffId, ImageId, LinkId, Sha256};
use crate::store::{Snapshot, places};

impl View<'_> {
    /// Finds what a word means, the first of these that there is:
    ///
    /// 1. a path below a data root, or `l/<link>`;
    /// 2. a reference to an image;
    /// 3. the name of a container;
    /// 4. an identity: of an image, container, layer (chain or diff ID), directory or build record;
    /// 5. the beginning of one.
    ///
    /// A diff ID may mean several layers; all are returned. Any other word means one thing.
    ///
    /// # Errors
    /// [`Error::NoSuchThing`], with near references, where it means nothing; [`Error::Ambiguous`] where the beginning
    /// of an identity means several things.
    pub fn find(&self, word: &str) -> Result<Vec<Id>> {
        if let Some(found) = self.by_path(word) {
            return Ok(vec![found]);
        }
        if let Some(id) = self.by_reference(word).or_else(|| self.by_container_name(word)) {
            return Ok(vec![id]);
        }
        let found = self.by_identity(word);
        if !found.is_empty() {
            return Ok(found);
        }
        let found = self.by_prefix(word);
        let things: BTreeSet<&str> = found.iter().map(|(what, _)| what.as_str()).collect();
        match things.len() {
            0 => {
                let near = match resolve_image(self.snapshot, word) {
                    Err(Error::NoSuchImage { near, .. }) => near,
                    _ => Vec::new(),
                };
                Err(Error::NoSuchThing { wanted: word.to_owned(), near })
            }
            1 => Ok(found.into_iter().map(|(_, id)| id).collect()),
            _ => Err(Error::Ambiguous {
                wanted: word.to_owned(),
                things: things.into_iter().map(str::to_owned).collect(),
            }),
        }
    }

    fn place(&self, node: Node) -> Option<Id> {
        self.graph.find(&node)
    }

    fn by_reference(&self, word: &str) -> Option<Id> {
        // A full identity is no reference, and the beginning of one comes later.
        let key = word.parse::<crate::reference::Reference>().ok()?.or_latest().key();
        let image = self.snapshot.references.get(&key)?;
        self.place(Node::Image(*image))
    }

    fn by_container_name(&self, word: &str) -> Option<Id> {
        let name = word.strip_prefix('/').unwrap_or(word);
        let (id, _) = self.snapshot.containers.iter().find(|(_, found)| !name.is_empty() && found.name == name)?;
        self.place(Node::Container(id.clone()))
    }

    /// Reads a path from the left and takes the first part that is a thing's place. What stands before it does
    /// not matter: the store may be mounted anywhere.
    fn by_path(&self, word: &str) -> Option<Id> {
        if !word.contains('/') {
            return None;
        }
        let parts: Vec<&str> = word.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        (0..parts.len()).find_map(|at| self.by_path_at(&parts, at)).or_else(|| self.by_stray_path(&parts))
    }

    fn by_path_at(&self, parts: &[&str], at: usize) -> Option<Id> {
        let part = parts[at];
        let before = |back: usize| at.checked_sub(back).map(|place| parts[place]);
        let digest = Sha256::from_hex(part.as_bytes()).ok();
        match (before(2), before(1)) {
            (Some("content" | "metadata"), Some("sha256")) => self.place(Node::Image(ImageId(digest?))),
            (Some("layerdb"), Some("sha256")) => {
                self.place(Node::Layer(ChainId(digest?))).or_else(|| self.place(removing_node(part)))
            }
            (Some("layerdb"), Some("mounts")) => self.place(Node::Mount(ContainerId::parse(part.as_bytes()).ok()?)),
            (_, Some("containers")) => self.place(Node::Container(ContainerId::parse(part.as_bytes()).ok()?)),
            (_, Some("l")) => self.by_link(part),
            (_, Some("sha256")) => None,
            (_, Some(home)) if [self.driver.name(), "dir", "subvolumes", "diff", "mnt", "layers"].contains(&home) => {
                self.place(Node::Dir(CacheId::parse(part.as_bytes()).ok()?))
            }
            _ => None,
        }
    }

    fn by_stray_path(&self, parts: &[&str]) -> Option<Id> {
        (0..parts.len()).find_map(|at| {
            let tail = parts[at..].join("/");
            let short = tail.strip_prefix(&places::in_root(self.driver.name(), "")).unwrap_or(&tail).to_owned();
            self.place(Node::Stray(tail)).or_else(|| self.place(Node::Stray(short)))
        })
    }

    fn by_link(&self, name: &str) -> Option<Id> {
        let link = LinkId::parse(name.as_bytes()).ok()?;
        let (id, _) = self.snapshot.driver_dirs.iter().find(|(_, dir)| dir.link.as_ref() == Some(&link))?;
        self.place(Node::Dir(id.clone()))
    }

    fn by_identity(&self, word: &str) -> Vec<Id> {
        if let Ok(digest) = Sha256::from_hex(word.strip_prefix("sha256:").unwrap_or(word).as_bytes()) {
            let digests = [Node::Image(ImageId(digest)), Node::Layer(ChainId(digest))];
            let found: Vec<Id> = digests.into_iter().filter_map(|node| self.place(node)).collect();
            // The lowest layer of a chain has one digest for both: it is the chain that is meant.
            let found = if found.is_empty() { self.by_diff_id(DiffId(digest)) } else { found };
            if !found.is_empty() {
                return found;
            }
        }
        let container = ContainerId::parse(word.as_bytes()).ok();
        let nodes = [
            container.clone().map(Node::Container),
            container.map(Node::Mount),
            CacheId::parse(word.as_bytes()).ok().map(Node::Dir),
            Some(Node::BuildRecord(word.to_owned())),
        ];
        let found = nodes.into_iter().flatten().find_map(|node| self.place(node));
        found.or_else(|| self.by_link(word)).into_iter().collect()
    }

    fn by_diff_id(&self, diff: DiffId) -> Vec<Id> {
        let layers = self.snapshot.layers.iter().filter(|(_, layer)| layer.diff == diff);
        layers.filter_map(|(chain, _)| self.layer_at(*chain)).collect()
    }

    /// Returns all things whose identity begins with a word, each with its identity. What several nodes have the
    /// identity of, a container and its mount, is one thing.
    fn by_prefix(&self, word: &str) -> Vec<(String, Id)> {
        let mut found = Vec::new();
        let mut add = |what: String, node: Node| {
            if let Some(id) = self.place(node) {
                found.push((what, id));
            }
        };
        let Snapshot { images, layers, containers, mounts, driver_dirs, .. } = self.snapshot;
        if let Some((first, last)) = prefix_range(word.strip_prefix("sha256:").unwrap_or(word)) {
            for (id, _) in images.range(ImageId(first)..=ImageId(last)) {
                add(format!("image {}", id.short()), Node::Image(*id));
            }
            for (chain, _) in layers.range(ChainId(first)..=ChainId(last)) {
                add(format!("layer {}", chain.short()), Node::Layer(*chain));
            }
            for (chain, layer) in layers {
                if (first..=last).contains(&layer.diff.0) && chain.0 != layer.diff.0 {
                    add(format!("diff {}", layer.diff.short()), Node::Layer(*chain));
                }
            }
        }
        let is_name =
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !is_name {
            return found;
        }
        for id in containers.keys().filter(|id| id.as_str().starts_with(word)) {
            add(format!("container {}", id.short()), Node::Container(id.clone()));
        }
        for id in mounts.keys().filter(|id| id.as_str().starts_with(word) && !containers.contains_key(*id)) {
            add(format!("mount {}", id.short()), Node::Mount(id.clone()));
        }
        for id in driver_dirs.keys().filter(|id| id.as_str().starts_with(word)) {
            add(format!("directory {id}"), Node::Dir(id.clone()));
        }
        // A writable layer and its init layer have one name.
        if let [(_, one), (_, other)] = &found[..]
            && self.graph.node(*other).id() == format!("{}-init", self.graph.node(*one).id())
        {
            found.truncate(1);
        }
        found
    }
}

/// Returns the node of an entry of layerdb that bears no layer's name.
fn removing_node(name: &str) -> Node {
    Node::Stray(places::layer_named(name))
}
