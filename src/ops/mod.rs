//! What dockpack does with a store.

pub mod inspect;
