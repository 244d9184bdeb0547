//! What tests are made with.

pub(crate) mod archive;
pub(crate) mod command;
pub(crate) mod disk;
pub(crate) mod engine;
pub(crate) mod foreign;
pub(crate) mod odd;
pub(crate) mod random;
pub(crate) mod registry;
#[cfg(feature = "cli")]
pub(crate) mod repair;
pub(crate) mod store;
pub(crate) mod tree;
