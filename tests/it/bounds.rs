//! What archives and stores claim costs no memory: each hostile one is read, or refused, in 256 MiB.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::memory::watch_any;
use crate::support::archive::{Draft, Entry, Layer, gzip, header, member_header, seal, small};
use crate::support::store::{sha256, temp_dir, unpack};

const MIB: u64 = 1 << 20;

/// Runs a command that ends by itself, in little memory.
#[track_caller]
fn bounded(what: &str, arguments: &[&str], codes: &[i32]) {
    let (taken, code) = watch_any(arguments, None);
    assert!(taken.memory < 256 * MIB, "{what}: {arguments:?}: {taken:?}");
    assert!(code.is_some_and(|code| codes.contains(&code)), "{what}: {arguments:?}: {code:?}");
}

/// Lists an archive: all its documents are read for that.
#[track_caller]
fn listed(what: &str, path: &Path) {
    bounded(what, &["ls", "-i", path.to_str().expect("text")], &[0, 1]);
}

/// Lists, verifies and loads an archive: it is refused, or all is well.
#[track_caller]
fn archive(what: &str, path: &Path) {
    let (temp, path) = (temp_dir(), path.to_str().expect("text"));
    bounded(what, &["ls", "-i", path], &[0, 1]);
    bounded(what, &["verify", "-q", "-i", path], &[0, 1, 3]);
    bounded(what, &["--root", temp.path().to_str().expect("text"), "load", "-i", path], &[0, 1]);
}

/// Writes a compressed tar of members, each of which is a part that is repeated between two others.
struct Packed {
    out: zstd::Encoder<'static, File>,
    path: PathBuf,
}

impl Packed {
    fn new(dir: &Path) -> Self {
        let path = dir.join("archive.tar.zst");
        Self { out: zstd::Encoder::new(File::create(&path).expect("a file"), 1).expect("an encoder"), path }
    }

    fn add(mut self, name: &str, start: &str, part: &str, count: usize, end: &str) -> Self {
        let length = start.len() + part.len() * count + end.len();
        self.out.write_all(&member_header(name, length as u64)).expect("written");
        self.out.write_all(start.as_bytes()).expect("written");
        for _ in 0..count {
            self.out.write_all(part.as_bytes()).expect("written");
        }
        self.out.write_all(end.as_bytes()).expect("written");
        self.out.write_all(&vec![0; length.wrapping_neg() % 512]).expect("written");
        self
    }

    fn end(mut self) -> PathBuf {
        self.out.write_all(&[0; 1024]).expect("written");
        self.out.finish().expect("written");
        self.path
    }
}

