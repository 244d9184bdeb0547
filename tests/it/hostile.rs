//! Archives that somebody made to do harm. Their outer form is right, headers and digests, so that they get as far as
//! they can. Nothing outside the target is touched; what is refused leaves the target as it was.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::archive::{Draft, Entry, Layer, Members, blob, gzip, member_header, seal, small, tar_of};
use crate::support::command::{Outcome, load, run, save, try_load};
use crate::support::store::{Contents, memory_dir, names, sha256};
use crate::support::tree::{Allow, Tree, Untouched, assert_same};

/// What becomes of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Refused,
    /// It is loaded, and all it brings stays in its place.
    Harmless,
}
use Verdict::{Harmless, Refused};

/// A target with things around it that nothing may touch.
struct Trap {
    temp: tempfile::TempDir,
    around: Untouched,
}

/// What the target holds before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// The images of [`small`].
    Images,
}

impl Trap {
    fn new(driver: &str, before: Before) -> Self {
        let temp = memory_dir();
        let at = |name: &str| temp.path().join(name);
        for dir in ["outside/dir/inner", "target"] {
            fs::create_dir_all(at(dir)).expect("directories");
        }
        for name in ["outside/secret", "outside/dir/secret", "outside/dir/inner/secret"] {
            fs::write(at(name), "secret").expect("a file");
        }
        symlink("dir", at("outside/link")).expect("a link");
        if before == Before::Images {
            fs::write(at("small.tar"), Draft { driver: driver.to_owned(), ..small() }.tar()).expect("written");
            let _ = load(&at("target"), &at("small.tar"), &[]);
        }
        Self { around: Untouched::note(&at("outside")), temp }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn target(&self) -> PathBuf {
        self.at("target")
    }

    fn load(&self, archive: &[u8]) -> Outcome {
        fs::write(self.at("archive"), archive).expect("written");
        let outcome = try_load(&self.target(), &self.at("archive"), &[]);
        self.around.assert();
        let beside = names(self.temp.path());
        assert!(
            beside.iter().all(|name| ["archive", "outside", "small.tar", "target"].contains(&&name[..])),
            "{beside:?}"
        );
        outcome
    }
}

/// Puts the absolute path of the directory that nothing may touch in place of `OUTSIDE`, and a way up to it in
/// place of `UP`, as long as it may be.
fn expand(text: &[u8], outside: &Path) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    text.replace("OUTSIDE", outside.to_str().expect("text")).into_bytes()
}

/// Loads an archive into targets of both drivers, empty and not.
#[track_caller]
pub(crate) fn each_target(what: &str, verdict: Verdict, archive: impl Fn(&str, &Path) -> Vec<u8>) {
    for driver in ["overlay2", "overlay"] {
        for before in [Before::Nothing, Before::Images] {
            let trap = Trap::new(driver, before);
            let what = format!("{what}, {driver}, {before:?}");
            let target = Untouched::note(&trap.target());
            let outcome = trap.load(&archive(driver, &trap.at("outside")));
            match verdict {
                Refused => {
                    assert_eq!(outcome.status.code(), Some(1), "{what}: {} {}", outcome.status, outcome.stderr);
                    assert!(outcome.stderr.starts_with("dockpack: "), "{what}: {}", outcome.stderr);
                    assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
                    assert!(outcome.stderr.chars().all(|letter| letter == '\n' || !letter.is_control()), "{what}");
                    target.assert_restored();
                }
                Harmless => {
                    assert!(outcome.status.success(), "{what}: {} {}", outcome.status, outcome.stderr);
                    // It is whole, and can be loaded again and saved.
                    let _ = Contents::read(&trap.target(), driver);
                    let _ = load(&trap.target(), &trap.at("archive"), &[]);
                    let _ = run(&trap.target(), ["ls", "-a"]).done();
                    trap.around.assert();
                }
            }
        }
    }
}

/// An image of one layer with these members; `OUTSIDE` in names is the path to what nothing may touch.
#[track_caller]
fn layer(what: &str, verdict: Verdict, entries: &[Entry]) {
    each_target(what, verdict, |driver, outside| {
        let expanded = entries.iter().map(|entry| Entry {
            name: expand(&entry.name, outside),
            link: expand(&entry.link, outside),
            ..entry.clone()
        });
        Draft { driver: driver.to_owned(), ..Draft::single(Layer::new("evil", expanded)) }.tar()
    });
}

/// An image of two layers: what is in the lower one is there when the upper one is unpacked.
#[track_caller]
fn layers(what: &str, verdict: Verdict, below: &[Entry], above: &[Entry]) {
    each_target(what, verdict, |driver, outside| {
        let expanded = |entries: &[Entry]| -> Vec<Entry> {
            let one = |entry: &Entry| Entry {
                name: expand(&entry.name, outside),
                link: expand(&entry.link, outside),
                ..entry.clone()
            };
            entries.iter().map(one).collect()
        };
        let layers = vec![Layer::new("below", expanded(below)), Layer::new("above", expanded(above))];
        Draft { driver: driver.to_owned(), ..Draft::new([("evil:1", layers)]) }.tar()
    });
}

#[test]
fn names_that_lead_out() {
    for name in
        ["../x", "..", "a/../../x", "./../x", "a/b/../../../x", "../../../../outside/secret", "../outside/secret"]
    {
        layer(name, Refused, &[Entry::file(name, "x")]);
        layer(name, Refused, &[Entry::dir(name)]);
        layer(name, Refused, &[Entry::symlink(name, "x")]);
        layer(name, Refused, &[Entry::device(name, 1, 3)]);
    }
    // As Docker, which takes a leading slash for the layer's root.
    for name in ["/x", "//x", "/../x", "/a/../../x", "OUTSIDE/secret", "OUTSIDE/dir/new"] {
        layer(name, Harmless, &[Entry::file(name, "x")]);
    }
    for name in ["..\0x", "../x\0"] {
        layer(name, Refused, &[Entry::file(name, "x")]);
        layer(name, Refused, &[Entry::file("name", "x").record("path", name)]);
    }
    for name in ["../x", "a/../../x", "../../../../outside/secret"] {
        layer(name, Refused, &[Entry::file("name", "x").record("path", name)]);
    }
}

