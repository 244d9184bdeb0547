//! Archives that are odd ([`crate::support::odd`]): what dockpack makes of them, and that Docker makes the same of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use crate::support::command::{run, save, try_load};
use crate::support::engine::Engine;
use crate::support::foreign::assert_same_as_docker;
use crate::support::odd::{Answer, Odd, Oracle, TWO_LAYERS, all, displaced, thin};
use crate::support::store::{Contents, assert_nothing_else, assert_sound, fast_dir, temp_dir};
use crate::support::tree::{Allow, Untouched};

/// Loads one into an empty store: the answer is the one that is wanted, and what is loaded is whole.
fn check(odd: &Odd) -> Result<(), String> {
    let temp = fast_dir();
    let (archive, root) = (temp.path().join("odd.tar"), temp.path().join("root"));
    fs::write(&archive, &odd.archive).expect("written");
    fs::create_dir(&root).expect("a directory");
    let target = Untouched::note(&root);
    let loaded = try_load(&root, &archive, &[]);
    let said = &loaded.stderr;
    if let Answer::Refuses(words) = odd.answer {
        target.assert_restored();
        return match loaded.status.code() == Some(1) && said.contains(words) && !said.contains("panicked") {
            true => Ok(()),
            false => Err(format!("expected a refusal for \"{words}\", found {}: {said}", loaded.status)),
        };
    }
    if !loaded.status.success() {
        return Err(format!("{}: {said}", loaded.status));
    }
    assert_sound(&root, "overlay2");
    assert_nothing_else(&root, "overlay2");
    let references = Contents::read(&root, "overlay2").references;
    let wanted: &[&str] = if odd.answer == Answer::Loads { &[odd.name] } else { &[] };
    if !references.keys().map(|key| key.trim_start_matches("odd:")).eq(wanted.iter().copied()) {
        return Err(format!("expected the name {wanted:?}, found {references:?}"));
    }
    let report = run(&root, ["verify"]);
    match report.status.code() {
        Some(0) => Ok(()),
        _ => Err(format!("verify: {}", String::from_utf8_lossy(&report.stdout))),
    }
}

