//! The command line as a whole: success, exit code, standard output and standard error together.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use insta::assert_snapshot;

/// A data root in a temp directory, and commands on it.
pub(crate) struct Lab {
    root: tempfile::TempDir,
}

impl Lab {
    /// Unpacks a store of `fixtures/`.
    pub(crate) fn unpack(name: &str) -> Self {
        let root = tempfile::tempdir().expect("a temp directory");
        let unpack = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/unpack");
        let status = Command::new(unpack).arg(name).arg(root.path()).status().expect("fixtures/unpack runs");
        assert!(status.success(), "fixtures/unpack {name}: {status}");
        Self { root }
    }

    fn empty() -> Self {
        Self { root: tempfile::tempdir().expect("a temp directory") }
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        std::fs::create_dir_all(path.parent().expect("a path below the root")).expect("directories");
        std::fs::write(path, text).expect("a file");
    }

    /// Prepares `dockpack --root ROOT ARGUMENTS`. Nothing of the caller's environment is left.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dockpack"));
        command.env_clear().env("COLUMNS", "100").arg("--root").arg(self.root()).args(arguments);
        command
    }

    /// Runs a command and returns all that a caller can see of it.
    #[must_use]
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("dockpack runs");
        let text = |bytes: Vec<u8>| steady(&String::from_utf8(bytes).expect("text"), self.root());
        format!(
            "$ dockpack {}\nsuccess: {}\nexit code: {}\n--- stdout\n{}--- stderr\n{}",
            arguments.join(" ").replace(&self.root().display().to_string(), "[ROOT]"),
            output.status.success(),
            output.status.code().map_or_else(|| "none".to_owned(), |code| code.to_string()),
            text(output.stdout),
            text(output.stderr),
        )
    }

    #[must_use]
    pub(crate) fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("dockpack runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    #[must_use]
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.stdout(&[arguments, &["--json"]].concat())).expect("one JSON document")
    }
}

/// Replaces what differs from run to run: where the store is, and how long ago things were.
fn steady(text: &str, root: &Path) -> String {
    let text = text.replace(&root.display().to_string(), "[ROOT]");
    text.split_inclusive('\n').map(steady_line).collect()
}

fn steady_line(line: &str) -> String {
    let line = if line.contains("   ") && !line.starts_with([' ', '│', '├', '└']) {
        narrow(line)
    } else {
        line.to_owned()
    };
    let Some(end) = line.find(" ago") else { return line };
    let number = line[..end].rfind(|letter: char| letter.is_ascii_digit()).unwrap_or(end);
    let start = line[..number].rfind(|letter: char| !letter.is_ascii_digit()).map_or(0, |at| at + 1);
    format!("{}[SOME TIME]{}", &line[..start], &line[end..])
}

/// Makes all gaps between columns three wide: how wide they are depends on how long ago things were.
fn narrow(line: &str) -> String {
    let mut cells = line.split("   ").map(str::trim_start).filter(|cell| !cell.is_empty());
    let first = cells.next().unwrap_or_default().to_owned();
    cells.fold(first, |row, cell| format!("{row}   {cell}"))
}

/// Replaces sizes on disk, which depend on the file system.
fn without_sizes(text: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for word in text.split(' ') {
        let unit = word.trim_end_matches('\n');
        if matches!(unit, "B" | "kB" | "MB" | "GB") && out.last().is_some_and(|number| number.parse::<f64>().is_ok()) {
            out.pop();
            out.push(if word.ends_with('\n') { "[SIZE]\n" } else { "[SIZE]" });
        } else if !(word.starts_with('(') && word.trim_end().ends_with("%)")) {
            out.push(word);
        } else if word.ends_with('\n') {
            out.push("\n");
        }
    }
    out.join(" ")
}

fn seed() -> Lab {
    Lab::unpack("seed-17.03-overlay")
}

const BASE: &str = "94cb6c62c07230ec6567622f5f201c64998c604853a3791b9adfcbfaef6f2d62";
const NGINX: &str = "0ae090dba3ab6fd0a02a5eaddc19abf6bb47b9cf1b1168bd27aabf6fac05b399";
const NGINX_CHAIN: &str = "1da0e48557625a4d36d61f73e19171eafed4d7f983fb0f733598abdb67a05ebf";

