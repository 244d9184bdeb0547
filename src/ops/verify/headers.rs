//! What the headers of a layer's tar say of its tree.

use std::collections::{HashMap, HashSet};

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
    /// Files whose content is not proved by assembling the tar.
    pub(super) sparse: Vec<SparseFile>,
}

/// A sparse file: tar-split itself has its content.
#[derive(Debug)]
pub(super) struct SparseFile {
    pub(super) path: Vec<u8>,
    map: SparseMap,
    /// Digest of its parts.
    digest: Sha256,
}

impl SparseFile {
    fn read(path: Vec<u8>, map: SparseMap, members: &mut Members<impl TarStream>) -> Result<Self, TarError> {
        let (mut digest, mut buffer) = (sha2::Sha256::new(), vec![0; CHUNK]);
        loop {
            match members.read_content(&mut buffer)? {
                0 => return Ok(Self { path, map, digest: Sha256::finish(digest) }),
                got => digest.update(&buffer[..got]),
            }
        }
    }

    /// Tells whether the file in a layer's tree has this content.
    pub(super) fn is_in(&self, tree: &Dir) -> Result<bool, FsError> {
        let file = tree.file(&self.path)?;
        let mut digest = sha2::Sha256::new();
        let is_zero = self.map.compare(&file, |bytes| digest.update(bytes));
        let is_zero = is_zero.map_err(|error| FsError::new("read", tree.shown(&self.path), error))?;
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
            sparse: Vec::new(),
        };
        while let Some(member) = members.next_member()? {
            let mut member = headers.prediction.resolved(member);
            headers.add(&member);
            if let Some(map) = member.sparse.take() {
                headers.sparse.push(SparseFile::read(member.path, map, members)?);
            }
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
                if let MemberKind::HardLink(target) = &member.kind {
                    let stamp = Stamp { mode: member.mode, owner: member.owner((0, 0)), mtime: member.mtime };
                    self.links.insert(member.path.clone(), HardLink { target: target.clone(), stamp });
                }
            }
        }
    }

    /// Returns what is expected at `path`; `None` where the tar has nothing there.
    pub(super) fn get(&self, path: &[u8]) -> Option<Expected> {
        self.prediction.get(path)
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
