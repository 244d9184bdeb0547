//! How much the directories of a graph driver take, one by one and together.
//!
//! A file with several names counts once: within a directory, and over all of them. Legacy `overlay` gives a file
//! of a lower layer a name in every layer above; such a file belongs to all those directories together and
//! goes only with the last of them. What copy-on-write file systems share without telling (reflinks, btrfs
//! snapshots) counts in each directory that has it.

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::Driver;
use crate::error::FsError;
use crate::finding::{Code, Finding};
use crate::fsx::{Dir, Footprint, Inode, Linked, Size};
use crate::id::CacheId;
use crate::progress::{Event, Observer};

/// Files that several directories have together, because they are the same files by hard links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// The directories, sorted.
    pub(crate) dirs: Vec<CacheId>,
    /// What the files take.
    pub(crate) size: Size,
    /// Names of these files are outside of all directories that were measured: removing does not free them.
    pub(crate) outside: bool,
}

/// What the directories of a graph driver take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What each directory has alone.
    alone: BTreeMap<CacheId, Size>,
    groups: Vec<Group>,
    /// Places in `groups` of those that each directory takes part in.
    groups_of: HashMap<CacheId, Vec<usize>>,
    findings: Vec<Finding>,
}

impl Sizes {
    /// Measures directories of a graph driver, several at a time; `home` is the driver's own directory, `<root>/<driver>`.
    /// Links are not followed and other mounts not entered, so what is mounted in a running container does not
    /// count. What vanishes meanwhile does not count; what cannot be looked at becomes a finding.
    #[must_use]
    pub fn measure<'d>(
        driver: &Driver,
        home: &Dir,
        dirs: impl IntoIterator<Item = &'d CacheId>,
        observer: &dyn Observer,
    ) -> Self {
        let dirs: Vec<&CacheId> = dirs.into_iter().collect();
        observer.on(Event::Begin { what: "measuring", total: None });
        let (opened, failed): (Vec<_>, Vec<_>) =
            driver.places().map(|place| FsError::found(home.dir(place))).partition(Result::is_ok);
        let opened: Vec<Dir> = opened.into_iter().flatten().flatten().collect();
        let walked: Vec<Walked> = dirs
            .par_iter()
            .map(|dir| {
                observer.on(Event::Object(dir.as_str()));
                let walked: Walked = opened.iter().map(|place| place.known_footprint(dir.as_str())).collect();
                observer.on(Event::Advance(walked.disk()));
                walked
            })
            .collect();
        observer.on(Event::End);
        let mut sizes = Self::join(dirs.into_iter().cloned().zip(walked));
        sizes.findings.splice(0..0, failed.into_iter().filter_map(Result::err).map(not_measured));
        sizes
    }

    fn join(walked: impl Iterator<Item = (CacheId, Walked)>) -> Self {
        let mut sizes = Self::default();
        let mut shared: HashMap<Inode, Shared> = HashMap::new();
        for (dir, Walked { trees, findings }) in walked {
            sizes.findings.extend(findings);
            for (inode, linked) in trees.iter().flat_map(|tree| &tree.linked) {
                let entry =
                    shared.entry(*inode).or_insert_with(|| Shared { linked: *linked, dirs: Vec::new(), seen: 0 });
                if entry.dirs.last() != Some(&dir) {
                    entry.dirs.push(dir.clone());
                }
                entry.seen += linked.seen;
            }
            *sizes.alone.entry(dir).or_default() += trees.iter().map(|tree| tree.alone).sum();
        }
        let mut groups: BTreeMap<(Vec<CacheId>, bool), Size> = BTreeMap::new();
        for mut file in shared.into_values() {
            file.dirs.sort();
            *groups.entry((file.dirs, file.seen < file.linked.names)).or_default() += file.linked.size;
        }
        for ((dirs, outside), size) in groups {
            match (&dirs[..], outside) {
                ([dir], false) => *sizes.alone.entry(dir.clone()).or_default() += size,
                _ => {
                    for dir in &dirs {
                        sizes.groups_of.entry(dir.clone()).or_default().push(sizes.groups.len());
                    }
                    sizes.groups.push(Group { dirs, size, outside });
                }
            }
        }
        sizes
    }

    /// Returns what the directories that are `wanted` take together, each file once.
    pub fn union(&self, wanted: impl Fn(&CacheId) -> bool) -> Size {
        let alone = self.alone.iter().filter(|(dir, _)| wanted(dir)).map(|(_, size)| *size);
        let groups = self.groups.iter().filter(|group| group.dirs.iter().any(&wanted)).map(|group| group.size);
        alone.chain(groups).sum()
    }

    /// Returns what a few directories take together, each file once.
    #[must_use]
    pub fn union_of(&self, wanted: &HashSet<CacheId>) -> Size {
        let alone = wanted.iter().filter_map(|dir| self.alone.get(dir)).copied();
        let mut groups: Vec<usize> =
            wanted.iter().filter_map(|dir| self.groups_of.get(dir)).flatten().copied().collect();
        groups.sort_unstable();
        groups.dedup();
        alone.chain(groups.into_iter().map(|group| self.groups[group].size)).sum()
    }

    /// Returns what would be given back if all directories that are `gone`, and no others, were removed.
    pub fn freed(&self, gone: impl Fn(&CacheId) -> bool) -> Size {
        let alone = self.alone.iter().filter(|(dir, _)| gone(dir)).map(|(_, size)| *size);
        let groups = self.groups.iter().filter(|group| !group.outside && group.dirs.iter().all(&gone));
        alone.chain(groups.map(|group| group.size)).sum()
    }

    /// Returns what each directory has alone.
    pub(crate) fn alone(&self) -> impl Iterator<Item = (&CacheId, Size)> {
        self.alone.iter().map(|(dir, size)| (dir, *size))
    }

    /// Returns what several directories have together.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Returns what could not be measured.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// A file with several names, and the directories that have some of them.
