//! Where each record of a store lies. Nothing else knows these paths but the readers of what lies there.
//!
//! All are below `image/<driver>`, as they are opened; [`in_root`] makes the path below the data root of one, as plans and
//! findings name it.

use std::fmt::Display;

use crate::id::{ChainId, ImageId};

/// The references.
pub(crate) const REFERENCES: &str = "repositories.json";

/// The configurations of images, each under its ID.
pub(crate) const IMAGES: &str = "imagedb/content/sha256";

/// What dockerd notes of images beside their configurations, each in a directory with the image's ID.
pub(crate) const METADATA: &str = "imagedb/metadata/sha256";

/// The entries of layers, each with its chain ID.
pub(crate) const LAYERS: &str = "layerdb/sha256";

/// The entries of writable layers, each with the name of the container or mount.
pub(crate) const MOUNTS: &str = "layerdb/mounts";

/// The layers that dockerd is writing.
pub(crate) const WRITE_SETS: &str = "layerdb/tmp";

/// Which content a blob has, by the digest of the blob.
pub(crate) const DIFF_ID_BY_DIGEST: &str = "distribution/diffid-by-digest/sha256";

/// Where blobs with a content are known to be, by diff ID.
pub(crate) const V2_METADATA_BY_DIFF_ID: &str = "distribution/v2metadata-by-diffid/sha256";

/// The file in the entry of a layer that tells of its tar all but the content of files.
pub(crate) const TAR_SPLIT: &str = "tar-split.json.gz";

/// Returns the directory of a graph driver's records, below the data root.
pub(crate) fn records(driver: &str) -> String {
    format!("image/{driver}")
}

/// Returns the path below the data root of what is at `path` below the records of a graph driver.
pub(crate) fn in_root(driver: &str, path: impl Display) -> String {
    format!("image/{driver}/{path}")
}

/// Returns the entry of a layer.
pub(crate) fn layer(chain: &ChainId) -> String {
    format!("{LAYERS}/{}", chain.hex())
}

/// Returns the entry of this name among those of layers; dockerd renames one that it removes.
pub(crate) fn layer_named(name: &str) -> String {
    format!("{LAYERS}/{name}")
}

/// Returns the tar-split of a layer.
pub(crate) fn tar_split(chain: &ChainId) -> String {
    format!("{LAYERS}/{}/{TAR_SPLIT}", chain.hex())
}

/// Returns the entry of a writable layer.
pub(crate) fn mount(name: impl Display) -> String {
    format!("{MOUNTS}/{name}")
}

/// Returns the configuration of an image.
pub(crate) fn image(id: &ImageId) -> String {
    format!("{IMAGES}/{}", id.hex())
}

/// Returns the directory with what dockerd notes of an image.
pub(crate) fn metadata(id: &ImageId) -> String {
    format!("{METADATA}/{}", id.hex())
}

/// Tells whether a path below the data root lies right in one of these directories, of whatever graph driver; gives its
/// name there.
pub(crate) fn name_in<'p>(dir: &str, path: &'p str) -> Option<&'p str> {
    let (parent, name) = path.rsplit_once('/')?;
    parent.strip_suffix(dir)?.ends_with('/').then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_directories_of_records() {
        let path = in_root("vfs", mount("web"));
        assert_eq!(path, "image/vfs/layerdb/mounts/web");
        assert_eq!(name_in(MOUNTS, &path), Some("web"));
        assert_eq!(
            (name_in(WRITE_SETS, &path), name_in(MOUNTS, MOUNTS), name_in(MOUNTS, "xlayerdb/mounts/y")),
            (None, None, None)
        );
    }
}
