//! Faults: system calls of [`fsx`](crate::fsx) that fail because a test wants it. Nothing in a normal build.
//!
//! `DOCKPACK_FAULT=KIND#N=ERRNO` lets the N-th call of a kind fail with an error number, without being made;
//! `KIND#N+=ERRNO` that one and all that follow. `DOCKPACK_FAULT_LOG` names a file that gets a line for each fault, and,
//! where no fault is asked for, for each call. The variables are read once: a fault is for a whole process, as it runs
//! threads of several kinds.

/// Kinds of system calls. What reads comes first, then what changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "crash-points"), allow(dead_code, reason = "files of `std` are read and written there"))]
pub(crate) enum Call {
    Open,
    Read,
    List,
    Stat,
    ReadLink,
    ListXattrs,
    GetXattr,
    Seek,
    Create,
    Write,
    Resize,
    Sync,
    SyncFileSystem,
    Rename,
    Link,
    Unlink,
    MakeDir,
    RemoveDir,
    Symlink,
    MakeNode,
    Mode,
    Owner,
    Times,
    SetXattr,
    RemoveXattr,
    Subvolume,
}

/// Fails where a test wants this call to fail.
#[cfg(feature = "crash-points")]
pub(crate) fn fault(call: Call) -> rustix::io::Result<()> {
    made::switch().map_or(Ok(()), |switch| switch.pass(call))
}

#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn fault(_: Call) -> rustix::io::Result<()> {
    Ok(())
}

#[cfg(feature = "crash-points")]
mod made {
    use std::fmt::Write as _;
    use std::fs::{File, OpenOptions};
    use std::io::Write as _;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::io::Errno;

    use super::Call;

    /// What the test wants.
    pub(super) struct Switch {
        /// The kind that fails, from which time on, whether later ones fail too, and how.
        wanted: Option<(String, usize, bool, Errno)>,
        passed: AtomicUsize,
        log: Option<File>,
    }

    pub(super) fn switch() -> Option<&'static Switch> {
        static SWITCH: OnceLock<Option<Switch>> = OnceLock::new();
        SWITCH.get_or_init(Switch::read).as_ref()
    }

    impl Switch {
        fn read() -> Option<Self> {
            let wanted = std::env::var("DOCKPACK_FAULT").ok().map(|text| parse(&text).expect("KIND#N=ERRNO"));
            #[allow(clippy::disallowed_methods, reason = "a file of the test's own")]
            let open = |path| OpenOptions::new().append(true).create(true).open(path).expect("a log of faults");
            let log = std::env::var_os("DOCKPACK_FAULT_LOG").map(open);
            (wanted.is_some() || log.is_some()).then(|| Self { wanted, passed: AtomicUsize::new(0), log })
        }

        pub(super) fn pass(&self, call: Call) -> rustix::io::Result<()> {
            let kind = format!("{call:?}");
            let Some((wanted, first, lasting, errno)) = &self.wanted else {
                self.note(&kind);
                return Ok(());
            };
            if *wanted != kind {
                return Ok(());
            }
            let number = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
            if number != *first && !(*lasting && number > *first) {
                return Ok(());
            }
            let mut line = format!("{kind}#{number}={}", errno.raw_os_error());
            if std::env::var_os("DOCKPACK_FAULT_TRACE").is_some() {
                let _ = write!(line, "\n{}", std::backtrace::Backtrace::force_capture());
            }
            self.note(&line);
            Err(*errno)
        }

        fn note(&self, line: &str) {
            if let Some(mut log) = self.log.as_ref() {
                log.write_all(format!("{line}\n").as_bytes()).expect("the log of faults takes it");
            }
        }
    }

    fn parse(text: &str) -> Option<(String, usize, bool, Errno)> {
        let (kind, rest) = text.split_once('#')?;
        let (number, errno) = rest.split_once('=')?;
        let (number, lasting) = match number.strip_suffix('+') {
            Some(number) => (number, true),
            None => (number, false),
        };
        Some((kind.to_owned(), number.parse().ok()?, lasting, Errno::from_raw_os_error(errno.parse().ok()?)))
    }
}
