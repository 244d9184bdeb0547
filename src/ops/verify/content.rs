//! Proves layers: every byte against the diff ID, every node against the headers of the tar.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;

use rayon::prelude::*;

use crate::driver::{Driver, DriverFacts};
use crate::error::{Error, FsError, ParseError, Result};
use crate::finding::Code;
use crate::fsx::{self, Dir, File, Inode};
use crate::id::{ChainId, Sha256};
use crate::layer::{Content, Marks, Members, TarError};
use crate::ops::hash::Hash;
use crate::progress::{Event, Observer};
use crate::store::{Layer, Snapshot, Store, places};
use crate::tarsplit::{AssembleError, Assembler, Beside, Entries, Entry, LayerTree, Segments};

use super::attributes::making;
use super::below::Below;
use super::headers::{Headers, SparseFile, Stamp};
use super::tree::{Problem, TreeCheck, text};

/// What was found in the layers.
#[derive(Debug, Default)]
pub(super) struct Proved {
    /// Problems, by layer.
    pub(super) problems: Vec<(ChainId, Problem)>,
    /// Number of nodes that were compared.
    pub(super) nodes: u64,
    /// Bytes of tar that were hashed.
    pub(super) bytes: u64,
    /// Layers whose tar is what it was.
    pub(super) tars: BTreeSet<ChainId>,
}

/// Codes of what could not be read.
const UNREAD: [Code; 3] = [Code::TreeUnreadable, Code::FileUnreadable, Code::LayerTarSplitDamaged];

/// Proves these layers, several at a time.
pub(super) fn prove(
    store: &Store,
    snapshot: &Snapshot,
    layers: &[(ChainId, &Layer)],
    observer: &dyn Observer,
) -> Result<Proved> {
    let driver = store.driver().readable()?;
    store.namespace()?;
    observer.on(Event::Begin { what: "verifying", total: Some(layers.iter().map(|(_, layer)| layer.size).sum()) });
    // The longest first, so that none is left alone at the end.
    let mut order: Vec<&(ChainId, &Layer)> = layers.iter().collect();
    order.sort_by_key(|(_, layer)| std::cmp::Reverse(layer.size));
    let once = |(chain, layer): &(ChainId, &Layer)| {
        let mut proof = Proof { store, snapshot, driver, layer, observer, found: One::default() };
        proof.run(*chain).map(|()| proof.found)
    };
    let one = |layer: &(ChainId, &Layer)| {
        let found = once(layer)?;
        // A failure to read that passes is no damage: nothing is rebuilt for it.
        let found =
            if found.problems.iter().any(|problem| UNREAD.contains(&problem.code)) { once(layer)? } else { found };
        Ok((layer.0, found))
    };
    let found: Vec<(ChainId, One)> = order.into_iter().par_bridge().map(one).collect::<Result<_>>()?;
    observer.on(Event::End);
    // A hard link to a file below gives that file, in the layer below too, what its own header says.
    let stamps: HashMap<Inode, Vec<Stamp>> = found.iter().fold(HashMap::new(), |mut all, (_, one)| {
        for (inode, stamp) in &one.stamps {
            all.entry(*inode).or_insert_with(Vec::new).push(*stamp);
        }
        all
    });
    let mut proved = Proved::default();
    for (chain, one) in found {
        proved.nodes += one.nodes;
        proved.bytes += one.bytes;
        if one.is_tar_proved {
            proved.tars.insert(chain);
        }
        let is_unexplained = |problem: &Problem| problem.inode.is_none_or(|inode| !stamps.contains_key(&inode));
        proved.problems.extend(one.problems.into_iter().filter(is_unexplained).map(|problem| (chain, problem)));
    }
    leave_lost_below_out(snapshot, &mut proved.problems);
    proved.problems.sort();
    Ok(proved)
}

/// Leaves out what a layer has only because the layer below, of which its tree is a copy, has lost it.
fn leave_lost_below_out(snapshot: &Snapshot, problems: &mut Vec<(ChainId, Problem)>) {
    let lost: HashSet<(ChainId, Vec<u8>)> = problems
        .iter()
        .filter(|(_, problem)| problem.code == Code::FileMissing)
        .map(|(chain, problem)| (*chain, problem.path.clone()))
        .collect();
    let below = |chain: &ChainId| snapshot.layers.get(chain).and_then(|layer| layer.parent);
    problems.retain(|(chain, problem)| {
        problem.code != Code::FileExtra
            || !std::iter::successors(below(chain), below).any(|below| lost.contains(&(below, problem.path.clone())))
    });
}

