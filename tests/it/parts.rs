//! Archives of which only a part is read: what is read is proved, what is passed over does not matter.

use std::fs;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::archive::{Draft, Entry, Layer, noise};
use crate::support::command::{dockpack, load, outcome, run, save, try_load};
use crate::support::store::{assert_nothing_else, assert_same_images, assert_sound_part, names, temp_dir};

/// A store with four images of large layers that have nothing in common, but for one tar in two of them.
struct Lab {
    dir: TempDir,
    archive: PathBuf,
    /// Sections of the archive: one frame each, in order.
    frames: Vec<Range<usize>>,
}

impl Lab {
    fn new() -> Self {
        let dir = temp_dir();
        let at = |name: &str| dir.path().join(name);
        let large = |name: &str, seed| Layer::new(name, [Entry::file(name, &noise(seed, 17 << 20))]);
        let (a, b, c, d) = (large("a", 1), large("b", 2), large("c", 3), large("d", 4));
        let small = Layer::new("small", [Entry::file("small", "this is little")]);
        let again = Layer { cache_id: small.cache_id.replace('a', "b"), link: "A".repeat(26), ..a.clone() };
        let images = [("a:1", vec![a]), ("b:1", vec![b, c]), ("d:1", vec![d, again]), ("small:1", vec![small])];
        fs::write(at("draft.tar"), Draft::new(images).tar()).expect("written");
        fs::create_dir(at("source")).expect("a directory");
        let _ = load(&at("source"), &at("draft.tar"), &[]);
        let archive = at("all.tar.zst");
        save(&at("source"), &["a:1", "b:1", "d:1", "small:1"], &archive);
        let frames = frames(&fs::read(&archive).expect("an archive"));
        // The metadata, a, b, c, d with the other layer that has the tar of a, small, and the digests.
        assert_eq!(frames.len(), 7);
        Self { archive, frames, dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn empty(&self, name: &str) -> PathBuf {
        let root = self.at(name);
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).expect("a directory");
        root
    }

    /// Writes the archive with zeros for all frames but these.
    fn only(&self, kept: &[usize]) -> PathBuf {
        let mut bytes = fs::read(&self.archive).expect("an archive");
        for (number, frame) in self.frames.iter().enumerate() {
            if !kept.contains(&number) {
                bytes[frame.clone()].fill(0);
            }
        }
        let path = self.at("only.tar.zst");
        fs::write(&path, bytes).expect("written");
        path
    }
}

/// Finds the frames of an archive by its seek table, as any reader of zstd's seekable format does.
fn frames(archive: &[u8]) -> Vec<Range<usize>> {
    let number = |at: usize| u32::from_le_bytes(archive[at..at + 4].try_into().expect("four bytes")) as usize;
    let count = number(archive.len() - 9);
    let table = archive.len() - 9 - count * 8;
    let mut end = 0;
    let frame = |n: usize| {
        let begin = end;
        end += number(table + n * 8);
        begin..end
    };
    (0..count).map(frame).collect()
}

/// What one image needs: the metadata, its sections, the digests.
const NEEDED: [(&str, &[usize]); 4] =
    [("a:1", &[0, 1, 6]), ("b:1", &[0, 2, 3, 6]), ("d:1", &[0, 1, 4, 6]), ("small:1", &[0, 5, 6])];

#[test]
fn one_image_needs_its_own_frames_and_each_of_them() {
    let lab = Lab::new();
    for (image, needed) in NEEDED {
        let root = lab.empty("target");
        let archive = lab.only(needed);
        let part = load(&root, &archive, &[image]);
        let whole = lab.empty("whole");
        let _ = load(&whole, &lab.archive, &[image]);
        // What it says of its cost is what it read: noise takes about three quarters of its bytes.
        assert!(image == "small:1" || part.stderr.contains("(1.3x)"), "{}", part.stderr);
        assert_same_images(&whole, &root, "overlay2");
        assert_sound_part(&lab.at("source"), &root, "overlay2");
        assert_nothing_else(&root, "overlay2");
        let verify = |archive: &Path| run(&root, ["verify", "-i", archive.to_str().expect("text"), image]);
        let _ = verify(&archive).done();
        for gone in 0..needed.len() {
            let fewer: Vec<usize> = needed.iter().copied().filter(|frame| *frame != needed[gone]).collect();
            let archive = lab.only(&fewer);
            let root = lab.empty("target");
            let refused = try_load(&root, &archive, &[image]).failed(1);
            assert!(refused.stderr.contains("only.tar.zst"), "{}", refused.stderr);
            assert_eq!(names(&root), [] as [String; 0]);
            assert_eq!(verify(&archive).status.code(), Some(3), "{image} without frame {}", needed[gone]);
        }
    }
}

#[test]
fn a_byte_of_what_is_needed_is_missed() {
    let lab = Lab::new();
    let bytes = fs::read(&lab.archive).expect("an archive");
    let end = lab.frames[6].end;
    let damaged = lab.at("damaged.tar.zst");
    let places = [0, 1, 4, 6].iter().flat_map(|frame| [lab.frames[*frame].start + 9, lab.frames[*frame].end - 1]);
    for at in places.chain((end..bytes.len()).step_by(29)).chain([bytes.len() - 1]) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        fs::write(&damaged, bytes).expect("written");
        let root = lab.empty("target");
        let _ = try_load(&root, &damaged, &["d:1"]).failed(1);
        assert_eq!(names(&root), [] as [String; 0], "byte {at}");
    }
    for length in [lab.frames[3].end, end, end + 20, bytes.len() - 1] {
        fs::write(&damaged, &bytes[..length]).expect("written");
        let _ = try_load(&lab.empty("target"), &damaged, &["d:1"]).failed(1);
    }
}

