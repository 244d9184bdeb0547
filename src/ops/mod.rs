//! The operations. Each has a plan, which is pure data, and an execution, which consumes it; [`inspect`] only looks.

mod ancestry;
pub mod gc;
mod hash;
pub mod inspect;
pub mod load;
mod mounts;
mod recover;
pub mod repair;
pub mod save;
mod short_names;
pub mod transactions;
pub mod trash;
pub mod verify;

pub use recover::{Recovered, recover};
