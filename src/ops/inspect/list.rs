//! The list of images, of a store or of an archive.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::Serialize;

use super::{SCHEMA, View, glob};
use crate::graph::{Edge, Graph, Id, Node, resolve_image};
use crate::id::{ChainId, ImageId};
use crate::image_config::V1;
use crate::json;
use crate::model::Metadata;
use crate::reference::Reference;
use crate::store::Snapshot;

/// The images of a store or an archive, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageList {
    /// Number of the document's form.
    pub schema: u32,
    /// The images.
    pub images: Vec<ListedImage>,
}

/// An image in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedImage {
    /// Its ID.
    pub id: ImageId,
    /// Its tags, as `repositories.json` writes them; where the list was filtered, those that were asked for.
    pub tags: Vec<String>,
    /// Its digests, likewise.
    pub digests: Vec<String>,
    /// When it was made, as its configuration says (RFC 3339).
    pub created: Option<String>,
    /// Bytes that its layers add, as Docker counted them, all layers together.
    pub size: u64,
    /// Number of its layers.
    pub layers: usize,
    /// Operating system and architecture (`linux/amd64`).
    pub platform: String,
    /// Whether another image was built from it. Docker lists such images only with `-a`, unless they are tagged.
    pub intermediate: bool,
    /// How many of its layers dockerd does not take: it drops the image at its next start.
    pub lost_layers: usize,
    /// How many of its layers are known but have no directory: no container can run on them.
    pub lost_directories: usize,
}

/// A row as `docker image ls` shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row<'l> {
    /// Name of the repository; none for an image without references.
    pub repository: Option<&'l str>,
    /// The tag; none where the image is only known by digest.
    pub tag: Option<&'l str>,
    /// The digest, where one was asked for and is known.
    pub digest: Option<&'l str>,
}

impl ListedImage {
    /// Returns the rows that Docker would show: one for each tag, and with `digests` for each digest of it; without
    /// a tag, one for each repository; one without a name for an image without references.
    #[must_use]
    pub fn rows(&self, digests: bool) -> Vec<Row<'_>> {
        let mut known: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
        for (repository, tag) in self.tags.iter().filter_map(|key| key.rsplit_once(':')) {
            known.entry(repository).or_default().0.push(tag);
        }
        for (repository, digest) in self.digests.iter().filter_map(|key| key.split_once('@')) {
            known.entry(repository).or_default().1.push(digest);
        }
        let mut rows = Vec::new();
        for (repository, (tags, known_digests)) in known {
            let tags: Vec<Option<&str>> =
                if tags.is_empty() { vec![None] } else { tags.into_iter().map(Some).collect() };
            let shown: Vec<Option<&str>> = if digests && !known_digests.is_empty() {
                known_digests.into_iter().map(Some).collect()
            } else {
                vec![None]
            };
            let repository = Some(repository);
            rows.extend(
                tags.iter().flat_map(|tag| shown.iter().map(|digest| Row { repository, tag: *tag, digest: *digest })),
            );
        }
        if rows.is_empty() {
            rows.push(Row { repository: None, tag: None, digest: None });
        }
        rows
    }

    fn order(&self) -> impl Ord + use<> {
        let created = self.created.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
        (std::cmp::Reverse(created), self.tags.is_empty(), self.tags.first().cloned(), self.id)
    }
}

impl ImageList {
    /// Lists the images of a store. `all` lists what Docker hides: images without a reference that others were
    /// built from. Where there are `filters`, only images are listed that one of them means: a repository, a
    /// reference, a pattern of either (`ghcr.io/*/*`), an ID or the beginning of one.
    #[must_use]
    pub fn of(view: &View<'_>, all: bool, filters: &[String]) -> Self {
        let mut chains = Chains::new(view.snapshot, &view.graph);
        let wanted = Filters::new(filters, |word| resolve_image(view.snapshot, word).ok());
        let mut images = Vec::new();
        for (id, image) in &view.snapshot.images {
            let Some(at) = view.image_at(*id) else { continue };
            let (tags, digests) = split(view.references(at));
            let intermediate = view.graph.is_parent(at);
            let chain = view.graph.follow(at, Edge::Top).map(|top| chains.measure(top)).unwrap_or_default();
            let listed = ListedImage {
                id: *id,
                created: image.created.clone(),
                size: chain.size,
                layers: image.diff_ids.len(),
                platform: platform(&image.os, &image.architecture),
                intermediate,
                lost_layers: chain.lost,
                lost_directories: chain.lost_directories,
                tags,
                digests,
            };
            let hidden = intermediate && listed.tags.is_empty() && listed.digests.is_empty() && !all;
            images.extend(wanted.apply(listed, hidden));
        }
        Self::sorted(images)
    }

