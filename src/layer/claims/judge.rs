//! Judges the differences that take a tar to prove.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::stack::{IMPLIED, Node, Questions, Rights, Stack, above};
use super::{
    Crc64, Difference, Entries, Entry, Expected, Kind, Links, Member, MemberKind, Prediction, Rules, Tars, Unproved,
    clean, hidden_by, is_mark, is_opaque_key, split,
};

/// Attributes of a user's that change what fuse-overlayfs and the kernel show of a tree.
const NOT_FREE: [&[u8]; 3] = [b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers."];

/// What something that marks a removal does to what lies below.
enum Mark {
    /// It hides this path.
    Whiteout(Vec<u8>),
    /// It hides all in this directory.
    Opaque(Vec<u8>),
}

/// Finds the lines that no tar proves.
pub(super) fn judge(rules: &Rules, lines: &[Difference], tars: &Tars<'_>) -> Result<Vec<Unproved>, String> {
    let questions = questions(rules, lines);
    let mut judge = Judge {
        rules,
        tars,
        questions: &questions,
        prediction: Prediction::new(rules.marks, None),
        own: Stack::new(&questions, rules.whole),
        below: OnceCell::new(),
        sums: HashMap::new(),
        whiteouts: BTreeSet::new(),
        opaque: BTreeSet::new(),
    };
    judge.read_own(lines)?;
    judge.read_marks(lines);
    let mut unproved = Vec::new();
    for line in lines {
        if let Err(reason) = judge.line(line)? {
            unproved.push(Unproved { path: line.path.0.clone(), reason });
        }
    }
    Ok(unproved)
}

/// Judgement of a line, or why a tar cannot be read.
type Judged = Result<Result<(), String>, String>;

const PROVED: Judged = Ok(Ok(()));

fn no(reason: impl Into<String>) -> Judged {
    Ok(Err(reason.into()))
}

struct Judge<'a, 't> {
    rules: &'a Rules,
    tars: &'a Tars<'t>,
    questions: &'a Questions,
    /// What the tars of those layers say of the paths that are named.
    prediction: Prediction,
    /// What the tars say of the layers whose nodes are in the tree.
    own: Stack<'a>,
    /// What the tars say of all layers below those.
    below: OnceCell<Stack<'a>>,
    /// Length and checksum of the files that are said to be one.
    sums: HashMap<Vec<u8>, (u64, Option<Crc64>)>,
    /// What the list says is removed.
    whiteouts: BTreeSet<Vec<u8>>,
    /// Directories that the list says are opaque.
    opaque: BTreeSet<Vec<u8>>,
}

fn questions(rules: &Rules, lines: &[Difference]) -> Questions {
    let mut questions = Questions::default();
    for line in lines {
        let path = rules.inner(&line.path.0).unwrap_or_default();
        questions.paths.insert(path.to_vec());
        match mark(rules, path, line) {
            Some(Mark::Whiteout(hidden)) => drop(questions.paths.insert(hidden)),
            Some(Mark::Opaque(directory)) => drop(questions.trees.insert(directory)),
            // Whether attributes make it opaque, or take that away.
            None if line.xattrs.is_some() && rules.marks != super::Marks::None => {
                questions.trees.insert(path.to_vec());
            }
            None => {}
        }
    }
    questions
}

/// Tells what a line marks as removed, or says is not.
fn mark(rules: &Rules, path: &[u8], line: &Difference) -> Option<Mark> {
    let (directory, name) = split(path);
    let join = |name: &[u8]| match directory.is_empty() {
        true => name.to_vec(),
        false => [directory, b"/", name].concat(),
    };
    match (line.make, line.gone) {
        (Some(Kind::File | Kind::Char), _) | (None, true) => {}
        _ => return None,
    }
    Some(match name.strip_prefix(b".wh.") {
        Some(b".wh..opq") => Mark::Opaque(directory.to_vec()),
        Some(b".opq") if line.make == Some(Kind::Char) => Mark::Opaque(directory.to_vec()),
        Some(hidden) if rules.marks == super::Marks::Files => Mark::Whiteout(join(hidden)),
        _ => Mark::Whiteout(path.to_vec()),
    })
}

impl<'a> Judge<'a, '_> {
    fn inner<'p>(&self, path: &'p [u8]) -> &'p [u8] {
        self.rules.inner(path).unwrap_or_default()
    }

    /// Reads the tars of the layers whose nodes are in the tree.
    fn read_own(&mut self, lines: &[Difference]) -> Result<(), String> {
        let mut wanted: HashSet<Vec<u8>> = lines.iter().map(|line| self.inner(&line.path.0).to_vec()).collect();
        let linked: BTreeSet<Vec<u8>> =
            lines.iter().filter_map(|line| self.rules.inner(&line.link.as_ref()?.0)).map(<[u8]>::to_vec).collect();
        wanted.extend(linked.iter().cloned());
        let mut targets = HashSet::new();
        for depth in 0..self.tars.own {
            self.tars.each(depth, &mut Links::default(), |member| {
                if let (MemberKind::HardLink(target), true) = (&member.kind, wanted.contains(&member.path)) {
                    targets.insert(target.clone());
                }
            })?;
        }
        wanted.extend(targets);
        let mut links = Links::default();
        for depth in (0..self.tars.own).rev() {
            let (own, prediction) = (&mut self.own, &mut self.prediction);
            own.next_layer();
            if !self.rules.whole {
                links = Links::default();
            }
            self.tars.each(depth, &mut links, |member| {
                own.add(member);
                if concerns(member, &wanted, self.rules) {
                    prediction.add(member);
                }
            })?;
        }
        if !linked.is_empty() {
            self.read_sums(&linked, lines)?;
        }
        match self.own.is_whole() {
            true => Ok(()),
            false => Err("its list of differences asks for too much of its tar".to_owned()),
        }
    }

    fn read_sums(&mut self, linked: &BTreeSet<Vec<u8>>, lines: &[Difference]) -> Result<(), String> {
        let links = lines.iter().filter(|line| line.link.is_some()).map(|line| self.inner(&line.path.0).to_vec());
        let asked: HashSet<Vec<u8>> = links.chain(linked.iter().cloned()).collect();
        for depth in (0..self.tars.own).rev() {
            for entry in Entries::new((self.tars.open)(depth)?) {
                if let Entry::File { name, size, crc } = entry.map_err(|error| error.to_string())?
                    && let Ok(path) = clean(&name)
                    && asked.contains(&path)
                {
                    self.sums.insert(path, (size, crc));
                }
            }
        }
        Ok(())
    }

    /// Notes what the list says is removed: one line may say it in the place of another.
    fn read_marks(&mut self, lines: &[Difference]) {
        for line in lines {
            let path = self.inner(&line.path.0).to_vec();
            match mark(self.rules, &path, line) {
                _ if line.gone => {}
                // One that is not proved takes the place of nothing.
                Some(_) if line.link.is_some() || !matches!(mark_rights(line), Ok(Ok(()))) => {}
                Some(Mark::Whiteout(hidden)) => drop(self.whiteouts.insert(hidden)),
                Some(Mark::Opaque(directory)) => drop(self.opaque.insert(directory)),
                None if line.xattrs.iter().flatten().any(|(key, _)| is_opaque_key(key.as_bytes())) => {
                    self.opaque.insert(path);
                }
                None => {}
            }
        }
    }

    /// Returns what lies below the tree.
    fn below(&self) -> Result<&Stack<'a>, String> {
        if let Some(below) = self.below.get() {
            return Ok(below);
        }
        let mut below = Stack::new(self.questions, false);
        for depth in (self.tars.own..self.tars.layers).rev() {
            below.next_layer();
            self.tars.each(depth, &mut Links::default(), |member| below.add(member))?;
        }
        match below.is_whole() {
            true => Ok(self.below.get_or_init(|| below)),
            false => Err("its list of differences asks for too much of what lies below".to_owned()),
        }
    }

    fn line(&self, line: &Difference) -> Judged {
        let path = self.inner(&line.path.0);
        if above(path).any(|above| self.own.get(above) == Some(&Node::Other)) {
            return no("it lies in what is no directory");
        }
        if line.gone {
            return self.gone(path, line);
        }
        let node = self.prediction.get(path);
        let rights = match (&node, line.make) {
            _ if path.is_empty() => root(node.as_ref(), line),
            (Some(node), Some(kind)) if node.kind != Some(kind) => no("its tar has something else there"),
            (Some(node), _) if node.whiteout || is_mark(path) => mark_rights(line),
            // Of a directory that is only opaque the tar does not say more.
            (Some(node), _) if node.kind == Some(Kind::Directory) && node.mtime.is_none() => self.directory(path, line),
            (Some(node), _) => tar_rights(node, line),
            (None, Some(Kind::Directory)) => self.directory(path, line),
            (None, Some(kind @ (Kind::Char | Kind::File))) => self.mark(path, kind, line),
            (None, Some(_)) => no("only directories and whiteouts are made"),
            (None, None) => self.inherited(path, line),
        };
        if !matches!(rights, PROVED) {
            return rights;
        }
        let attributes = self.xattrs(path, line, node.as_ref());
        match (&line.link, attributes) {
            (Some(first), PROVED) => Ok(self.link(path, self.rules.inner(&first.0))),
            (_, attributes) => attributes,
        }
    }

    /// A node of which the layer's tar does not know.
    fn inherited(&self, path: &[u8], line: &Difference) -> Judged {
        if line.mode.is_some() || line.owner.is_some() || line.xattrs.is_some() {
            return no("mode, owner and attributes of a node that its tar does not have");
        }
        // What BuildKit makes begins as a copy of what it made below.
        let is_known = self.own.get(path).is_some()
            || self.prediction.link_below(path).is_some()
            || self.tars.own > 1 && self.below()?.get(path).is_some();
        if is_known { PROVED } else { no("neither its tar nor those below it have that") }
    }

    /// A directory that the layer's tar does not have.
    fn directory(&self, path: &[u8], line: &Difference) -> Judged {
        let claimed: Rights = (line.mode.unwrap_or(0o755), line.owner.unwrap_or_default());
        let says_nothing = line.mode.is_none() && line.owner.is_none();
        let is_implied = match self.own.get(path) {
            Some(Node::Directory(rights)) if self.rules.whole => {
                let is_proved = says_nothing || rights.contains(&claimed);
                return if is_proved { PROVED } else { no(format!("{}, which no tar says", shown(claimed))) };
            }
            Some(Node::Directory(_)) => true,
            _ => false,
        };
        if is_implied && IMPLIED.contains(&claimed) {
            return PROVED;
        }
        let is_narrow = claimed.0 & !0o755 == 0 && claimed.1 == (0, 0);
        match self.below()?.get(path) {
            Some(Node::Directory(rights)) if rights.contains(&claimed) => PROVED,
            None if self.rules.in_place && is_narrow => PROVED,
            None => no("a directory that neither its tar nor those below it have"),
            Some(_) => no(format!("{}, which the layers below do not say", shown(claimed))),
        }
    }

    /// A whiteout that the layer's tar does not have, or has in another form.
    fn mark(&self, path: &[u8], kind: Kind, line: &Difference) -> Judged {
        if !self.rules.mounted || kind == Kind::File && !is_mark(path) {
            return no("a whiteout that its tar does not have");
        }
        if line.link.is_some() {
            return no("a whiteout is no link");
        }
        let proved = match mark(self.rules, path, line) {
            Some(Mark::Whiteout(hidden)) => self.own.hides(&hidden) || !self.below()?.has_at(&hidden),
            Some(Mark::Opaque(directory)) => self.is_opaque(&directory)?,
            None => false,
        };
        if proved { mark_rights(line) } else { no("it hides what lies below, and its tar does not") }
    }

    /// Tells whether nothing that lies below shows in a directory by what the tars say.
    fn is_opaque(&self, directory: &[u8]) -> Result<bool, String> {
        if self.own.is_opaque(directory) {
            return Ok(true);
        }
        let is_own = |path: &[u8], node: &Node| {
            self.own.hides(path) || matches!((node, self.own.get(path)), (Node::Directory(_), Some(Node::Directory(_))))
        };
        Ok(self.below()?.below(directory).all(|(path, node)| is_own(path, node)))
    }

    /// Tells whether all that lies below a directory is hidden name by name, by whiteouts of the list or by nodes of the
    /// tar, so that the directory need not be opaque. A daemon that cannot set the mark unpacks layers so.
    fn is_emptied(&self, directory: &[u8]) -> Result<bool, String> {
        let is_other = |at: &[u8]| self.own.get(at) == Some(&Node::Other);
        let is_covered = |at: &[u8]| self.rules.mounted && self.whiteouts.contains(at) || is_other(at);
        let is_hidden = |path: &[u8], node: &Node| {
            is_covered(path)
                || above(path).any(is_covered)
                || matches!((node, self.own.get(path)), (Node::Directory(_), Some(Node::Directory(_))))
        };
        Ok(self.below()?.below(directory).all(|(path, node)| is_hidden(path, node)))
    }

    /// A whiteout of the tar, or of the tree that this one began as, that is not there.
    fn gone(&self, path: &[u8], line: &Difference) -> Judged {
        if path.is_empty() || self.own.get(path).is_some() {
            return no("it is no whiteout");
        }
        let mut is_covered = false;
        match mark(self.rules, path, line) {
            Some(Mark::Whiteout(hidden)) => {
                is_covered |= self.rules.mounted && self.whiteouts.contains(&hidden);
                for above in above(&hidden) {
                    is_covered = is_covered || self.opaque.contains(above) && self.is_opaque(above)?;
                }
                is_covered = is_covered || !self.below()?.has_at(&hidden);
            }
            Some(Mark::Opaque(directory)) => {
                is_covered |= self.opaque.contains(&directory) && self.is_opaque(&directory)?;
                is_covered = is_covered || self.below()?.below(&directory).next().is_none();
            }
            None => {}
        }
        if is_covered { PROVED } else { no("a whiteout of its tar is not there, and what it hides shows") }
    }

    fn link(&self, path: &[u8], first: Option<&[u8]>) -> Result<(), String> {
        let alike = || {
            let first = first.filter(|first| *first != path)?;
            let (one, other) = (self.prediction.get(path)?, self.prediction.get(first)?);
            let facts = |node: &Expected| (node.kind, node.mode, node.owner, node.size, node.device, node.whiteout);
            let is_same = one.kind != Some(Kind::Directory)
                && facts(&one) == facts(&other)
                && (one.xattrs == other.xattrs && one.target == other.target)
                && self.sums.get(path) == self.sums.get(first);
            is_same.then_some(())
        };
        alike().ok_or_else(|| "one file with two names, which its tar has as two that are not alike".to_owned())
    }

    fn xattrs(&self, path: &[u8], line: &Difference, node: Option<&Expected>) -> Judged {
        let Some(said) = &line.xattrs else { return PROVED };
        let nothing = BTreeMap::new();
        let expected = node.map_or(&nothing, |node| &node.xattrs);
        let name = |key: &[u8]| key.escape_ascii().to_string();
        for (key, value) in said {
            let (key, value) = (key.as_bytes(), BASE64_STANDARD.decode(value).map_err(|error| error.to_string())?);
            let is_proved = if expected.get(key) == Some(&value) || self.is_free(key) {
                true
            } else {
                is_opaque_key(key) && value == b"y" && self.rules.marks != super::Marks::None && self.is_opaque(path)?
            };
            if !is_proved {
                return no(format!("the attribute {}, which its tar does not say", name(key)));
            }
        }
        let is_plain = node.is_some_and(|node| matches!(node.kind, Some(Kind::File | Kind::Directory)));
        for (key, value) in expected.iter().filter(|(key, _)| !said.contains_key(&name(key))) {
            let is_proved = value.is_empty()
                || key.starts_with(b"user.") && !is_plain
                || key == b"security.selinux"
                || is_opaque_key(key)
                    && (self.opaque.contains(path) && self.is_opaque(path)? || self.is_emptied(path)?);
            if !is_proved {
                return no(format!("no attribute {}, which its tar says", name(key)));
            }
        }
        PROVED
    }

    /// Tells whether an attribute is one that trees made in place have and tars of them do not, and that changes nothing.
    fn is_free(&self, key: &[u8]) -> bool {
        let is_origin = key == b"user.fuseoverlayfs.origin" && self.rules.mounted;
        let is_plain = key.starts_with(b"user.") && !NOT_FREE.iter().any(|prefix| key.starts_with(prefix));
        self.rules.in_place && (is_plain || is_origin)
    }
}

