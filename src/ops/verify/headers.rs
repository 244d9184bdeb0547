//! What the headers of a layer's tar say of its tree.

use std::collections::{BTreeMap, HashMap, HashSet};

use sha2::Digest as _;

use crate::error::FsError;
use crate::fsx::{Dir, Time};
use crate::id::Sha256;
use crate::layer::differences::{Expected, Prediction};
use crate::layer::{Marks, Member, MemberKind, Members, SparseMap, TarError, TarStream};

/// Bytes read at once.
const CHUNK: usize = 128 << 10;

/// A further name of a file.
#[derive(Debug)]
pub(super) struct HardLink {
    /// Path of the file that the tar links to.
    pub(super) target: Vec<u8>,
    /// What its own header does to the file: mode, owner and time.
    pub(super) stamp: Stamp,
}

/// Attributes that unpacking gives a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: Time,
}

/// What unpacking a layer's tar gives, and takes away.
#[derive(Debug)]
pub(super) struct Headers {
    prediction: Prediction,
    /// Hard links, by their paths.
    pub(super) links: HashMap<Vec<u8>, HardLink>,
    /// Paths that the layer takes away from its parent's tree.
    hidden: HashSet<Vec<u8>>,
    /// Directories of which nothing of the parent's is left.
    opaque: HashSet<Vec<u8>>,
    /// Files whose content is not proved by assembling the tar, by a path of each.
    pub(super) sparse: BTreeMap<Vec<u8>, SparseFile>,
    /// Tar-split itself has the content of some member.
    pub(super) has_content: bool,
}

/// A sparse file: tar-split itself has its content.
#[derive(Debug)]
pub(super) struct SparseFile {
    map: SparseMap,
    /// Digest of its parts.
    digest: Sha256,
}

impl SparseFile {
    fn read(map: SparseMap, members: &mut Members<impl TarStream>) -> Result<Self, TarError> {
        let (mut digest, mut buffer) = (sha2::Sha256::new(), vec![0; CHUNK]);
        loop {
            match members.read_content(&mut buffer)? {
                0 => return Ok(Self { map, digest: Sha256::finish(digest) }),
                got => digest.update(&buffer[..got]),
            }
        }
    }

    /// Tells whether the file at `path` of a layer's tree has this content.
    pub(super) fn is_in(&self, tree: &Dir, path: &[u8]) -> Result<bool, FsError> {
        let file = tree.file(path)?;
        let mut digest = sha2::Sha256::new();
        let is_zero = self.map.compare(&file, |bytes| digest.update(bytes));
        let is_zero = is_zero.map_err(|error| FsError::new("read", tree.shown(path), error))?;
        Ok(is_zero && Sha256::finish(digest) == self.digest)
    }
}

impl Headers {
    /// Reads all headers of a tar. `base` is the tree that its own began as a copy of.
    pub(super) fn read(
        members: &mut Members<impl TarStream>,
        marks: Marks,
        base: Option<Dir>,
    ) -> Result<Self, TarError> {
        let mut headers = Self {
            prediction: Prediction::new(marks, base),
            links: HashMap::new(),
            hidden: HashSet::new(),
            opaque: HashSet::new(),
            sparse: BTreeMap::new(),
            has_content: false,
        };
        let mut sparse = BTreeMap::new();
        while let Some(member) = members.next_member()? {
            let mut member = headers.prediction.resolved(member);
            headers.add(&member);
            let Some(map) = member.sparse.take() else { continue };
            headers.has_content = true;
            if let Some(node) = headers.prediction.node_at(&member.path) {
                sparse.insert(node, SparseFile::read(map, members)?);
            }
        }
        headers.links.retain(|path, _| headers.prediction.has(path));
        // A later member may have taken the place of one. What has another name is there still.
        if !sparse.is_empty() {
            let named = headers.prediction.numbered().filter(|(_, node)| sparse.contains_key(node));
            let mut named: Vec<(Vec<u8>, usize)> = named.map(|(path, node)| (path.to_vec(), node)).collect();
            named.sort_unstable();
            let files = named.into_iter().filter_map(|(path, node)| Some((path, sparse.remove(&node)?)));
            headers.sparse = files.collect();
        }
        Ok(headers)
    }

    fn add(&mut self, member: &Member) {
        self.prediction.add(member);
        let (above, name) = match member.path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&member.path[..slash], &member.path[slash + 1..]),
            None => (&b""[..], &member.path[..]),
        };
        match name.strip_prefix(b".wh.") {
            Some(b".wh..opq") => drop(self.opaque.insert(above.to_vec())),
            Some(hidden) if above.is_empty() => drop(self.hidden.insert(hidden.to_vec())),
            Some(hidden) => drop(self.hidden.insert([above, b"/", hidden].concat())),
            None => {
                let MemberKind::HardLink(target) = &member.kind else { return drop(self.links.remove(&member.path)) };
                let stamp = Stamp { mode: member.mode, owner: member.owner((0, 0)), mtime: member.mtime };
                self.links.insert(member.path.clone(), HardLink { target: target.clone(), stamp });
            }
        }
    }

    /// Returns what is expected at `path`; `None` where the tar has nothing there.
    pub(super) fn get(&self, path: &[u8]) -> Option<Expected> {
        self.prediction.get(path)
    }

    /// Tells whether two paths are expected to be names of one node. A later member may have taken the place of one; what
    /// the tar has not is not told apart.
    pub(super) fn are_one(&self, path: &[u8], other: &[u8]) -> bool {
        self.prediction.node_at(path) == self.prediction.node_at(other)
    }

    /// Returns all that is expected, by path.
    pub(super) fn nodes(&self) -> impl ExactSizeIterator<Item = (&[u8], &Expected)> {
        self.prediction.nodes()
    }

    /// Tells whether the tar has something at `path`, or below it.
    pub(super) fn knows(&self, path: &[u8]) -> bool {
        self.prediction.touches(path) || self.links.contains_key(path) || self.prediction.get(path).is_some()
    }

    /// Tells whether the layer takes away what its parent has at `path`.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        self.hidden.contains(path)
    }

    /// Tells whether nothing that the parent has in this directory is left.
    pub(super) fn is_opaque(&self, directory: &[u8]) -> bool {
        self.opaque.contains(directory)
    }
}
