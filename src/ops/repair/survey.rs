//! What a store's own files still tell of what is damaged: names, sizes, directories.

use std::collections::{BTreeMap, BTreeSet};

use crate::driver::{Driver, DriverDir};
use crate::error::{FsError, Result};
use crate::finding::{Code, Thing};
use crate::fsx::Dir;
use crate::graph::Node;
use crate::id::{CacheId, ChainId, DiffId, ImageId, LinkId};
use crate::layer::{Content, MemberKind, Members};
use crate::notes::Notes;
use crate::ops::load::is_early;
use crate::ops::short_names::{ShortNames, target};
use crate::ops::trash::Owned;
use crate::ops::verify::{Found, Report, is_proved};
use crate::progress::Observer;
use crate::store::layerdb::Fields;
use crate::store::{Layer, Snapshot, Store, Unreadable, containers, places, repositories};
use crate::tarsplit::{Entries, Segments};

use super::donor::Donor;
use super::lost;

/// Length of the names that BuildKit draws for directories.
const BUILDKIT_NAME: usize = 25;
/// Longest `config.v2.json` that is read.
const CONTAINER_LIMIT: u64 = 64 << 20;

/// What images say of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) parent: Option<ChainId>,
    pub(super) diff: DiffId,
}

/// What an entry of layerdb still says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LayerEntry {
    pub(super) diff: Option<DiffId>,
    pub(super) size: Option<u64>,
    pub(super) cache_id: Option<CacheId>,
    /// `None` where it cannot be read; `Some(None)` where there is none.
    pub(super) parent: Option<Option<ChainId>>,
    pub(super) has_tar_split: bool,
}

/// What the disk says beyond a snapshot.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// What images say of layers: those of the store and of the source.
    pub(super) known: BTreeMap<ChainId, Known>,
    /// Layers that images of the store have, or stand on.
    pub(super) wanted: BTreeSet<ChainId>,
    /// Entries of layerdb with something wrong.
    pub(super) entries: BTreeMap<ChainId, LayerEntry>,
    /// Directories that were proved to hold a layer whose entry does not say which it is.
    pub(super) proved: BTreeMap<ChainId, CacheId>,
    /// Sizes of layers whose entry does not say it.
    pub(super) sizes: BTreeMap<ChainId, u64>,
    /// `overlay2`: what its files say of short names.
    pub(super) short: ShortNames,
    /// `overlay2`: directories with the file `committed`.
    pub(super) committed: BTreeSet<CacheId>,
    /// Docker 17.03 to 17.09 made the store: each layer has the directory that it is mounted at.
    pub(super) is_early: bool,
    /// `overlay`: what stands in `lower-id` of layers.
    pub(super) lower_ids: BTreeMap<CacheId, CacheId>,
    /// Directories of the driver that hold a whole tree (`overlay`).
    pub(super) whole_trees: BTreeSet<CacheId>,
    /// Mode and owner of what the driver made, by path, where they are not what they should be.
    pub(super) owned: BTreeMap<String, Owned>,
    /// Owner and group of the driver's home.
    pub(super) owner: (u32, u32),
    /// The bytes of `repositories.json`, where it is there.
    pub(super) references: Option<Vec<u8>>,
    /// The references in it that lead to no image ID.
    pub(super) invalid: Vec<String>,
    /// Images of which the configuration is gone, that this store had, and that the source has.
    pub(super) returning: BTreeSet<ImageId>,
    /// Images of which the configuration was not to be read just now: another time it may be.
    pub(super) unread: BTreeSet<ImageId>,
    /// The references that can still be read in a damaged `repositories.json`.
    pub(super) salvaged: BTreeMap<String, ImageId>,
    /// The references by which containers were made and their images, of the oldest container first.
    pub(super) of_containers: Vec<(String, ImageId)>,
}