#[test]
fn names_that_are_none() {
    layer("no name", Harmless, &[Entry::file("", "x")]);
    layer("the root as a file", Harmless, &[Entry::file("./", "x"), Entry::file(".", "y")]);
    layer("the root as a link", Harmless, &[Entry::symlink("./", "OUTSIDE"), Entry::file("secret", "x")]);
    layer("too long", Refused, &[Entry::file("x", "x").record("path", "n".repeat(256))]);
    let deep = "d/".repeat(3000);
    layer("too deep", Refused, &[Entry::file("x", "x").record("path", format!("{deep}file"))]);
}

#[test]
fn links_in_the_same_layer() {
    let out = Entry::symlink("link", "OUTSIDE");
    // As in Docker 28, the link leads to a directory of this path within the layer, which is made.
    layer("a file", Harmless, &[out.clone(), Entry::file("link/new", "x")]);
    layer("a file that is there", Harmless, &[out.clone(), Entry::file("link/secret", "x")]);
    layer("a directory", Harmless, &[out.clone(), Entry::dir("link/dir").mode(0o777)]);
    layer("a whiteout", Harmless, &[out.clone(), Entry::file("link/.wh.secret", "")]);
    layer("an opaque marker", Harmless, &[out.clone(), Entry::file("link/.wh..wh..opq", "")]);
    layer("a hard link to", Refused, &[out.clone(), Entry::hard_link("mine", "link/secret")]);
    layer("a hard link in", Harmless, &[out.clone(), Entry::file("x", "x"), Entry::hard_link("link/x", "x")]);
    layer("a device", Harmless, &[out.clone(), Entry::device("link/null", 1, 3)]);
    layer("over itself", Harmless, &[out.clone(), Entry::dir("link/"), Entry::file("link/secret", "x")]);
    layer("a file in its place", Harmless, &[out.clone(), Entry::file("link", "x").mode(0o4777)]);
    layer("relative", Refused, &[Entry::symlink("link", "../../../../../../outside"), Entry::file("link/new", "x")]);
    layer(
        "through two",
        Harmless,
        &[Entry::symlink("one", "two"), Entry::symlink("two", "OUTSIDE"), Entry::file("one/new", "x")],
    );
    layer("through /proc", Harmless, &[Entry::symlink("self", "/proc/self/root"), Entry::file("self/tmp/x", "x")]);
    layer("a circle", Refused, &[Entry::symlink("a", "b"), Entry::symlink("b", "a"), Entry::file("a/x", "x")]);
    // Within the layer a link is followed, as Docker follows it.
    layer("to the root", Harmless, &[Entry::symlink("link", "/"), Entry::file("link/new", "x")]);
    layer(
        "to a directory",
        Harmless,
        &[Entry::dir("real/"), Entry::symlink("link", "/real"), Entry::file("link/new", "x")],
    );
}

#[test]
fn links_in_the_layer_below() {
    // With overlay the upper layer begins as a copy of the lower one. With overlay2 it begins empty.
    let below = [Entry::symlink("link", "OUTSIDE"), Entry::symlink("file", "OUTSIDE/secret")];
    for entry in [
        Entry::file("link/new", "x"),
        Entry::file("link/secret", "x"),
        Entry::dir("link/dir").mode(0o777),
        Entry::file("link/.wh.secret", ""),
        Entry::file("link/.wh.dir", ""),
        Entry::file("link/.wh..wh..opq", ""),
        Entry::hard_link("mine", "link/secret"),
    ] {
        let what = entry.name.escape_ascii().to_string();
        either(&what, &below, &[entry]);
    }
    layers("in its place", Harmless, &below, &[Entry::file("file", "x").mode(0o777), Entry::dir("link/")]);
    layers("removed", Harmless, &below, &[Entry::file(".wh.file", ""), Entry::file(".wh.link", "")]);
    layers("opaque", Harmless, &below, &[Entry::file(".wh..wh..opq", "")]);
}

/// Loads or not: nothing outside is touched in any case.
#[track_caller]
fn either(what: &str, below: &[Entry], above: &[Entry]) {
    for driver in ["overlay2", "overlay"] {
        let trap = Trap::new(driver, Before::Nothing);
        let one = |entry: &Entry| Entry {
            name: expand(&entry.name, &trap.at("outside")),
            link: expand(&entry.link, &trap.at("outside")),
            ..entry.clone()
        };
        let layers = vec![Layer::new("below", below.iter().map(one)), Layer::new("above", above.iter().map(one))];
        let outcome = trap.load(&Draft { driver: driver.to_owned(), ..Draft::new([("evil:1", layers)]) }.tar());
        if !outcome.status.success() {
            let outcome = outcome.failed(1);
            let said = ["archive", "cannot hold layer"].iter().any(|words| outcome.stderr.contains(words));
            assert!(said, "{what}: {}", outcome.stderr);
            assert_eq!(names(&trap.target()), [] as [String; 0], "{what}");
        }
    }
}

