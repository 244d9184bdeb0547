//! What the disk and the kernel say of what may go.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::error::FsError;
use crate::finding::Code;
use crate::fsx::{Dir, Footprint};
use crate::ops::trash::{Identity, Places, identify};
use crate::progress::{Event, Observer};
use crate::store::{InUse, Snapshot, Store};

/// What there is at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What tells whether it is still the same thing.
    pub identity: Identity,
    /// What it takes, with all that is in it.
    pub footprint: Footprint,
}

/// What the disk and the kernel say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// What there is, by path relative to the data root. What is not there has no entry.
    pub facts: BTreeMap<String, Facts>,
    /// What could not be looked at, with the reason.
    pub failed: BTreeMap<String, String>,
    /// Symbolic links where Docker puts none, with what is odd about them.
    pub odd: BTreeMap<String, String>,
    /// What the kernel uses.
    pub in_use: InUse,
}

impl Survey {
    /// Looks at these paths, several at a time.
    ///
    /// # Errors
    /// The places where things lie cannot be opened.
    pub fn take(
        store: &Store,
        snapshot: &Snapshot,
        paths: &BTreeSet<String>,
        observer: &dyn Observer,
    ) -> Result<Self, FsError> {
        let places = Places::open(store)?;
        let mut parents: BTreeMap<&str, Result<Option<Dir>, FsError>> = BTreeMap::new();
        for path in paths {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            parents.entry(parent).or_insert_with(|| places.dir(parent));
        }
        observer.on(Event::Begin { what: "measuring", total: None });
        let looked: Vec<_> = paths
            .par_iter()
            .map(|path| {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                let facts = match &parents[parent] {
                    Err(error) => Err(error.to_string()),
                    Ok(None) => Ok(None),
                    Ok(Some(dir)) => look(dir, name).map_err(|error| error.to_string()),
                };
                if let Ok(Some(facts)) = &facts {
                    observer.on(Event::Advance(facts.footprint.alone.disk));
                }
                (path, facts)
            })
            .collect();
        observer.on(Event::End);
        let mut survey = Self { in_use: store.in_use(), odd: links(&places, snapshot), ..Self::default() };
        for (path, facts) in looked {
            match facts {
                Ok(Some(facts)) => {
                    survey.facts.insert(path.clone(), facts);
                }
                Ok(None) => {}
                Err(reason) => {
                    survey.failed.insert(path.clone(), reason);
                }
            }
        }
        Ok(survey)
    }
}

/// Finds the symbolic links among what no reader knows.
fn links(places: &Places, snapshot: &Snapshot) -> BTreeMap<String, String> {
    let mut links = BTreeMap::new();
    for finding in snapshot.findings.iter().filter(|finding| finding.code == Code::UnexpectedEntry) {
        let Some(path) = finding.object.place() else { continue };
        let Ok(Some((dir, name))) = places.parent(path) else { continue };
        if let Ok(target) = dir.read_link(name) {
            links.insert(path.to_owned(), format!("a symbolic link to {}", target.escape_ascii()));
        }
    }
    links
}

fn look(dir: &Dir, name: &str) -> Result<Option<Facts>, FsError> {
    let Some(identity) = identify(dir, name)? else { return Ok(None) };
    Ok(Some(Facts { identity, footprint: dir.footprint(name)? }))
}
