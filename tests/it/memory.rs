//! What a save or load takes: memory that does not grow with the layers, and no place but its output.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::archive::{gzip, member_header, tar_of};
use crate::support::command::{DOCKPACK, HURRY};
use crate::support::engine::Engine;
use crate::support::foreign::oci_of;
use crate::support::store::{assert_nothing_else, assert_same_images, names, sha256, temp_dir, unpack};
use crate::support::tree::Untouched;

const MIB: u64 = 1 << 20;

/// What a process took, in bytes.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Memory, at most.
    pub(crate) memory: u64,
    /// What it wrote, to whatever.
    written: u64,
}

/// Runs dockpack to its end in an empty directory, where it may leave nothing, and watches it.
#[track_caller]
fn watch(arguments: &[&str], stdin: Option<&str>) -> Taken {
    let (taken, code) = watch_any(arguments, stdin);
    assert_eq!(code, Some(0), "{arguments:?}");
    taken
}

/// As [`watch`], whatever comes of it: returns the exit code too.
#[track_caller]
pub(crate) fn watch_any(arguments: &[&str], stdin: Option<&str>) -> (Taken, Option<i32>) {
    let here = temp_dir();
    let mut command = Command::new(DOCKPACK);
    command.env_clear().env(HURRY, "1").args(arguments).current_dir(here.path());
    command.stdin(stdin.map_or(Stdio::null(), |path| fs::File::open(path).expect("a file").into()));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("dockpack runs");
    let proc = Path::new("/proc").join(child.id().to_string());
    let field = |file: &str, name: &str| -> Option<u64> {
        let text = fs::read_to_string(proc.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    let mut memory = 0;
    // A process that has ended and was not waited for has no memory any more, and still its counts.
    while let Some(peak) = field("status", "VmHWM:") {
        memory = memory.max(peak * 1024);
        std::thread::sleep(Duration::from_millis(5));
    }
    let written = field("io", "wchar:").expect("the kernel counts what a process writes");
    let code = child.wait().expect("it ends").code();
    assert_eq!(names(here.path()), [] as [String; 0], "something is left");
    let taken = Taken { memory, written };
    assert!(taken.memory < 512 * MIB, "{arguments:?}: {taken:?}");
    (taken, code)
}

#[test]
fn daemon_made_a_layer_of_500_mb() {
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name);
    let engine = Engine::start("28", "overlay2", &at("engine"));
    engine.fill(&["big"]);
    // A store that never had a container has not all directories.
    engine.docker(&["create", "--network", "none", "big:1", "true"]);
    let text = |path: &Path| path.display().to_string();
    engine.docker(&["save", "-o", &text(&at("docker.tar")), "big:1"]);
    engine.stop();
    let root = text(&at("engine/root"));

    let forms = [("1.tar.zst", &[][..]), ("2.tar.zst", &["--threads", "8"]), ("3.tar.gz", &[]), ("4.tar", &[])];
    for (name, more) in forms {
        let archive = text(&at(name));
        let saved = watch(&[&["--root", &root, "save", "big:1", "-o", &archive], more].concat(), None);
        let length = fs::metadata(&archive).expect("the archive").len();
        assert!(saved.written < length + MIB, "{saved:?}, but the archive has {length} bytes");

        // From the file, and once as it comes through a pipe.
        let (input, stdin) = if more.is_empty() { (&archive[..], None) } else { ("-", Some(&archive[..])) };
        let target = temp_dir();
        let loaded = watch(&["--root", &text(target.path()), "load", "-i", input], stdin);
        assert!(loaded.written < 540_000_000 + MIB, "{loaded:?}");
        assert!(loaded.written > 500_000_000, "the layer is not as large as this test wants it: {loaded:?}");
        assert_same_images(Path::new(&root), target.path(), "overlay2");
        fs::remove_file(archive).expect("removed");
    }
    // An archive of another tool's is copied only where it comes from a pipe.
    let docker = text(&at("docker.tar"));
    for (input, stdin, most) in [(&docker[..], None, 540_000_000), ("-", Some(&docker[..]), 1_080_000_000)] {
        let target = temp_dir();
        let loaded = watch(&["--root", &text(target.path()), "load", "-i", input], stdin);
        assert!(loaded.memory < 64 * MIB, "{loaded:?}");
        assert!(loaded.written < most + 2 * MIB && loaded.written > most - 80_000_000, "{loaded:?}");
    }
    fs::remove_file(docker).expect("removed");
    assert_eq!(names(dir.path()), ["engine", "engine.start"]);
}

/// A layer, and how it came out: compressed to a thousandth, true to its headers or not, to its digest or not.
#[test]
fn layers_of_zeros() {
    const LENGTH: u64 = 192 * MIB;
    let temp = temp_dir();
    let archive = temp.path().join("archive.tar").display().to_string();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).expect("compressed");
    let cases = [
        ("as long as it says", LENGTH, true, Some(0)),
        ("as long as it says, and another layer", LENGTH, false, Some(1)),
        ("with zeros behind its end", 100, true, Some(0)),
        ("with zeros behind its end, and another layer", 100, false, Some(1)),
        ("shorter than it says", 1 << 40, true, Some(1)),
    ];
    for (what, claimed, is_right, wanted) in cases {
        let mut tar = member_header("zeros", claimed);
        tar.resize(tar.len() + usize::try_from(LENGTH + 1024).expect("short"), 0);
        let diff = sha256(if is_right { &tar } else { b"another" });
        for (how, packed) in [("gzip", gzip(&tar)), ("zstd", zstd(&tar))] {
            assert!((packed.len() as u64) < LENGTH / 500, "{how}: {}", packed.len());
            fs::write(&archive, tar_of(oci_of(vec![(diff.clone(), packed)]))).expect("written");
            for (input, stdin) in [(&archive[..], None), ("-", Some(&archive[..]))] {
                let target = temp_dir();
                let before = Untouched::note(target.path());
                let arguments = ["--root", target.path().to_str().expect("text"), "load", "-i", input];
                let (taken, code) = watch_any(&arguments, stdin);
                assert_eq!(code, wanted, "{what}, {how}, {input}");
                assert!(taken.memory < 48 * MIB, "{what}, {how}, {input}: {taken:?}");
                match code {
                    Some(0) => assert_nothing_else(target.path(), "overlay2"),
                    _ => before.assert_restored(),
                }
            }
        }
    }
}