#[test]
fn hard_links_out_of_the_layer() {
    for target in
        ["../x", "../../../../outside/secret", "OUTSIDE/secret", "/etc/passwd", "a/../../x", "none", "", ".", "/"]
    {
        layer(target, Refused, &[Entry::hard_link("link", target)]);
    }
    layer("to itself", Refused, &[Entry::hard_link("link", "link")]);
    layer("to a directory", Refused, &[Entry::dir("dir/"), Entry::hard_link("link", "dir")]);
    // Attributes of a hard link are those of what it links to, not of what that points to.
    layer(
        "to a link",
        Harmless,
        &[
            Entry::symlink("link", "OUTSIDE/secret"),
            Entry::hard_link("same", "link").mode(0o4777).record("SCHILY.xattr.user.note", "x"),
        ],
    );
    layer("to a device", Harmless, &[Entry::device("null", 1, 3), Entry::hard_link("same", "null").mode(0o600)]);
    // Only overlay has the lower layer's files here.
    either("to a file below", &[Entry::file("file", "x")], &[Entry::hard_link("link", "file")]);
}

#[test]
fn devices_are_never_opened() {
    layer("written to", Harmless, &[Entry::device("loop", 10, 237), Entry::file("loop", "x")]);
    let pipe = Entry { kind: b'6', ..Entry::file("pipe", "") };
    layer("a pipe", Harmless, &[pipe.clone(), Entry::file("pipe", "x")]);
    layer("a directory", Refused, &[pipe, Entry::file("pipe/x", "x")]);
    // The kernel has 32 bits for it: Docker too cuts off what is more.
    layer("a number too large", Harmless, &[Entry::device("x", u32::MAX, u32::MAX)]);
    layer("an unknown type", Refused, &[Entry { kind: b'9', ..Entry::file("x", "x") }]);
    layer("a sparse file", Refused, &[Entry { kind: b'S', ..Entry::file("x", "x") }]);
}

#[test]
fn whiteouts_that_name_nothing_or_too_much() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..", "a/.wh...", "a/.wh."] {
        layer(name, Refused, &[Entry::dir("a/"), Entry::file(name, "")]);
    }
    for name in [".wh..wh..opq", "a/.wh..wh..opq", ".wh.never", "a/.wh.never"] {
        layer(name, Harmless, &[Entry::dir("a/"), Entry::file("a/x", "x"), Entry::file(name, "")]);
    }
    // Of what the layer itself has: overlay2 refuses it, as Docker does.
    either("of a directory", &[], &[Entry::dir("a/"), Entry::file("a/x", "x"), Entry::file(".wh.a", "")]);
    either("of a link", &[], &[Entry::symlink("link", "OUTSIDE"), Entry::file(".wh.link", "")]);
}

#[test]
fn members_twice_in_a_layer() {
    let twice = |one: Entry, other: Entry| vec![one, other];
    layer("two files", Harmless, &twice(Entry::file("x", "one"), Entry::file("x", "other")));
    layer("a file and a link", Harmless, &twice(Entry::file("x", "one"), Entry::symlink("x", "OUTSIDE/secret")));
    layer("a link and a file", Harmless, &twice(Entry::symlink("x", "OUTSIDE/secret"), Entry::file("x", "one")));
    layer("a link and a directory", Harmless, &twice(Entry::symlink("x", "OUTSIDE/dir"), Entry::dir("x/").mode(0o777)));
    layer(
        "a directory and a link",
        Harmless,
        &[Entry::dir("x/"), Entry::file("x/file", "x"), Entry::symlink("x", "OUTSIDE/dir"), Entry::device("y", 1, 3)],
    );
    layer(
        "times of a directory that is a link now",
        Harmless,
        &[Entry::dir("x/").record("mtime", "1"), Entry::symlink("x", "OUTSIDE/dir")],
    );
    layer(
        "and then into it",
        Harmless,
        &[Entry::dir("x/"), Entry::symlink("x", "OUTSIDE/dir"), Entry::file("x/secret", "x")],
    );
}

#[test]
fn sizes_that_lie() {
    layer("more than there is", Refused, &[Entry::file("x", "short").claiming(1 << 20), Entry::file("y", "y")]);
    layer("very much more", Refused, &[Entry::file("x", "short").claiming(1 << 62)]);
    layer("more than fits", Refused, &[Entry::file("x", "short").claiming(u64::MAX)]);
    layer("less than there is", Refused, &[Entry::file("x", &"long".repeat(1000)).claiming(5)]);
    layer("of a directory", Harmless, &[Entry::dir("x/").claiming(512), Entry::file("y", "y")]);
    layer("of a link", Harmless, &[Entry::symlink("x", "y").claiming(1 << 40)]);
    layer("in a PAX record", Refused, &[Entry::file("x", "short").record("size", "99999999")]);
    layer("a negative one", Refused, &[Entry::file("x", "short").record("size", "-1")]);
}

#[test]
fn records_that_explode() {
    for (key, value) in [
        ("gid", "99999999999999999999"),
        ("mtime", "x"),
        ("mtime", "99999999999999999999"),
        ("size", "x"),
        ("GNU.sparse.map", "0,1"),
    ] {
        layer(key, Refused, &[Entry::file("x", "x").record(key, value)]);
    }
    // The kernel gets the low 32 bits of them, as from Docker.
    for owner in ["4294967296", "-1"] {
        layer(owner, Harmless, &[Entry::file("x", "x").record("uid", owner)]);
    }
    layer("a time beyond all", Harmless, &[Entry::file("x", "x").record("mtime", "9223372036854775807.999999999")]);
    layer("two megabytes", Refused, &[Entry::file("x", "x").record("comment", "c".repeat(2 << 20))]);
    layer("an attribute too long", Refused, &[Entry::file("x", "x").record("SCHILY.xattr.user.x", "c".repeat(70_000))]);
    layer("an attribute without a name", Refused, &[Entry::file("x", "x").record("SCHILY.xattr.", "x")]);
    layer("an attribute of no kind", Harmless, &[Entry::file("x", "x").record("SCHILY.xattr.none", "x")]);
    for records in
        ["99999999999999999999 path=x\n", "3 \n", "0 path=x\n", "9 path=xy", "x", "11 pathxyz\n", "-1 path=x\n"]
    {
        let bomb = Entry { kind: b'x', ..Entry::file("PaxHeaders/x", records) };
        layer(records, Refused, &[bomb, Entry::file("x", "x")]);
    }
    let header = |length| Entry { kind: b'x', ..Entry::file("PaxHeaders/x", "") }.claiming(length);
    for length in [1 << 30, 1 << 62] {
        layer("a header of records that claims much", Refused, &[header(length), Entry::file("x", "x")]);
    }
    let name = |length| Entry { kind: b'L', ..Entry::file("././@LongLink", "") }.claiming(length);
    layer("a long name that claims much", Refused, &[name(1 << 40), Entry::file("x", "x")]);
    let empty = Entry { kind: b'x', ..Entry::file("PaxHeaders/x", "") };
    let many: Vec<Entry> = std::iter::repeat_n(empty, 20_000).chain([Entry::file("x", "x")]).collect();
    layer("twenty thousand headers of records", Harmless, &many);
}

