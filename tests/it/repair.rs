//! What `repair` repairs, and says of what it cannot.

use std::fs;
use std::path::Path;
use std::process::Command;

use insta::assert_snapshot;
use serde_json::Value;

use crate::support::command::{load, run, save};
use crate::support::disk::Disk;
use crate::support::repair::{
    Lab, assert_as_before, assert_mended, document, forget_digests, forget_rescued, lines, mend_and_undo, repair, seen,
    state,
};
use crate::support::store::{Contents, REAL, assert_sound, stack, temp_dir, unpack};
use crate::support::tree::{Allow, Tree, Untouched, assert_same};
use crate::verify::{Roles, findings, text, verify};

/// Mends every defect, with an archive and without, and takes it back.
fn every_defect(fixture: &'static str) -> String {
    let lab = Lab::new(fixture);
    let roles = Roles::of(&lab.at("base"), lab.driver());
    let archive = lab.archive();
    let from = ["--from", archive.to_str().expect("text")];
    lab.for_each(|defect, root| {
        let alone = mend_and_undo(defect, root, &[]);
        let from = match alone.status.success() {
            // What needs no archive is mended the same with one.
            true => repair(root, &["--dry-run", "--json", from[0], from[1]]),
            false => mend_and_undo(defect, root, &from),
        };
        let said = [("alone", &alone), ("with an archive", &from)].map(|(how, outcome)| lines(&roles, how, outcome));
        said.concat()
    })
}

#[test]
fn every_defect_of_overlay2() {
    assert_snapshot!(every_defect("28-overlay2"));
}

#[test]
fn every_defect_of_overlay() {
    assert_snapshot!(every_defect("20-overlay"));
}

/// A store with nothing wrong has nothing to mend, whoever asks.
#[test]
fn a_clean_store() {
    for fixture in REAL {
        let temp = temp_dir();
        unpack(fixture, temp.path());
        let before = Untouched::note(temp.path());
        for arguments in [&[][..], &["-y"], &["--dry-run"], &["--json"]] {
            let done = repair(temp.path(), arguments).done();
            assert!(arguments.contains(&"--json") || done.stdout.is_empty(), "{done:?}");
        }
        let refused = repair(temp.path(), &["--undo"]).failed(2);
        assert!(refused.stderr.contains("nothing in the trash"), "{}", refused.stderr);
        before.assert_restored();
    }
}

#[test]
fn nobody_to_ask_and_no_source() {
    let lab = Lab::new("28-overlay2");
    let root = lab.damaged("root", &["byte-changed"]);
    let before = Untouched::note(&root);
    let archive = lab.archive();
    let from = archive.to_str().expect("text");
    assert!(repair(&root, &["--from", from]).failed(2).stderr.contains("cannot ask for confirmation"));
    assert!(repair(&root, &["-y", "--from", "-"]).failed(2).stderr.contains("several times"));
    let _ = repair(&root, &["-y", "--from", "no-such-file"]).failed(1);
    let needs = String::from_utf8(repair(&root, &["--dry-run"]).stdout).expect("text");
    assert!(needs.contains("give --from an archive, or another store, that holds layer sha256:"), "{needs}");
    // An archive that is cut in the middle of a layer.
    let bytes = fs::read(&archive).expect("an archive");
    let cut = lab.at("cut.tar.zst");
    fs::write(&cut, &bytes[..bytes.len() * 2 / 3]).expect("written");
    let refused = repair(&root, &["-y", "--from", cut.to_str().expect("text")]).failed(1);
    assert!(refused.stderr.contains("cut.tar.zst"), "{}", refused.stderr);
    before.assert_restored();
}

/// Several defects at once, mended out of another host's store, which is left alone.
fn several_from_a_store(fixture: &'static str, defects: &[&str]) {
    let lab = Lab::new(fixture);
    let root = lab.damaged("root", defects);
    let other = lab.damaged("other", &[]);
    let theirs = Untouched::note(&other);
    let done = repair(&root, &["-y", "--json", "--from", other.to_str().expect("text")]).done();
    assert_mended("several", &root, &document(&done)["plan"]);
    theirs.assert();
    forget_rescued(&root, lab.driver());
    if defects.contains(&"references-cut") {
        forget_digests(&lab.at("base"), lab.driver());
    }
    assert_as_before(&lab.at("base"), &root, lab.driver());
}

#[test]
fn several_defects_of_overlay2_from_a_store() {
    let defects = ["byte-changed", "link-gone", "lower-empty", "tar-split-gone", "references-cut"];
    several_from_a_store("28-overlay2", &defects);
    several_from_a_store(
        "20-overlay2",
        &["directory-gone", "top-directory-gone", "short-names-gone", "config-changed"],
    );
}