/// Runs dockpack where nothing can be written but in the directories `out` and `target`.
#[track_caller]
fn confined(dir: &Path, root: &Path, arguments: &[&str]) {
    const CONFINE: &str = r#"
        set -e
        for dir in out target; do mount --bind "$1/$dir" "$1/$dir"; done
        for dir in /tmp /var/tmp /dev/shm /run /root /home "$(stat -c %m "$1")" /; do
          if mountpoint -q "$dir"; then mount -o remount,bind,ro "$dir"; fi
        done
        ! touch "$1/elsewhere" 2>/dev/null
        cd "$1/cwd"
        shift
        exec "$@"
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-c", CONFINE, "confine"]).arg(dir);
    command.env(HURRY, "1").arg(DOCKPACK).arg("--root").arg(root).args(arguments);
    let output = command.output().expect("unshare runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nothing_is_written_elsewhere() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    for dir in ["out", "target", "cwd"] {
        fs::create_dir(at(dir)).expect("a directory");
    }
    unpack("28-overlay2", &at("source"));
    for name in ["all.tar.zst", "all.tar.gz", "all.tar"] {
        let archive = at("out").join(name).display().to_string();
        confined(temp.path(), &at("source"), &["save", "--all", "-o", &archive]);
        confined(temp.path(), &at("target"), &["load", "-i", &archive]);
        assert_same_images(&at("source"), &at("target"), "overlay2");
        for entry in names(&at("target")) {
            fs::remove_dir_all(at("target").join(entry)).expect("removed");
        }
    }
    assert_eq!(names(&at("out")), ["all.tar", "all.tar.gz", "all.tar.zst"]);
    assert_eq!(names(&at("cwd")), [] as [String; 0]);
}
