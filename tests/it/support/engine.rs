//! Real Docker daemons.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::store::project;

/// A running daemon. Killed when dropped, as by a power cut.
#[derive(Debug)]
pub(crate) struct Engine {
    version: &'static str,
    dir: PathBuf,
}

impl Engine {
    /// Starts a daemon of a version on `dir/root`.
    #[must_use]
    pub(crate) fn start(version: &'static str, driver: &str, dir: &Path) -> Self {
        Self::try_start(version, driver, dir).unwrap_or_else(|error| panic!("engine {version} {driver}: {error}"))
    }

    /// Starts a daemon, or gives the end of its log.
    pub(crate) fn try_start(version: &'static str, driver: &str, dir: &Path) -> Result<Self, String> {
        let mut command = Command::new(project("ci/engine"));
        // The daemon inherits no pipe: nobody would know when it has ended.
        command.args(["start", version, driver]).arg(dir).stdin(Stdio::null()).stdout(Stdio::null());
        let log = dir.with_extension("start");
        command.stderr(File::create(&log).expect("a file"));
        match command.status().expect("ci/engine runs").success() {
            true => Ok(Self { version, dir: dir.to_owned() }),
            false => Err(fs::read_to_string(&log).expect("what it said")),
        }
    }

    /// Takes over a daemon that was started on `dir/root` in another way.
    #[must_use]
    pub(crate) fn started(version: &'static str, dir: &Path) -> Self {
        Self { version, dir: dir.to_owned() }
    }

    /// Runs the engine's client, and returns what it wrote.
    #[track_caller]
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments, Stdio::null());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "docker {}: {}", arguments.join(" "), text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs the engine's client with this as standard input.
    pub(crate) fn try_docker(&self, arguments: &[&str], stdin: impl Into<Stdio>) -> Output {
        let mut command = Command::new(project("ci/engine"));
        command.args(["docker", self.version]).arg(&self.dir).args(arguments).stdin(stdin);
        command.output().expect("ci/engine runs")
    }

    /// Builds the Dockerfile in a directory with BuildKit, without a name for the image.
    pub(crate) fn buildkit(&self, context: &Path) -> Output {
        let mut command = Command::new(project("ci/engine"));
        command.args(["docker", self.version]).arg(&self.dir).args(["build", "-q"]).arg(context);
        command.env("DOCKER_BUILDKIT", "1").stdin(Stdio::null()).output().expect("ci/engine runs")
    }

    /// Says what the engine says of its store, as in `fixtures/stores/NAME.expected.json`.
    #[must_use]
    pub(crate) fn describe(&self) -> Value {
        let output = Command::new(project("ci/describe")).arg(self.version).arg(&self.dir).output();
        let output = output.expect("ci/describe runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Lists the IDs of all images.
    #[must_use]
    pub(crate) fn image_ids(&self) -> std::collections::BTreeSet<String> {
        let listed = self.docker(&["image", "ls", "-aq", "--no-trunc"]);
        listed.lines().map(|id| id.trim_start_matches("sha256:").to_owned()).collect()
    }

    /// Fills the store with `ci/images`.
    pub(crate) fn fill(&self, arguments: &[&str]) {
        let mut command = Command::new(project("ci/images"));
        command.arg(arguments[0]).arg(self.version).arg(&self.dir).args(&arguments[1..]);
        let output = command.output().expect("ci/images runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Returns the daemon's log.
    #[must_use]
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).expect("a log")
    }

    /// Returns the daemon's pid.
    #[must_use]
    pub(crate) fn pid(&self) -> String {
        fs::read_to_string(self.dir.join("d.pid")).expect("a pid").trim().to_owned()
    }

    /// Ends the daemon as a service manager does.
    pub(crate) fn stop(self) {
        engine("stop", &self.dir);
        std::mem::forget(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        engine("kill", &self.dir);
    }
}

fn engine(command: &str, dir: &Path) {
    let mut engine = Command::new(project("ci/engine"));
    engine.arg(command).arg(dir).stdin(Stdio::null()).stdout(Stdio::null());
    let ended = engine.status().expect("ci/engine runs").success();
    assert!(ended || std::thread::panicking(), "the engine in {} does not end", dir.display());
}
