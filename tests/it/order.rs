//! Archives in which what repeats is stored once.

use std::fs;

use crate::support::archive::{Draft, Entry, Layer, noise};
use crate::support::command::{load, save};
use crate::support::store::{assert_same_images, temp_dir};

const LAYER: usize = 6 << 20;

/// One build of an image of three layers: what was built anew has the same large file, and a small one of its own.
fn build(name: &str) -> Vec<Layer> {
    let layer = |number: u64| {
        let own = format!("{name} {number}");
        Layer::new(&own, [Entry::file("own", &own), Entry::file("large", &noise(number, LAYER))])
    };
    (1..4).map(layer).collect()
}

#[test]
fn builds_of_one_image_are_little_more_than_one() {
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name);
    let builds = ["app:1", "app:2", "app:3"];
    fs::write(at("draft.tar"), Draft::new(builds.map(|name| (name, build(name)))).tar()).expect("written");
    for name in ["source", "target"] {
        fs::create_dir(at(name)).expect("a directory");
    }
    let _ = load(&at("source"), &at("draft.tar"), &[]);
    let size = |name: &str, images: &[&str], window: &str| {
        save(&at("source"), &[images, &["--window", window]].concat(), &at(name));
        fs::metadata(at(name)).expect("an archive").len()
    };
    // Layers of one number lie together, so a window of 8 MiB has one when the next is written. In the order of the
    // images it would have to reach over 18 MiB.
    let one = size("one.tar.zst", &["app:1"], "23");
    assert!(one > LAYER as u64 * 3 / 2, "{one}");
    let all = size("all.tar.zst", &builds, "23");
    assert!(all < one * 21 / 20, "one takes {one}, three {all}");
    let narrow = size("narrow.tar.zst", &builds, "20");
    assert!(narrow > one * 5 / 2, "one takes {one}, three {narrow} in a window of 1 MiB");

    let _ = load(&at("target"), &at("all.tar.zst"), &[]);
    assert_same_images(&at("source"), &at("target"), "overlay2");
}

/// A window that is not needed is not used: some readers take less, and all take memory for it.
#[test]
fn the_window_is_no_larger_than_it_must_be() {
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("draft.tar"), Draft::new([("app:1", build("app:1"))]).tar()).expect("written");
    fs::create_dir(at("source")).expect("a directory");
    let _ = load(&at("source"), &at("draft.tar"), &[]);
    for (arguments, window) in [(&[][..], 25), (&["--window", "22"], 22), (&["--window", "29"], 25)] {
        save(&at("source"), &[&["app:1"], arguments].concat(), &at("app.tar.zst"));
        let bytes = fs::read(at("app.tar.zst")).expect("an archive");
        // Behind magic and descriptor stands the exponent of the window, less 10, in five bits.
        assert_eq!((bytes[4] >> 5 & 1, bytes[5]), (0, (window - 10) << 3), "{arguments:?}");
    }
}
