//! How much the directories of a graph driver take, and how much would go with each node.
//!
//! A file with several names counts once: within a directory, and over all of them. Legacy `overlay` gives a file
//! of a lower layer a name in every layer above; such a file belongs to all those directories together and
//! goes only with the last of them. What copy-on-write file systems share without telling (reflinks, btrfs
//! snapshots) counts in each directory that has it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::Metadata;
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::Serialize;
use walkdir::WalkDir;

use super::{Graph, Id, Node};
use crate::driver;
use crate::finding::Finding;
use crate::fsx::Inode;
use crate::id::CacheId;
use crate::progress::{Event, Observer};

/// Bytes of one block of `st_blocks`, whatever the file system's own block is.
const BLOCK: u64 = 512;

/// How much something takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Size {
    /// Bytes on disk, in whole blocks: what removing it gives back.
    pub disk: u64,
    /// Bytes of content: lengths of files and of symbolic links.
    pub content: u64,
    /// Number of files, directories and whatever else takes an inode.
    pub inodes: u64,
}

impl Size {
    fn of(metadata: &Metadata) -> Self {
        let content = if metadata.is_file() || metadata.is_symlink() { metadata.len() } else { 0 };
        Self { disk: metadata.blocks() * BLOCK, content, inodes: 1 }
    }
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.disk += other.disk;
        self.content += other.content;
        self.inodes += other.inodes;
    }
}

impl std::iter::Sum for Size {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), |mut sum, size| {
            sum += size;
            sum
        })
    }
}

/// Files that several directories have together, because they are the same files by hard links.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    /// The directories, sorted.
    dirs: Vec<CacheId>,
    size: Size,
    /// Names of these files are outside of all directories that were measured: removing does not free them.
    outside: bool,
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

/// Returns where a graph driver keeps what belongs to one directory.
///
/// `home` is the driver's own directory, `<root>/<driver>`.
#[must_use]
pub fn paths_of(driver: &str, home: &Path, dir: &CacheId) -> Vec<PathBuf> {
    driver::places(driver).iter().map(|place| home.join(place).join(dir.as_str())).collect()
}

