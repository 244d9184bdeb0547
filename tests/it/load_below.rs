//! Layers that are loaded below what a store has: containers and other layers that stand on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::repair_layers::{layers, lose};
use crate::support::command::{load, run};
use crate::support::engine::Engine;
use crate::support::repair::Lab;
use crate::verify::{findings, verify};

const DRIVER: &str = "overlay2";

/// The archive as another tool writes it: it does not know what layers are called.
fn of_another_tool(lab: &Lab) -> PathBuf {
    let (unpacked, tar) = (lab.at("unpacked"), lab.at("docker.tar"));
    let _ = run(&lab.at("base"), ["save", "--all", "-o", &format!("{}/", unpacked.display())]).done();
    fs::remove_dir_all(unpacked.join("dockpack")).expect("removed");
    let packed = Command::new("tar").arg("-C").arg(&unpacked).arg("-cf").arg(&tar).arg(".").status();
    assert!(packed.expect("tar runs").success());
    tar
}

fn short_name(root: &Path, id: &str) -> String {
    fs::read_to_string(root.join(DRIVER).join(id).join("link")).expect("a short name")
}

/// Loses layers of the container's image, and with them the links that lead to their directories, or not.
fn damaged(lab: &Lab, lost: &[(String, String)], with_links: bool) -> PathBuf {
    let root = lab.copy("base", "root");
    for (_, id) in lost.iter().filter(|_| with_links) {
        fs::remove_file(root.join(DRIVER).join("l").join(short_name(&root, id))).expect("removed");
    }
    lose(&root, DRIVER, lost);
    root
}

/// What is wrong with a store, but for what nothing is wrong with.
fn wrong(root: &Path) -> Vec<String> {
    let (_, report) = verify(root, &[]);
    let wrong = findings(&report).iter().filter(|found| found["severity"] != "note");
    wrong.map(|found| format!("{}: {}", found["code"], found["subject"])).collect()
}

/// The name that `lower` says leads to the layer again, whoever wrote the archive and whatever was left of the link.
#[test]
fn layers_keep_the_short_names_that_are_said_above() {
    let lab = Lab::new("28-overlay2");
    let all = layers(&lab.at("base"), DRIVER, "nginx:alpine");
    let (own, foreign) = (lab.archive(), of_another_tool(&lab));
    let (top, middle) = (all.len() - 1, all.len() - 2);
    for archive in [&own, &foreign] {
        for with_links in [false, true] {
            for lost in [top..=top, middle..=top, middle..=middle] {
                let root = damaged(&lab, &all[lost.clone()], with_links);
                let said = load(&root, archive, &["nginx:alpine"]).stderr;
                let now = layers(&root, DRIVER, "nginx:alpine");
                for at in lost.clone() {
                    let (old, new) = (short_name(&lab.at("base"), &all[at].1), short_name(&root, &now[at].1));
                    assert_eq!(old, new, "{lost:?}, {with_links}: {said}");
                }
                // What stands on a lost layer is built anew beside the old, which keeps its name.
                let is_above = lost.end() < &top;
                assert_eq!(said.contains(" repair` writes it anew"), is_above, "{said}");
                if is_above {
                    let _ = run(&root, ["repair", "-y"]).done();
                }
                assert_eq!(wrong(&root), [""; 0], "{archive:?}, {with_links}, {lost:?}");
                fs::remove_dir_all(&root).expect("removed");
            }
        }
    }
}

/// A name that is another's stays that one's; the layer gets a new one, and the user is told what is then to be done.
#[test]
fn a_short_name_that_is_taken() {
    let lab = Lab::new("28-overlay2");
    let all = layers(&lab.at("base"), DRIVER, "nginx:alpine");
    let root = damaged(&lab, &all[1..2], true);
    let name = short_name(&lab.at("base"), &all[1].1);
    let other = short_name(&root, &all[0].1);
    std::os::unix::fs::symlink(format!("../{}/diff", all[0].1), root.join(DRIVER).join("l").join(&name))
        .expect("a link");
    let archive = of_another_tool(&lab);
    let words = " repair` writes it anew";
    let planned = run(&root, ["load", "--dry-run", "-i", archive.to_str().expect("text"), "nginx:alpine"]).done();
    assert!(planned.stderr.contains(words), "{}", planned.stderr);
    let said = load(&root, &archive, &["nginx:alpine"]).stderr;
    assert!(said.contains(words), "{said}");
    assert_eq!(short_name(&root, &all[0].1), other);
    let _ = run(&root, ["repair", "-y"]).done();
    assert_eq!(wrong(&root), [""; 0]);
}

/// A load that crashed while a short name was on its way to the new directory is finished by the next.
#[cfg(feature = "crash-points")]
#[test]
fn a_crash_while_a_short_name_is_made_anew() {
    let lab = Lab::new("28-overlay2");
    let all = layers(&lab.at("base"), DRIVER, "nginx:alpine");
    let (top, archive) = (all.len() - 1, of_another_tool(&lab));
    let name = short_name(&lab.at("base"), &all[top].1);
    // The first is before the link that was left is replaced, the second behind it.
    for point in ["load:link#1", "load:link#2", "load:driver-dir", "load:layer"] {
        let root = damaged(&lab, &all[top..], false);
        let mut crashing = Command::new(crate::support::command::DOCKPACK);
        crashing.env_clear().env("DOCKPACK_CRASH_AT", point).arg("--root").arg(&root);
        let crashed = crashing.args(["load", "-i"]).arg(&archive).arg("nginx:alpine").output().expect("dockpack runs");
        assert!(!crashed.status.success(), "{point}");
        let _ = load(&root, &archive, &["nginx:alpine"]);
        assert_eq!(short_name(&root, &layers(&root, DRIVER, "nginx:alpine")[top].1), name, "{point}");
        assert_eq!(wrong(&root), [""; 0], "{point}");
    }
}

/// A container starts that stands on a layer which was lost and loaded.
#[test]
fn daemon_28_overlay2_starts_a_container_on_a_loaded_layer() {
    let lab = Lab::new("28-overlay2");
    let all = layers(&lab.at("base"), DRIVER, "nginx:alpine");
    for (archive, with_links) in [(lab.archive(), false), (of_another_tool(&lab), true)] {
        let temp = crate::support::store::temp_dir();
        let lost = damaged(&lab, &all[1..3], with_links);
        let _ = load(&lost, &archive, &["nginx:alpine"]);
        let copied = Command::new("cp").arg("-a").arg(&lost).arg(temp.path().join("root")).status().expect("cp");
        assert!(copied.success());
        let engine = Engine::start("28", DRIVER, temp.path());
        engine.docker(&["start", "nginx"]);
        engine.docker(&["run", "--rm", "--network", "none", "nginx:alpine", "true"]);
        engine.stop();
    }
}
