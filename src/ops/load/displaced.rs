//! Records of layers that make room for new ones.

use super::plan::LoadPlan;
use crate::error::{Error, FsError, Result};
use crate::fsx::Dir;
use crate::id::{CacheId, ChainId};
use crate::ops::trash::{Identity, identify};
use crate::store::{Snapshot, Store, places};

/// The file of a record that names the layer's directory. It goes first, before the record is moved.
pub(super) const CACHE_ID: &str = "cache-id";

impl LoadPlan {
    /// Notes what the records are that make room.
    ///
    /// # Errors
    /// A container that runs on without its daemon uses the directory that one of them names: without the record
    /// it would be garbage.
    pub(super) fn note_displaced(&mut self, store: &Store, snapshot: &Snapshot) -> Result<()> {
        let displaced: Vec<ChainId> =
            self.layers.iter().filter(|layer| layer.displaces).map(|layer| layer.record.chain).collect();
        let (Some(image), false) = (store.image(), displaced.is_empty()) else { return Ok(()) };
        let in_use = store.in_use();
        let records = image.dir(places::LAYERS)?;
        for chain in displaced {
            for id in directories(snapshot, chain) {
                let path = store.driver().path_of(&id);
                if let Some(how) = in_use.of(&path) {
                    let (path, how) = (store.path().join(path), how.to_owned());
                    return Err(Error::LayerInUse { chain: chain.to_string(), path, how });
                }
            }
            if let Some(identity) = identify(&records, &chain.hex())? {
                self.displaced.insert(chain, identity);
            }
        }
        Ok(())
    }

    /// Tells whether a record still is the one that makes room, also where it was on its way when the load was
    /// interrupted. Older journals do not say which it was.
    pub(super) fn makes_room(&self, chain: ChainId, records: &Dir) -> Result<bool, FsError> {
        let Some(was) = self.displaced.get(&chain) else { return Ok(true) };
        let name = chain.hex();
        let Some(now) = identify(records, &name)? else { return Ok(false) };
        let is_same = |now: &Identity| (now.kind, now.inode) == (was.kind, was.inode);
        Ok(now == *was || is_same(&now) && records.dir(&name)?.find(CACHE_ID)?.is_none())
    }
}

/// Returns the directories that the record of a layer names.
fn directories(snapshot: &Snapshot, chain: ChainId) -> impl Iterator<Item = CacheId> {
    let whole = snapshot.layers.get(&chain).map(|layer| layer.cache_id.clone());
    let broken = snapshot.broken_layers.get(&chain.hex()).and_then(|layer| layer.cache_id.clone());
    whole.into_iter().chain(broken)
}
