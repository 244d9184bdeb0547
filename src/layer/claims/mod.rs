//! Which differences are proved.
//!
//! The tar of a layer is proved by its diff ID; the list of differences that goes with it by nothing. So a difference
//! may say only what makes no difference to whoever uses the image, or what the tars of the layer and of those below it
//! bear out:
//!
//! | a difference may | because |
//! |---|---|
//! | change times | nobody's rights depend on them |
//! | give `user.` attributes, in trees that BuildKit made in place | BuildKit's tar does not have them |
//! | leave out empty attributes, and `user.` of links and devices | Docker 20.10 sets no empty ones, kernels take `user.` for files and directories |
//! | make a directory that the tar only implies | with the mode that Docker gives it, and root's |
//! | make a directory that the tar does not have | with mode and owner of the one below; where there is none, root's and no wider than 0755 |
//! | make two names of one file | where the tar has both, alike in all |
//! | make a whiteout, where layers are written through a mount | the tar has it in another form, or nothing lies below |
//! | take a whiteout away | the list has it in another form, or nothing lies below |
//! | make a directory opaque | the tar hides all that lies below it |
//! | leave a directory of the tar's not opaque | whiteouts of the list hide all that lies below it, or nothing does |
//! | narrow the mode of the tree's root | tars do not have it |
//! | say of the files around the tree what engines make of them | they are the driver's, and root's |
//!
//! Mode and owner of a node that the tar has are what the tar says.

mod judge;
mod stack;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Read;

use super::apply::{Marks, split};
use super::differences::{Difference, Expected, Prediction, is_mark};
use super::follow::follow;
use super::member::{Content, Member, MemberKind, Members, TarError, clean};
use crate::error::ParseError;
use crate::fsx::Kind;
use crate::tarsplit::{Crc64, Entries, Entry, Segments};

use judge::judge;

/// Most bytes of lists of one layer: of a million lines that only change times.
pub(crate) const LIST_LIMIT: u64 = 64 << 20;

/// Most bytes of symbolic links that are kept of a tar.
const LINKS_LIMIT: usize = 16 << 20;

/// Most bytes of paths in one list of differences that change more than times.
const CLAIMS_LIMIT: usize = 16 << 20;

/// How a layer's directory came to be, and what is in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Name of the tree in the driver directory; empty where that is the tree.
    pub(crate) tree: &'static str,
    /// How the tree says that something is removed.
    pub(crate) marks: Marks,
    /// The tree began as the one below: it has nodes of which the layer's tar does not know.
    pub(crate) whole: bool,
    /// BuildKit made the tree in place, and the tar of it.
    pub(crate) in_place: bool,
    /// The tree may have been written through a mount, which marks what is removed in its own way.
    pub(crate) mounted: bool,
}

/// The tars of a layer and of all below it, as far as tar-split has them.
pub(crate) struct Tars<'a> {
    /// Number of layers.
    pub(crate) layers: usize,
    /// How many of them, from the top, are in the layer's tree, which lies on that of the next.
    pub(crate) own: usize,
    /// Opens a compressed tar-split; 0 is that of the layer itself.
    pub(crate) open: &'a dyn Fn(usize) -> Result<Box<dyn Read + 'a>, String>,
}

impl Tars<'_> {
    /// Hands each member of a tar to `take`, with the path that it is unpacked to; `links` are those in the tree.
    fn each(&self, depth: usize, links: &mut Links, mut take: impl FnMut(&Member)) -> Result<(), String> {
        let text = |error: TarError| format!("the headers of a tar: {error}");
        let split = (self.open)(depth)?;
        let mut members = Members::new(Segments::new(Entries::new(split)), Content::Elided);
        while let Some(member) = members.next_member().map_err(text)? {
            let member = links.resolved(member);
            take(&member);
            links.add(&member);
        }
        Ok(())
    }
}

/// Symbolic links of tars: unpacking goes through those within the layer.
#[derive(Default)]
struct Links {
    links: HashMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
}

impl Links {
    /// Returns a member with the path that it is unpacked to.
    fn resolved(&self, mut member: Member) -> Member {
        if !self.links.is_empty() {
            member.path = self.reached(&member.path);
            if let MemberKind::HardLink(target) = &mut member.kind {
                *target = self.reached(target);
            }
        }
        member
    }

    fn reached(&self, path: &[u8]) -> Vec<u8> {
        let (above, name) = split(path);
        if above.is_empty() || !stack::above(path).any(|above| self.links.contains_key(above)) {
            return path.to_vec();
        }
        let Ok(reached) = follow(above, |at| Ok::<_, Infallible>(self.links.get(at).cloned()));
        if reached.path.is_empty() { name.to_vec() } else { [&reached.path[..], b"/", name].concat() }
    }

    /// Takes the next member. Of more links than there is room for the others are none: what lies behind them is not known.
    fn add(&mut self, member: &Member) {
        match &member.kind {
            MemberKind::Symlink(target) if self.bytes < LINKS_LIMIT => {
                self.bytes += member.path.len() + target.len() + 128;
                self.links.insert(member.path.clone(), target.clone());
            }
            _ if self.links.is_empty() => {}
            _ => {
                self.links.remove(&member.path);
                if let Some(hidden) = hidden_by(&member.path, Marks::Overlayfs) {
                    self.links.remove(&hidden);
                }
            }
        }
    }
}

/// A difference that is not proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unproved {
    /// Its path below the driver directory.
    pub(crate) path: Vec<u8>,
    /// What it says that nothing proves.
    pub(crate) reason: String,
}

impl std::fmt::Display for Unproved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "its list of differences: {}: {}", self.path.escape_ascii(), self.reason)
    }
}

