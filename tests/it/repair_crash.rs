//! `repair` that is stopped: at every step, and at any moment.

#[cfg(feature = "crash-points")]
use std::path::Path;
use std::process::{Command, Stdio};

#[cfg(feature = "crash-points")]
use crate::support::command::run;
use crate::support::command::{DOCKPACK, HURRY};
use crate::support::repair::{Lab, repair, state};
use crate::support::tree::{Allow, assert_same};

#[cfg(feature = "crash-points")]
const EVERYTHING: [&str; 10] = [
    "byte-changed",
    "directory-mode",
    "lower-gone",
    "short-name-gone",
    "work-gone",
    "diff-of-another",
    "mount-id-empty",
    "config-gone",
    "record-of-another-layer",
    "references-cut",
];

#[cfg(feature = "crash-points")]
pub(crate) const CRASHES: [&str; 6] =
    ["trash:made", "repair:staged", "trash:journal", "repair:moved", "repair:step", "repair:kept"];
#[cfg(feature = "crash-points")]
pub(crate) const UNDO_CRASHES: [&str; 4] = ["trash:undoing", "trash:restored", "trash:undone", "trash:no-journal"];

/// Runs until a crash point; tells whether it was reached.
#[cfg(feature = "crash-points")]
#[must_use]
pub(crate) fn crash_at(point: &str, time: usize, root: &Path, arguments: &[&str]) -> bool {
    let mut command = crate::support::command::dockpack(root, [&["repair"], arguments].concat());
    command.env("DOCKPACK_CRASH_AT", format!("{point}#{time}"));
    crate::support::command::outcome(command).status.code().is_none()
}

#[cfg(feature = "crash-points")]
#[test]
fn a_crash_at_every_piece_that_moves() {
    crashes(|point| point == "repair:moved");
}

#[cfg(feature = "crash-points")]
#[test]
fn a_crash_at_every_other_step() {
    crashes(|point| point != "repair:moved");
}

/// Wherever it is stopped, the next run ends in the same state, and so does an undo.
#[cfg(feature = "crash-points")]
fn crashes(chosen: impl Fn(&str) -> bool) {
    let lab = Lab::new("28-overlay2");
    let archive = lab.archive();
    let mend = ["-y", "--from", archive.to_str().expect("text")];
    let damaged = lab.damaged("damaged", &EVERYTHING);
    let mended = lab.copy("damaged", "mended");
    let code = repair(&mended, &mend).status.code();
    assert!(matches!(code, Some(0 | 3)), "{code:?}");
    let (damaged, mended) = (state(&damaged), state(&mended));
    for point in CRASHES.into_iter().filter(|point| chosen(point)) {
        for time in 1.. {
            let root = lab.copy("damaged", "crashed");
            let is_reached = crash_at(point, time, &root, &mend);
            assert!(is_reached || time > 1, "{point} is never passed");
            let _ = repair(&root, &mend);
            assert_same(&mended, &state(&root), Allow::REBUILT);
            let _ = repair(&root, &["--undo"]).done();
            assert_same(&damaged, &state(&root), Allow::NOTHING);
            if !is_reached {
                break;
            }
        }
    }
}

/// The same while it is taken back.
#[cfg(feature = "crash-points")]
#[test]
fn a_crash_at_every_step_back() {
    let lab = Lab::new("28-overlay2");
    let archive = lab.archive();
    let mend = ["-y", "--from", archive.to_str().expect("text")];
    let damaged = state(&lab.damaged("damaged", &EVERYTHING));
    for point in UNDO_CRASHES {
        for time in 1.. {
            let root = lab.copy("damaged", "crashed");
            let _ = repair(&root, &mend);
            let is_reached = crash_at(point, time, &root, &["--undo"]);
            assert!(is_reached || time > 1, "{point} is never passed");
            // Whatever takes the lock finishes first.
            let _ = run(&root, ["gc", "-y", "--only", "stale-driver"]);
            assert_same(&damaged, &state(&root), Allow::NOTHING);
            assert!(!root.join(".dockpack").exists(), "{point}#{time}");
            if !is_reached {
                break;
            }
        }
    }
}

/// SIGKILL at any moment.
#[test]
fn twenty_kills() {
    const DEFECTS: [&str; 4] = ["byte-changed", "tar-split-gone", "layer-entry-gone", "references-cut"];
    let lab = Lab::new("20-overlay2");
    let _ = lab.damaged("damaged", &DEFECTS);
    let mended = lab.copy("damaged", "mended");
    let archive = lab.archive();
    let mend = ["-y", "--from", archive.to_str().expect("text")];
    let begun = std::time::Instant::now();
    let _ = repair(&mended, &mend);
    let time = begun.elapsed();
    let mended = state(&mended);
    for kill in 0..20 {
        let root = lab.copy("damaged", "killed");
        let mut command = Command::new(DOCKPACK);
        command.env_clear().env(HURRY, "1").arg("--root").arg(&root).arg("repair").args(mend);
        let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("dockpack runs");
        std::thread::sleep(time.mul_f64(f64::from(kill) / 20.0));
        running.kill().expect("killed");
        let _ = running.wait().expect("it ends");
        let _ = repair(&root, &mend);
        assert_same(&mended, &state(&root), Allow::REBUILT);
    }
}
