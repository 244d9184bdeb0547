//! Tars of layers, unpacked as each driver does it: nothing outside the layer's directory is touched, names are clean,
//! a tar that is unpacked once is unpacked again, and each fits the tar-split that is made of it. The first byte says how; the tar begins behind it.

#![no_main]

use dockpack::layer::{Content, Members, Shared, Whiteouts, apply, split};
use dockpack::tarsplit::{Entries, Prover};
use dockpack_fuzz::Scratch;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((how, tar)) = data.split_first() else { return };
    let mut members = Members::new(tar, Content::Present);
    let mut content = 0;
    while let Ok(Some(member)) = members.next_member() {
        assert!(!member.path.starts_with(b"/") && !member.path.contains(&0), "{:?}", member.path);
        assert!(member.path.split(|byte| *byte == b'/').all(|part| part != b".." && part != b"."), "{:?}", member.path);
        let mut buffer = [0; 512];
        while let Ok(got @ 1..) = members.read_content(&mut buffer) {
            content += got;
        }
    }
    assert!(content <= tar.len());
    if let Ok(lines) = split(tar, Vec::new()) {
        let mut prover = Prover::new(Entries::new(&lines[..]));
        prover.update(tar).and_then(|()| prover.finish()).expect("the tar is the one that its tar-split tells of");
    }
    let scratch = Scratch::new();
    let unpack = |name: &str| {
        let root = scratch.open().make_dir(name, 0o755).expect("a directory");
        let whiteouts = match how % 3 {
            0 => Whiteouts::Overlayfs,
            1 => Whiteouts::Remove,
            _ => Whiteouts::Above(scratch.open()),
        };
        apply(&mut Members::new(tar, Content::Present), &root, whiteouts, &Shared::default()).map_err(|e| e.to_string())
    };
    let (one, other) = (unpack("one"), unpack("other"));
    assert_eq!(one.is_ok(), other.is_ok(), "{one:?} {other:?}");
    scratch.close();
});
