//! Finds a daemon of a store that does not hold its lock, or not yet.
//!
//! dockerd up to 23 reads its layers, and only then opens the file that it locks; it may be long between the two. Then it
//! would go on with what it has read. A daemon belongs to a store when its data root, as its arguments or its
//! `daemon.json` say it and as it sees it, is the same directory; or when it has a file of the store open.

use std::collections::BTreeMap;

use super::layout::{DAEMON_JSON, DAEMON_JSON_LIMIT, DEFAULT_ROOT, mapping};
use super::mountinfo::Mount;
use super::names::Names;
use super::processes::{Process, Processes};
use super::{Configured, Store};
use crate::error::FsError;
use crate::fsx::Dir;

/// A process that works on a store.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    process: Process,
    name: String,
}

impl Daemon {
    /// Finds the daemons of a store.
    ///
    /// # Errors
    /// Whether there is one cannot be told.
    pub(super) fn all(store: &Store) -> Result<Vec<Self>, FsError> {
        // Without `/proc` there is the lock alone.
        let Some(processes) = FsError::found(Processes::open())? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let mut names: Option<Names> = None;
        for process in processes.all()? {
            let name = process.name();
            if !is_daemon(&process, &name) || !process.is_there() {
                continue;
            }
            let names = match &mut names {
                Some(names) => names,
                None => names.insert(Names::of(store, &processes)?),
            };
            match works_on(&process, store, names) {
                Err(_) if processes.is_foreign(&process) => {}
                works => {
                    if works? {
                        found.push(Self { process, name });
                    }
                }
            }
        }
        Ok(found)
    }

    /// Tells whether it is still there.
    pub(super) fn is_there(&self) -> bool {
        self.process.is_there()
    }
}

impl std::fmt::Display for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.process.pid)
    }
}

/// Tells whether a daemon of any store may be starting: one is seen, or other pid name spaces may hide one.
pub(super) fn may_be_there() -> bool {
    let Ok(processes) = Processes::open() else { return true };
    let Ok(all) = processes.all() else { return true };
    !processes.are_all() || all.iter().any(|process| is_daemon(process, &process.name()))
}

/// Tells whether a process is a daemon, by its name: `dockerd`, `balenad`, `balena-engine-daemon`; `docker daemon` up to
/// 1.12. `docker-proxy` and `docker-init`, which belongs to a container, are none.
fn is_daemon(process: &Process, name: &str) -> bool {
    let is_old = || process.arguments().is_ok_and(|all| all.iter().any(|argument| argument == "daemon"));
    name.starts_with("dockerd") || name.starts_with("balena") || (name == "docker" && is_old())
}

fn works_on(process: &Process, store: &Store, names: &Names) -> Result<bool, FsError> {
    Ok(is_root_of(process, store)? || has_open(process, store, names)?)
}

/// Tells whether a daemon's data root is that of the store.
fn is_root_of(process: &Process, store: &Store) -> Result<bool, FsError> {
    let identity = |dir: &Dir| dir.attrs(".").map(|attrs| (attrs.file_system, attrs.inode));
    let own = identity(store.root())?;
    // With `userns-remap` the store is in a directory of the root that the daemon was told.
    let inner = store.path().file_name().filter(|name| mapping(name.as_encoded_bytes()).is_some());
    let view = process.root().or_else(|_| Dir::open_root("/".as_ref()))?;
    for root in roots(process, &view)? {
        let Ok(dir) = view.dir_as_seen(&root).or_else(|_| Dir::open_root(root.as_ref())) else { continue };
        if identity(&dir)? == own {
            return Ok(true);
        }
        let inner = inner.map(|name| dir.dir(name.as_encoded_bytes()));
        if inner.is_some_and(|inner| inner.is_ok_and(|inner| identity(&inner).is_ok_and(|found| found == own))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the paths that may be a daemon's data root: the one that it was told, else those that it takes by itself.
fn roots(process: &Process, view: &Dir) -> Result<Vec<String>, FsError> {
    let arguments = process.arguments()?;
    if let Some(root) = argument(&arguments, &["--data-root", "--graph", "-g"]) {
        return Ok(vec![root]);
    }
    let mut defaults = vec![DEFAULT_ROOT.to_owned()];
    let mut files = vec![DAEMON_JSON.to_owned()];
    // A rootless daemon is root only in its own user name space.
    if !process.is_root() {
        let environment = process.environment().unwrap_or_default();
        let value = |name: &str| {
            environment
                .iter()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .filter(|value| !value.is_empty())
        };
        let home = |name: &str, below: &str| value(name).map(|home| format!("{home}{below}"));
        defaults.extend([home("XDG_DATA_HOME", "/docker"), home("HOME", "/.local/share/docker")].into_iter().flatten());
        let config = [home("XDG_CONFIG_HOME", "/docker/daemon.json"), home("HOME", "/.config/docker/daemon.json")];
        files.extend(config.into_iter().flatten());
    }
    if let Some(file) = argument(&arguments, &["--config-file"]) {
        files = vec![file];
    }
    let configured =
        files.iter().filter_map(|file| Configured::parse(&view.read_as_seen(file, DAEMON_JSON_LIMIT).ok()?).root);
    let configured: Vec<String> = configured.map(|root| root.to_string_lossy().into_owned()).collect();
    Ok(if configured.is_empty() { defaults } else { configured })
}

/// Finds the value of an option by any of its names.
fn argument(arguments: &[String], names: &[&str]) -> Option<String> {
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        for name in names {
            match argument.strip_prefix(name) {
                Some("") => return rest.next().cloned(),
                Some(value) if value.starts_with('=') => return Some(value[1..].to_owned()),
                Some(value) if !name.starts_with("--") => return Some(value.to_owned()),
                _ => {}
            }
        }
    }
    None
}

/// Tells whether a daemon has a file of the store open. What is in volumes and in layers belongs to containers, and so
/// does a daemon that runs in one.
fn has_open(process: &Process, store: &Store, names: &Names) -> Result<bool, FsError> {
    let is_ours = |at: &String| {
        let is_in = |part: &str| at.strip_prefix(part).is_some_and(|rest| rest.starts_with('/'));
        !is_in(store.driver().name()) && (!is_in("volumes") || at == "volumes/metadata.db")
    };
    let Some(mounts) = process.mounts()? else { return Ok(false) };
    let mounts: BTreeMap<u64, Mount> = mounts.into_iter().map(|mount| (mount.id, mount)).collect();
    let files = match process.files() {
        // What it was told says it already.
        Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => Vec::new(),
        files => files?,
    };
    for (number, path) in files.into_iter().filter(|(_, path)| path.starts_with('/')) {
        let mount = process.mount_of(&number)?.and_then(|number| mounts.get(&number));
        if mount.is_some_and(|mount| names.seen(mount, &path).iter().any(is_ours)) {
            return Ok(true);
        }
    }
    Ok(false)
}
