//! What must be known of each layer before the first byte is written.

use std::cmp::Reverse;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::io::{self, Read};

use crate::driver::{Driver, NewLayer};
use crate::error::{FsError, ParseError};
use crate::fsx::Dir;
use crate::layer::differences::{Compared, Prediction, compare};
use crate::layer::{Content, Members, TarError};
use crate::store::{Store, places};
use crate::tarsplit::{Entries, Entry, Segments};

use crate::model::LayerRecord;

use super::order::{Contents, File};

/// Where the parts of a layer are in a store.
#[derive(Debug)]
pub(in crate::ops) struct Parts {
    /// `layerdb/sha256/<chain>`.
    record: Dir,
    /// The layer's driver directory.
    pub(in crate::ops) layer: Dir,
}

impl Parts {
    pub(in crate::ops) fn open(store: &Store, layer: &LayerRecord) -> Result<Self, FsError> {
        let missing = |what: &str| FsError::new("open", store.path().join(what), io::ErrorKind::NotFound);
        let image = store.image().ok_or_else(|| missing("image"))?;
        let dirs = store.dirs().ok_or_else(|| missing(store.driver().name()))?;
        Ok(Self { record: image.dir(places::layer(&layer.chain))?, layer: dirs.dir(layer.cache_id.as_str())? })
    }

    /// Opens the layer's tar-split, compressed.
    pub(in crate::ops) fn tar_split(&self) -> Result<crate::fsx::File, FsError> {
        self.record.file(places::TAR_SPLIT)
    }

    pub(in crate::ops) fn entries(&self) -> Result<Entries<crate::fsx::File>, FsError> {
        self.tar_split().map(Entries::new)
    }

    /// Compares the layer's directory with what unpacking its tar would give.
    pub(in crate::ops) fn differences(
        &self,
        driver: &'static Driver,
        layer: &LayerRecord,
        parent: Option<&Dir>,
    ) -> Result<Compared, DifferencesError> {
        let prediction = self.prediction(driver, layer, parent)?;
        self.compared(driver, layer, parent, &prediction)
    }

    /// Predicts what unpacking the layer's tar gives.
    pub(in crate::ops) fn prediction(
        &self,
        driver: &'static Driver,
        layer: &LayerRecord,
        parent: Option<&Dir>,
    ) -> Result<Prediction, DifferencesError> {
        let base = parent.map(|parent| driver.read.base(&layer.facts, parent)).transpose()?.flatten();
        let mut prediction = Prediction::new(driver.read.marks(&layer.facts), base);
        let mut members = Members::new(Segments::new(self.entries()?), Content::Elided);
        while let Some(member) = members.next_member()? {
            let member = prediction.resolved(member);
            prediction.add(&member);
        }
        Ok(prediction)
    }

    /// Compares the layer's directory with a prediction.
    pub(in crate::ops) fn compared(
        &self,
        driver: &'static Driver,
        layer: &LayerRecord,
        parent: Option<&Dir>,
        prediction: &Prediction,
    ) -> Result<Compared, DifferencesError> {
        let new = NewLayer { facts: &layer.facts, parent, lower: None };
        let marks = driver.read.marks(&layer.facts);
        let mut failure = None;
        let whiteouts = driver.read.expected_whiteouts(&new, prediction)?;
        let compared = compare(&self.layer, marks, whiteouts, &mut |path| {
            driver.read.expect(&new, prediction, path).unwrap_or_else(|error| {
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
pub(in crate::ops) enum DifferencesError {
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Tar(#[from] TarError),
}

/// Returns what is in the tar that these entries stand for: its length, and its largest files, `most` of them.
pub(super) fn contents<R: Read>(entries: Entries<R>, most: usize) -> Result<Contents, ParseError> {
    let mut contents = Contents::default();
    for entry in entries {
        contents.length += match entry? {
            Entry::Segment(bytes) => bytes.len() as u64,
            Entry::File { name, size, crc } => {
                let (content, name, offset) = (key(&(size, crc)), key(&name), contents.length);
                if size > 0 {
                    contents.files.push(File { content, name, offset, size });
                }
                if contents.files.len() >= most.saturating_mul(2) {
                    keep_largest(&mut contents.files, most);
                }
                size
            }
        };
    }
    keep_largest(&mut contents.files, most);
    Ok(contents)
}

/// Whether two keys are the same is all that matters.
fn key(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn keep_largest(files: &mut Vec<File>, most: usize) {
    if files.len() > most {
        files.select_nth_unstable_by_key(most, |file| (Reverse(file.size), file.offset));
        files.truncate(most);
        files.sort_unstable_by_key(|file| file.offset);
    }
}
