//! `repair`: mends what [`verify`](crate::ops::verify) finds.
//!
//! Planning is pure: findings, the snapshot and a survey of what the store still says of what is damaged become a
//! [`RepairPlan`]. What the store does not say comes from a [`Donor`], an archive or another store. Carrying it out:
//!
//! ```text
//! make all that is new in the trash, prove it, make it durable ──► journal ──► exchange piece by piece ──► state "kept"
//!                                                                                     undo: exchange back, last piece first
//! ```
//!
//! Invariants:
//!
//! 1. **Nothing is guessed.** What is written follows from digests: `diff`, `parent` and the chain ID from configurations of
//!    images, a `cache-id` from the proof of the directory, `lower` from layerdb; a layer is proved against its diff ID.
//! 2. **A layer is replaced as a whole**, with its tar-split, in its place: same directory, same short name. What stands on it
//!    goes on standing on it. For `overlay`, whose trees share files with those below, the layers above are built anew
//!    too, each out of its own tar.
//! 3. **Nothing is lost.** What was there goes to the trash in the same step in which the new takes its place
//!    (`RENAME_EXCHANGE`), and stays there until `gc --purge`; so a crash leaves each piece old or new.
//! 4. **Nothing moves before all that is new is durable**, and only what still is what it was when it was planned.
//! 5. **Order.** Directories, short names, layerdb, containers' mounts, configurations, records of registries, references.
//! 6. What cannot be mended is said, with what would be needed for it.

mod copies;
mod decide;
mod donor;
mod exec;
mod held;
mod lost;
mod plan;
mod stage;
mod survey;
mod untold;

pub use donor::Donor;
pub use exec::RepairReport;
pub(super) use exec::go_on;
pub use plan::{Act, Left, Mend, Origin, Piece, RepairPlan, Reseed, Step};