impl Survey {
    /// Looks at all that the findings of a report are about.
    ///
    /// # Errors
    /// The file system refuses, or the observer wanted to stop.
    pub(super) fn take(
        store: &Store,
        snapshot: &Snapshot,
        report: &Report,
        source: Option<&Donor>,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let mut survey = Self { known: known(snapshot, source), unread: unread(snapshot), ..Self::default() };
        if let Some(home) = store.home() {
            let attrs = home.attrs(".")?;
            survey.owner = (attrs.uid, attrs.gid);
            survey.look_at_home(store.driver(), home, snapshot)?;
        }
        for found in &report.findings {
            survey.look_at_entry(store, found)?;
            survey.look_at_owner(store, found)?;
        }
        survey.find_directories(store, snapshot, report, observer)?;
        survey.measure(store);
        survey.look_for_references(store, snapshot)?;
        if let Some(dirs) = store.dirs().filter(|_| store.driver().is_readable()) {
            survey.is_early = is_early(dirs, store.driver(), snapshot)?;
        }
        survey.returning = source.map(|source| lost::images(store, snapshot, &survey, source)).unwrap_or_default();
        survey.wanted = wanted(snapshot, source, &survey.returning);
        Ok(survey)
    }

    fn look_at_home(&mut self, driver: &Driver, home: &Dir, snapshot: &Snapshot) -> Result<(), FsError> {
        if driver.has_lower_ids() {
            for id in snapshot.driver_dirs.keys() {
                if FsError::in_place(home.dir(format!("{id}/root")))?.is_some() {
                    self.whole_trees.insert(id.clone());
                }
                let lower = snapshot.read_known(home, driver.name(), &format!("{id}/lower-id"), 4096)?;
                if let Some(lower) = lower.and_then(|text| CacheId::parse(text.trim_ascii()).ok()) {
                    self.lower_ids.insert(id.clone(), lower);
                }
            }
            return Ok(());
        }
        self.short = ShortNames::read(home, snapshot)?;
        if !driver.has_short_names() {
            return Ok(());
        }
        for id in snapshot.driver_dirs.keys() {
            if home.dir(id.as_str())?.find("committed")?.is_some() {
                self.committed.insert(id.clone());
            }
        }
        Ok(())
    }

    /// Reads what is left of an entry of layerdb.
    fn look_at_entry(&mut self, store: &Store, found: &Found) -> Result<(), FsError> {
        let Some(Node::Layer(chain)) = found.object else { return Ok(()) };
        let Some(image) = store.image() else { return Ok(()) };
        let path = places::layer(&chain);
        let Some(dir) = FsError::in_place(image.dir(path))? else { return Ok(()) };
        let fields = Fields::read(&dir, &Thing::Layer(chain).into(), &mut Notes::default());
        let entry = LayerEntry {
            diff: fields.diff.ok(),
            size: fields.size.ok(),
            cache_id: fields.cache_id.ok(),
            parent: fields.parent.ok(),
            has_tar_split: fields.has_tar_split,
        };
        self.entries.insert(chain, entry);
        Ok(())
    }

    /// Notes what mode and owner the things in a directory have of which a finding says that they are wrong.
    fn look_at_owner(&mut self, store: &Store, found: &Found) -> Result<(), FsError> {
        if !matches!(found.finding.code, Code::DriverMode | Code::DriverOwner) {
            return Ok(());
        }
        let (Some(id), Some(home)) = (found.finding.object.directory(), store.home()) else { return Ok(()) };
        let dir = home.dir(id.as_str())?;
        let at = format!("{}/{id}", store.driver());
        self.owned.insert(at.clone(), Owned::of(&dir.attrs(".")?));
        for name in store.driver().made().filter(|name| !name.is_empty()) {
            if let Some(attrs) = dir.find(name)? {
                self.owned.insert(format!("{at}/{name}"), Owned::of(&attrs));
            }
        }
        Ok(())
    }

