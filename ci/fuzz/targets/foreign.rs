//! Archives of other tools: an input is what `manifest.json`, `index.json` and further members hold, which those name
//! by the names that the seeds have; or, where it begins so, a tar as it is.

#![no_main]

use std::io::Cursor;

use dockpack::archive::Archive;
use dockpack::ops::verify::verify_archive;
use dockpack_fuzz::parts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    verify(data.to_vec());
    let mut tar = tar::Builder::new(Vec::new());
    for (number, part) in parts(data).into_iter().enumerate() {
        let name = match number {
            0 => "manifest.json".to_owned(),
            1 => "index.json".to_owned(),
            // A digest that the seeds name: fifty-odd zeros and a number.
            number => format!("blobs/sha256/{number:064}"),
        };
        if part.is_empty() {
            continue;
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(part.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, part).expect("memory takes every byte");
    }
    let tar = tar.into_inner().expect("memory takes every byte");
    verify(tar);
});

fn verify(tar: Vec<u8>) {
    let archive = Archive::of_stream(Box::new(Cursor::new(tar)), "input");
    let _ = archive.and_then(|archive| verify_archive(archive, "input", &[], &()));
}