/// Changes the members of an archive that is good otherwise; digests are made anew.
#[track_caller]
fn members(what: &str, verdict: Verdict, edit: impl Fn(&mut Members)) {
    each_target(what, verdict, |driver, _| {
        let mut members = Draft { driver: driver.to_owned(), ..other() }.members();
        edit(&mut members);
        seal(&members)
    });
}

/// An image of two layers that no target has.
fn other() -> Draft {
    let below = Layer::new("first", [Entry::dir("a/"), Entry::file("a/one", "one")]);
    let above = Layer::new("second", [Entry::dir("a/"), Entry::file("a/two", "two")]);
    Draft::new([("other:1", vec![below, above])])
}

fn find(members: &Members, end: &str) -> usize {
    members.iter().position(|(name, _)| name.ends_with(end)).expect("a member")
}

#[test]
fn members_twice_in_an_archive() {
    members("as it should be", Harmless, |_| ());
    for end in ["oci-layout", "index.json", "archive.json", "tar-split.json.gz", "differences.jsonl"] {
        members(end, Refused, |members| {
            let one = members[find(members, end)].clone();
            members.push(one);
        });
        members(end, Refused, |members| {
            let at = find(members, end);
            let one = members[at].clone();
            members.insert(at, one);
        });
    }
    members("a layer's tar", Refused, |members| {
        let last = members.last().cloned().expect("a member");
        members.push(last);
    });
}

#[test]
fn members_that_have_no_place() {
    for name in [
        "../x",
        "/x",
        "x",
        "blobs/sha256/../../x",
        "blobs/sha256/x",
        "blobs/sha512/x",
        "blobs//x",
        "./x",
        "dockpack/layers/x/tar-split.json.gz",
        "dockpack/layers/../x",
        "dockpack/x",
        "a\u{1b}[31mred\nname",
    ] {
        members(name, Refused, |members| members.push((name.to_owned(), b"x".to_vec())));
        members(name, Refused, |members| members.insert(0, (name.to_owned(), b"x".to_vec())));
    }
    members("a blob that nothing names", Harmless, |members| members.push((blob(&sha256(b"x")), b"x".to_vec())));
    members("a layer that nothing names", Harmless, |members| {
        let chain = sha256(b"nothing");
        members.push((format!("dockpack/layers/{chain}/tar-split.json.gz"), gzip(b"")));
        members.push((format!("dockpack/layers/{chain}/differences.jsonl"), Vec::new()));
    });
}

/// Members of an archive are files and nothing else.
#[test]
fn members_that_are_no_files() {
    for kind in *b"1234567xgLKS" {
        each_target(&format!("type {}", char::from(kind)), Refused, |driver, outside| {
            let good = Draft { driver: driver.to_owned(), ..other() }.tar();
            let link = outside.to_str().expect("text").as_bytes().to_vec();
            let evil = Entry { kind, link, ..Entry::file("blobs/sha256/x", "") };
            let evil = Layer::new("x", [evil]).tar;
            // In front of the good members, and instead of them.
            [&evil[..512], &good].concat()
        });
    }
}

#[test]
fn members_that_are_missing_or_late() {
    for end in ["oci-layout", "index.json", "manifest.json", "archive.json", "tar-split.json.gz", "differences.jsonl"] {
        members(end, Refused, |members| {
            members.remove(find(members, end));
        });
    }
    for number in 4..8 {
        members("a configuration or manifest", Refused, |members| {
            members.remove(number);
        });
    }
    members("the last tar", Refused, |members| drop(members.pop()));
    members("everything twice over", Refused, |members| members.extend(members.clone()));
    members("backwards", Refused, |members| members.reverse());
    members("no layers", Refused, |members| members.truncate(6));
    members("nothing", Refused, Vec::clear);
    members("the tar first", Harmless, |members| {
        let tar = members.pop().expect("a tar");
        let first = find(members, "tar-split.json.gz");
        members.insert(first, tar);
    });
    each_target("no digests", Refused, |driver, _| tar_of(Draft { driver: driver.to_owned(), ..other() }.members()));
}

#[test]
fn digests_that_do_not_match() {
    for number in 4..6 {
        members("a configuration or manifest", Refused, |members| members[number].1.push(b' '));
    }
    members("a tar", Refused, |members| {
        let last = members.len() - 1;
        members[last].1[600] ^= 1;
    });
    members("a tar under another's name", Refused, |members| {
        let last = members.len() - 1;
        let other = find(members, "differences.jsonl") + 1;
        members[last].1 = members[other].1.clone();
    });
    for (what, sums) in [
        ("none", String::new()),
        ("no lines", "x".to_owned()),
        ("too many", format!("{}  none\n", sha256(b""))),
        ("not text", "\u{0}".to_owned()),
    ] {
        each_target(what, Refused, |driver, _| {
            let members = Draft { driver: driver.to_owned(), ..other() }.members();
            let good: String = members.iter().map(|(name, bytes)| format!("{}  {name}\n", sha256(bytes))).collect();
            let sums = if what == "too many" { good + &sums } else { sums.clone() };
            tar_of(members.into_iter().chain([("dockpack/SHA256SUMS".to_owned(), sums.into_bytes())]))
        });
    }
}

