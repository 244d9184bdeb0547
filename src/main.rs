//! The `dockpack` command.

use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> ExitCode {
    raise_open_files();
    dockpack::cli::run(std::env::args_os())
}

/// Raises the number of files that may be open to what the system allows: a store has many directories.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, most stores are read all the same.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
