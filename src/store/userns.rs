//! The user namespace that a data root belongs to.
//!
//! With `userns-remap` the data root is `<root>/<uid>.<gid>`, named after container root on disk [moby
//! daemon/daemon_unix.go `setupDaemonRoot`]; the ids follow from the ranges that `/etc/subuid` and `/etc/subgid` give the
//! user, lowest first [moby idtools `createIDMap`]. Where dockerd runs without root, the data root belongs to the
//! user, who is container root, as all that is in it, and container id 1 and on are the user's ranges [rootlesskit].

use std::io::Read as _;
use std::path::Path;

use super::layout::mapping;
use crate::error::{Error, FsError, Result};
use crate::fsx::{self, Dir, IdRange, UserNamespace};

/// Longest of the host's tables that is read.
const LIMIT: u64 = 16 << 20;
/// Number of ids that a user gets where nothing else is known (`useradd`).
const USUAL_LENGTH: u32 = 65536;

/// Finds the namespace of a data root; `None` where ids are what they are.
///
/// # Errors
/// It belongs to a user of whom the host does not say which ids are his.
pub(super) fn find(root: &Dir, path: &Path) -> Result<Option<UserNamespace>> {
    if let Some((uid, gid)) = path.file_name().and_then(|name| mapping(name.as_encoded_bytes())) {
        let (uids, gids) = (remapped(&table("subuid")?, uid), remapped(&table("subgid")?, gid));
        return Ok((uid != 0).then_some(UserNamespace { uids, gids, is_rootless: false }));
    }
    let owner = root.attrs(".")?;
    // An empty directory of somebody's is no sign: only what his daemon made in it.
    let is_his = root.find("image")?.is_some_and(|image| image.uid == owner.uid);
    if owner.uid == 0 || !is_his || rustix::process::geteuid().as_raw() != 0 {
        return Ok(None);
    }
    let names = [Some(owner.uid.to_string()), name_of(&table("passwd")?, owner.uid)];
    let uids = rootless(&table("subuid")?, &names, owner.uid);
    let gids = rootless(&table("subgid")?, &names, owner.gid);
    match (uids, gids) {
        (Some(uids), Some(gids)) => Ok(Some(UserNamespace { uids, gids, is_rootless: true })),
        _ => Err(Error::UnknownIds { root: path.to_owned(), uid: owner.uid }),
    }
}

/// Reads a table in `/etc`; one that is not there says nothing.
fn table(name: &str) -> Result<String, FsError> {
    let path = Path::new("/etc").join(name);
    let mut text = Vec::new();
    // A container may have it mounted.
    if let Some(file) = FsError::found(fsx::open_input(&path))? {
        file.take(LIMIT).read_to_end(&mut text).map_err(|error| FsError::new("read", &path, error))?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Finds a user's name in the text of `passwd`.
fn name_of(passwd: &str, uid: u32) -> Option<String> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut found = fields.filter(|fields| fields.get(2).is_some_and(|field| field.parse() == Ok(uid)));
    found.next().and_then(|fields| Some((*fields.first()?).to_owned()))
}

/// Returns the ranges of `subuid`, each with its user, first ID and length, lowest first.
fn ranges(table: &str) -> Vec<(&str, u32, u32)> {
    let parse = |line: &'_ str| -> Option<(usize, u32, u32)> {
        let mut fields = line.split(':');
        let user = fields.next()?;
        Some((user.len(), fields.next()?.trim().parse().ok()?, fields.next()?.trim().parse().ok()?))
    };
    let mut ranges: Vec<_> = table
        .lines()
        .filter_map(|line| parse(line).map(|(end, first, length)| (&line[..end], first, length)))
        .collect();
    ranges.sort_by_key(|(_, first, _)| *first);
    ranges
}

/// Returns those of one user.
fn of<'r>(ranges: &'r [(&str, u32, u32)], name: &'r str) -> impl Iterator<Item = (u32, u32)> + 'r {
    ranges.iter().filter(move |(user, ..)| *user == name).map(|(_, first, length)| (*first, *length))
}

/// Lays ranges of host ids side by side, from this container id on.
fn laid(from: u32, ranges: impl Iterator<Item = (u32, u32)>) -> Vec<IdRange> {
    let mut container = from;
    let lay = |(host, length): (u32, u32)| {
        // No more ids than there are.
        let length = length.min(u32::MAX - container).min(u32::MAX - host);
        let range = IdRange { container, host, length };
        container += length;
        range
    };
    ranges.map(lay).collect()
}

/// Returns the ids of the user whose lowest range begins with `first`.
fn remapped(table: &str, first: u32) -> Vec<IdRange> {
    let all = ranges(table);
    let is_lowest = |name: &str| of(&all, name).next().is_some_and(|(lowest, _)| lowest == first);
    let user = all.iter().find(|(name, ..)| is_lowest(name));
    match user {
        Some((name, ..)) => laid(0, of(&all, name)),
        None => laid(0, [(first, USUAL_LENGTH)].into_iter()),
    }
}

/// Returns the ids of a user without root: his own, and those that a table gives him; `None` where it gives none.
fn rootless(table: &str, names: &[Option<String>], own: u32) -> Option<Vec<IdRange>> {
    let all = ranges(table);
    let is_his = |user: &str| names.iter().flatten().any(|name| name == user);
    let his: Vec<(u32, u32)> =
        all.iter().filter(|(user, ..)| is_his(user)).map(|(_, first, length)| (*first, *length)).collect();
    (!his.is_empty()).then(|| [vec![IdRange { container: 0, host: own, length: 1 }], laid(1, his.into_iter())].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBUID: &str = "other:1:5\nann:300000:10\nann:100000:65536\n1000:500000:20\nbad:x:1\n";

    fn range(container: u32, host: u32, length: u32) -> IdRange {
        IdRange { container, host, length }
    }

    #[test]
    fn ranges_of_a_remapped_root() {
        assert_eq!(remapped(SUBUID, 100_000), [range(0, 100_000, 65536), range(65536, 300_000, 10)]);
        assert_eq!(remapped(SUBUID, 300_000), [range(0, 300_000, 65536)]);
        assert_eq!(remapped("", 7), [range(0, 7, 65536)]);
        assert_eq!(remapped("x:4294967290:65536", u32::MAX - 5), [range(0, u32::MAX - 5, 5)]);
    }

    #[test]
    fn ranges_without_root() {
        let names = [Some("1000".to_owned()), name_of("root:x:0:0\nann:x:1000:1000:Ann\n", 1000)];
        let expected =
            [range(0, 1000, 1), range(1, 100_000, 65536), range(65537, 300_000, 10), range(65547, 500_000, 20)];
        assert_eq!(rootless(SUBUID, &names, 1000).expect("he has some"), expected);
        assert_eq!(rootless(SUBUID, &[Some("2".to_owned()), None], 2), None);
    }
}
