//! The operations. Each has a plan, which is pure data, and an execution, which consumes it.

pub mod save;