/// Headers that claim more than there is: memory is not taken for it, and nothing is waited for.
#[test]
fn members_that_claim_much() {
    for name in ["oci-layout", "index.json", "dockpack/archive.json"] {
        for length in [1 << 28, 1 << 30, 1 << 40, 1 << 62] {
            each_target(name, Refused, |driver, _| {
                let members = Draft { driver: driver.to_owned(), ..other() }.members();
                let before = members.iter().take_while(|(member, _)| member != name).cloned();
                let mut tar = tar_of(before);
                tar.truncate(tar.len() - 1024);
                [&tar[..], &member_header(name, length), b"{}"].concat()
            });
        }
    }
    let deep = "[".repeat(100_000);
    members("an index that is deep", Refused, |members| members[3].1 = deep.clone().into_bytes());
    members("an index that is none", Refused, |members| members[3].1 = b"null".to_vec());
    members("an index of two", Refused, |members| members[3].1.extend(b"{}"));
}

/// Changes the index; everything that is made of it follows.
#[track_caller]
fn index(what: &str, verdict: Verdict, edit: fn(&mut Value)) {
    each_target(what, verdict, |driver, _| Draft { driver: driver.to_owned(), edit, ..other() }.tar());
}

#[test]
fn names_of_directories() {
    const BAD: [&str; 10] = ["../../x", "..", ".", "", "/etc", "a/b", "x\u{0}", "x\n", "\u{1b}", "ä"];
    each_target("all good", Harmless, |driver, _| Draft { driver: driver.to_owned(), ..other() }.tar());
    for bad in BAD {
        for field in ["cacheId", "link", "lowerId"] {
            each_target(&format!("{field} {bad:?}"), Refused, |driver, _| {
                let mut draft = Draft { driver: driver.to_owned(), ..other() };
                for layer in &mut draft.images[0].layers {
                    match field {
                        "cacheId" => bad.clone_into(&mut layer.cache_id),
                        "link" => bad.clone_into(&mut layer.link),
                        _ => layer.lower_id = Some(bad.to_owned()),
                    }
                }
                draft.tar()
            });
        }
    }
    let long = |field: fn(&mut Layer)| {
        each_target("a long name", Refused, |driver, _| {
            let mut draft = Draft { driver: driver.to_owned(), ..other() };
            draft.images[0].layers.iter_mut().for_each(field);
            draft.tar()
        });
    };
    long(|layer| layer.cache_id = "x".repeat(256));
    long(|layer| layer.link = "X".repeat(256));
}

/// Names that are taken: by the driver itself, by another layer, by something else.
#[test]
fn names_that_are_taken() {
    let taken = |what: &str, field: fn(&mut Layer)| {
        each_target(what, Harmless, |driver, _| {
            let mut draft = Draft { driver: driver.to_owned(), ..other() };
            draft.images[0].layers.iter_mut().for_each(field);
            draft.tar()
        });
    };
    taken("the directory of short names", |layer| layer.cache_id = "l".to_owned());
    taken("one directory for all", |layer| layer.cache_id = sha256(b"one"));
    taken("one short name for all", |layer| layer.link = "A".repeat(26));
    taken("another's directory", |layer| layer.cache_id = sha256(b"base"));
    taken("another's short name", |layer| layer.link = Layer::new("base", []).link);
    for name in ["file", "dangling"] {
        let trap = Trap::new("overlay2", Before::Images);
        let home = trap.target().join("overlay2");
        fs::write(home.join("file"), "x").expect("a file");
        symlink("none", home.join("dangling")).expect("a link");
        symlink("../none/diff", home.join("l/DANGLING")).expect("a link");
        let mut draft = other();
        name.clone_into(&mut draft.images[0].layers[0].cache_id);
        "DANGLING".clone_into(&mut draft.images[0].layers[0].link);
        let _ = trap.load(&draft.tar()).done();
        let _ = run(&trap.target(), ["save", "other:1", "-o", trap.at("archive").to_str().expect("text")]).failed(2);
        assert_eq!(fs::read(home.join("file")).expect("the file"), b"x");
    }
}

#[test]
fn layers_that_do_not_stack() {
    index("another chain", Refused, |index| index["layers"][1]["chain"] = json!(format!("sha256:{}", sha256(b"x"))));
    index("another content", Refused, |index| index["layers"][1]["diff"] = index["layers"][0]["diff"].clone());
    index("no parent", Refused, |index| drop(index["layers"][1]["parent"].take()));
    index("another parent", Refused, |index| index["layers"][1]["parent"] = index["layers"][1]["chain"].clone());
    index("the wrong way round", Refused, |index| index["layers"].as_array_mut().expect("a list").reverse());
    index("one missing", Refused, |index| drop(index["layers"].as_array_mut().expect("a list").pop()));
    index("one twice", Refused, |index| {
        let one = index["layers"][0].clone();
        index["layers"].as_array_mut().expect("a list").push(one);
    });
    index("none", Refused, |index| index["layers"] = json!([]));
    index("no digest", Refused, |index| index["layers"][0]["chain"] = json!("../../x"));
    index("a shorter tar", Refused, |index| index["layers"][1]["tarSize"] = json!(512));
    index("a longer tar", Refused, |index| index["layers"][1]["tarSize"] = json!(1_u64 << 50));
}

