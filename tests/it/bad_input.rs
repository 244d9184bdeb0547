//! Bad input: a clear error, the right exit code, nothing on standard output, and nothing lost or half written.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use crate::support::command::{DOCKPACK, Outcome, dockpack, outcome, run, save, try_load};
use crate::support::store::{Contents, names, project, temp_dir, unpack};
use crate::support::tree::{Allow, Tree, assert_same};

/// A real store with `nginx:alpine` in it.
fn store() -> TempDir {
    let root = temp_dir();
    unpack("28-overlay2", root.path());
    root
}

/// Runs a command that must fail with this code and say this, and print nothing.
#[track_caller]
fn fails(root: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>, code: i32, says: &[&str]) {
    expect(run(root, arguments), code, says);
}

#[track_caller]
fn expect(outcome: Outcome, code: i32, says: &[&str]) {
    let outcome = outcome.failed(code);
    assert_eq!(outcome.stdout, b"", "standard output is for data");
    for text in says {
        assert!(outcome.stderr.contains(text), "{text:?} is not in {}", outcome.stderr);
    }
}

/// Returns the layer on top of `nginx:alpine` as its entry in layerdb and its directory.
fn top_of_nginx(root: &Path) -> (PathBuf, PathBuf) {
    let contents = Contents::read(root, "overlay2");
    let image = &contents.images[&contents.references["nginx:alpine"]];
    let (chain, _) = crate::support::store::stack(image).pop().expect("a layer");
    (root.join("image/overlay2/layerdb/sha256").join(&chain), root.join("overlay2").join(&contents.layers[&chain]))
}

/// Fails where saving `nginx:alpine` does not fail, say this, and leave no file.
#[track_caller]
fn save_fails(root: &Path, says: &[&str]) {
    let out = temp_dir();
    let archive = out.path().join("x.tar.zst");
    fails(root, [OsStr::new("save"), OsStr::new("nginx:alpine"), OsStr::new("-o"), archive.as_os_str()], 1, says);
    assert!(names(out.path()).is_empty(), "{:?} is left", names(out.path()));
}

#[test]
fn images_that_are_not_there() {
    let root = store();
    fails(root.path(), ["save", "ngnix:alpine", "-o", "x.tar"], 1, &["no image ngnix:alpine", "mean nginx:alpine?"]);
    fails(root.path(), ["save", "zzz", "-o", "x.tar"], 1, &["no image zzz", "dockpack ls"]);
    let ids: Vec<String> = Contents::read(root.path(), "overlay2").images.into_keys().collect();
    let shared = (0..16)
        .map(|digit| format!("{digit:x}"))
        .find(|digit| ids.iter().filter(|id| id.starts_with(digit)).count() > 1);
    let prefix = shared.expect("eighteen IDs, sixteen digits");
    fails(root.path(), ["save", &prefix, "-o", "x.tar"], 1, &["images: ", "write more of it"]);
}

#[test]
fn roots_that_are_no_store() {
    let root = temp_dir();
    fails(root.path(), ["save", "--all", "-o", "x.tar"], 1, &["no Docker store at", "--root"]);
    fails(&root.path().join("none"), ["ls"], 1, &["no Docker store at"]);
    for dir in ["overlay2/a", "image/overlay2/layerdb", "overlay/b", "image/overlay/layerdb"] {
        fs::create_dir_all(root.path().join(dir)).expect("a directory");
    }
    fails(root.path(), ["ls"], 2, &["several graph drivers: overlay, overlay2", "--driver overlay2"]);
    let root = temp_dir();
    for dir in ["containerd/daemon/io.containerd.metadata.v1.bolt", "buildkit/containerd-overlayfs", "containers"] {
        fs::create_dir_all(root.path().join(dir)).expect("a directory");
    }
    fails(root.path(), ["ls"], 1, &["containerd image store"]);
}

#[test]
fn a_store_that_may_not_be_read() {
    let root = store();
    let mut command = assert_cmd::Command::new("setpriv");
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", DOCKPACK, "--root"];
    command.args(nobody).arg(root.path()).arg("ls");
    expect(outcome(command), 1, &["ermission denied", "sudo"]);
}

