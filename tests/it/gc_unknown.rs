//! What `gc` keeps because something that would speak for it is lost, unreadable, or somebody's.

use std::fs;
use std::path::Path;

use crate::gc::{Lab, Mount, by_kind, hex, paths};
use crate::support::store::{Contents, names};
use crate::support::tree::{Allow, assert_same};

/// A name whose image has no configuration any more may need any image and any layer.
#[test]
fn a_name_without_a_configuration_keeps_images_and_layers() {
    let lab = Lab::new("28-overlay2");
    lab.plant();
    let contents = Contents::read(&lab.root(), "overlay2");
    let image = &contents.references["rebuilt:latest"];
    fs::remove_file(lab.image("imagedb/content/sha256").join(image)).expect("a file");
    let before = lab.content();
    let kinds = by_kind(&lab.json(&["--dry-run"])["plan"]);
    for kept in ["untagged-images", "unreferenced-layers", "broken-layers"] {
        assert!(!kinds.contains_key(kept), "{kinds:?}");
    }
    let done = lab.gc(&["-y", "--purge"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stderr.contains("rebuilt:latest names image"), "{}", done.stderr);
    let layers = |path: &[u8]| path.starts_with(b"image/overlay2/layerdb/sha256");
    assert_same(&before.only(layers), &lab.content().only(layers), Allow::NOTHING);
}

/// A container that has lost its writable layer may need any directory.
#[test]
fn a_container_without_its_writable_layer_keeps_directories() {
    let lab = Lab::new("28-overlay2");
    lab.plant();
    let container = names(&lab.at("containers")).into_iter().find(|name| *name != hex(13)).expect("a container");
    fs::remove_dir_all(lab.image("layerdb/mounts").join(&container)).expect("a mount");
    let homes = names(&lab.at("overlay2"));
    let done = lab.gc(&["-y", "--purge"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stderr.contains(&format!("container {} has no entry", &container[..12])), "{}", done.stderr);
    let left = names(&lab.at("overlay2"));
    assert!(homes.iter().all(|name| left.contains(name) || name.starts_with("check-")), "{left:?}");
}

/// What lies in the writable layer of a container whose configuration is lost is its only copy.
#[test]
fn what_a_container_without_configuration_has_written_stays() {
    let lab = Lab::new("28-overlay2");
    lab.plant();
    let containers = names(&lab.at("containers"));
    let (one, other) = {
        let mut whole = containers.iter().filter(|name| **name != hex(13));
        (whole.next().expect("a container").clone(), whole.next().expect("a container").clone())
    };
    // As after `docker create`, with and without a `docker cp` into it: nothing is there that a start makes.
    for (name, is_written) in [(&one, true), (&other, false)] {
        let dir = lab.at("containers").join(name);
        for file in names(&dir) {
            let path = dir.join(file);
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("is removed");
        }
        let mount = fs::read_to_string(lab.image("layerdb/mounts").join(name).join("mount-id")).expect("a mount");
        let diff = lab.at(&format!("overlay2/{mount}/diff"));
        for file in names(&diff) {
            let path = diff.join(file);
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("is removed");
        }
        if is_written {
            fs::write(diff.join("copied"), "data").expect("a file");
        }
    }
    let done = lab.gc(&["-y", "--purge"]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    assert!(lab.at("containers").join(&one).exists() && lab.image("layerdb/mounts").join(&one).exists());
    // While it is not known what the one mounts, the mount of the other stays too.
    assert!(lab.image("layerdb/mounts").join(&other).exists());
    fs::remove_dir_all(lab.at("containers").join(&one)).expect("is removed");
    fs::remove_dir_all(lab.image("layerdb/mounts").join(&one)).expect("is removed");
    // dockerd has this file but for a moment without the configuration, and then the configuration's draft beside it.
    let hostconfig = lab.at("containers").join(&other).join("hostconfig.json");
    fs::write(&hostconfig, "{}").expect("a file");
    let done = lab.gc(&["-y", "--purge"]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    assert!(hostconfig.exists() && lab.image("layerdb/mounts").join(&other).exists());
    fs::write(hostconfig.with_file_name(".tmp-config.v2.json1"), "{").expect("a file");
    let _ = lab.gc(&["-y", "--purge"]).done();
    assert!(!lab.at("containers").join(&other).exists() && !lab.image("layerdb/mounts").join(&other).exists());
}

/// Where the records of what was built from what are lost as a whole, whatever an image may have been built from stays.
#[test]
fn parents_stay_where_their_records_are_lost() {
    let lab = Lab::new("28-overlay2");
    let metadata = lab.image("imagedb/metadata/sha256");
    let planned = paths(&lab.json(&["--dry-run"])["plan"]);
    fs::remove_dir_all(&metadata).expect("a directory");
    fs::create_dir(&metadata).expect("a directory");
    let without = paths(&lab.json(&["--dry-run"])["plan"]);
    let more: Vec<_> = without.difference(&planned).collect();
    assert!(more.is_empty(), "{more:?}");
}

/// Names that no engine draws are somebody's: they are told, and go only when they are named.
#[test]
fn what_no_engine_made_stays_until_it_is_named() {
    let lab = Lab::new("28-overlay2");
    lab.plant();
    let own = ["overlay2/backup", "image/overlay2/layerdb/mounts/keep", "image/overlay2/layerdb/tmp/mine"];
    for path in own.iter().chain(&["containers/saved-logs", "containers/lost+found"]) {
        lab.write(&lab.at(path).join("data"), "x");
    }
    let done = lab.gc(&["-y", "--purge"]).done();
    for path in own {
        assert!(
            done.stderr.contains(&format!("keeping {path}: no engine gives such a name (--also {path})")),
            "{}",
            done.stderr
        );
        assert!(lab.at(path).join("data").exists(), "{path}");
    }
    assert!(lab.at("containers/saved-logs/data").exists() && lab.at("containers/lost+found/data").exists());
    let also: Vec<&str> = own.iter().flat_map(|path| ["--also", path]).collect();
    let _ = lab.gc(&[&["-y", "--purge"], &also[..]].concat()).done();
    assert!(own.iter().all(|path| !lab.at(path).exists()));
    assert!(lab.at("containers/saved-logs/data").exists());
}

/// `image` on a disk of its own has its trash there, so that a record goes together with its directory.
#[test]
fn records_on_a_mount_of_their_own() {
    for mounted in ["image", "image/overlay2"] {
        let lab = Lab::new("28-overlay2");
        lab.plant();
        let at = lab.at(mounted);
        let _mount = Mount::bind(&at, &at);
        let before = lab.content();
        let _ = lab.gc(&["-y"]).done();
        assert_eq!(lab.leaks(), [".dockpack"]);
        let _ = lab.gc(&["--undo"]).done();
        assert_same(&before, &lab.content(), Allow::NOTHING);
        lab.clean();
        assert!(!lab.image(".dockpack").exists());
    }
}

/// A record that cannot be moved holds the directories that it names.
#[test]
fn what_a_record_names_stays_with_it() {
    let lab = Lab::new("28-overlay2");
    lab.plant();
    let layers = lab.image("layerdb/sha256");
    let _frozen = crate::gc::Attribute::set(&layers, 'a');
    let before = names(&lab.at("overlay2"));
    let done = lab.gc(&["-y", "--purge"]);
    assert_eq!(done.status.code(), Some(1), "{}", done.stderr);
    for entry in names(&layers) {
        let cache = fs::read_to_string(layers.join(&entry).join("cache-id")).expect("a record");
        assert!(!before.contains(&cache) || lab.at("overlay2").join(&cache).exists(), "{entry}");
    }
}

/// A damaged trash is told, holds what it holds, and stops nothing.
#[test]
fn a_damaged_trash_stops_nothing() {
    let lab = Lab::new("28-overlay2");
    lab.plant();
    let _ = lab.gc(&["-y"]).done();
    let trash = lab.at(".dockpack/trash");
    let cut = trash.join(&names(&trash)[0]);
    fs::write(cut.join("journal.json"), "{\"keep\":true").expect("a file");
    fs::create_dir_all(trash.join("20200101T000000000Z/nodes/0")).expect("directories");
    fs::write(trash.join("x"), "").expect("a file");
    lab.write(&lab.at(".tmp-engine-id2"), "x");
    let done = lab.gc(&["-y", "--purge"]);
    assert_eq!(done.status.code(), Some(1), "what is damaged stays, and is said: {}", done.stderr);
    assert!(!lab.at(".tmp-engine-id2").exists());
    assert!(cut.join("nodes").exists() && trash.join("20200101T000000000Z/nodes/0").exists());
    assert!(done.stderr.matches("leaving .dockpack/trash/").count() == 2, "{}", done.stderr);
    let _ = crate::support::command::run(&lab.root(), ["repair", "-y"]).done();
    let _ = lab.gc(&["-y"]).done();
    let undone = lab.gc(&["--undo", cut.file_name().expect("a name").to_str().expect("text")]);
    assert_eq!(undone.status.code(), Some(1), "{}", undone.stderr);
}

/// The last removal is the one that began last, whatever the clock said then.
#[test]
fn undo_takes_the_last_removal_though_the_clock_went_back() {
    let lab = Lab::new("28-overlay2");
    lab.write(&lab.at("tmp-old/a"), "first");
    let _ = lab.gc(&["-y", "--only", "old-temp"]).done();
    let trash = lab.at(".dockpack/trash");
    let first = names(&trash).remove(0);
    fs::rename(trash.join(&first), trash.join("29990101T000000000Z")).expect("a rename");
    lab.write(&lab.at("tmp-old/a"), "second");
    let _ = lab.gc(&["-y", "--only", "old-temp"]).done();
    let _ = lab.gc(&["--undo"]).done();
    assert_eq!(fs::read_to_string(lab.at("tmp-old/a")).expect("a file"), "second");
}

/// What was removed stays for a day unless another time is asked for; the next run deletes what is older.
#[test]
fn the_trash_is_emptied_by_age() {
    let lab = Lab::new("28-overlay2");
    let trash = lab.at(".dockpack/trash");
    lab.write(&lab.at("tmp-old/a"), "first");
    let _ = lab.gc(&["-y", "--only", "old-temp"]).done();
    let first = names(&trash).remove(0);
    fs::rename(trash.join(&first), trash.join("20200101T000000000Z")).expect("a rename");
    lab.write(&lab.at("tmp-old/a"), "second");
    let done = lab.gc(&["-y", "--only", "old-temp", "--keep", "36500days"]).done();
    assert!(!done.stderr.contains("deleted"), "{}", done.stderr);
    assert_eq!(names(&trash).len(), 2);
    let done = lab.gc(&["-y", "--only", "old-temp"]).done();
    assert!(done.stderr.contains("deleted 1 earlier removal"), "{}", done.stderr);
    assert_eq!(names(&trash).len(), 1);
    lab.write(&lab.at("tmp-old/a"), "third");
    let done = lab.gc(&["-y", "--only", "old-temp", "--keep", "0s"]).done();
    assert!(done.stderr.contains("for good"), "{}", done.stderr);
    assert!(!lab.at(".dockpack").exists(), "what was kept is older than nothing");
}

/// A disk without a free block or inode: moving says what helps, and deleting needs no room.
fn full_disk(fill: impl Fn(&Path)) {
    let lab = Lab::on_disk("28-overlay2", 64);
    lab.plant();
    fill(&lab.root());
    let refused = lab.gc(&["-y"]);
    let is_kept = refused.status.success();
    assert!(is_kept || refused.stderr.contains(" gc -y --purge`"), "{}", refused.stderr);
    #[cfg(feature = "crash-points")]
    if !is_kept {
        let mut crashing = crate::support::command::dockpack(&lab.root(), ["gc", "-y", "--purge"]);
        crashing.env("DOCKPACK_CRASH_AT", "gc:deleted");
        assert!(!crate::support::command::outcome(crashing).status.success());
        assert!(!lab.at(".dockpack").exists());
    }
    let done = lab.gc(&["-y", "--purge"]).done();
    assert!(done.stderr.contains("for good"), "{}", done.stderr);
    assert_eq!(lab.leaks(), [".dockpack"], "what containers wrote");
    lab.clean();
}

#[test]
fn a_disk_without_a_free_block() {
    full_disk(|root| {
        for size in [1 << 20, 4096, 1024] {
            for number in 0.. {
                let file = root.parent().expect("a mount").join(format!("fill-{size}-{number}"));
                if fs::write(file, vec![7; size]).is_err() {
                    break;
                }
            }
        }
    });
}

#[test]
fn a_disk_without_a_free_inode() {
    full_disk(|root| {
        let dir = root.parent().expect("a mount").join("fill");
        fs::create_dir(&dir).expect("a directory");
        for number in 0.. {
            if fs::write(dir.join(number.to_string()), "").is_err() {
                assert_eq!(rustix::fs::statfs(root).expect("statfs").f_ffree, 0);
                break;
            }
        }
    });
}
