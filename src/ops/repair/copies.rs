//! Layers that are rebuilt out of themselves: because what theirs began as a copy of is rebuilt (`overlay`, `vfs`), or because
//! the headers of their own tar say more than is left of them.
//!
//! A layer's own tar, assembled from tar-split and its old tree and proved against its diff ID, is unpacked on what lies
//! below it. What unpacking does not give back comes from the old directory (`untold`).

use std::io::{self, Read, Write};

use sha2::Digest as _;

use crate::driver::{Driver, DriverFacts, NewLayer};
use crate::error::{Error, FsError, Result};
use crate::fsx::Dir;
use crate::id::{CacheId, ChainId, Sha256};
use crate::layer::{Shared, differences};
use crate::ops::load::{DIFFERENCES, DRIVER_DIR, RECORD_DIR, Site, Tar, build};
use crate::ops::save::Parts;
use crate::progress::{Event, Observer};
use crate::store::Store;
use crate::store::places::{self, TAR_SPLIT};
use crate::tarsplit::{Beside, assemble};

use super::plan::{RepairPlan, Reseed};
use super::stage::copy;
use super::untold::Untold;

/// Where layers are copied from and to.
pub(super) struct Copies<'a> {
    pub(super) plan: &'a RepairPlan,
    pub(super) driver: &'static Driver,
    pub(super) dirs: &'a Dir,
    pub(super) store: &'a Store,
    /// Where layers are built.
    pub(super) layers: &'a Dir,
}

impl Copies<'_> {
    /// Builds one layer; the one below it is built, or stays as it is.
    pub(super) fn build(&self, reseed: &Reseed, observer: &dyn Observer) -> Result<()> {
        let record = &reseed.layer.record;
        observer.on(Event::Object(&record.chain.short()));
        let fail = |reason: String| Error::Layer { chain: record.chain.to_string(), reason, used_by: Vec::new() };
        let text = |error: FsError| fail(error.to_string());
        let parts = Parts::open(self.store, record).map_err(text)?;
        let staged = self.layers.make_dir(record.chain.hex(), 0o700)?;
        let entry = staged.make_dir(RECORD_DIR, 0o700)?;
        let image = self.store.image().ok_or_else(|| fail("image is missing".to_owned()))?;
        let from = image.dir(places::layer(&record.chain)).map_err(text)?;
        copy(&from, TAR_SPLIT.as_bytes(), &entry, TAR_SPLIT)?;
        let list = self.untold(reseed, &parts).map_err(fail)?;
        staged.new_file(DIFFERENCES, &list, 0o600)?;

        let parent = self.parent(reseed, &staged).map_err(text)?;
        let lower = record.facts.lower_id.as_ref().map(|id| self.by_cache_id(id)).transpose().map_err(text)?;
        let site = Site {
            driver: self.driver,
            build: self.driver.builder()?,
            staged: &staged,
            new: NewLayer { facts: &record.facts, parent: parent.as_ref(), lower: lower.as_ref() },
            restores: true,
            // Files of layers that stay may be among them.
            on_present: true,
        };
        let tree = self.driver.read.tree(&parts.layer).map_err(text)?;
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
            digest if digest == record.diff.0 => Ok(()),
            digest => Err(fail(format!("its tar has the digest {digest}"))),
        }
    }

    /// Lists what the old directory says that the tar does not.
    fn untold(&self, reseed: &Reseed, parts: &Parts) -> Result<Vec<u8>, String> {
        let text = |error: FsError| error.to_string();
        let mut old = reseed.layer.record.clone();
        // `link` and the rest of what the driver keeps are of no matter here, but for how the tree was made.
        let facts = self.driver.read.facts(&parts.layer).map_err(text)?;
        old.facts = DriverFacts { merged: false, ..facts };
        let below = old.parent.and_then(|parent| {
            let built = self.plan.layers.iter().find(|layer| layer.layer.record.chain == parent);
            built.map(|layer| &layer.layer.record.cache_id).or_else(|| self.plan.stands_on.get(&parent))
        });
        let mut parent = None;
        if let Some(id) = below
            && let Some(dir) = FsError::in_place(self.dirs.dir(id.as_str())).map_err(text)?
        {
            let has_base = !self.driver.keeps_whole_trees()
                || FsError::in_place(self.driver.read.base(&old.facts, &dir)).map_err(text)?.is_some();
            parent = has_base.then_some(dir);
        }
        let fail = |error: crate::ops::save::DifferencesError| error.to_string();
        let prediction = parts.prediction(self.driver, &old, parent.as_ref()).map_err(fail)?;
        let compared = parts.compared(self.driver, &old, parent.as_ref(), &prediction).map_err(fail)?;
        let new = NewLayer { facts: &old.facts, parent: parent.as_ref(), lower: None };
        let untold = Untold::new(self.driver, &new, &prediction, reseed.origin, &old.cache_id);
        let list = untold.of(compared.differences).map_err(text)?;
        Ok(differences::write_list(&list))
    }

    /// Opens the directory of the layer below. Where trees do not look at it, it is a stand-in, which has what goes to
    /// `lower`: the plan says that better than what is there, which may be damaged too.
    fn parent(&self, reseed: &Reseed, staged: &Dir) -> Result<Option<Dir>, FsError> {
        let Some(parent) = reseed.layer.record.parent else { return Ok(None) };
        if self.driver.keeps_whole_trees() {
            return self.directory(parent).map(Some);
        }
        let stand_in = staged.make_dir("below", 0o700)?;
        write_stand_in(&stand_in, reseed.lower.as_deref().unwrap_or_default())?;
        Ok(Some(stand_in))
    }

    /// Opens the directory of a layer: the one that was built, else the one that is there.
    fn directory(&self, chain: ChainId) -> Result<Dir, FsError> {
        match self.layers.dir(format!("{}/{DRIVER_DIR}", chain.hex())) {
            Err(error) if error.is_not_found() => match self.plan.stands_on.get(&chain) {
                Some(id) => self.dirs.dir(id.as_str()),
                None => Err(error),
            },
            built => built,
        }
    }

    fn by_cache_id(&self, id: &CacheId) -> Result<Dir, FsError> {
        match self.plan.layers.iter().find(|layer| layer.layer.record.cache_id == *id) {
            Some(layer) => self.directory(layer.layer.record.chain),
            None => self.dirs.dir(id.as_str()),
        }
    }
}

/// Writes what a directory must have for one to be made on top of it whose `lower` is this text.
pub(super) fn write_stand_in(dir: &Dir, lower: &str) -> Result<(), FsError> {
    let (link, rest) = lower.split_once(':').unwrap_or((lower, ""));
    dir.new_file("link", link.trim_start_matches("l/").as_bytes(), 0o600)?;
    match rest {
        "" => Ok(()),
        rest => dir.new_file("lower", rest.as_bytes(), 0o600),
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