#[test]
fn layers_that_are_not_what_they_were() {
    let root = store();
    let (entry, layer) = top_of_nginx(root.path());
    let conf = fs::read_dir(layer.join("diff/etc/nginx/conf.d")).expect("a directory");
    let file = conf.map(|entry| entry.expect("an entry").path()).find(|path| path.is_file()).expect("a file");
    let content = fs::read(&file).expect("its content");

    let mut changed = content.clone();
    changed[0] ^= 1;
    fs::write(&file, &changed).expect("written");
    save_fails(root.path(), &["cannot prove layer sha256:", "etc/nginx/conf.d/", "CRC-64", "used by", "nginx:alpine"]);
    fs::write(&file, [&content[..], b"more"].concat()).expect("written");
    save_fails(root.path(), &["longer than when the layer was made"]);
    fs::write(&file, &content[1..]).expect("written");
    save_fails(root.path(), &["shorter than when the layer was made"]);
    fs::remove_file(&file).expect("removed");
    save_fails(root.path(), &["cannot prove layer", "etc/nginx/conf.d/", "No such file"]);
    std::os::unix::fs::symlink("/etc/passwd", &file).expect("a link");
    save_fails(root.path(), &["cannot prove layer"]);
    fs::remove_file(&file).expect("removed");
    fs::write(&file, &content).expect("written");

    let split = entry.join("tar-split.json.gz");
    let compressed = fs::read(&split).expect("tar-split");
    change_end_of_tar(&split);
    save_fails(root.path(), &["not its diff ID"]);
    fs::write(&split, &compressed[..compressed.len() / 2]).expect("written");
    save_fails(root.path(), &["tar-split"]);
    fs::remove_file(&split).expect("removed");
    save_fails(root.path(), &["tar-split.json.gz"]);
    fs::write(&split, compressed).expect("written");

    fs::rename(&layer, root.path().join("away")).expect("renamed");
    save_fails(root.path(), &["cannot prove layer", "No such file"]);
}

/// The store of the article: no layer has its files, and of three there is not even the directory.
#[test]
fn the_article_has_no_directories() {
    let root = temp_dir();
    unpack("seed-17.03-overlay", root.path());
    let missing = format!("overlay/{}: No such file", "b".repeat(64));
    save_fails(root.path(), &["cannot prove layer sha256:7d7df46ec77e", &missing, "used by nginx:alpine"]);
}

/// Adds a block to the end of the tar that tar-split tells of, so that all parts fit and the whole is another.
fn change_end_of_tar(split: &Path) {
    use base64::Engine as _;
    let base64 = base64::prelude::BASE64_STANDARD;
    let mut text = String::new();
    GzDecoder::new(fs::File::open(split).expect("tar-split")).read_to_string(&mut text).expect("gzip");
    let mut lines: Vec<&str> = text.lines().collect();
    let mut entry: serde_json::Value = serde_json::from_str(lines.pop().expect("a line")).expect("an entry");
    let mut bytes = base64.decode(entry["payload"].as_str().expect("a segment")).expect("base64");
    bytes.extend([0; 512]);
    entry["payload"] = base64.encode(bytes).into();
    let changed = format!("{}\n{entry}\n", lines.join("\n"));
    let mut gzip = GzEncoder::new(fs::File::create(split).expect("a file"), Compression::fast());
    gzip.write_all(changed.as_bytes()).expect("written");
    gzip.finish().expect("finished");
}

#[test]
fn files_that_are_no_archive() {
    let root = temp_dir();
    let dir = temp_dir();
    let cases: [(&str, &[u8], &str); 6] = [
        ("empty", b"", "cut off"),
        ("text", b"no archive at all\n", "cut off"),
        ("long", &[b'x'; 5000], "not a tar"),
        ("bzip2", b"BZh91AY&SY", "bzip2"),
        ("xz", b"\xfd7zXZ\0\0\0\0\0", "xz"),
        ("zeros", &[0; 4096], "it ends before its digests"),
    ];
    for (name, bytes, says) in cases {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("a file");
        expect(try_load(root.path(), &path, &[]), 1, &["cannot read archive", says]);
    }
    expect(try_load(root.path(), dir.path(), &[]), 1, &["not one that dockpack wrote"]);
    expect(try_load(root.path(), &dir.path().join("none"), &[]), 1, &["No such file"]);
    let foreign = dir.path().join("foreign.tar");
    let mut tar = tar::Builder::new(fs::File::create(&foreign).expect("a file"));
    tar.append_path_with_name(project("LICENSE"), "manifest.json").expect("a member");
    tar.finish().expect("a tar");
    expect(try_load(root.path(), &foreign, &[]), 1, &["not one that dockpack wrote"]);
    assert!(names(root.path()).is_empty(), "nothing is made of nothing");
}