#[test]
fn images_that_are_not_what_they_say() {
    index("another ID", Refused, |index| index["images"][0]["id"] = json!(format!("sha256:{}", sha256(b"x"))));
    index("no ID", Refused, |index| index["images"][0]["id"] = json!("sha256:../../x"));
    index("fewer layers than its configuration", Refused, |index| {
        index["images"][0]["diffIds"].as_array_mut().expect("a list").pop();
    });
    index("no layers", Refused, |index| index["images"][0]["diffIds"] = json!([]));
    index("another time", Refused, |index| index["images"][0]["created"] = json!("2001-01-01T00:00:00Z"));
    index("no time", Refused, |index| index["images"][0]["lastUpdated"] = json!("yesterday"));
    index("a time", Harmless, |index| index["images"][0]["lastUpdated"] = json!("2001-01-01T00:00:00.5Z"));
    index("twice", Refused, |index| {
        let one = index["images"][0].clone();
        index["images"].as_array_mut().expect("a list").push(one);
    });
    // dockerd follows parents, and would not come to an end.
    each_target("its own parent", Refused, |driver, _| {
        let edit = |index: &mut Value| index["images"][0]["parent"] = index["images"][0]["id"].clone();
        Draft { driver: driver.to_owned(), edit, ..other() }.tar()
    });
    for config in ["", "x", "null", "[]", "{}", r#"{"rootfs":{"type":"layers","diff_ids":[]}}"#] {
        each_target(&format!("a configuration {config:?}"), Refused, |driver, _| {
            let mut draft = Draft { driver: driver.to_owned(), ..other() };
            draft.images[0].config = Some(config.as_bytes().to_vec());
            draft.tar()
        });
    }
}

#[test]
fn references_that_are_none() {
    for bad in [
        "evil\u{1b}[31m:1",
        "evil\n:1",
        "evil:1\u{0}",
        "../x:1",
        "x/../y:1",
        "/x:1",
        "UPPER:1",
        "",
        ":",
        "x:",
        ":1",
        "no-tag",
        "evil:1:2",
        "x@sha256:short",
        "__proto__:1",
    ] {
        each_target(&format!("{bad:?}"), Refused, |driver, _| {
            let mut draft = Draft { driver: driver.to_owned(), ..other() };
            draft.images[0].references = vec![bad.to_owned()];
            draft.tar()
        });
    }
    each_target("one for two images", Refused, |driver, _| {
        let mut draft = Draft { driver: driver.to_owned(), ..small() };
        draft.images[2].references = draft.images[1].references.clone();
        draft.tar()
    });
}

