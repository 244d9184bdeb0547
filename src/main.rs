//! The `dockpack` command.
fn main() {}
