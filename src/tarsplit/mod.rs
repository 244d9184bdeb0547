//! `tar-split.json.gz`: everything of a layer's tar but the content of its files.
//!
//! On disk (vbatts/tar-split `tar/storage/entry.go`; store-format 8): gzip of JSON objects, one a line.
//! `type` 2 is a *segment*, raw bytes of the tar (headers, padding, the end) as base64 in `payload`. `type` 1 is
//! a *file*: `name` (or `name_raw`, base64, where it is not UTF-8), `size` bytes that are to be taken from the
//! layer's directory, and their CRC-64/GO-ISO, big endian, as base64 in `payload`. A file of no size has
//! `payload` null. Putting the pieces together in order gives the tar again, byte for byte. A sparse
//! file has no entry here: its content is in segments (see `layer::sparse`). So has a file of which unpacking keeps the
//! content nowhere, as a later member takes its place ([`Kept`]).

mod assemble;
mod entries;
mod prove;
mod segments;
mod split;

pub use assemble::{AssembleError, Assembler, Beside, LayerTree, OnBadFile, OnOpen, Sink, assemble};
pub(crate) use entries::is_header_only;
pub use entries::{Crc64, Entries, Entry};
pub use prove::{Mismatch, Prover};
pub use segments::Segments;
pub use split::{Duplicate, Kept, Splitter};
