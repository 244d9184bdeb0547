//! Every kind of damage that `fixtures/damage` does: what `verify` says of it, what `repair` does about it, and what a daemon
//! makes of the store, damaged and mended.
//!
//! The daemon is asked whether what `verify` says is so, in both directions: what breaks by its word breaks, and all else
//! works. Each kind of damage has an image and a container of its own, so that many are done to one store.

mod probe;
mod victims;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use insta::assert_snapshot;
use serde_json::Value;

use self::probe::{Daemon, Seen, look};
use self::victims::{Scene, Victim, damage};
use crate::support::engine::Engine;
use crate::support::repair::{document, repair};
use crate::support::store::project;
use crate::verify::{findings, text, verify};

/// A defect, and the image of which a copy has it.
#[derive(Debug, Clone)]
struct Kind {
    defect: String,
    /// Nothing where it is one of the whole store.
    of: Option<String>,
    /// How many of the lowest layers of the image a copy has, 0 for all.
    layers: usize,
}

/// Lists the defects of `overlay2`.
fn kinds() -> Vec<Kind> {
    let output = Command::new(project("fixtures/damage")).args(["--of", "overlay2"]).output().expect("fixtures/damage");
    let list = String::from_utf8(output.stdout).expect("text");
    let kind = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let of = (words[1] != "-").then(|| words[1].to_owned());
        Kind { defect: words[0].to_owned(), of, layers: words[2].parse().expect("a number") }
    };
    list.lines().map(kind).collect()
}

/// Where `verify` says more than a daemon shows, and why.
const MORE_THAN_SEEN: [(&str, &str); 2] = [
    ("cache-id-of-another", "what stands on a layer finds it by its short name, and not by its cache-id"),
    ("tar-split-of-another", "which of the two is of another layer, the files or the tar-split, nothing says"),
];

/// What `verify` says of a victim.
#[derive(Debug, Default)]
struct Said {
    codes: BTreeSet<String>,
    /// Effects on the image, and on the container.
    image: BTreeSet<String>,
    container: BTreeSet<String>,
}

impl Said {
    fn of(document: &Value, victim: &Victim) -> Self {
        let mut said = Self::default();
        for found in findings(document).iter().filter(|found| found["severity"] != "note") {
            // Which image the name is of is what is lost.
            if text(found, "code") == "reference-invalid" && text(found, "subject") == victim.reference() {
                said.image.insert("names".to_owned());
            }
            if victim.is_named_by(text(found, "subject")) {
                said.codes.insert(format!("{} {}", text(found, "severity"), text(found, "code")));
            }
            for broken in found["breaks"].as_array().expect("a list") {
                let has = |kind: &str| broken[kind].as_array().expect("a list").iter().any(|one| victim.is(one));
                let effect = text(broken, "effect");
                if has("images") {
                    said.image.insert(effect.to_owned());
                }
                if has("containers") {
                    said.container.insert(effect.to_owned());
                }
            }
        }
        said
    }

    /// Lists in what a daemon does not agree.
    fn denied_by(&self, seen: &Seen) -> Vec<String> {
        let mut denied = Vec::new();
        let mut hold = |what: &str, is_so: bool| {
            if !is_so {
                denied.push(what.to_owned());
            }
        };
        let (image, container) = (|effect| self.image.contains(effect), |effect| self.container.contains(effect));
        if image("start") {
            hold("the image does not run", seen.image.is_err());
        } else if image("content") {
            hold("the image has other content", seen.image != Ok(true));
        } else {
            hold("the image is found by its name", seen.is_named != image("names"));
            hold("the image runs", image("names") || seen.image == Ok(true));
        }
        if image("save") {
            hold("the image cannot be saved", seen.saves.is_err());
        } else if self.image.is_empty() {
            hold("the image can be saved", seen.saves.is_ok());
        }
        if container("start") || container("settings") {
            hold("the container does not start", seen.container.is_err());
        } else if container("content") {
            hold("the container has other content", seen.container != Ok(true));
        } else {
            hold("the container starts", seen.container == Ok(true));
        }
        denied
    }
}

/// Says in a line what a daemon does.
fn told(seen: &Seen) -> String {
    let state = |seen: &Result<bool, String>| match seen {
        Ok(true) => "works",
        Ok(false) => "has other content",
        Err(_) => "does not start",
    };
    let saves = if seen.saves.is_ok() { "can be saved" } else { "cannot be saved" };
    let named = if seen.is_named { "" } else { ", is not found by its name" };
    let inspected = if seen.is_inspected || !seen.is_named { "" } else { ", cannot be inspected" };
    format!("image {}, {saves}{named}{inspected}; container {}", state(&seen.image), state(&seen.container))
}

/// Starts a daemon on a copy of a store, looks at all victims, and holds what it sees against what `verify` said.
fn agree(scene: &Scene, root: &Path, name: &str, document: &Value) -> (BTreeMap<String, String>, Vec<String>) {
    let dir = scene.copy(root, name);
    let engine = Engine::start("28", "overlay2", &dir);
    let daemon = Daemon::new(&dir);
    let waiting = Mutex::new(scene.victims.iter().collect::<Vec<_>>());
    let results = Mutex::new((BTreeMap::new(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(victim) = { waiting.lock().expect("not poisoned").pop() } {
                    let seen = look(&engine, &daemon, scene, victim);
                    let denied = Said::of(document, victim).denied_by(&seen);
                    let mut results = results.lock().expect("not poisoned");
                    results.0.insert(victim.defect.clone(), told(&seen));
                    let is_known = MORE_THAN_SEEN.iter().any(|(defect, _)| *defect == victim.defect);
                    let seen_well = seen.image == Ok(true) && seen.container == Ok(true);
                    // What is less than `verify` says is known; what is more is not.
                    let denied = if is_known && seen_well && name == "damaged" { Vec::new() } else { denied };
                    results.1.extend(denied.iter().map(|what| format!("{}: {what}: {seen:?}", victim.defect)));
                }
            });
        }
    });
    drop(engine);
    std::fs::remove_dir_all(&dir).expect("removed");
    results.into_inner().expect("not poisoned")
}