impl Sizes {
    /// Measures directories of a graph driver, several at a time. Links are not followed and other file systems
    /// not entered, so what is mounted in a running container does not count. What vanishes meanwhile does not
    /// count; what cannot be read becomes a finding.
    #[must_use]
    pub fn measure<'d>(
        driver: &str,
        home: &Path,
        dirs: impl IntoIterator<Item = &'d CacheId>,
        observer: &dyn Observer,
    ) -> Self {
        let dirs: Vec<&CacheId> = dirs.into_iter().collect();
        observer.on(Event::Begin { what: "measuring", total: None });
        let walked: Vec<Walked> = dirs
            .par_iter()
            .map(|dir| {
                observer.on(Event::Object(dir.as_str()));
                let mut walked = Walked::default();
                for path in paths_of(driver, home, dir) {
                    walked.walk(&path, driver);
                }
                observer.on(Event::Advance(walked.alone.disk));
                walked
            })
            .collect();
        observer.on(Event::End);
        Self::join(dirs.into_iter().cloned().zip(walked))
    }

    fn join(walked: impl Iterator<Item = (CacheId, Walked)>) -> Self {
        let mut sizes = Self::default();
        let mut shared: HashMap<Inode, Shared> = HashMap::new();
        for (dir, found) in walked {
            sizes.findings.extend(found.findings);
            for (inode, linked) in found.linked {
                let entry = shared.entry(inode).or_insert_with(|| Shared { linked, dirs: Vec::new(), seen: 0 });
                entry.dirs.push(dir.clone());
                entry.seen += linked.seen;
            }
            *sizes.alone.entry(dir).or_default() += found.alone;
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

    /// Returns what could not be measured.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// A file with more than one name, as one directory has it.
#[derive(Debug, Clone, Copy)]
struct Linked {
    size: Size,
    /// How many names it has anywhere.
    names: u64,
    /// How many of them are in the directory.
    seen: u64,
}

struct Shared {
    linked: Linked,
    dirs: Vec<CacheId>,
    seen: u64,
}

/// What a walk through one directory found.
#[derive(Debug, Default)]
struct Walked {
    alone: Size,
    linked: HashMap<Inode, Linked>,
    findings: Vec<Finding>,
}

impl Walked {
    fn walk(&mut self, path: &Path, driver: &str) {
        let walk = WalkDir::new(path).follow_links(false).follow_root_links(false).same_file_system(true);
        for entry in walk {
            let metadata = match entry.and_then(|entry| entry.metadata()) {
                Ok(metadata) => metadata,
                Err(error) => {
                    self.fail(&error, driver);
                    continue;
                }
            };
            let size = Size::of(&metadata);
            if metadata.is_dir() || metadata.nlink() < 2 {
                self.alone += size;
                continue;
            }
            let linked = Linked { size, names: metadata.nlink(), seen: 0 };
            self.linked.entry((metadata.dev(), metadata.ino())).or_insert(linked).seen += 1;
        }
    }

    fn fail(&mut self, error: &walkdir::Error, driver: &str) {
        let reason = match error.io_error() {
            Some(reason) if reason.kind() == std::io::ErrorKind::NotFound => return,
            Some(reason) => reason.to_string(),
            None => error.to_string(),
        };
        let subject = error.path().map_or_else(|| driver.to_owned(), |path| path.display().to_string());
        self.findings.push(Finding::warning("not-measured", subject, reason));
    }
}

/// How much would go with each node of a graph, if nothing but it were removed.
#[derive(Debug, Clone)]
pub struct Holdings(Vec<Size>);

impl Holdings {
    /// Spreads sizes over a graph, where `roots` are what stays by itself. A node that no root reaches
    /// counts as if it were a root, as long as nothing else leads to it.
    #[must_use]
    pub fn of(graph: &Graph, sizes: &Sizes, roots: &[Id]) -> Self {
        let reached = graph.reach(roots);
        let garbage = graph.ids().filter(|id| !reached.has(*id) && !graph.is_kept(*id));
        let all: Vec<Id> = roots.iter().copied().chain(garbage).collect();
        Self::among(graph, sizes, &all)
    }

    /// As [`Holdings::of`], as if nothing but `nodes` were there to keep anything.
    #[must_use]
    pub fn among(graph: &Graph, sizes: &Sizes, nodes: &[Id]) -> Self {
        let mut weights = vec![Size::default(); graph.len()];
        for (dir, size) in &sizes.alone {
            if let Some(id) = graph.find(&Node::Dir(dir.clone())) {
                weights[id.index()] = *size;
            }
        }
        let groups: Vec<(Vec<Id>, Size)> = sizes
            .groups
            .iter()
            .filter(|group| !group.outside)
            .map(|group| {
                let holders = group.dirs.iter().filter_map(|dir| graph.find(&Node::Dir(dir.clone())));
                (holders.collect(), group.size)
            })
            .collect();
        Self(graph.dominated(nodes, &weights, &groups))
    }

    /// Returns how much would go with a node.
    #[must_use]
    pub fn with(&self, id: Id) -> Size {
        self.0.get(id.index()).copied().unwrap_or_default()
    }
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
        let sizes = Sizes::measure("overlay2", home.path(), &dirs, &());
        assert_eq!(sizes.findings(), []);
        let union = |names: &str| sizes.union(|dir| names.contains(dir.as_str())).content;
        let freed = |names: &str| sizes.freed(|dir| names.contains(dir.as_str())).content;
        assert_eq!((union("a"), union("b"), union("c")), (10_000, 11_000, 11_111));
        assert_eq!(union("abc"), 11_111);
        assert_eq!((freed("a"), freed("c"), freed("bc"), freed("abc")), (0, 101, 1101, 11_101));
        assert_eq!(sizes.union(|dir| dir == &id("a")).disk % 512, 0);
    }

    #[test]
    fn where_drivers_keep_directories() {
        let home = Path::new("/h");
        let of = |driver| paths_of(driver, home, &id("x")).iter().map(|path| path.components().collect()).collect();
        let paths: Vec<Vec<PathBuf>> = vec![of("overlay2"), of("vfs"), of("btrfs"), of("aufs")];
        let expected: Vec<Vec<PathBuf>> = [
            &["/h/x"][..],
            &["/h/dir/x"],
            &["/h/quotas/x", "/h/subvolumes/x"],
            &["/h/mnt/x", "/h/diff/x", "/h/layers/x"],
        ]
        .map(|paths| paths.iter().map(PathBuf::from).collect())
        .to_vec();
        assert_eq!(paths, expected);
    }
}
