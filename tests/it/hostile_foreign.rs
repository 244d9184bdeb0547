//! Archives of other tools' forms that somebody made to do harm, or that are broken: see `hostile.rs`.

use std::path::Path;

use serde_json::{Value, json};

use crate::hostile::Verdict::{self, Harmless, Refused};
use crate::hostile::each_target;
use crate::support::archive::{Entry, Layer, Members, gzip, member_header, tar_of};
use crate::support::command::{dockpack, outcome};
use crate::support::foreign::{blob, docker, oci, sparse_tar_of, tar};
use crate::support::store::{memory_dir, names, sha256};
use crate::support::tree::Untouched;

/// Loads changed members into all targets, plain and compressed, and once through a pipe.
#[track_caller]
fn archive(what: &str, verdict: Verdict, make: impl Fn() -> Vec<u8>) {
    each_target(&format!("{what}, compressed"), verdict, |_, _| gzip(&make()));
    packed(what, verdict, make);
}

/// Loads an archive as it is into all targets, and once through a pipe.
#[track_caller]
fn packed(what: &str, verdict: Verdict, make: impl Fn() -> Vec<u8>) {
    each_target(what, verdict, |_, _| make());
    let temp = memory_dir();
    let at = |name: &str| temp.path().join(name);
    for name in ["target", "outside"] {
        std::fs::create_dir(at(name)).expect("a directory");
    }
    let target = Untouched::note(&at("target"));
    let mut command = dockpack(&at("target"), ["load"]);
    command.write_stdin(make());
    let outcome = outcome(command);
    match verdict {
        Refused => {
            assert_eq!(outcome.status.code(), Some(1), "{what}, from a pipe: {}", outcome.stderr);
            assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
            target.assert_restored();
        }
        Harmless => drop(outcome.done()),
    }
    assert_eq!(names(&at("outside")), [] as [String; 0], "{what}");
}

#[track_caller]
fn members(what: &str, verdict: Verdict, form: fn(&[Vec<u8>]) -> Members, edit: impl Fn(&mut Members)) {
    archive(what, verdict, || {
        let mut members = form(&[tar("below"), tar("above")]);
        edit(&mut members);
        tar_of(members)
    });
}

/// Edits the JSON of a member.
fn document(members: &mut Members, name: &str, edit: impl Fn(&mut Value)) {
    let (_, bytes) = members.iter_mut().find(|(found, _)| found == name).expect("the member");
    let mut value = serde_json::from_slice(bytes).expect("JSON");
    edit(&mut value);
    *bytes = value.to_string().into_bytes();
}

fn position(members: &Members, end: &str) -> usize {
    members.iter().position(|(name, _)| name.ends_with(end)).expect("the member")
}

/// Puts a tar together from entries of any kind.
fn raw(entries: Vec<Entry>, members: Members) -> Vec<u8> {
    let mut tar = Layer::new("raw", entries).tar;
    tar.truncate(tar.len() - 1024);
    tar.extend(tar_of(members));
    tar
}

#[test]
fn good_ones_are_taken() {
    members("docker", Harmless, docker, |_| {});
    members("oci", Harmless, oci, |_| {});
}

#[test]
fn paths_that_lead_out() {
    for path in ["../outside/secret", "/etc/passwd", "0/../../outside/secret", "../target/x", "..", "", "0", "."] {
        members(path, Refused, docker, |members| {
            document(members, "manifest.json", |manifest| manifest[0]["Layers"][0] = path.into());
        });
        members(path, Refused, docker, |members| {
            document(members, "manifest.json", |manifest| manifest[0]["Config"] = path.into());
        });
    }
    for digest in ["sha256:../../../outside/secret", "../x", "sha256:", "sha512:00", "md5:0", ""] {
        members(digest, Refused, oci, |members| {
            document(members, "index.json", |index| index["manifests"][0]["digest"] = digest.into());
        });
    }
    for name in ["../evil", "a/../../evil"] {
        members(name, Refused, docker, |members| members.insert(0, (name.to_owned(), b"evil".to_vec())));
    }
}