/// Finds the differences of a layer that its tar, and those below it, do not prove. `list` begins the list anew each time.
///
/// # Errors
/// In words, why the list or a tar-split cannot be read.
pub(crate) fn unproved<I>(
    rules: &Rules,
    list: &dyn Fn() -> Result<I, String>,
    tars: &Tars<'_>,
) -> Result<Vec<Unproved>, String>
where
    I: Iterator<Item = Result<Difference, ParseError>>,
{
    let hasher = RandomState::new();
    let inner = |path: &[u8]| rules.inner(path).map(<[u8]>::to_vec);
    let (mut claims, mut timed, mut found) = (Claims::default(), HashSet::new(), Vec::new());
    for line in list()? {
        let line = line.map_err(|error| error.to_string())?;
        if line.mtime.is_some_and(|time| time.nanos >= 1_000_000_000) {
            found.push(Unproved { path: line.path.0, reason: "there is no such time".to_owned() });
            continue;
        }
        match inner(&line.path.0) {
            _ if !is_inside(&line.path.0) => {
                let reason = "it names nothing in the layer".to_owned();
                found.push(Unproved { path: line.path.0, reason });
            }
            None => found.extend(rules.around(&line).err().map(|reason| Unproved { path: line.path.0, reason })),
            Some(path) if !path.is_empty() && is_time_only(&line) => drop(timed.insert(hasher.hash_one(&path))),
            Some(_) => claims.add(line)?,
        }
    }
    if !timed.is_empty() {
        tars.each(0, &mut Links::default(), |member| {
            timed.remove(&hasher.hash_one(&member.path));
            for above in stack::above(&member.path) {
                timed.remove(&hasher.hash_one(above));
            }
            if let Some(hidden) = hidden_by(&member.path, rules.marks) {
                timed.remove(&hasher.hash_one(hidden));
            }
        })?;
    }
    if !timed.is_empty() {
        for line in list()? {
            let line = line.map_err(|error| error.to_string())?;
            if inner(&line.path.0).is_some_and(|path| timed.contains(&hasher.hash_one(path))) && is_time_only(&line) {
                claims.add(line)?;
            }
        }
    }
    if !claims.lines.is_empty() {
        found.extend(judge(rules, &claims.lines, tars)?);
    }
    Ok(found)
}

/// The lines that take a tar to prove.
#[derive(Default)]
struct Claims {
    lines: Vec<Difference>,
    bytes: usize,
}

impl Claims {
    fn add(&mut self, line: Difference) -> Result<(), String> {
        let xattrs = line.xattrs.iter().flatten().map(|(key, value)| key.len() + value.len() + 64).sum::<usize>();
        self.bytes += line.path.0.len() + line.link.as_ref().map_or(0, |link| link.0.len()) + xattrs + 64;
        if self.bytes > CLAIMS_LIMIT {
            return Err(format!("its list of differences changes more than times in over {CLAIMS_LIMIT} bytes"));
        }
        self.lines.push(line);
        Ok(())
    }
}

/// Tells whether a path leads to nothing but what is below the driver directory.
fn is_inside(path: &[u8]) -> bool {
    path.is_empty()
        || !path.contains(&0) && path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// Tells whether a difference says nothing but a time.
pub(crate) fn is_time_only(line: &Difference) -> bool {
    *line == Difference { path: line.path.clone(), mtime: line.mtime, ..Difference::default() }
}

/// Returns the path of the whiteout that a member of a tar becomes.
fn hidden_by(path: &[u8], marks: Marks) -> Option<Vec<u8>> {
    let (above, name) = split(path);
    let name = name.strip_prefix(b".wh.").filter(|_| marks == Marks::Overlayfs)?;
    Some(if above.is_empty() { name.to_vec() } else { [above, b"/", name].concat() })
}

impl Rules {
    /// Returns the path below the tree's root of a path below the driver directory; `None` of what is around the tree.
    pub(crate) fn inner<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        if self.tree.is_empty() {
            return Some(path);
        }
        match path.strip_prefix(self.tree.as_bytes())? {
            b"" => Some(b""),
            rest => rest.strip_prefix(b"/"),
        }
    }

    /// Judges a difference of what the driver keeps around the tree.
    fn around(&self, line: &Difference) -> Result<(), String> {
        let (path, kind) = (&line.path.0[..], line.make);
        let most = match path {
            b"" | b"work" | b"merged" => 0o755,
            b"link" | b"lower" | b"lower-id" | b"committed" => 0o644,
            // The kernel's own, empty but for what it left there.
            path if path.starts_with(b"work/") => 0o755,
            _ => return Err("the driver keeps no such thing".to_owned()),
        };
        let may_make = path == b"merged" && kind == Some(Kind::Directory) || path.starts_with(b"work/");
        if kind.is_some() && !may_make || line.gone || line.link.is_some() {
            return Err("it is the driver's to make".to_owned());
        }
        if line.owner.is_some() || line.mode.is_some_and(|mode| mode & !most != 0) {
            return Err("mode and owner are the driver's to give".to_owned());
        }
        let is_opaque = |key: &String| path.starts_with(b"work/") && is_opaque_key(key.as_bytes());
        match line.xattrs.iter().flatten().all(|(key, _)| is_opaque(key)) {
            true => Ok(()),
            false => Err("attributes are the driver's to give".to_owned()),
        }
    }
}

/// Tells whether an attribute makes a directory opaque.
fn is_opaque_key(key: &[u8]) -> bool {
    matches!(key, b"trusted.overlay.opaque" | b"user.overlay.opaque" | b"user.fuseoverlayfs.opaque")
}
