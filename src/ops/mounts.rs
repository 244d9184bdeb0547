//! Entries of `layerdb/mounts` as they must be, by what else the store says of containers.

use crate::id::{CacheId, ContainerId};
use crate::store::{Image, Mount, Snapshot};

/// An entry of which nothing is known.
pub(super) const EMPTY: Mount = Mount { mount_id: None, init_id: None, parent: None };

/// Tells whether a writable layer stands on no layer at all, as its image has none. That its entry names none says nothing: the
/// file may be lost, or could not be read.
pub(super) fn stands_on_nothing(snapshot: &Snapshot, name: &ContainerId) -> bool {
    image_of(snapshot, name).is_some_and(|image| image.diff_ids.is_empty())
}

/// Returns the image of a container, where both are known.
fn image_of<'s>(snapshot: &'s Snapshot, name: &ContainerId) -> Option<&'s Image> {
    snapshot.images.get(&snapshot.containers.get(name)?.image?)
}

/// Returns what the entry of a writable layer must say, as far as anything else tells.
///
/// A container stands on the topmost layer of its image, and its init layer is named like its own directory. dockerd mounts
/// what `lower` says, so a container whose entry is wrong starts all the same: `lower` must not be held against that.
pub(super) fn corrected(snapshot: &Snapshot, name: &ContainerId, mount: &Mount) -> Mount {
    let is_there = |id: &CacheId| snapshot.driver_dirs.contains_key(id);
    let by_init = || {
        let id = mount.init_id.as_ref()?.as_str().strip_suffix("-init")?;
        CacheId::parse(id.as_bytes()).ok().filter(is_there)
    };
    let mount_id = mount.mount_id.clone().filter(is_there).or_else(by_init).or_else(|| mount.mount_id.clone());
    let by_name = || {
        let id = format!("{}-init", mount_id.as_ref()?);
        CacheId::parse(id.as_bytes()).ok().filter(is_there)
    };
    let init_id = mount.init_id.clone().filter(is_there).or_else(by_name).or_else(|| mount.init_id.clone());
    let top = image_of(snapshot, name).and_then(Image::top);
    Mount { mount_id, init_id, parent: top.or(mount.parent) }
}

/// Lists the files of an entry that are not what they must be: name, what it says, and what it must say.
pub(super) fn wrong_files(was: &Mount, must: &Mount) -> Vec<(&'static str, Option<String>, Option<String>)> {
    let told = |mount: &Mount| {
        let ids = [&mount.mount_id, &mount.init_id].map(|id| id.as_ref().map(ToString::to_string));
        let [mount_id, init_id] = ids;
        [mount_id, init_id, mount.parent.map(|id| id.to_string())]
    };
    let files = ["mount-id", "init-id", "parent"].into_iter().zip(told(was)).zip(told(must));
    files.map(|((file, was), must)| (file, was, must)).filter(|(_, was, must)| was != must).collect()
}

/// Says in what an entry is not what it must be.
pub(super) fn mismatch(was: &Mount, must: &Mount) -> Option<String> {
    let shown = |id: Option<String>| id.unwrap_or_else(|| "nothing".to_owned());
    let wrong: Vec<String> = wrong_files(was, must)
        .into_iter()
        .map(|(file, was, must)| format!("{file}: expected {}, found {}", shown(must), shown(was)))
        .collect();
    (!wrong.is_empty()).then(|| wrong.join("; "))
}
