//! Archives that are unlike any that Docker writes today, and that people have all the same: by old or other tools, or
//! changed by hand. Each with what has to come of it.

use serde_json::{Value, json};

use super::archive::{Entry, Layer, Members, gzip, tar_of};
use super::foreign::{blob, sparse_tar_of, tar};
use super::store::sha256;

/// What dockpack has to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The image is loaded, and has its name.
    Loads,
    /// The image is loaded, and its name is left out.
    LoadsNameless,
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

use Answer::{Loads, LoadsNameless, Refuses};
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
        let mut config = json!({"author": self.name, "architecture": "amd64", "os": "linux", "created": "2020-01-02T03:04:05Z",
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
            "attribute-of-selinux",
            Loads,
            Agrees,
            &[Entry::file("x", "x").record("SCHILY.xattr.security.selinux", "system_u:object_r:bin_t:s0\0")],
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
        tree("name-twice", Refuses("duplicates"), Agrees, &[Entry::file("./x", "x"), Entry::file("x", "x")]),
        tree(
            "above-the-root",
            Loads,
            Differs("28 refuses it, 20.10 does not"),
            &[Entry::dir("/../"), Entry::file("/../x", "x"), Entry::file("a/../y", "y")],
        ),
    ]
}

/// Layers of which a member takes away what another has brought, so that the tree does not keep it.
pub(crate) fn displaced() -> Vec<Odd> {
    let loads = |name, entries: &[Entry]| tree(name, Loads, Agrees, entries);
    vec![
        loads("two-names-two-contents", &[Entry::file("/x", "1"), Entry::file("x", "2")]),
        loads("two-names-no-content", &[Entry::file("/x", "1"), Entry::file("x", "")]),
        loads("two-names-a-long-one", &[Entry::file("x", &"1".repeat(3 << 20)), Entry::file("/x", "2")]),
        loads("two-names-a-link", &[Entry::file("/x", "1"), Entry::file("y", "2"), Entry::hard_link("x", "y")]),
        loads("two-names-a-directory", &[Entry::file("/x", "1"), Entry::dir("x/"), Entry::file("x/y", "2")]),
        loads("two-names-and-a-link", &[Entry::file("/x", "1"), Entry::hard_link("y", "x"), Entry::file("x", "2")]),
        loads("two-names-by-a-link", &[Entry::symlink("s", "d"), Entry::file("s/x", "1"), Entry::file("d/x", "2")]),
        loads("directory-becomes-a-file", &[Entry::file("d/x", "1"), Entry::file("d", "2")]),
        loads("directory-becomes-a-link", &[Entry::file("d/e/x", "1"), Entry::symlink("d", "y")]),
        loads("whiteout-with-content", &[Entry::file("d/.wh.x", "1"), Entry::file("d/y", "2")]),
        loads("aufs-with-content", &[Entry::file(".wh..wh.plnk/x", "1"), Entry::file("y", "2")]),
    ]
}

/// An image of one layer with a changed configuration.
fn config(name: &'static str, answer: Answer, change: impl Fn(&mut Value) + 'static) -> Odd {
    Draft { config: Box::new(change), ..Draft::new(name, vec![tar("x")]) }.is(answer, Agrees)
}

/// An image of one layer with a changed text of its configuration.
fn text(name: &'static str, answer: Answer, change: impl Fn(String) -> Vec<u8>) -> Odd {
    let draft = Draft::new(name, vec![tar("x")]);
    let (_, config) = draft.members().swap_remove(0);
    let config = change(String::from_utf8(config).expect("text"));
    Odd { name, archive: tar_of(draft.around(config)), answer, oracle: Agrees }
}

