//! The operations. Each has a plan, which is pure data, and an execution, which consumes it; [`inspect`] only looks.

pub mod inspect;
pub mod load;
pub mod save;
pub mod verify;
