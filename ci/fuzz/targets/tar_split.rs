//! `tar-split.json.gz`, given as its lines. Where they can be read and tell of a tar that is not too long, that tar is
//! made, with zeros as content, and proved against the same lines with the right checksums; with one byte changed it
//! is refused. The headers in the segments are read too.

#![no_main]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use dockpack::layer::{Content, Members};
use dockpack::tarsplit::{Entries, Entry, Prover, Segments};
use dockpack_fuzz::{LIMIT, gzip};
use serde_json::json;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let packed = gzip(data);
    let mut members = Members::new(Segments::new(Entries::new(&packed[..])), Content::Elided);
    while let Ok(Some(_)) = members.next_member() {}
    let Ok(entries) = Entries::new(&packed[..]).collect::<Result<Vec<Entry>, _>>() else { return };
    let content: u64 = entries
        .iter()
        .map(|entry| if let Entry::File { size, .. } = entry { *size } else { 0 })
        .fold(0, u64::saturating_add);
    if content > LIMIT {
        return;
    }
    let (mut tar, mut lines) = (Vec::new(), String::new());
    for entry in &entries {
        let line = match entry {
            Entry::Segment(bytes) => {
                tar.extend(bytes);
                json!({"type": 2, "payload": BASE64_STANDARD.encode(bytes)})
            }
            Entry::File { name, size, .. } => {
                let zeros = vec![0; *size as usize];
                let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64GoIso, &zeros).to_be_bytes();
                tar.extend(zeros);
                let name = BASE64_STANDARD.encode(name);
                json!({"type": 1, "name_raw": name, "size": size, "payload": BASE64_STANDARD.encode(crc)})
            }
        };
        lines += &format!("{line}\n");
    }
    let lines = gzip(lines.as_bytes());
    let prove = |tar: &[u8]| {
        let mut prover = Prover::new(Entries::new(&lines[..]));
        tar.chunks(777).try_for_each(|chunk| prover.update(chunk)).and_then(|()| prover.finish())
    };
    prove(&tar).expect("the tar is the one that the lines tell of");
    if !tar.is_empty() {
        assert!(prove(&tar[..tar.len() - 1]).is_err(), "a cut was not seen");
        let at = data.len() * 31 % tar.len();
        tar[at] ^= 1;
        assert!(prove(&tar).is_err(), "byte {at} was changed unseen");
    }
});