/// Configurations, as Go reads them.
fn configs() -> Vec<Odd> {
    let refused = Refuses("no configuration of an image");
    vec![
        config("created-with-a-blank", refused, |config| config["created"] = "2020-01-02 03:04:05".into()),
        config("created-without-a-zone", refused, |config| config["created"] = "2020-01-02T03:04:05.123456".into()),
        config("user-as-a-number", refused, |config| config["config"]["User"] = 0.into()),
        config("env-as-text", refused, |config| config["config"]["Env"] = "A=b".into()),
        config("label-as-a-number", refused, |config| config["config"]["Labels"] = json!({"a": 1})),
        config("interval-as-text", refused, |config| config["config"]["Healthcheck"] = json!({"Interval": "30s"})),
        config("volume-as-text", refused, |config| config["config"]["Volumes"] = json!({"/x": ""})),
        config("history-as-an-object", refused, |config| config["history"] = json!({})),
        config("no-rootfs", refused, |config| config["rootfs"] = Value::Null),
        config("history-too-long", Refuses("history"), |config| {
            config["history"].as_array_mut().expect("a list").push(json!({}));
        }),
        config("layer-of-no-digest", Refuses("its layers"), |config| config["rootfs"]["diff_ids"] = json!(["x"])),
        config("nulls", Loads, |config| {
            for key in ["os", "architecture", "variant", "created", "history", "config", "container_config", "author"] {
                config[key] = Value::Null;
            }
        }),
        config("os-with-a-capital", Loads, |config| config["os"] = "Linux".into()),
        config("command-as-text", Loads, |config| config["config"]["Cmd"] = "x y".into()),
        text("rootfs-in-another-case", Loads, |text| text.replace("\"rootfs\"", "\"rootfS\"").into()),
        text("key-twice", Loads, |text| text.replacen('{', "{\"created\": \"2019-01-01T00:00:00Z\",", 1).into()),
        text("key-twice-as-none", refused, |text| text.replacen('{', "{\"created\": \"x\",", 1).into()),
        text("deep", Loads, |text| {
            text.replacen('{', &format!("{{\"x\":{}{},", "[".repeat(400), "]".repeat(400)), 1).into()
        }),
        text("too-deep", refused, |text| {
            text.replacen('{', &format!("{{\"x\":{}{},", "[".repeat(10_000), "]".repeat(10_000)), 1).into()
        }),
        text("number-too-large", Loads, |text| text.replacen('{', "{\"x\": 1e400,", 1).into()),
        text("latin-1", Loads, |text| [b"{\"x\":\"\xe4\",", &text.as_bytes()[1..]].concat()),
        text("half-a-pair", Loads, |text| text.replacen('{', "{\"comment\": \"\\ud83d\",", 1).into()),
        text("more-behind-it", refused, |text| format!("{text} x").into()),
        two_layers(),
    ]
}

/// An image that has one layer to who looks for `rootfs`, and two to Go.
fn two_layers() -> Odd {
    let draft = Draft::new(TWO_LAYERS, vec![tar("one"), tar("two")]);
    let (_, config) = draft.members().swap_remove(0);
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    let both = json!({"Diff_IDs": config["rootfs"]["diff_ids"]});
    config["rootfs"]["diff_ids"].as_array_mut().expect("a list").pop();
    config["RootFS"] = both;
    Odd { name: TWO_LAYERS, archive: tar_of(draft.around(config.to_string().into())), answer: Loads, oracle: Agrees }
}

/// Name of the archive of an image that has one layer to who looks for `rootfs`, and two to Go.
pub(crate) const TWO_LAYERS: &str = "rootfs-in-both-cases";

/// An image of one layer with a changed `manifest.json`.
fn manifest(name: &'static str, answer: Answer, change: impl Fn(&mut Value) + 'static) -> Odd {
    Draft { manifest: Box::new(change), ..Draft::new(name, vec![tar("x")]) }.is(answer, Agrees)
}

/// An image of one layer with changed members.
fn members(name: &'static str, answer: Answer, change: impl Fn(&mut Members)) -> Odd {
    let mut members = Draft::new(name, vec![tar("x")]).members();
    change(&mut members);
    Odd { name, archive: tar_of(members), answer, oracle: Agrees }
}

