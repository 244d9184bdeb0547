//! Proves an archive that another tool wrote: `docker save`, or an OCI image layout in a tar.
//!
//! It is read once, from front to back, and only digests are kept: of each member as it is, and of what is in it where
//! it is compressed. At its end the documents, which may stand anywhere, say which digest each should have had.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read};
use std::sync::Arc;

use serde::Deserialize;
use sha2::Digest as _;

use crate::archive::Input;
use crate::error::{Error, Result};
use crate::finding::Finding;
use crate::graph::Node;
use crate::id::{DiffId, ImageId, Sha256};
use crate::progress::{Event, Observer, check_stop};

use super::blast::{Broken, BrokenImage};
use super::codes::Effect;
use super::report::{Checked, Found, Report};

/// Longest document that is kept, in bytes; registries take 4 MiB.
const DOCUMENT_LIMIT: u64 = 8 << 20;
/// How deep an index may lie in another.
const DEPTH_LIMIT: u32 = 4;

/// Verifies an archive that another tool wrote, called `name` in findings.
///
/// # Errors
/// It cannot be read at all, or the observer wanted it to stop.
pub fn verify_foreign(stream: Box<dyn Read + Send>, name: &str, observer: &dyn Observer) -> Result<Report> {
    let archive = |error: io::Error| Error::Archive { name: name.to_owned(), reason: error.to_string() };
    let input = Input::new(stream).map_err(archive)?;
    observer.on(Event::Begin { what: "verifying", total: None });
    let mut members = Members::default();
    let read = members.read(input, observer);
    observer.on(Event::End);
    if observer.wants_stop() {
        return Err(Error::Stopped);
    }
    let mut check = Check { members: &members, name, images: Vec::new(), layers: 0, found: Vec::new() };
    if let Err(error) = read {
        check.damage("archive-damaged", name, error, None);
    }
    check.run();
    let checked =
        Checked { images: check.images.len(), layers: check.layers, bytes: members.bytes, ..Checked::default() };
    Ok(Report::new(false, checked, check.found))
}

/// What a member is.
#[derive(Debug, Clone, Copy)]
struct Digests {
    /// As it is.
    raw: Sha256,
    /// Without its compression.
    content: Sha256,
}

/// All members of an archive.
#[derive(Debug, Default)]
struct Members {
    files: BTreeMap<String, Digests>,
    documents: BTreeMap<String, Vec<u8>>,
    /// Names that lead to others: old versions of Docker write a layer that two images share so.
    links: BTreeMap<String, String>,
    bytes: u64,
}

impl Members {
    fn read(&mut self, input: Input, observer: &dyn Observer) -> io::Result<()> {
        let mut archive = tar::Archive::new(input);
        for entry in archive.entries()? {
            let mut entry = entry?;
            check_stop(observer)?;
            let name = clean(&String::from_utf8_lossy(&entry.path_bytes()));
            if let Some(target) = entry.link_name_bytes() {
                let target = String::from_utf8_lossy(&target).into_owned();
                let is_symbolic = entry.header().entry_type().is_symlink();
                let above = if is_symbolic { name.rsplit_once('/').map_or("", |(above, _)| above) } else { "" };
                let target = clean(&format!("{above}/{target}"));
                self.links.insert(name, target);
                continue;
            }
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let length = entry.size();
            let (digests, document) = read_member(&mut entry, length, observer)?;
            self.bytes += length;
            self.documents.extend(document.map(|document| (name.clone(), document)));
            self.files.insert(name, digests);
        }
        Ok(())
    }

    /// Follows the links of a name.
    fn find(&self, name: &str) -> Option<Digests> {
        let mut name = name;
        for _ in 0..8 {
            match self.links.get(name) {
                Some(target) => name = target,
                None => break,
            }
        }
        self.files.get(name).copied()
    }

    fn document<'d, T: Deserialize<'d>>(&'d self, name: &str) -> Option<T> {
        serde_json::from_slice(self.documents.get(name)?).ok()
    }
}

/// Cleans a name in a tar: no empty component, `.` or `..`.
fn clean(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Digests a member, and keeps it where it may be a document.
fn read_member(entry: impl Read, length: u64, observer: &dyn Observer) -> io::Result<(Digests, Option<Vec<u8>>)> {
    let mut raw = BufReader::with_capacity(256 << 10, Hashing { inner: entry, digest: sha2::Sha256::new(), observer });
    let start = raw.fill_buf()?.to_vec();
    let mut document = None;
    let content = match &start[..] {
        [0x1f, 0x8b, ..] => Some(digest(flate2::bufread::MultiGzDecoder::new(&mut raw))?),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(digest(zstd::Decoder::with_buffer(&mut raw)?)?),
        [b'{' | b'[', ..] if length <= DOCUMENT_LIMIT => {
            let mut bytes = Vec::new();
            raw.read_to_end(&mut bytes)?;
            document = Some(bytes);
            None
        }
        _ => None,
    };
    io::copy(&mut raw, &mut io::sink())?;
    let raw = Sha256::finish(raw.into_inner().digest);
    Ok((Digests { raw, content: content.unwrap_or(raw) }, document))
}

fn digest(mut content: impl Read) -> io::Result<Sha256> {
    let mut digest = sha2::Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(Sha256::finish(digest)),
            got => digest.update(&buffer[..got]),
        }
    }
}

