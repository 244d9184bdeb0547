//! Where the members of an archive lie.
//!
//! Members may stand in any order, and the documents that tell what the others are usually come last. A tar in a file
//! is passed over from header to header, and read from where its members lie. Of one that is compressed or comes from
//! a pipe the documents are kept in memory; the rest is passed over, digested, or kept in files of a spool directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::error::FsError;
use crate::fsx::{Dir, File, Holes, Kind};
use crate::layer::{self, Filled, MemberKind, Members, SparseMap, TarError, TarStream};
use crate::progress::{Event, Observer, check_stop};

use super::content::{Content, Digests, Stream};

/// Longest document that is read, in bytes; registries take 4 MiB.
const DOCUMENT_LIMIT: u64 = 8 << 20;
/// Most bytes of documents that are kept in memory: a thousand images have some ten millions.
const DOCUMENTS_LIMIT: u64 = 64 << 20;
/// Most members that an archive may have. One of Docker's has some hundred for each image.
const MEMBERS_LIMIT: usize = 1 << 20;
/// Most bytes of all names of members together, and of what links lead to.
const NAMES_LIMIT: usize = 64 << 20;
/// Longest member that is sparse, in bytes: a few bytes of an archive may claim any length, and all of it is read.
const SPARSE_LIMIT: u64 = 1 << 40;
/// Most parts of all sparse members together: 64 MiB of memory.
const PARTS_LIMIT: usize = 4 << 20;
/// Most links that lead to a member, one to the other.
const LINKS_LIMIT: u32 = 8;
/// Where blobs lie in an OCI image layout.
pub(super) const BLOBS: &str = "blobs/sha256/";
/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// What becomes of members that are no documents, where the archive is read from front to back.
pub(super) enum Keep<'a> {
    /// Nothing.
    Documents,
    /// Their digests.
    Digests,
    /// They are copied to files of this directory: all, or only those that are named.
    Files(&'a Dir, Option<&'a BTreeSet<String>>),
}

/// Where a member is.
#[derive(Debug, Clone)]
enum Place {
    /// At this byte of the file.
    At(u64),
    /// The parts of a sparse file are there.
    Sparse(u64, Arc<SparseMap>),
    /// In memory.
    Memory(Arc<[u8]>),
    /// In the file of this name in the spool directory.
    Spooled(String),
    /// It was passed over.
    Passed,
}

/// A member that is a file.
#[derive(Debug, Clone)]
struct Member {
    place: Place,
    length: u64,
    digests: Option<Digests>,
}

/// The members of an archive, by name.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    files: BTreeMap<String, Member>,
    /// Symbolic links by their names: versions of Docker up to 24 write a layer that two images share so. A directory may
    /// be one too.
    links: BTreeMap<String, String>,
    /// How many members were added.
    count: usize,
    /// The file that members lie in.
    file: Option<Arc<File>>,
    /// The directory that members are files of.
    dir: Option<Dir>,
    spool: Option<Dir>,
    documents: u64,
    /// Bytes of names.
    names: usize,
    /// Parts of sparse members.
    parts: usize,
}

impl Catalog {
    /// The members of an archive that lies unpacked in a directory. They are looked for when they are asked for.
    pub(super) fn of_dir(dir: Dir) -> Self {
        Self { dir: Some(dir), ..Self::default() }
    }

    /// Finds the members of a plain tar in a file.
    pub(super) fn of_file(file: File, observer: &dyn Observer) -> Result<Self, CatalogError> {
        let file = Arc::new(file);
        let length = file.metadata()?.len();
        if length == 0 {
            return Err(TarError::Cut.into());
        }
        let mut catalog = Self { file: Some(Arc::clone(&file)), ..Self::default() };
        let mut members = Members::new(Section { file, at: 0, end: length }, layer::Content::Present);
        while let Some(member) = members.next_member().map_err(|error| catalog.failed(error))? {
            check_stop(observer)?;
            let at = members.stream().at;
            if at.checked_add(member.size).is_none_or(|end| end > length) {
                return Err(TarError::Cut.into());
            }
            let place = member.sparse.clone().map_or(Place::At(at), |map| Place::Sparse(at, Arc::new(map)));
            catalog.add(&member, place, None)?;
        }
        Ok(catalog)
    }