/// What lists the images of an archive.
fn manifests() -> Vec<Odd> {
    let digest = format!("sha256:{}", sha256(b""));
    vec![
        members("keys-in-lower-case", Loads, |members| {
            let text = String::from_utf8(members[2].1.clone()).expect("text");
            let text = text.replace("\"Config\"", "\"config\"").replace("\"RepoTags\"", "\"repoTags\"");
            members[2].1 = text.replace("\"Layers\"", "\"layers\"").into();
        }),
        members("more-behind-the-manifest", Loads, |members| members[2].1.extend(b" x")),
        manifest("tag-and-digest", LoadsNameless, move |list| {
            list[0]["RepoTags"][0] = format!("odd:tag-and-digest@{digest}").into();
        }),
        manifest("repository-sha256", LoadsNameless, |list| list[0]["RepoTags"][0] = "sha256:0123456789ab".into()),
        manifest("no-tag", Refuses("is no tag"), |list| list[0]["RepoTags"][0] = "odd".into()),
        manifest("tag-in-capitals", Refuses("is no tag"), |list| list[0]["RepoTags"][0] = "ODD:x".into()),
        manifest("layers-as-text", Refuses("expected a list"), |list| list[0]["Layers"] = "x".into()),
        manifest("an-object", Refuses("expected a list"), |list| *list = json!({"schemaVersion": 2})),
        manifest("absolute-path", Loads, |list| list[0]["Layers"][0] = "/0/layer.tar".into()),
        manifest("path-up", Refuses("leads out"), |list| list[0]["Layers"][0] = "../0/layer.tar".into()),
        members("manifest-appended", Loads, |members| {
            let last = members[2].clone();
            members[2].1 = String::from_utf8(last.1.clone()).expect("text").replace("odd:", "before:").into();
            members.push(last);
        }),
        members("member-twice", Loads, |members| {
            members.insert(1, ("0/layer.tar".to_owned(), b"another".to_vec()));
        }),
        members("configuration-edited", Loads, |members| {
            members[0].1 =
                String::from_utf8(members[0].1.clone()).expect("text").replace("/bin/true", "/bin/false").into();
        }),
        sparse("sparse-members", "0.1", <[u8]>::to_vec),
        sparse("sparse-members-mapped-in-front", "1.0", <[u8]>::to_vec),
        sparse("sparse-members-in-gzip", "0.1", gzip),
        sparse("sparse-members-mapped-in-front-in-gzip", "1.0", gzip),
        linked("linked-directory", &[Entry::symlink("0", "real")], "real/layer.tar"),
        linked("linked-to-the-root", &[Entry::symlink("0", "/real")], "real/layer.tar"),
    ]
}

/// An archive of which all members are sparse files.
fn sparse(name: &'static str, version: &str, pack: fn(&[u8]) -> Vec<u8>) -> Odd {
    let members = Draft::new(name, vec![tar("x")]).members();
    Odd { name, archive: pack(&sparse_tar_of(members, version)), answer: Loads, oracle: Agrees }
}

/// An archive in which the layer is at `path`, behind these members.
fn linked(name: &'static str, entries: &[Entry], path: &str) -> Odd {
    let mut members = Draft::new(name, vec![tar("x")]).members();
    path.clone_into(&mut members[1].0);
    let mut archive = layer(entries);
    archive.truncate(archive.len() - 1024);
    archive.extend(tar_of(members));
    Odd { name, archive, answer: Loads, oracle: Agrees }
}

