//! What several fuzz targets need.

use std::io::{Read, Write};
use std::path::Path;

use dockpack::fsx::Dir;
use tempfile::TempDir;

/// Longest stream that is decoded: what a compressed input of some KiB may claim has no end.
pub const LIMIT: u64 = 8 << 20;

/// Splits an input at lines that are `--`: mutations then move and repeat whole parts.
pub fn parts(data: &[u8]) -> Vec<&[u8]> {
    const LINE: &[u8] = b"\n--\n";
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(LINE.len()).position(|window| window == LINE) {
        parts.push(&rest[..at]);
        rest = &rest[at + LINE.len()..];
    }
    parts.push(rest);
    parts
}

/// A directory to unpack into, beside one that nothing may touch.
#[derive(Debug)]
pub struct Scratch {
    base: TempDir,
}

impl Scratch {
    /// Makes both.
    pub fn new() -> Self {
        let base = tempfile::tempdir().expect("a directory");
        for name in ["inside", "outside"] {
            std::fs::create_dir(base.path().join(name)).expect("a directory");
        }
        std::fs::write(base.path().join("outside/file"), b"as it was").expect("a file");
        Self { base }
    }

    /// Returns the path of the directory to unpack into.
    pub fn path(&self) -> std::path::PathBuf {
        self.base.path().join("inside")
    }

    /// Opens the directory to unpack into.
    pub fn open(&self) -> Dir {
        Dir::open_root(&self.path()).expect("opens")
    }

    /// Panics where anything but the directory to unpack into was touched; then removes all.
    pub fn close(self) {
        let names = |path: &Path| {
            let mut names: Vec<_> =
                std::fs::read_dir(path).expect("lists").map(|entry| entry.expect("an entry").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.base.path()), ["inside", "outside"], "something was made outside");
        let outside = self.base.path().join("outside");
        assert_eq!(names(&outside), ["file"], "something was made or removed outside");
        assert_eq!(std::fs::read(outside.join("file")).expect("reads"), b"as it was", "a file outside was written");
        Dir::open_root(self.base.path()).and_then(|base| base.remove_tree("inside")).expect("removed");
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Compresses as quickly as gzip can.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(bytes).expect("memory takes every byte");
    gzip.finish().expect("memory takes every byte")
}

/// Reads to the end or to [`LIMIT`]; tells whether the end was reached without an error.
pub fn drain(stream: &mut impl Read, out: &mut Vec<u8>) -> bool {
    stream.take(LIMIT).read_to_end(out).is_ok() && (out.len() as u64) < LIMIT
}