    /// Reads a tar from front to back.
    pub(super) fn of_stream(tar: Stream<'_>, keep: &Keep<'_>, observer: &dyn Observer) -> Result<Self, CatalogError> {
        let mut catalog = Self::default();
        if let Keep::Files(dir, _) = keep {
            catalog.spool = Some((*dir).clone());
        }
        let mut members = Members::new(Plain(tar), layer::Content::Present);
        while let Some(member) = members.next_member().map_err(|error| catalog.failed(error))? {
            check_stop(observer)?;
            if member.kind == MemberKind::File {
                let plain = || SparseMap { parts: vec![(0, member.size)], size: member.size };
                let map = member.sparse.clone().unwrap_or_else(plain);
                let content = Filled::new(MemberContent(&mut members), map);
                let (place, digests) = catalog.keep(&member, content, keep, observer)?;
                catalog.add(&member, place, digests)?;
            } else {
                catalog.add(&member, Place::Passed, None)?;
            }
        }
        // What is behind the tar's end proves its compression.
        io::copy(&mut members.into_stream(), &mut io::sink())?;
        Ok(catalog)
    }

    /// Says what a tar that cannot be read on is: what does not even begin as one is none.
    fn failed(&self, error: TarError) -> CatalogError {
        match error {
            TarError::Cut | TarError::Header(_) if self.count == 0 => CatalogError::NoTar,
            error => error.into(),
        }
    }

    fn keep(
        &mut self,
        member: &layer::Member,
        mut content: impl Read + Send,
        keep: &Keep<'_>,
        observer: &dyn Observer,
    ) -> Result<(Place, Option<Digests>), CatalogError> {
        let length = length_of(member)?;
        let mut start = Vec::new();
        content.by_ref().take(1).read_to_end(&mut start)?;
        let is_document = matches!(start[..], [b'{' | b'[' | b' ' | b'\n' | b'\r' | b'\t']) && length <= DOCUMENT_LIMIT;
        let mut content = Cursor::new(start).chain(content);
        if is_document {
            self.documents += length;
            if self.documents > DOCUMENTS_LIMIT {
                return Err(CatalogError::TooMuch("bytes of documents", DOCUMENTS_LIMIT));
            }
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            return Ok((Place::Memory(bytes.into()), None));
        }
        match keep {
            Keep::Documents => Ok((Place::Passed, None)),
            Keep::Digests => Ok((Place::Passed, Some(Content::new(Box::new(content), observer)?.finish()?))),
            Keep::Files(_, Some(wanted)) if !wanted.contains(&*name_of(&member.path)) => Ok((Place::Passed, None)),
            Keep::Files(dir, _) => {
                let name = self.count.to_string();
                copy(content, dir, &name, observer)?;
                Ok((Place::Spooled(name), None))
            }
        }
    }

    fn add(&mut self, member: &layer::Member, place: Place, digests: Option<Digests>) -> Result<(), CatalogError> {
        let (name, length) = (name_of(&member.path), length_of(member)?);
        self.count += 1;
        if self.count > MEMBERS_LIMIT {
            return Err(CatalogError::TooMuch("members", MEMBERS_LIMIT as u64));
        }
        self.names += name.len();
        if let MemberKind::HardLink(target) | MemberKind::Symlink(target) = &member.kind {
            self.names += target.len();
        }
        if self.names > NAMES_LIMIT {
            return Err(CatalogError::TooMuch("bytes of names", NAMES_LIMIT as u64));
        }
        self.parts += member.sparse.as_ref().map_or(0, |map| map.parts.len());
        if self.parts > PARTS_LIMIT {
            return Err(CatalogError::TooMuch("parts of sparse members", PARTS_LIMIT as u64));
        }
        // Of several members of one name the last one counts, as where they are unpacked one after the other.
        match &member.kind {
            MemberKind::File => {
                self.links.remove(&name);
                self.files.insert(name, Member { place, length, digests });
            }
            // It stays what its target is now.
            MemberKind::HardLink(target) => match self.files.get(&name_of(target)).cloned() {
                Some(target) => {
                    self.links.remove(&name);
                    self.files.insert(name, target);
                }
                None => {
                    self.files.remove(&name);
                    self.links.insert(name, format!("/{}", name_of(target)));
                }
            },
            MemberKind::Symlink(target) => {
                self.files.remove(&name);
                self.links.insert(name, name_of(target));
            }
            // Directories are made as they are needed; nothing else has a meaning in an archive.
            _ => {}
        }
        Ok(())
    }

