//! Archives that are unlike any that Docker writes today, and that people have all the same: by old or other tools, or
//! changed by hand. Each with what has to come of it.

use serde_json::{Value, json};

use super::archive::{Entry, Layer, Members, tar_of};
use super::store::sha256;

/// What dockpack has to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The image is loaded, and has its name.
    Loads,
    /// It says this of it, and changes nothing.
    Refuses(&'static str),
}

/// What Docker 28 answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Oracle {
    /// The same.
    Agrees,
    /// It loads it, and the tree cannot be compared, or it cannot be loaded and Docker 20.10 loads it: why.
    Differs(&'static str),
}

/// An archive, and what comes of it.
#[derive(Debug, Clone)]
pub(crate) struct Odd {
    /// Tag of its image in the repository `odd`.
    pub(crate) name: &'static str,
    pub(crate) archive: Vec<u8>,
    pub(crate) answer: Answer,
    pub(crate) oracle: Oracle,
}

use Answer::{Loads, Refuses};
use Oracle::{Agrees, Differs};

/// The parts of an archive of Docker's form, to be changed before it is put together.
struct Draft {
    name: &'static str,
    layers: Vec<Vec<u8>>,
    config: Box<dyn Fn(&mut Value)>,
    manifest: Box<dyn Fn(&mut Value)>,
}

impl Draft {
    fn new(name: &'static str, layers: Vec<Vec<u8>>) -> Self {
        Self { name, layers, config: Box::new(|_| ()), manifest: Box::new(|_| ()) }
    }

    /// Its members in order: the configuration, the layers, and what they are.
    fn members(&self) -> Members {
        let diffs: Vec<String> = self.layers.iter().map(|tar| format!("sha256:{}", sha256(tar))).collect();
        let mut config = json!({"architecture": "amd64", "os": "linux", "created": "2020-01-02T03:04:05Z",
            "config": {"Cmd": ["/bin/true"]}, "rootfs": {"type": "layers", "diff_ids": diffs},
            "history": diffs.iter().map(|_| json!({"created": "2020-01-02T03:04:05Z"})).collect::<Vec<_>>()});
        (self.config)(&mut config);
        self.around(config.to_string().into_bytes())
    }

    /// The same with the text of a configuration.
    fn around(&self, config: Vec<u8>) -> Members {
        let file = format!("{}.json", sha256(&config));
        let paths: Vec<String> = (0..self.layers.len()).map(|number| format!("{number}/layer.tar")).collect();
        let mut manifest = json!([{"Config": file, "RepoTags": [format!("odd:{}", self.name)], "Layers": paths}]);
        (self.manifest)(&mut manifest);
        let mut members: Members = vec![(file, config)];
        members.extend(paths.into_iter().zip(self.layers.iter().cloned()));
        members.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
        members
    }

    fn is(self, answer: Answer, oracle: Oracle) -> Odd {
        Odd { name: self.name, archive: tar_of(self.members()), answer, oracle }
    }
}

fn layer(entries: &[Entry]) -> Vec<u8> {
    Layer::new("odd", entries.to_vec()).tar
}

/// One layer with these members.
fn tree(name: &'static str, answer: Answer, oracle: Oracle, entries: &[Entry]) -> Odd {
    Draft::new(name, vec![layer(entries)]).is(answer, oracle)
}

/// Writes bytes into the first header of a tar, and its sum.
fn patched(mut tar: Vec<u8>, changes: &[(usize, &[u8])]) -> Vec<u8> {
    for (at, bytes) in changes {
        tar[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    tar[148..156].copy_from_slice(b"        ");
    let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar
}

/// An access control list with the mask rwx, and a named user.
fn list() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 7, 1000), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 4, u32::MAX)];
    let entries = entries
        .iter()
        .flat_map(|(tag, bits, id)| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat());
    2_u32.to_le_bytes().into_iter().chain(entries).collect()
}

