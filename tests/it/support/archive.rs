//! Archives made by hand: what dockpack would write, and what it never would.
//!
//! Nothing here is dockpack's code but the grammar of references. Headers are canonical and digests are right unless a test makes them wrong, so
//! that what it makes wrong is reached.

use std::collections::BTreeMap;
use std::io::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::store::sha256;

/// Length of a tar's blocks.
const BLOCK: usize = 512;

/// A member of a layer's tar.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) device: (u32, u32),
    /// What the header says of the content's length, where it lies.
    pub(crate) claimed: Option<u64>,
    /// PAX records.
    pub(crate) records: Vec<(String, Vec<u8>)>,
}

impl Entry {
    pub(crate) fn new(name: &str, kind: u8) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            kind,
            link: Vec::new(),
            content: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            device: (0, 0),
            claimed: None,
            records: Vec::new(),
        }
    }

    #[must_use]
    pub(crate) fn file(name: &str, content: &str) -> Self {
        Self { content: content.as_bytes().to_vec(), ..Self::new(name, b'0') }
    }

    #[must_use]
    pub(crate) fn dir(name: &str) -> Self {
        Self::new(name, b'5')
    }

    #[must_use]
    pub(crate) fn symlink(name: &str, target: &str) -> Self {
        Self { link: target.as_bytes().to_vec(), ..Self::new(name, b'2') }
    }

    #[must_use]
    pub(crate) fn hard_link(name: &str, target: &str) -> Self {
        Self { link: target.as_bytes().to_vec(), ..Self::new(name, b'1') }
    }

    #[must_use]
    pub(crate) fn device(name: &str, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..Self::new(name, b'3') }
    }

    #[must_use]
    pub(crate) fn record(mut self, key: &str, value: impl Into<Vec<u8>>) -> Self {
        self.records.push((key.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub(crate) fn claiming(self, length: u64) -> Self {
        Self { claimed: Some(length), ..self }
    }

    #[must_use]
    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }
}

/// A layer: its tar and what goes with it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) tar: Vec<u8>,
    /// Lines of its tar-split, not compressed.
    pub(crate) tar_split: Vec<u8>,
    pub(crate) differences: Vec<u8>,
    pub(crate) cache_id: String,
    pub(crate) link: String,
    /// Of an `overlay` layer that BuildKit made.
    pub(crate) lower_id: Option<String>,
    pub(crate) size: u64,
}

impl Layer {
    /// Makes a layer; `name` makes its directory's name and short name.
    #[must_use]
    pub(crate) fn new(name: &str, entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut parts = Parts::default();
        let mut size = 0;
        for entry in entries {
            size += entry.content.len() as u64;
            parts.add(&entry);
        }
        parts.segment.extend([0; 2 * BLOCK]);
        parts.flush();
        let seed = sha256(name.as_bytes());
        let link = seed
            .bytes()
            .take(26)
            .map(|digit| char::from(if digit.is_ascii_digit() { digit - b'0' + b'K' } else { digit - b'a' + b'A' }));
        Self {
            tar: parts.tar,
            tar_split: parts.lines,
            differences: Vec::new(),
            link: link.collect(),
            lower_id: None,
            cache_id: seed,
            size,
        }
    }

    #[must_use]
    pub(crate) fn diff(&self) -> String {
        sha256(&self.tar)
    }
}

/// Writes a tar and its tar-split at once.
#[derive(Default)]
struct Parts {
    tar: Vec<u8>,
    lines: Vec<u8>,
    segment: Vec<u8>,
    position: usize,
}

impl Parts {
    fn add(&mut self, entry: &Entry) {
        if !entry.records.is_empty() {
            let records = entry.records.iter().flat_map(|(key, value)| record(key, value)).collect();
            self.add(&Entry { content: records, ..Entry::new("PaxHeaders/x", b'x') });
        }
        self.segment.extend(header(entry));
        if matches!(entry.kind, b'x' | b'L' | b'K') {
            // It belongs to the member that follows.
            self.segment.extend(padded(&entry.content));
            return;
        }
        self.flush();
        let crc = crc::Crc::<u64>::new(&crc::CRC_64_GO_ISO).checksum(&entry.content).to_be_bytes();
        let payload = (!entry.content.is_empty()).then(|| BASE64_STANDARD.encode(crc));
        let mut line = json!({"type": 1});
        match std::str::from_utf8(&entry.name) {
            Ok(name) => line["name"] = name.into(),
            Err(_) => line["name_raw"] = BASE64_STANDARD.encode(&entry.name).into(),
        }
        if !entry.content.is_empty() {
            line["size"] = entry.content.len().into();
        }
        line["payload"] = payload.into();
        self.line(line);
        self.tar.extend(&entry.content);
        self.segment.extend(&padded(&entry.content)[entry.content.len()..]);
    }

