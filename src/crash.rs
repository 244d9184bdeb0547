//! Crash points: places right behind a step that changes a store, where a test stops the process.

/// Aborts here when the test asks for this point by `DOCKPACK_CRASH_AT`, or waits for ever by `DOCKPACK_PAUSE_AT`.
/// `NAME#N` asks for the N-th time that the point is passed. Nothing in a normal build.
#[cfg(feature = "crash-points")]
pub(crate) fn crash_point(name: &str) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    for (variable, pauses) in [("DOCKPACK_CRASH_AT", false), ("DOCKPACK_PAUSE_AT", true)] {
        let Ok(wanted) = std::env::var(variable) else { continue };
        let (wanted, times) = wanted.split_once('#').unwrap_or((&wanted, "1"));
        if wanted != name || (PASSED.fetch_add(1, Ordering::Relaxed) + 1).to_string() != times {
            continue;
        }
        if !pauses {
            std::process::abort();
        }
        loop {
            std::thread::park();
        }
    }
}

#[cfg(not(feature = "crash-points"))]
pub(crate) fn crash_point(_: &str) {}

/// Tells whether a test asks not to wait for a daemon that may be starting: there are many loads in tests, and
/// daemons beside them.
#[cfg(feature = "crash-points")]
pub(crate) fn is_hurried() -> bool {
    std::env::var_os("DOCKPACK_HURRY").is_some()
}

#[cfg(not(feature = "crash-points"))]
pub(crate) fn is_hurried() -> bool {
    false
}
