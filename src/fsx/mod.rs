//! The only code that makes system calls on paths.
//!
//! Names below a data root or a layer are hostile. Every call goes through a [`Dir`], an open
//! directory: paths are resolved beneath it, follow no symbolic link, no `..` and no magic link, and
//! do not cross into another mount. Only [`Dir::open_root`] takes a path as the user wrote it.

mod attrs;
mod btrfs;
mod calls;
mod dir;
mod exact;
mod file;
mod footprint;
mod holes;
mod namespace;
mod output;
mod place;
mod publish;
mod real;
mod remove;
mod resolve;
mod xattrs;

pub use attrs::{Attrs, Kind, Stamp, Time, XattrName, numbers};
pub use dir::{Dir, Entry};
pub use file::File;
pub use footprint::{Footprint, Inode, Linked, Size};
pub use holes::{Holes, copy_content, next_data};
pub use namespace::{IdRange, UserNamespace};
pub use output::{OutputDir, OutputFile};
pub use place::{Place, mount_in};
pub use real::{is_dir, link_in, open_input, real_path};
pub use xattrs::inode_without_xattrs;