/// Hashes what is read, and tells the observer.
struct Hashing<'a, R> {
    inner: R,
    digest: sha2::Sha256,
    observer: &'a dyn Observer,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check_stop(self.observer)?;
        let got = self.inner.read(buffer)?;
        self.digest.update(&buffer[..got]);
        self.observer.on(Event::Advance(got as u64));
        Ok(got)
    }
}

/// An entry of Docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// A descriptor of OCI, or Docker's of the same form.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pointer {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// An index or a manifest of OCI.
#[derive(Deserialize)]
struct Manifest {
    manifests: Option<Vec<Pointer>>,
    config: Option<Pointer>,
    layers: Option<Vec<Pointer>>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<DiffId>>,
}

/// Holds documents against digests.
struct Check<'a> {
    members: &'a Members,
    name: &'a str,
    images: Vec<ImageId>,
    layers: usize,
    found: Vec<Found>,
}

impl Check<'_> {
    fn run(&mut self) {
        for (name, digests) in &self.members.files {
            let wanted = name.strip_prefix("blobs/sha256/").and_then(|hex| Sha256::from_hex(hex.as_bytes()).ok());
            if wanted.is_some_and(|wanted| wanted != digests.raw) {
                let evidence = format!("its content has the digest sha256:{}", digests.raw.hex());
                self.damage("archive-blob-mismatch", name, evidence, None);
            }
        }
        if let Some(saved) = self.members.document::<Vec<Saved>>("manifest.json") {
            for image in saved {
                let layers = image.layers.unwrap_or_default();
                self.image(&image.config, image.repo_tags.unwrap_or_default(), &layers);
            }
        } else if let Some(index) = self.members.document::<Manifest>("index.json") {
            self.index(index, &[], 0);
        } else {
            let evidence = "it has no manifest.json, no index.json, or none that can be read";
            self.damage("archive-damaged", self.name, evidence, None);
        }
    }

    fn index(&mut self, index: Manifest, names: &[String], depth: u32) {
        for pointer in index.manifests.unwrap_or_default() {
            let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
                .into_iter()
                .find_map(|key| pointer.annotations.get(key).cloned());
            let names: Vec<String> = name.into_iter().chain(names.iter().cloned()).collect();
            let path = blob(&pointer.digest);
            match self.members.document::<Manifest>(&path) {
                // An index may name images of other machines, which are not in the archive.
                None if depth > 0 && self.members.find(&path).is_none() => {}
                None => self.damage("archive-blob-missing", &path, "a manifest that index.json names", None),
                Some(Manifest { config: Some(config), layers, .. }) => {
                    let layers: Vec<String> =
                        layers.unwrap_or_default().iter().map(|layer| blob(&layer.digest)).collect();
                    self.image(&blob(&config.digest), names, &layers);
                }
                Some(inner) if depth < DEPTH_LIMIT => self.index(inner, &names, depth + 1),
                Some(_) => {}
            }
        }
    }

    /// Proves an image: its configuration by its name, its layers by the configuration.
    fn image(&mut self, config: &str, references: Vec<String>, layers: &[String]) {
        let file = config.rsplit('/').next().unwrap_or_default();
        let hex = file.strip_suffix(".json").unwrap_or(file);
        let named = ImageId::from_hex(hex.as_bytes()).ok();
        let Some(digests) = self.members.find(config) else {
            let image = named.map(|id| BrokenImage { id, references });
            return self.damage("archive-blob-missing", config, "the configuration of an image", image);
        };
        let id = named.unwrap_or(ImageId(digests.raw));
        self.images.push(id);
        let image = BrokenImage { id, references };
        if digests.raw != id.0 {
            let evidence = format!("its content has the digest sha256:{}", digests.raw.hex());
            self.damage("archive-config-mismatch", id, evidence, Some(image.clone()));
        }
        let diffs = match self.members.document::<Config>(config) {
            Some(view) => view.rootfs.diff_ids.unwrap_or_default(),
            None => return self.damage("archive-config-mismatch", id, "no configuration of an image", Some(image)),
        };
        if diffs.len() != layers.len() {
            let evidence = format!("it has {} layers, and the manifest names {}", diffs.len(), layers.len());
            self.damage("archive-layer-missing", id, evidence, Some(image.clone()));
        }
        for (layer, diff) in layers.iter().zip(&diffs) {
            self.layers += 1;
            match self.members.find(layer) {
                None => self.damage("archive-layer-missing", layer, format!("the layer {diff}"), Some(image.clone())),
                Some(found) if found.content != diff.0 => {
                    let evidence = format!("expected {diff}, found sha256:{}", found.content.hex());
                    self.damage("archive-layer-mismatch", layer, evidence, Some(image.clone()));
                }
                Some(_) => {}
            }
        }
    }

    fn damage(
        &mut self,
        code: &'static str,
        subject: impl ToString,
        evidence: impl ToString,
        image: Option<BrokenImage>,
    ) {
        let finding = Finding::damage(code, subject, evidence);
        let object =
            image.as_ref().filter(|_| finding.subject.starts_with("sha256:")).map(|image| Node::Image(image.id));
        let breaks =
            image.map(|image| Arc::new(Broken { effect: Effect::Pull, images: vec![image], containers: Vec::new() }));
        self.found.push(Found { finding, object, path: None, file: None, breaks: breaks.into_iter().collect() });
    }
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}
