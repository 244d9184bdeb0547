//! `dockpack/archive.json` with image configurations behind it. As it is; and where it parses, within an archive whose
//! other documents fit it, which is then loaded into an empty directory: it loads, or nothing is there afterwards.

#![no_main]

use std::io::Cursor;

use dockpack::Error;
use dockpack::archive::{ArchiveReader, OpenArchive};
use dockpack::model::Index;
use dockpack::ops::load::{LoadPlan, select};
use dockpack::store::{Store, WriteLock};
use dockpack::transfer::Source as _;
use dockpack_fuzz::{Scratch, parts};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // As a stream of bytes.
    let _ = read_all(data.to_vec());
    let parts = parts(data);
    let Ok(index) = serde_json::from_slice::<Index>(parts[0]) else { return };
    let text = serde_json::to_vec(&index).expect("what was read is written");
    assert_eq!(serde_json::from_slice::<Index>(&text).expect("what is written is read"), index);
    let Ok(bytes) = dockpack::fuzzing::archive(&index, parts[0], &parts[1..]) else { return };
    if read_all(bytes.clone()).is_err() {
        return;
    }
    let scratch = Scratch::new();
    let loaded = load(bytes, &scratch);
    let left = std::fs::read_dir(scratch.path())
        .expect("lists")
        .any(|entry| entry.expect("an entry").file_name() == "overlay2");
    assert_eq!(loaded.is_ok(), left || index.images.is_empty(), "{loaded:?}");
    scratch.close();
});

fn read_all(bytes: Vec<u8>) -> Result<(), Error> {
    let mut reader = ArchiveReader::new(Box::new(Cursor::new(bytes)), "input")?;
    reader.metadata()?;
    while reader.next_part()?.is_some() {}
    Ok(())
}

fn load(bytes: Vec<u8>, scratch: &Scratch) -> Result<(), Error> {
    let reader = ArchiveReader::new(Box::new(Cursor::new(bytes)), "input")?;
    let mut archive = OpenArchive::of_own(Box::new(reader))?;
    let metadata = std::sync::Arc::clone(archive.metadata());
    let images = select(&metadata.index, &[])?;
    let store = Store::open_fresh(&scratch.path(), "overlay2")?;
    let lock = WriteLock::take(&store)?;
    let (plan, snapshot) = LoadPlan::make(&store, &metadata, images)?;
    plan.execute(&store, &snapshot, &lock, &mut archive, &()).map(|_| ())
}
