//! The command line: everything that knows terminals, arguments, exit codes and hints.
//!
//! Data goes to standard output, all else to standard error. Each command asks the library for a document and
//! either serialises it (`--json`) or draws it.

mod args;
mod bars;
mod copy;
mod df;
mod failure;
mod gc;
mod graph;
mod inspect;
mod interrupt;
mod load;
mod ls;
mod manual;
mod recovered;
mod repair;
mod run;
mod sanitize;
mod save;
mod table;
mod text;
mod tree;
mod ui;
mod verify;
mod why;

pub use args::Cli;
pub use run::run;