#[test]
fn links_that_lead_out() {
    for target in ["../../outside/secret", "/etc/passwd", "../0/layer.tar", "../../0/layer.tar", "layer.tar"] {
        archive(target, Refused, || {
            let mut members = docker(&[tar("below"), tar("above")]);
            members.remove(position(&members, "0/layer.tar"));
            raw(vec![Entry::symlink("0/layer.tar", target)], members)
        });
    }
    archive("a hard link out", Refused, || {
        let mut members = docker(&[tar("below"), tar("above")]);
        members.remove(position(&members, "0/layer.tar"));
        raw(vec![Entry::hard_link("0/layer.tar", "../outside/secret")], members)
    });
    // As Docker writes a layer that is in it twice.
    archive("a link to the same layer", Harmless, || {
        let mut members = docker(&[tar("same"), tar("same")]);
        members.remove(position(&members, "1/layer.tar"));
        raw(vec![Entry::symlink("1/layer.tar", "../0/layer.tar")], members)
    });
    archive("devices and directories", Harmless, || {
        raw(vec![Entry::device("x", 1, 3), Entry::dir("0/"), Entry::dir("y")], docker(&[tar("below")]))
    });
}

#[test]
fn members_twice() {
    // As where they are unpacked, the last one counts.
    for name in ["manifest.json", "0/layer.tar"] {
        members(name, Harmless, docker, |members| {
            let copy = members[position(members, name)].clone();
            members.push(copy);
        });
    }
    members("another spelling", Refused, docker, |members| {
        members.push(("./manifest.json".to_owned(), b"[]".to_vec()));
    });
    archive("a file over a link", Harmless, || {
        raw(vec![Entry::symlink("manifest.json", "x")], docker(&[tar("below")]))
    });
}

#[test]
fn what_is_missing() {
    for name in [".json", "0/layer.tar", "1/layer.tar", "manifest.json"] {
        members(name, Refused, docker, |members| drop(members.remove(position(members, name))));
    }
    for number in 1..6 {
        members("a blob", Refused, oci, |members| drop(members.remove(number)));
    }
    members("a layer in the manifest", Refused, docker, |members| {
        document(members, "manifest.json", |manifest| {
            drop(manifest[0]["Layers"].as_array_mut().expect("a list").pop())
        });
    });
    members("all layers", Refused, docker, |members| {
        document(members, "manifest.json", |manifest| manifest[0]["Layers"] = Value::Null);
    });
    members("all images", Refused, docker, |members| {
        document(members, "manifest.json", |manifest| *manifest = json!([]));
    });
    members("the configuration's name", Refused, docker, |members| {
        document(members, "manifest.json", |manifest| manifest[0]["Config"] = Value::Null);
    });
}

#[test]
fn digests_that_do_not_match() {
    for name in ["0/layer.tar", "1/layer.tar"] {
        members(name, Refused, docker, |members| {
            let at = position(members, name);
            members[at].1 = tar("another");
        });
    }
    // As for Docker, the image is the one that the content says: a file's name proves nothing, a blob's does.
    members("the configuration", Harmless, docker, |members| members[0].1.push(b' '));
    for number in 1..5 {
        members("a blob", Refused, oci, |members| {
            let bytes = &mut members[number].1;
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        });
        members("more behind a blob", Refused, oci, |members| members[number].1.push(0));
    }
    // The same content in another compression: the layer is right, the blob is not.
    members("another compression", Refused, oci, |members| {
        let mut again = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        std::io::Write::write_all(&mut again, &tar("below")).expect("compressed");
        members[1].1 = again.finish().expect("compressed");
    });
}

#[test]
fn lengths_that_lie() {
    for (what, length) in [("more", 4096), ("very much more", 1 << 62), ("more than fits", u64::MAX)] {
        archive(what, Refused, || {
            let mut tar = member_header("big", length);
            tar.extend(tar_of(docker(&[self::tar("below")])));
            tar
        });
    }
    for part in [3, 2] {
        archive("cut", Refused, || {
            let mut tar = tar_of(docker(&[self::tar("below"), self::tar("above")]));
            tar.truncate(tar.len() / part);
            tar
        });
    }
}

#[test]
fn sparse_members_that_lie() {
    let sparse = |content: &str, size: u64, map: &str| {
        let parts = map.split(',').count() / 2;
        let entry = Entry::file("big", content).record("GNU.sparse.map", map);
        let entry = entry.record("GNU.sparse.numblocks", parts.to_string());
        raw(vec![entry.record("GNU.sparse.size", size.to_string())], docker(&[tar("below")]))
    };
    packed("one that nobody needs", Harmless, || sparse("some", 1 << 20, "3,2,1000000,2"));
    for (size, map) in [(1 << 41, "0,4"), (i64::MAX.cast_unsigned(), "0,4"), (2, "0,4"), (10, "0,9"), (10, "4,2,0,2")] {
        packed(&format!("{size} bytes, {map}"), Refused, || sparse("some", size, map));
    }
    // What is cut lacks a part.
    for version in ["0.1", "1.0"] {
        let whole = sparse_tar_of(docker(&[tar("below"), tar("above")]), version);
        for length in [600, 1100, 2000, 3000, whole.len() / 2] {
            packed(&format!("{length} of {version}"), Refused, || whole[..length].to_vec());
        }
        packed(version, Harmless, || whole.clone());
        packed(&format!("{version} in gzip"), Harmless, || gzip(&whole));
    }
}