    fn flush(&mut self) {
        self.tar.extend(&self.segment);
        let payload = BASE64_STANDARD.encode(std::mem::take(&mut self.segment));
        self.line(json!({"type": 2, "payload": payload}));
    }

    fn line(&mut self, mut line: Value) {
        line["position"] = self.position.into();
        self.position += 1;
        self.lines.extend(line.to_string().into_bytes());
        self.lines.push(b'\n');
    }
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut padded = content.to_vec();
    padded.resize(content.len().next_multiple_of(BLOCK), 0);
    padded
}

fn number(value: u64, width: usize) -> Vec<u8> {
    let octal = format!("{value:0digits$o}\0", digits = width - 1);
    if octal.len() == width {
        return octal.into_bytes();
    }
    let mut coded = vec![0; width];
    let bytes = value.to_be_bytes();
    let taken = bytes.len().min(width);
    coded[width - taken..].copy_from_slice(&bytes[bytes.len() - taken..]);
    coded[0] |= 0x80;
    coded
}

/// A header in GNU's form.
pub(crate) fn header(entry: &Entry) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &entry.name[..entry.name.len().min(100)]);
    put(100, &number(entry.mode.into(), 8));
    put(108, &number(entry.owner.0.into(), 8));
    put(116, &number(entry.owner.1.into(), 8));
    put(124, &number(entry.claimed.unwrap_or(entry.content.len() as u64), 12));
    put(136, &number(0, 12));
    put(148, b"        ");
    put(156, &[entry.kind]);
    put(157, &entry.link[..entry.link.len().min(100)]);
    put(257, b"ustar  \0");
    if matches!(entry.kind, b'3' | b'4') {
        put(329, &number(entry.device.0.into(), 8));
        put(337, &number(entry.device.1.into(), 8));
    }
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(&number(sum, 8));
    block
}

/// An image to be put into an archive.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) references: Vec<String>,
    pub(crate) layers: Vec<Layer>,
    /// In place of the configuration that the layers make.
    pub(crate) config: Option<Vec<u8>>,
}

/// What is in an archive, before it becomes members.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) driver: String,
    pub(crate) images: Vec<Image>,
    /// Changes to `dockpack/archive.json`; the documents that are made of it follow.
    pub(crate) edit: fn(&mut Value),
}

/// Path of a blob.
#[must_use]
pub(crate) fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

/// Members of an archive in order, without the digests at its end.
pub(crate) type Members = Vec<(String, Vec<u8>)>;

