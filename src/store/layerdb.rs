//! Reads `image/<driver>/layerdb/sha256/` and `layerdb/tmp/`, the layers.
//!
//! | path below `layerdb/` | content |
//! |---|---|
//! | `sha256/<chain>/diff` | `sha256:<hex>`, digest of the uncompressed tar |
//! | `sha256/<chain>/cache-id` | name of the driver directory: 64 hexadecimal digits, or 25 base-36 characters by BuildKit |
//! | `sha256/<chain>/parent` | `sha256:<hex>`, chain ID of the layer below; absent for a base layer |
//! | `sha256/<chain>/size` | decimal bytes, for display |
//! | `sha256/<chain>/tar-split.json.gz` | headers of the tar; only save and push read it |
//! | `sha256/<chain>-<random>-removing/` | 20.10+: a layer that was being removed |
//! | `tmp/write-set-<random>/` | a layer that is being written (to 1.12 `layer-<random>`); never cleaned |
//!
//! dockerd loads an entry when `diff`, `size` and `cache-id` are good, `parent` is good or absent, and the parent loads
//! [moby layer/layer_store.go `loadLayer`]; white space is trimmed but in `size`. It looks at neither the driver directory
//! nor the tar-split, nor does it compare the name with `parent` and `diff`. An entry that does not load stays, and makes
//! every later pull of the layer fail.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::places;
use super::{BrokenLayer, Layer, StrayKind, Unknown};
use crate::error::{FsError, ParseError};
use crate::finding::{Code, Finding, Object, Thing};
use crate::fsx::{Dir, Entry, Kind};
use crate::id::{CacheId, ChainId};
use crate::notes::{Notes, below};

/// What `layerdb` holds, without its mounts.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub(super) loadable: BTreeMap<ChainId, Layer>,
    pub(super) broken: BTreeMap<String, BrokenLayer>,
}

/// Parses a `size` file as strictly as dockerd does (`strconv.ParseInt`). Less than nothing is taken for nothing.
pub(crate) fn parse_size(text: &[u8]) -> Result<u64, ParseError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
    number.map(|size| u64::try_from(size).unwrap_or(0)).ok_or_else(|| ParseError::new("a decimal number", text))
}

/// Parses an identity or name that stands alone in a file, with white space around it.
pub(crate) fn parse_line<T>(text: &[u8], parse: impl Fn(&[u8]) -> Result<T, ParseError>) -> Result<T, ParseError> {
    parse(text.trim_ascii())
}

/// Parses bytes as a digest of one role.
pub(crate) fn parse_digest<T: std::str::FromStr<Err = ParseError>>(text: &[u8]) -> Result<T, ParseError> {
    match std::str::from_utf8(text.trim_ascii()) {
        Ok(text) => text.parse(),
        Err(_) => Err(ParseError::new("a digest", text)),
    }
}

/// Reads the layers below `image`, which is `image/<driver>` at the path `at` below the data root.
pub(super) fn read(image: &Dir, at: &str) -> (Layers, Notes) {
    let (mut layers, mut notes) = read_entries(image, &below(at, places::LAYERS));
    break_orphans(&mut layers);
    for (name, layer) in layers.broken.iter().filter(|(_, layer)| !layer.removing) {
        let path = below(at, places::layer_named(name));
        let object = Object::maybe_at(layer_of(name.as_bytes()), path);
        notes.findings.push(Finding::new(Code::LayerNotLoadable, object, &layer.reason));
    }
    notes.findings.extend(contradictions(&layers.loadable));
    notes.append(read_write_sets(image, &below(at, places::WRITE_SETS)));
    (layers, notes)
}

/// What one entry of `layerdb/sha256` is.
enum Found {
    Layer(ChainId, Layer),
    Broken(String, BrokenLayer),
    Vanished,
    Nothing,
}

fn read_entries(image: &Dir, at: &str) -> (Layers, Notes) {
    let mut layers = Layers::default();
    let mut notes = Notes::default();
    let Some(dir) = notes.open(image, places::LAYERS, at, Unknown::Layers) else { return (layers, notes) };
    let entries = notes.list(&dir, at, Unknown::Layers);
    let read: Vec<_> = entries.par_iter().map(|entry| (entry, read_entry(&dir, at, entry))).collect();
    for (entry, (found, more)) in read {
        match found {
            Found::Layer(chain, layer) => {
                layers.loadable.insert(chain, layer);
            }
            Found::Broken(name, layer) => {
                layers.broken.insert(name, layer);
            }
            Found::Vanished => continue,
            Found::Nothing => {
                notes.unexpected(at, &entry.name, "expected a directory with the chain ID of a layer as its name")
            }
        }
        notes.append(more);
    }
    (layers, notes)
}

/// Returns the layer that an entry of this name is of; `None` for one that dockerd was removing.
fn layer_of(name: &[u8]) -> Option<Thing> {
    ChainId::from_hex(name).ok().map(Thing::Layer)
}

