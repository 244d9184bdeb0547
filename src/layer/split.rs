//! From a tar that is not unpacked to its tar-split.

use std::io::{self, Read, Write};

use crate::tarsplit::Splitter;

use super::member::{Content, Members, TarError};

/// Reads a tar to its end, writes its `tar-split.json.gz` to `sink`, and gives the sink back.
///
/// # Errors
/// The tar is one that Docker would not take, or the sink takes no more.
pub fn split<W: Write>(tar: impl Read, sink: W) -> Result<W, TarError> {
    let mut members = Members::new(Splitter::new(tar, sink), Content::Present);
    while members.next_member()?.is_some() {}
    let mut splitter = members.into_stream();
    io::copy(&mut splitter, &mut io::sink())?;
    let (_, sink) = splitter.finish()?;
    Ok(sink)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use crate::tarsplit::{Entries, Entry, Prover};

    /// One member of a tar that is made up.
    #[derive(Debug, Clone)]
    struct Made {
        name: String,
        kind: u8,
        content: Vec<u8>,
        long: bool,
    }

    fn made() -> impl Strategy<Value = Made> {
        let kinds = prop::sample::select(b"00005123467".to_vec());
        ("[a-zA-Z<&\u{e9}]{1,12}(/[a-z]{1,9}){0,3}", kinds, prop::collection::vec(any::<u8>(), 0..1500), any::<bool>())
            .prop_map(|(name, kind, content, long)| Made { name, kind, content, long })
    }

    fn tar_of(members: &[Made], magic: bool, end: usize) -> Vec<u8> {
        let mut tar = Vec::new();
        for (number, member) in members.iter().enumerate() {
            let mut header = if magic { tar::Header::new_ustar() } else { tar::Header::new_gnu() };
            let name = format!("{number}/{}", if member.long { member.name.repeat(9) } else { member.name.clone() });
            let has_content = matches!(member.kind, b'0' | b'7');
            if name.len() > 100 {
                let record = format!(" path={name}\n");
                let length = (record.len() + 1..).find(|all| all.to_string().len() + record.len() == *all);
                let record = format!("{}{record}", length.expect("a length"));
                push(&mut tar, header.clone(), b'x', "PaxHeaders/x", record.as_bytes());
            }
            let short: String = name.chars().take(40).collect();
            let kind = if member.kind == b'7' { b'0' } else { member.kind };
            header.set_mode(0o644);
            let content = if has_content { &member.content[..] } else { b"" };
            push(&mut tar, header, kind, &short, content);
        }
        tar.resize(tar.len() + end, 0);
        tar
    }

    fn push(tar: &mut Vec<u8>, mut header: tar::Header, kind: u8, name: &str, content: &[u8]) {
        header.set_path(name).expect("a short name");
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_link_name(if matches!(kind, b'1' | b'2') { "0/x" } else { "" }).ok();
        header.set_cksum();
        tar.extend(header.as_bytes());
        tar.extend(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }

    /// Puts a tar together again, with the content of files from where the tar itself has it.
    fn assemble(split: &[u8], tar: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for entry in Entries::new(split) {
            match entry.expect("an entry") {
                Entry::Segment(bytes) => out.extend(bytes),
                Entry::File { size, crc, .. } => {
                    let content = &tar[out.len()..out.len() + usize::try_from(size).expect("short")];
                    let found = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64GoIso, content).to_be_bytes();
                    assert_eq!(crc, (size > 0).then_some(found));
                    out.extend(content);
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn assembled_again_it_is_the_same(
            members in prop::collection::vec(made(), 0..12), magic: bool, end in prop_oneof![Just(0_usize), Just(512), 1024_usize..3000],
        ) {
            let tar = tar_of(&members, magic, end);
            let split = split(Cursor::new(&tar), Vec::new()).expect("a tar");
            prop_assert_eq!(assemble(&split, &tar), tar.clone());
            let files = Entries::new(&split[..]).filter(|entry| matches!(entry, Ok(Entry::File { .. }))).count();
            prop_assert_eq!(files, members.len());
            let mut prover = Prover::new(Entries::new(&split[..]));
            prover.update(&tar).expect("the same");
            prover.finish().expect("the same end");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0_usize..4000) {
            let _ = split(&bytes[..], io::sink());
            let mut tar = tar_of(&[Made { name: "a".to_owned(), kind: b'0', content: vec![1; 700], long: true }], true, 1024);
            let at = at % tar.len();
            let end = tar.len().min(at + bytes.len());
            tar[at..end].copy_from_slice(&bytes[..end - at]);
            if let Ok(split) = split(&tar[..], Vec::new()) {
                prop_assert_eq!(assemble(&split, &tar), tar);
            }
        }
    }
}