    /// Finds the directory of each layer whose entry does not say it, or names that of another, or one that is not there: the
    /// one that proves to hold the layer, among those that nothing else names.
    fn find_directories(
        &mut self,
        store: &Store,
        snapshot: &Snapshot,
        report: &Report,
        observer: &dyn Observer,
    ) -> Result<()> {
        let shared: BTreeSet<&CacheId> = report
            .findings
            .iter()
            .filter(|found| found.finding.code == Code::LayerCacheIdShared)
            .filter_map(|found| found.finding.object.directory())
            .collect();
        let missing: BTreeSet<&CacheId> = report
            .findings
            .iter()
            .filter(|found| matches!(found.finding.code, Code::LayerDirectoryMissing | Code::LayerCacheIdWrong))
            .filter_map(|found| match found.object {
                Some(Node::Layer(chain)) => Some(&snapshot.layers.get(&chain)?.cache_id),
                _ => None,
            })
            .collect();
        let in_doubt = |id: &CacheId| shared.contains(id) || missing.contains(id);
        let mut lost: Vec<ChainId> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.has_tar_split && entry.cache_id.is_none())
            .map(|(chain, _)| *chain)
            .collect();
        lost.extend(snapshot.layers.iter().filter(|(_, layer)| in_doubt(&layer.cache_id)).map(|(chain, _)| *chain));
        for chain in lost {
            let Some(known) = self.known.get(&chain).copied() else { continue };
            for id in free_directories(snapshot, chain, in_doubt) {
                let layer = Layer {
                    parent: known.parent,
                    diff: known.diff,
                    cache_id: id.clone(),
                    size: 0,
                    has_tar_split: true,
                };
                let is_taken = self.proved.values().any(|taken| taken == id);
                if !is_taken
                    && self.stands_right(snapshot, id, &layer, in_doubt)
                    && is_proved(store, snapshot, chain, &layer, observer)?
                {
                    self.proved.insert(chain, id.clone());
                    break;
                }
            }
        }
        Ok(())
    }

    /// Tells whether a directory stands, by its own files, on the directories that a layer stands on: another layer may have
    /// the same content. What is `in_doubt` of these says nothing.
    fn stands_right(
        &self,
        snapshot: &Snapshot,
        id: &CacheId,
        layer: &Layer,
        in_doubt: impl Fn(&CacheId) -> bool,
    ) -> bool {
        let Some(names) = self.short.lowers.get(id) else {
            return layer.parent.is_none() || self.short.links.is_none();
        };
        let below = std::iter::successors(layer.parent, |chain| self.known.get(chain).and_then(|known| known.parent));
        let below: Vec<ChainId> = below.collect();
        let leads_right = |(name, chain): (&LinkId, &ChainId)| {
            let below = snapshot.layers.get(chain).map(|layer| &layer.cache_id).filter(|below| !in_doubt(below));
            let (Some(below), Some(leads)) = (below, self.short.leads(name)) else { return true };
            // A short name that leads elsewhere is a finding of its own.
            *leads == target(below)
                || snapshot.driver_dirs.get(below).is_some_and(|dir| dir.link.as_ref() == Some(name))
        };
        names.len() == below.len() && snapshot.driver_dirs.contains_key(id) && names.iter().zip(&below).all(leads_right)
    }

    /// Counts the bytes of layers whose entry does not say how many they are, as the driver counts them.
    fn measure(&mut self, store: &Store) {
        let Some(image) = store.image() else { return };
        for (chain, entry) in self.entries.iter().filter(|(_, entry)| entry.size.is_none() && entry.has_tar_split) {
            let id = entry.cache_id.as_ref().or_else(|| self.proved.get(chain));
            let counts_links =
                store.driver().counts_symlinks() && id.is_some_and(|id| id.as_str().len() != BUILDKIT_NAME);
            let path = places::tar_split(chain);
            let entries = image.file(&path).map(Entries::new).ok();
            if let Some(bytes) = entries.and_then(|entries| tree_bytes(entries, counts_links)) {
                self.sizes.insert(*chain, bytes);
            }
        }
    }

    fn look_for_references(&mut self, store: &Store, snapshot: &Snapshot) -> Result<(), FsError> {
        let read = |image: &Dir| FsError::in_place(image.read(places::REFERENCES, repositories::LIMIT));
        if let Some(bytes) = store.image().map(read).transpose()?.flatten() {
            self.salvaged = repositories::salvage(&bytes);
            let parsed = repositories::parse(&bytes).map(|parsed| parsed.invalid).unwrap_or_default();
            self.invalid = parsed.into_iter().map(|(name, _)| name).collect();
            self.references = Some(bytes);
        }
        let mut made: Vec<(String, ImageId, String)> = Vec::new();
        for id in snapshot.containers.keys() {
            let path = format!("containers/{id}/config.v2.json");
            let text = snapshot.read_known(store.root(), "", &path, CONTAINER_LIMIT)?;
            made.extend(text.and_then(|text| containers::made_from(&text)));
        }
        made.sort_by(|one, other| one.2.cmp(&other.2));
        self.of_containers = made.into_iter().map(|(reference, image, _)| (reference, image)).collect();
        Ok(())
    }
}

