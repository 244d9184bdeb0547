//! `verify`: proves a store, or an archive.
//!
//! # What is proved
//!
//! - Each image's configuration is the one its ID names; each reference names an image that is there.
//! - Each layer's chain ID follows from its parent and its diff ID, and its tar, assembled from tar-split and the layer's
//!   directory, has the diff ID: no byte of a file's content and no byte of a header can be other. Where it is not so,
//!   the CRC-64 in tar-split names every file that is changed.
//! - Each node of a layer's directory is what its header in the tar says: type, mode, owner, extended attributes, time of
//!   last change, target, device number, length. What is missing and what is too much is named.
//! - The files that the graph driver keeps around the trees (`link`, `l/`, `lower`, `work`, `committed`, `lower-id`) are
//!   what layerdb implies; containers have their directories.
//!
//! # What is not
//!
//! - What containers wrote: nothing says what it should be.
//! - Times of directories, which change with what is in them; extended attributes that overlayfs keeps for itself.
//! - Of trees that BuildKit made in place: fractions of seconds, and extended attributes but capabilities, as the tar
//!   has none. What was touched in such a tree and not changed is a note.
//! - What volumes hold, and what stands in the databases of BuildKit, volumes and networks: only that they can be read.
//!
//! With `quick` no file of a layer is looked at: only how things are tied together. While something works on the store, a
//! finding is told only where further looks, over some seconds, give it too, of an object that stays as it is.
//!
//! # Codes
//!
//! | code | what is wrong | what breaks |
//! |---|---|---|
//! | `references-unreadable` | `repositories.json` is empty, cut or no JSON | dockerd does not start |
//! | `references-missing` | it is gone, and there are images | all names |
//! | `references-empty` | it names nothing, and containers were made by names of images that are there | nothing, where they were removed |
//! | `reference-without-image` | the image that a reference names is not there | that image |
//! | `reference-invalid` | an entry that is no image ID | the reference |
//! | `image-invalid`, `image-unreadable` | a configuration is changed, or no configuration | the image |
//! | `layer-missing` | an entry of layerdb is gone | all above |
//! | `layer-not-loadable`, `layer-unreadable` | an entry is half or empty, and blocks every load of the layer | all above |
//! | `layer-chain-mismatch` | `parent` and `diff` make another chain ID than the entry's name | saving all above |
//! | `layer-cache-id-shared` | two layers have one directory | all above see other files |
//! | `layer-directory-missing` | the layer's directory is gone | all above |
//! | `layer-cache-id-wrong` | `cache-id` names no directory, and the layer's is there | saving all above; images with the layer on top |
//! | `layer-tar-split-missing`, `layer-tar-split-damaged` | headers of the tar are lost | saving all above |
//! | `layer-digest-mismatch` | all files are right, and the tar is not | saving all above |
//! | `layer-size` | `size` is not that of the layer's files | sizes in listings |
//! | `driver-links-missing` | `overlay2/l` is gone | everything |
//! | `driver-short-name-lost` | `l/<link>` is gone | all above |
//! | `driver-short-name-wrong` | `l/<link>` leads elsewhere | all above see other files |
//! | `driver-link-wrong` | `link` says the short name of another one | images with the layer on top see other files in what is made |
//! | `driver-link-lost` | `link` is gone or empty | images with the layer on top |
//! | `driver-lower-missing`, `driver-lower-mismatch`, `driver-lower-lost` | dockerd would mount other parents, or none | images with the layer on top |
//! | `driver-tree-missing` | `diff`, `root` or `upper` is gone | all above |
//! | `driver-work-missing` | `work` is gone | saving; starting, of a container's |
//! | `driver-work-needless` | `work` is gone beside `committed`: Docker before 20.10 needs it | nothing yet |
//! | `driver-committed-missing`, `driver-mode`, `driver-owner` | a file of the driver's is not as dockerd makes it | nothing yet |
//! | `file-missing`, `file-size`, `file-content`, `file-unreadable` | a file of a layer | all above |
//! | `whiteout-needless` | a whiteout that hides nothing, as fuse-overlayfs leaves them | nothing |
//! | `file-extra`, `whiteout-missing`, `whiteout-extra` | something that the layer does not have, or hides | all above |
//! | `node-kind`, `node-mode`, `node-owner`, `node-xattr`, `node-target`, `node-device` | an attribute of a node | all above |
//! | `node-mtime` | the time of a node | nothing |
//! | `node-link` | a hard link became a copy | nothing |
//! | `node-not-shared` | `overlay`: files that were one with those in the layer below became copies | nothing but disk space |
//! | `mount-not-loadable`, `mount-directory-missing` | a writable layer | its container |
//! | `container-unreadable`, `container-without-mount`, `container-image-mount-missing` | a container | itself |
//! | `container-host-config-unreadable`, `container-host-config-missing` | its `hostconfig.json`: dockerd does not list it, or knows nothing of its settings | itself |
//! | `container-host-config-null` | its `hostconfig.json` is `null` | dockerd does not start |
//! | `database-damaged` | a database that dockerd opens when it starts | dockerd does not start |
//! | `database-page-damaged`, `build-cache-damaged`, `database-unreadable` | the same, where dockerd starts nevertheless, or may | builds |
//! | `build-cache-lost` | directories that only BuildKit's records name are gone, or `snapshots.db`, which says where they are | builds that use them |
//! | `container-of-another-store` | a container of another driver, or of the containerd store | nothing |
//! | `archive-damaged` | an archive is cut or changed | all images that come behind |
//! | `archive-layer-mismatch`, `archive-layer-missing`, `archive-tar-split-mismatch`, `archive-differences-unproved` | a layer of an archive | loading its images |
//! | `archive-blob-mismatch`, `archive-blob-missing`, `archive-config-mismatch` | something else in one | loading its images |
//! | `distribution-mismatch` | the records of a blob contradict each other | pulling and pushing it |
//!
//! Codes are stable. A finding that only follows from another is left out: the children of a layer that is gone
//! are in what breaks by it.