    /// Tells whether a tar has members below this directory.
    pub(super) fn has_dir(&self, dir: &str) -> bool {
        self.files.keys().chain(self.links.keys()).any(|name| name.split('/').next() == Some(dir))
    }

    /// Returns the names of all blobs.
    pub(super) fn blobs(&self) -> Result<Vec<String>, CatalogError> {
        let Some(dir) = &self.dir else {
            return Ok(self.files.keys().filter(|name| name.starts_with(BLOBS)).cloned().collect());
        };
        match dir.dir(BLOBS) {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            blobs => Ok(blobs?.entries()?.iter().map(|entry| format!("{BLOBS}{}", name_of(&entry.name))).collect()),
        }
    }

    /// Returns the name and the length of the member that a name leads to.
    pub(super) fn find(&self, name: &str) -> Result<Option<(String, u64)>, CatalogError> {
        let mut name = resolve("", name).ok_or_else(|| leads_out(name))?;
        for _ in 0..LINKS_LIMIT {
            let Some((length, target)) = self.link_in(&name)? else {
                return match &self.dir {
                    Some(dir) => Ok(find_in(dir, &name)?.map(|length| (name, length))),
                    None => Ok(self.files.get(&name).map(|member| (name.clone(), member.length))),
                };
            };
            let (link, rest) = name.split_at(length);
            name = resolve(link, &format!("{target}{rest}")).ok_or_else(|| leads_out(&name))?;
        }
        Err(CatalogError::Links(name))
    }

    /// Finds the first link on the way to a member, or the member itself where it is one: how much of the name leads to it,
    /// and what it says.
    fn link_in(&self, name: &str) -> Result<Option<(usize, String)>, CatalogError> {
        let ends = name.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at).chain([name.len()]);
        for end in ends.filter(|end| *end > 0) {
            let target = match &self.dir {
                Some(dir) => link_at(dir, &name[..end])?,
                None => self.links.get(&name[..end]).cloned(),
            };
            if let Some(target) = target {
                return Ok(Some((end, target)));
            }
        }
        Ok(None)
    }

    /// Opens a member by the name that [`Catalog::find`] gave.
    pub(super) fn open(&self, name: &str) -> Result<Stream<'static>, CatalogError> {
        if let Some(dir) = &self.dir {
            return Ok(Box::new(dir.file(name)?));
        }
        let member = self.files.get(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        match (&member.place, &self.file, &self.spool) {
            (Place::At(at), Some(file), _) => {
                Ok(Box::new(Section { file: Arc::clone(file), at: *at, end: *at + member.length }))
            }
            (Place::Sparse(at, map), Some(file), _) => {
                let parts = Section { file: Arc::clone(file), at: *at, end: u64::MAX };
                Ok(Box::new(Filled::new(parts, SparseMap::clone(map))))
            }
            (Place::Memory(bytes), ..) => Ok(Box::new(Cursor::new(Arc::clone(bytes)))),
            (Place::Spooled(file), _, Some(spool)) => Ok(Box::new(spool.file(file)?)),
            _ => Err(io::Error::other(format!("{} was passed over", name.escape_debug())).into()),
        }
    }

    /// Returns the digests of a member by the name that [`Catalog::find`] gave, and reads it where that was not done.
    pub(super) fn digests(&self, name: &str, observer: &dyn Observer) -> Result<Digests, CatalogError> {
        match self.files.get(name).and_then(|member| member.digests) {
            Some(digests) => Ok(digests),
            None => Ok(Content::new(self.open(name)?, observer)?.finish()?),
        }
    }

    /// Reads a document whole.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, CatalogError> {
        let Some((name, length)) = self.find(name)? else { return Ok(None) };
        if length > DOCUMENT_LIMIT {
            return Err(CatalogError::TooMuch("bytes of a document", DOCUMENT_LIMIT));
        }
        let mut bytes = Vec::new();
        self.open(&name)?.take(DOCUMENT_LIMIT).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }
}

/// Why the members of an archive cannot be found.
#[derive(Debug, thiserror::Error)]
pub(super) enum CatalogError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(transparent)]
    Tar(TarError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("it is no archive: neither a tar nor a tar in gzip, bzip2, xz or zstd")]
    NoTar,
    #[error("{} leads out of it", .0.escape_debug())]
    LeadsOut(String),
    #[error("{} leads from link to link", .0.escape_debug())]
    Links(String),
    #[error("more than {1} {0}")]
    TooMuch(&'static str, u64),
}

