//! Memory and disk that save and load take for a layer of 500 MB.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::command::DOCKPACK;
use crate::support::engine::Engine;
use crate::support::store::temp_dir;

const MIB: u64 = 1 << 20;

/// What a process took, in bytes.
#[derive(Debug)]
struct Taken {
    /// Memory, at most.
    memory: u64,
    /// What it wrote, to whatever.
    written: u64,
}

/// Runs dockpack to its end in an empty directory, where it may leave nothing, and watches it.
fn watch(arguments: &[&str]) -> Taken {
    let here = temp_dir();
    let mut command = Command::new(DOCKPACK);
    command.env_clear().args(arguments).current_dir(here.path());
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
    assert!(child.wait().expect("it ends").success(), "{arguments:?}");
    assert_eq!(fs::read_dir(here.path()).expect("a directory").count(), 0, "something is left");
    Taken { memory, written }
}

#[test]
fn daemon_made_a_layer_of_500_mb() {
    let dir = temp_dir();
    let engine = Engine::start("28", "overlay2", &dir.path().join("engine"));
    engine.fill(&["big"]);
    engine.stop();
    let text = |path: &Path| path.display().to_string();
    let (root, target) = (text(&dir.path().join("engine/root")), text(&dir.path().join("target")));
    let archive = text(&dir.path().join("big.tar.zst"));
    fs::create_dir(&target).expect("a directory");

    let saved = watch(&["--root", &root, "save", "big:1", "-o", &archive]);
    let length = fs::metadata(&archive).expect("the archive").len();
    assert!(saved.memory < 512 * MIB, "{saved:?}");
    assert!(saved.written < length + MIB, "{saved:?}, but the archive has {length} bytes");

    let loaded = watch(&["--root", &target, "load", "-i", &archive]);
    assert!(loaded.memory < 512 * MIB, "{loaded:?}");
    assert!(loaded.written < 540_000_000 + MIB, "{loaded:?}");
    assert!(loaded.written > 500_000_000, "the layer is not as large as this test wants it: {loaded:?}");
}
