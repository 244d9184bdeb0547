//! What a save or load needs: memory that does not grow with the layers, and no place but its output.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::command::{DOCKPACK, HURRY};
use crate::support::engine::Engine;
use crate::support::store::{assert_same_images, names, temp_dir, unpack};

/// Most memory that a save or load may take at any time.
const LIMIT: u64 = 512 << 20;

/// Runs a program and says how much memory it had at its peak, in KiB.
const MEASURE: &str = "
import os, sys
out, command = sys.argv[1], sys.argv[2:]
pid = os.posix_spawn(command[0], command, os.environ)
_, status, usage = os.wait4(pid, 0)
open(out, 'w').write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
";

/// Runs dockpack and returns its peak memory in bytes.
#[track_caller]
fn peak(dir: &Path, root: &Path, arguments: &[&str], stdin: Option<&Path>, stdout: Option<&Path>) -> u64 {
    let peak = dir.join("peak");
    let mut command = Command::new("python3");
    command.env(HURRY, "1").args(["-c", MEASURE]).arg(&peak).arg(DOCKPACK).arg("--root").arg(root).args(arguments);
    command.stdin(stdin.map_or(Stdio::null(), |path| fs::File::open(path).expect("a file").into()));
    command.stdout(stdout.map_or(Stdio::null(), |path| fs::File::create(path).expect("a file").into()));
    let output = command.stderr(Stdio::piped()).spawn().and_then(std::process::Child::wait_with_output);
    let output = output.expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kib: u64 = fs::read_to_string(peak).expect("the peak").parse().expect("a number");
    kib << 10
}

#[test]
fn daemon_made_layer_of_500_megabytes() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    fs::create_dir_all(at("engine/root")).expect("directories");
    let engine = Engine::start("28", "overlay2", &at("engine"));
    engine.fill(&["big", "500"]);
    // A store that never had a container has not all directories.
    engine.docker(&["create", "--network", "none", "big:1", "true"]);
    engine.stop();
    let root = at("engine/root");

    let path = |name: &str| at(name).to_str().expect("text").to_owned();
    let mut peaks = Vec::new();
    for (name, more) in [
        ("big.tar.zst", &[][..]),
        ("many-threads.tar.zst", &["--threads", "8"]),
        ("big.tar.gz", &[]),
        ("big.tar", &[]),
    ] {
        let archive = path(name);
        let arguments = [&["save", "big:1", "-o", &archive], more].concat();
        peaks.push((format!("save {name}"), peak(temp.path(), &root, &arguments, None, None)));
        let target = at(&format!("target of {name}"));
        fs::create_dir(&target).expect("a directory");
        peaks.push((format!("load {name}"), peak(temp.path(), &target, &["load", "-i", &archive], None, None)));
        assert_same_images(&root, &target, "overlay2");
        fs::remove_dir_all(&target).expect("removed");
    }
    let piped = at("piped");
    peaks.push(("a pipe".to_owned(), peak(temp.path(), &root, &["save", "--all", "-o", "-"], None, Some(&piped))));
    fs::create_dir(at("target")).expect("a directory");
    peaks.push(("from a pipe".to_owned(), peak(temp.path(), &at("target"), &["load"], Some(&piped), None)));
    for (what, peak) in &peaks {
        assert!(*peak < LIMIT, "{what} took {} MiB: {peaks:?}", peak >> 20);
    }
}

/// Runs dockpack where nothing can be written but in the directories `out` and `target`.
#[track_caller]
fn confined(dir: &Path, root: &Path, arguments: &[&str]) {
    const CONFINE: &str = r#"
        set -e
        for dir in out target; do mount --bind "$1/$dir" "$1/$dir"; done
        for dir in /tmp /var/tmp /dev/shm /run /root /home; do
          if mountpoint -q "$dir"; then mount -o remount,bind,ro "$dir"; fi
        done
        mount -o remount,bind,ro /
        mountpoint -q "$2" || mount -o remount,bind,ro "$(stat -c %m "$2")"
        ! touch "$1/elsewhere" 2>/dev/null
        cd "$1/cwd"
        shift 2
        exec "$@"
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-c", CONFINE, "confine"]).arg(dir).arg(dir);
    command.env(HURRY, "1").env("TMPDIR", dir.join("cwd"));
    command.arg(DOCKPACK).arg("--root").arg(root).args(arguments);
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
        let archive = at("out").join(name).to_str().expect("text").to_owned();
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
