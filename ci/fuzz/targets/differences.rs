//! A layer's list of differences, carried out on a tree with links that lead out: nothing outside is touched.

#![no_main]

use std::os::unix::fs::symlink;

use dockpack_fuzz::Scratch;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let scratch = Scratch::new();
    let (inside, outside) = (scratch.path(), scratch.path().with_file_name("outside"));
    std::fs::create_dir_all(inside.join("diff/etc")).expect("a directory");
    std::fs::write(inside.join("diff/etc/conf"), b"text").expect("a file");
    std::fs::hard_link(inside.join("diff/etc/conf"), inside.join("diff/etc/same")).expect("a name");
    std::fs::write(inside.join("diff/etc/copy"), b"text").expect("a file");
    symlink(&outside, inside.join("diff/out")).expect("a link");
    symlink("../../outside/file", inside.join("diff/file")).expect("a link");
    symlink("etc", inside.join("diff/within")).expect("a link");
    let before = std::fs::metadata(outside.join("file")).expect("attributes");
    let _ = dockpack::fuzzing::restore(&scratch.open(), data);
    let after = std::fs::metadata(outside.join("file")).expect("attributes");
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    scratch.close();
});
