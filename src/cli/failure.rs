//! Exit codes, and what to do about an error.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::text::size;
use super::ui::{Ui, quoted};
use crate::driver::{DRIVERS, Driver};
use crate::error::{Error, FsError};
use crate::fsx::link_in;
use crate::store::{databases, nearby, places};

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// It is done.
    Done = 0,
    /// It could not be done.
    Failed = 1,
    /// It was not asked for in the right way.
    Usage = 2,
    /// It is done, and something is damaged.
    Findings = 3,
    /// Something else works on the store.
    InUse = 4,
    /// A signal stopped it; as shells say it of Ctrl-C.
    Stopped = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The library says why.
    Error(Error),
    /// The library says why, of an archive: what an error of a store would hint at is no help.
    OfArchive(Box<Error>, String),
    /// The library says why, of a copy, which has no options of `save` and `load`.
    OfCopy(Error),
    /// Standard output takes no more.
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        Self::Error(error.into())
    }
}

impl Failure {
    /// Tells that it is an archive in which nothing was found.
    pub(super) fn of_archive(self, input: Option<&Path>) -> Self {
        let name = input.map_or_else(|| "FILE".to_owned(), |path| path.display().to_string());
        match self {
            Self::Error(error) => Self::OfArchive(error.into(), if name == "-" { "FILE".to_owned() } else { name }),
            other => other,
        }
    }

    /// Tells that it is of a copy.
    pub(super) fn of_copy(self) -> Self {
        match self {
            // An archive is called as `ls` calls it.
            Self::OfArchive(error, name) if matches!(*error, Error::NoSuchImage { .. }) => Self::OfArchive(error, name),
            Self::OfArchive(error, _) => Self::OfCopy(*error),
            Self::Error(error) => Self::OfCopy(error),
            other => other,
        }
    }

    /// Tells the user, and returns how to exit. Whoever reads standard output no longer knows why.
    pub(super) fn report(&self, ui: &Ui) -> Exit {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Output(error) => {
                ui.fail(&format!("cannot write standard output: {error}"), &[]);
                Exit::Failed
            }
            Self::OfArchive(error, name) if matches!(&**error, Error::NoSuchImage { near, .. } if near.is_empty()) => {
                tell(error, &[format!("`dockpack ls -i {name}` shows what is there")], ui)
            }
            Self::OfCopy(error) => tell(error, &hints_of_copy(error), ui),
            Self::OfArchive(error, _) => tell(error, &hints(error), ui),
            Self::Error(error) => tell(error, &hints(error), ui),
        }
    }
}

/// Says what works with a graph driver whose layers cannot be read.
fn unsupported(driver: &str) -> String {
    let Some(known) = Driver::known(driver) else {
        return format!(
            "Docker's graph drivers are {}; on the store of another, a plugin, ls, inspect, why and graph work",
            DRIVERS.map(Driver::name).join(", ")
        );
    };
    let where_to = match known.outside() {
        Some(outside) => format!("its layers are {outside}"),
        None => "dockpack does not know how it keeps layers".to_owned(),
    };
    format!("{where_to}: ls, inspect, why and graph work on its store; to save images, use docker save")
}

/// Says what there is to do where the system does not permit something.
fn refused(error: &FsError) -> String {
    if !rustix::process::geteuid().is_root() {
        return "Docker's store, and what root has saved of it, belongs to root: try it with sudo".to_owned();
    }
    let text = match error.act {
        "make node" => {
            "marks of removed files are devices: a container needs CAP_MKNOD to make them, and no file system takes them \
             that is an overlay itself; a volume as data root does, or an empty one with --driver vfs"
        }
        "set an extended attribute of" => {
            "marks of removed directories are attributes that no overlay takes, nor a container without CAP_SYS_ADMIN: a \
             volume as data root does, or an empty one with --driver vfs"
        }
        _ => {
            "root is refused too: look for a file that may not be changed (lsattr), for capabilities that a container \
             lacks, or in the log of SELinux or AppArmor"
        }
    };
    text.to_owned()
}

/// Says how what holds the lock of a store is stopped.
fn stop(root: &Path, holder: Option<&str>) -> String {
    let stopped = match holder {
        Some(holder) if !holder.starts_with("dockerd") => return "wait until it has ended, or stop it".to_owned(),
        _ if root.starts_with("/var/snap") => "snap stop docker",
        _ if root.ends_with(".local/share/docker") => "as its user: systemctl --user stop docker.service",
        _ => "systemctl stop docker.socket docker.service",
    };
    format!("stop it first: {stopped}")
}

