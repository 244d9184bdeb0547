//! The layers that a layer stands on, whose tars prove what a list of differences says.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use crate::driver::{Driver, DriverFacts};
use crate::error::ParseError;
use crate::id::{CacheId, ChainId};
use crate::layer::claims::{self, Rules, Tars, Unproved};
use crate::layer::differences::{Difference, Lines};
use crate::model::{Index, LayerRecord};

/// Most layers that stand on each other: Docker takes 125.
const MOST: usize = 1 << 10;

/// A layer and all below it.
pub(super) struct Ancestry {
    /// The layer itself comes first.
    chains: Vec<ChainId>,
    /// How many of them have nodes in the layer's tree.
    own: usize,
}

impl Ancestry {
    /// `find` tells the parent and the directory of a layer.
    ///
    /// # Errors
    /// In words: a layer on the way is not known, or the directory that the tree lies on is of none of them.
    pub(super) fn new(
        top: ChainId,
        facts: &DriverFacts,
        find: impl Fn(ChainId) -> Option<(Option<ChainId>, CacheId)>,
    ) -> Result<Self, String> {
        let (mut chains, mut own, mut next) = (Vec::new(), None, Some(top));
        while let Some(chain) = next {
            let (parent, id) = find(chain).ok_or_else(|| format!("layer {} below it is not known", chain.short()))?;
            if facts.lower_id.as_ref() == Some(&id) && !chains.is_empty() {
                own.get_or_insert(chains.len());
            }
            chains.push(chain);
            next = parent.filter(|_| chains.len() < MOST);
        }
        match (&facts.lower_id, own) {
            (Some(lower), None) => Err(format!("{lower}, which its tree lies on, is of no layer below it")),
            (_, own) => Ok(Self { chains, own: own.unwrap_or(1) }),
        }
    }

    /// Finds the differences that no tar proves; `open` opens tar-splits. See [`claims::unproved`].
    pub(super) fn unproved<I>(
        &self,
        rules: &Rules,
        list: &dyn Fn() -> Result<I, String>,
        open: &dyn Fn(ChainId) -> Result<Box<dyn Read>, String>,
    ) -> Result<Vec<Unproved>, String>
    where
        I: Iterator<Item = Result<Difference, ParseError>>,
    {
        let open = |depth: usize| open(self.chains[depth]);
        let layers = self.chains.len();
        let own = if rules.whole { layers } else { self.own };
        claims::unproved(rules, list, &Tars { layers, own, open: &open })
    }
}

/// What the lists of differences of an archive may say.
#[derive(Default)]
pub(super) struct Claims {
    driver: Option<&'static Driver>,
    /// Where in the index the layers are.
    places: BTreeMap<ChainId, usize>,
}

impl Claims {
    pub(super) fn new(index: &Index) -> Self {
        let driver = index.driver.as_deref().and_then(Driver::known).filter(|driver| driver.is_readable());
        let places = index.layers.iter().enumerate().map(|(place, layer)| (layer.chain, place));
        Self { driver, places: places.collect() }
    }

    /// Proves a list of differences, which `list` begins anew each time; `open` opens tar-splits. `index` is the one that
    /// this was made of.
    ///
    /// # Errors
    /// In words, what of it is not proved, or why that cannot be told.
    pub(super) fn prove<R: BufRead>(
        &self,
        index: &Index,
        chain: ChainId,
        list: &dyn Fn() -> Result<R, String>,
        open: &dyn Fn(ChainId) -> Result<Box<dyn Read>, String>,
    ) -> Result<(), String> {
        let record = |chain: ChainId| -> Option<&LayerRecord> { index.layers.get(*self.places.get(&chain)?) };
        let Some(layer) = record(chain) else { return Ok(()) };
        let Some(driver) = self.driver else {
            // Nobody can build directories of such a driver.
            return match list()?.fill_buf() {
                Ok([]) => Ok(()),
                Ok(_) => Err("a list of differences of a graph driver that has none".to_owned()),
                Err(error) => Err(error.to_string()),
            };
        };
        let find = |chain| record(chain).map(|layer| (layer.parent, layer.cache_id.clone()));
        let ancestry = Ancestry::new(chain, &layer.facts, find)?;
        let lines = || list().map(Lines::new);
        match ancestry.unproved(&driver.read.rules(&layer.facts, &layer.cache_id), &lines, open)?.first() {
            None => Ok(()),
            Some(first) => Err(first.to_string()),
        }
    }
}