impl Draft {
    #[must_use]
    pub(crate) fn new(images: impl IntoIterator<Item = (&'static str, Vec<Layer>)>) -> Self {
        let image =
            |(reference, layers): (&str, _)| Image { references: vec![reference.to_owned()], layers, config: None };
        Self { driver: "overlay2".to_owned(), images: images.into_iter().map(image).collect(), edit: |_| () }
    }

    /// One image of one layer.
    #[must_use]
    pub(crate) fn single(layer: Layer) -> Self {
        Self::new([("evil:1", vec![layer])])
    }

    /// The whole archive, as a plain tar.
    #[must_use]
    pub(crate) fn tar(&self) -> Vec<u8> {
        seal(&self.members())
    }

    /// All members but the digests.
    #[must_use]
    pub(crate) fn members(&self) -> Members {
        let mut index = json!({"format": 1, "driver": self.driver, "images": [], "layers": []});
        let (mut blobs, mut layers) = (BTreeMap::new(), Members::new());
        for image in &self.images {
            let diffs: Vec<String> = image.layers.iter().map(|layer| format!("sha256:{}", layer.diff())).collect();
            let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "created": "2017-03-03T20:32:21Z",
                "history": diffs.iter().map(|_| json!({"created": "2017-03-03T20:32:21Z"})).collect::<Vec<_>>(),
                "rootfs": {"type": "layers", "diff_ids": diffs}});
            let config = image.config.clone().unwrap_or_else(|| config.to_string().into_bytes());
            let id = format!("sha256:{}", sha256(&config));
            push(&mut index["images"], json!({"id": id, "references": image.references, "diffIds": diffs}));
            blobs.insert(sha256(&config), config);
            add_layers(&mut index, &mut layers, &image.layers);
        }
        (self.edit)(&mut index);
        let manifests: Vec<Vec<u8>> = list(&index, "images").map(|image| manifest(&index, image, &blobs)).collect();
        let mut members: Members = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), oci_index(&index, &manifests, &sha256(index.to_string().as_bytes()))),
            ("manifest.json".to_owned(), docker_manifest(&index)),
            ("dockpack/archive.json".to_owned(), index.to_string().into_bytes()),
        ];
        blobs.extend(manifests.into_iter().map(|manifest| (sha256(&manifest), manifest)));
        members.extend(blobs.into_iter().map(|(digest, bytes)| (blob(&digest), bytes)));
        members.extend(layers);
        members
    }
}

fn push(list: &mut Value, value: Value) {
    list.as_array_mut().expect("a list").push(value);
}

fn list<'a>(index: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    index[key].as_array().expect("a list").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn add_layers(index: &mut Value, members: &mut Members, layers: &[Layer]) {
    let mut parent: Option<String> = None;
    for layer in layers {
        let diff = layer.diff();
        let chain = match &parent {
            None => diff.clone(),
            Some(below) => sha256(format!("sha256:{below} sha256:{diff}").as_bytes()),
        };
        let below = parent.replace(chain.clone());
        let split = format!("dockpack/layers/{chain}/tar-split.json.gz");
        if members.iter().any(|(name, _)| *name == split) {
            continue;
        }
        let mut record = json!({"chain": format!("sha256:{chain}"), "diff": format!("sha256:{diff}")});
        if let Some(below) = below {
            record["parent"] = format!("sha256:{below}").into();
        }
        record["size"] = layer.size.into();
        record["tarSize"] = layer.tar.len().into();
        record["cacheId"] = layer.cache_id.clone().into();
        record["facts"] = json!({"link": layer.link});
        if let Some(lower) = &layer.lower_id {
            record["facts"]["lowerId"] = lower.clone().into();
        }
        push(&mut index["layers"], record);
        members.push((split, gzip(&layer.tar_split)));
        members.push((format!("dockpack/layers/{chain}/differences.jsonl"), layer.differences.clone()));
        if members.iter().all(|(name, _)| *name != blob(&diff)) {
            members.push((blob(&diff), layer.tar.clone()));
        }
    }
}

const OCI: &str = "application/vnd.oci.image";

fn manifest(index: &Value, image: &Value, configs: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let layers: Vec<Value> = list(image, "diffIds")
        .map(|diff| {
            let record = list(index, "layers").find(|layer| layer["diff"] == *diff);
            let size = record.map_or(json!(0), |record| record["tarSize"].clone());
            json!({"mediaType": format!("{OCI}.layer.v1.tar"), "digest": diff, "size": size})
        })
        .collect();
    let config = configs.get(text(&image["id"]).trim_start_matches("sha256:"));
    let size = config.map_or(0, Vec::len);
    let config = json!({"mediaType": format!("{OCI}.config.v1+json"), "digest": image["id"], "size": size});
    let manifest =
        json!({"schemaVersion": 2, "mediaType": format!("{OCI}.manifest.v1+json"), "config": config, "layers": layers});
    manifest.to_string().into_bytes()
}

