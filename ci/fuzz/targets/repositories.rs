//! `repositories.json`: what is read is still there after it is written, and writing again changes nothing.

#![no_main]

use dockpack::fuzzing::{merge_references, references};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(read) = references(data) else { return };
    let first = merge_references(data, &read).expect("what is read is written");
    let again = references(&first).expect("what is written is read");
    for (key, id) in &read {
        assert_eq!(again.get(key), Some(id));
    }
    let second = merge_references(&first, &again).expect("what is read is written");
    assert_eq!(references(&second).expect("what is written is read"), again);
});