#[test]
fn several_defects_of_overlay_from_a_store() {
    several_from_a_store("20-overlay", &["file-removed", "tar-split-gone", "directory-mode", "config-gone"]);
    several_from_a_store("20-overlay", &["tree-gone", "top-directory-gone"]);
}

/// An archive without what dockpack adds is one of another tool: unpacked, as a tar, and in gzip.
fn from_other_tools(fixture: &'static str, defects: &[&str]) {
    let lab = Lab::new(fixture);
    let (unpacked, tar) = (lab.at("unpacked"), lab.at("docker.tar"));
    let _ = run(&lab.at("base"), ["save", "--all", "-o", &format!("{}/", unpacked.display())]).done();
    fs::remove_dir_all(unpacked.join("dockpack")).expect("removed");
    let packed = Command::new("tar").arg("-C").arg(&unpacked).arg("-cf").arg(&tar).arg(".").status();
    assert!(packed.expect("tar runs").success());
    assert!(Command::new("gzip").arg("--keep").arg(&tar).status().expect("gzip runs").success());
    let mended = |defects: &[&str], archive: &Path| {
        let root = lab.damaged("root", defects);
        let before = Untouched::note(&root);
        let done = repair(&root, &["-y", "--json", "--from", archive.to_str().expect("text")]).done();
        assert_mended("other tools", &root, &document(&done)["plan"]);
        (root, before)
    };
    for archive in [&unpacked, &tar, &lab.at("docker.tar.gz")] {
        let (root, before) = mended(defects, archive);
        let ([wanted, trees], [found, built]) = (seen(&lab.at("base"), lab.driver()), seen(&root, lab.driver()));
        // Tar-splits are made anew, and say the same in other words: that they are right `verify` has proved.
        let same = |tree: Tree| tree.only(|path| !path.ends_with(b"/tar-split.json.gz"));
        assert_same(&same(wanted), &same(found), Allow::REBUILT);
        // No tar says when the root of a layer was changed.
        let inside = |tree: Tree| tree.only(|path| path.iter().filter(|byte| **byte == b'/').count() > 1);
        assert_same(&inside(trees), &inside(built), Allow::REBUILT);
        let _ = repair(&root, &["--undo"]).done();
        before.assert_restored();
    }
    // Such archives do not know what a layer's directory was called, and its size has to be counted.
    let (root, _) = mended(&["layer-entry-gone"], &tar);
    let entries = |root: &Path| {
        let told = |path: &[u8]| ["/diff", "/size", "/parent"].iter().any(|file| path.ends_with(file.as_bytes()));
        state(&root.join("image").join(lab.driver())).only(told)
    };
    assert_same(&entries(&lab.at("base")), &entries(&root), Allow::NOTHING);
}

#[test]
fn archives_of_other_tools_mend_overlay2() {
    from_other_tools("20-overlay2", &["top-directory-gone", "byte-changed", "tar-split-gone", "config-gone"]);
    from_other_tools("28-overlay2", &["tree-gone", "link-gone", "layer-entry-half", "lower-empty"]);
}

#[test]
fn archives_of_other_tools_mend_overlay() {
    from_other_tools("20-overlay", &["top-directory-gone", "file-removed", "tar-split-gone", "config-gone"]);
}

/// Layers of `overlay` share the files they have from below, also when they were mended.
#[test]
fn overlay_goes_on_sharing_files() {
    let lab = Lab::new("20-overlay");
    for defect in ["byte-changed", "directory-gone", "tree-gone", "file-removed"] {
        let root = lab.damaged("root", &[defect]);
        let _ = repair(&root, &["-y", "--from", lab.archive().to_str().expect("text")]).done();
        assert_as_before(&lab.at("base"), &root, "overlay");
    }
}