struct Shared {
    linked: Linked,
    dirs: Vec<CacheId>,
    seen: u64,
}

/// What one directory has, in each of the driver's places.
#[derive(Debug, Default)]
struct Walked {
    trees: Vec<Footprint>,
    findings: Vec<Finding>,
}

impl Walked {
    /// Returns the bytes on disk of what has no other name.
    fn disk(&self) -> u64 {
        self.trees.iter().map(|tree| tree.alone.disk).sum()
    }
}

impl FromIterator<(Footprint, Vec<FsError>)> for Walked {
    fn from_iter<I: IntoIterator<Item = (Footprint, Vec<FsError>)>>(places: I) -> Self {
        let (trees, failed): (Vec<_>, Vec<_>) = places.into_iter().unzip();
        Self { trees, findings: failed.into_iter().flatten().map(not_measured).collect() }
    }
}

fn not_measured(error: FsError) -> Finding {
    Finding::new(Code::NotMeasured, error.path.display().to_string(), error.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> CacheId {
        CacheId::parse(name.as_bytes()).expect("a name")
    }

    /// Three layers of legacy `overlay`: each has the files of the one below by hard links.
    #[test]
    fn hard_links_count_once() {
        let home = tempfile::tempdir().expect("a temp directory");
        let at = |path: &str| home.path().join(path);
        for dir in ["a", "b", "c"] {
            std::fs::create_dir(at(dir)).expect("a directory");
        }
        std::fs::write(at("a/base"), [7; 10_000]).expect("a file");
        std::fs::hard_link(at("a/base"), at("b/base")).expect("a link");
        std::fs::hard_link(at("a/base"), at("c/base")).expect("a link");
        std::fs::hard_link(at("c/base"), at("c/again")).expect("a link");
        std::fs::write(at("b/middle"), [7; 1000]).expect("a file");
        std::fs::hard_link(at("b/middle"), at("c/middle")).expect("a link");
        std::fs::write(at("c/top"), [7; 100]).expect("a file");
        std::fs::hard_link(at("c/top"), at("c/top-too")).expect("a link");
        std::fs::write(at("c/out"), [7; 10]).expect("a file");
        std::fs::hard_link(at("c/out"), at("elsewhere")).expect("a link");
        std::os::unix::fs::symlink("/", at("c/link")).expect("a link");
        let dirs = [id("a"), id("b"), id("c"), id("gone")];
        let sizes = Sizes::measure(crate::driver::USUAL, &Dir::open_root(home.path()).expect("opens"), &dirs, &());
        assert_eq!(sizes.findings(), []);
        let union = |names: &str| sizes.union(|dir| names.contains(dir.as_str())).content;
        let freed = |names: &str| sizes.freed(|dir| names.contains(dir.as_str())).content;
        assert_eq!((union("a"), union("b"), union("c")), (10_000, 11_000, 11_111));
        assert_eq!(union("abc"), 11_111);
        assert_eq!((freed("a"), freed("c"), freed("bc"), freed("abc")), (0, 101, 1101, 11_101));
        assert_eq!(sizes.union(|dir| dir == &id("a")).disk % 512, 0);
        let home = Dir::open_root(home.path()).expect("opens");
        let trees = ["b", "c", "a"].map(|name| home.footprint(name).expect("walks"));
        let bc = Footprint::freed(&trees[..2]).iter().sum::<u64>();
        assert_eq!(bc, sizes.freed(|dir| dir != &id("a")).disk, "both say the same");
        assert_eq!(Footprint::freed(&trees).iter().sum::<u64>(), sizes.freed(|_| true).disk);
    }
}
