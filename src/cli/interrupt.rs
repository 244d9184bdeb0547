//! Ctrl-C, and SIGTERM.
//!
//! While an operation runs that leaves something half made, the first signal asks it to stop, which takes away what
//! was made; a second one ends the program at once. At any other time a signal ends the program as ever.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Takes signals as requests to stop, from now on.
pub(super) fn take() {
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the first signal finds the flag unset and only sets it. Where the kernel refuses, a
        // signal ends the program, which is safe too.
        let _ = flag::register_conditional_default(signal, Arc::clone(&ASKED));
        let _ = flag::register(signal, Arc::clone(&ASKED));
    }
}

/// Tells whether a signal has come.
pub(super) fn was_asked_for() -> bool {
    ASKED.load(Ordering::Relaxed)
}
