//! What is in use stays where it is, and what has changed since it was planned too: on the way to the trash, out of it,
//! and in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::command::{DOCKPACK, HURRY, Outcome, run, save};
use crate::support::store::{Contents, stack, temp_dir, unpack};
use crate::support::tree::Untouched;
use crate::verify::damage;

/// A store, and an archive of all that is in it.
struct Lab {
    temp: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { temp: temp_dir() };
        unpack("28-overlay2", &lab.root());
        save(&lab.root(), &["--all"], &lab.at("all.tar.zst"));
        lab
    }

    fn at(&self, path: &str) -> PathBuf {
        self.temp.path().join(path)
    }

    fn root(&self) -> PathBuf {
        self.at("root")
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        run(&self.root(), arguments)
    }

    /// Repairs the store from the archive.
    fn repair(&self) -> Outcome {
        self.run(&["repair", "-y", "--from", self.at("all.tar.zst").to_str().expect("text")])
    }

    /// Returns the directories of the layers of `nginx:alpine`, lowest first.
    fn layers(&self) -> Vec<PathBuf> {
        let contents = Contents::read(&self.root(), "overlay2");
        let layers = stack(&contents.images[&contents.references["nginx:alpine"]]);
        layers.iter().map(|(chain, _)| self.root().join("overlay2").join(&contents.layers[chain])).collect()
    }

    /// Mounts an overlay of these directories, as a container's that runs on.
    fn mount(&self, lower: &[&Path]) -> Mounted {
        let at = self.at("mounted");
        fs::create_dir_all(&at).expect("a directory");
        let lower: Vec<&str> = lower.iter().map(|dir| dir.to_str().expect("text")).collect();
        call(
            Command::new("mount")
                .args(["-t", "overlay", "-o", &format!("lowerdir={}", lower.join(":")), "none"])
                .arg(&at),
        );
        Mounted(at)
    }

    /// Returns the directories in the trash with this path in them.
    fn in_trash(&self, inner: &str) -> Vec<PathBuf> {
        let transactions = fs::read_dir(self.root().join(".dockpack/trash")).expect("the trash").flatten();
        let slots = transactions.flat_map(|entry| ["nodes", "new"].map(|slots| entry.path().join(slots)));
        let things = slots.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        things.map(|entry| entry.path()).filter(|path| path.join(inner).exists()).collect()
    }
}