/// Lists findings of a store by which anything else breaks than victims.
fn others(scene: &Scene, document: &Value) -> Vec<String> {
    let is_other = |found: &&Value| {
        let sets = found["breaks"].as_array().expect("a list").iter();
        let mut all = sets.flat_map(|broken| [&broken["images"], &broken["containers"]]);
        all.any(|list| {
            let mut all = list.as_array().expect("a list").iter();
            all.any(|one| !scene.victims.iter().any(|victim| victim.is(one)))
        })
    };
    findings(document).iter().filter(is_other).map(|found| format!("of others: {found:#}")).collect()
}

/// What a plan of `repair` does about a victim.
fn planned(plan: &Value, victim: &Victim) -> Vec<String> {
    let list = |key: &str| plan[key].as_array().expect("a list").clone();
    let mut lines = BTreeSet::new();
    for mend in list("mends").iter().filter(|mend| victim.is_named_by(text(mend, "subject"))) {
        lines.insert(format!("mends {}", steady(text(mend, "act"))));
    }
    for left in list("left").iter().filter(|left| victim.is_named_by(text(left, "subject"))) {
        lines.insert(format!("leaves {}: {}", text(left, "code"), steady(text(left, "needs"))));
    }
    lines.into_iter().collect()
}

/// Writes `…` for what is another in every store.
fn steady(line: &str) -> String {
    let is_drawn = |word: &&str| {
        let word = word.trim_start_matches("sha256:").trim_start_matches("l/");
        word.len() >= 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
            || word.len() == 26 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    let words = line.split(' ').map(|word| if is_drawn(&word) { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// Does these kinds of damage to one store, mends it, and asks a daemon at both times.
fn rows(kinds: &[Kind]) -> String {
    let scene = Scene::new(kinds);
    let archive = scene.archive();
    let (code, document) = verify(&scene.whole(), &[]);
    assert_eq!(code, 0, "before the damage: {document:#}");
    let root = scene.whole();
    damage(&root, kinds.iter().map(|kind| kind.defect.as_str()));
    let (code, said) = verify(&root, &[]);
    assert_eq!(code, 3);
    let (broken, mut denied) = agree(&scene, &root, "damaged", &said);
    denied.extend(others(&scene, &said));

    let mended = repair(&root, &["-y", "--json", "--from", archive.to_str().expect("text")]);
    assert!(matches!(mended.status.code(), Some(0 | 3)), "{}", mended.stderr);
    let plan = document_of(&mended);
    let (_, after) = verify(&root, &[]);
    let (whole, more) = agree(&scene, &root, "mended", &after);
    denied.extend(more.into_iter().map(|line| format!("mended: {line}")));

    let mut table = String::new();
    for victim in &scene.victims {
        let defect = &victim.defect;
        let (first, last) = (Said::of(&said, victim), Said::of(&after, victim));
        let planned = planned(&plan, victim);
        let is_left = planned.iter().any(|line| line.starts_with("leaves "));
        if !is_left && !last.codes.is_empty() {
            denied.push(format!("{defect}: not mended: {:?}", last.codes));
        }
        writeln!(table, "{defect}").expect("text");
        writeln!(table, "  verify: {}{}", list(&first.codes), breaks(&first)).expect("text");
        writeln!(table, "  daemon: {}", broken[defect]).expect("text");
        for line in planned {
            writeln!(table, "  repair {line}").expect("text");
        }
        if whole[defect] != "image works, can be saved; container works" {
            writeln!(table, "  daemon after repair: {}", whole[defect]).expect("text");
        }
    }
    assert!(denied.is_empty(), "{}\n\n{table}", denied.join("\n"));
    table
}

fn document_of(outcome: &crate::support::command::Outcome) -> Value {
    document(outcome)["plan"].clone()
}

fn list(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn breaks(said: &Said) -> String {
    let part = |what: &str, effects: &BTreeSet<String>| match effects.is_empty() {
        true => String::new(),
        false => format!("; {what}: {}", list(effects)),
    };
    part("image", &said.image) + &part("container", &said.container)
}

/// The kinds of damage to an image or a container.
fn of_images(is_meant: impl Fn(&str) -> bool) -> Vec<Kind> {
    kinds().into_iter().filter(|kind| kind.of.is_some() && is_meant(&kind.defect)).collect()
}

/// Tells whether a defect is of an entry or a file below `image/` or `containers/`.
fn is_of_metadata(defect: &str) -> bool {
    let words = [
        "entry",
        "entries",
        "config",
        "parent",
        "cache-id",
        "diff",
        "size",
        "tar-split",
        "reference",
        "container",
        "init",
        "mount",
        "record",
        "last-updated",
        "metadata",
    ];
    words.iter().any(|word| defect.contains(word))
}

#[test]
fn damages_of_layers_as_a_daemon_28_sees_them() {
    assert_snapshot!(rows(&of_images(|defect| !is_of_metadata(defect))));
}

#[test]
fn damages_of_metadata_as_a_daemon_28_sees_them() {
    assert_snapshot!(rows(&of_images(is_of_metadata)));
}

#[test]
#[expect(clippy::print_stdout, reason = "whoever reads the log wants to know how many there are")]
fn there_are_enough_kinds_of_damage() {
    let count = of_images(|_| true).len();
    println!("{count} kinds of damage");
    assert!(count >= 60);
}