/// Tells whether a name is one that dockerd gives a layer before it removes it: `<chain>-<random>-removing`.
fn is_removing(name: &[u8]) -> bool {
    name.ends_with(b"-removing")
        && name.split(|byte| *byte == b'-').next().is_some_and(|hex| ChainId::from_hex(hex).is_ok())
}

fn read_entry(sha256: &Dir, at: &str, entry: &Entry) -> (Found, Notes) {
    let mut notes = Notes::default();
    let removing = is_removing(&entry.name);
    let chain = ChainId::from_hex(&entry.name);
    if !removing && chain.is_err() {
        return (Found::Nothing, notes);
    }
    let Ok(name) = String::from_utf8(entry.name.clone()) else { return (Found::Nothing, notes) };
    let broken = |reason: String| BrokenLayer { cache_id: None, parent: None, reason, removing };
    if entry.kind != Kind::Directory {
        return (Found::Broken(name, broken("not a directory".to_owned())), notes);
    }
    let at = below(at, &name);
    let dir = match FsError::found(sha256.dir(&name)) {
        Ok(Some(dir)) => dir,
        Ok(None) => return (Found::Vanished, notes),
        Err(error) => {
            notes.unreadable(Unknown::Layers, &at, &error);
            return (Found::Broken(name, broken(error.to_string())), notes);
        }
    };
    let fields = Fields::read(&dir, &Object::maybe_at(layer_of(&entry.name), at), &mut notes);
    let is_gone = || matches!(sha256.find(&name), Ok(None));
    match (fields.layer(), chain) {
        (Err(_), _) if fields.is_empty() && is_gone() => (Found::Vanished, notes),
        (Ok(layer), Ok(chain)) => (Found::Layer(chain, layer), notes),
        (layer, _) => {
            let reason = layer.err().unwrap_or_else(|| "it was being removed".to_owned());
            let broken =
                BrokenLayer { cache_id: fields.cache_id.ok(), parent: fields.parent.ok().flatten(), reason, removing };
            (Found::Broken(name, broken), notes)
        }
    }
}

/// Fields of an entry, each with the reason why it is not good.
pub(crate) struct Fields {
    pub(crate) diff: Result<crate::id::DiffId, String>,
    pub(crate) size: Result<u64, String>,
    pub(crate) cache_id: Result<CacheId, String>,
    pub(crate) parent: Result<Option<ChainId>, String>,
    pub(crate) has_tar_split: bool,
}

impl Fields {
    /// Reads the fields of the entry in `dir`, which findings call by its path.
    pub(crate) fn read(dir: &Dir, object: &Object, notes: &mut Notes) -> Self {
        /// Reads a field that must be there.
        fn field<T>(
            text: Result<Option<Vec<u8>>, String>,
            name: &str,
            parse: impl Fn(&[u8]) -> Result<T, ParseError>,
        ) -> Result<T, String> {
            let text = text?.ok_or_else(|| format!("{name} is missing"))?;
            parse(&text).map_err(|error| format!("{name}: {error}"))
        }
        let at = object.place().unwrap_or_default();
        let mut line = |name: &str| notes.line(dir, name, at, Unknown::Layers);
        let parent = match line("parent") {
            Ok(None) => Ok(None),
            text => field(text, "parent", parse_digest).map(Some),
        };
        let (diff, size, cache_id) = (line("diff"), line("size"), line("cache-id"));
        if let Ok(text) = &cache_id {
            look_at_cache_id(text.as_deref(), object.clone(), notes);
        }
        let has_tar_split = match dir.find(places::TAR_SPLIT) {
            Ok(found) => found.is_some_and(|attrs| attrs.kind == Kind::File),
            // Nothing says that it is missing.
            Err(error) => {
                notes.unreadable(Unknown::Layers, below(at, places::TAR_SPLIT), error);
                true
            }
        };
        Self {
            diff: field(diff, "diff", parse_digest),
            size: field(size, "size", parse_size),
            cache_id: field(cache_id, "cache-id", |text| parse_line(text, CacheId::parse)),
            parent,
            has_tar_split,
        }
    }

    fn is_empty(&self) -> bool {
        self.diff.is_err() && self.size.is_err() && self.cache_id.is_err() && !self.has_tar_split
    }

    fn layer(&self) -> Result<Layer, String> {
        Ok(Layer {
            diff: self.diff.clone()?,
            size: self.size.clone()?,
            cache_id: self.cache_id.clone()?,
            parent: self.parent.clone()?,
            has_tar_split: self.has_tar_split,
        })
    }
}

/// Says that a `cache-id` is there and no name: no crash writes that.
fn look_at_cache_id(text: Option<&[u8]>, object: Object, notes: &mut Notes) {
    let text = text.unwrap_or_default().trim_ascii();
    if let Err(error) = CacheId::parse(text)
        && !text.iter().all(|byte| *byte == 0)
    {
        notes.findings.push(Finding::new(Code::CacheIdInvalid, object, error));
    }
}

