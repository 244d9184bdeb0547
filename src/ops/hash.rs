//! Proves tars that nobody keeps.

use std::io::{self, Write};

use sha2::Digest as _;

use crate::id::Sha256;
use crate::progress::{Event, Observer, check_stop};

/// Hashes the bytes of a tar, and tells the observer of them. Fails only where the observer wants to stop.
pub(super) struct Hash<'a> {
    digest: sha2::Sha256,
    length: u64,
    observer: &'a dyn Observer,
}

impl<'a> Hash<'a> {
    pub(super) fn new(observer: &'a dyn Observer) -> Self {
        Self { digest: sha2::Sha256::new(), length: 0, observer }
    }

    /// Returns the digest, and the number of bytes.
    pub(super) fn finish(self) -> (Sha256, u64) {
        (Sha256::finish(self.digest), self.length)
    }
}

impl Write for Hash<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check_stop(self.observer)?;
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        self.observer.on(Event::Advance(bytes.len() as u64));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
