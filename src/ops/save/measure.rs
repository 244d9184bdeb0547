//! What must be known of each layer before the first byte is written.

use std::io::{self, Read};

use crate::driver::{GraphDriver, NewLayer};
use crate::error::{FsError, ParseError};
use crate::fsx::Dir;
use crate::layer::differences::{Compared, Prediction, compare};
use crate::layer::{Content, Members, TarError};
use crate::store::Store;
use crate::tarsplit::{Entries, Entry, Segments};

use crate::archive::LayerRecord;

/// Where the parts of a layer are in a store.
#[derive(Debug)]
pub(super) struct Source {
    /// `layerdb/sha256/<chain>`.
    record: Dir,
    /// `<home>/<cache-id>`.
    pub(super) layer: Dir,
}

impl Source {
    pub(super) fn open(store: &Store, layer: &LayerRecord) -> Result<Self, FsError> {
        let missing = |what: &str| FsError::new("open", store.path().join(what), io::ErrorKind::NotFound);
        let image = store.image().ok_or_else(|| missing("image"))?;
        let home = store.home().ok_or_else(|| missing(store.driver()))?;
        Ok(Self {
            record: image.dir(format!("layerdb/sha256/{}", layer.chain.hex()))?,
            layer: home.dir(layer.cache_id.as_str())?,
        })
    }

    /// Opens the layer's tar-split, compressed.
    pub(super) fn tar_split(&self) -> Result<std::fs::File, FsError> {
        self.record.file("tar-split.json.gz")
    }

    pub(super) fn entries(&self) -> Result<Entries<std::fs::File>, FsError> {
        self.tar_split().map(Entries::new)
    }

    /// Compares the layer's directory with what unpacking its tar would give.
    pub(super) fn differences(
        &self,
        driver: &dyn GraphDriver,
        layer: &LayerRecord,
        parent: Option<&Dir>,
    ) -> Result<Compared, DifferencesError> {
        let new = NewLayer { facts: &layer.facts, parent, lower: None };
        let mut prediction = Prediction::new(driver.keeps_whiteouts(&layer.facts));
        let mut members = Members::new(Segments::new(self.entries()?), Content::Elided);
        while let Some(member) = members.next_member()? {
            prediction.add(&member);
        }
        let mut failure = None;
        let whiteouts = driver.expected_whiteouts(&new, &prediction)?;
        let compared = compare(&self.layer, whiteouts, &mut |path| {
            driver.expect(&new, &prediction, path).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                None
            })
        })?;
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(compared),
        }
    }
}

/// Why a layer's directory could not be compared.
#[derive(Debug, thiserror::Error)]
pub(super) enum DifferencesError {
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Tar(#[from] TarError),
}

/// Returns the length in bytes of the tar that these entries stand for.
pub(super) fn tar_size<R: Read>(entries: Entries<R>) -> Result<u64, ParseError> {
    let mut length = 0;
    for entry in entries {
        length += match entry? {
            Entry::Segment(bytes) => bytes.len() as u64,
            Entry::File { size, .. } => size,
        };
    }
    Ok(length)
}
