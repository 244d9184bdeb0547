//! `gc`: finds everything that nothing reaches, and removes it without ever being wrong.
//!
//! Finding is pure. [`Candidates`] are the nodes of the graph that no root reaches, by kind; the [`Survey`] is what the
//! disk and the kernel say of them; [`GcPlan`] is what of it goes, in which order, with all that is needed to check each
//! piece again. Removing is a rename into `<root>/.dockpack/trash/<transaction>/nodes/<number>`; only a purge deletes.
//!
//! ```text
//! plan ──► journal, durable ──► rename piece by piece ──► state "kept" ──► purge: delete, then the journal
//!                                                                     └──► undo: rename back, last piece first
//! ```
//!
//! Invariants:
//!
//! 1. **Unknown means keep.** What cannot be read, or is not there although something else speaks of it, makes the verdicts
//!    that depend on it unknown (`decide.rs`), and what is unknown counts as in use, with all that it leads to. A part of
//!    the store that is lost as a whole or not mounted (`refuse.rs`) stops everything.
//! 2. **What stays keeps what it needs.** Whatever is not taken, for whatever reason (`--skip`, too young, mounted,
//!    odd), counts as a root; and a record is taken only together with the directories that it names.
//! 3. **Nothing moves before the journal is durable**, and every piece is looked at again right before it moves: the
//!    same inode, type, time of change and link target as in the plan, or it stays and is named. What stays holds what
//!    comes after it ([`Part::after`]): a record that cannot be moved keeps its directory. Only where the disk has no room
//!    for a journal, and what is removed is not to be kept, things are deleted where they lie, in the same order. What
//!    containers have written is never among them: it goes by way of the trash, from which only a later purge deletes it.
//! 4. **Order.** Images, children first; writable layers; layers, children first, by rename out of `sha256/`; short
//!    names; directories; the rest. Each step is durable before the next. So at no moment does dockerd see an
//!    image whose layers are not there, or a layer whose directory is not there.
//! 5. **Every step can be done again.** A run that was interrupted is finished by the next command that changes the store
//!    ([`recover`](crate::ops::recover)), after everything was checked again: a daemon may have run in between.
//!    A run that was asked to stop leaves what has moved in the trash, and an undo that comes after a crash does so too
//!    ([`hold`](crate::ops::transactions::hold)) before it puts it back.
//! 6. **Deleting follows no link and enters no mount.** What has a mount point or an immutable file in it is found before
//!    it moves, and stays.
//! 7. Nothing changes without the [`WriteLock`](crate::store::WriteLock).

mod candidates;
mod decide;
mod exec;
mod kind;
mod plan;
mod refuse;
mod stale;
mod survey;
#[cfg(test)]
mod tests;

pub use candidates::{Candidates, Step};
pub(super) use exec::go_on;
pub use exec::{GcReport, Written};
pub use kind::GcKind;
pub use plan::{GcEntry, GcPlan, Kept, KeptWhy, Options, Part, Stale};
pub use survey::{Facts, Survey};
