//! From the documents of an archive to its images.

use std::collections::{BTreeMap, BTreeSet};

use crate::count::count;
use crate::finding::{Code, Object};
use crate::id::{DiffId, ImageId, Sha256};
use crate::image_config::ImageConfig;
use crate::json;
use crate::model::ImageRecord;
use crate::reference::Reference;

use super::documents::{Descriptor, INDEX, MANIFEST, Manifest, REPOSITORIES, Saved, blob};
use super::legacy;
use super::members::{BLOBS, Catalog, CatalogError};
use super::platform::Platform;
use crate::progress::Observer;

/// How deep an index may lie in another.
const DEPTH_LIMIT: u32 = 4;
/// Most manifests that are looked at, however often one is named.
const MANIFESTS_LIMIT: usize = 10_000;
/// Most bytes of configurations that are kept, however often one is named.
const CONFIGS_LIMIT: usize = 64 << 20;
/// Most names of an image that is told to lack something.
const NAMES_SHOWN: usize = 100;
/// Most layers of an image that are looked at. Docker takes fewer, other engines do not.
const LAYERS_LIMIT: usize = 1024;
/// Most layers of all images, however often one is named.
const ALL_LAYERS_LIMIT: usize = 1_250_000;

/// Which images of an archive are wanted, where one name has several for different platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// All that are there.
    All,
    /// The one that fits this platform best, where there are several; else whatever there is.
    Fitting(Platform),
    /// Only what fits this platform.
    Only(Platform),
}

/// An image of an archive.
#[derive(Debug, Clone)]
pub(crate) struct ForeignImage {
    pub(crate) id: ImageId,
    /// Its configuration, byte for byte.
    pub(crate) config: Vec<u8>,
    /// Tags, as `repositories.json` writes them.
    pub(crate) references: BTreeSet<String>,
    pub(crate) diff_ids: Vec<DiffId>,
    pub(crate) created: Option<String>,
    pub(crate) parent: Option<ImageId>,
    pub(crate) platform: Platform,
    /// Where its layers are, bottom first.
    pub(crate) layers: Vec<ForeignLayer>,
}

impl ForeignImage {
    /// Returns what an index says of it.
    pub(crate) fn record(&self) -> ImageRecord {
        ImageRecord {
            id: self.id,
            references: self.references.iter().cloned().collect(),
            diff_ids: self.diff_ids.clone(),
            created: self.created.clone(),
            parent: self.parent,
            last_updated: None,
        }
    }
}

/// Where a layer of an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignLayer {
    /// The member, with all links followed; what the documents call it where there is none.
    pub(crate) member: String,
    /// Its length, compressed as it may be; nothing where there is none.
    pub(crate) length: Option<u64>,
    /// Its digest as it is, where its name says one.
    pub(crate) digest: Option<Sha256>,
}

/// Something in an archive that is not as it should be.
#[derive(Debug)]
pub(crate) struct Problem {
    /// A code of `verify`.
    pub(crate) code: Code,
    pub(crate) weight: Weight,
    pub(crate) object: Object,
    pub(crate) evidence: String,
    /// The image that lacks it, with its names.
    pub(crate) image: Option<(ImageId, Vec<String>)>,
}

/// What comes of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// The archive cannot be loaded.
    Fatal,
    /// What is missing must be in the store already.
    Missing,
    /// It is told, and no more: Docker does not mind it.
    Told,
}

/// What the documents say.
#[derive(Debug, Default)]
pub(crate) struct Described {
    pub(crate) images: Vec<ForeignImage>,
    pub(crate) problems: Vec<Problem>,
    /// Platforms that were passed over.
    pub(crate) others: BTreeSet<Platform>,
}

