//! Archives that were changed or cut on their way.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use dockpack::archive::{ArchiveReader, OpenArchive};
use dockpack::ops::load::{LoadPlan, select};
use dockpack::store::{Store, WriteLock};
use dockpack::transfer::Source as _;

use crate::support::archive::small;
use crate::support::command::{load, save, try_load};
use crate::support::store::{Contents, memory_dir, unpack};
use crate::support::tree::Untouched;

/// Loads within this process, many times a second.
fn load_here(root: &Path, lock: &WriteLock, archive: Vec<u8>) -> Result<(), String> {
    let run = || -> dockpack::Result<()> {
        let reader = ArchiveReader::new(Box::new(Cursor::new(archive)), "it")?;
        let mut archive = OpenArchive::of_own(Box::new(reader))?;
        let metadata = std::sync::Arc::clone(archive.metadata());
        let driver = metadata.index.driver.as_deref().expect("a driver");
        let store = Store::open(root, None).or_else(|_| Store::open_fresh(root, driver))?;
        let images = select(&metadata.index, &[])?;
        let (plan, snapshot) = LoadPlan::make(&store, &metadata, images)?;
        plan.execute(&store, &snapshot, lock, &mut archive, &())?;
        Ok(())
    };
    run().map_err(|error| error.to_string())
}

/// A small archive in each form, written by dockpack, and a root with a part of it.
struct Lab {
    temp: tempfile::TempDir,
    archives: Vec<PathBuf>,
}

