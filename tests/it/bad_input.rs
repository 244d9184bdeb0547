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

use crate::support::command::{DOCKPACK, HURRY, Outcome, dockpack, outcome, run, save, try_load};
use crate::support::disk::Disk;
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
    fails(root.path(), ["save", "zzz", "-o", "x.tar"], 1, &["no image zzz", " ls -a` shows what is there"]);
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
    let (root, dir) = (store(), temp_dir());
    let archive = dir.path().join("x.tar");
    save(root.path(), &["alpine:3.4"], &archive);
    // The program, and a directory, where everybody can come.
    let open = tempfile::tempdir_in("/tmp").expect("a directory");
    let program = open.path().join("dockpack");
    fs::copy(DOCKPACK, &program).expect("a copy");
    fs::copy(&archive, open.path().join("x.tar")).expect("a copy");
    for (path, mode) in [(open.path().to_owned(), 0o755), (open.path().join("empty"), 0o755)] {
        fs::create_dir_all(&path).expect("a directory");
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("a mode");
    }
    let as_nobody = |root: &Path, arguments: &[&str]| {
        let mut command = assert_cmd::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).arg("--root").arg(root);
        command.args(arguments);
        expect(outcome(command), 1, &["ermission denied", "sudo"]);
    };
    let at = open.path().join("x.tar").display().to_string();
    as_nobody(root.path(), &["ls"]);
    as_nobody(root.path(), &["save", "--all", "-o", "/tmp/never.tar"]);
    as_nobody(root.path(), &["load", "-i", &at]);
    as_nobody(&open.path().join("empty"), &["load", "-i", &at]);
    as_nobody(&open.path().join("empty"), &["load", "-i", archive.to_str().expect("text")]);
    assert!(names(&open.path().join("empty")).is_empty() && !Path::new("/tmp/never.tar").exists());
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
        ("text", b"no archive at all\n", "it is no archive"),
        ("long", &[b'x'; 5000], "it is no archive"),
        ("bzip2", b"BZh91AY&SY", "cut off"),
        ("xz", b"\xfd7zXZ\0\0\0\0\0", "cut off"),
        ("zeros", &[0; 4096], "no manifest.json"),
    ];
    for (name, bytes, says) in cases {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("a file");
        expect(try_load(root.path(), &path, &[]), 1, &["cannot read archive", says]);
    }
    expect(try_load(root.path(), dir.path(), &[]), 1, &["no manifest.json, no index.json and no repositories"]);
    expect(try_load(root.path(), &dir.path().join("none"), &[]), 1, &["No such file"]);
    let foreign = dir.path().join("foreign.tar");
    let mut tar = tar::Builder::new(fs::File::create(&foreign).expect("a file"));
    tar.append_path_with_name(project("LICENSE"), "manifest.json").expect("a member");
    tar.finish().expect("a tar");
    expect(try_load(root.path(), &foreign, &[]), 1, &["manifest.json: no JSON: expected a value"]);
    assert!(names(root.path()).is_empty(), "nothing is made of nothing");
}

#[test]
fn outputs_that_cannot_be() {
    let root = store();
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::create_dir(dir.path().join("dir.tar")).expect("a directory");
    fails(root.path(), ["save", "alpine:3.4", "-o", &at("dir.tar")], 1, &["cannot write", "directory", "end it in /"]);
    fails(root.path(), ["save", "alpine:3.4", "-o", &at("no/such/x.tar")], 1, &["cannot write"]);
    fails(root.path(), ["save", "alpine:3.4", "-o", &at("x.rar")], 2, &["does not say how to compress"]);
    fails(root.path(), ["save", "alpine:3.4", "-o", "/dev/full"], 2, &["does not say how to compress"]);
    fs::write(dir.path().join("dir.tar/file"), "x").expect("a file");
    fails(
        root.path(),
        ["save", "alpine:3.4", "-o", &format!("oci:{}", at("dir.tar"))],
        1,
        &["not empty", "is not there yet"],
    );
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
    assert!(stderr.contains("dockpack: cannot write standard output"), "{stderr}");
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
    let disk = Disk::make("ext4", &dir.path().join("disk.img"), 8);
    expect(try_load(disk.path(), &all, &[]), 1, &["No space left on device"]);
    assert_eq!(names(disk.path()), ["lost+found"]);
    try_load(disk.path(), &small, &[]).done();
    let before = Tree::read(disk.path());
    expect(try_load(disk.path(), &all, &[]), 1, &["No space left on device"]);
    let after = Tree::read(disk.path());
    assert_same(&before.without_times(), &after.without_times(), Allow::NOTHING);
    assert!(!run(disk.path(), ["ls"]).done().stdout.is_empty());

    // Nor is half an archive left.
    let out = disk.path().join("out.tar").display().to_string();
    expect(outcome(dockpack(root.path(), ["save", "--all", "-o", &out])), 1, &["No space left on device"]);
    assert!(!Path::new(&out).exists());
}

