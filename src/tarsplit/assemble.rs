//! From tar-split and a layer's directory to the exact tar.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use crate::error::{FsError, ParseError};
use crate::fsx::{Dir, File};

use super::entries::{Crc64, Entry};
use super::split::place;

/// Takes the bytes of a tar. What is read from files need not be copied: it is read right into where it is taken.
pub trait Sink: Write {
    /// Gives room for the next bytes, one at least.
    ///
    /// # Errors
    /// It takes no more.
    fn room(&mut self) -> io::Result<&mut [u8]>;

    /// Takes as many bytes as were read into the room.
    ///
    /// # Errors
    /// It takes no more.
    fn take(&mut self, length: usize) -> io::Result<()>;
}

/// A sink that has its room beside a writer.
#[derive(Debug)]
pub struct Beside<W> {
    /// The writer, which takes all bytes.
    pub out: W,
    room: Vec<u8>,
}

impl<W> Beside<W> {
    /// Bytes of the room.
    const ROOM: usize = 256 << 10;

    /// Makes a sink of a writer.
    pub fn new(out: W) -> Self {
        Self { out, room: vec![0; Self::ROOM] }
    }
}

impl<W: Write> Write for Beside<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> Sink for Beside<W> {
    fn room(&mut self) -> io::Result<&mut [u8]> {
        Ok(&mut self.room)
    }

    fn take(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all(&self.room[..length])
    }
}

/// Where a layer's own files lie. Anything that is in the layer's tar is found in the layer's own tree, never in
/// a parent's.
#[derive(Debug, Clone)]
pub struct LayerTree(pub Dir);

/// Why a layer's tar could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// tar-split is damaged.
    #[error("tar-split: {0}")]
    TarSplit(#[from] ParseError),
    /// A file of the layer cannot be read.
    #[error("{0}")]
    File(#[from] FsError),
    /// A file of the layer is not what it was when the layer was made.
    #[error("file {}: {what}", name.escape_ascii())]
    Changed {
        /// Its name in the tar.
        name: Vec<u8>,
        /// How it differs.
        what: &'static str,
    },
    /// The sink took no more.
    #[error("{0}")]
    Sink(io::Error),
}

/// Assembles a layer's tar from its tar-split entries and its tree into `sink`, and proves the CRC-64 of each
/// file on the way. Returns the number of bytes. The digest is the sink's to prove.
///
/// # Errors
/// See [`AssembleError`].
pub fn assemble(
    entries: impl Iterator<Item = Result<Entry, ParseError>>,
    tree: &LayerTree,
    sink: &mut impl Sink,
) -> Result<u64, AssembleError> {
    let mut bad = |_: &[u8], error| Err(error);
    let mut assembler = Assembler::new(tree, sink, &mut bad);
    for entry in entries {
        assembler.add(&entry?)?;
    }
    Ok(assembler.length)
}

/// Told the name of a file that is not what it was, and how; says whether to go on.
pub type OnBadFile<'a> = dyn FnMut(&[u8], AssembleError) -> Result<(), AssembleError> + 'a;

/// Given each file of the layer that is opened.
pub type OnOpen<'a> = dyn FnMut(&File) + 'a;

/// Assembles a layer's tar, entry by entry.
pub struct Assembler<'a, S> {
    tree: &'a LayerTree,
    sink: &'a mut S,
    bad: &'a mut OnBadFile<'a>,
    opened: Option<&'a mut OnOpen<'a>>,
    /// The directory of the last file, with its path: most files follow one of the same directory.
    parent: Option<(Vec<u8>, Dir)>,
    length: u64,
}

impl<S> std::fmt::Debug for Assembler<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Assembler(byte {})", self.length)
    }
}

impl<'a, S: Sink> Assembler<'a, S> {
    /// Assembles into `sink` from the files in `tree`. `bad` is asked whether to go on where a file, called by its name
    /// in the tar, is not what it was. What `sink` gets of such a file is not what belongs there.
    pub fn new(tree: &'a LayerTree, sink: &'a mut S, bad: &'a mut OnBadFile<'a>) -> Self {
        Self { tree, sink, bad, opened: None, parent: None, length: 0 }
    }

    /// Has `opened` given each file that is opened.
    #[must_use]
    pub fn on_open(self, opened: &'a mut OnOpen<'a>) -> Self {
        Self { opened: Some(opened), ..self }
    }

