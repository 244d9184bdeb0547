//! A store with one of its files changed: whatever looks at a store comes to an end. The first two bytes say which file,
//! of those in `DOCKPACK_FUZZ_STORE`, an unpacked fixture; the rest is what it says.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use dockpack::graph::Format;
use dockpack::ops::gc::{GcPlan, Options};
use dockpack::ops::inspect::{ImageList, View};
use dockpack::ops::verify::{Request, verify};
use dockpack::store::Store;

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    std::env::var_os("DOCKPACK_FUZZ_STORE").expect("DOCKPACK_FUZZ_STORE names an unpacked store").into()
});

/// Paths of the files that say something, in order.
static FILES: LazyLock<Vec<PathBuf>> = LazyLock::new(|| {
    let mut files = Vec::new();
    collect(&ROOT, 0, &mut files);
    files.sort();
    files
});

fn collect(at: &Path, depth: u32, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(at).expect("lists").map(|entry| entry.expect("an entry")) {
        let kind = entry.file_type().expect("a type");
        let skipped =
            ["diff", "work", "root", "upper", "merged", ".dockpack"].iter().any(|name| entry.file_name() == *name);
        if kind.is_dir() && depth < 6 && !skipped {
            collect(&entry.path(), depth + 1, files);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, text)) = data.split_first_chunk::<2>() else { return };
    let path = &FILES[usize::from(u16::from_le_bytes(*which)) % FILES.len()];
    let before = std::fs::read(path).expect("reads");
    std::fs::write(path, text).expect("writes");
    look();
    std::fs::write(path, before).expect("writes");
});

fn look() {
    let store = Store::open(&ROOT, Some("overlay2")).expect("opens");
    let snapshot = store.snapshot().expect("never gives up");
    let view = View::new(&store, &snapshot);
    let list = ImageList::of(&view, true, &[]);
    assert!(list.images.len() >= ImageList::of(&view, false, &[]).images.len());
    let ids: Vec<_> = view.graph.ids().collect();
    let _ = view.trace(ids.iter().copied());
    let _ = view.why(ids.iter().copied());
    view.graph.write(Format::Dot, &[], &mut std::io::sink()).expect("written");
    // It may refuse.
    let _ = GcPlan::make(&store, &Options::default(), &());
    verify(&store, &snapshot, &Request { quick: true, ..Request::default() }, &())
        .expect("what is damaged is no error");
}