/// Takes layers whose parent does not load out of those that load, and their children with them.
fn break_orphans(layers: &mut Layers) {
    // Whether a layer loads; one whose parents lead back to it never becomes true.
    let mut loads: BTreeMap<ChainId, bool> = BTreeMap::new();
    for start in layers.loadable.keys() {
        let mut path = Vec::new();
        let mut next = Some(*start);
        let answer = loop {
            let Some(chain) = next else { break true };
            if let Some(answer) = loads.get(&chain) {
                break *answer;
            }
            let Some(layer) = layers.loadable.get(&chain) else { break false };
            // Until the end of the chain is found it does not load: this ends loops.
            loads.insert(chain, false);
            path.push(chain);
            next = layer.parent;
        };
        loads.extend(path.into_iter().map(|chain| (chain, answer)));
    }
    for (chain, _) in loads.into_iter().filter(|(_, loads)| !loads) {
        let Some(layer) = layers.loadable.remove(&chain) else { continue };
        let parent = layer.parent.map(|parent| parent.hex()).unwrap_or_default();
        let broken = BrokenLayer {
            cache_id: Some(layer.cache_id),
            parent: layer.parent,
            reason: format!("its parent {parent} does not load"),
            removing: false,
        };
        layers.broken.insert(chain.hex(), broken);
    }
}

/// Finds layers that dockerd loads although they contradict themselves or each other.
fn contradictions(layers: &BTreeMap<ChainId, Layer>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut users: BTreeMap<&CacheId, ChainId> = BTreeMap::new();
    for (chain, layer) in layers {
        let computed = ChainId::stack(layer.parent, layer.diff);
        if computed != *chain {
            let evidence = format!("its parent and diff make chain ID {computed}");
            findings.push(Finding::new(Code::LayerChainMismatch, *chain, evidence));
        }
        if let Some(other) = users.insert(&layer.cache_id, *chain) {
            let evidence = format!("layer {other} has driver directory {} too", layer.cache_id);
            findings.push(Finding::new(Code::LayerCacheIdShared, *chain, evidence));
        }
        if !layer.has_tar_split {
            findings.push(Finding::new(Code::LayerTarSplitMissing, *chain, "tar-split.json.gz is missing"));
        }
    }
    findings
}

fn read_write_sets(image: &Dir, at: &str) -> Notes {
    let mut notes = Notes::default();
    let Some(dir) = notes.open(image, places::WRITE_SETS, at, Unknown::Layers) else { return notes };
    for entry in notes.list(&dir, at, Unknown::Layers) {
        let mut cache_id = None;
        if entry.kind == Kind::Directory {
            let at = below(at, entry.name.escape_ascii());
            let Some(set) = notes.open_entry(&dir, &entry, &at, Unknown::Layers) else { continue };
            // Where it cannot be read, any directory may be meant, which is noted.
            cache_id = notes.line(&set, "cache-id", &at, Unknown::Layers).unwrap_or_default();
            look_at_cache_id(cache_id.as_deref(), at.into(), &mut notes);
        }
        let cache_id = cache_id.and_then(|text| CacheId::parse(text.trim_ascii()).ok());
        notes.stray(StrayKind::WriteSet, at, &entry.name, cache_id);
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{DiffId, Sha256};

    fn layer(parent: Option<ChainId>, name: &str) -> Layer {
        let cache_id = CacheId::parse(name.as_bytes()).expect("a name");
        Layer { parent, diff: DiffId(Sha256::of(name.as_bytes())), cache_id, size: 0, has_tar_split: true }
    }

    fn chain(name: &str) -> ChainId {
        ChainId(Sha256::of(name.as_bytes()))
    }

    #[test]
    fn children_of_what_does_not_load_do_not_load() {
        let mut layers = Layers::default();
        let stack =
            [("a", None), ("b", Some("a")), ("c", Some("lost")), ("d", Some("c")), ("e", Some("f")), ("f", Some("e"))];
        for (name, parent) in stack {
            layers.loadable.insert(chain(name), layer(parent.map(chain), name));
        }
        break_orphans(&mut layers);
        let mut left: Vec<_> = layers.loadable.values().map(|layer| layer.cache_id.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["a", "b"]);
        assert_eq!(layers.broken.len(), 4);
    }

    #[test]
    fn sizes_are_strict() {
        assert_eq!(parse_size(b"120"), Ok(120));
        assert_eq!(parse_size(b"-5"), Ok(0));
        for bad in [&b""[..], b"12\n", b" 12", b"1e3", b"\xff", b"99999999999999999999"] {
            assert!(parse_size(bad).is_err());
        }
    }

    #[test]
    fn names_of_layers_that_were_being_removed() {
        let hex = "1da0e48557625a4d36d61f73e19171eafed4d7f983fb0f733598abdb67a05ebf";
        assert!(is_removing(format!("{hex}-{hex}-removing").as_bytes()));
        assert!(is_removing(format!("{hex}-removing").as_bytes()));
        assert!(!is_removing(hex.as_bytes()));
        assert!(!is_removing(b"abc-removing"));
    }
}
