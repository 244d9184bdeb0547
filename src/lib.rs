//! dockpack works on Docker's on-disk store without a daemon.