#[test]
fn each_is_taken_or_refused_as_docker_does() {
    let all = all();
    assert_eq!(all.iter().map(|odd| odd.name).collect::<BTreeSet<_>>().len(), all.len(), "a name is there twice");
    let wrong: Vec<String> =
        all.iter().filter_map(|odd| check(odd).err().map(|what| format!("{}: {what}", odd.name))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a layer brings and takes away again is in the store, although it is in no tree: the layer can be saved, and loaded.
#[test]
fn what_is_displaced_is_not_lost() {
    for driver in ["overlay2", "overlay", "vfs"] {
        for odd in displaced() {
            let temp = fast_dir();
            let at = |name: &str| temp.path().join(name);
            let (first, second) = (at("first.tar"), at("second.tar"));
            fs::write(&first, &odd.archive).expect("written");
            for (root, archive) in [("one", &first), ("other", &second)] {
                fs::create_dir(at(root)).expect("a directory");
                let load = ["--driver", driver, "load", "-i", archive.to_str().expect("text")];
                let loaded = run(&at(root), load);
                assert!(loaded.status.success(), "{} on {driver}, {root}: {}", odd.name, loaded.stderr);
                let report = run(&at(root), ["verify"]);
                let said = || String::from_utf8_lossy(&report.stdout).into_owned();
                assert_eq!(report.status.code(), Some(0), "{} on {driver}, {root}: {}", odd.name, said());
                if root == "one" {
                    save(&at(root), &[&format!("odd:{}", odd.name)], &second);
                }
            }
            let _ = run(&at("one"), ["verify", "-i", second.to_str().expect("text")]).done();
            // What the tar has of a file is proved, wherever it stands.
            let trees = ["one", "other"].map(|root| Contents::read(&at(root), driver).layer_trees(&at(root)));
            crate::support::tree::assert_same(&trees[0], &trees[1], Allow::REBUILT);
        }
    }
}

/// An archive may lack the layers that the store has.
#[test]
fn layers_that_are_there_are_not_needed() {
    let temp = fast_dir();
    let (archive, root) = (temp.path().join("thin.tar"), temp.path().join("root"));
    fs::create_dir(&root).expect("a directory");
    let target = Untouched::note(&root);
    let load = |lacks: &[usize], more: &[&str]| {
        fs::write(&archive, thin(lacks)).expect("written");
        run(&root, [&["load", "-i", archive.to_str().expect("text")], more].concat())
    };
    for more in [&[][..], &["--dry-run"]] {
        let refused = load(&[0], more).failed(1).stderr;
        assert!(refused.contains("0/layer.tar") && refused.contains("the store does not have it"), "{refused}");
        assert!(refused.contains(" of image "), "{refused}");
    }
    target.assert_restored();
    let _ = load(&[], &[]).done();
    // The image goes, and its layers stay.
    let dir = root.join("image/overlay2/imagedb/content/sha256");
    let id = fs::read_dir(&dir).expect("images").next().expect("one").expect("an entry").path();
    fs::remove_file(id).expect("removed");
    let _ = load(&[0, 1], &[]).done();
    assert_eq!(Contents::read(&root, "overlay2").references.len(), 1);
    assert_eq!(run(&root, ["verify"]).done().status.code(), Some(0));
}

/// What a configuration needs by any reading of it is no garbage, also where nothing names the image any more.
#[test]
fn what_can_be_read_in_two_ways_keeps_its_layers() {
    let temp = fast_dir();
    let (archive, root) = (temp.path().join("odd.tar"), temp.path().join("root"));
    fs::create_dir(&root).expect("a directory");
    let odd = all().into_iter().find(|odd| odd.name == TWO_LAYERS).expect("it is there");
    for bytes in [&odd.archive, &thin(&[])] {
        fs::write(&archive, bytes).expect("written");
        let _ = try_load(&root, &archive, &[]).done();
    }
    let before = Contents::read(&root, "overlay2").layers;
    for names_it in [true, false] {
        let references = root.join("image/overlay2/repositories.json");
        if !names_it {
            let text = fs::read_to_string(&references).expect("a file");
            let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            value["Repositories"]["odd"].as_object_mut().expect("names").remove(&format!("odd:{TWO_LAYERS}"));
            fs::write(&references, value.to_string()).expect("written");
        }
        let collected = run(&root, ["gc", "-y"]);
        assert!(!collected.stderr.contains("panicked"), "{}", collected.stderr);
        assert_eq!(fs::read_dir(root.join("image/overlay2/imagedb/content/sha256")).expect("images").count(), 2);
        for (chain, cache_id) in &before {
            assert!(root.join("image/overlay2/layerdb/sha256").join(chain).is_dir(), "{chain}");
            assert!(root.join("overlay2").join(cache_id).join("diff").is_dir(), "{chain}");
        }
    }
}

/// The same archives, loaded one after the other by Docker and by dockpack, give the same images, names and trees.
#[test]
fn daemon_28_answers_the_same() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    let since = SystemTime::now() - Duration::from_secs(1);
    let engine = Engine::start("28", "overlay2", &at("lab"));
    fs::create_dir_all(at("ours/root")).expect("a directory");
    let mut wrong = Vec::new();
    for odd in all().iter().filter(|odd| odd.oracle == Oracle::Agrees) {
        let archive = at("odd.tar");
        fs::write(&archive, &odd.archive).expect("written");
        let output = engine.try_docker(&["load"], File::open(&archive).expect("the archive"));
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() == matches!(odd.answer, Answer::Refuses(_)) {
            wrong.push(format!("{}: {} {said}", odd.name, output.status));
        }
        let _ = try_load(&at("ours/root"), &archive, &[]);
    }
    engine.stop();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_same_as_docker(&at("lab/root"), &at("ours/root"), since);
    // What Docker cannot save of its own layers, it can of ours.
    let engine = Engine::start("28", "overlay2", &at("ours"));
    for odd in displaced() {
        let saved = at("saved.tar");
        engine.docker(&["save", "-o", saved.to_str().expect("text"), &format!("odd:{}", odd.name)]);
    }
    engine.stop();
}
