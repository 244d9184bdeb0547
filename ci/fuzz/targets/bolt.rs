//! Pages of a bolt database: reading ends, and gives no more than twice what the file holds. The checksums of both
//! meta pages are set right, so that their other numbers are believed.

#![no_main]

use dockpack::fuzzing::bolt;

const HEADER: usize = 16;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    seal(&mut bytes, 0);
    let second = bytes.get(HEADER + 8..HEADER + 12).map(|size| u32::from_le_bytes(size.try_into().expect("four")));
    seal(&mut bytes, second.unwrap_or_default() as usize);
    if let Ok(sum) = bolt(&bytes) {
        // Each page is read once; values within values are counted at each of eight depths.
        assert!(sum <= bytes.len() * 16 + (8 << 20), "{sum} bytes from {}", bytes.len());
    }
});

fn seal(bytes: &mut [u8], page: usize) {
    let Some(meta) = bytes.get_mut(page + HEADER..page + HEADER + 64) else { return };
    let sum = meta[..56]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    meta[56..].copy_from_slice(&sum.to_le_bytes());
}