/// Leaves this many bytes free on a disk.
fn leave(disk: &Disk, bytes: u64) {
    let filler = disk.path().join("filler");
    let _ = fs::remove_file(&filler);
    // What was removed is free only when the file system has written it, and XFS frees inodes later still.
    let free = || {
        assert!(Command::new("sync").arg("-f").arg(disk.path()).status().expect("sync runs").success());
        let found = rustix::fs::statvfs(disk.path()).expect("a file system");
        found.f_bavail * found.f_frsize
    };
    for _ in 0..100 {
        if free() > bytes {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let free = free();
    let file = fs::File::create(&filler).expect("a file");
    let length = free.checked_sub(bytes).expect("a disk that is large enough");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length).expect("space");
}

/// However much is free, a load is either done, or leaves nothing: it never ends in the middle.
fn a_disk_with_less_and_less(kind: &str, megabytes: u64) {
    let (root, dir) = (store(), temp_dir());
    let archive = dir.path().join("all.tar.zst");
    save(root.path(), &["alpine:3.4", "nginx:alpine", "bk:1", "rebuilt"], &archive);
    let disk = Disk::make(kind, &dir.path().join("disk.img"), megabytes);
    let target = disk.path().join("target");
    fs::create_dir(&target).expect("a directory");
    let fits = |bytes: u64| {
        leave(&disk, bytes);
        let outcome = try_load(&target, &archive, &[]);
        if outcome.status.success() {
            crate::support::store::assert_sound(&target, "overlay2");
            for name in names(&target) {
                fs::remove_dir_all(target.join(name)).expect("removed");
            }
            return true;
        }
        expect(outcome, 1, &["No space left on device"]);
        assert!(names(&target).is_empty(), "{:?} is left with {bytes} free", names(&target));
        false
    };
    let (mut less, mut more) = (64 << 10, 24 << 20);
    assert!(!fits(less) && fits(more));
    while more - less > 64 << 10 {
        let middle = u64::midpoint(less, more);
        if fits(middle) { more = middle } else { less = middle }
    }
    // Around the least that is enough, where it is the last steps that find no room.
    for step in 0..24 {
        let _ = fits(less.saturating_sub(32 << 10) + step * (8 << 10));
    }
    for step in 1..12 {
        let _ = fits(less * step / 12);
    }
}

#[test]
fn a_disk_with_less_and_less_on_ext4() {
    a_disk_with_less_and_less("ext4", 64);
}

#[test]
fn a_disk_with_less_and_less_on_xfs() {
    a_disk_with_less_and_less("xfs", 400);
}

#[test]
fn a_disk_that_is_read_only() {
    let (root, dir) = (store(), temp_dir());
    let archive = dir.path().join("x.tar");
    save(root.path(), &["alpine:3.4"], &archive);
    let disk = Disk::make("ext4", &dir.path().join("disk.img"), 16);
    try_load(disk.path(), &archive, &[]).done();
    let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.path()).status();
    assert!(remount.expect("mount runs").success());
    let all = dir.path().join("all.tar");
    save(root.path(), &["nginx:alpine"], &all);
    expect(try_load(disk.path(), &all, &[]), 1, &["Read-only file system"]);
    // Looking and saving need nothing else.
    let _ = run(disk.path(), ["ls"]).done();
    save(disk.path(), &["alpine:3.4"], &dir.path().join("again.tar"));
    assert_eq!(fs::read(archive).expect("an archive"), fs::read(dir.path().join("again.tar")).expect("an archive"));
}

