//! What a data root is called elsewhere.
//!
//! A data root has as many paths as there are mounts of its file system, in as many mount name spaces as there are. What
//! tells that two paths are one is the file system (its device, as `mountinfo` names it) and the path within it, which
//! follows renames. So what is mounted of a store is known whatever it is called, and from the same mounts follow all
//! names by which paths may be written: in the options of an overlay, or of what a process works in.

use std::collections::{BTreeMap, BTreeSet};

use super::Store;
use super::mountinfo::Mount;
use super::processes::Processes;
use crate::error::FsError;

/// Where a data root lies, and what it is called.
#[derive(Debug, Default)]
pub(super) struct Names {
    driver: String,
    /// By device: path within the file system, and path below the data root of what lies there.
    places: BTreeMap<String, BTreeSet<(String, String)>>,
    /// By path in some mount name space: path below the data root.
    names: BTreeMap<String, BTreeSet<String>>,
}

impl Names {
    /// Finds where the data root lies, with those of its directories that are mounts of their own.
    pub(super) fn of(store: &Store, processes: &Processes) -> Result<Self, FsError> {
        let place = store.root().place()?;
        let mounts = processes.own.mounts()?.unwrap_or_default();
        Self::find(store.driver().name(), place.mount, &place.path.to_string_lossy(), &mounts).ok_or_else(|| {
            let error = std::io::Error::other("it is on a mount that /proc/self/mountinfo does not list");
            FsError::new("locate", store.path(), error)
        })
    }

    fn find(driver: &str, mount: u64, path: &str, mounts: &[Mount]) -> Option<Self> {
        let mut names = Self { driver: driver.to_owned(), ..Self::default() };
        let whole = mounts.iter().find(|found| found.id == mount)?;
        names.place(&whole.device, join(&whole.root, below(path, &whole.point)?), "");
        for found in mounts {
            if let Some(at) = below(&found.point, path).filter(|at| names.is_large(at)) {
                names.place(&found.device, found.root.clone(), at);
            }
        }
        names.name(path.to_owned(), "");
        names.learn(mounts);
        Some(names)
    }

    /// Tells whether a path below the data root is that of a part of a store, of which a name says no more than where it
    /// lies: not a layer or a container.
    fn is_large(&self, at: &str) -> bool {
        !at.is_empty() && (!at.contains('/') || at.strip_prefix("image/") == Some(&self.driver))
    }

    fn place(&mut self, device: &str, path: String, at: &str) {
        self.places.entry(device.to_owned()).or_default().insert((path, at.to_owned()));
    }

    fn name(&mut self, path: String, at: &str) {
        self.names.entry(path).or_default().insert(at.to_owned());
    }

    /// Learns what the data root is called where this is mounted.
    pub(super) fn learn(&mut self, mounts: &[Mount]) {
        let mut new: Vec<(String, String)> = Vec::new();
        for mount in mounts {
            for (path, at) in self.places.get(&mount.device).into_iter().flatten() {
                if let Some(rest) = below(path, &mount.root) {
                    new.push((join(&mount.point, rest), at.clone()));
                } else if let Some(inner) = below(&mount.root, path).map(|rest| join_relative(at, rest))
                    && self.is_large(&inner)
                {
                    new.push((mount.point.clone(), inner));
                }
            }
        }
        for (path, at) in new {
            self.name(path, &at);
        }
    }

    /// Returns what of the data root lies in a file system at a path: paths below the data root.
    pub(super) fn located(&self, device: &str, path: &str) -> Vec<String> {
        let places = self.places.get(device).into_iter().flatten();
        places.filter_map(|(place, at)| Some(join_relative(at, below(path, place)?))).collect()
    }

    /// Returns what of the data root a path on this mount is, as a process sees both.
    pub(super) fn seen(&self, mount: &Mount, path: &str) -> Vec<String> {
        below(path, &mount.point).map_or_else(Vec::new, |rest| self.located(&mount.device, &join(&mount.root, rest)))
    }

    /// Returns what of the data root a path means, in any mount name space.
    pub(super) fn meant(&self, path: &str) -> Vec<String> {
        let ends = path.match_indices('/').map(|(at, _)| at.max(1)).chain([path.len()]);
        let mut found: Vec<String> = Vec::new();
        for end in ends {
            let (name, rest) = (&path[..end], path[end..].trim_matches('/'));
            for at in self.names.get(name).into_iter().flatten() {
                found.push(join_relative(at, rest));
            }
        }
        found.sort();
        found.dedup();
        found
    }
}

