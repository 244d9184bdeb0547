//! What is mounted, and from what: containers may run on without dockerd (live-restore, or after it crashed).
//!
//! `/proc/<pid>/mountinfo` tells for each mount its place, and for an overlay the directories it is made of, as whoever
//! mounted it wrote them: below the data root's path, or relative to the driver's home where the options would
//! have been too long. dockerd may have a mount name space of its own, so those of all processes are read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Store;
use crate::fsx::{Dir, Kind};

/// Longest `mountinfo` that is read: some hundred thousand mounts.
const LIMIT: u64 = 64 << 20;

/// Paths below a data root that the kernel uses now, with how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse(BTreeMap<String, String>);

impl InUse {
    /// Takes paths relative to the data root, each with how it is used.
    pub fn new(paths: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(paths.into_iter().collect())
    }

    /// Says how `path`, or anything below it, is used; `None` where it is not.
    #[must_use]
    pub fn of(&self, path: &str) -> Option<&str> {
        let is_below =
            |used: &str| used.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let from = self.0.range(path.to_owned()..);
        from.take_while(|(used, _)| used.starts_with(path))
            .find(|(used, _)| is_below(used))
            .map(|(_, how)| how.as_str())
    }
}

impl Store {
    /// Looks what of this store is mounted. Mount name spaces of processes that may not be looked at are not seen.
    #[must_use]
    pub fn in_use(&self) -> InUse {
        let Ok(proc) = Dir::open_root(Path::new("/proc")) else { return InUse::default() };
        let mut paths = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let processes = proc.entries().unwrap_or_default();
        let pids = processes.iter().filter(|entry| entry.kind == Kind::Directory && entry.name[0].is_ascii_digit());
        for pid in pids {
            let pid = pid.name.escape_ascii();
            let space = proc.dir(format!("{pid}/ns")).and_then(|ns| ns.read_link("mnt"));
            if !space.is_ok_and(|space| seen.insert(space)) {
                continue;
            }
            // It may have ended.
            let Ok(text) = proc.read(format!("{pid}/mountinfo"), LIMIT) else { continue };
            paths.extend(used(&text, &self.path().to_string_lossy(), self.driver()));
        }
        let short = format!("{}/l/", self.driver());
        let names: Vec<(String, String)> = paths
            .iter()
            .filter(|(path, _)| path.starts_with(&short))
            .map(|(p, how)| (p.clone(), how.clone()))
            .collect();
        for (path, how) in names {
            let target = self.home().and_then(|home| home.dir("l").ok()?.read_link(&path[short.len()..]).ok());
            let id = target.as_deref().and_then(|target| std::str::from_utf8(target).ok()?.strip_prefix("../"));
            if let Some(id) = id {
                paths.insert(format!("{}/{}", self.driver(), id.trim_end_matches("/diff")), how);
            }
        }
        InUse(paths)
    }
}

/// Finds the paths below `root` that the text of a `mountinfo` names, relative to it.
fn used(text: &[u8], root: &str, driver: &str) -> Vec<(String, String)> {
    let root = root.trim_end_matches('/');
    let below = |path: &str| path.strip_prefix(root)?.strip_prefix('/').map(str::to_owned);
    let mut found = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let fields: Vec<String> = line.split(|byte| *byte == b' ').map(unescaped).collect();
        let Some(point) = fields.get(4) else { continue };
        if let Some(path) = below(point).filter(|path| !path.is_empty()) {
            found.push((path, format!("mounted at {point}")));
        }
        let Some(kind) = fields.iter().position(|field| field == "-") else { continue };
        let (Some(kind), Some(options)) = (fields.get(kind + 1), fields.get(kind + 3)) else { continue };
        if !kind.contains("overlay") && kind != "aufs" {
            continue;
        }
        let values = options.split(',').filter_map(|option| option.split_once('='));
        let dirs = values.filter(|(key, _)| {
            matches!(key.trim_end_matches('+'), "lowerdir" | "datadir" | "upperdir" | "workdir" | "br")
        });
        let paths: Vec<&str> = dirs.flat_map(|(_, value)| value.split(':')).collect();
        let is_ours = paths.iter().any(|path| below(path).is_some());
        for path in paths {
            match below(path) {
                Some(path) => found.push((path, format!("part of what is mounted at {point}"))),
                // Relative to the home of whatever driver did it: better one directory too many than one too few.
                None if !path.starts_with('/') && (is_ours || !path.is_empty()) => {
                    found.push((format!("{driver}/{path}"), format!("part of what is mounted at {point}")));
                }
                None => {}
            }
        }
    }
    found
}

/// Undoes the octal escapes of `/proc`, once: options have a second layer of them, which no path of Docker's needs.
fn unescaped(field: &[u8]) -> String {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let code = rest.get(1..4).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) if *first == b'\\' => {
                text.push(code);
                rest = &rest[4..];
            }
            _ => {
                text.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
60 25 254:0 /lib /var/lib/docker/overlay2 rw - ext4 /dev/vda rw
61 60 0:50 / /var/lib/docker/overlay2/aa/merged rw - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/BB:/var/lib/docker/overlay2/l/CC,upperdir=/var/lib/docker/overlay2/aa/diff,workdir=/var/lib/docker/overlay2/aa/work
62 25 0:51 / / rw - overlay overlay rw,lowerdir=l/DD:l/EE,upperdir=ff/diff,workdir=ff/work
63 25 0:52 / /var/lib/docker/containers/c\\040c/mounts/shm rw - tmpfs shm rw
64 25 0:53 / /var/lib/docker2/x rw - tmpfs x rw
";

    #[test]
    fn what_mountinfo_says() {
        let found = InUse::new(used(MOUNTINFO.as_bytes(), "/var/lib/docker", "overlay2"));
        for (path, is_used) in [
            ("overlay2/aa", true),
            ("overlay2/a", false),
            ("overlay2/ff", true),
            ("overlay2/l/BB", true),
            ("overlay2/l/EE", true),
            ("overlay2/gg", false),
            ("overlay2/aa/merged/x", false),
            ("containers/c c", true),
            ("x", false),
        ] {
            assert_eq!(found.of(path).is_some(), is_used, "{path}");
        }
    }
}