    /// Lists the images of an archive; `filters` are as in [`ImageList::of`].
    #[must_use]
    pub fn of_archive(metadata: &Metadata, filters: &[String]) -> Self {
        let index = &metadata.index;
        let sizes: HashMap<ChainId, u64> = index.layers.iter().map(|layer| (layer.chain, layer.size)).collect();
        let wanted = Filters::new(filters, |word| {
            let hex = word.strip_prefix("sha256:").unwrap_or(word);
            let mut found = index.images.iter().filter(|image| !hex.is_empty() && image.id.hex().starts_with(hex));
            found.next().filter(|_| found.next().is_none()).map(|image| image.id)
        });
        let images = index.images.iter().filter_map(|image| {
            let chain = image.chain_ids();
            let (tags, digests) = split(image.references.clone());
            let listed = ListedImage {
                id: image.id,
                created: image.created.clone(),
                size: chain.iter().filter_map(|layer| sizes.get(layer)).fold(0, |sum, size| sum.saturating_add(*size)),
                layers: chain.len(),
                platform: metadata.blobs.get(&image.id.0).map(|config| platform_of(config)).unwrap_or_default(),
                intermediate: index.images.iter().any(|other| other.parent == Some(image.id)),
                lost_layers: chain.iter().filter(|layer| !sizes.contains_key(layer)).count(),
                lost_directories: 0,
                tags,
                digests,
            };
            wanted.apply(listed, false)
        });
        Self::sorted(images.collect())
    }

    fn sorted(mut images: Vec<ListedImage>) -> Self {
        images.sort_by_cached_key(ListedImage::order);
        Self { schema: SCHEMA, images }
    }
}

/// Writes a platform as Docker does. dockerd reads no operating system as Linux.
pub(super) fn platform(os: &str, architecture: &str) -> String {
    let os = if os.is_empty() { "linux" } else { os };
    if architecture.is_empty() { os.to_owned() } else { format!("{os}/{architecture}") }
}

/// Reads the platform of a configuration.
fn platform_of(config: &[u8]) -> String {
    let found = json::read::<V1>(config);
    found.map_or_else(|_| String::new(), |found| platform(&found.value.os, &found.value.architecture))
}

/// Splits references into tags and digests.
pub(super) fn split(references: Vec<String>) -> (Vec<String>, Vec<String>) {
    references.into_iter().partition(|key| !key.contains('@'))
}

/// What was asked for.
struct Filters {
    patterns: Vec<String>,
    ids: Vec<ImageId>,
}

impl Filters {
    fn new(words: &[String], resolve: impl Fn(&str) -> Option<ImageId>) -> Self {
        let mut filters = Self { patterns: Vec::new(), ids: Vec::new() };
        for word in words {
            let reference = word.parse::<Reference>().ok();
            filters.patterns.push(reference.map_or_else(|| word.clone(), |reference| reference.to_string()));
            let hex = word.strip_prefix("sha256:").unwrap_or(word);
            // A word that only a reference explains is no ID: then only that reference is listed.
            if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                filters.ids.extend(resolve(word));
            }
        }
        filters
    }

    /// Leaves of an image's references what was asked for. A hidden image is listed when its ID was asked for.
    fn apply(&self, mut image: ListedImage, hidden: bool) -> Option<ListedImage> {
        if self.ids.contains(&image.id) {
            return Some(image);
        }
        if self.patterns.is_empty() {
            return (!hidden).then_some(image);
        }
        image.tags.retain(|key| self.has(key));
        image.digests.retain(|key| self.has(key));
        (!image.tags.is_empty() || !image.digests.is_empty()).then_some(image)
    }

    fn has(&self, key: &str) -> bool {
        let name = match key.split_once('@') {
            Some((name, _)) => name,
            None => key.rsplit_once(':').map_or(key, |(name, _)| name),
        };
        self.patterns.iter().any(|pattern| glob::matches(pattern, key) || glob::matches(pattern, name))
    }
}

/// What all layers of a chain are together.
#[derive(Debug, Clone, Copy, Default)]
struct Chain {
    size: u64,
    lost: usize,
    lost_directories: usize,
}

/// Chains that were measured: most images share most of theirs.
struct Chains<'v> {
    snapshot: &'v Snapshot,
    graph: &'v Graph,
    known: HashMap<Id, Chain>,
}