#[test]
fn help_of_everything() {
    let lab = Lab::empty();
    let commands = [
        "",
        "ls",
        "inspect",
        "why",
        "graph",
        "df",
        "save",
        "load",
        "copy",
        "gc",
        "verify",
        "repair",
        "completions",
        "man",
    ];
    let help = commands.map(|command| {
        let mut run = Command::new(env!("CARGO_BIN_EXE_dockpack"));
        run.env_clear().env("COLUMNS", "100").args(command.split_whitespace()).arg("--help");
        let output = run.output().expect("dockpack runs");
        assert!(output.status.success() && output.stderr.is_empty());
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{command}: too wide");
        format!("$ dockpack {command} --help\n{text}")
    });
    assert_snapshot!(help.join("\n"));
    assert_snapshot!(lab.run(&["save"]));
    assert_snapshot!(lab.run(&["frob"]));
}

/// What the article shows of its host.
#[test]
fn ls_of_the_article() {
    assert_snapshot!(seed().run(&["ls"]));
}

#[test]
fn ls_in_its_forms() {
    let lab = seed();
    for (name, arguments) in [
        ("all", &["ls", "-a"][..]),
        ("digests", &["ls", "--digests"]),
        ("no-trunc", &["ls", "--no-trunc"]),
        ("quiet", &["ls", "-q"]),
        ("quiet-no-trunc", &["ls", "-q", "--no-trunc"]),
        ("one-repository", &["ls", "nginx"]),
        ("one-reference", &["ls", "docker.io/library/nginx:alpine"]),
        ("by-id", &["ls", "245f"]),
        ("pattern", &["ls", "*:3.*"]),
        ("none", &["ls", "redis"]),
        ("json", &["ls", "--json"]),
    ] {
        assert_snapshot!(format!("ls-{name}"), lab.run(arguments));
    }
}

#[test]
fn inspect_in_its_forms() {
    let lab = seed();
    let path = format!("/var/lib/docker/overlay/{BASE}/root/bin/ash");
    for (name, arguments) in [
        ("image", &["inspect", "nginx:alpine"][..]),
        ("image-by-id", &["inspect", "245f7a86c576"]),
        ("container", &["inspect", "nginx"]),
        ("layer", &["inspect", NGINX_CHAIN]),
        ("layer-by-diff-id", &["inspect", "sha256:4a8d9a67e458d2c8fe42c5aa2a2a35303c7484df30207e233fcf03ab7bb9ffec"]),
        ("path", &["inspect", &path]),
        ("writable-layer", &["inspect", "overlay/f9ddcc38d33be0dad43ab740692d3431fcc92d90a97bbc2b22dcdec44bcceacb"]),
        (
            "mount-entry",
            &[
                "inspect",
                "image/overlay/layerdb/mounts/6175f77e9d170376e1a11d419774c76213f1ca966a804b12d3995436edb30621/parent",
            ],
        ),
        ("two", &["inspect", "alpine:3.4", "cccc"]),
        ("json", &["inspect", "alpine:3.4", "--json"]),
        ("container-json", &["inspect", "6175", "--json"]),
    ] {
        assert_snapshot!(format!("inspect-{name}"), lab.run(arguments));
    }
}