#[test]
fn formats_and_drivers() {
    for format in [json!(0), json!("1"), json!(-1), json!(1.5), json!(null), json!(u64::MAX)] {
        each_target(&format.to_string(), Refused, |driver, _| {
            let mut members = Draft { driver: driver.to_owned(), ..other() }.members();
            let mut index: Value = serde_json::from_slice(&members[3].1).expect("the index");
            index["format"] = format.clone();
            members[3].1 = index.to_string().into_bytes();
            seal(&members)
        });
    }
    let newer = Trap::new("overlay2", Before::Nothing);
    let outcome = newer.load(&Draft { edit: |index| index["format"] = json!(2), ..other() }.tar()).failed(1);
    assert!(outcome.stderr.contains("is of format 2; this dockpack reads up to 1"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("\nhint: a newer dockpack reads it"), "{}", outcome.stderr);
    for driver in ["zfs", "../x", "", "containerd"] {
        let trap = Trap::new("overlay2", Before::Nothing);
        let outcome = trap.load(&Draft { driver: driver.to_owned(), ..other() }.tar()).failed(1);
        let said = if driver.is_empty() { "names no graph driver" } else { "cannot work on graph driver" };
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
        assert_eq!(names(&trap.target()), [] as [String; 0]);
    }
}

/// Changes what goes with the upper layer.
#[track_caller]
fn second(what: &str, verdict: Verdict, edit: impl Fn(&mut Layer, &Path)) {
    each_target(what, verdict, |driver, outside| {
        let mut draft = Draft { driver: driver.to_owned(), ..other() };
        edit(&mut draft.images[0].layers[1], outside);
        draft.tar()
    });
}

#[test]
fn tar_splits_that_do_not_match() {
    second("of another layer", Refused, |layer, _| {
        layer.tar_split = Layer::new("x", [Entry::file("x", "x")]).tar_split
    });
    second("nothing", Refused, |layer, _| layer.tar_split.clear());
    second("no JSON", Refused, |layer, _| layer.tar_split = b"x\n".to_vec());
    second("a line less", Refused, |layer, _| {
        let end = layer.tar_split[..layer.tar_split.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("lines");
        layer.tar_split.truncate(end + 1);
    });
    second("a line more", Refused, |layer, _| {
        layer.tar_split.extend(b"{\"type\":2,\"payload\":\"AAAA\",\"position\":99}\n");
    });
    let replace = |layer: &mut Layer, from: &str, to: &str| {
        let text = String::from_utf8(layer.tar_split.clone()).expect("text");
        assert!(text.contains(from), "{text}");
        layer.tar_split = text.replace(from, to).into_bytes();
    };
    second("another size", Refused, |layer, _| replace(layer, "\"size\":3", "\"size\":2"));
    second("a negative size", Refused, |layer, _| replace(layer, "\"size\":3", "\"size\":-3"));
    second("another type", Refused, |layer, _| replace(layer, "\"type\":1", "\"type\":3"));
    // dockerd would take the file's content from there.
    second("another name", Refused, |layer, _| replace(layer, "\"a/two\"", "\"a/one\""));
    second("a name that leads out", Refused, |layer, outside| {
        replace(layer, "\"a/two\"", &json!(format!("../../../../..{}/secret", outside.display())).to_string());
    });
    second("a name of no file", Refused, |layer, _| {
        replace(layer, "{\"type\":1,\"name\":\"a/\"", "{\"type\":1,\"name\":\"../../../secret\"");
    });
    second("a bomb", Refused, |layer, _| layer.tar_split = vec![b' '; 80 << 20]);
}

/// Changes the list of differences of the upper layer; `TREE` is the name of the layer's tree.
#[track_caller]
fn differences(verdict: Verdict, lines: &[Value]) {
    let what = format!("{lines:?}");
    let draft = |driver: &str, outside: &Path| {
        let mut draft = Draft { driver: driver.to_owned(), ..other() };
        let tree = if driver == "overlay2" { "diff" } else { "root" };
        let layer = &mut draft.images[0].layers[1];
        *layer = Layer::new(
            "second",
            [
                Entry::dir("a/"),
                Entry::file("a/two", "two"),
                Entry::file("a/same", "two"),
                Entry::symlink("a/link", "/"),
                Entry::symlink("out", outside.to_str().expect("text")),
                Entry::symlink("file", outside.join("secret").to_str().expect("text")),
            ],
        );
        let lines = lines.iter().map(|line| line.to_string().replace("TREE", tree) + "\n");
        let lines: String = lines.map(|line| line.replace("OUTSIDE", outside.to_str().expect("text"))).collect();
        layer.differences = lines.into_bytes();
        draft.tar()
    };
    each_target(&what, verdict, draft);
    for driver in ["overlay2", "overlay"] {
        said_alike(&what, verdict, driver, &draft(driver, Path::new("/outside")));
    }
}

/// `verify -i` and `load` say the same of an archive.
#[track_caller]
fn said_alike(what: &str, verdict: Verdict, driver: &str, archive: &[u8]) {
    let trap = Trap::new(driver, Before::Nothing);
    let loaded = trap.load(archive);
    let path = trap.at("archive").display().to_string();
    let verified = run(trap.temp.path(), ["verify", "--json", "-i", &path]);
    let said: Value =
        serde_json::from_slice(&verified.stdout).unwrap_or_else(|_| panic!("{what}: {}", verified.stderr));
    match verdict {
        Harmless => assert!(loaded.status.success() && verified.status.success(), "{what}: {said}"),
        Refused => {
            assert_eq!(verified.status.code(), Some(3), "{what}, {driver}: {said} {}", loaded.stderr);
            let evidence = said["findings"][0]["evidence"].as_str().expect("evidence");
            assert_eq!(said["findings"][0]["code"], "archive-differences-unproved", "{what}, {driver}: {said}");
            assert!(loaded.stderr.contains(evidence), "{what}, {driver}: {evidence}: {}", loaded.stderr);
        }
    }
}

#[test]
fn differences_that_lead_out() {
    for path in [
        "..",
        "../x",
        "../../../../../outside/secret",
        "OUTSIDE/secret",
        "/etc/passwd",
        "TREE/../../x",
        "TREE/..",
        "TREE/out/secret",
        "TREE/out/dir",
        "TREE/a/link/a/two",
        "TREE/\u{0}",
        "TREE/none",
        "none/none",
    ] {
        for field in [
            json!({"mode": 0o777}),
            json!({"owner": [1000, 1000]}),
            json!({"mtime": [1, 1]}),
            json!({"xattrs": {"user.note": "eA=="}}),
            json!({"make": "directory"}),
            json!({"make": "char"}),
            json!({"link": {"path": "TREE/a/two"}}),
            json!({"gone": true}),
        ] {
            let is_gone = field.get("gone").is_some();
            let mut line = field;
            line["path"] = json!(path);
            // A whiteout that hides nothing can be gone already.
            differences(if is_gone && path == "TREE/none" { Harmless } else { Refused }, &[line]);
        }
    }
    // A link itself has a time.
    differences(Harmless, &[json!({"path": "TREE/file", "mtime": [1, 1]})]);
}

#[test]
fn differences_that_change_more_than_they_may() {
    // A hard link that the tar does not tell of: only between files that are the same.
    differences(Harmless, &[json!({"path": "TREE/a/same", "link": {"path": "TREE/a/two"}})]);
    for (path, first) in [
        ("TREE/a/two", "../../../../../outside/secret"),
        ("TREE/a/two", "OUTSIDE/secret"),
        ("TREE/a/two", "TREE/out/secret"),
        ("TREE/a/two", "TREE/file"),
        ("TREE/file", "TREE/a/two"),
        ("TREE/a/two", "TREE/a/none"),
        ("TREE/a/two", "TREE/a"),
        ("TREE/a", "TREE/a/two"),
        ("TREE/a/two", "TREE/a/two"),
        ("", "TREE/a/two"),
        ("lower", "TREE/a/two"),
        ("link", "TREE/a/two"),
        ("lower", "link"),
        ("committed", "TREE/a/two"),
        ("TREE/a/two", "lower"),
    ] {
        differences(Refused, &[json!({"path": path, "link": {"path": first}})]);
    }
    // Nor can content be put in another's place: whoever trusts an image's ID trusts what is in it.
    differences(Refused, &[json!({"path": "TREE/a/two", "link": {"path": "TREE/a/link"}})]);
    // Only whiteouts are taken away, and made.
    for path in ["TREE/a/two", "TREE/a", "TREE/out", "TREE", "", "."] {
        differences(Refused, &[json!({"path": path, "gone": true})]);
    }
    for kind in ["file", "block", "fifo", "symlink", "socket", "x"] {
        differences(Refused, &[json!({"path": "TREE/new", "make": kind})]);
    }
    differences(Refused, &[json!({"path": "TREE/a/two", "xattrs": {"user.note": "not base64!"}})]);
    differences(Refused, &[json!({"path": "TREE/a/two", "xattrs": {"": ""}})]);
    differences(Refused, &[json!({"path": "TREE/a/two", "mtime": [1, 4_000_000_000_u32]})]);
    differences(Refused, &[json!({"path": "TREE/a/two", "mode": 0o170_777})]);
    differences(Refused, &[json!(1)]);
    differences(Refused, &[json!({"path_raw": "Li4v", "mode": 0})]);
}

/// With overlay, layers have files in common. Those of layers that are there stay as they are, whatever a new layer says of
/// them; and when the load fails.
#[test]
fn files_that_a_layer_has_in_common() {
    let base = small().images[0].layers[0].clone();
    let tops = [
        Layer::new("links", [Entry::hard_link("mine", "etc/passwd").mode(0o4777)]),
        Layer::new("records", [Entry::hard_link("mine", "bin/tool").record("SCHILY.xattr.user.evil", "x")]),
        Layer { differences: br#"{"path":"root/bin/tool","mtime":[1,1]}"#.to_vec(), ..Layer::new("list", []) },
    ];
    for top in tops {
        let above = Layer::new("one more", [Entry::hard_link("again", "etc/passwd").mode(0o600)]);
        let draft =
            Draft { driver: "overlay".to_owned(), ..Draft::new([("evil:1", vec![base.clone(), top.clone(), above])]) };
        let good = draft.tar();
        let trap = Trap::new("overlay", Before::Images);
        let before = Untouched::note(&trap.target());
        let _ = trap.load(&good[..good.len() - 1]).failed(1);
        before.assert_restored();
        let store = Contents::read(&trap.target(), "overlay");
        let trees = store.layer_trees(&trap.target());
        let _ = trap.load(&good).done();
        assert_same(&trees, &store.layer_trees(&trap.target()), Allow::NOTHING);
        assert!(Contents::read(&trap.target(), "overlay").layers.len() > store.layers.len());
        let _ =
            run(&trap.target(), ["save", "-q", "evil:1", "-o", trap.at("small.tar").to_str().expect("text")]).done();
    }
}

/// A root that was prepared: links where dockpack and Docker have directories.
#[test]
fn roots_with_links_in_them() {
    for planted in [
        ".dockpack",
        ".dockpack/load",
        "overlay2",
        "overlay2/l",
        "image",
        "image/overlay2",
        "image/overlay2/layerdb",
        "image/overlay2/layerdb/sha256",
        "image/overlay2/imagedb/content/sha256",
        "image/overlay2/imagedb/metadata/sha256",
        "image/overlay2/distribution",
        "volumes",
        "volumes/metadata.db",
    ] {
        for before in [Before::Nothing, Before::Images] {
            let trap = Trap::new("overlay2", before);
            let at = trap.target().join(planted);
            if fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir()) {
                fs::rename(&at, trap.target().join("aside")).expect("renamed");
            }
            let _ = fs::remove_file(&at);
            fs::create_dir_all(at.parent().expect("a parent")).expect("directories");
            symlink(trap.at("outside/dir"), &at).expect("a link");
            let outcome = trap.load(&other().tar());
            assert_ne!(outcome.status.code(), Some(0), "{planted}, {before:?}");
            assert!(outcome.stderr.starts_with("dockpack: "), "{planted}: {}", outcome.stderr);
            assert!(fs::symlink_metadata(&at).expect("the link").is_symlink(), "{planted}");
        }
    }
}

/// A plan that somebody else left, as if a load had been interrupted.
#[test]
fn roots_with_a_plan_in_them() {
    let trap = Trap::new("overlay2", Before::Nothing);
    let load_dir = trap.target().join(".dockpack/load");
    for plan in [
        "{}",
        "x",
        "",
        r#"{"driver":"overlay2","sameDriver":true,"images":[],"imagesPresent":[],"layers":[{"chain":"sha256:x"}]}"#,
        r#"{"driver":"../x","sameDriver":true,"images":[],"imagesPresent":[],"layers":[],"layersPresent":[],"references":[],
            "diffIdByDigest":{},"v2MetadataByDiffId":{}}"#,
    ] {
        fs::create_dir_all(&load_dir).expect("directories");
        fs::write(load_dir.join("journal.json"), plan).expect("written");
        let before = Tree::read(&trap.target()).without_times();
        let outcome = trap.load(&other().tar()).failed(1);
        assert!(outcome.stderr.contains("journal") || outcome.stderr.contains("driver"), "{plan}: {}", outcome.stderr);
        let after = Tree::read(&trap.target()).without_times();
        assert!(
            before.only(|path| path.starts_with(b".dock")) == after.only(|path| path.starts_with(b".dock")),
            "{plan}"
        );
    }
}

/// What a store says of itself is no more to be trusted than an archive.
#[test]
fn saving_from_a_prepared_store() {
    let trap = Trap::new("overlay2", Before::Images);
    let store = Contents::read(&trap.target(), "overlay2");
    let dir = store.layers.values().next().map(|id| trap.target().join("overlay2").join(id)).expect("a layer");
    fs::rename(dir.join("diff"), dir.join("aside")).expect("renamed");
    symlink(trap.at("outside/dir"), dir.join("diff")).expect("a link");
    let out = trap.at("out.tar");
    let outcome = run(&trap.target(), ["save", "-q", "--all", "-o", out.to_str().expect("text")]);
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("cannot prove layer"), "{}", outcome.stderr);
    assert!(!out.exists());
    trap.around.assert();
}

/// The small archive is what dockpack would have written.
#[test]
fn a_good_archive_is_taken_as_it_is() {
    let trap = Trap::new("overlay2", Before::Nothing);
    let _ = trap.load(&small().tar()).done();
    save(&trap.target(), &["--all"], &trap.at("archive.tar"));
    let contents = Contents::read(&trap.target(), "overlay2");
    assert_eq!((contents.images.len(), contents.layers.len(), contents.references.len()), (3, 3, 3));
    let tool = contents.layers.values().map(|id| trap.target().join("overlay2").join(id).join("diff/bin/tool"));
    let found = tool.filter_map(|path| fs::metadata(path).ok()).collect::<Vec<_>>();
    assert_eq!(found.iter().map(|tool| (tool.mode() & 0o7777, tool.nlink())).collect::<Vec<_>>(), [(0o4755, 2)]);
}