fn oci_index(index: &Value, manifests: &[Vec<u8>], digest: &str) -> Vec<u8> {
    let mut entries = Vec::new();
    for (image, manifest) in list(index, "images").zip(manifests) {
        let digest = format!("sha256:{}", sha256(manifest));
        let entry = json!({"mediaType": format!("{OCI}.manifest.v1+json"), "digest": digest, "size": manifest.len()});
        let tags: Vec<&Value> = list(image, "references").filter(|tag| !text(tag).contains('@')).collect();
        if tags.is_empty() {
            entries.push(entry.clone());
        }
        for tag in tags {
            let mut named = entry.clone();
            named["annotations"] = json!({
                // What is no reference stands as it is.
                "io.containerd.image.name": match text(tag).parse::<dockpack::reference::Reference>() {
                    Ok(reference) => reference.canonical(),
                    Err(_) => text(tag).to_owned(),
                },
                "org.opencontainers.image.ref.name": tag,
            });
            entries.push(named);
        }
    }
    json!({"schemaVersion": 2, "mediaType": format!("{OCI}.index.v1+json"), "manifests": entries,
        "annotations": {"dockpack.archive.digest": format!("sha256:{digest}")}})
    .to_string()
    .into_bytes()
}

fn docker_manifest(index: &Value) -> Vec<u8> {
    let images: Vec<Value> = list(index, "images")
        .map(|image| {
            let path = |digest: &Value| blob(text(digest).trim_start_matches("sha256:"));
            let tags: Vec<&Value> = list(image, "references").filter(|tag| !text(tag).contains('@')).collect();
            let layers: Vec<String> = list(image, "diffIds").map(path).collect();
            json!({"Config": path(&image["id"]), "RepoTags": tags, "Layers": layers})
        })
        .collect();
    Value::from(images).to_string().into_bytes()
}

/// Puts members into a tar, with the digests of all at its end.
#[must_use]
pub(crate) fn seal(members: &Members) -> Vec<u8> {
    let sums: String = members.iter().map(|(name, bytes)| format!("{}  {name}\n", sha256(bytes))).collect();
    tar_of(members.iter().cloned().chain([("dockpack/SHA256SUMS".to_owned(), sums.into_bytes())]))
}

/// Puts members into a tar.
#[must_use]
pub(crate) fn tar_of(members: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, content) in members {
        let entry = Entry { content, ..Entry::new(&name, b'0') };
        tar.extend(header(&entry));
        tar.extend(padded(&entry.content));
    }
    tar.extend([0; 2 * BLOCK]);
    tar
}

/// A header as an archive has it, which claims a length.
#[must_use]
pub(crate) fn member_header(name: &str, length: u64) -> Vec<u8> {
    header(&Entry::new(name, b'0').claiming(length))
}

#[must_use]
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(bytes).expect("compressed");
    gzip.finish().expect("compressed")
}

/// A small image of two layers with something of every kind, and one that shares its base.
#[must_use]
pub(crate) fn small() -> Draft {
    let base = Layer::new(
        "base",
        [
            Entry::dir("etc/"),
            Entry::file("etc/passwd", "root:x:0:0::/:/bin/sh\n").mode(0o640),
            Entry::dir("bin/"),
            Entry::file("bin/tool", "a tool").mode(0o4755).record("SCHILY.xattr.user.note", b"kept".to_vec()),
            Entry::hard_link("bin/same", "bin/tool").mode(0o4755).record("SCHILY.xattr.user.note", b"kept".to_vec()),
            Entry::symlink("bin/link", "tool"),
            Entry::device("null", 1, 3),
            Entry::dir("gone/"),
            Entry::file("gone/file", "to be removed"),
        ],
    );
    let top = Layer::new(
        "top",
        [
            Entry::dir("etc/"),
            Entry::file("etc/passwd", "changed\n"),
            Entry::file("gone/.wh.file", ""),
            Entry::dir("new/"),
            Entry::file("new/file", &"some content that takes more than a block. ".repeat(40)),
        ],
    );
    let other = Layer::new("other", [Entry::file("other", "another image")]);
    Draft::new([("base:1", vec![base.clone()]), ("small:1", vec![base.clone(), top]), ("small:2", vec![base, other])])
}

/// Text of so many bytes that does not compress to nothing; another for each seed but 0.
#[must_use]
pub(crate) fn noise(mut seed: u64, length: usize) -> String {
    let next = |_| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        char::from(b'0' + (seed >> 32 & 63) as u8)
    };
    (0..length).map(next).collect()
}
