//! Signs of containerd's image store in a data root, whose images no graph driver has (opt-in from Docker 24, the default on
//! fresh roots of 29).
//!
//! | where | what |
//! |---|---|
//! | `containerd/daemon/io.containerd.metadata.v1.bolt/meta.db` | bucket `v1/<namespace>/images/<name>`, where dockerd runs its own containerd; with graph drivers there are no images in it |
//! | `containers/<id>/config.v2.json` | `Driver` is a snapshotter (`overlayfs`), and no graph driver |
//!
//! Which of two stores dockerd uses, nothing in the root says: `containerd-snapshotter` in daemon.json or an argument does.

use std::fmt;

use crate::count::count;
use crate::driver::Driver;
use crate::error::{Error, FsError, Result};
use crate::fsx::Dir;

use super::bolt::{self, Bolt, BoltError, Bucket, Item, Source};
use super::layout::Configured;
use super::{Store, containers};

/// The database of dockerd's own containerd, below the data root.
const META: &str = "containerd/daemon/io.containerd.metadata.v1.bolt/meta.db";

/// Snapshotters that dockerd takes for storage drivers, by names that no graph driver has.
pub const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "native"];

/// What containerd's image store has in a data root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerdUse {
    /// Number of its images; `None` where the database cannot be read.
    pub images: Option<usize>,
    /// Number of containers that were made with it.
    pub containers: usize,
}

impl fmt::Display for ContainerdUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.images {
            Some(images) => f.write_str(&count(images, "image", "images"))?,
            None => f.write_str("images that cannot be counted")?,
        }
        write!(f, ", {}", count(self.containers, "container", "containers"))
    }
}

impl ContainerdUse {
    /// Looks for it; `None` where nothing shows that it was ever used.
    pub(super) fn find(root: &Dir) -> Option<Self> {
        let images = match FsError::found(root.file(META)) {
            Ok(None) => Some(0),
            Ok(Some(file)) => bolt::read(&file, images).ok(),
            Err(_) => None,
        };
        let (found, _) = containers::read(root);
        let is_other = |driver: &str| !driver.is_empty() && Driver::known(driver).is_none();
        let containers = found.values().filter(|container| is_other(&container.driver)).count();
        (images != Some(0) || containers > 0).then_some(Self { images, containers })
    }
}

/// Counts the images of all namespaces.
fn images<S: Source + ?Sized>(bolt: &Bolt<'_, S>) -> Result<usize, BoltError> {
    let Some(version) = bolt.find(&[b"v1"])? else { return Ok(0) };
    let mut count = 0;
    for namespace in buckets(bolt, &version, |_| true)? {
        for images in buckets(bolt, &namespace, |name| name == b"images")? {
            count += buckets(bolt, &images, |_| true)?.len();
        }
    }
    Ok(count)
}

/// Returns the buckets in a bucket that have such names.
fn buckets<S: Source + ?Sized>(
    bolt: &Bolt<'_, S>,
    bucket: &Bucket,
    is_wanted: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Bucket>, BoltError> {
    let entries = bolt.entries(bucket)?.into_iter().filter(|(name, _)| is_wanted(name));
    Ok(entries.filter_map(|(_, item)| if let Item::Bucket(bucket) = item { Some(bucket) } else { None }).collect())
}

impl Store {
    /// Tells what containerd's image store has in the data root of this one; `None` where it was never used.
    #[must_use]
    pub fn containerd(&self) -> Option<ContainerdUse> {
        ContainerdUse::find(self.root())
    }

    /// Fails where dockerd may use containerd's image store in this data root: what is loaded into a graph driver it would
    /// not see. daemon.json is believed where it says which one is used.
    ///
    /// # Errors
    /// [`Error::StoreOfTwo`].
    pub fn expect_only_store(&self) -> Result<()> {
        match self.containerd() {
            Some(found) if Configured::read().uses_containerd(self.path()) != Some(false) => {
                let (root, driver) = (self.path().to_owned(), self.driver().name().to_owned());
                Err(Error::StoreOfTwo { root, driver, has: found.to_string() })
            }
            _ => Ok(()),
        }
    }
}