#[test]
fn outputs_that_cannot_be() {
    let root = store();
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::create_dir(dir.path().join("dir.tar")).expect("a directory");
    fails(root.path(), ["save", "alpine:3.4", "-o", &at("dir.tar")], 1, &["cannot write", "directory"]);
    fails(root.path(), ["save", "alpine:3.4", "-o", &at("no/such/x.tar")], 1, &["cannot write"]);
    fails(root.path(), ["save", "alpine:3.4", "-o", &at("x.rar")], 2, &["does not say how to compress"]);
    fails(root.path(), ["save", "alpine:3.4", "-o", "/dev/full"], 2, &["does not say how to compress"]);
    fs::write(dir.path().join("dir.tar/file"), "x").expect("a file");
    fails(root.path(), ["save", "alpine:3.4", "-o", &format!("oci:{}", at("dir.tar"))], 1, &["not empty"]);
    assert_eq!(names(dir.path()), ["dir.tar"]);

    // The old file stays when a save fails.
    let archive = dir.path().join("x.tar");
    fs::write(&archive, "precious").expect("a file");
    let (_, layer) = top_of_nginx(root.path());
    fs::remove_dir_all(layer).expect("removed");
    fails(root.path(), ["save", "nginx:alpine", "-o", &at("x.tar")], 1, &["cannot prove"]);
    assert_eq!(fs::read(&archive).expect("the file"), b"precious");
    assert_eq!(names(dir.path()), ["dir.tar", "x.tar"]);
}

#[test]
fn a_pipe_that_is_closed() {
    let root = store();
    let mut save = Command::new(DOCKPACK);
    save.env_clear().arg("--root").arg(root.path()).args(["save", "--all", "-o", "-"]);
    let mut save = save.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("dockpack runs");
    let mut first = [0];
    save.stdout.take().expect("a pipe").read_exact(&mut first).expect("a byte");
    let ended = save.wait_with_output().expect("it ends");
    let stderr = String::from_utf8(ended.stderr).expect("text");
    assert_eq!(ended.status.code(), Some(1), "an archive that nobody took whole is a failure");
    assert!(stderr.starts_with("dockpack: cannot write standard output"), "{stderr}");
}

#[test]
fn references_of_an_archive_that_are_not_in_it() {
    let (root, target, dir) = (store(), temp_dir(), temp_dir());
    let archive = dir.path().join("x.tar");
    save(root.path(), &["nginx:alpine"], &archive);
    expect(try_load(target.path(), &archive, &["ngnix:alpine"]), 1, &["no image ngnix:alpine", "nginx:alpine"]);
    assert!(names(target.path()).is_empty());
}

/// A file system that is too small: the target stays as it was, with and without images in it.
#[test]
fn a_disk_that_is_full() {
    let (root, dir) = (store(), temp_dir());
    let (small, all) = (dir.path().join("small.tar"), dir.path().join("all.tar.zst"));
    save(root.path(), &["alpine:3.4"], &small);
    save(root.path(), &["--all"], &all);
    let disk = Disk::new(dir.path(), 8 << 20);
    expect(try_load(disk.mount(), &all, &[]), 1, &["No space left on device"]);
    assert_eq!(names(disk.mount()), ["lost+found"]);
    try_load(disk.mount(), &small, &[]).done();
    let before = Tree::read(disk.mount());
    expect(try_load(disk.mount(), &all, &[]), 1, &["No space left on device"]);
    let after = Tree::read(disk.mount());
    assert_same(&before.without_times(), &after.without_times(), Allow::NOTHING);
    assert!(!run(disk.mount(), ["ls"]).done().stdout.is_empty());

    // Nor is half an archive left.
    let out = disk.mount().join("out.tar").display().to_string();
    expect(outcome(dockpack(root.path(), ["save", "--all", "-o", &out])), 1, &["No space left on device"]);
    assert!(!Path::new(&out).exists());
}

/// A small file system in a file.
struct Disk(PathBuf);

impl Disk {
    fn new(dir: &Path, bytes: u64) -> Self {
        let (image, mount) = (dir.join("disk"), dir.join("mount"));
        fs::File::create(&image).and_then(|file| file.set_len(bytes)).expect("a file");
        fs::create_dir(&mount).expect("a directory");
        let run = |program: &str, arguments: &[&OsStr]| {
            assert!(Command::new(program).args(arguments).status().expect("it runs").success(), "{program}");
        };
        run("mkfs.ext4", &[OsStr::new("-q"), image.as_os_str()]);
        run("mount", &[OsStr::new("-o"), OsStr::new("loop"), image.as_os_str(), mount.as_os_str()]);
        Self(mount)
    }

    fn mount(&self) -> &Path {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