/// Archives and layers in every compression that Docker takes.
fn compressions() -> Vec<Odd> {
    let outer = |name, pack: fn(&[u8]) -> Vec<u8>| Odd {
        archive: pack(&Draft::new(name, vec![tar("x")]).is(Loads, Agrees).archive),
        ..Draft::new(name, vec![tar("x")]).is(Loads, Agrees)
    };
    let inner = |name, pack: fn(&[u8]) -> Vec<u8>| members(name, Loads, |members| members[1].1 = pack(&members[1].1));
    vec![
        outer("outer-xz", xz),
        outer("outer-bzip2", bzip2),
        outer("outer-gzip-and-zeros", |bytes| [gzip(bytes), vec![0; 5000]].concat()),
        outer("outer-gzip-in-two", |bytes| [gzip(&bytes[..700]), gzip(&bytes[700..])].concat()),
        inner("layer-xz", xz),
        inner("layer-bzip2", bzip2),
        inner("layer-xz-in-two", |bytes| [xz(&bytes[..700]), xz(&bytes[700..])].concat()),
        Odd {
            answer: Refuses("behind its end"),
            oracle: Differs("28 does not read to the end"),
            ..outer("outer-gzip-and-more", |bytes| [gzip(bytes), b"more".to_vec()].concat())
        },
    ]
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = liblzma::read::XzEncoder::new(bytes, 6);
    std::io::copy(&mut encoder, &mut packed).expect("compressed");
    packed
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = bzip2::read::BzEncoder::new(bytes, bzip2::Compression::best());
    std::io::copy(&mut encoder, &mut packed).expect("compressed");
    packed
}

/// Archives of version 1, from before Docker 1.10.
fn version_1() -> Vec<Odd> {
    let image = |name: &'static str, json: Value| Odd {
        name,
        archive: tar_of([
            ("aa/json".to_owned(), json.to_string().into_bytes()),
            ("aa/layer.tar".to_owned(), tar("x")),
            ("aa/VERSION".to_owned(), b"1.0".to_vec()),
            ("repositories".to_owned(), json!({"odd": {name: "aa"}}).to_string().into_bytes()),
        ]),
        answer: Loads,
        oracle: Agrees,
    };
    let created = "2015-01-01T00:00:00.500+00:00";
    let config = json!({"Hostname": "h", "Cmd": ["a<b", "\u{e4}"], "Env": ["A=b"], "Labels": {"b": "2", "a": "1"}, "Volumes": {"/x": {}},
        "ExposedPorts": {"1/tcp": {}}, "Entrypoint": [], "Unknown": 1, "Memory": 5, "OnBuild": null, "Healthcheck": {"Test": ["NONE"], "Retries": 2}});
    vec![
        image(
            "v1-author",
            json!({"id": "aa", "created": created, "os": "linux", "architecture": "amd64", "docker_version": "1.9.1",
            "author": "A", "comment": "C", "container_config": {"Cmd": ["x"]}}),
        ),
        image(
            "v1-command-as-text",
            json!({"id": "aa", "created": created, "docker_version": "1.10.0", "container_config": {"Cmd": "x y"}}),
        ),
        image(
            "v1-without-a-version",
            json!({"id": "aa", "created": created, "Size": 5, "throwaway": true, "config": config,
            "container_config": config, "container": "c", "author": "<A>", "variant": "v8"}),
        ),
        image("v1-old", json!({"id": "aa", "docker_version": "1.8.2", "config": {}, "unknown": 1})),
        Odd { answer: Refuses("expected text"), ..image("v1-author-as-a-number", json!({"id": "aa", "author": 1})) },
    ]
}