/// Tells the user, with what there is to do.
fn tell(error: &Error, hints: &[String], ui: &Ui) -> Exit {
    ui.fail(&error.to_string(), hints);
    exit(error)
}

fn exit(error: &Error) -> Exit {
    match error {
        Error::InUse { .. } | Error::LayerInUse { .. } => Exit::InUse,
        Error::Stopped | Error::StoppedRemoval { .. } => Exit::Stopped,
        Error::Usage(_) | Error::SeveralDrivers { .. } | Error::StoreOfTwo { .. } | Error::RemappedRoot { .. } => {
            Exit::Usage
        }
        _ => Exit::Failed,
    }
}

/// Says how a part of a store that an admin has moved is put where dockpack and Docker both find it.
fn instead_of_link(path: &Path) -> Vec<String> {
    let Some(link) = link_in(path) else { return Vec::new() };
    let path = link.to_string_lossy();
    let path = quoted(&path);
    if link.ends_with(".dockpack") {
        return vec![format!("dockpack makes this directory itself, on the disk of what goes into it: rm {path}")];
    }
    vec![format!(
        "no link is followed below the data root; a mount in its place: \
         target=$(readlink -f {path}) && rm {path} && mkdir {path} && mount --bind \"$target\" {path}"
    )]
}

/// Tells whether a text was made of an error for which [`FsError::is_link`] holds.
fn is_of_link(reason: &str) -> bool {
    reason.ends_with(&io::Error::from(rustix::io::Errno::LOOP).to_string())
}

/// Says what a person can do.
fn hints(error: &Error) -> Vec<String> {
    match error {
        Error::Fs(error) if error.source.kind() == io::ErrorKind::PermissionDenied => vec![refused(error)],
        Error::Fs(error) if error.source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            vec!["what only looks works on a file system that is mounted read-only, and so does save; to change it, mount it \
                 to be written".to_owned()]
        }
        Error::NoRoom { root, needs, free, free_inodes: Some(inodes), .. } if free > needs => vec![format!(
            "there are bytes enough, but only {inodes} inodes are free in {}: each file and directory takes one",
            root.display()
        )],
        Error::NoRoom { root, needs, free, .. } => vec![format!(
            "the layers need about {}, and {} are free in {}",
            size(*needs),
            size(*free),
            root.display()
        )],
        Error::Fs(error) if error.is_link() && error.act == "open" => instead_of_link(&error.path),
        Error::Unreadable { path, reason } if is_of_link(reason) => instead_of_link(path),
        Error::Unreadable { path, .. } | Error::Lost { path, .. }
            if path.parent().is_some_and(|at| at.ends_with("buildkit")) => {
            vec![databases::cure("buildkit")]
        }
        Error::Lost { path, .. } if path.ends_with(places::REFERENCES) => vec![
            "--skip untagged-images keeps every image; else bring the file back, or tag the images again".to_owned(),
        ],
        Error::Lost { path, .. } if path.ends_with("containers") => vec![
            "mount it, or bring it back; where the containers are really gone: `dockpack gc --only dead-mounts`"
                .to_owned(),
        ],
        Error::TrashFull { .. } => vec![
            "`dockpack gc -y --purge` deletes what nothing uses where it lies, for good; it needs no room".to_owned(),
        ],
        Error::Lost { .. } => vec!["bring it back from a backup, or load the images again".to_owned()],
        Error::NoStore { root } => match &nearby(root)[..] {
            [] => vec!["--root names another data root; `docker info` says which a daemon has".to_owned()],
            found => found.iter().map(|root| format!("there is one at {0}: --root {0}", root.display())).collect(),
        },
        Error::ContainerdStore { .. } => vec![
            "dockpack reads the stores of graph drivers; `ctr -n moby images export` saves from this one".to_owned(),
        ],
        Error::StoreOfTwo { driver, .. } => vec![
            "`docker info` says which it uses: overlayfs is the storage driver of containerd's store".to_owned(),
            format!("--driver {driver} loads all the same"),
        ],
        Error::SeveralDrivers { drivers, .. } => {
            let choices: Vec<String> = drivers.iter().map(|driver| format!("--driver {driver}")).collect();
            vec![format!("choose one: {}", choices.join(", "))]
        }
        Error::RemappedRoot { root, below } => {
            let first = below.first().map(|name| root.join(name)).unwrap_or_default();
            vec![format!("name the one you mean: --root {}", first.display())]
        }
        Error::NoSuchImage { near, .. } | Error::NoSuchThing { near, .. } => match &near[..] {
            [] => vec!["`dockpack ls -a` shows what is there".to_owned()],
            near => vec![format!("did you mean {}?", near.join(" or "))],
        },
        Error::AmbiguousPrefix { .. } | Error::Ambiguous { .. } => vec!["write more of it".to_owned()],
        Error::Layer { used_by, .. } if !used_by.is_empty() => {
            vec![
                format!("the layer is used by {}", used_by.join(", ")),
                "--partial saves the images that are whole; `dockpack repair --dry-run` shows what can be repaired"
                    .to_owned(),
            ]
        }
        Error::Fs(error) if error.source.kind() == io::ErrorKind::IsADirectory && error.act == "write" => {
            vec!["end it in / to write an unpacked OCI layout into it".to_owned()]
        }
        Error::Fs(error) if error.source.kind() == io::ErrorKind::DirectoryNotEmpty && error.act == "write" => {
            vec!["an OCI layout goes into a directory that is empty, or is not there yet".to_owned()]
        }
        Error::InUse { root, holder } => vec![stop(root, holder.as_deref())],
        Error::LayerInUse { .. } => {
            vec!["containers run on without their daemon: start it, stop them, and stop it again".to_owned()]
        }
        Error::Unfinished(_) => vec!["mend the cause and run it again: it finishes first".to_owned()],
        Error::UnsupportedDriver { driver } => vec![unsupported(driver)],
        Error::UnknownIds { uid, .. } => {
            vec![format!("/etc/subuid and /etc/subgid say it, as `{uid}:100000:65536`, where the store is at home")]
        }
        Error::ReadOnlyDriver { .. } => {
            vec!["its images can be saved; load them into an empty root with --driver overlay2".to_owned()]
        }
        Error::NotMounted { .. } => vec![
            "mount it; of layers that are lost for good, `dockpack repair --from ARCHIVE` builds those that an archive has"
                .to_owned(),
        ],
        Error::Unholdable { used_by, .. } => vec![format!(
            "needed by {}: name the others, or load with --driver vfs, btrfs or overlay",
            used_by.join(", ")
        )],
        Error::TooManyLayers { .. } => vec!["name the images that you want: the others can be loaded".to_owned()],
        Error::Stopped => vec!["nothing is left half done; it can be run again".to_owned()],
        Error::StoppedRemoval { kept: true, .. } => vec![
            "what was moved is in the trash: `dockpack gc --undo` puts it back, `dockpack gc --purge` deletes it"
                .to_owned(),
        ],
        Error::StoppedRemoval { .. } => vec!["`dockpack gc --purge` deletes the rest".to_owned()],
        Error::NewerArchive { .. } => vec!["a newer dockpack reads it; docker load does too".to_owned()],
        _ => Vec::new(),
    }
}