/// What was found in one layer.
#[derive(Debug, Default)]
struct One {
    problems: Vec<Problem>,
    stamps: Vec<(Inode, Stamp)>,
    nodes: u64,
    bytes: u64,
    is_tar_proved: bool,
}

/// The proof of one layer.
struct Proof<'a> {
    store: &'a Store,
    snapshot: &'a Snapshot,
    driver: &'static Driver,
    layer: &'a Layer,
    observer: &'a dyn Observer,
    found: One,
}

impl Proof<'_> {
    fn run(&mut self, chain: ChainId) -> Result<()> {
        self.observer.on(Event::Object(&chain.short()));
        // What is not there was found by the look at the structure.
        let (Some(image), Some(dirs)) = (self.store.image(), self.store.dirs()) else { return Ok(()) };
        if !self.layer.has_tar_split {
            return Ok(());
        }
        let opened = match Opened::of(image, dirs, chain, self.layer, self.driver) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(()),
            Err(error) => return self.unreadable(error),
        };
        let Opened { tree, facts, tar_split } = opened;
        let marks = facts.as_ref().map_or(Marks::None, |facts| self.driver.read.marks(facts));
        let parent = match facts.as_ref().map_or(Ok(None), |facts| self.parent_tree(facts)) {
            Ok(parent) => parent,
            Err(error) => return self.unreadable(error),
        };
        let mut sparse = BTreeMap::new();
        let mut read = self.read(Entries::new(tar_split), &tree, marks, parent.clone())?;
        match std::mem::replace(&mut read.headers, Ok(None)) {
            Ok(None) => {}
            Ok(Some(mut headers)) => {
                sparse = std::mem::take(&mut headers.sparse);
                let compared =
                    facts.and_then(|facts| self.attributes(&headers, &read.plain_files, &facts, (&tree, parent)));
                compared
                    .and_then(|()| self.size(&headers, read.files, &tree))
                    .or_else(|error| self.unreadable(error))?;
            }
            Err(TarError::Read(error)) => {
                self.find(b"", Code::LayerTarSplitDamaged, error);
                return Ok(());
            }
            Err(error) => {
                let evidence = format!("attributes cannot be compared: {error}");
                self.find(b"", Code::LayerHeadersUnknown, evidence);
            }
        }
        self.content(read, bad_sparse_files(&sparse, &tree));
        Ok(())
    }

    fn find(&mut self, path: &[u8], code: Code, evidence: impl ToString) {
        self.found.problems.push(Problem::new(path, code, evidence));
    }

    /// Says that the tree cannot be read, where that is for what lies on the disk.
    fn unreadable(&mut self, error: FsError) -> Result<()> {
        if error.is_shortage() {
            return Err(error.into());
        }
        self.find(b"", Code::TreeUnreadable, error);
        Ok(())
    }

    /// Reads tar-split once: takes the headers out of it, and assembles the tar for CRC-64 and SHA-256.
    fn read(&self, entries: Entries<File>, tree: &LayerTree, marks: Marks, parent: Option<Dir>) -> Result<Read> {
        let mut sink = Beside::new(Hash::new(self.observer));
        let mut bad_files = Vec::new();
        let mut shortage = None;
        let mut bad = |name: &[u8], error: AssembleError| {
            let (code, what) = match error {
                AssembleError::File(error) if error.is_shortage() => {
                    shortage.get_or_insert(error);
                    return Ok(());
                }
                AssembleError::Changed { what, .. } => (Code::FileContent, what.to_owned()),
                error => (Code::FileUnreadable, error.to_string()),
            };
            bad_files.push((cleaned(name), code, what));
            Ok(())
        };
        let mut files = 0_u64;
        let mut plain_files = HashSet::new();
        let mut opened = |file: &File| plain_files.extend(fsx::inode_without_xattrs(file));
        let mut assembler = Assembler::new(tree, &mut sink, &mut bad).on_open(&mut opened);
        let assembled = entries.map(|entry| {
            let entry = entry?;
            if let Entry::File { size, .. } = &entry {
                files = files.saturating_add(*size);
            }
            // Only the sink fails, and only where the observer wants to stop.
            assembler.add(&entry).map_err(|error| ParseError::because("the whole tar", error))?;
            Ok(entry)
        });
        let mut members = Members::new(Segments::new(assembled), Content::Elided);
        let headers = Headers::read(&mut members, marks, parent);
        // Behind the end of the tar, or behind a header that makes no sense, there is more to prove.
        let rest = match &headers {
            Err(TarError::Read(_)) => Ok(()),
            _ => io::copy(members.stream(), &mut io::sink()).map(drop),
        };
        drop(members);
        if self.observer.wants_stop() {
            return Err(Error::Stopped);
        }
        if let Some(error) = shortage {
            return Err(error.into());
        }
        let (digest, length) = sink.out.finish();
        Ok(Read { headers: headers.map(Some), rest, bad_files, plain_files, files, digest, length })
    }

    /// Compares every node with the headers.
    fn attributes(
        &mut self,
        headers: &Headers,
        plain_files: &HashSet<Inode>,
        facts: &DriverFacts,
        (tree, parent): (&LayerTree, Option<Dir>),
    ) -> Result<(), FsError> {
        let is_copy = self.driver.keeps_whole_trees();
        let (id, has_parent) = (&self.layer.cache_id, self.layer.parent.is_some());
        let making = making(self.driver, facts, id, has_parent, parent.as_ref());
        let mut check = TreeCheck::new(headers, plain_files, making);
        let walked = check.run(&tree.0, parent.as_ref());
        let stamps = if is_copy { check.stamps(&tree.0) } else { Ok(Vec::new()) };
        let weighed = self.whiteouts(&mut check.problems);
        self.found.nodes += check.files;
        self.found.problems.append(&mut check.problems);
        walked?;
        weighed?;
        self.found.stamps = stamps?;
        Ok(())
    }

    /// Tells whiteouts that hide nothing from those that hide what lies below.
    fn whiteouts(&self, problems: &mut [Problem]) -> Result<(), FsError> {
        let mut extra = problems.iter_mut().filter(|problem| problem.code == Code::WhiteoutExtra).peekable();
        if extra.peek().is_none() {
            return Ok(());
        }
        let Some(below) = Below::of(self.store, self.snapshot, self.driver, self.layer)? else { return Ok(()) };
        for problem in extra {
            if !below.has(&unmarked(&problem.path))? {
                let evidence = "a mark of something removed, and nothing lies below";
                let inode = problem.inode;
                *problem = Problem { inode, ..Problem::new(&problem.path, Code::WhiteoutNeedless, evidence) };
            }
        }
        Ok(())
    }

    /// Compares the size that dockerd noted with the `files` of the tar. Some engines count the targets of symbolic links
    /// too, or what headers of hard links claim, and some the tree.
    fn size(&mut self, headers: &Headers, files: u64, tree: &LayerTree) -> Result<(), FsError> {
        let targets = headers.nodes().filter_map(|(_, node)| node.target.as_ref()).map(|target| target.len() as u64);
        let linked = headers.links.values().map(|link| headers.get(&link.target).and_then(|file| file.size));
        let claimed = linked.chain(headers.has_content.then_some(None)).map(|size| size.unwrap_or(u64::MAX));
        let most = targets.chain(claimed).fold(files, u64::saturating_add);
        let noted = self.layer.size;
        if (files..=most).contains(&noted) || noted == self.driver.read.layer_size(&tree.0, files)? {
            return Ok(());
        }
        let evidence =
            format!("expected {files} bytes, which its files have, found {noted}: only listings are wrong by it");
        self.find(b"", Code::LayerSize, evidence);
        Ok(())
    }

    /// Opens the tree of the layer below, which this one began as a copy of.
    fn parent_tree(&self, facts: &DriverFacts) -> Result<Option<Dir>, FsError> {
        let parent = self.layer.parent.and_then(|parent| self.snapshot.layers.get(&parent));
        let (Some(parent), Some(dirs)) = (parent, self.store.dirs()) else { return Ok(None) };
        let Some(parent) = FsError::in_place(dirs.dir(parent.cache_id.as_str()))? else { return Ok(None) };
        FsError::in_place(self.driver.read.base(facts, &parent)).map(Option::flatten)
    }

    /// Notes what the bytes of the tar say, beyond what was found of the nodes.
    fn content(&mut self, read: Read, sparse: Vec<BadFile>) {
        self.found.bytes = read.length;
        self.found.is_tar_proved = read.rest.is_ok() && read.bad_files.is_empty() && read.digest == self.layer.diff.0;
        if let Err(error) = read.rest {
            self.find(b"", Code::LayerTarSplitDamaged, error);
        } else if read.bad_files.is_empty() && read.digest != self.layer.diff.0 {
            let found = read.digest.hex();
            let evidence = format!("expected {}, found sha256:{found}, and every file is right", self.layer.diff);
            self.find(b"", Code::LayerDigestMismatch, evidence);
        }
        // Only these say that there cannot be the same content; a file that was written to has another time too.
        let is_other = |problem: &&Problem| matches!(problem.code, Code::FileMissing | Code::FileSize | Code::NodeKind);
        let others = self.found.problems.iter().filter(is_other);
        let bad: HashSet<Vec<u8>> = others.map(|problem| problem.path.clone()).collect();
        for (path, code, what) in read.bad_files.into_iter().chain(sparse) {
            let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
            if !above.chain([&path[..]]).any(|path| bad.contains(path)) {
                self.find(&path, code, what);
            }
        }
    }
}

