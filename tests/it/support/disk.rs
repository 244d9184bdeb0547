//! File systems in files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes a file system of a kind (`ext4`, `xfs`) in a new file, and mounts it on a new directory beside it.
    #[must_use]
    pub(crate) fn make(kind: &str, image: &Path, megabytes: u64) -> Self {
        let file = File::create_new(image).expect("a file");
        file.set_len(megabytes << 20).expect("a length");
        call(Command::new(format!("mkfs.{kind}")).arg("-q").arg(image));
        Self::mount(image)
    }

    /// Mounts the file system in a file on a new directory beside it; its journal is replayed.
    #[must_use]
    pub(crate) fn mount(image: &Path) -> Self {
        Self::mount_with(image, "loop")
    }

    /// Mounts it so that nothing can be written, not even by its own journal.
    #[must_use]
    pub(crate) fn mount_read_only(image: &Path) -> Self {
        Self::mount_with(image, "loop,ro,noload")
    }

    fn mount_with(image: &Path, options: &str) -> Self {
        let at = image.with_extension("mounted");
        fs::create_dir_all(&at).expect("a directory");
        let mut options = options.to_owned();
        let magic = fs::File::open(image).map(|mut file| {
            let mut magic = [0; 4];
            std::io::Read::read_exact(&mut file, &mut magic).map(|()| magic)
        });
        if magic.expect("a file").expect("its beginning") == *b"XFSB" {
            // A copy may be mounted beside its original.
            options.push_str(",nouuid");
        }
        call(Command::new("mount").args(["-o", &options]).arg(image).arg(&at));
        Self { image: image.to_owned(), at }
    }

    /// Returns where it is mounted.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Copies the file as it is at this moment, as a power cut would leave it: what the kernel has not written is
    /// not in it. The file must be on a file system that can share blocks (`xfs`), where a copy is made at once.
    pub(crate) fn copy(&self, to: &Path) {
        call(Command::new("cp").arg("--reflink=always").arg(&self.image).arg(to));
    }
}

impl Drop for Disk {
    /// Another test's daemon may hold a copy of the mount in a namespace it has just made, and the kernel lets go of a
    /// loop device's file a moment after the unmount: it is tried again, and in the end left to the kernel.
    fn drop(&mut self) {
        for _ in 0..50 {
            let umount = Command::new("umount").arg(&self.at).output().expect("umount runs");
            if umount.status.success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[track_caller]
fn call(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