/// Lists the directories that nothing names but a layer `in_doubt`, and what BuildKit says of `chain`. Those to which
/// their own short name leads come first: a copy of a directory has the name too.
fn free_directories(snapshot: &Snapshot, chain: ChainId, in_doubt: impl Fn(&CacheId) -> bool) -> Vec<&CacheId> {
    let layers = snapshot.layers.values().map(|layer| &layer.cache_id).filter(|id| !in_doubt(id));
    let mounts = snapshot.mounts.values().flat_map(|mount| mount.mount_id.iter().chain(&mount.init_id));
    let broken = snapshot.broken_layers.values().filter_map(|layer| layer.cache_id.as_ref());
    let builds = snapshot.build_records.values().filter(|record| !record.layers.contains(&chain));
    let builds = builds.flat_map(|record| &record.dirs);
    let named: BTreeSet<&CacheId> = layers.chain(mounts).chain(broken).chain(builds).collect();
    let is_led_to = |(_, dir): &(&CacheId, &DriverDir)| dir.link.as_ref().is_some_and(|link| dir.names.contains(link));
    let free = snapshot.driver_dirs.iter().filter(|(id, _)| !named.contains(id));
    let (led_to, others): (Vec<_>, Vec<_>) = free.partition(is_led_to);
    led_to.into_iter().chain(others).map(|(id, _)| id).collect()
}

/// Collects what images say of layers.
fn known(snapshot: &Snapshot, source: Option<&Donor>) -> BTreeMap<ChainId, Known> {
    let mut known = BTreeMap::new();
    let theirs = source.into_iter().flat_map(|source| source.index.images.iter().map(|image| &image.diff_ids));
    for diffs in snapshot.images.values().map(|image| &image.diff_ids).chain(theirs) {
        let mut parent = None;
        for (chain, diff) in ChainId::of_stack(diffs).into_iter().zip(diffs) {
            known.insert(chain, Known { parent, diff: *diff });
            parent = Some(chain);
        }
    }
    known
}

fn unread(snapshot: &Snapshot) -> BTreeSet<ImageId> {
    let image = |file: &Unreadable| {
        let name = places::name_in(places::IMAGES, &file.path)?;
        ImageId::from_hex(name.as_bytes()).ok()
    };
    snapshot.unreadable.iter().filter_map(image).collect()
}

/// Collects the layers that images of the store have, or that something of it stands on.
fn wanted(snapshot: &Snapshot, source: Option<&Donor>, returning: &BTreeSet<ImageId>) -> BTreeSet<ChainId> {
    let images = snapshot.images.values().flat_map(|image| image.chain_ids());
    let parents = snapshot.layers.values().filter_map(|layer| layer.parent);
    let mounts = snapshot.mounts.values().filter_map(|mount| mount.parent);
    let theirs = source.into_iter().flat_map(|source| &source.index.images);
    let back = theirs.filter(|image| returning.contains(&image.id)).flat_map(|image| image.chain_ids());
    images.chain(parents).chain(mounts).chain(back).collect()
}

/// Returns the bytes of all files of a tar, unpacked, and of where its symbolic links lead, where those count.
fn tree_bytes(entries: Entries<crate::fsx::File>, counts_links: bool) -> Option<u64> {
    let mut members = Members::new(Segments::new(entries), Content::Elided);
    let mut bytes = 0;
    while let Some(member) = members.next_member().ok()? {
        bytes += match member.kind {
            MemberKind::File => member.sparse.map_or(member.size, |map| map.size),
            MemberKind::Symlink(target) if counts_links => target.len() as u64,
            _ => 0,
        };
    }
    Some(bytes)
}