impl Lab {
    fn new() -> Self {
        let temp = memory_dir();
        let at = |name: &str| temp.path().join(name);
        for dir in ["source", "empty", "part", "whole"] {
            fs::create_dir(at(dir)).expect("a directory");
        }
        fs::write(at("draft.tar"), small().tar()).expect("written");
        let _ = load(&at("source"), &at("draft.tar"), &[]);
        let archives: Vec<PathBuf> = ["all.tar.zst", "all.tar.gz", "all.tar"].map(at).into();
        for archive in &archives {
            save(&at("source"), &["--all"], archive);
        }
        let _ = load(&at("part"), &archives[0], &["base:1"]);
        // The lock's file is there, so that the lock can be held by this process.
        fs::create_dir(at("empty/volumes")).expect("a directory");
        fs::write(at("empty/volumes/metadata.db"), "").expect("written");
        Self { temp, archives }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Loads damaged archives into the store `name`: each fails, and leaves the store as it was.
    fn each_is_refused(&self, name: &str, damaged: impl Iterator<Item = (String, Vec<u8>)>) -> usize {
        let root = self.at(name);
        let store = Store::open_fresh(&root, "overlay2").expect("a store");
        let lock = WriteLock::take(&store).expect("the lock");
        let before = Untouched::note(&root);
        let mut count = 0;
        for (what, bytes) in damaged {
            match load_here(&root, &lock, bytes) {
                Ok(()) => panic!("{what}: loaded"),
                Err(error) => {
                    let is_clear = error.starts_with("cannot read archive it: ") || error.starts_with("archive it ");
                    assert!(is_clear, "{what}: {error}");
                }
            }
            before.assert_restored();
            count += 1;
        }
        count
    }
}

/// Places in a file: all of its first and last bytes, and every so many between.
fn places(length: usize, ends: usize, step: usize) -> impl Iterator<Item = usize> {
    (0..length).filter(move |at| *at < ends || length - at <= ends || at % step == 0)
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= [0x01, 0x80, 0xff, 0x20][at % 4];
    bytes
}

/// Flips bytes, one at a time; `step` between them where they are not near an end.
fn flip(form: usize, step: usize) {
    let lab = Lab::new();
    let archive = &lab.archives[form];
    let bytes = fs::read(archive).expect("an archive");
    for (root, ends, step) in [("empty", 1024, step), ("part", 64, step * 5)] {
        let flip = |at| (format!("{archive:?} flipped at {at}"), flipped(&bytes, at));
        assert!(lab.each_is_refused(root, places(bytes.len(), ends, step).map(flip)) > 2 * ends);
    }
}

#[test]
fn a_flipped_byte_in_zstd() {
    flip(0, 1);
}

#[test]
fn a_flipped_byte_in_gzip() {
    flip(1, 3);
}

#[test]
fn a_flipped_byte_in_a_tar() {
    flip(2, 23);
}

/// Cuts the end off, at all places near both ends and at some between.
fn cut(form: usize, step: usize) {
    let lab = Lab::new();
    let archive = &lab.archives[form];
    let bytes = fs::read(archive).expect("an archive");
    for (root, ends, step) in [("empty", 300, step), ("part", 32, step * 5)] {
        let cut = |at| (format!("{archive:?} cut at {at}"), bytes[..at].to_vec());
        assert!(lab.each_is_refused(root, places(bytes.len(), ends, step).map(cut)) > 2 * ends);
    }
}

#[test]
fn an_end_cut_off_in_zstd() {
    cut(0, 7);
}

#[test]
fn an_end_cut_off_in_gzip() {
    cut(1, 17);
}

#[test]
fn an_end_cut_off_in_a_tar() {
    cut(2, 211);
}

#[test]
fn other_damage() {
    let lab = Lab::new();
    for archive in &lab.archives {
        let bytes = fs::read(archive).expect("an archive");
        let half = bytes.len() / 2;
        let damaged = [
            ("a byte more", [&bytes[..], b"\0"].concat()),
            ("a block more", [&bytes[..], &[0; 512]].concat()),
            ("twice", [&bytes[..], &bytes].concat()),
            ("a byte less in the middle", [&bytes[..half], &bytes[half + 1..]].concat()),
            ("a byte more in the middle", [&bytes[..half], b"x", &bytes[half..]].concat()),
            ("a hole", [&bytes[..half], &[0; 64], &bytes[half + 64..]].concat()),
            ("halves the wrong way round", [&bytes[half..], &bytes[..half]].concat()),
        ];
        for root in ["empty", "part"] {
            let damaged = damaged.iter().map(|(what, bytes)| (format!("{archive:?}: {what}"), bytes.clone()));
            assert_eq!(lab.each_is_refused(root, damaged), 7);
        }
    }
}

/// The archive itself is good: what refuses the others is not the test.
#[test]
fn no_damage() {
    let lab = Lab::new();
    for (number, archive) in lab.archives.iter().enumerate() {
        let root = lab.at(&format!("good-{number}"));
        fs::create_dir(&root).expect("a directory");
        let store = Store::open_fresh(&root, "overlay2").expect("a store");
        let lock = WriteLock::take(&store).expect("the lock");
        load_here(&root, &lock, fs::read(archive).expect("an archive")).expect("it loads");
        assert_eq!(Contents::read(&root, "overlay2"), Contents::read(&lab.at("source"), "overlay2"));
    }
}

/// Through the program, on a root that has nothing at all, not even the lock's file; and on a real archive.
#[test]
fn the_program_says_so_and_fails() {
    let lab = Lab::new();
    let real = lab.at("real");
    unpack("20-overlay", &real);
    let big = lab.at("big.tar.zst");
    save(&real, &["bk:1"], &big);
    let nothing = lab.at("nothing");
    fs::create_dir(&nothing).expect("a directory");
    let before = [Untouched::note(&nothing), Untouched::note(&lab.at("part"))];
    let damaged = lab.at("damaged");
    for archive in lab.archives.iter().chain([&big]) {
        let bytes = fs::read(archive).expect("an archive");
        for at in (0..bytes.len()).step_by(bytes.len() / 9).chain([bytes.len() - 1]) {
            for bad in [flipped(&bytes, at), bytes[..at].to_vec()] {
                fs::write(&damaged, bad).expect("written");
                for root in ["nothing", "part"] {
                    let refused = try_load(&lab.at(root), &damaged, &["--driver", "overlay2"]).failed(1);
                    assert!(refused.stderr.contains(damaged.to_str().expect("text")), "{}", refused.stderr);
                    assert_eq!(refused.stdout, b"");
                }
            }
        }
    }
    for before in before {
        before.assert_restored();
    }
}