    /// Writes the bytes of the tar that the next entry stands for.
    ///
    /// # Errors
    /// What `bad` returns, and see [`AssembleError`].
    pub fn add(&mut self, entry: &Entry) -> Result<(), AssembleError> {
        match entry {
            Entry::Segment(bytes) => {
                self.length += bytes.len() as u64;
                self.sink.write_all(bytes).map_err(AssembleError::Sink)
            }
            Entry::File { name, size, crc } if *size > 0 => {
                self.length += size;
                match self.copy_file(name, *size, *crc) {
                    Err(error @ AssembleError::Sink(_)) => Err(error),
                    Err(error) => (self.bad)(name, error),
                    Ok(()) => Ok(()),
                }
            }
            Entry::File { .. } => Ok(()),
        }
    }

    fn copy_file(&mut self, name: &[u8], size: u64, crc: Option<Crc64>) -> Result<(), AssembleError> {
        let (file, length) = self.open(name)?;
        if let Some(opened) = &mut self.opened {
            opened(&file);
        }
        self.copy_proved(file, length, name, size, crc).map_err(|error| match error {
            AssembleError::Changed { name, .. } if is_metacopy(self.tree, &name) => {
                AssembleError::Changed { name, what: "its data is in a lower layer (overlayfs metacopy)" }
            }
            error => error,
        })
    }

    /// Opens the content of a member by its name in the tar, and tells its length.
    fn open(&mut self, name: &[u8]) -> Result<(File, u64), FsError> {
        let tree = &self.tree.0;
        let path = name.strip_prefix(b"/").unwrap_or(name);
        // A file may have the name of a directory, and a name lead up and down again.
        let is_clean = !path.ends_with(b"/") && !path.split(|byte| *byte == b'/').any(|part| part == b"..");
        let path = if is_clean { Cow::Borrowed(path) } else { Cow::Owned(place(name)) };
        let path = &path[..];
        match self.open_in_parent(path) {
            // A component of the name may be a link within the layer: the kernel says ELOOP, or ENOTDIR
            // where the components are opened one by one.
            Err(error) if matches!(error.source.raw_os_error(), Some(40 | 20)) => {
                tree.sized_file_in_root(path).map_err(|_| error)
            }
            opened => opened,
        }
    }

    fn open_in_parent(&mut self, path: &[u8]) -> Result<(File, u64), FsError> {
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else { return self.tree.0.sized_file(path) };
        let (above, name) = (&path[..slash], &path[slash + 1..]);
        if let Some((at, dir)) = &self.parent
            && at == above
        {
            return dir.sized_file(name);
        }
        let (_, dir) = self.parent.insert((above.to_vec(), self.tree.0.dir(above)?));
        dir.sized_file(name)
    }

    fn copy_proved(
        &mut self,
        mut file: File,
        length: u64,
        name: &[u8],
        size: u64,
        crc: Option<Crc64>,
    ) -> Result<(), AssembleError> {
        let changed = |what| AssembleError::Changed { name: name.to_vec(), what };
        if length != size {
            return Err(changed(if length < size {
                "shorter than when the layer was made"
            } else {
                "longer than when the layer was made"
            }));
        }
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso);
        let mut left = size;
        while left > 0 {
            let room = self.sink.room().map_err(AssembleError::Sink)?;
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
            let got = match file.read(&mut room[..want]) {
                Ok(0) => return Err(changed("shorter than when the layer was made")),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(FsError::new("read", show(name), error).into()),
            };
            digest.update(&room[..got]);
            self.sink.take(got).map_err(AssembleError::Sink)?;
            left -= got as u64;
        }
        match crc {
            Some(crc) if digest.finalize().to_be_bytes() == crc => Ok(()),
            _ => Err(changed("other content than when the layer was made (CRC-64)")),
        }
    }
}

fn show(name: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    std::ffi::OsStr::from_bytes(name).into()
}

/// Tells whether overlayfs keeps only the metadata of this file here. Tar-split is then right and the file is
/// not, which no mount in daily use makes (store-format 6.3).
fn is_metacopy(tree: &LayerTree, name: &[u8]) -> bool {
    let Ok((dir, last)) = tree.0.parent_of(name) else { return false };
    dir.xattrs(last).is_ok_and(|found| {
        found.iter().any(|(key, _)| key == b"trusted.overlay.metacopy" || key == b"user.overlay.metacopy")
    })
}
