//! Integration tests.

#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod inspect;
mod store;