impl From<TarError> for CatalogError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(error) => Self::Read(error),
            TarError::Cut => Self::Read(io::ErrorKind::UnexpectedEof.into()),
            TarError::Escapes(name) => Self::LeadsOut(String::from_utf8_lossy(&name).into_owned()),
            error => Self::Tar(error),
        }
    }
}

fn leads_out(name: &str) -> CatalogError {
    CatalogError::LeadsOut(name.to_owned())
}

fn name_of(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Returns how long the content of a member is, holes and all.
fn length_of(member: &layer::Member) -> Result<u64, CatalogError> {
    let length = member.sparse.as_ref().map(|map| map.size);
    match length.filter(|length| *length > SPARSE_LIMIT) {
        Some(_) => Err(CatalogError::TooMuch("bytes in a sparse member", SPARSE_LIMIT)),
        None => Ok(length.unwrap_or(member.size)),
    }
}

/// Returns where a name leads that stands in the member `from`; nothing where that is outside. An archive is its own root, as
/// for Docker.
fn resolve(from: &str, name: &str) -> Option<String> {
    let from = if name.starts_with('/') { "" } else { from };
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Returns the length of a file of an unpacked archive.
fn find_in(dir: &Dir, name: &str) -> Result<Option<u64>, FsError> {
    if name.is_empty() {
        return Ok(None);
    }
    let Some((above, last)) = FsError::found(dir.parent_of(name.as_bytes()))? else { return Ok(None) };
    Ok(above.find(last)?.filter(|attrs| attrs.kind == Kind::File).map(|attrs| attrs.size))
}

/// Returns what the link of an unpacked archive says, where there is one. What leads to it is none.
fn link_at(dir: &Dir, name: &str) -> Result<Option<String>, FsError> {
    let (above, last) = match dir.parent_of(name.as_bytes()) {
        // Of a name below what is no directory nothing can be there.
        Err(error) if error.is_not_found() || error.source.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        parent => parent?,
    };
    match above.find(last)? {
        Some(attrs) if attrs.kind == Kind::Symlink => Ok(Some(name_of(&above.read_link(last)?))),
        _ => Ok(None),
    }
}

fn copy(mut from: impl Read, dir: &Dir, name: &str, observer: &dyn Observer) -> Result<(), CatalogError> {
    let file = dir.make_file(name, 0o600)?;
    let failed = |error| FsError::new("write", dir.shown(name), error);
    // A member that is sparse may hold more zeros than the disk has room for.
    let mut holes = Holes::new(&file);
    let mut buffer = vec![0; CHUNK];
    loop {
        check_stop(observer)?;
        let got = from.read(&mut buffer)?;
        if got == 0 {
            return Ok(holes.finish().map_err(failed)?);
        }
        holes.write(&buffer[..got]).map_err(failed)?;
        observer.on(Event::Advance(got as u64));
    }
}

/// A part of a file; what is passed over is not read.
#[derive(Debug)]
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.file.read_at(&mut buffer[..want], self.at)?;
        if got == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        Ok(got)
    }
}

impl TarStream for Section {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.at = self.at.saturating_add(bytes);
        Ok(())
    }
}

/// A stream that is read from front to back.
struct Plain<'a>(Stream<'a>);

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl TarStream for Plain<'_> {}

/// The content of the member that is read.
struct MemberContent<'m, 'a>(&'m mut Members<Plain<'a>>);

impl Read for MemberContent<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_content(buffer).map_err(|error| match error {
            TarError::Read(error) => error,
            TarError::Cut => io::ErrorKind::UnexpectedEof.into(),
            error => io::Error::other(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_where_docker_finds_them() {
        for (from, name, to) in [
            ("", "a/b", Some("a/b")),
            ("", "./a//b/", Some("a/b")),
            ("x/layer.tar", "../y/layer.tar", Some("y/layer.tar")),
            ("x/layer.tar", "../../y", None),
            ("x/layer.tar", "/y", Some("y")),
            ("x/layer.tar", "/../y", None),
            ("x", "..", None),
        ] {
            assert_eq!(resolve(from, name).as_deref(), to, "{from} {name}");
        }
    }
}
