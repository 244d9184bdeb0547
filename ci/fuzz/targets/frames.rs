//! zstd frames with a seek table. As it is, an input never counts as proved unless zstd itself reads the same from it;
//! and with the right digest and seek table behind it, it counts as proved where zstd reads it.

#![no_main]

use dockpack::archive::frames::{FrameReader, FrameWriter};
use dockpack_fuzz::{LIMIT, drain};
use std::io::{Read, Write};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut reader = FrameReader::new(data).expect("zstd takes its options");
    let mut out = Vec::new();
    if drain(&mut reader, &mut out) && reader.is_proved() {
        let mut plain = Vec::new();
        let decoder = zstd::Decoder::new(data).expect("zstd takes its options");
        decoder.take(LIMIT).read_to_end(&mut plain).expect("zstd reads it too");
        assert!(plain == out, "zstd reads something else");
    }
    // What was read, written and read again.
    let mut writer = FrameWriter::new(Vec::new(), 1, 17, 1).expect("zstd takes its options");
    let half = out.len() / 2;
    writer.write_all(&out[..half]).expect("memory takes every byte");
    writer.write_all(&out[half..]).expect("memory takes every byte");
    let mut packed = writer.finish().expect("memory takes every byte");
    let mut again = Vec::new();
    let mut reader = FrameReader::new(&packed[..]).expect("zstd takes its options");
    reader.read_to_end(&mut again).expect("reads");
    assert!(reader.is_proved() && again == out, "the round trip does not hold");
    // One byte of it changed, wherever the input says.
    if let (Some(at), Some(flip)) = (data.first_chunk::<4>(), data.get(4).filter(|flip| **flip != 0)) {
        let at = u32::from_le_bytes(*at) as usize % packed.len();
        packed[at] ^= flip;
        let mut reader = FrameReader::new(&packed[..]).expect("zstd takes its options");
        let mut changed = Vec::new();
        assert!(!(drain(&mut reader, &mut changed) && reader.is_proved()), "byte {at} was changed unseen");
    }
});