mod again;
mod archive;
mod attributes;
mod below;
mod blast;
mod codes;
mod consequences;
mod content;
mod foreign;
mod headers;
mod report;
mod structure;
mod tree;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::archive::Archive;
use crate::error::{FsError, Result};
use crate::finding::{Code, Finding, Object, Severity};
use crate::fsx::Dir;
use crate::graph::{Graph, Id, Node};
use crate::id::{ChainId, ImageId};
use crate::ops::inspect::View;
use crate::progress::Observer;
use crate::store::{Layer, Snapshot, Store};

pub(super) use attributes::{Damage, DamageError, Subject, stamped};
pub use blast::{Broken, BrokenContainer, BrokenImage};
pub use codes::Effect;
pub use report::{Checked, Found, Report, SCHEMA, Summary};

use blast::Blast;
use codes::meanings;
use tree::Problem;

/// Verifies an archive, called `name` in findings, whoever wrote it: all of it, or only these images. Of a file of dockpack's
/// that can be read in parts only what they need is read then.
///
/// # Errors
/// It is of a newer format, it has no such image, or the observer wanted it to stop.
pub fn verify_archive(archive: Archive, name: &str, images: &[String], observer: &dyn Observer) -> Result<Report> {
    match archive.into_own() {
        Ok(mut reader) => archive::verify(&mut reader, name, images, observer),
        Err(medium) => foreign::verify(medium, name, images, observer),
    }
}

/// What to verify.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Only these images and what they need; everything where it is `None`.
    pub images: Option<BTreeSet<ImageId>>,
    /// Only the structure: no file of a layer is looked at.
    pub quick: bool,
    /// What works on the store meanwhile, in words: then only what lasts is told.
    pub in_use_by: Option<String>,
}

/// Verifies a store, of which `snapshot` was taken.
///
/// # Errors
/// The graph driver's trees cannot be read here, or the observer wanted it to stop. What is wrong with the store
/// is no error.
pub fn verify(store: &Store, snapshot: &Snapshot, request: &Request, observer: &dyn Observer) -> Result<Report> {
    run(store, snapshot, request, None, observer)
}

/// Verifies the structure of a store, and the content of these layers.
///
/// # Errors
/// As [`verify`].
pub(super) fn verify_layers(
    store: &Store,
    snapshot: &Snapshot,
    layers: &BTreeSet<ChainId>,
    observer: &dyn Observer,
) -> Result<Report> {
    run(store, snapshot, &Request::default(), Some(layers), observer)
}