/// Tells whether a member says something of a path that is wanted.
fn concerns(member: &Member, wanted: &HashSet<Vec<u8>>, rules: &Rules) -> bool {
    let target = match &member.kind {
        MemberKind::HardLink(target) => wanted.contains(target),
        _ => false,
    };
    let marked = || {
        hidden_by(&member.path, rules.marks).is_some_and(|hidden| wanted.contains(&hidden))
            || split(&member.path).1 == b".wh..wh..opq" && wanted.contains(split(&member.path).0)
    };
    target || wanted.contains(&member.path) || marked()
}

/// The root of the tree: tars seldom have it, and not all engines use what they say.
fn root(node: Option<&Expected>, line: &Difference) -> Judged {
    if line.make.is_some() || line.link.is_some() {
        return no("it is the root of the tree");
    }
    let is_expected = |mode: u32| node.is_some_and(|node| node.mode == mode);
    let wide = line.mode.filter(|mode| mode & !0o755 != 0 && !is_expected(*mode));
    let foreign = line.owner.filter(|owner| *owner != (0, 0) && node.is_none_or(|node| node.owner != *owner));
    match (wide, foreign) {
        (None, None) => PROVED,
        (Some(mode), _) => no(format!("mode {mode:o}, which no tar says")),
        (None, Some((uid, gid))) => no(format!("owner {uid}:{gid}, which no tar says")),
    }
}

/// A node that the tar has.
fn tar_rights(node: &Expected, line: &Difference) -> Judged {
    if let Some(mode) = line.mode.filter(|mode| *mode != node.mode) {
        return no(format!("mode {mode:o}, and its tar says {:o}", node.mode));
    }
    match line.owner.filter(|owner| *owner != node.owner) {
        Some((uid, gid)) => no(format!("owner {uid}:{gid}, and its tar says {}:{}", node.owner.0, node.owner.1)),
        None => PROVED,
    }
}

/// A whiteout: nobody has rights in it.
fn mark_rights(line: &Difference) -> Judged {
    match line.mode.is_some_and(|mode| mode & !0o777 != 0) {
        true => no("a whiteout has no such mode"),
        false => PROVED,
    }
}

fn shown((mode, (uid, gid)): Rights) -> String {
    format!("mode {mode:o}, owner {uid}:{gid}")
}