#[test]
fn documents_that_are_none() {
    for text in ["", "[", "{}", "null", "[null]", "[{}]", "[1]", "{\"manifests\":1}"] {
        members(text, Refused, docker, |members| {
            let at = position(members, "manifest.json");
            members[at].1 = text.as_bytes().to_vec();
        });
        members(text, Refused, oci, |members| {
            let at = position(members, "index.json");
            members[at].1 = text.as_bytes().to_vec();
        });
    }
    members("deep", Refused, docker, |members| {
        let at = position(members, "manifest.json");
        members[at].1 = "[".repeat(100_000).into_bytes();
    });
    members("long", Refused, docker, |members| {
        let at = position(members, "manifest.json");
        members[at].1 = format!("[{}]", " ".repeat(9 << 20)).into_bytes();
    });
    for tag in ["UPPER:1", "a b:1", "", ":", "x:\u{1b}[31m", "../x:1", "x@sha256:00"] {
        members(tag, Refused, docker, |members| {
            document(members, "manifest.json", |manifest| manifest[0]["RepoTags"] = json!([tag]));
        });
    }
    members("windows", Refused, docker, |members| {
        let config = String::from_utf8(members[0].1.clone()).expect("text").replace("linux", "windows");
        members[0] = (format!("{}.json", sha256(config.as_bytes())), config.into_bytes());
        let name = members[0].0.clone();
        document(members, "manifest.json", |manifest| manifest[0]["Config"] = name.clone().into());
    });
    archive("too many layers", Refused, || tar_of(docker(&vec![tar("same"); 126])));
}

#[test]
fn indexes_in_indexes() {
    let nested = |depth: usize, copies: usize| {
        let mut members = oci(&[tar("below")]);
        for _ in 0..depth {
            let at = position(&members, "index.json");
            let (_, inner) = members.remove(at);
            let descriptor = json!({"digest": format!("sha256:{}", sha256(&inner)), "size": inner.len()});
            members.push(blob(inner));
            let index = json!({"schemaVersion": 2, "manifests": vec![descriptor; copies]});
            members.push(("index.json".to_owned(), index.to_string().into_bytes()));
        }
        tar_of(members)
    };
    archive("three deep", Harmless, || nested(3, 1));
    archive("nine deep", Refused, || nested(9, 1));
    archive("a billion manifests", Refused, || nested(4, 200));
}

