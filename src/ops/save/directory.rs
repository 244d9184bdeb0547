//! What of a layer's directory is saved beyond its tar: what differs and is proved. What is damaged is not.

use std::collections::HashSet;
use std::io::Read;
use std::sync::OnceLock;

use crate::driver::Driver;
use crate::error::{FsError, Result};
use crate::fsx::{Attrs, Dir, Inode};
use crate::id::{CacheId, ChainId};
use crate::layer::claims::{LIST_LIMIT, Unproved, is_time_only};
use crate::layer::differences::{self, Difference, LINE_LIMIT};
use crate::layer::{Content, Members};
use crate::model::LayerRecord;
use crate::ops::ancestry::Ancestry;
use crate::ops::verify::{Damage, DamageError, Subject, stamped};
use crate::store::{Store, places};
use crate::tarsplit::Segments;

use super::measure::{DifferencesError, Parts};

/// Looks at the directories of layers.
pub(in crate::ops) struct Directories<'a> {
    pub(in crate::ops) store: &'a Store,
    pub(in crate::ops) driver: &'static Driver,
    /// Files that other layers have changed rightly, once somebody asked for them.
    pub(in crate::ops) stamped: &'a OnceLock<HashSet<Inode>>,
}

/// What a layer's directory has beyond its tar.
#[derive(Debug, Default)]
pub(in crate::ops) struct Beyond {
    /// What a rebuilt directory will have too.
    pub(in crate::ops) list: Vec<Difference>,
    /// What nothing proves: a rebuilt directory will be as the tar says.
    pub(in crate::ops) unproved: Vec<Unproved>,
    /// Paths that are no part of the layer.
    pub(in crate::ops) foreign: Vec<Vec<u8>>,
    /// Why the headers of the tar could not be read, and nothing could be compared.
    pub(in crate::ops) unknown: Option<String>,
    /// Times are left out: there are too many of them.
    pub(in crate::ops) has_no_times: bool,
}

impl Directories<'_> {
    /// Compares a layer's directory with its tar. `parent` is the directory of the layer below, `find` tells parent and
    /// directory of a layer.
    ///
    /// # Errors
    /// In words, what is damaged, or why that cannot be told.
    pub(in crate::ops) fn look(
        &self,
        source: &Parts,
        layer: &LayerRecord,
        parent: Option<&Dir>,
        find: impl Fn(ChainId) -> Option<(Option<ChainId>, CacheId)>,
    ) -> Result<Beyond, String> {
        let compared = match source.differences(self.driver, layer, parent) {
            Ok(compared) => compared,
            Err(DifferencesError::Fs(error)) => return Err(error.to_string()),
            Err(DifferencesError::Tar(error)) => {
                return Ok(Beyond { unknown: Some(error.to_string()), ..Beyond::default() });
            }
        };
        let rules = self.driver.read.rules(&layer.facts, &layer.cache_id);
        let list = || Ok(compared.differences.iter().cloned().map(Ok));
        let ancestry = Ancestry::new(layer.chain, &layer.facts, find)?;
        let unproved = ancestry.unproved(&rules, &list, &|chain| self.tar_split(chain))?;
        let refused: HashSet<&[u8]> = unproved.iter().map(|one| &one.path[..]).collect();
        let mut proved = compared.differences;
        let is_long = |line: &Difference| differences::write_list(std::slice::from_ref(line)).len() as u64 > LINE_LIMIT;
        proved.retain(|line| !refused.contains(&line.path.0[..]) && (line.xattrs.is_none() || !is_long(line)));
        let made =
            |path: &[u8]| proved.iter().any(|line| line.make.is_some() && rules.inner(&line.path.0) == Some(path));
        if let Some(damage) = self.damage(source, layer, parent, made)? {
            return Err(damage.to_string());
        }
        let mut unproved = unproved;
        if self.driver.links_files() && !unproved.is_empty() {
            let stamped = self.stamped()?;
            let found =
                |path: &[u8]| source.layer.parent_of(path).and_then(|(dir, name)| dir.find(name)).ok().flatten();
            let is_stamped = |found: Attrs| stamped.contains(&(found.file_system, found.inode));
            unproved.retain(|one| !found(&one.path).is_some_and(is_stamped));
        }
        let mut beyond = Beyond { list: proved, unproved, foreign: compared.foreign, ..Beyond::default() };
        if differences::write_list(&beyond.list).len() as u64 > LIST_LIMIT {
            beyond.list.retain(|line| !is_time_only(line));
            beyond.has_no_times = true;
        }
        Ok(beyond)
    }

    /// Finds something that is damaged in a layer's tree. `is_proved` tells of a whiteout that it hides nothing that the
    /// layer does not hide.
    fn damage(
        &self,
        source: &Parts,
        layer: &LayerRecord,
        parent: Option<&Dir>,
        is_proved: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Damage>, String> {
        let subject = Subject {
            driver: self.driver,
            layer: &source.layer,
            parent,
            facts: &layer.facts,
            id: &layer.cache_id,
            has_parent: layer.parent.is_some(),
        };
        let entries = source.entries().map_err(|error| error.to_string())?;
        let found = match subject.damage(&mut Members::new(Segments::new(entries), Content::Elided)) {
            Ok(found) => found,
            Err(DamageError::Fs(error)) => return Err(error.to_string()),
            Err(DamageError::Tar(_)) => return Ok(None),
        };
        for damage in found {
            let is_explained = match damage.inode.filter(|_| self.driver.links_files()) {
                _ if damage.is_whiteout => is_proved(&damage.path),
                None => false,
                Some(inode) => self.stamped()?.contains(&inode),
            };
            if !is_explained {
                return Ok(Some(damage));
            }
        }
        Ok(None)
    }

    fn stamped(&self) -> Result<&HashSet<Inode>, String> {
        if let Some(known) = self.stamped.get() {
            return Ok(known);
        }
        let found = stamped(self.store).map_err(|error| error.to_string())?;
        Ok(self.stamped.get_or_init(|| found))
    }

    fn tar_split(&self, chain: ChainId) -> Result<Box<dyn Read>, String> {
        let path = places::tar_split(&chain);
        let file = self.store.image().map(|image| image.file(path)).transpose();
        match file.map_err(|error: FsError| error.to_string())? {
            Some(file) => Ok(Box::new(file)),
            None => Err("the store has no images".to_owned()),
        }
    }
}
