//! `gc` on stores in which real daemons did random things and were killed, against an oracle that shares no code with
//! dockpack: `ci/churn`, which says what is compared, for a short time.

#![allow(clippy::print_stderr, reason = "how much was compared")]

use std::process::Command;

use crate::support::command::DOCKPACK;
use crate::support::store::{project, temp_dir};

fn churn(version: &str, driver: &str, seed: &str) {
    let temp = temp_dir();
    let dir = temp.path().join("lab");
    let mut command = Command::new(project("ci/churn"));
    command.args([version, driver]).arg(&dir).args(["--seed", seed, "--steps", "20"]).env("DOCKPACK", DOCKPACK);
    let output = command.output().expect("ci/churn runs");
    let _ = Command::new(project("ci/engine")).arg("remove").arg(&dir).output();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_daemon_that_does_random_things_28_overlay2() {
    churn("28", "overlay2", "2");
}

#[test]
fn a_daemon_that_does_random_things_20_overlay() {
    churn("20", "overlay", "3");
}