fn run(
    store: &Store,
    snapshot: &Snapshot,
    request: &Request,
    only: Option<&BTreeSet<ChainId>>,
    observer: &dyn Observer,
) -> Result<Report> {
    let view = View::new(store, snapshot);
    let scope = request.images.as_ref().map(|images| Scope::of(&view.graph, images));
    let layers: Vec<(ChainId, &Layer)> = snapshot
        .layers
        .iter()
        .map(|(chain, layer)| (*chain, layer))
        .filter(|(chain, _)| only.is_none_or(|only| only.contains(chain)))
        .filter(|(chain, _)| scope.as_ref().is_none_or(|scope| scope.has(&view.graph, &Node::Layer(*chain))))
        .collect();
    let mut checked = Checked {
        images: request.images.as_ref().map_or(snapshot.images.len(), BTreeSet::len),
        layers: layers.len(),
        containers: if scope.is_none() { snapshot.containers.len() } else { 0 },
        ..Checked::default()
    };
    let mut proved = match request.quick {
        true => content::Proved::default(),
        false => content::prove(store, snapshot, &layers, observer)?,
    };
    (checked.nodes, checked.bytes) = (proved.nodes, proved.bytes);
    let maker = Maker { blast: Blast::new(snapshot, &view.graph, store.driver()), view: &view };
    let mut structure = structure::check(store, snapshot, &view.graph)?;
    if request.in_use_by.is_some() {
        let looked = again::Looked { store, snapshot, blast: &maker.blast };
        looked.keep_lasting(&mut structure, &mut proved.problems, observer)?;
    }
    let mut findings: Vec<Found> = Vec::new();
    for finding in structure {
        let found = maker.found(finding, None);
        if scope.as_ref().is_none_or(|scope| scope.concerns(&view.graph, &found)) {
            findings.push(found);
        }
    }
    for (chain, problem) in proved.problems {
        let file = content::file_of(&problem);
        let object = Object::from(chain);
        // The look at the structure says the same of a file that is no gzip at all.
        let is_known = |found: &Found| found.finding.code == problem.code && found.finding.object == object;
        if file.is_some() || !findings.iter().any(is_known) {
            let (severity, code) = (problem.severity, problem.code);
            findings.push(maker.found(Finding { severity, code, object, evidence: problem.evidence }, file));
        }
    }
    let report = Report::new(request.quick, checked, findings);
    Ok(Report { proved_tars: proved.tars, in_use_by: request.in_use_by.clone(), ..report })
}

/// Tells whether the directory that `layer` names holds exactly the layer that its tar-split and its diff ID tell of.
///
/// # Errors
/// It cannot be read, or the observer wanted to stop.
pub(super) fn is_proved(
    store: &Store,
    snapshot: &Snapshot,
    chain: ChainId,
    layer: &Layer,
    observer: &dyn Observer,
) -> Result<bool> {
    let opened = |dirs: &Dir| FsError::in_place(dirs.dir(layer.cache_id.as_str()));
    let has_tree = store.dirs().map(opened).transpose()?.flatten().is_some();
    let proved = content::prove(store, snapshot, &[(chain, layer)], observer)?;
    // Whoever asks does not know the size.
    let says_nothing = |problem: &Problem| problem.severity == Severity::Note || problem.code == Code::LayerSize;
    Ok(has_tree && proved.bytes > 0 && proved.problems.iter().all(|(_, problem)| says_nothing(problem)))
}

/// What some images need.
struct Scope<'r> {
    images: &'r BTreeSet<ImageId>,
    needed: BTreeSet<Id>,
}

impl<'r> Scope<'r> {
    fn of(graph: &Graph, images: &'r BTreeSet<ImageId>) -> Self {
        let roots: Vec<Id> = images.iter().filter_map(|image| graph.find(&Node::Image(*image))).collect();
        let chains = |id: &Id| !matches!(graph.node(*id), Node::Image(_));
        // The images that they were built from are not needed, but their layers are among those of the image.
        let layers: Vec<Id> = roots.iter().filter_map(|root| graph.follow(*root, crate::graph::Edge::Top)).collect();
        let needed = graph.below(&layers).into_iter().filter(chains).chain(roots).collect();
        Self { images, needed }
    }

    fn has(&self, graph: &Graph, node: &Node) -> bool {
        graph.find(node).is_some_and(|id| self.needed.contains(&id))
    }

    fn concerns(&self, graph: &Graph, found: &Found) -> bool {
        let breaks_one = |broken: &Arc<Broken>| {
            broken.effect == Effect::Daemon || broken.images.iter().any(|image| self.images.contains(&image.id))
        };
        found.breaks.iter().any(breaks_one) || found.object.as_ref().is_some_and(|node| self.has(graph, node))
    }
}

/// Makes of findings what the report has.
struct Maker<'a> {
    blast: Blast<'a>,
    view: &'a View<'a>,
}

impl Maker<'_> {
    fn found(&self, mut finding: Finding, file: Option<String>) -> Found {
        let object = self.blast.object(&finding.object);
        let mut meanings = meanings(self.view.driver(), finding.code, &finding.object.thing);
        if let Some(Node::Dir(id)) = object.as_ref().filter(|node| self.blast.is_writable(node)) {
            meanings = codes::meaning_of_writable(finding.code, id).unwrap_or(meanings);
        }
        let garbage = object.as_ref().is_some_and(|node| matches!(node, Node::Dir(_)) && !self.blast.is_kept(node));
        if garbage {
            // Nothing needs it; gc takes it away.
            finding.severity = Severity::Note;
        }
        if finding.severity == Severity::Note {
            meanings.clear();
        }
        let breaks = meanings.into_iter().map(|meaning| self.blast.broken(object.as_ref(), meaning));
        let breaks = breaks.filter(|broken| !broken.images.is_empty() || !broken.containers.is_empty()).collect();
        let path = object.as_ref().and_then(|node| self.view.path_of(node));
        Found { finding, object, path, file, breaks }
    }
}