/// Reads the documents of an archive.
pub(super) fn describe(catalog: &Catalog, choice: &Choice, observer: &dyn Observer) -> Result<Described, CatalogError> {
    let mut work =
        Work { catalog, choice, observer, looked_at: 0, configs: 0, layers: 0, described: Described::default() };
    // Each later one is there for older readers, or for none that knows the others; an explicit platform needs the index.
    let names: &[&str] = match choice {
        Choice::Only(_) => &[INDEX, MANIFEST, REPOSITORIES],
        _ => &[MANIFEST, INDEX, REPOSITORIES],
    };
    let Some((name, document)) = first_document(catalog, names)? else {
        let evidence =
            "it has no manifest.json, no index.json and no repositories; docker import takes what docker export wrote";
        work.problem(Code::ArchiveDamaged, "", evidence);
        return Ok(work.described);
    };
    let read = match name {
        // Docker reads files of Docker's form only as far as the first value goes.
        MANIFEST => json::first(&document).map(|saved: Option<_>| work.docker(saved.unwrap_or_default())),
        INDEX => json::read(&document).map(|index| work.layout(index.value)),
        _ => json::first(&document).map(|repositories| work.legacy(&repositories)),
    };
    match read {
        Ok(read) => read?,
        Err(error) => work.problem(Code::ArchiveDamaged, name, error),
    }
    work.forget_parents();
    Ok(work.described)
}

fn first_document(catalog: &Catalog, names: &[&'static str]) -> Result<Option<(&'static str, Vec<u8>)>, CatalogError> {
    for name in names {
        if let Some(document) = catalog.document(name)? {
            return Ok(Some((*name, document)));
        }
    }
    Ok(None)
}

struct Work<'a> {
    catalog: &'a Catalog,
    choice: &'a Choice,
    observer: &'a dyn Observer,
    looked_at: usize,
    /// Bytes of configurations that are kept.
    configs: usize,
    /// Layers of images that are kept.
    layers: usize,
    described: Described,
}

/// An image that may be wanted.
struct Candidate {
    /// Those of one group have the same name; of several platforms one is taken.
    group: String,
    name: Option<String>,
    platform: Option<Platform>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Work<'_> {
    fn problem(&mut self, code: Code, object: impl Into<Object>, evidence: impl ToString) {
        let (object, evidence) = (object.into(), evidence.to_string());
        self.described.problems.push(Problem { code, weight: Weight::Fatal, object, evidence, image: None });
    }

    /// Tells of a manifest that is passed over.
    fn pass_over(&mut self, path: &str, why: String) {
        let evidence = format!("no image, so it is passed over: {why}");
        let (code, weight, object) = (Code::ArchiveNoImage, Weight::Told, path.into());
        self.described.problems.push(Problem { code, weight, object, evidence, image: None });
    }

    /// Reads the images that Docker's `manifest.json` lists.
    fn docker(&mut self, saved: Vec<Saved>) -> Result<(), CatalogError> {
        let mut found: Vec<(String, ForeignImage)> = Vec::new();
        if saved.len() > MANIFESTS_LIMIT {
            return Err(CatalogError::TooMuch("images", MANIFESTS_LIMIT as u64));
        }
        for (number, one) in saved.into_iter().enumerate() {
            let tags = match names(one.repo_tags.unwrap_or_default()) {
                Ok(tags) => tags,
                Err(tag) => {
                    self.problem(Code::ArchiveDamaged, MANIFEST, format!("\"{tag}\" is no tag"));
                    continue;
                }
            };
            // One too many tells that there are.
            let layers = one.layers.unwrap_or_default().into_iter().take(LAYERS_LIMIT + 1);
            let layers = layers.map(|path| (digest_in(&path), path)).collect();
            let file = one.config.rsplit('/').next().unwrap_or_default();
            let hex = file.strip_prefix("sha256:").unwrap_or(file);
            let named = Sha256::from_hex(hex.strip_suffix(".json").unwrap_or(hex).as_bytes()).ok();
            let Some(mut image) = self.image(&one.config, named, layers, &tags)? else { continue };
            image.parent = one.parent.parse().ok();
            let group = if tags.is_empty() { number.to_string() } else { tags.join(" ") };
            found.push((group, image));
        }
        let platforms = found.iter().map(|(group, image)| (group.clone(), image.platform.clone())).collect();
        let wanted = self.choose(platforms);
        for ((_, image), _) in found.into_iter().zip(wanted).filter(|(_, wanted)| *wanted) {
            self.add(image);
        }
        Ok(())
    }

