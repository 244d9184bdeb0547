//! Tests of the whole: real stores, real daemons, damaged and hostile archives.
//!
//! One program, so that it is linked once. All tests need root; those that start a Docker daemon have `daemon` in
//! their names.

#[cfg(feature = "cli")]
mod bad_input;
#[cfg(feature = "cli")]
mod bounds;
#[cfg(feature = "cli")]
mod churn;
#[cfg(feature = "cli")]
mod claims;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod copy;
mod crash;
#[cfg(feature = "cli")]
mod daemons;
#[cfg(feature = "cli")]
mod damage;
#[cfg(feature = "cli")]
mod drivers;
#[cfg(all(feature = "cli", feature = "crash-points"))]
mod faults;
#[cfg(feature = "cli")]
mod foreign;
#[cfg(feature = "cli")]
mod gc;
#[cfg(feature = "cli")]
mod gc_crash;
#[cfg(feature = "cli")]
mod gc_daemon;
mod gc_unknown;
#[cfg(feature = "cli")]
mod hints;
#[cfg(feature = "cli")]
mod hostile;
#[cfg(feature = "cli")]
mod hostile_foreign;
mod in_use;
#[cfg(feature = "cli")]
mod in_use_trash;
#[cfg(feature = "cli")]
mod inspect;
#[cfg(feature = "cli")]
mod live_restore;
#[cfg(feature = "cli")]
mod load_below;
#[cfg(feature = "cli")]
mod made;
#[cfg(feature = "cli")]
mod matrix;
#[cfg(feature = "cli")]
mod memory;
mod modules;
#[cfg(feature = "cli")]
mod mounts;
#[cfg(feature = "cli")]
mod odd;
#[cfg(feature = "cli")]
mod order;
#[cfg(feature = "cli")]
mod parts;
#[cfg(feature = "cli")]
mod readme;
#[cfg(feature = "cli")]
mod repair;
#[cfg(feature = "cli")]
mod repair_btrfs;
#[cfg(feature = "cli")]
mod repair_crash;
#[cfg(feature = "cli")]
mod repair_daemon;
#[cfg(feature = "cli")]
mod repair_images;
#[cfg(feature = "cli")]
mod repair_layers;
#[cfg(feature = "cli")]
mod repair_random;
#[cfg(feature = "cli")]
mod round_trip;
#[cfg(feature = "cli")]
mod sparse;
mod store;
mod support;
mod trees;
#[cfg(feature = "cli")]
mod two_stores;
#[cfg(feature = "cli")]
mod verify;

/// A file that is not listed would never be run.
#[test]
fn every_file_is_listed() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    for (dir, list) in [(dir.clone(), "main.rs"), (dir.join("support"), "mod.rs")] {
        let listed = std::fs::read_to_string(dir.join(list)).expect("the list");
        for entry in std::fs::read_dir(&dir).expect("tests") {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            let module = name.trim_end_matches(".rs");
            let is_listed = listed.lines().any(|line| line.ends_with(&format!("mod {module};")));
            assert!(
                name == list || matches!(name.as_str(), "snapshots" | "faults") || is_listed,
                "{name} is not listed in {list}"
            );
        }
    }
}