#[test]
fn a_list_needs_the_first_frame() {
    let lab = Lab::new();
    let list =
        |archive: &Path| run(&lab.at("source"), ["ls", "-q", "-i", archive.to_str().expect("text")]).done().stdout;
    let whole = list(&lab.archive);
    assert_eq!(whole.iter().filter(|byte| **byte == b'\n').count(), 4);
    assert_eq!(list(&lab.only(&[0])), whole);
}

/// What the target has is not read again.
#[test]
fn layers_that_are_there_need_no_frame() {
    let lab = Lab::new();
    let root = lab.empty("target");
    let _ = load(&root, &lab.archive, &["b:1", "small:1"]);
    let _ = load(&root, &lab.only(&[0, 1, 4, 6]), &[]);
    assert_same_images(&lab.at("source"), &root, "overlay2");
}

/// A pipe goes by as a whole, and is proved as a whole.
#[test]
fn a_pipe_is_read_to_its_end() {
    let lab = Lab::new();
    let through = |archive: &Path, root: &Path| {
        let mut command = dockpack(root, ["load", "a:1"]);
        command.pipe_stdin(archive).expect("an archive");
        outcome(command)
    };
    let root = lab.empty("target");
    let _ = through(&lab.archive, &root).done();
    assert_sound_part(&lab.at("source"), &root, "overlay2");
    let _ = through(&lab.only(&[0, 1, 6]), &lab.empty("target")).failed(1);
}

#[test]
fn other_readers_read_parts() {
    let lab = Lab::new();
    let bytes = fs::read(&lab.archive).expect("an archive");
    let tar = lab.at("all.tar");
    save(&lab.at("source"), &["a:1", "b:1", "d:1", "small:1"], &tar);
    let tar = fs::read(tar).expect("a tar");
    let mut seekable = zeekstd::Decoder::new(std::io::Cursor::new(&bytes)).expect("zeekstd reads it");
    assert_eq!(seekable.seek_table().num_frames() as usize, lab.frames.len());
    let mut found = Vec::new();
    seekable.read_to_end(&mut found).expect("it decodes");
    assert!(found == tar, "zeekstd reads another tar");
    // Each section is a piece of the tar that begins with a member.
    let mut at = 0;
    for frame in &lab.frames {
        let section = zstd::decode_all(&bytes[frame.clone()]).expect("a frame");
        assert!(tar[at..].starts_with(&section));
        assert_eq!(section[257..262], *b"ustar");
        at += section.len();
    }
    assert_eq!(at, tar.len());
}