    /// Reads the images of an OCI image layout.
    fn layout(&mut self, index: Manifest) -> Result<(), CatalogError> {
        let mut candidates = Vec::new();
        self.index(index, None, None, 0, &mut candidates)?;
        let mut platforms = Vec::new();
        for one in &mut candidates {
            if one.platform.is_none() {
                one.platform = self.platform_of(&one.config)?;
            }
            platforms.push((one.group.clone(), one.platform.clone().unwrap_or_else(Platform::host)));
        }
        let wanted = self.choose(platforms);
        for (one, _) in candidates.into_iter().zip(wanted).filter(|(_, wanted)| *wanted) {
            let path = blob(&one.config.digest);
            if let Some(layer) = one.layers.iter().find(|layer| layer.is_encrypted()) {
                self.problem(Code::ArchiveDamaged, path_of(&layer.digest), "the layer is encrypted");
                continue;
            }
            let layers = one.layers.iter().take(LAYERS_LIMIT + 1);
            let layers = layers.map(|layer| (digest_of(&layer.digest), path_of(&layer.digest))).collect();
            let tags = self.tags(one.name.as_deref());
            let config = path.unwrap_or_else(|| one.config.digest.clone());
            if let Some(image) = self.image(&config, digest_of(&one.config.digest), layers, &tags)? {
                self.add(image);
            }
        }
        Ok(())
    }

    fn index(
        &mut self,
        index: Manifest,
        name: Option<&str>,
        group: Option<&str>,
        depth: u32,
        candidates: &mut Vec<Candidate>,
    ) -> Result<(), CatalogError> {
        for (number, pointer) in index.manifests.unwrap_or_default().into_iter().enumerate() {
            self.looked_at += 1;
            if self.looked_at > MANIFESTS_LIMIT {
                return Err(CatalogError::TooMuch("manifests", MANIFESTS_LIMIT as u64));
            }
            if pointer.is_about_another() {
                continue;
            }
            let name = name.or(pointer.name());
            let path = path_of(&pointer.digest);
            let Some(document) = self.catalog.document(&path)? else {
                // An index may name images of other platforms, which are not in the archive.
                if depth == 0 {
                    self.problem(Code::ArchiveBlobMissing, &path, missing("a manifest that index.json names", &path));
                }
                continue;
            };
            if digest_of(&pointer.digest) != Some(Sha256::of(&document)) {
                self.problem(Code::ArchiveBlobMismatch, &path, "the content of this manifest has another digest");
                continue;
            }
            let manifest: Manifest = match json::read(&document) {
                Ok(manifest) => manifest.value,
                Err(error) => {
                    self.problem(Code::ArchiveDamaged, &path, error);
                    continue;
                }
            };
            if let Some(why) = manifest.is_of_none() {
                self.pass_over(&path, why);
                continue;
            }
            match manifest {
                Manifest { config: Some(config), layers, .. } => {
                    let name = name.map(str::to_owned);
                    let group = name.clone().or(group.map(str::to_owned)).unwrap_or_default();
                    let layers = layers.unwrap_or_default();
                    candidates.push(Candidate { group, name, platform: pointer.platform, config, layers });
                }
                inner if depth < DEPTH_LIMIT => {
                    let own = number.to_string();
                    self.index(inner, name, group.or(Some(&own)), depth + 1, candidates)?;
                }
                _ => self.problem(Code::ArchiveDamaged, &path, "an index in an index in an index, and so on"),
            }
        }
        Ok(())
    }

    fn platform_of(&self, config: &Descriptor) -> Result<Option<Platform>, CatalogError> {
        let document = self.catalog.document(&path_of(&config.digest))?;
        Ok(document.and_then(|bytes| ImageConfig::parse(&bytes).ok()).map(|config| platform_of(&config.value)))
    }

    /// Reads the images of an archive from before Docker 1.10.
    fn legacy(&mut self, repositories: &super::documents::Repositories) -> Result<(), CatalogError> {
        match legacy::images(self.catalog, repositories, self.observer)? {
            Ok(images) => images.into_iter().for_each(|image| self.add(image)),
            Err(problem) => self.described.problems.push(problem),
        }
        Ok(())
    }

