//! The short names by which directories of the store call layers that are missing below them (`overlay2`).
//!
//! A container, or a layer, that stands on a layer says the names of all that are below it, nearest first, in `lower`; with
//! these it is mounted. A layer that is made anew takes the name that they say, or they do not start.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::FsError;
use crate::fsx::Dir;
use crate::id::{CacheId, ChainId, LinkId};
use crate::model::{ImageRecord, Index};
use crate::ops::short_names::ShortNames;
use crate::store::Snapshot;

/// The names that missing layers are called by.
#[derive(Debug, Default)]
pub(super) struct Above {
    /// The name that a layer has to take, where it is free.
    pub(super) keeps: BTreeMap<ChainId, LinkId>,
    /// All names that a layer is called by that something stands on.
    said: BTreeMap<ChainId, BTreeSet<LinkId>>,
}

impl Above {
    /// Looks what the layers of an archive are called that the store does not have whole.
    ///
    /// # Errors
    /// The home cannot be read.
    pub(super) fn read(
        home: &Dir,
        snapshot: &Snapshot,
        index: &Index,
        whole: &BTreeSet<ChainId>,
    ) -> Result<Self, FsError> {
        let stacks = Stacks::of(snapshot, index);
        let missing: BTreeSet<ChainId> =
            index.layers.iter().map(|layer| layer.chain).filter(|chain| !whole.contains(chain)).collect();
        let below = stacks.below_anything(&missing);
        let mut above = Self::default();
        if below.is_empty() {
            return Ok(above);
        }
        let names = ShortNames::read(home, snapshot)?;
        let mut taken = BTreeSet::new();
        for chain in below {
            let said: BTreeSet<LinkId> = names.of_below(&Some(chain), |id| stacks.of_dir(id)).cloned().collect();
            for name in &said {
                if !taken.contains(name) && is_free(home, snapshot, &names, name)? {
                    taken.insert(name.clone());
                    above.keeps.insert(chain, name.clone());
                    break;
                }
            }
            above.said.insert(chain, said);
        }
        Ok(above)
    }

    /// Tells whether something of the store stands on a layer that is missing.
    pub(super) fn has(&self, chain: ChainId) -> bool {
        self.said.contains_key(&chain)
    }

    /// Tells whether something calls a layer by another name than this.
    pub(super) fn is_called_otherwise(&self, chain: ChainId, name: Option<&LinkId>) -> bool {
        self.said.get(&chain).is_some_and(|said| said.iter().any(|one| Some(one) != name))
    }
}

/// Tells whether a short name can be given: no directory says that it is its own, and it leads to none.
fn is_free(home: &Dir, snapshot: &Snapshot, names: &ShortNames, name: &LinkId) -> Result<bool, FsError> {
    if snapshot.driver_dirs.values().any(|dir| dir.link.as_ref() == Some(name)) {
        return Ok(false);
    }
    names.leads(name).map_or(Ok(true), |target| leads_nowhere(home, target.as_bytes()))
}

/// Tells whether what a short name says that it leads to is not there.
pub(super) fn leads_nowhere(home: &Dir, target: &[u8]) -> Result<bool, FsError> {
    match target.strip_prefix(b"../") {
        Some(path) => Ok(FsError::in_place(home.dir(path))?.is_none()),
        // No engine writes such a link: whatever it leads to is somebody's.
        None => Ok(false),
    }
}

/// What stands on what: each directory that the store names, with all layers below it.
struct Stacks {
    parents: HashMap<ChainId, Option<ChainId>>,
    dirs: HashMap<CacheId, Stack>,
}

/// What a directory stands on: its own init layer, which is no image's, and a layer with those below it.
struct Stack {
    has_init: bool,
    top: Option<ChainId>,
}

impl Stacks {
    fn of(snapshot: &Snapshot, index: &Index) -> Self {
        let mut parents = HashMap::new();
        let stored = snapshot.images.values().map(crate::store::Image::chain_ids);
        for chains in index.images.iter().map(ImageRecord::chain_ids).chain(stored) {
            let below = std::iter::once(None).chain(chains.iter().copied().map(Some));
            parents.extend(chains.iter().copied().zip(below));
        }
        parents.extend(snapshot.layers.iter().map(|(chain, layer)| (*chain, layer.parent)));
        let mut dirs = HashMap::new();
        let whole = snapshot.layers.values().map(|layer| (Some(&layer.cache_id), layer.parent));
        let broken = snapshot.broken_layers.values().map(|layer| (layer.cache_id.as_ref(), layer.parent));
        for (id, top) in whole.chain(broken) {
            dirs.extend(id.cloned().map(|id| (id, Stack { has_init: false, top })));
        }
        for mount in snapshot.mounts.values() {
            if let Some(init) = &mount.init_id {
                dirs.insert(init.clone(), Stack { has_init: false, top: mount.parent });
            }
            if let Some(id) = &mount.mount_id {
                dirs.insert(id.clone(), Stack { has_init: mount.init_id.is_some(), top: mount.parent });
            }
        }
        Self { parents, dirs }
    }

    /// Returns what a directory stands on, nearest first; `None` in it is an init layer.
    fn of_dir(&self, id: &CacheId) -> Option<Vec<Option<ChainId>>> {
        let Stack { has_init, top } = self.dirs.get(id)?;
        let mut stack = if *has_init { vec![None] } else { Vec::new() };
        let mut at = *top;
        while let Some(chain) = at {
            // Wrong parents may lead round in a circle.
            if stack.len() > self.parents.len() {
                return None;
            }
            stack.push(Some(chain));
            at = *self.parents.get(&chain)?;
        }
        Some(stack)
    }

    /// Returns those of `missing` that something stands on.
    fn below_anything(&self, missing: &BTreeSet<ChainId>) -> BTreeSet<ChainId> {
        if missing.is_empty() {
            return BTreeSet::new();
        }
        let stacks = self.dirs.keys().filter_map(|id| self.of_dir(id));
        stacks.flatten().flatten().filter(|chain| missing.contains(chain)).collect()
    }
}
