//! dockpack works on Docker's on-disk store without a daemon.

pub mod archive;
#[cfg(feature = "cli")]
pub mod cli;
mod count;
mod crash;
pub mod driver;
pub mod error;
mod fault;
pub mod finding;
pub mod fsx;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod graph;
pub mod id;
mod image_config;
mod json;
pub mod layer;
pub mod model;
mod notes;
pub mod ops;
pub mod progress;
pub mod reference;
pub mod store;
pub mod tarsplit;
pub mod transfer;

pub use error::{Error, Result};
