//! The program under test.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

/// The program.
pub(crate) const DOCKPACK: &str = env!("CARGO_BIN_EXE_dockpack");

/// Tells a program with crash points not to wait, at the end of a load, for a daemon that may be starting: other tests
/// start daemons all the time.
pub(crate) const HURRY: &str = "DOCKPACK_HURRY";

/// Longest time that a command may take: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// All that a caller sees of a command that has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Fails where the command did not do what it was asked for.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        self
    }

    /// Fails where the command did not end with this exit code, or said nothing about it.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}: {}", self.status, self.stderr);
        let mut said = self.stderr.lines().skip_while(|line| line.starts_with("warning: "));
        assert!(said.next().is_some_and(|line| line.starts_with("dockpack: ")), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }
}

/// Prepares `dockpack --root ROOT ARGUMENTS`; nothing of the caller's environment is left.
#[must_use]
pub(crate) fn dockpack(root: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(DOCKPACK);
    command.env_clear().env(HURRY, "1").timeout(PATIENCE).arg("--root").arg(root).args(arguments);
    command
}

/// Runs a command to its end.
#[must_use]
pub(crate) fn outcome(mut command: assert_cmd::Command) -> Outcome {
    let output = command.output().expect("dockpack runs");
    let stderr = String::from_utf8(output.stderr).expect("messages are text");
    Outcome { status: output.status, stdout: output.stdout, stderr }
}

/// Runs `dockpack --root ROOT ARGUMENTS` to its end.
#[must_use]
pub(crate) fn run(root: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Outcome {
    outcome(dockpack(root, arguments))
}

/// Saves images (or `--all`) to a file.
#[track_caller]
pub(crate) fn save(root: &Path, images: &[&str], archive: &Path) {
    let out = [OsStr::new("save"), OsStr::new("-o"), archive.as_os_str()];
    let _ = run(root, out.into_iter().chain(images.iter().map(OsStr::new))).done();
}

/// Loads images (all where none is named) from a file. Fails where it cannot.
#[track_caller]
pub(crate) fn load(root: &Path, archive: &Path, images: &[&str]) -> Outcome {
    try_load(root, archive, images).done()
}

/// Loads images (all where none is named) from a file.
#[must_use]
pub(crate) fn try_load(root: &Path, archive: &Path, images: &[&str]) -> Outcome {
    let from = [OsStr::new("load"), OsStr::new("-i"), archive.as_os_str()];
    run(root, from.into_iter().chain(images.iter().map(OsStr::new)))
}
