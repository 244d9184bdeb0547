//! A store as a place that images come from.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use crate::driver::{Driver, DriverFacts};
use crate::error::{Error, FsError, Result};
use crate::id::ChainId;
use crate::model::{LayerRecord, Metadata};
use crate::progress::{Event, Observer};
use crate::store::Store;
use crate::transfer::{Blame, Sink, Source};

use super::given::Incoming;
use super::measure::{Parts, contents};
use super::order::Contents;
use super::plan::{SavePlan, Users};
use super::read::{AHEAD, Pieces, Reader};

/// Most files that the layers are compared by, in all and of one layer: the largest.
const FILES: usize = 2 << 20;
const FILES_OF_LAYER: usize = 1 << 10;

/// Images of a store, which are read straight from its files. Nothing of it is changed.
#[derive(Debug)]
pub struct StoreSource {
    pub(super) store: Store,
    pub(super) driver: &'static Driver,
    pub(super) metadata: Arc<Metadata>,
    pub(super) users: Users,
}

impl SavePlan {
    /// Opens the images of the plan, which was made of a snapshot of `store`. The observer is told what is left out.
    ///
    /// # Errors
    /// The store is of a driver whose layers dockpack does not read, or a layer is not there or not whole.
    pub fn open(self, store: &Store, observer: &dyn Observer) -> Result<StoreSource> {
        self.measure(store, observer).map(|(source, _)| source)
    }

    /// Finds out what the index says of each layer beyond the snapshot, and what is in their tars.
    pub(super) fn measure(mut self, store: &Store, observer: &dyn Observer) -> Result<(StoreSource, Vec<Contents>)> {
        if let Some(first) = self.unproved.first() {
            let left_out = match self.unproved.len() {
                1 => format!("the reference by digest {first} is left out"),
                several => format!("{several} references by digest are left out ({first}, …)"),
            };
            let text = format!("{left_out}: no manifest of the store proves it");
            observer.on(Event::Warning(&text));
        }
        let driver = store.driver().readable()?;
        // Owners are saved as containers see them.
        store.namespace()?;
        let layers = &mut self.metadata.index.layers;
        // A directory that is gone says more than what is missing in one.
        for layer in &*layers {
            Parts::open(store, layer).map_err(|error| self.users.error(layer.chain, error))?;
        }
        let files = (FILES / layers.len().max(1)).max(FILES_OF_LAYER);
        let measured: Vec<_> = layers.par_iter().map(|layer| measure(store, driver, layer, files)).collect();
        let mut all = Vec::new();
        for (layer, measured) in layers.iter_mut().zip(measured) {
            let (contents, facts) = measured.map_err(|reason| self.users.error(layer.chain, reason))?;
            layer.tar_size = contents.length;
            layer.facts = facts;
            all.push(contents);
        }
        let metadata = Arc::new(self.metadata);
        Ok((StoreSource { store: store.clone(), driver, metadata, users: self.users }, all))
    }
}

fn measure(
    store: &Store,
    driver: &'static Driver,
    layer: &LayerRecord,
    files: usize,
) -> Result<(Contents, DriverFacts), String> {
    let text = |error: FsError| error.to_string();
    let parts = Parts::open(store, layer).map_err(text)?;
    let contents = contents(parts.entries().map_err(text)?, files).map_err(|error| format!("tar-split: {error}"))?;
    Ok((contents, driver.read.facts(&parts.layer).map_err(text)?))
}

impl Source for StoreSource {
    fn metadata(&self) -> &Arc<Metadata> {
        &self.metadata
    }

    fn read(&mut self, wanted: &BTreeSet<ChainId>, sink: &mut dyn Sink, observer: &dyn Observer) -> Result<()> {
        let stamped = OnceLock::new();
        let reader = Reader { source: self, wanted, observer, stamped: &stamped };
        std::thread::scope(|threads| {
            let ((list, lists), (piece, pieces)) = (sync_channel(0), sync_channel(AHEAD));
            let (spare, back) = channel();
            threads.spawn(move || reader.compare(&list));
            threads.spawn(move || reader.read(&lists, Pieces::new(piece, back)));
            // When it ends early, so do the others.
            let mut incoming = Incoming::new(self, pieces, spare);
            while let Some(part) = incoming.next_part()? {
                if observer.wants_stop() {
                    return Err(Error::Stopped);
                }
                incoming.take(sink.digests());
                let taken = sink.part(part, &mut incoming)?;
                incoming.settle(taken)?;
            }
            Ok(())
        })
    }
}

impl Blame for StoreSource {
    fn bad(&self, reason: String) -> Error {
        Error::Source { root: self.store.path().to_owned(), reason }
    }

    fn read_failed(&self, error: &io::Error) -> Error {
        self.bad(error.to_string())
    }
}