    /// Says of each image, given by group and platform, whether it is wanted.
    fn choose(&mut self, found: Vec<(String, Platform)>) -> Vec<bool> {
        let (wanted, strict) = match self.choice {
            Choice::All => return vec![true; found.len()],
            Choice::Fitting(platform) => (platform, false),
            Choice::Only(platform) => (platform, true),
        };
        let mut groups: BTreeMap<&str, BTreeSet<&Platform>> = BTreeMap::new();
        for (group, platform) in &found {
            groups.entry(group).or_default().insert(platform);
        }
        let is_wanted = |(group, platform): &(String, Platform)| {
            let platforms = &groups[&group[..]];
            let best = platforms.iter().filter_map(|one| wanted.distance(one)).min();
            !strict && platforms.len() == 1 || best.is_some() && wanted.distance(platform) == best
        };
        let chosen: Vec<bool> = found.iter().map(is_wanted).collect();
        let others =
            found.iter().zip(&chosen).filter(|(_, chosen)| !**chosen).map(|((_, platform), _)| platform.clone());
        self.described.others.extend(others);
        chosen
    }

    /// Reads an image: its configuration, which must be the one that its name says, and where its layers are.
    fn image(
        &mut self,
        config: &str,
        named: Option<Sha256>,
        layers: Vec<(Option<Sha256>, String)>,
        tags: &[String],
    ) -> Result<Option<ForeignImage>, CatalogError> {
        let shown = || tags.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>();
        let image = named.map(|id| (ImageId(id), shown()));
        let Some(bytes) = self.catalog.document(config)? else {
            let evidence = missing("the configuration of an image", config);
            let (code, weight, object) = (Code::ArchiveBlobMissing, Weight::Fatal, config.into());
            self.described.problems.push(Problem { code, weight, object, evidence, image });
            return Ok(None);
        };
        self.configs += bytes.len();
        if self.configs > CONFIGS_LIMIT {
            return Err(CatalogError::TooMuch("bytes of configurations", CONFIGS_LIMIT as u64));
        }
        self.layers += layers.len();
        if self.layers > ALL_LAYERS_LIMIT {
            return Err(CatalogError::TooMuch("layers", ALL_LAYERS_LIMIT as u64));
        }
        let id = ImageId(Sha256::of(&bytes));
        let mut tell = |weight, code, object: Object, evidence: String| {
            let image = Some((named.map_or(id, ImageId), shown()));
            self.described.problems.push(Problem { code, weight, object, evidence, image });
        };
        if let Some(named) = named.filter(|named| *named != id.0) {
            // Whoever edits a configuration rarely gives the file its new name. A blob has its digest as its name.
            let weight = if config.starts_with(BLOBS) { Weight::Fatal } else { Weight::Told };
            let object = ImageId(named).into();
            tell(weight, Code::ArchiveConfigMismatch, object, format!("its content has the digest {id}"));
        }
        let mut problem = |code, evidence| tell(Weight::Fatal, code, id.into(), evidence);
        let view = match ImageConfig::parse(&bytes) {
            Ok(view) => view.value,
            Err(error) => {
                problem(Code::ArchiveConfigMismatch, format!("no configuration of an image: {error}"));
                return Ok(None);
            }
        };
        if view.has_too_long_a_history() {
            let evidence = "its history has more steps that made a layer than it has layers: Docker does not take it";
            problem(Code::ArchiveConfigMismatch, evidence.to_owned());
        }
        let diff_ids = match view.diff_ids().iter().map(|diff| diff.parse()).collect::<Result<Vec<DiffId>, _>>() {
            Ok(diff_ids) => diff_ids,
            Err(error) => {
                problem(Code::ArchiveConfigMismatch, format!("its layers: {error}"));
                return Ok(None);
            }
        };
        if diff_ids.len() != layers.len() || diff_ids.len() > LAYERS_LIMIT {
            let evidence = match diff_ids.len() {
                known if known > LAYERS_LIMIT => format!("it has {known} layers; {LAYERS_LIMIT} are read"),
                known => format!("it has {}, and the manifest names {}", count(known, "layer", "layers"), layers.len()),
            };
            problem(Code::ArchiveLayerMissing, evidence);
        }
        let mut found = Vec::new();
        for ((digest, path), diff) in layers.into_iter().zip(&diff_ids) {
            let (member, length) = match self.catalog.find(&path)? {
                Some((member, length)) => (member, Some(length)),
                None => {
                    let evidence = missing(&format!("the layer {diff}"), &path);
                    tell(Weight::Missing, Code::ArchiveLayerMissing, path.as_str().into(), evidence);
                    (path, None)
                }
            };
            found.push(ForeignLayer { member, length, digest });
        }
        let references = tags.iter().cloned().collect();
        let platform = platform_of(&view);
        let created = view.v1.created.map(|created| created.0);
        Ok(Some(ForeignImage {
            id,
            config: bytes,
            references,
            diff_ids,
            created,
            parent: None,
            platform,
            layers: found,
        }))
    }

