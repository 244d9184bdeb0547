//! What a daemon makes of an image and of a container.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::victims::{MARK, Scene, Victim};
use crate::support::engine::Engine;
use crate::support::store::sha256;
use crate::support::tree::{Allow, Tree};

/// The API of a running daemon. A client takes ten times as long as what it asks for.
pub(super) struct Daemon {
    socket: PathBuf,
}

impl Daemon {
    /// Talks to the daemon that `ci/engine` started in `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self { socket: std::fs::read_link(dir.join("run")).expect("a daemon runs").join("d.sock") }
    }

    /// Asks for something. An error is what the daemon says.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}");
        let mut stream = UnixStream::connect(&self.socket).expect("the daemon listens");
        write!(stream, "{head}\r\n\r\n{body}").expect("asked");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let value: Value = serde_json::from_str(body).unwrap_or_default();
        match head.split(' ').nth(1) {
            Some("200" | "201" | "204" | "304") => Ok(value),
            _ => Err(value["message"].as_str().unwrap_or(head).to_owned()),
        }
    }

    pub(super) fn create(&self, name: Option<&str>, image: &str) -> Result<String, String> {
        let name = name.map(|name| format!("?name={name}")).unwrap_or_default();
        let asked = json!({"Image": image, "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}});
        let made = self.ask("POST", &format!("/containers/create{name}"), &asked)?;
        Ok(made["Id"].as_str().expect("an ID").to_owned())
    }

    pub(super) fn start(&self, container: &str) -> Result<(), String> {
        self.ask("POST", &format!("/containers/{container}/start"), &Value::Null).map(drop)
    }

    pub(super) fn remove(&self, container: &str) {
        let _ = self.ask("DELETE", &format!("/containers/{container}?force=1"), &Value::Null).expect("removed");
    }

    /// Reads what programs in a running container see, but for times, of which a container has its own.
    pub(super) fn tree(&self, container: &str) -> Result<Tree, String> {
        let inspected = self.ask("GET", &format!("/containers/{container}/json"), &Value::Null)?;
        if inspected["State"]["Running"] != true {
            return Err("it ended at once".to_owned());
        }
        let merged = inspected["GraphDriver"]["Data"]["MergedDir"].as_str().expect("a directory").to_owned();
        Ok(Tree::read(Path::new(&merged)).without_times().only(|path| path != MARK.as_bytes()))
    }

    /// Returns the ID of the image with a name.
    fn image(&self, name: &str) -> Option<String> {
        let images = self.ask("GET", "/images/json", &Value::Null).expect("a list");
        let is_named = |image: &&Value| image["RepoTags"].as_array().is_some_and(|tags| tags.contains(&name.into()));
        let found = images.as_array().expect("a list").iter().find(is_named)?;
        Some(found["Id"].as_str().expect("an ID").trim_start_matches("sha256:").to_owned())
    }

    /// Tells whether `docker image inspect` works.
    fn is_inspected(&self, name: &str) -> bool {
        self.ask("GET", &format!("/images/{name}/json"), &Value::Null).is_ok()
    }
}

/// What a daemon shows of a victim; errors are what it says.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) is_named: bool,
    pub(super) is_inspected: bool,
    /// Whether a program in a new container of the image sees what was built.
    pub(super) image: Result<bool, String>,
    /// The same of the container that was there before.
    pub(super) container: Result<bool, String>,
    pub(super) saves: Result<(), String>,
}

/// Looks at a victim.
pub(super) fn look(engine: &Engine, daemon: &Daemon, scene: &Scene, victim: &Victim) -> Seen {
    let is_as_built = |container: &str| -> Result<bool, String> {
        daemon.start(container)?;
        // A program that a damaged library or a directory of another mode ends is as good as none.
        let tree = daemon.tree(container)?;
        Ok(scene.trees[&victim.of].deviations(&tree, Allow::REBUILT).is_empty())
    };
    Seen {
        is_named: daemon.image(&victim.reference()).as_ref() == Some(&victim.image),
        is_inspected: daemon.is_inspected(&victim.reference()),
        image: daemon.create(None, &victim.reference()).and_then(|container| is_as_built(&container)),
        container: is_as_built(&victim.container),
        saves: save(engine, scene, victim),
    }
}

/// Lets the daemon save an image, and proves the layers that it gives.
fn save(engine: &Engine, scene: &Scene, victim: &Victim) -> Result<(), String> {
    let dir = scene.temp.path().join(format!("saved-{}", victim.defect));
    std::fs::create_dir_all(&dir).expect("a directory");
    let tar = dir.join("tar");
    let output =
        engine.try_docker(&["save", "-o", tar.to_str().expect("text"), &victim.image], std::process::Stdio::null());
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let unpacked = std::process::Command::new("tar").arg("-C").arg(&dir).arg("-xf").arg(&tar).status().expect("tar");
    assert!(unpacked.success());
    let digests = layers_of(&dir).map_err(|error| format!("what it saved cannot be read: {error}"));
    std::fs::remove_dir_all(&dir).expect("removed");
    match digests? {
        (wanted, found) if wanted == found => Ok(()),
        _ => Err("other layers than were built".to_owned()),
    }
}

/// Returns the diff IDs of the layers of an image that was saved: as its configuration says, and as they are.
fn layers_of(saved: &Path) -> std::io::Result<(Vec<Value>, Vec<Value>)> {
    let read = |path: &Value| std::fs::read(saved.join(path.as_str().expect("a path")));
    let manifest: Value = serde_json::from_slice(&read(&"manifest.json".into())?)?;
    let config: Value = serde_json::from_slice(&read(&manifest[0]["Config"])?)?;
    let layers = manifest[0]["Layers"].as_array().expect("layers");
    let found = layers.iter().map(|path| Ok(format!("sha256:{}", sha256(&read(path)?)).into()));
    Ok((config["rootfs"]["diff_ids"].as_array().expect("a list").clone(), found.collect::<std::io::Result<_>>()?))
}
