//! Crash points: places right behind a step that changes a store, where a test stops the process.

/// Aborts here when the test asks for this point by `DOCKPACK_CRASH_AT`. Nothing in a normal build.
#[cfg(feature = "crash-points")]
pub(crate) fn crash_point(name: &str) {
    if std::env::var("DOCKPACK_CRASH_AT").is_ok_and(|wanted| wanted == name) {
        std::process::abort();
    }
}

#[cfg(not(feature = "crash-points"))]
pub(crate) fn crash_point(_: &str) {}
