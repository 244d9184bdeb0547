//! What an operation tells while it works. The library only observes; the command line draws.

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A phase begins; `total` is its length in bytes where that is known.
    Begin {
        /// What is being done, as a person would say it ("saving").
        what: &'a str,
        /// Length of the phase in bytes.
        total: Option<u64>,
    },
    /// The phase now works on this object.
    Object(&'a str),
    /// `bytes` more bytes of the phase are done.
    Advance(u64),
    /// The phase is over.
    End,
    /// Something a person should know, in one sentence.
    Warning(&'a str),
}

/// Takes the events of an operation. May be called from several threads.
pub trait Observer: Sync {
    /// Takes one event. Must return soon: the operation waits for it.
    fn on(&self, event: Event<'_>);

    /// Tells whether the operation is to stop. It is asked between two pieces of work, and then fails with
    /// [`Error::Stopped`](crate::Error::Stopped), as clean as by any other error.
    fn wants_stop(&self) -> bool {
        false
    }
}

/// Makes the error by which a stream stops where the observer wants it.
pub(crate) fn check_stop(observer: &dyn Observer) -> std::io::Result<()> {
    if observer.wants_stop() { Err(std::io::Error::other("stopped")) } else { Ok(()) }
}

/// Observes nothing.
impl Observer for () {
    fn on(&self, _: Event<'_>) {}
}