/// Returns the path that a whiteout hides: a device has the name itself, a file has it behind `.wh.`.
fn unmarked(path: &[u8]) -> Vec<u8> {
    let (above, name) = path.split_at(path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1));
    [above, name.strip_prefix(b".wh.").unwrap_or(name)].concat()
}

/// A layer's directory and the headers of its tar.
struct Opened {
    tree: LayerTree,
    facts: Result<DriverFacts, FsError>,
    tar_split: File,
}

impl Opened {
    /// Opens them; `None` where one is not there, which the look at the structure says.
    fn of(
        image: &Dir,
        dirs: &Dir,
        chain: ChainId,
        layer: &Layer,
        driver: &'static Driver,
    ) -> Result<Option<Self>, FsError> {
        let path = places::tar_split(&chain);
        let Some(dir) = FsError::in_place(dirs.dir(layer.cache_id.as_str()))? else { return Ok(None) };
        let Some(tree) = FsError::in_place(driver.read.tree(&dir))? else { return Ok(None) };
        let Some(tar_split) = FsError::in_place(image.file(path))? else { return Ok(None) };
        Ok(Some(Self { tree, facts: driver.read.facts(&dir), tar_split }))
    }
}

/// Path, code and evidence of a file that is not what it was.
type BadFile = (Vec<u8>, Code, String);

