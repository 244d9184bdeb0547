//! `gc` on the stores of real daemons: garbage from real kills, everything that must stay, and the lock.

#![allow(clippy::print_stderr, reason = "a loop that fails tells where it was")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::gc::leaks;
use crate::support::command::{DOCKPACK, run};
use crate::support::store::{project, temp_dir};

/// A daemon and its store. The daemon is ended, and everything removed, when this goes.
struct Engine {
    _temp: tempfile::TempDir,
    dir: PathBuf,
    version: &'static str,
    driver: &'static str,
}

impl Engine {
    fn new(version: &'static str, driver: &'static str) -> Self {
        let temp = temp_dir();
        let dir = temp.path().join("lab");
        std::fs::create_dir(&dir).expect("a directory");
        Self { _temp: temp, dir, version, driver }
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn engine(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(project("ci/engine"));
        command.args(arguments);
        command
    }

    fn start(&self) {
        let output =
            self.engine(&["start", self.version, self.driver]).arg(&self.dir).output().expect("ci/engine runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn stop(&self) {
        assert!(self.engine(&["stop"]).arg(&self.dir).status().expect("ci/engine runs").success());
    }

    /// Kills the daemon at once, in the middle of what it does; then whatever else belongs to it.
    fn kill(&self) {
        let pid = std::fs::read_to_string(self.dir.join("d.pid")).expect("a pid");
        assert!(Command::new("kill").args(["-KILL", pid.trim()]).status().expect("kill runs").success());
        assert!(self.engine(&["kill"]).arg(&self.dir).status().expect("ci/engine runs").success());
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = self.engine(&["docker", self.version]);
        command.arg(&self.dir).args(arguments);
        command
    }

    /// Runs the client and returns what it prints.
    #[track_caller]
    fn docker(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.client(arguments).output().expect("ci/engine runs");
        assert!(status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("text").trim().to_owned()
    }

    /// Runs a shell script in which `docker` is the client.
    fn script(&self, text: &str) -> Child {
        let docker = format!(
            "docker() {{ '{}' docker {} '{}' \"$@\"; }}\n",
            project("ci/engine").display(),
            self.version,
            self.dir.display()
        );
        Command::new("bash")
            .args(["-c", &(docker + text)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir(&self.dir)
            .spawn()
            .expect("bash runs")
    }

    fn fill(&self) {
        // Two stores are filled at a time at most, and each has a registry.
        let port = 20_000 + std::process::id() % 20_000;
        let output = Command::new(project("ci/images"))
            .args(["tiny", self.version])
            .arg(&self.dir)
            .env("DOCKPACK_REGISTRY_PORT", port.to_string())
            .output()
            .expect("ci/images runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn leaks(&self) -> Vec<String> {
        leaks(&self.root(), self.driver)
    }

    #[track_caller]
    fn gc(&self) {
        for arguments in [&["gc", "-y", "--purge"][..], &["gc", "--purge"]] {
            let _ = run(&self.root(), arguments).done();
        }
        assert_eq!(self.leaks(), Vec::<String>::new());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.engine(&["remove"]).arg(&self.dir).status();
    }
}

/// A small number that is different every time, from the clock.
fn random(below: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
    u64::from(now.subsec_nanos()) / 7 % below
}

/// Operations in the middle of which daemons are killed; each goes on until then.
const WORK: [(&str, &str); 7] = [
    ("load", "while :; do docker load -qi work/layers.tar; docker rmi -f leaky:1 leaky:2; done"),
    (
        "build",
        "while :; do DOCKER_BUILDKIT=0 docker build -q --no-cache --network none -t built:1 work/context; \
         docker rmi -f built:1; done",
    ),
    (
        "buildkit",
        "while :; do DOCKER_BUILDKIT=1 docker build -q --no-cache --network none -t built:1 work/context; \
         docker rmi -f built:1; done",
    ),
    ("create", "while :; do docker create --network none alpine:3.4 true; done"),
    ("run", "while :; do docker run -d --network none alpine:3.4 sh -c 'echo x >/x; exec sleep 60'; done"),
    ("rm", "while :; do docker create --name x --network none alpine:3.4; docker rm -f x; done"),
    ("rmi", "while :; do docker load -qi work/layers.tar; docker rmi leaky:1; docker rmi leaky:2; done"),
];

/// How often daemons are killed at everything that they do, until something is leaked.
const ROUNDS: usize = 4;

/// Kills a daemon in the middle of something, and starts it again.
fn kill_at_work(engine: &Engine, (name, script): (&str, &str)) {
    let mut child = engine.script(script);
    sleep(Duration::from_millis(200 + random(1500)));
    engine.kill();
    let _ = child.kill();
    let _ = child.wait();
    engine.start();
    eprintln!("{}: killed during {name}", engine.version);
}

/// Lets Docker remove all that it can.
fn clean_up(engine: &Engine) {
    let ids = engine.docker(&["ps", "-aq", "--no-trunc"]);
    let keep = ["waiting", "nginx", "changed", "orphan"].map(|name| engine.docker(&["inspect", "-f", "{{.Id}}", name]));
    for id in ids.lines().filter(|id| !keep.iter().any(|keep| keep == id)) {
        let _ = engine.client(&["rm", "-f", id]).output();
    }
    let _ = engine.client(&["rmi", "-f", "leaky:1", "leaky:2", "built:1"]).output();
    engine.docker(&["image", "prune", "-f"]);
    let _ = engine.client(&["builder", "prune", "-af"]).output();
}

/// Returns the directories that things lie in.
fn homes(paths: &[String]) -> BTreeSet<&str> {
    paths.iter().map(|path| path.rsplit_once('/').map_or(&path[..], |(home, _)| home)).collect()
}

/// Kills a daemon in the middle of everything it does; what it has leaked goes, and nothing else does.
fn real_kills(version: &'static str) {
    let kills: usize = std::env::var("DOCKPACK_GC_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(14);
    let engine = Engine::new(version, "overlay2");
    make_work(&engine.dir.join("work"));
    engine.start();
    engine.fill();
    let images = engine.docker(&["image", "ls", "--no-trunc", "--digests"]);
    let mut before = String::new();
    let mut leaked = Vec::new();
    // When a kill comes is chance, and so is whether it leaves something.
    for round in 0..ROUNDS {
        if round > 0 {
            engine.start();
        }
        for kill in 0..kills {
            kill_at_work(&engine, WORK[kill % WORK.len()]);
        }
        clean_up(&engine);
        before = engine.docker(&["image", "ls", "--no-trunc", "--digests"]);
        engine.stop();
        leaked = engine.leaks();
        eprintln!("{version}: {} leaks in {:?}", leaked.len(), homes(&leaked));
        if !leaked.is_empty() {
            break;
        }
    }
    assert!(!leaked.is_empty(), "{kills} kills, {ROUNDS} times, and nothing is leaked");
    engine.gc();
    engine.start();
    let after = engine.docker(&["image", "ls", "--no-trunc", "--digests"]);
    assert_eq!(steady(&before), steady(&after));
    assert!(steady(&images).is_superset(&steady(&after)));
    everything_works(&engine);
    engine.stop();
    assert_eq!(engine.leaks(), Vec::<String>::new());
}

/// Lines of a list without how long ago things were.
fn steady(list: &str) -> BTreeSet<String> {
    list.lines().map(|line| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ")).collect()
}

/// Every image that is listed runs or saves, and every container starts.
fn everything_works(engine: &Engine) {
    for image in engine.docker(&["image", "ls", "-q", "--no-trunc"]).lines() {
        let saved = engine.client(&["save", image]).stdout(Stdio::null()).status().expect("docker save runs");
        assert!(saved.success(), "docker save {image}");
    }
    let output = engine.docker(&["run", "--rm", "--network", "none", "bk:1", "/app/bin/app"]);
    assert_eq!(output, "built by BuildKit");
    for container in engine.docker(&["ps", "-aq"]).lines() {
        engine.docker(&["start", container]);
    }
}

/// Layers to load, and a context to build from.
fn make_work(dir: &Path) {
    const SCRIPT: &str = r#"
import hashlib, io, json, os, sys, tarfile
dir = sys.argv[1]
os.makedirs(f"{dir}/context")
open(f"{dir}/context/Dockerfile", "w").write("FROM alpine:3.4\n" + "".join(f"RUN echo {n} >/f{n}\nCOPY data /d{n}\n" for n in range(3)))
open(f"{dir}/context/data", "wb").write(os.urandom(300000))
out = tarfile.open(f"{dir}/layers.tar", "w")
def add(name, data):
    info = tarfile.TarInfo(name); info.size = len(data); out.addfile(info, io.BytesIO(data))
manifest = []
for image in (1, 2):
    diffs, files = [], []
    for layer in range(4):
        buffer = io.BytesIO()
        tar = tarfile.open(fileobj=buffer, mode="w")
        for file in range(20):
            data = os.urandom(30000)
            info = tarfile.TarInfo(f"{image}-{layer}/{file}"); info.size = len(data); tar.addfile(info, io.BytesIO(data))
        tar.close()
        data = buffer.getvalue()
        diffs.append("sha256:" + hashlib.sha256(data).hexdigest())
        files.append(f"{image}-{layer}.tar")
        add(files[-1], data)
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diffs}}).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    add(name, config)
    manifest.append({"Config": name, "RepoTags": [f"leaky:{image}"], "Layers": files})
add("manifest.json", json.dumps(manifest).encode())
out.close()
"#;
    let status = Command::new("python3").args(["-c", SCRIPT]).arg(dir).status();
    assert!(status.expect("python3 runs").success());
}

#[test]
fn a_daemon_that_is_killed_20() {
    real_kills("20");
}

#[test]
fn a_daemon_that_is_killed_28() {
    real_kills("28");
}

/// A Dockerfile of two stages, of which the second build must find every step in the cache.
const CACHED: &str =
    "docker build --progress plain --network none -t cached:1 -f - work/context >build.log 2>&1 <<'EOF'
FROM alpine:3.4 AS one
RUN mkdir /out && echo one >/out/one
RUN echo two >/out/two
FROM alpine:3.4
COPY --from=one /out /out
RUN cat /out/one /out/two >/both
EOF";

/// A store with everything: exactly the garbage goes, and everything else still works.
fn a_store_with_everything(version: &'static str, driver: &'static str) {
    let engine = Engine::new(version, driver);
    make_work(&engine.dir.join("work"));
    engine.start();
    engine.fill();
    let build = |text: &str| {
        let status = engine.script(&format!("export DOCKER_BUILDKIT=1; {text}")).wait().expect("bash runs");
        assert!(status.success(), "docker build");
    };
    build(CACHED);
    // The image goes, what it was built from stays in the cache.
    engine.docker(&["rmi", "-f", "cached:1"]);
    let cache = engine.docker(&["system", "df", "-v", "--format", "{{json .BuildCache}}"]);
    let running = engine.docker(&["run", "-d", "--network", "none", "nginx:alpine", "sleep", "1000"]);
    engine.docker(&["kill", &running]);
    let images = engine.docker(&["image", "ls", "-q", "--no-trunc", "--filter", "dangling=false"]);

    // Beside the daemon a plan is only shown, and nothing is done.
    let shown = run(&engine.root(), ["gc", "--dry-run"]).done();
    assert!(shown.stderr.contains("may be in flight") && shown.stderr.contains("dockerd (pid "), "{}", shown.stderr);
    let refused = run(&engine.root(), ["gc", "-y", "--purge"]).failed(4);
    assert!(refused.stderr.contains("in use by dockerd (pid "), "{}", refused.stderr);
    engine.stop();
    plant(&engine);
    engine.gc();
    engine.start();
    let left = engine.docker(&["image", "ls", "-q", "--no-trunc", "--filter", "dangling=false"]);
    assert_eq!(steady(&images), steady(&left));
    assert_eq!(shape(&cache), shape(&engine.docker(&["system", "df", "-v", "--format", "{{json .BuildCache}}"])));
    build(CACHED);
    let log = std::fs::read_to_string(engine.dir.join("build.log")).expect("what the build says");
    assert!(log.lines().filter(|line| line.ends_with(" CACHED")).count() >= 4, "steps were built again: {log}");
    assert_eq!(engine.docker(&["run", "--rm", "--network", "none", "cached:1", "cat", "/both"]), "one\ntwo");
    everything_works(&engine);
    engine.stop();
    let _ = run(&engine.root(), ["gc", "-y", "--purge"]).done();
    engine.start();
    everything_works(&engine);
    engine.stop();
}

/// IDs of the records of a build cache.
fn shape(cache: &str) -> BTreeSet<String> {
    let Ok(Value::Array(records)) = serde_json::from_str(cache) else { return BTreeSet::new() };
    records.iter().filter_map(|record| record["ID"].as_str().map(str::to_owned)).collect()
}

fn plant(engine: &Engine) {
    let (root, driver) = (engine.root(), engine.driver);
    let write = |path: String, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        std::fs::write(path, text).expect("a file");
    };
    let hex = |number: u8| format!("{number:02x}").repeat(32);
    for number in 1..6 {
        write(format!("{driver}/{}/diff/data", hex(number)), "x");
    }
    write(format!("{driver}/{}-init/diff/data", hex(6)), "x");
    for (file, text) in [("diff", format!("sha256:{}", hex(20))), ("size", "1".to_owned()), ("cache-id", hex(1))] {
        write(format!("image/{driver}/layerdb/sha256/{}/{file}", hex(20)), &text);
    }
    write(format!("image/{driver}/layerdb/sha256/{}/cache-id", hex(21)), &hex(2));
    write(format!("image/{driver}/layerdb/sha256/{}-{}-removing/cache-id", hex(22), hex(23)), &hex(3));
    write(format!("image/{driver}/layerdb/tmp/write-set-1/cache-id"), &hex(4));
    write(format!("image/{driver}/layerdb/mounts/{}/mount-id", hex(24)), &hex(5));
    write(format!("containers/{}/hostconfig.json", hex(25)), "{}");
    write("tmp-old/x".to_owned(), "x");
    write(".tmp-engine-id1".to_owned(), "x");
}

#[test]
fn a_daemon_with_everything_28_overlay2() {
    a_store_with_everything("28", "overlay2");
}

#[test]
fn a_daemon_with_everything_20_overlay() {
    a_store_with_everything("20", "overlay");
}

/// While gc works no daemon comes up; when it is done one does, and has seen nothing of what is gone.
#[cfg(feature = "crash-points")]
#[test]
fn a_daemon_does_not_start_while_gc_works() {
    for version in ["20", "28"] {
        let engine = Engine::new(version, "overlay2");
        engine.start();
        engine.fill();
        engine.stop();
        for number in 0..200 {
            let dir = engine.root().join(format!("overlay2/{number:064x}/diff"));
            std::fs::create_dir_all(&dir).expect("directories");
            std::fs::write(dir.join("x"), "x").expect("a file");
        }
        // Stopped in the middle: the lock is held as long as the process is there.
        let gc = Command::new(DOCKPACK)
            .env("DOCKPACK_PAUSE_AT", "gc:moved#100")
            .arg("--root")
            .arg(engine.root())
            .args(["gc", "-y", "--purge"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut gc = gc.expect("dockpack runs");
        let trash = engine.root().join(".dockpack/trash");
        let end = Instant::now() + Duration::from_secs(30);
        while moved(&trash) < 100 {
            assert!(Instant::now() < end, "gc does not begin");
            sleep(Duration::from_millis(20));
        }
        let output = engine.engine(&["start", version, "overlay2"]).arg(&engine.dir).output().expect("ci/engine runs");
        assert!(!output.status.success(), "dockerd started while gc works");
        let log = std::fs::read_to_string(engine.dir.join("log")).expect("the daemon's log");
        assert!(log.contains("timeout"), "{log}");
        gc.kill().expect("it is killed");
        let _ = gc.wait();
        // The lock went with the process; a daemon that runs on half of it sees nothing wrong.
        engine.start();
        everything_works(&engine);
        engine.stop();
        engine.gc();
    }
}

/// Counts what is in the trash.
#[cfg(feature = "crash-points")]
fn moved(trash: &Path) -> usize {
    let Ok(transactions) = std::fs::read_dir(trash) else { return 0 };
    let nodes = transactions.flatten().map(|entry| entry.path().join("nodes"));
    nodes.filter_map(|dir| std::fs::read_dir(dir).ok()).map(Iterator::count).sum()
}