#[test]
fn images_of_version_1() {
    let old = |edit: &dyn Fn(&mut Members)| {
        let mut members: Members = vec![("repositories".to_owned(), br#"{"evil":{"1":"aa"}}"#.to_vec())];
        for (id, parent) in [("aa", "bb"), ("bb", "")] {
            members.push((
                format!("{id}/json"),
                json!({"id": id, "parent": parent, "os": "linux"}).to_string().into_bytes(),
            ));
            members.push((format!("{id}/layer.tar"), tar(id)));
        }
        edit(&mut members);
        tar_of(members)
    };
    archive("a good one", Harmless, || old(&|_| {}));
    archive("its own parent", Refused, || {
        old(&|members| document(members, "aa/json", |json| json["parent"] = "aa".into()))
    });
    archive("a circle", Refused, || old(&|members| document(members, "bb/json", |json| json["parent"] = "aa".into())));
    for id in ["../outside", "/etc", "", ".", "aa/../bb"] {
        archive(id, Refused, || {
            old(&|members| document(members, "aa/json", |json| json["parent"] = format!("{id}/").into()))
        });
        archive(id, Refused, || {
            old(&|members| document(members, "repositories", |json| json["evil"]["1"] = id.into()))
        });
    }
    for name in ["aa/json", "bb/layer.tar"] {
        archive(name, Refused, || old(&|members| drop(members.remove(position(members, name)))));
    }
    archive("no name", Refused, || {
        old(&|members| document(members, "repositories", |json| json["evil"]["UP PER"] = "aa".into()))
    });
}

/// What is within the layers is refused as in archives of dockpack's own, though no tar-split came with them.
#[test]
fn layers_that_do_harm() {
    let layer = |what: &str, verdict: Verdict, entries: &[Entry]| {
        each_target(what, verdict, |_, outside: &Path| {
            let text =
                |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("OUTSIDE", outside.to_str().expect("text"));
            let expand = |entry: &Entry| Entry {
                name: text(&entry.name).into_bytes(),
                link: text(&entry.link).into_bytes(),
                ..entry.clone()
            };
            tar_of(docker(&[Layer::new("evil", entries.iter().map(expand)).tar]))
        });
    };
    layer("a name up", Refused, &[Entry::file("../evil", "x")]);
    layer(
        // As in Docker, it leads to a directory of this path within the layer.
        "a link out and a file through it",
        Harmless,
        &[Entry::symlink("out", "OUTSIDE"), Entry::file("out/evil", "x")],
    );
    layer("a hard link out", Refused, &[Entry::hard_link("x", "../../outside/secret")]);
    layer("a name twice", Refused, &[Entry::file("x", "one"), Entry::file("./x", "two")]);
    layer("more than there is", Refused, &[Entry::file("x", "short").claiming(1 << 40)]);
    let sparse = |name: &str, content: &str, size: u64, map: &str| {
        let parts = map.split(',').count() / 2;
        let entry = Entry::file(name, content).record("GNU.sparse.map", map);
        let entry = entry.record("GNU.sparse.numblocks", parts.to_string());
        entry.record("GNU.sparse.size", size.to_string()).record("GNU.sparse.name", name)
    };
    layer("a sparse file", Harmless, &[sparse("x", "some", 1 << 40, "3,2,1000000,2")]);
    layer("one without parts", Harmless, &[sparse("x", "", 1 << 40, "0,0")]);
    // A record without a value is none.
    layer("no map", Harmless, &[sparse("x", "some", 10, "")]);
    for map in [",", "0", "0,5", "0,2,1,2", "9,2,0,2", "0,3", "0,-4", "18446744073709551615,4", "x,4", "0,4,,", "7,4"] {
        layer(&format!("map {map:?}"), Refused, &[sparse("x", "some", 10, map)]);
    }
    for size in ["x", "-1", "9223372036854775808", "3"] {
        layer(size, Refused, &[sparse("x", "some", 4, "0,4").record("GNU.sparse.size", size)]);
    }
    for map in ["", "\n", "1\n0\n", "x\n", "999999999\n", "99999999999999999999999\n", "1\n0\n4\n"] {
        let content = format!("{map}{}", "\0".repeat(512 - map.len()));
        let entry = Entry::file("x", &content).record("GNU.sparse.major", "1").record("GNU.sparse.minor", "0");
        layer(&format!("map {map:?} in front of content"), Refused, &[entry.record("GNU.sparse.realsize", "4")]);
    }
    layer("another version", Harmless, &[Entry::file("x", "x").record("GNU.sparse.major", "2")]);
    layer("a sparse file up", Refused, &[sparse("../evil", "some", 4, "0,4")]);
    layer("a sparse file twice", Refused, &[Entry::file("x", "one"), sparse("./x", "some", 4, "0,4")]);
    layer(
        "a sparse file through a link",
        Harmless,
        &[Entry::symlink("out", "OUTSIDE"), sparse("out/x", "a", 1, "0,1")],
    );
    layer("an absolute name", Harmless, &[Entry::file("/OUTSIDE/evil", "x")]);
    layer("a link out", Harmless, &[Entry::symlink("out", "OUTSIDE/secret"), Entry::dir("x/").claiming(4096)]);
}

/// Other tools put skippable frames of zstd where they like: pzstd one before each frame.
#[test]
fn frames_that_are_passed_over() {
    let frame = |number: u8, length: usize| {
        let length_field = u32::try_from(length).expect("short").to_le_bytes();
        [&[0x50 + number, 0x2a, 0x4d, 0x18], &length_field[..], &vec![7; length]].concat()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).expect("compressed");
    // One of 40 bytes is as long as dockpack's own list of no frames.
    for (number, length) in [(0, 0), (0, 4), (0, 40), (0, 84), (14, 9), (15, 3 << 20)] {
        let what = format!("frame {number} of {length} bytes");
        for form in [docker, oci] {
            let tar = tar_of(form(&[tar("below"), tar("above")]));
            let (one, other) = tar.split_at(1000);
            packed(&what, Harmless, || [frame(number, length), zstd(&tar)].concat());
            packed(&format!("{what}, and more"), Harmless, || {
                [frame(number, length), zstd(one), frame(number, length), zstd(other), frame(number, length)].concat()
            });
        }
        packed(&format!("{what}, cut"), Refused, || {
            let tar = zstd(&tar_of(docker(&[tar("below")])));
            [&frame(number, length)[..], &tar[..tar.len() / 2]].concat()
        });
        packed(&format!("{what}, and nothing"), Refused, || frame(number, length));
    }
}