/// dockerd does not start on such a store; nor is anything added to it.
#[test]
fn a_store_that_is_damaged_where_it_matters() {
    let (root, dir) = (store(), temp_dir());
    let archive = dir.path().join("x.tar");
    save(root.path(), &["alpine:3.4"], &archive);
    let file = root.path().join("image/overlay2/repositories.json");
    for text in ["", "{", "[]"] {
        fs::write(&file, text).expect("written");
        let before = Tree::read(root.path());
        expect(try_load(root.path(), &archive, &[]), 1, &["cannot change a store", "repositories.json cannot be read"]);
        assert_same(&before.without_times(), &Tree::read(root.path()).without_times(), Allow::NOTHING);
    }
}

#[test]
fn stores_that_are_of_another_kind() {
    let (root, dir) = (store(), temp_dir());
    let archive = dir.path().join("x.tar");
    save(root.path(), &["alpine:3.4"], &archive);
    let at = archive.to_str().expect("text");

    let containerd = temp_dir();
    for dir in ["containerd/daemon/io.containerd.metadata.v1.bolt", "buildkit/containerd-overlayfs", "containers"] {
        fs::create_dir_all(containerd.path().join(dir)).expect("a directory");
    }
    let before = Tree::read(containerd.path());
    for arguments in [&["save", "--all", "-o", "y.tar"][..], &["load", "-i", at]] {
        fails(containerd.path(), arguments, 1, &["containerd image store", "hint: ", "ctr -n moby images export"]);
    }
    assert_same(&before, &Tree::read(containerd.path()), Allow::NOTHING);

    let zfs = temp_dir();
    fs::create_dir_all(zfs.path().join("image/zfs/layerdb/sha256/x")).expect("directories");
    fs::create_dir_all(zfs.path().join("zfs/graph/x")).expect("directories");
    fails(zfs.path(), ["load", "-i", at], 1, &["cannot work on graph driver zfs"]);
    let out = dir.path().join("y.tar");
    // Before that it says that there is something it cannot read.
    let saved = run(zfs.path(), ["save", "--all", "-o", out.to_str().expect("text")]);
    assert_eq!(saved.status.code(), Some(1));
    assert!(saved.stderr.contains("cannot work on graph driver zfs"), "{}", saved.stderr);
    assert!(!out.exists());

    // Something else is there: it is no place for a store.
    let other = temp_dir();
    fs::write(other.path().join("precious"), "x").expect("written");
    fails(other.path(), ["load", "-i", at], 1, &["no Docker store at"]);
    assert_eq!(names(other.path()), ["precious"]);
    fails(&other.path().join("precious"), ["load", "-i", at], 1, &["precious"]);
    fails(&other.path().join("none"), ["load", "-i", at], 1, &["no Docker store at"]);
}

/// Ctrl-C takes away what was made so far.
#[test]
fn a_load_that_is_interrupted() {
    use rustix::process::{Pid, Signal, kill_process};
    let (root, dir) = (store(), temp_dir());
    let archive = dir.path().join("all.tar.zst");
    save(root.path(), &["--all"], &archive);
    let bytes = fs::read(&archive).expect("an archive");
    for signal in [Signal::INT, Signal::TERM] {
        let target = temp_dir();
        let mut command = Command::new(DOCKPACK);
        command.env_clear().env(HURRY, "1").arg("--root").arg(target.path()).arg("load");
        let mut load = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("dockpack runs");
        let mut pipe = load.stdin.take().expect("a pipe");
        pipe.write_all(&bytes[..bytes.len() / 2]).expect("written");
        while !target.path().join(".dockpack/load/layers").is_dir() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let pid = Pid::from_raw(i32::try_from(load.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("a signal");
        // It waits for the pipe and looks at the signal when something comes.
        let _ = pipe.write_all(&bytes[bytes.len() / 2..]);
        drop(pipe);
        let output = load.wait_with_output().expect("it ends");
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(stderr.starts_with("dockpack: "), "{stderr}");
        assert_eq!(names(target.path()), [] as [String; 0]);
        // And it can be done again.
        let _ = try_load(target.path(), &archive, &[]).done();
    }
}
