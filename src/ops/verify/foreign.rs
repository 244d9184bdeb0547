//! Proves an archive that another tool wrote: its documents, and the digest of whatever they name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::archive::Medium;
use crate::archive::foreign::{Choice, Digests, ForeignArchive, ForeignImage, Problem, Spool, Weight};
use crate::error::{Error, Result};
use crate::finding::{Code, Finding, Severity, Thing};
use crate::graph::Node;
use crate::id::{ImageId, Sha256};
use crate::model::Index;
use crate::ops::load::select;
use crate::progress::{Event, Observer};

use super::blast::{Broken, BrokenImage};
use super::codes::Effect;
use super::report::{Checked, Found, Report};

/// Where blobs lie in an OCI image layout.
const BLOBS: &str = "blobs/sha256/";

/// Verifies an archive that another tool wrote, called `name` in findings: all of it, or only these images.
///
/// # Errors
/// It has no such image, or the observer wanted it to stop.
pub(super) fn verify(medium: Medium, name: &str, images: &[String], observer: &dyn Observer) -> Result<Report> {
    let mut check = Check { observer, digests: BTreeMap::new(), checked: Checked::default(), found: Vec::new() };
    let read = check.run(medium, name, images);
    observer.on(Event::End);
    match read {
        Ok(()) => {}
        Err(Error::Archive { reason, .. }) if !observer.wants_stop() => {
            check.damage(Code::ArchiveDamaged, name, reason, None);
        }
        Err(_) if observer.wants_stop() => return Err(Error::Stopped),
        Err(error) => return Err(error),
    }
    Ok(Report::new(false, check.checked, check.found))
}

/// Holds documents against digests.
struct Check<'a> {
    observer: &'a dyn Observer,
    /// Digests of the members that were read.
    digests: BTreeMap<String, Digests>,
    checked: Checked,
    found: Vec<Found>,
}

impl Check<'_> {
    fn run(&mut self, medium: Medium, name: &str, images: &[String]) -> Result<()> {
        let archive = ForeignArchive::open(medium, name, Spool::Digests, self.observer)?;
        let mut described = archive.describe(&Choice::All, self.observer)?;
        if !images.is_empty() {
            let index =
                Index { images: described.images.iter().map(ForeignImage::record).collect(), ..Index::default() };
            let is_damaged = described.problems.iter().any(|one| one.weight == Weight::Fatal && one.image.is_none());
            let wanted: BTreeSet<ImageId> = match select(&index, images) {
                // What is damaged may be what would tell of it.
                Err(_) if is_damaged => BTreeSet::new(),
                wanted => wanted?.iter().map(|image| image.id).collect(),
            };
            described.images.retain(|image| wanted.contains(&image.id));
            described.problems.retain(|problem| problem.image.as_ref().is_none_or(|(id, _)| wanted.contains(id)));
        }
        self.checked.images = described.images.len();
        described.problems.into_iter().for_each(|problem| self.tell(problem));
        let blobs = if images.is_empty() { archive.blobs()? } else { Vec::new() };
        let layers = described.images.iter().flat_map(|image| &image.layers);
        let lengths: BTreeMap<&str, u64> = layers
            .filter_map(|layer| Some((&layer.member[..], layer.length?)))
            .chain(blobs.iter().map(|(name, length)| (&name[..], *length)))
            .collect();
        self.observer.on(Event::Begin { what: "verifying", total: Some(lengths.values().sum()) });
        for (member, length) in lengths {
            self.digests.insert(member.to_owned(), archive.digests(member, self.observer)?);
            self.checked.bytes += length;
        }
        for (blob, _) in &blobs {
            let wanted = blob.strip_prefix(BLOBS).and_then(|hex| Sha256::from_hex(hex.as_bytes()).ok());
            let raw = self.digests[blob].raw;
            if wanted.is_some_and(|wanted| wanted != raw) {
                let evidence = format!("its content has the digest sha256:{}", raw.hex());
                self.damage(Code::ArchiveBlobMismatch, blob, evidence, None);
            }
        }
        described.images.iter().for_each(|image| self.layers(image));
        Ok(())
    }

    fn layers(&mut self, image: &ForeignImage) {
        for (layer, diff) in image.layers.iter().zip(&image.diff_ids) {
            self.checked.layers += 1;
            let found = self.digests.get(&layer.member).map(|digests| digests.content);
            if let Some(found) = found.filter(|found| *found != diff.0) {
                let evidence = format!("expected {diff}, found sha256:{}", found.hex());
                let of = Some((image.id, image.references.iter().cloned().collect()));
                self.damage(Code::ArchiveLayerMismatch, &layer.member, evidence, of);
            }
        }
    }

    fn damage(&mut self, code: Code, name: &str, evidence: String, image: Option<(ImageId, Vec<String>)>) {
        self.tell(Problem { code, weight: Weight::Fatal, object: name.into(), evidence, image });
    }

    fn tell(&mut self, problem: Problem) {
        let Problem { code, weight, object, evidence, image } = problem;
        let severity = if weight == Weight::Told { Severity::Note } else { Severity::Damage };
        let finding = Finding::new(code, object, evidence).as_bad_as(severity);
        if weight == Weight::Told {
            self.found.push(Found { finding, object: None, path: None, file: None, breaks: Vec::new() });
            return;
        }
        let image = image.map(|(id, references)| BrokenImage { id, references });
        let is_itself = matches!(finding.object.thing, Thing::Image(_));
        let object = image.as_ref().filter(|_| is_itself).map(|image| Node::Image(image.id));
        let breaks =
            image.map(|image| Arc::new(Broken { effect: Effect::Pull, images: vec![image], containers: Vec::new() }));
        self.found.push(Found { finding, object, path: None, file: None, breaks: breaks.into_iter().collect() });
    }
}