/// Unmounted when it goes.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[track_caller]
fn call(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Fails where it was not said of something that it stays.
#[track_caller]
fn kept(outcome: Outcome) -> Outcome {
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("kept ") && !outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    outcome
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// What a container has mounted that was started after a repair: undoing it would take the container's files away.
#[test]
fn a_repair_is_not_undone_under_a_container() {
    let lab = Lab::new();
    damage("byte-changed", &lab.root());
    let damaged = Untouched::note(&lab.root());
    let _ = lab.repair().done();
    let layers = lab.layers();
    let mounted = lab.mount(&[&layers[1].join("diff"), &layers[0].join("diff")]);
    let (files, state) = (count(&mounted.0), Untouched::note(&lab.root()));
    assert!(files > 2);
    let refused = kept(lab.run(&["repair", "--undo"]));
    assert!(refused.stderr.contains("it is part of what is mounted at"), "{}", refused.stderr);
    assert!(refused.stderr.contains("restored: 0 items"), "{}", refused.stderr);
    state.assert();
    // What lies in the trash may be what it was made of: the text of the mount does not tell.
    let said = kept(lab.run(&["gc", "--purge"]));
    assert!(said.stderr.contains("it is part of what is mounted at"), "{}", said.stderr);
    assert_eq!(count(&mounted.0), files);
    drop(mounted);
    let _ = lab.run(&["repair", "--undo"]).done();
    damaged.assert_restored();
}

/// What lies in the trash and is mounted from there, by the path that it had or by its short name.
#[test]
fn what_moved_under_a_container_is_not_deleted() {
    let lab = Lab::new();
    let home = lab.root().join("overlay2");
    let name = "ab".repeat(32);
    let orphan = home.join(&name);
    fs::create_dir_all(orphan.join("diff/etc")).expect("directories");
    fs::write(orphan.join("diff/etc/file"), "x").expect("a file");
    fs::write(orphan.join("link"), "ABABABABABABABABABABABABAB").expect("a file");
    let _ = lab.run(&["gc", "-y"]);
    let [slot] = &lab.in_trash("diff/etc/file")[..] else { panic!("it is in the trash") };
    let base = &lab.layers()[0].join("diff");
    let mount = |by_name: bool| {
        // As if it had been mounted before it moved.
        fs::rename(slot, &orphan).expect("moves back");
        let link = home.join("l/ABABABABABABABABABABABABAB");
        let mounted = if by_name {
            std::os::unix::fs::symlink(format!("../{name}/diff"), &link).expect("a link");
            lab.mount(&[&link, base])
        } else {
            lab.mount(&[&orphan.join("diff"), base])
        };
        let _ = fs::remove_file(&link);
        fs::rename(&orphan, slot).expect("moves away");
        mounted
    };
    for by_name in [false, true] {
        let mounted = mount(by_name);
        let said = kept(lab.run(&["gc", "--purge"]));
        assert!(said.stderr.contains("it is part of what is mounted at"), "{}", said.stderr);
        assert_eq!(fs::read_to_string(mounted.0.join("etc/file")).expect("it is there"), "x");
        assert!(slot.join("diff/etc/file").exists());
    }
    // A tree that is mounted as it is follows the rename.
    fs::create_dir_all(lab.at("mounted")).expect("a directory");
    call(Command::new("mount").arg("--bind").arg(slot.join("diff")).arg(lab.at("mounted")));
    let mounted = Mounted(lab.at("mounted"));
    let said = kept(lab.run(&["gc", "--purge"]));
    assert!(said.stderr.contains("mounted at"), "{}", said.stderr);
    assert!(mounted.0.join("etc/file").exists());
    drop(mounted);
    let _ = lab.run(&["gc", "--purge"]).done();
    assert!(!slot.exists());
}

/// A load that would replace a record of which a container has the directory.
#[test]
fn load_replaces_nothing_that_is_used() {
    let lab = Lab::new();
    let layers = lab.layers();
    let contents = Contents::read(&lab.root(), "overlay2");
    let name = layers[1].file_name().expect("a name").to_str().expect("text");
    let (chain, _) = contents.layers.iter().find(|(_, id)| *id == name).expect("its layer");
    fs::remove_file(lab.root().join("image/overlay2/layerdb/sha256").join(chain).join("tar-split.json.gz"))
        .expect("is removed");
    let mounted = lab.mount(&[&layers[1].join("diff"), &layers[0].join("diff")]);
    let before = Untouched::note(&lab.root());
    let archive = lab.at("all.tar.zst");
    let load = ["load", "-i", archive.to_str().expect("text")];
    let refused = lab.run(&load).failed(4);
    assert!(refused.stderr.contains("is part of what is mounted at"), "{}", refused.stderr);
    before.assert();
    drop(mounted);
    let _ = lab.run(&load).done();
}

/// Where `/proc` is not there, nothing is known to be free: nothing that was planned goes, and it is said.
#[test]
fn without_proc() {
    let lab = Lab::new();
    fs::create_dir_all(lab.root().join("overlay2").join("cd".repeat(32)).join("diff")).expect("directories");
    let before = Untouched::note(&lab.root());
    let script = "mount -t tmpfs none /proc && exec \"$@\"";
    for arguments in [&["gc", "-y"][..], &["gc", "-y", "--purge"]] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", DOCKPACK, "--root"]).arg(lab.root()).args(arguments);
        let output = command.env_clear().env(HURRY, "1").output().expect("unshare runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("perhaps in use: ") && said.contains("/proc"), "{said}");
        before.assert();
    }
}

#[cfg(feature = "crash-points")]
fn crash_at(point: &str, root: &Path, arguments: &[&str]) {
    let mut command = Command::new(DOCKPACK);
    command.env_clear().env(HURRY, "1").env("DOCKPACK_CRASH_AT", point).arg("--root").arg(root).args(arguments);
    let status = command.output().expect("dockpack runs").status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "{point}: {status}");
}

/// A repair that was interrupted before anything moved: what has come to a place since is not what was to go.
#[cfg(feature = "crash-points")]
#[test]
fn recovery_moves_only_what_was_planned() {
    let lab = Lab::new();
    let entry = lab.root().join("image/overlay2/layerdb/sha256").join("ef".repeat(32));
    fs::create_dir(&entry).expect("a directory");
    crash_at("trash:journal", &lab.root(), &["repair", "-y"]);
    // A daemon takes the empty entry away, and makes the layer.
    fs::remove_dir(&entry).expect("is removed");
    fs::create_dir(&entry).expect("a directory");
    fs::write(entry.join("cache-id"), "ab".repeat(32)).expect("a file");
    let finished = lab.run(&["gc", "-y", "--only", "temp-files"]);
    assert!(finished.stderr.contains("it has changed since it was planned"), "{}", finished.stderr);
    assert!(entry.join("cache-id").exists());
}

/// An undo puts nothing in the place of what has come there since, whatever its inode is.
#[test]
fn undo_moves_only_what_was_put_there() {
    let lab = Lab::new();
    let file = lab.root().join("image/overlay2/repositories.json");
    damage("references-cut", &lab.root());
    let _ = lab.repair();
    let text = fs::read_to_string(&file).expect("text").replacen("{", "{ ", 1);
    // As dockerd writes it, again and again: an inode that is free is given anew.
    for _ in 0..4 {
        fs::write(file.with_extension("new"), &text).expect("a file");
        fs::rename(file.with_extension("new"), &file).expect("is renamed");
    }
    let refused = kept(lab.run(&["repair", "--undo"]));
    assert!(refused.stderr.contains("it has changed since"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(&file).expect("text"), text);
}
