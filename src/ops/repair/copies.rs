//! `overlay`: layers that are built anew out of themselves, because the tree that theirs began as a copy of is.
//!
//! A layer's tree shares the files that it has from below with the tree below, by hard links. Where that one is built anew,
//! this one begins again as a copy of the new one, and its own tar, assembled from tar-split and its old tree and proved
//! against its diff ID, is unpacked on top.

use std::io::{self, Read, Write};

use sha2::Digest as _;

use crate::driver::{GraphDriver, NewLayer};
use crate::error::{Error, FsError, Result};
use crate::fsx::Dir;
use crate::id::{ChainId, Sha256};
use crate::layer::{Shared, differences};
use crate::ops::load::{DIFFERENCES, DRIVER_DIR, PlannedLayer, RECORD_DIR, Site, Tar, build};
use crate::ops::save::Source as Parts;
use crate::progress::{Event, Observer};
use crate::store::{Snapshot, Store};
use crate::tarsplit::{Beside, assemble};

use super::stage::copy;

/// Where layers are copied from and to.
pub(super) struct Copies<'a> {
    pub(super) driver: &'static dyn GraphDriver,
    pub(super) dirs: &'a Dir,
    pub(super) snapshot: &'a Snapshot,
    pub(super) store: &'a Store,
    /// Where layers are built.
    pub(super) layers: &'a Dir,
}

impl Copies<'_> {
    /// Builds one layer; the one below it is built, or stays as it is.
    pub(super) fn build(&self, layer: &PlannedLayer, observer: &dyn Observer) -> Result<()> {
        let record = &layer.record;
        observer.on(Event::Object(&record.chain.short()));
        let fail = |reason: String| Error::Layer { chain: record.chain.to_string(), reason, used_by: Vec::new() };
        let text = |error: FsError| fail(error.to_string());
        let parts = Parts::open(self.store, record).map_err(text)?;
        let staged = self.layers.make_dir(record.chain.hex(), 0o700)?;
        let entry = staged.make_dir(RECORD_DIR, 0o700)?;
        let image = self.store.image().ok_or_else(|| fail("image is missing".to_owned()))?;
        let from = image.dir(format!("layerdb/sha256/{}", record.chain.hex())).map_err(text)?;
        copy(&from, b"tar-split.json.gz", &entry, "tar-split.json.gz")?;
        let old_parent = record.parent.and_then(|parent| {
            let parent = self.snapshot.layers.get(&parent)?;
            self.dirs.dir(parent.cache_id.as_str()).ok().filter(|dir| dir.dir("root").is_ok())
        });
        let compared = parts.differences(self.driver, record, old_parent.as_ref());
        let list = compared.map_err(|error| fail(error.to_string()))?.differences;
        staged.new_file(DIFFERENCES, &differences::write_list(&list), 0o600)?;

        let parent = record.parent.map(|parent| self.directory(parent)).transpose().map_err(text)?;
        let site = Site {
            driver: self.driver,
            staged: &staged,
            new: NewLayer { facts: &record.facts, parent: parent.as_ref(), lower: None },
            restores: true,
            // Files of layers that stay may be among them.
            on_present: true,
        };
        let tree = self.driver.tree(&parts.layer).map_err(text)?;
        let entries = parts.entries().map_err(text)?;
        let (stream, sink) = io::pipe().map_err(|error| fail(error.to_string()))?;
        let mut tar = Digested { stream, digest: sha2::Sha256::new() };
        let built = std::thread::scope(|scope| {
            let assembling = scope.spawn(move || {
                let mut sink = Beside::new(io::BufWriter::with_capacity(256 << 10, sink));
                let assembled = assemble(entries, &tree, &mut sink).map(|_| ()).map_err(|error| error.to_string());
                assembled.and_then(|()| sink.flush().map_err(|error| error.to_string()))
            });
            let built = build(&site, record, &mut Shared::default(), Tar::WithTarSplit(&mut tar), observer);
            let length_proved = io::copy(&mut tar, &mut io::sink()).map_err(|error| error.to_string());
            let assembled = assembling.join().unwrap_or_else(|_| Err("it cannot be assembled".to_owned()));
            assembled.and(built.map_err(|error| error.to_string())).and(length_proved.map(|_| ()))
        });
        built.map_err(fail)?;
        match Sha256::finish(tar.digest) {
            found if found == record.diff.0 => Ok(()),
            found => Err(fail(format!("its tar has the digest {found}, not its diff ID {}", record.diff))),
        }
    }

    /// Opens the directory of a layer: the one that was built, else the one that is there.
    fn directory(&self, chain: ChainId) -> Result<Dir, FsError> {
        match self.layers.dir(format!("{}/{DRIVER_DIR}", chain.hex())) {
            Err(error) if error.is_not_found() => match self.snapshot.layers.get(&chain) {
                Some(layer) => self.dirs.dir(layer.cache_id.as_str()),
                None => Err(error),
            },
            built => built,
        }
    }
}

/// Digests what is read.
struct Digested<R> {
    stream: R,
    digest: sha2::Sha256,
}

impl<R: Read> Read for Digested<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.stream.read(buffer)?;
        self.digest.update(&buffer[..got]);
        Ok(got)
    }
}
