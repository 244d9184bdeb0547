//! Entrances for `ci/fuzz` to parsers that are not public (feature `fuzzing`).

use std::collections::BTreeMap;
use std::io;

use crate::archive::{ArchiveWriter, Compression, Descriptor, INDEX, blob, documents, oci_manifest};
use crate::driver::overlay2;
use crate::error::ParseError;
use crate::fsx::Dir;
use crate::id::{ImageId, LinkId, Sha256};
use crate::layer::{RestoreError, Shared, differences};
use crate::model::Index;
use crate::store::bolt::{self, Bolt, BoltError, Bucket, Item};
use crate::store::{Image, imagedb, repositories};

/// Parses a `repositories.json`: the references whose images are IDs.
///
/// # Errors
/// dockerd would not start with it.
pub fn references(bytes: &[u8]) -> Result<BTreeMap<String, ImageId>, ParseError> {
    repositories::parse(bytes).map(|references| references.valid)
}

/// Puts references into a `repositories.json`, and gives its new text.
///
/// # Errors
/// `bytes` is none.
pub fn merge_references(bytes: &[u8], references: &BTreeMap<String, ImageId>) -> Result<Vec<u8>, ParseError> {
    repositories::merge(Some(bytes), references.iter().map(|(key, id)| (key.as_str(), *id)))
}

/// Parses the configuration of an image under the ID that it has.
///
/// # Errors
/// It is none.
pub fn image_config(bytes: &[u8]) -> Result<Image, ParseError> {
    imagedb::parse(ImageId(Sha256::of(bytes)), bytes.to_vec())
        .map_err(|error| ParseError::because("the configuration of an image", error))
}

/// Parses an `overlay2` layer's `lower`.
///
/// # Errors
/// It names no layers.
pub fn lower(bytes: &[u8]) -> Result<Vec<LinkId>, ParseError> {
    overlay2::parse_lower(bytes)
}

/// Checks a bolt database, walks all its buckets, and gives the number of bytes in its keys and values.
///
/// # Errors
/// In words why it cannot be read.
pub fn bolt(bytes: &[u8]) -> Result<usize, String> {
    fn walk(bolt: &Bolt<'_, [u8]>, bucket: &Bucket, depth: u32) -> Result<usize, BoltError> {
        let mut sum = 0;
        for (key, item) in bolt.entries(bucket)? {
            sum += key.len();
            match item {
                Item::Value(value) => sum += value.len(),
                // Real ones are six deep; who reads them goes to a known depth.
                Item::Bucket(inner) if depth < 8 => sum += walk(bolt, &inner, depth + 1)?,
                Item::Bucket(_) => {}
            }
        }
        Ok(sum)
    }
    let _ = bolt::read(bytes, |bolt| bolt.opens().and_then(|()| bolt.check()));
    bolt::read(bytes, |bolt| walk(bolt, &bolt.root(), 0)).map_err(|error| error.to_string())
}

/// Makes a layer directory what a list of differences says, as `load` does with one it has just built.
///
/// # Errors
/// The list is damaged or hostile, or the file system refuses.
pub fn restore(layer: &Dir, list: &[u8]) -> Result<(), RestoreError> {
    differences::restore(layer, list, &Shared::default())
}

/// Makes an archive around an index and image configurations whose documents belong together, so that what is behind
/// that proof is reached. It has no layers.
///
/// # Errors
/// A member has a name that no member has.
pub fn archive(index: &Index, text: &[u8], configs: &[&[u8]]) -> io::Result<Vec<u8>> {
    let tar_sizes: BTreeMap<_, _> = index.layers.iter().map(|layer| (layer.diff, layer.tar_size)).collect();
    let mut blobs: BTreeMap<Sha256, Vec<u8>> =
        configs.iter().map(|config| (Sha256::of(config), config.to_vec())).collect();
    let mut manifests = Vec::new();
    for image in &index.images {
        let size = blobs.get(&image.id.0).map_or(0, |config| config.len() as u64);
        let layers: Vec<_> =
            image.diff_ids.iter().map(|diff| (*diff, tar_sizes.get(diff).copied().unwrap_or_default())).collect();
        let manifest = oci_manifest(&Descriptor { digest: image.id.0, size }, &layers);
        manifests.push(Descriptor { digest: Sha256::of(&manifest), size: manifest.len() as u64 });
        blobs.insert(Sha256::of(&manifest), manifest);
    }
    let mut bytes = Vec::new();
    let mut writer = ArchiveWriter::tar(&mut bytes, Compression::Plain)?;
    for (name, document) in documents(index, Sha256::of(text), &manifests) {
        writer.add(name, &document)?;
    }
    writer.add(INDEX, text)?;
    for (digest, content) in &blobs {
        writer.add(&blob(digest), content)?;
    }
    writer.finish()?;
    Ok(bytes)
}
