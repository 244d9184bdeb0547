//! Where a path leads in a layer's tree some of whose directories are symbolic links.

/// Most links that are followed on the way, as in the kernel.
const LINKS_LIMIT: u32 = 40;

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reached {
    /// The path without links.
    pub(super) path: Vec<u8>,
    /// It leads there past the root: as if the layer's root were `/`, what is above it is the root again.
    pub(super) past_root: bool,
}

/// Follows the links on a path, and one that it ends at. `link_at` gives what the link at a path says, and nothing where
/// there is none. A path whose links go round in a circle leads nowhere, and stays as it is.
///
/// # Errors
/// Those of `link_at`.
pub(super) fn follow<E>(
    path: &[u8],
    mut link_at: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, E>,
) -> Result<Reached, E> {
    let parts = |path: &[u8]| path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (mut left, mut reached, mut followed, mut past_root) = (parts(path), Vec::new(), 0, false);
    while let Some(part) = left.pop() {
        let before = reached.len();
        match &part[..] {
            b"" | b"." => continue,
            b".." => {
                past_root |= reached.is_empty();
                reached.truncate(reached.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                continue;
            }
            part if before == 0 => reached.extend(part),
            part => reached.extend([b"/", part].concat()),
        }
        let Some(target) = link_at(&reached)? else { continue };
        followed += 1;
        if followed > LINKS_LIMIT {
            return Ok(Reached { path: path.to_vec(), past_root });
        }
        reached.truncate(if target.starts_with(b"/") { 0 } else { before });
        left.extend(parts(&target));
    }
    Ok(Reached { path: reached, past_root })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn paths_lead_where_the_kernel_finds_them() {
        let links: [(&[u8], &[u8]); 6] = [
            (b"lib", b"usr/lib"),
            (b"usr/lib/up", b"../../../../etc"),
            (b"usr/abs", b"/opt/./x//"),
            (b"opt/x", b"y"),
            (b"round", b"about"),
            (b"about", b"./round"),
        ];
        let link_at = |path: &[u8]| {
            let found = links.iter().find(|(at, _)| *at == path);
            Ok::<_, Infallible>(found.map(|(_, target)| target.to_vec()))
        };
        for (path, reached, past_root) in [
            ("", "", false),
            ("a/b", "a/b", false),
            ("lib/c", "usr/lib/c", false),
            ("lib/up/passwd", "etc/passwd", true),
            ("usr/abs", "opt/y", false),
            ("usr/abs/z", "opt/y/z", false),
            ("round/x", "round/x", false),
        ] {
            let Ok(found) = follow(path.as_bytes(), link_at);
            assert_eq!(found, Reached { path: reached.as_bytes().to_vec(), past_root }, "{path}");
        }
    }
}