/// Layouts of OCI, of which Docker without containerd's store takes none.
fn layouts() -> Vec<Odd> {
    let beside = |name: &'static str, more: &dyn Fn(&mut Members) -> Value| {
        let layer = tar("x");
        let config = json!({"author": name, "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))]}})
        .to_string()
        .into_bytes();
        let manifest = json!({"config": descriptor(&config, "image.config.v1+json"),
            "layers": [descriptor(&layer, "image.layer.v1.tar")]})
        .to_string()
        .into_bytes();
        let mut pointer = descriptor(&manifest, "image.manifest.v1+json");
        pointer["annotations"] = match name {
            "name-in-capitals" => json!({"io.containerd.image.name": format!("docker.io/library/ODD:{name}")}),
            "name-of-a-path" => json!({"org.opencontainers.image.ref.name": format!("./odd:{name}")}),
            _ => json!({"io.containerd.image.name": format!("docker.io/library/odd:{name}")}),
        };
        let mut members: Members = [layer, config, manifest].into_iter().map(blob).collect();
        let other = more(&mut members);
        let index = json!({"schemaVersion": 2, "manifests": [other, pointer]});
        members.push(("index.json".to_owned(), index.to_string().into_bytes()));
        Odd { name, archive: tar_of(members), answer: Loads, oracle: Differs("it wants a manifest.json") }
    };
    let other = |members: &mut Members, config: &str, layer: &str, more: &Value| {
        let content = br#"{"critical":{}}"#.to_vec();
        let mut manifest = json!({"config": descriptor(b"{}", config), "layers": [descriptor(&content, layer)]});
        for (key, value) in more.as_object().into_iter().flatten() {
            manifest[key] = value.clone();
        }
        let manifest = manifest.to_string().into_bytes();
        let pointer = descriptor(&manifest, "image.manifest.v1+json");
        members.extend([b"{}".to_vec(), content, manifest].map(blob));
        pointer
    };
    let signature = "dev.cosign.simplesigning.v1+json";
    vec![
        beside("signature-beside", &|members| other(members, "image.config.v1+json", signature, &Value::Null)),
        beside("chart-beside", &|members| other(members, "helm.config.v1+json", "image.layer.v1.tar", &Value::Null)),
        beside("artifact-beside", &|members| {
            other(members, "image.config.v1+json", "image.layer.v1.tar", &json!({"artifactType": "text/spdx"}))
        }),
        beside("referrer-beside", &|members| {
            let subject = descriptor(b"", "image.manifest.v1+json");
            other(members, "image.config.v1+json", "image.layer.v1.tar", &json!({"subject": subject}))
        }),
        Odd {
            answer: LoadsNameless,
            ..beside("name-in-capitals", &|members| other(members, "x", "x", &json!({"annotations": null})))
        },
        Odd { answer: LoadsNameless, ..beside("name-of-a-path", &|members| other(members, "x", "x", &Value::Null)) },
        // Docker 28 refuses all layouts.
        Odd {
            answer: Refuses("only those of SHA-256 are read"),
            oracle: Agrees,
            ..beside("sha512", &|_| {
                let mut pointer = descriptor(b"", "image.manifest.v1+json");
                pointer["digest"] = json!(format!("sha512:{}", "160313e014c1bf34".repeat(8)));
                pointer
            })
        },
    ]
}

fn descriptor(bytes: &[u8], kind: &str) -> Value {
    let kind = format!("application/vnd.oci.{kind}");
    json!({"digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len(), "mediaType": kind, "annotations": null})
}

/// What is no archive of images.
fn none() -> Vec<Odd> {
    let no = |name, answer, archive: &[u8]| Odd { name, archive: archive.to_vec(), answer, oracle: Agrees };
    let export =
        layer(&[Entry::dir("bin/"), Entry::symlink("etc/mtab", "/proc/mounts"), Entry::symlink("up", "../../x")]);
    vec![
        no("text", Refuses("it is no archive"), b"text\n"),
        no("a-lot-of-text", Refuses("it is no archive"), &b"text\n".repeat(1000)),
        no("zip", Refuses("it is no archive"), &[b"PK\x03\x04", &[7; 2000][..]].concat()),
        no("zeros", Refuses("no manifest.json"), &[0; 10240]),
        no("export", Refuses("docker import"), &export),
    ]
}

/// Returns all of them.
#[must_use]
pub(crate) fn all() -> Vec<Odd> {
    [headers(), names(), displaced(), configs(), manifests(), compressions(), version_1(), layouts(), none()].concat()
}

/// The image of one archive, without its layers where `lacks` says so: whoever has them needs no more.
#[must_use]
pub(crate) fn thin(lacks: &[usize]) -> Vec<u8> {
    let mut members = Draft::new("thin", vec![tar("below"), tar("above")]).members();
    members.retain(|(name, _)| !lacks.iter().any(|number| name.starts_with(&format!("{number}/"))));
    tar_of(members)
}
