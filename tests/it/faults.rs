//! Every system call of a command fails once: nothing that is needed goes, and the command says so.
//!
//! The program counts its calls by kind, and the one that is named fails (`src/fault.rs`). For each of them a store is
//! compared with what it was before the command and with what an undisturbed run makes of it: each path must be one or
//! the other, exit code 0 is for the whole result alone, and the next run ends as an undisturbed one, or an undo brings
//! all back. A sample of the calls by default; all of them, with every error, by `DOCKPACK_FAULTS=all`, larger ones by a number.

mod scene;
mod state;

use std::collections::BTreeMap;

use scene::Scene;

/// Errors of calls that look.
const READING: [(&str, i32); 5] = [("EIO", 5), ("EBADMSG", 74), ("EMFILE", 24), ("ENOMEM", 12), ("EACCES", 13)];
/// Errors of calls that change something.
const CHANGING: [(&str, i32); 5] = [("EIO", 5), ("ENOSPC", 28), ("EXDEV", 18), ("EROFS", 30), ("EPERM", 1)];
/// Kinds of calls that look.
const LOOKS: [&str; 8] = ["Open", "Read", "List", "Stat", "ReadLink", "ListXattrs", "GetXattr", "Seek"];

/// How many calls of what looks, and of what changes something, fail in a sample.
const SAMPLE: usize = 40;

/// One call that fails.
struct Fault {
    call: String,
    error: &'static str,
    /// As the program is told.
    wanted: String,
    /// Number in the order of all.
    number: usize,
}

/// Chooses what fails, of so many calls of each kind.
fn choose(calls: &BTreeMap<String, usize>) -> Vec<Fault> {
    let wanted = std::env::var("DOCKPACK_FAULTS").unwrap_or_default();
    let (all, sample) = (wanted == "all", wanted.parse().unwrap_or(SAMPLE));
    let mut faults = Vec::new();
    for (is_look, errors) in [(true, READING), (false, CHANGING)] {
        let of_group = || calls.iter().filter(|(call, _)| LOOKS.contains(&call.as_str()) == is_look);
        let sum: usize = of_group().map(|(_, count)| count).sum();
        // Few calls of a kind all fail; of many, some that are as far from one another.
        let stride = if all { 1 } else { sum.div_ceil(sample) };
        for (call, count) in of_group() {
            for number in (1..=*count).filter(|number| *count <= 10 || number % stride == 0 || *number == *count) {
                let chosen = if all { &errors[..] } else { &errors[number / stride % errors.len()..][..1] };
                for (error, code) in chosen {
                    let wanted = format!("{call}#{number}={code}");
                    faults.push(Fault { call: call.clone(), error, wanted, number: faults.len() });
                }
            }
        }
    }
    faults
}

/// Lets one call after the other fail.
#[allow(clippy::print_stdout, reason = "how much was tried is the result")]
fn every_call_fails(scene: &Scene) {
    let only = std::env::var("DOCKPACK_FAULTS_ONLY").ok();
    let mut wrong = Vec::new();
    let mut failed: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for fault in choose(&scene.calls) {
        if only.as_ref().is_some_and(|only| *only != fault.wanted) {
            continue;
        }
        let (was_met, found) = scene.fail(&fault.wanted, fault.number);
        if was_met {
            *failed.entry((fault.call, fault.error)).or_default() += 1;
        }
        wrong.extend(found.into_iter().map(|text| format!("{} ({}): {text}", fault.wanted, fault.error)));
    }
    let sum: usize = failed.values().sum();
    println!("{}: {sum} calls failed, of {}", scene.name, scene.calls.values().sum::<usize>());
    for ((call, error), count) in failed {
        println!("  {call} {error}: {count}");
    }
    let shown = wrong.iter().take(60).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{}: {} of {sum} faults:\n{shown}", scene.name, wrong.len());
}

macro_rules! scenes {
    ($($name:ident: $scene:expr;)*) => {$(
        #[test]
        fn $name() {
            every_call_fails(&$scene);
        }
    )*};
}

scenes! {
    gc_on_overlay2: Scene::gc("overlay2", &[], &["gc", "-y"]);
    gc_on_overlay: Scene::gc("overlay", &[], &["gc", "-y"]);
    gc_on_vfs: Scene::gc("vfs", &[], &["gc", "-y"]);
    gc_that_deletes_on_overlay2: Scene::gc("overlay2", &[], &["gc", "-y", "--purge"]);
    gc_that_deletes_on_overlay: Scene::gc("overlay", &[], &["gc", "-y", "--purge"]);
    gc_that_deletes_on_vfs: Scene::gc("vfs", &[], &["gc", "-y", "--purge"]);
    purge_on_overlay2: Scene::gc("overlay2", &[&["gc", "-y"]], &["gc", "--purge"]);
    purge_on_overlay: Scene::gc("overlay", &[&["gc", "-y"]], &["gc", "--purge"]);
    purge_on_vfs: Scene::gc("vfs", &[&["gc", "-y"]], &["gc", "--purge"]);
    undo_on_overlay2: Scene::gc("overlay2", &[&["gc", "-y"]], &["gc", "--undo"]);
    undo_on_overlay: Scene::gc("overlay", &[&["gc", "-y"]], &["gc", "--undo"]);
    undo_on_vfs: Scene::gc("vfs", &[&["gc", "-y"]], &["gc", "--undo"]);
    verify_on_overlay2: Scene::verify("overlay2");
    verify_on_overlay: Scene::verify("overlay");
    verify_on_vfs: Scene::verify("vfs");
    repair_on_overlay2: Scene::repair("overlay2", false);
    repair_on_overlay: Scene::repair("overlay", false);
    repair_on_vfs: Scene::repair("vfs", false);
    undo_of_repair_on_overlay2: Scene::repair("overlay2", true);
    undo_of_repair_on_overlay: Scene::repair("overlay", true);
    undo_of_repair_on_vfs: Scene::repair("vfs", true);
    load_on_overlay2: Scene::load("overlay2");
    load_on_overlay: Scene::load("overlay");
    load_on_vfs: Scene::load("vfs");
}
