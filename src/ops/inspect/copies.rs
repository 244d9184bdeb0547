//! Files of legacy `overlay` that are copies of those in the layer below.
//!
//! Each layer has the whole tree, and what it does not change it has by hard links. A store that was copied without them
//! (`rsync` without `-H`, `cp -r`) works as before and takes several times the space. A file that the layer's tar does not
//! have is that of the layer below. Where it has one name, and is as long, as old and of the same owner and mode as that one,
//! it is such a copy; that both have the same content is not proved here.

use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use serde::Serialize;

use crate::fsx::{Attrs, Dir, Kind};
use crate::id::ChainId;
use crate::layer::differences::Prediction;
use crate::layer::{Content, Marks, Members};
use crate::store::{Layer, Snapshot, Store, places};
use crate::tarsplit::{Entries, Segments};

/// What such files are together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Copies {
    /// Number of files.
    pub files: usize,
    /// Bytes on disk.
    pub disk: u64,
}

impl Copies {
    /// Counts those of all layers, several at a time; none where the driver does not link files. What cannot be read does
    /// not count.
    #[must_use]
    pub fn find(store: &Store, snapshot: &Snapshot) -> Self {
        if !store.driver().links_files() {
            return Self::default();
        }
        let layers: Vec<(&ChainId, &Layer)> = snapshot.layers.iter().collect();
        let of = |(chain, layer): (&ChainId, &Layer)| {
            let parent = snapshot.layers.get(&layer.parent?)?;
            let (own, below) = (tree(store, layer)?, tree(store, parent)?);
            let mut copies = alike(own, below.clone());
            if !copies.is_empty() {
                let tar = members(store, *chain, below)?;
                copies.retain(|(path, _)| !tar.has(path));
            }
            Some(Self { files: copies.len(), disk: copies.iter().map(|(_, disk)| disk).sum() })
        };
        let counted: Vec<Self> = layers.into_par_iter().filter_map(of).collect();
        let (files, disk) = counted.iter().fold((0, 0), |(files, disk), of| (files + of.files, disk + of.disk));
        Self { files, disk }
    }
}

/// Opens the whole tree of a layer. Those that BuildKit made in place hold only what they change.
fn tree(store: &Store, layer: &Layer) -> Option<Dir> {
    store.dirs()?.dir(format!("{}/root", layer.cache_id)).ok()
}

/// Reads what the tar of a layer has.
fn members(store: &Store, chain: ChainId, below: Dir) -> Option<Prediction> {
    let split = store.image()?.file(places::tar_split(&chain)).ok()?;
    let mut members = Members::new(Segments::new(Entries::new(split)), Content::Elided);
    let mut tar = Prediction::new(Marks::None, Some(below));
    while let Some(member) = members.next_member().ok()? {
        let member = tar.resolved(member);
        tar.add(&member);
    }
    Some(tar)
}

/// Lists the files of a tree that have one name and look like those of the same path in the tree below: paths, and bytes on
/// disk.
fn alike(own: Dir, below: Dir) -> Vec<(Vec<u8>, u64)> {
    let mut alike = Vec::new();
    // A stack of its own: how deep a tree is, is up to whoever made it.
    let mut waiting = vec![(Vec::new(), own, below)];
    while let Some((path, own, below)) = waiting.pop() {
        for entry in own.entries().unwrap_or_default() {
            let path = if path.is_empty() { entry.name.clone() } else { [&path[..], b"/", &entry.name].concat() };
            if entry.kind == Kind::Directory {
                let both = own.dir(&entry.name).ok().zip(below.dir(&entry.name).ok());
                waiting.extend(both.map(|(own, below)| (path, own, below)));
            } else if entry.kind == Kind::File
                && let Ok(found) = own.attrs(&entry.name)
                && found.links == 1
                && let Ok(Some(other)) = below.find(&entry.name)
                && looks(&found) == looks(&other)
            {
                alike.push((path, found.disk));
            }
        }
    }
    alike
}

/// What a copy has in common with the file.
fn looks(attrs: &Attrs) -> impl PartialEq {
    (attrs.kind, attrs.size, attrs.mtime, attrs.mode, attrs.uid, attrs.gid)
}