/// Compares sparse files with what tar-split has of them.
fn bad_sparse_files(files: &BTreeMap<Vec<u8>, SparseFile>, tree: &LayerTree) -> Vec<BadFile> {
    let compare = |path: &[u8], file: &SparseFile| match file.is_in(&tree.0, path) {
        Ok(true) => None,
        Ok(false) => Some((Code::FileContent, "other content than when the layer was made".to_owned())),
        Err(error) => Some((Code::FileUnreadable, error.to_string())),
    };
    let bad =
        |(path, file): (&Vec<u8>, &SparseFile)| compare(path, file).map(|(code, what)| (path.clone(), code, what));
    files.iter().filter_map(bad).collect()
}

/// What tar-split and the files of a layer say.
struct Read {
    /// Headers of the tar, until they were taken.
    headers: Result<Option<Headers>, TarError>,
    /// Whether tar-split could be read to its end.
    rest: io::Result<()>,
    /// Files that are not what they were.
    bad_files: Vec<BadFile>,
    /// Files that were read and have no extended attributes.
    plain_files: HashSet<Inode>,
    /// Bytes of content in the tar.
    files: u64,
    /// SHA-256 of the tar.
    digest: Sha256,
    /// Bytes of the tar.
    length: u64,
}

/// Cleans a name in a tar as unpacking does.
fn cleaned(name: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    parts.join(&b'/')
}

/// Returns the path of a problem as text, where it is about one node.
pub(super) fn file_of(problem: &Problem) -> Option<String> {
    (!problem.path.is_empty()).then(|| text(&problem.path))
}