/// Says what a person can do whose stores are named as `copy` names them.
fn hints_of_copy(error: &Error) -> Vec<String> {
    match error {
        Error::Layer { used_by, .. } if !used_by.is_empty() => vec![
            format!(
                "the layer is used by {}: name the images that you want, and the others are copied",
                used_by.join(", ")
            ),
            "`dockpack repair --dry-run` shows what can be repaired".to_owned(),
        ],
        Error::NoStore { root } => match &nearby(root)[..] {
            [] => vec!["`docker info` says which data root a daemon has".to_owned()],
            found => found.iter().map(|root| format!("there is one at {0}: store:{0}", root.display())).collect(),
        },
        Error::StoreOfTwo { driver, .. } => vec![
            "`docker info` says which it uses: overlayfs is the storage driver of containerd's store".to_owned(),
            format!("store:{driver}@ROOT is copied into all the same"),
        ],
        Error::SeveralDrivers { drivers, .. } => {
            let choices: Vec<String> = drivers.iter().map(|driver| format!("store:{driver}@ROOT")).collect();
            vec![format!("choose one: {}", choices.join(", "))]
        }
        Error::RemappedRoot { root, below } => {
            let first = below.first().map(|name| root.join(name)).unwrap_or_default();
            vec![format!("name the one you mean: store:{}", first.display())]
        }
        Error::ReadOnlyDriver { .. } => {
            vec!["its images can be copied into an empty root: store:overlay2@ROOT".to_owned()]
        }
        Error::Unholdable { used_by, .. } => vec![format!(
            "needed by {}: name the others, or copy into store:vfs@ROOT, store:btrfs@ROOT or store:overlay@ROOT",
            used_by.join(", ")
        )],
        Error::TooManyLayers { .. } => vec!["name the images that you want: the others can be copied".to_owned()],
        error => hints(error),
    }
}
