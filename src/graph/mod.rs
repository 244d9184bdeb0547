//! Typed nodes and edges over a store's snapshot.

mod resolve;

pub use resolve::{Selected, prefix_range, resolve_image, select_all, select_images};
