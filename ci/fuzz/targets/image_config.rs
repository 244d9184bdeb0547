//! Image configurations: as many chain IDs as layers, and the bytes stay as they are.

#![no_main]

use dockpack::fuzzing::image_config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(image) = image_config(data) else { return };
    assert_eq!(image.config, data);
    assert_eq!(image.chain_ids().len(), image.diff_ids.len());
    assert_eq!(image.top(), image.chain_ids().last().copied());
});