#[test]
fn foreign_documents() {
    let temp = temp_dir();
    let config = r#"{"rootfs":{"type":"layers","diff_ids":[]},"os":"linux","architecture":"amd64"#;
    let named = |config: Packed| {
        let entry = r#"{"Config":"c.json","RepoTags":null,"Layers":[]},"#;
        let last = r#"{"Config":"c.json","RepoTags":["a:1"],"Layers":[]}]"#;
        config.add("manifest.json", "[", entry, 300, last).end()
    };
    let packed = || Packed::new(temp.path());
    archive("one configuration many times", &named(packed().add("c.json", config, " ", 8_000_000, "\"}")));
    listed(
        "a configuration with much in it",
        &named(packed().add("c.json", &format!("{config}\",\"x\":["), "0,", 4_000_000, "0]}")),
    );
    let empty = packed().add("c.json", config, "", 0, "\"}");
    let many = r#"{"Config":"c.json"},"#;
    listed("many images", &empty.add("manifest.json", "[", many, 400_000, r#"{"Config":"c.json"}]"#).end());
    for (key, part) in [("Layers", "\"\","), ("RepoTags", "\"\","), ("x", "0,"), ("Layers", "\"a\",")] {
        let empty = packed().add("c.json", config, "", 0, "\"}");
        let last = part.trim_end_matches(',').to_owned() + "]}]";
        let start = format!("[{{\"Config\":\"c.json\",\"{key}\":[");
        listed(key, &empty.add("manifest.json", &start, part, 8_000_000 / part.len(), &last).end());
    }
    let index = |start: &str, part: &str, end: &str| {
        packed().add("oci-layout", "{}", "", 0, "").add("index.json", start, part, 8_000_000 / part.len(), end).end()
    };
    listed("many manifests", &index("{\"manifests\":[", r#"{"digest":""},"#, r#"{"digest":""}]}"#));
    listed("an index with much in it", &index("{\"x\":[", "[],", "[]],\"manifests\":[]}"));
    listed("repositories", &packed().add("repositories", "{", "\"a\":{},", 1_000_000, "\"b\":{}}").end());
}

/// Names take no more memory than they may, however well they compress.
#[test]
fn foreign_names() {
    let temp = temp_dir();
    let mut packed = Packed::new(temp.path());
    for number in 0..400 {
        let record = format!(" path={number:08}{}\n", "a".repeat((1 << 20) - 100));
        let record = format!("{}{record}", record.len() + 7);
        let mut header = header(&Entry::new("x", b'x').claiming(record.len() as u64));
        header.extend(record.as_bytes());
        header.resize(header.len().next_multiple_of(512), 0);
        packed.out.write_all(&header).expect("written");
        packed = packed.add("f", "", "", 0, "");
    }
    archive("long names", &packed.end());
}

#[test]
fn own_index() {
    let temp = temp_dir();
    let own = |start: &str, part: &str, bytes: usize, end: &str| {
        let mut packed = Packed::new(temp.path());
        for name in ["oci-layout", "index.json", "manifest.json"] {
            packed = packed.add(name, "{}", "", 0, "");
        }
        packed.add("dockpack/archive.json", start, part, bytes / part.len(), end).end()
    };
    let start = r#"{"format":1,"driver":"overlay2","#;
    for bytes in [15 << 20, 62 << 20] {
        listed("numbers", &own(&format!("{start}\"x\":["), "0,", bytes, "0]}"));
        listed("sections", &own(&format!("{start}\"images\":[],\"layers\":[],\"sections\":["), "0,", bytes, "0]}"));
        let image =
            format!("\"layers\":[],\"images\":[{{\"id\":\"sha256:{}\",\"diffIds\":[],\"references\":[", "0".repeat(64));
        listed("references", &own(&format!("{start}{image}"), "\"a:b\",", bytes, "\"a:c\"]}]}"));
    }
    // Unpacked, and a list of members that names nothing.
    let dir = temp.path().join("unpacked");
    fs::create_dir_all(dir.join("dockpack")).expect("directories");
    for name in ["oci-layout", "index.json", "manifest.json"] {
        fs::write(dir.join(name), "{}").expect("written");
    }
    let names = "x  oci-layout\nx  index.json\nx  manifest.json\nx  dockpack/archive.json\n";
    fs::write(dir.join("dockpack/archive.json"), format!("{start}\"x\":[{}0]}}", "0,".repeat(200 << 20 >> 1)))
        .expect("written");
    fs::write(dir.join("dockpack/SHA256SUMS"), names).expect("written");
    archive("unpacked", &dir);
    fs::write(dir.join("dockpack/SHA256SUMS"), "  a\n".repeat(60 << 18)).expect("written");
    archive("many members", &dir);
}

/// Documents that belong together, of many names and images.
#[test]
fn own_documents() {
    let temp = temp_dir();
    let path = temp.path().join("archive.tar");
    let mut many_names = small();
    many_names.images[0].references = (0..40_000).map(|number| format!("a:{number:05}")).collect();
    fs::write(&path, many_names.tar()).expect("written");
    archive("many names", &path);
    let image = |number: usize| {
        let config =
            json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}, "x": number});
        let references = vec![format!("a:{number}")];
        crate::support::archive::Image { references, layers: Vec::new(), config: Some(config.to_string().into_bytes()) }
    };
    let images = Draft { images: (0..4000).map(image).collect(), ..Draft::new([]) };
    fs::write(&path, images.tar()).expect("written");
    bounded("many images", &["ls", "-i", path.to_str().expect("text")], &[0]);
    bounded("many images", &["verify", "-q", "-i", path.to_str().expect("text")], &[0]);
}

/// Lists of differences and tar-splits that say much.
#[test]
fn own_members() {
    let temp = temp_dir();
    let path = temp.path().join("archive.tar");
    let draft = |list: Vec<u8>, split: Option<Vec<u8>>| {
        let mut layer = Layer::new("much", [Entry::dir("a/"), Entry::file("a/file", "x")]);
        layer.differences = list;
        if let Some(split) = split {
            layer.tar_split = split;
        }
        Draft::single(layer).tar()
    };
    let mut lists: Vec<(&str, Vec<u8>)> = Vec::new();
    let line = |number: usize| format!("{{\"path\":\"diff/{number:x}\",\"mtime\":[1,1]}}\n");
    lists.push(("times", (0..500_000).flat_map(|number| line(number).into_bytes()).collect()));
    let line = |number: usize| format!("{{\"path\":\"diff/{number:x}\",\"mode\":1}}\n");
    lists.push(("modes", (0..500_000).flat_map(|number| line(number).into_bytes()).collect()));
    let xattrs: String = (0..1_500_000).map(|number| format!("\"{number:x}\":\"\",")).collect();
    lists.push(("attributes", format!("{{\"path\":\"diff/a\",\"xattrs\":{{{xattrs}\"x\":\"\"}}}}\n").into_bytes()));
    lists.push(("zeros", vec![b' '; 100 << 20]));
    for (what, list) in lists {
        fs::write(&path, draft(list, None)).expect("written");
        archive(what, &path);
    }
    let line = b"{\"type\":1,\"name\":\"a\",\"size\":1,\"payload\":\"AAAAAAAAAAA=\",\"position\":1}\n";
    fs::write(&path, draft(Vec::new(), Some(line.repeat(2_000_000)))).expect("written");
    archive("entries", &path);
    // Many tar-splits whose tars do not come.
    let mut members = Draft::single(Layer::new("much", [Entry::file("a", "x")])).members();
    let noise = gzip(&[0; 10]).repeat(1 << 18);
    let place = members.iter().position(|(name, _)| name.ends_with("tar-split.json.gz")).expect("a member");
    for number in 0..60 {
        let name = format!("dockpack/layers/{}/tar-split.json.gz", sha256(&[number]));
        members.insert(place, (name, noise.clone()));
    }
    fs::write(&path, seal(&members)).expect("written");
    archive("tar-splits", &path);
}

#[test]
fn stores() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    let names = root.join("image/overlay2/repositories.json");
    let text = |bytes: usize, part: &dyn Fn(usize) -> String| {
        let parts: String = (0..bytes / part(0).len()).map(part).collect();
        format!("{{\"Repositories\":{{{parts}\"z\":{{}}}}}}")
    };
    let root = root.to_str().expect("text");
    let limit = 6 << 20;
    let image = |number: usize| format!("sha256:{number:064x}");
    let repositories = [
        (
            "as many as there may be",
            text(limit - 64, &|number| format!("\"{number:06x}\":{{\"{number:06x}:1\":\"{}\"}},", image(number))),
        ),
        ("of no use", text(limit - 64, &|number| format!("\"{number:06x}\":{{}},"))),
        ("without sense", text(limit - 64, &|number| format!("\"{number:06x}\":{{\"{number:06x}\":\"\"}},"))),
        ("many more", text(200 << 20, &|number| format!("\"{number:08x}\":{{}},"))),
        ("zeros", "\0".repeat(300 << 20)),
    ];
    for (what, content) in repositories {
        fs::write(&names, content).expect("written");
        bounded(what, &["--root", root, "ls"], &[0, 1, 3]);
        bounded(what, &["--root", root, "verify", "--quick", "-q"], &[0, 1, 3]);
        bounded(what, &["--root", root, "gc", "--dry-run"], &[0, 1, 3]);
    }
}
