//! README's session is what the program does.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::command::{DOCKPACK, save};
use crate::support::store::{project, temp_dir, unpack};

/// A command of the session, and the lines under it; one may be `…`, for more of the kind.
struct Shown {
    arguments: Vec<String>,
    lines: Vec<String>,
}

/// Commands between two headings or sentences of README.
fn shown(readme: &str, from: &str, to: &str) -> Vec<Shown> {
    let begin = readme.find(from).expect("where the session begins");
    let end = begin + readme[begin..].find(to).expect("where it ends");
    let mut all: Vec<Shown> = Vec::new();
    for line in readme[begin..end].lines().filter_map(|line| line.strip_prefix("    ")) {
        match (line.strip_prefix("# dockpack "), all.last_mut()) {
            (Some(command), _) => {
                all.push(Shown { arguments: command.split(' ').map(str::to_owned).collect(), lines: Vec::new() });
            }
            (None, Some(shown)) => shown.lines.push(line.to_owned()),
            (None, None) => panic!("{line}: of which command?"),
        }
    }
    all
}

/// A line without how wide its columns are, how long ago things were, and how long they took.
fn steady(line: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in line.split_whitespace() {
        match word {
            "ago" => words.truncate(words.len() - 2),
            "s" => drop(words.pop()),
            word => words.push(word),
        }
    }
    words.join(" ")
}

fn run(shown: &Shown, at: &Path) -> Vec<String> {
    let placed = |argument: &String| match argument.starts_with('/') {
        true => format!("{}{argument}", at.display()),
        false => argument.clone(),
    };
    let output = Command::new(DOCKPACK)
        .env_clear()
        .current_dir(at)
        .args(shown.arguments.iter().map(placed))
        .output()
        .expect("dockpack runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).expect("text").replace(at.to_str().expect("text"), "");
    text.lines().map(steady).collect()
}

#[test]
fn the_session_in_readme() {
    let readme = fs::read_to_string(project("README.md")).expect("README");
    let session = shown(&readme, "## A session", "After a Docker that was killed");
    assert!(session.len() >= 6, "{} commands", session.len());
    let temp = temp_dir();
    unpack("28-overlay2", &temp.path().join("docker"));
    fs::create_dir(temp.path().join("empty")).expect("a directory");
    fs::create_dir(temp.path().join("backup")).expect("a directory");
    save(&temp.path().join("docker"), &["--all"], &temp.path().join("backup/images.tar.zst"));
    for shown in session {
        if shown.arguments.iter().any(|argument| argument == "verify") {
            // The power cut.
            let layer = "overlay2/be494fd25e2519a7b4b82aa0d060c2ce98f2f9333097bc453d257a3f574a1a69";
            let file = temp.path().join("docker").join(layer).join("diff/etc/nginx/conf.d/a.conf");
            let before = fs::metadata(&file).and_then(|file| file.modified()).expect("a time");
            fs::write(&file, "\0\n").expect("a file");
            fs::File::open(&file).and_then(|file| file.set_modified(before)).expect("a time");
            let dead = temp.path().join("mnt/var/lib");
            fs::create_dir_all(&dead).expect("directories");
            let copied = Command::new("cp").arg("-a").arg(temp.path().join("docker")).arg(dead).status();
            assert!(copied.expect("cp runs").success());
        }
        let found = run(&shown, temp.path());
        let expected: Vec<String> = shown.lines.iter().map(|line| steady(line)).collect();
        match expected.iter().position(|line| line == "…") {
            Some(at) => {
                let (first, last) = (&expected[..at], &expected[at + 1..]);
                assert!(
                    found.starts_with(first) && found.ends_with(last),
                    "{:?}: {found:#?}, not {expected:#?}",
                    shown.arguments
                );
            }
            None => assert_eq!(found, expected, "{:?}", shown.arguments),
        }
    }
}