/// Layers whose headers are odd.
fn headers() -> Vec<Odd> {
    let device = layer(&[Entry::device("null", 1, 3)]);
    let prefix: &[(usize, &[u8])] = &[(257, b"ustar\0 \0"), (345, b"deep/dir")];
    let star: &[(usize, &[u8])] = &[(257, b"ustar\0\0\0"), (345, b"deep/dir"), (508, b"tar\0")];
    let v7 = patched(
        layer(&[Entry::dir("one/").claiming(1), Entry::file("two", "2")]),
        &[(156, b"\0"), (257, b"\0\0\0\0\0\0\0\0")],
    );
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    let header = |name, tar| Draft::new(name, vec![tar]).is(Loads, Agrees);
    vec![
        header("ustar-of-another-version", patched(layer(&[Entry::file("file", "content")]), prefix)),
        header("ustar-of-another-version-device", patched(device.clone(), prefix)),
        header("star-of-another-version", patched(device, star)),
        header("v7-directory-with-length", v7),
        tree("owner-minus-one", Loads, Agrees, &[Entry::file("x", "x").record("uid", "-1").record("gid", "-1")]),
        tree("owner-all-ones", Loads, Agrees, &[Entry::dir("d/").record("uid", "4294967295").record("gid", "5")]),
        tree("owner-of-33-bits", Loads, Agrees, &[Entry::file("x", "x").record("uid", "4294967297")]),
        tree("device-of-many-bits", Loads, Agrees, &[Entry::device("n", 0x1001, 0x10_0003)]),
        tree(
            "acl",
            Loads,
            Agrees,
            &[
                Entry::file("x", "x").record("SCHILY.xattr.system.posix_acl_access", list()),
                Entry::dir("d/").mode(0o750).record("SCHILY.xattr.system.posix_acl_access", list()),
            ],
        ),
        tree(
            "capability-and-hard-link",
            Loads,
            Agrees,
            &[
                Entry::file("x", "x").record("SCHILY.xattr.security.capability", capability.clone()),
                Entry::hard_link("without", "x"),
                Entry::file("y", "y").record("SCHILY.xattr.security.capability", capability.clone()),
                Entry::hard_link("with", "y").record("SCHILY.xattr.security.capability", capability),
            ],
        ),
        tree(
            "attribute-of-another-kernel",
            Loads,
            Differs("28 refuses what its library does not take, 20.10 leaves it out"),
            &[Entry::file("x", "x")
                .record("SCHILY.xattr.system.nfs4_acl", "x")
                .record("SCHILY.xattr.com.apple.x", "x")],
        ),
        tree("sparse-of-another-version", Loads, Agrees, &[Entry::file("x", "x").record("GNU.sparse.major", "2")]),
        tree("sparse-by-name-alone", Loads, Agrees, &[Entry::file("x", "x").record("GNU.sparse.name", "y")]),
        tree("time-that-is-none", Refuses("time"), Agrees, &[Entry::file("x", "x").record("ctime", "y")]),
    ]
}

/// Layers whose names are odd.
fn names() -> Vec<Odd> {
    let library = [Entry::dir("usr/"), Entry::dir("usr/lib/"), Entry::symlink("lib", "usr/lib")];
    let through = [
        Entry::file("lib/libc.so", "library"),
        Entry::hard_link("lib/libc.so.6", "lib/libc.so"),
        Entry::dir("lib/more/"),
        Entry::file("lib/more/x", "x"),
        Entry::file("lib/.wh.old", ""),
    ];
    vec![
        tree("through-a-link", Loads, Agrees, &[&library[..], &through].concat()),
        Draft::new("through-a-link-below", vec![layer(&library), layer(&through)]).is(Loads, Agrees),
        tree("through-a-link-to-nowhere", Loads, Agrees, &[Entry::symlink("s", "no/where"), Entry::file("s/x", "x")]),
        tree(
            "through-a-link-out",
            Refuses("leads out"),
            Agrees,
            &[Entry::symlink("s", "../../no/where"), Entry::file("s/x", "x")],
        ),
        tree("file-with-slash", Loads, Agrees, &[Entry { kind: b'0', ..Entry::file("x/", "x") }]),
        tree("two-names", Loads, Agrees, &[Entry::file("/x", "x"), Entry::file("x", "x")]),
        tree(
            "two-names-two-contents",
            Refuses("two names"),
            Differs("it loads what it cannot save again"),
            &[Entry::file("/x", "1"), Entry::file("x", "2")],
        ),
        tree("name-twice", Refuses("duplicates"), Agrees, &[Entry::file("./x", "x"), Entry::file("x", "x")]),
        tree(
            "above-the-root",
            Loads,
            Differs("28 refuses it, 20.10 does not"),
            &[Entry::dir("/../"), Entry::file("/../x", "x"), Entry::file("a/../y", "y")],
        ),
    ]
}

/// Returns all of them.
#[must_use]
pub(crate) fn all() -> Vec<Odd> {
    [headers(), names()].concat()
}