/// A dead host's disk that cannot be written: everything that only looks works as ever.
#[test]
fn a_disk_that_is_read_only() {
    let temp = temp_dir();
    let image = temp.path().join("disk");
    drop(Disk::make("ext4", &image, 256));
    // For extended attributes that are longer than a block.
    assert!(
        Command::new("tune2fs").args(["-O", "ea_inode"]).arg(&image).output().expect("tune2fs runs").status.success()
    );
    let disk = Disk::mount(&image);
    unpack("28-overlay2", &disk.path().join("docker"));
    let wanted = Contents::read(&disk.path().join("docker"), "overlay2");
    drop(disk);
    let disk = Disk::mount_read_only(&image);
    let root = disk.path().join("docker");
    let listed = String::from_utf8(run(&root, ["ls", "-a"]).done().stdout).expect("text");
    assert!(listed.contains("nginx"), "{listed}");
    let _ = run(&root, ["verify"]).done();
    let _ = repair(&root, &["--dry-run"]).done();
    let archive = temp.path().join("rescued.tar.zst");
    save(&root, &["--all", "--partial"], &archive);
    let rebuilt = temp.path().join("rebuilt");
    fs::create_dir(&rebuilt).expect("a directory");
    let _ = load(&rebuilt, &archive, &[]);
    let found = Contents::read(&rebuilt, "overlay2");
    assert_eq!(found.images, wanted.images);
    assert_eq!(found.references, wanted.references);
    assert_sound(&rebuilt, "overlay2");
    // What would write says why it cannot.
    let _ = repair(&root, &["-y"]).failed(1);
}

/// Of a damaged store what is whole is saved, and what is not is named.
#[test]
fn the_whole_part_of_a_damaged_store() {
    let lab = Lab::new("28-overlay2");
    let root = lab.damaged("root", &["byte-changed", "config-gone"]);
    let out = lab.at("partial.tar.zst");
    let path = out.to_str().expect("text");
    let refused = run(&root, ["save", "--all", "-o", path]).failed(1);
    assert!(refused.stderr.contains("cannot prove layer"), "{}", refused.stderr);
    assert!(!out.exists());
    let partial = run(&root, ["save", "--all", "--partial", "--json", "-o", path]);
    assert_eq!(partial.status.code(), Some(3), "{}", partial.stderr);
    let said = document(&partial);
    let unproved = said["unproved"].as_array().expect("a list");
    let names: Vec<&Value> = unproved.iter().flat_map(|one| one["references"].as_array().expect("names")).collect();
    assert_eq!(names, ["nginx:alpine"]);
    let reasons: Vec<&str> = unproved.iter().map(|one| text(one, "reason")).collect();
    assert!(reasons.iter().any(|reason| reason.contains("etc/nginx/conf.d/a.conf")), "{reasons:?}");
    assert!(reasons.contains(&"its configuration is missing or damaged"), "{reasons:?}");
    assert_eq!(unproved.len() as u64 + said["images"].as_u64().expect("a number"), 18);
    let (code, found) = verify(&root, &["-i", path]);
    assert_eq!((code, findings(&found)), (0, &[] as &[Value]));
    let one = run(&root, ["save", "--partial", "-o", lab.at("one.tar").to_str().expect("text"), "bk:1"]).done();
    assert!(!one.stderr.contains("left out"), "{}", one.stderr);
    let rest = names.len();
    assert_eq!(rest, 1);
    // Nothing at all can be proved: nothing is written.
    let nothing = lab.damaged("nothing", &["bytes-changed-in-two-files"]);
    let path = lab.at("nothing.tar");
    let none = run(&nothing, ["save", "--partial", "-o", path.to_str().expect("text"), "nginx:alpine"]);
    assert_eq!(none.status.code(), Some(3), "{}", none.stderr);
    assert!(none.stderr.contains("left out nginx:alpine") && !path.exists(), "{}", none.stderr);
}

/// What a container has mounted that runs on without its daemon is left alone.
#[test]
fn what_is_mounted() {
    let lab = Lab::new("28-overlay2");
    let root = lab.damaged("root", &["byte-changed", "lower-gone"]);
    let contents = Contents::read(&root, "overlay2");
    let layers = stack(&contents.images[&contents.references["nginx:alpine"]]);
    let dir = |at: usize| root.join("overlay2").join(&contents.layers[&layers[at].0]).join("diff");
    let at = lab.at("mounted");
    fs::create_dir(&at).expect("a directory");
    let options = format!("lowerdir={}:{}", dir(1).display(), dir(0).display());
    let mount = Command::new("mount").args(["-t", "overlay", "-o", &options, "none"]).arg(&at).status();
    assert!(mount.expect("mount runs").success());
    let archive = lab.archive();
    let outcome = repair(&root, &["-y", "--json", "--from", archive.to_str().expect("text")]);
    assert!(Command::new("umount").arg(&at).status().expect("umount runs").success());
    assert_eq!(outcome.status.code(), Some(3), "{}", outcome.stderr);
    let plan = &document(&outcome)["plan"];
    assert_eq!(plan["mends"].as_array().map(Vec::len), Some(1), "{plan:#}");
    assert!(text(&plan["left"][0], "needs").contains("stop what uses it first"), "{plan:#}");
    let _ = repair(&root, &["-y", "--from", archive.to_str().expect("text")]).done();
    assert_as_before(&lab.at("base"), &root, "overlay2");
}