#[test]
fn why_in_its_forms() {
    let lab = seed();
    std::fs::create_dir_all(lab.at("overlay/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef/root"))
        .expect("a directory");
    lab.write(
        "image/overlay/layerdb/tmp/write-set-1/cache-id",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    );
    for (name, arguments) in [
        ("base", &["why", BASE][..]),
        ("init-layer", &["why", "f9ddcc38d33be0dad43ab740692d3431fcc92d90a97bbc2b22dcdec44bcceacb-init"]),
        ("image", &["why", "0ae0"]),
        ("orphan", &["why", "overlay/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]),
        ("colours", &["why", "012345", "--color", "always"]),
        ("missing", &["why", "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"]),
        ("json", &["why", "012345", "alpine:3.4", "--json"]),
    ] {
        assert_snapshot!(format!("why-{name}"), lab.run(arguments));
    }
}

#[test]
fn graph_in_its_forms() {
    let lab = seed();
    for format in ["dot", "mermaid", "json"] {
        assert_snapshot!(format!("graph-{format}"), lab.run(&["graph", "--format", format]));
    }
    let file = lab.at("graph.json");
    let path = file.display().to_string();
    assert_eq!(lab.stdout(&["graph", "--json", "-o", &path]), "");
    assert_eq!(std::fs::read_to_string(file).expect("the file"), lab.stdout(&["graph", "--json"]));
    assert_snapshot!(lab.run(&["graph", "-o", &lab.at("no/such/dir").display().to_string()]));
}

#[test]
fn df_in_its_forms() {
    let lab = seed();
    std::fs::create_dir_all(lab.at(&format!("overlay/{}/root", "e".repeat(64)))).expect("a directory");
    assert_snapshot!(without_sizes(&lab.run(&["df"])));
    assert_snapshot!(without_sizes(&lab.run(&["df", "-v"])));
    let usage = lab.json(&["df"]);
    assert_eq!(usage["schema"], 1);
    assert_eq!(usage["rows"][4]["kind"], "unreferenced-directories");
    assert_eq!(usage["rows"][4]["total"], 1);
}

#[test]
fn errors_and_hints() {
    let lab = seed();
    assert_snapshot!("error-near", lab.run(&["inspect", "ngnix:alpin"]));
    assert_snapshot!("error-some", lab.run(&["why", "overlay/l", "6175", "nothing/at/all"]));
    assert_snapshot!("error-nothing", lab.run(&["why", "/var/lib/docker/overlay2/nothing"]));
    lab.write(&format!("image/overlay/imagedb/content/sha256/{}", "0".repeat(64)), "{}");
    std::fs::create_dir_all(lab.at(&format!("overlay/0ae0{}", "1".repeat(60)))).expect("a directory");
    assert_snapshot!("error-ambiguous", lab.run(&["why", "0ae0"]));
    lab.write("overlay2/l/x", "");
    assert_snapshot!("error-two-drivers", lab.run(&["ls"]));
    assert_snapshot!("error-unknown-driver", lab.run(&["ls", "--driver", "zpool"]));
    let lab = Lab::empty();
    assert_snapshot!("error-no-store", lab.run(&["ls"]));
    lab.write("buildkit/containerd-overlayfs/metadata_v2.db", "");
    assert_snapshot!("error-containerd", lab.run(&["ls"]));
    std::fs::create_dir_all(lab.at("100000.100000/image")).expect("a directory");
    assert_snapshot!("error-remapped", lab.run(&["ls"]));
    assert_snapshot!("error-no-archive", lab.run(&["ls", "-i", &lab.at("none.tar").display().to_string()]));
    lab.write("text.tar", "no archive at all");
    assert_snapshot!("error-not-an-archive", lab.run(&["ls", "-i", &lab.at("text.tar").display().to_string()]));
    assert_snapshot!("error-no-page", lab.run(&["man", "frob"]));
}

/// An image that dockerd would drop is listed all the same.
#[test]
fn damage_is_shown() {
    let lab = seed();
    std::fs::remove_file(lab.at(&format!("image/overlay/layerdb/sha256/{NGINX_CHAIN}/diff"))).expect("the file");
    std::fs::write(
        lab.at(
            "image/overlay/layerdb/mounts/6175f77e9d170376e1a11d419774c76213f1ca966a804b12d3995436edb30621/mount-id",
        ),
        "../../etc",
    )
    .expect("the file");
    assert_snapshot!("damaged-ls", lab.run(&["ls"]));
    assert_snapshot!("damaged-inspect", lab.run(&["inspect", NGINX]));
    assert_snapshot!(
        "damaged-why",
        lab.run(&["why", NGINX_CHAIN, "f9ddcc38d33be0dad43ab740692d3431fcc92d90a97bbc2b22dcdec44bcceacb"])
    );
    assert_snapshot!("damaged-quiet", lab.run(&["ls", "-q"]));
}

/// Whoever reads only the first lines gets them, and no complaint.
#[test]
fn a_broken_pipe_is_no_failure() {
    let lab = seed();
    for arguments in [&["graph"][..], &["ls"], &["inspect", "nginx:alpine"], &["completions", "bash"]] {
        let mut child =
            lab.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("dockpack runs");
        drop(child.stdout.take());
        let mut errors = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
        let status = child.wait().expect("it ends");
        assert_eq!((status.code(), errors.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

/// A full disk is a failure.
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let lab = seed();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("the device");
    let output = lab.command(&["ls"]).stdout(full).output().expect("dockpack runs");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(errors.starts_with("dockpack: cannot write standard output: "), "{errors}");
}

#[test]
fn pages_for_shells_and_man() {
    let lab = Lab::empty();
    for shell in ["bash", "zsh", "fish"] {
        assert!(lab.stdout(&["completions", shell]).contains("inspect"), "{shell}");
    }
    assert!(lab.stdout(&["help", "gc"]).contains("Examples:"));
    assert!(lab.stdout(&["man"]).starts_with(".ie"));
    assert!(lab.stdout(&["man", "save"]).contains("dockpack\\-save"));
}