/// Returns what of `path` is below `base`, which may be the path itself.
fn below<'p>(path: &'p str, base: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(base.trim_end_matches('/'))?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest),
        None => rest.is_empty().then_some(rest),
    }
}

fn join(base: &str, rest: &str) -> String {
    match (base.trim_end_matches('/'), rest) {
        ("", "") => "/".to_owned(),
        (base, "") => base.to_owned(),
        (base, rest) => format!("{base}/{rest}"),
    }
}

fn join_relative(base: &str, rest: &str) -> String {
    match (base, rest) {
        ("", rest) => rest.to_owned(),
        (base, "") => base.to_owned(),
        (base, rest) => format!("{base}/{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mountinfo::parse;
    use super::*;

    /// A disk at `/`, of which `/srv/docker` is the data root; `/var/lib/docker` is a bind mount of it, and the home of the
    /// driver a disk of its own.
    const HOST: &str = "\
20 1 254:0 / / rw - ext4 /dev/vda rw
21 20 254:0 /srv/docker /var/lib/docker rw - ext4 /dev/vda rw
22 21 8:1 /layers /var/lib/docker/overlay2 rw - ext4 /dev/sda rw
23 20 8:1 / /disk rw - ext4 /dev/sda rw
24 20 254:0 /srv/docker2 /other rw - ext4 /dev/vda rw
";
    /// Another mount name space, as that of a monitor in a container.
    const INNER: &str = "\
30 1 0:50 / / rw - overlay overlay rw
31 30 254:0 /srv /rootfs rw - ext4 /dev/vda rw
32 30 8:1 /layers/aa/diff/etc /etc rw - ext4 /dev/sda rw
33 30 254:0 /srv/docker/containers/cc/hosts /hosts rw - ext4 /dev/vda rw
";

    fn names(mount: u64, path: &str) -> Names {
        let mut names = Names::find("overlay2", mount, path, &parse(HOST.as_bytes())).expect("it is there");
        names.learn(&parse(INNER.as_bytes()));
        names
    }

    #[test]
    fn a_store_with_several_names() {
        let names = names(21, "/var/lib/docker");
        for (path, meant) in [
            ("/var/lib/docker", &[""][..]),
            ("/var/lib/docker/overlay2/l/AA", &["overlay2/l/AA"]),
            ("/srv/docker/containers/cc", &["containers/cc"]),
            ("/disk/layers/aa/diff", &["overlay2/aa/diff"]),
            ("/rootfs/docker/vfs", &["vfs"]),
            ("/other/vfs", &[]),
            ("/srv/docker2", &[]),
            ("/var/lib", &[]),
            ("/", &[]),
            ("relative", &[]),
            ("", &[]),
        ] {
            assert_eq!(names.meant(path), meant, "{path}");
        }
        for (device, path, located) in [
            ("254:0", "/srv/docker/containers/cc/hosts", &["containers/cc/hosts"][..]),
            ("254:0", "/srv/docker", &[""]),
            ("254:0", "/srv", &[]),
            ("8:1", "/layers/aa/diff/etc", &["overlay2/aa/diff/etc"]),
            ("8:1", "/srv/docker/x", &[]),
            ("0:50", "/", &[]),
        ] {
            assert_eq!(names.located(device, path), located, "{device} {path}");
        }
    }

    #[test]
    fn by_its_other_name_it_is_the_same_store() {
        let (one, other) = (names(21, "/var/lib/docker"), names(20, "/srv/docker"));
        for path in ["/var/lib/docker/containers/x", "/srv/docker/containers/x", "/rootfs/docker/containers/x"] {
            assert_eq!(one.meant(path), ["containers/x"]);
            assert_eq!(other.meant(path), ["containers/x"], "{path}");
        }
        assert!(Names::find("vfs", 99, "/x", &parse(HOST.as_bytes())).is_none());
    }

    #[test]
    fn a_file_system_that_is_the_data_root() {
        let text = "20 1 8:1 / / rw - ext4 /dev/sda rw\n21 20 8:2 / /mnt rw - ext4 /dev/sdb rw\n";
        let names = Names::find("vfs", 21, "/mnt", &parse(text.as_bytes())).expect("it is there");
        assert_eq!(
            (names.meant("/mnt/vfs"), names.located("8:2", "/vfs/dir/x")),
            (vec!["vfs".into()], vec!["vfs/dir/x".into()])
        );
        let root = Names::find("vfs", 20, "/", &parse(text.as_bytes())).expect("it is there");
        assert_eq!(root.meant("/vfs/x"), ["vfs/x"]);
    }
}