impl<'v> Chains<'v> {
    fn new(snapshot: &'v Snapshot, graph: &'v Graph) -> Self {
        Self { snapshot, graph, known: HashMap::new() }
    }

    fn measure(&mut self, top: Id) -> Chain {
        let mut above = Vec::new();
        let mut sum = Chain::default();
        let mut next = Some(top);
        while let Some(layer) = next {
            if let Some(known) = self.known.get(&layer) {
                sum = *known;
                break;
            }
            // A circle of broken layers ends where it began.
            self.known.insert(layer, Chain::default());
            above.push(layer);
            next = self.graph.follow(layer, Edge::ParentLayer);
        }
        for layer in above.into_iter().rev() {
            let known = match self.graph.node(layer) {
                Node::Layer(chain) => self.snapshot.layers.get(chain),
                _ => None,
            };
            let directory = self.graph.follow(layer, Edge::CacheId);
            sum.size = sum.size.saturating_add(known.map_or(0, |layer| layer.size));
            sum.lost += usize::from(known.is_none());
            sum.lost_directories +=
                usize::from(known.is_some() && directory.is_some_and(|directory| !self.graph.is_present(directory)));
            self.known.insert(layer, sum);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::DriverFacts;
    use crate::id::{CacheId, DiffId, Sha256};
    use crate::model::{ImageRecord, Index, LayerRecord};

    fn archive() -> Metadata {
        let config = br#"{"architecture":"arm64","os":"linux"}"#;
        let id = ImageId(Sha256::of(config));
        let diff = DiffId(Sha256::of(b"a layer"));
        let image = ImageRecord {
            id,
            references: ["app:1", "app:2", "ghcr.io:443/me/app:1", "app@sha256:00"].map(str::to_owned).to_vec(),
            diff_ids: vec![diff],
            created: Some("2020-01-01T00:00:00Z".to_owned()),
            parent: Some(ImageId(Sha256::of(b"base"))),
            last_updated: None,
        };
        let base = ImageRecord {
            id: ImageId(Sha256::of(b"base")),
            references: Vec::new(),
            parent: None,
            created: Some("2021-01-01T00:00:00Z".to_owned()),
            ..image.clone()
        };
        let layer = LayerRecord {
            chain: ChainId(diff.0),
            diff,
            parent: None,
            size: 1000,
            tar_size: 2048,
            cache_id: CacheId::parse(b"x").expect("a name"),
            facts: DriverFacts::default(),
        };
        let index = Index { images: vec![image, base], layers: vec![layer], ..Index::default() };
        Metadata { index, blobs: [(id.0, config.to_vec())].into() }
    }

    #[test]
    fn an_archive_is_listed_like_a_store() {
        let metadata = archive();
        let list = ImageList::of_archive(&metadata, &[]);
        let [base, app] = &list.images[..] else { panic!("{list:?}") };
        assert!(base.intermediate && base.tags.is_empty());
        assert_eq!((app.size, app.layers, app.platform.as_str(), app.lost_layers), (1000, 1, "linux/arm64", 0));
        let wanted = |word: &str| ImageList::of_archive(&metadata, &[word.to_owned()]).images;
        assert_eq!(wanted("app")[0].tags, ["app:1", "app:2"]);
        assert_eq!(wanted("app")[0].digests.len(), 1);
        assert_eq!(wanted("*:1")[0].tags, ["app:1"]);
        assert_eq!(wanted("ghcr.io:443/me/*")[0].tags, ["ghcr.io:443/me/app:1"]);
        assert_eq!(wanted(&base.id.short()).len(), 1);
        assert_eq!(wanted("redis"), []);
        assert_eq!(wanted(""), []);
    }

    #[test]
    fn rows_as_docker_shows_them() {
        let metadata = archive();
        let list = ImageList::of_archive(&metadata, &[]);
        let rows = |digests: bool| -> Vec<String> {
            let rows = list.images[1].rows(digests).into_iter();
            rows.map(|row| [row.repository, row.tag, row.digest].map(|part| part.unwrap_or("-")).join(" ")).collect()
        };
        assert_eq!(rows(false), ["app 1 -", "app 2 -", "ghcr.io:443/me/app 1 -"]);
        assert_eq!(rows(true), ["app 1 sha256:00", "app 2 sha256:00", "ghcr.io:443/me/app 1 -"]);
        assert_eq!(list.images[0].rows(true), [Row { repository: None, tag: None, digest: None }]);
        let by_digest = ListedImage { tags: Vec::new(), ..list.images[1].clone() };
        assert_eq!(by_digest.rows(false), [Row { repository: Some("app"), tag: None, digest: None }]);
    }
}
