//! `lower` of `overlay2`: what is read is what stands there.

#![no_main]

use dockpack::fuzzing::lower;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(links) = lower(data) else { return };
    let text: Vec<String> = links.iter().map(|link| format!("l/{link}")).collect();
    assert_eq!(text.join(":").as_bytes(), data.trim_ascii());
});
