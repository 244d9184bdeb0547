//! A data root in which Docker has used two stores: a graph driver's, and then containerd's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::support::command::{Outcome, load, run, save};
use crate::support::engine::Engine;
use crate::support::store::{temp_dir, unpack};
use crate::support::tree::Untouched;
use crate::verify::verify;

const NOTE: &str = "containerd's image store is in this root too (1 image, 1 container)";

/// Runs a daemon on containerd's store of a root, and loads an image there.
fn use_containerd(dir: &Path, archive: &Path) {
    let engine = Engine::start("28", "containerd", dir);
    let loaded = engine.try_docker(&["load"], File::open(archive).expect("an archive"));
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    engine.docker(&["create", "--name", "other", "alpine:3.4", "true"]);
    engine.stop();
}

/// Lists the directories of containers.
fn containers(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join("containers")).expect("containers");
    entries.map(|entry| entry.expect("a container").path()).collect()
}

/// Fails where something is not said once.
#[track_caller]
fn assert_once(outcome: &Outcome, text: &str) {
    assert_eq!(outcome.stderr.matches(text).count(), 1, "{text}: {}", outcome.stderr);
}

/// Each command says that there is another store; nothing is loaded that the daemon may not see; what is not needed any
/// more goes when it is asked for, and comes back.
#[test]
fn daemon_28_on_containerd_beside_a_graph_driver() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    let (root, archive) = (at("root"), at("two.tar"));
    let path = archive.to_str().expect("text");
    unpack("28-overlay2", &at("from"));
    save(&at("from"), &["alpine:3.4", "rebuilt:latest"], &archive);
    fs::create_dir(&root).expect("a directory");
    let _ = load(&root, &archive, &[]);
    save(&at("from"), &["alpine:3.4"], &at("one.tar"));
    use_containerd(temp.path(), &at("one.tar"));

    for arguments in [&["ls"][..], &["df"], &["why", "alpine:3.4"], &["graph"], &["gc", "--dry-run"], &["verify"]] {
        let said = run(&root, arguments).done().stderr;
        assert_eq!(said.matches(NOTE).count(), 1, "{arguments:?}: {said}");
    }
    assert_eq!(verify(&root, &[]).0, 0);
    let before = Untouched::note(&root);
    let refused = run(&root, ["load", "-i", path]).failed(2);
    assert!(refused.stderr.contains("it sees nothing of overlay2"), "{}", refused.stderr);
    before.assert_restored();
    let _ = run(&root, ["--driver", "overlay2", "load", "-i", path]).done();

    // The daemon's own store is not touched, and the other one comes back.
    let stale = ["--driver", "overlayfs", "gc", "--only", "stale-driver"];
    let _ = run(&root, ["--driver", "overlayfs", "ls"]).failed(1);
    let _ = run(&root, ["--driver", "overlayfs", "gc", "-y"]).failed(2);
    let planned = run(&root, [&stale[..], &["--dry-run"]].concat()).done();
    assert_once(&planned, "in the store of overlay2 2 images have a name: alpine:3.4, rebuilt:latest");
    let _ = run(&root, [&stale[..], &["-y"]].concat()).done();
    assert!(!root.join("overlay2").exists() && !root.join("image/overlay2").exists());
    let _ = run(&root, ["ls"]).failed(1);
    let engine = Engine::start("28", "containerd", temp.path());
    assert_eq!(engine.docker(&["image", "ls", "-q"]).lines().count(), 1);
    engine.docker(&["run", "--rm", "--network", "none", "alpine:3.4", "true"]);
    engine.docker(&["start", "other"]);
    engine.stop();
    let _ = run(&root, ["--driver", "overlayfs", "gc", "--undo"]).done();
    let engine = Engine::start("28", "overlay2", temp.path());
    engine.docker(&["run", "--rm", "--network", "none", "rebuilt:latest", "true"]);
    engine.stop();
}

/// A store is not stale while a container needs it, or where its images cannot be read.
#[test]
fn daemon_28_on_containerd_beside_a_store_in_use() {
    let temp = temp_dir();
    let root = temp.path().join("root");
    unpack("28-overlay2", &root);
    save(&root, &["alpine:3.4"], &temp.path().join("one.tar"));
    use_containerd(temp.path(), &temp.path().join("one.tar"));
    let stale = ["--driver", "overlayfs", "gc", "--only", "stale-driver", "-y"];
    let kept = |why: &str| {
        assert_once(&run(&root, stale).done(), &format!("overlay2 is here too: {why}"));
        assert!(root.join("overlay2").exists() && root.join("image/overlay2/layerdb").exists());
    };
    kept("container ");
    for dir in containers(&root) {
        if !fs::read_to_string(dir.join("config.v2.json")).expect("a file").contains(r#""Driver":"overlayfs""#) {
            fs::remove_dir_all(dir).expect("removed");
        }
    }
    fs::write(root.join("image/overlay2/repositories.json"), "{").expect("written");
    kept("image/overlay2/repositories.json cannot be read");
    fs::remove_file(root.join("image/overlay2/repositories.json")).expect("removed");
    let config = containers(&root).pop().expect("one").join("config.v2.json");
    fs::write(&config, "{").expect("written");
    kept("containers/");
    fs::rename(root.join("containers"), temp.path().join("containers")).expect("moved");
    let refused = run(&root, stale).failed(1);
    assert!(refused.stderr.contains("containers"), "{}", refused.stderr);
}
