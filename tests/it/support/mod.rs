//! What tests are made with.

pub(crate) mod command;
pub(crate) mod store;
pub(crate) mod tree;
