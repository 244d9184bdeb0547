//! What was saved and loaded is the same, to the last bit of metadata.

use std::fs;
use std::path::Path;

use crate::support::command::{dockpack, load, outcome, run, save};
use crate::support::store::{Contents, REAL, assert_nothing_else, assert_same_images, driver_of, temp_dir, unpack};
use crate::support::tree::Untouched;

/// An unpacked store with room beside it.
struct Lab {
    temp: tempfile::TempDir,
    driver: &'static str,
}

impl Lab {
    fn new(fixture: &'static str) -> Self {
        let temp = temp_dir();
        unpack(fixture, &temp.path().join("root"));
        Self { temp, driver: driver_of(fixture) }
    }

    fn root(&self) -> std::path::PathBuf {
        self.at("root")
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.temp.path().join(name)
    }

    fn empty(&self, name: &str) -> std::path::PathBuf {
        fs::create_dir(self.at(name)).expect("a directory");
        self.at(name)
    }
}

fn round_trip(fixture: &'static str) {
    let lab = Lab::new(fixture);
    let before = Untouched::note(&lab.root());
    let archive = lab.at("all.tar.zst");
    save(&lab.root(), &["--all"], &archive);
    before.assert();
    let target = lab.empty("target");
    let _ = load(&target, &archive, &[]);
    assert_same_images(&lab.root(), &target, lab.driver);
    assert_nothing_else(&target, lab.driver);

    let again = lab.at("again.tar.zst");
    save(&target, &["--all"], &again);
    assert!(
        fs::read(&archive).expect("an archive") == fs::read(&again).expect("an archive"),
        "saved again, it differs"
    );
}

#[test]
fn round_trip_of_20_overlay() {
    round_trip("20-overlay");
}

#[test]
fn round_trip_of_20_overlay2() {
    round_trip("20-overlay2");
}

#[test]
fn round_trip_of_28_overlay2() {
    round_trip("28-overlay2");
}
