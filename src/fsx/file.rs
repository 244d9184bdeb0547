//! Open files. In a normal build they are those of `std`; where tests let calls fail, the same with a place for that.

#[cfg(not(feature = "crash-points"))]
pub use std::fs::File;

#[cfg(feature = "crash-points")]
pub use failing::File;

#[cfg(feature = "crash-points")]
mod failing {
    use std::io::{self, Read, Seek, SeekFrom, Write};
    use std::ops::Deref;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
    use std::os::unix::fs::FileExt;

    use crate::fault::{Call, fault};

    /// An open file of which a test can let reading and writing fail.
    #[derive(Debug)]
    pub struct File(std::fs::File);

    fn pass(call: Call) -> io::Result<()> {
        Ok(fault(call)?)
    }

    impl File {
        /// As [`std::fs::File::sync_all`].
        ///
        /// # Errors
        /// The disk fails.
        pub fn sync_all(&self) -> io::Result<()> {
            pass(Call::Sync)?;
            self.0.sync_all()
        }

        /// As [`std::fs::File::set_len`].
        ///
        /// # Errors
        /// The file system refuses.
        pub fn set_len(&self, length: u64) -> io::Result<()> {
            pass(Call::Resize)?;
            self.0.set_len(length)
        }

        /// As [`std::fs::File::metadata`].
        ///
        /// # Errors
        /// It cannot be looked at.
        pub fn metadata(&self) -> io::Result<std::fs::Metadata> {
            pass(Call::Stat)?;
            self.0.metadata()
        }

        /// As [`std::fs::File::try_clone`].
        ///
        /// # Errors
        /// Too many files are open.
        pub fn try_clone(&self) -> io::Result<Self> {
            self.0.try_clone().map(Self)
        }
    }

    impl Deref for File {
        type Target = std::fs::File;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }

    impl From<std::fs::File> for File {
        fn from(file: std::fs::File) -> Self {
            Self(file)
        }
    }

    impl From<OwnedFd> for File {
        fn from(fd: OwnedFd) -> Self {
            Self(fd.into())
        }
    }

    impl AsFd for File {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl AsRawFd for File {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }
    }

    impl FileExt for File {
        fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
            pass(Call::Read)?;
            self.0.read_at(bytes, at)
        }

        fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
            pass(Call::Write)?;
            self.0.write_at(bytes, at)
        }
    }

    impl Read for &File {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            pass(Call::Read)?;
            (&self.0).read(bytes)
        }
    }

    impl Write for &File {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            pass(Call::Write)?;
            (&self.0).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for &File {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            pass(Call::Seek)?;
            (&self.0).seek(to)
        }
    }

    impl Read for File {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            (&*self).read(bytes)
        }
    }

    impl Write for File {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            (&*self).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for File {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            (&*self).seek(to)
        }
    }
}
