//! Archives that are odd ([`crate::support::odd`]): what dockpack makes of them, and that Docker makes the same of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::command::{run, try_load};
use crate::support::engine::Engine;
use crate::support::odd::{Answer, Odd, Oracle, all};
use crate::support::store::{Contents, assert_nothing_else, assert_sound, fast_dir, temp_dir};
use crate::support::tree::{Allow, Aspect, Deviation, Tree, Untouched};

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

/// The same archives, loaded one after the other by Docker and by dockpack, give the same images, names and trees.
#[test]
fn daemon_28_answers_the_same() {
    let temp = temp_dir();
    let at = |name: &str| temp.path().join(name);
    let since = SystemTime::now() - Duration::from_secs(1);
    let engine = Engine::start("28", "overlay2", &at("lab"));
    fs::create_dir(at("ours")).expect("a directory");
    let mut wrong = Vec::new();
    for odd in all().iter().filter(|odd| odd.oracle == Oracle::Agrees) {
        let archive = at("odd.tar");
        fs::write(&archive, &odd.archive).expect("written");
        let output = engine.try_docker(&["load"], File::open(&archive).expect("the archive"));
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() == matches!(odd.answer, Answer::Refuses(_)) {
            wrong.push(format!("{}: {} {said}", odd.name, output.status));
        }
        let _ = try_load(&at("ours"), &archive, &[]);
    }
    engine.stop();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    compare(&at("lab/root"), &at("ours"), since);
}

/// Fails where two stores differ in their images, or in what is in the layers.
fn compare(docker: &Path, ours: &Path, since: SystemTime) {
    let (wanted, found) = (Contents::read(docker, "overlay2"), Contents::read(ours, "overlay2"));
    assert_eq!(wanted.references, found.references);
    let text = |contents: &Contents| {
        let text = |config: &Vec<u8>| String::from_utf8_lossy(config).into_owned();
        contents.images.values().map(text).collect::<BTreeSet<_>>()
    };
    assert_eq!(text(&wanted), text(&found));
    assert!(wanted.layers.keys().eq(found.layers.keys()));
    let mut deviations = Vec::new();
    for (chain, cache_id) in &wanted.layers {
        let dir = |root: &Path, id: &str| root.join("overlay2").join(id).join("diff");
        let (one, other) = (dir(docker, cache_id), dir(ours, &found.layers[chain]));
        // Docker leaves the time of unpacking where a directory has no header.
        let is_made_up = |deviation: &Deviation| {
            let path = one.join(std::ffi::OsStr::from_bytes(&deviation.path));
            let found = fs::symlink_metadata(path).expect("a node");
            deviation.aspect == Aspect::Mtime && found.is_dir() && found.modified().expect("a time") >= since
        };
        let all = Tree::read(&one).deviations(&Tree::read(&other), Allow::REBUILT);
        deviations.extend(all.into_iter().filter(|one| !is_made_up(one)).map(|one| format!("{chain}: {one}")));
    }
    assert!(deviations.is_empty(), "{}", deviations.join("\n"));
}