    /// Returns the tag that a name in an index is. A name that is only a tag, as skopeo writes it, names no image; nor
    /// does one by digest, or one that Docker would not give.
    fn tags(&mut self, name: Option<&str>) -> Vec<String> {
        let name = name.filter(|name| name.contains([':', '/']) && !name.contains('@'));
        let key = name.and_then(|name| name.parse::<Reference>().ok()).map(|reference| reference.or_latest().key());
        key.filter(|key| Reference::is_key(key)).into_iter().collect()
    }

    /// Adds an image. Of several that have one tag the last one gets it, as in `docker load`.
    fn add(&mut self, image: ForeignImage) {
        for other in self.described.images.iter_mut().filter(|_| *self.choice != Choice::All) {
            other.references.retain(|reference| !image.references.contains(reference));
        }
        match self.described.images.iter_mut().find(|other| other.id == image.id) {
            Some(other) => other.references.extend(image.references),
            None => self.described.images.push(image),
        }
    }

    /// Forgets parents that are not in the archive, or whose layers are not below those of the image.
    fn forget_parents(&mut self) {
        let known: BTreeMap<ImageId, Vec<DiffId>> =
            self.described.images.iter().map(|image| (image.id, image.diff_ids.clone())).collect();
        let mut claimed: BTreeMap<ImageId, ImageId> = BTreeMap::new();
        for image in &mut self.described.images {
            image.parent = image.parent.filter(|parent| {
                let below = known.get(parent).is_some_and(|below| image.diff_ids.starts_with(below));
                below && !leads_to(&claimed, *parent, image.id)
            });
            claimed.extend(image.parent.map(|parent| (image.id, parent)));
        }
    }
}

/// Tells whether parents lead from one image to another, or are the same.
fn leads_to(parents: &BTreeMap<ImageId, ImageId>, from: ImageId, to: ImageId) -> bool {
    let mut at = Some(from);
    while let Some(image) = at {
        if image == to {
            return true;
        }
        at = parents.get(&image).copied();
    }
    false
}

/// Returns the keys under which Docker notes what `manifest.json` calls tags. It passes over those that it does not make,
/// without a word: with a digest, and in a repository that could be taken for one.
///
/// # Errors
/// One is no name with a tag: Docker does not take the archive.
fn names(tags: Vec<String>) -> Result<Vec<String>, String> {
    let mut keys = Vec::new();
    for tag in tags {
        match tag.parse::<Reference>() {
            Ok(reference) if reference.tag.is_some() => {
                keys.extend(Some(reference).filter(|one| one.digest.is_none()).map(|one| one.key()));
            }
            _ => return Err(tag),
        }
    }
    keys.retain(|key| Reference::is_key(key));
    Ok(keys)
}

/// Returns the platform of an image.
fn platform_of(config: &ImageConfig) -> Platform {
    let v1 = &config.v1;
    Platform { os: v1.os.clone(), architecture: v1.architecture.clone(), variant: v1.variant.clone() }
}

/// Says that something is not in the archive, and why it may not be found.
fn missing(what: &str, path: &str) -> String {
    match path.contains(':') && blob(path).is_none() {
        true => format!("{what} cannot be found by its digest: only those of SHA-256 are read"),
        false => format!("{what} is missing"),
    }
}

fn digest_of(text: &str) -> Option<Sha256> {
    Sha256::from_hex(text.strip_prefix("sha256:")?.as_bytes()).ok()
}

fn digest_in(path: &str) -> Option<Sha256> {
    Sha256::from_hex(path.strip_prefix(BLOBS)?.as_bytes()).ok()
}

/// The member that a digest names. One of another algorithm names none.
fn path_of(digest: &str) -> String {
    blob(digest).unwrap_or_else(|| digest.to_owned())
}
