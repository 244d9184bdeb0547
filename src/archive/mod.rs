//! The archive: an OCI image layout that Docker, podman and skopeo read as it is, with dockpack's own members.
//!
//! A tar with these members, in this order; every header is canonical (GNU, mode 0644, owner 0, time 0), so that
//! the same images give the same bytes:
//!
//! | member | content |
//! |---|---|
//! | `oci-layout`, `index.json` | OCI image layout; one descriptor for each reference |
//! | `manifest.json` | what `docker load` reads |
//! | `dockpack/archive.json` | [`Index`](crate::model::Index): what the store knew beyond that |
//! | `blobs/sha256/…` | image configurations, byte for byte, and OCI manifests |
//! | for each layer, parents first: | |
//! | `dockpack/layers/<chain>/tar-split.json.gz` | as it was in the store, byte for byte |
//! | `dockpack/layers/<chain>/differences.jsonl` | what the layer's directory has beyond the tar |
//! | `blobs/sha256/<diff>` | the layer's tar, once for each diff ID |
//! | `dockpack/SHA256SUMS` | digests of all members before it, as `sha256sum -c` reads them |
//!
//! The tar is plain, in gzip, or in zstd frames ([`frames`]). Frames are in sections: the metadata, then the layers, in
//! one section or several ([`Index::sections`](crate::model::Index::sections)), then `SHA256SUMS`.
//!
//! # What a read proves
//!
//! Read whole, everything: the digest of each frame, of each member, and the documents against the index.
//!
//! From a file in zstd frames only what is asked for is read ([`ArchiveReader::only`]): the end of the file, which has
//! the digest of each frame and one of itself; the metadata; the sections with the wanted layers; and `SHA256SUMS`. This
//! proves every byte that is used, as a whole read would: each frame against its digest, each member against
//! `SHA256SUMS`, each layer's tar against its diff ID, and that the file has the length that its end tells of. It proves
//! nothing of the frames that it passes over.

mod ahead;
pub mod foreign;
pub mod frames;
mod input;
mod layout;
mod oci;
mod opened;
mod output;
mod reader;
mod recognise;
pub mod seek;
mod writer;

pub use input::Input;
pub use layout::LayoutReader;
pub(crate) use oci::{Descriptor, blob, documents, oci_manifest};
pub use opened::OpenArchive;
pub use output::{Compression, WINDOW, ZstdOptions};
pub use reader::{ArchiveReader, MemberName};
pub use recognise::{Archive, Medium};
pub use writer::ArchiveWriter;

/// Directory of the members that only dockpack writes.
const OWN: &str = "dockpack";
/// Path of an archive's own index.
pub(crate) const INDEX: &str = "dockpack/archive.json";
/// Path of the digests of all members.
pub(crate) const SUMS: &str = "dockpack/SHA256SUMS";

/// Tells whether this can be the name of a member.
fn is_member_name(name: &str) -> bool {
    name.len() <= 100 && !name.contains('\0') && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The header of a member, the only one there is for a name and a length in bytes.
///
/// # Panics
/// The name is none by [`is_member_name`].
fn header(name: &str, length: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).expect("because the names of members are short and relative");
    header.set_size(length);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    header
}

/// Zero bytes behind content of this length.
fn padding(length: u64) -> usize {
    (length.wrapping_neg() % 512) as usize
}
