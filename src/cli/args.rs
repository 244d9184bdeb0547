//! Arguments.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::copy::Spot;
use crate::archive::foreign::Platform;
use crate::ops::gc::GcKind;

/// zstd's level where none is said.
pub(super) const ZSTD_LEVEL: i32 = 3;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  dockpack ls                                what images are there, as docker image ls shows it
  dockpack inspect nginx:alpine              from the tag to the directories of its layers
  dockpack why /var/lib/docker/overlay2/9f…  what keeps this directory on the disk
  dockpack df                                what takes how much, and what of it could go
  dockpack save nginx:alpine -o nginx.tar.zst
  dockpack load -i nginx.tar.zst
  dockpack gc --dry-run                      what nothing needs, and no Docker command finds
  dockpack verify                            prove every byte of the store, name what is damaged
  dockpack repair --from backup.tar.zst      repair it

Exit status: 0 done; 1 failed; 2 wrong usage; 3 something is damaged; 4 a daemon works on the store;
130 stopped by a signal.";

/// Saves, loads, proves, explains and cleans Docker images straight on Docker's on-disk store, without a daemon.
///
/// Commands that only look need no daemon to be stopped, and no lock; they need the right to read the store,
/// which is root's.
#[derive(Debug, Parser)]
#[command(name = "dockpack", version, styles = STYLES, max_term_width = 100, after_help = EXAMPLES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What all commands take.
    #[command(flatten)]
    pub global: Global,
}

/// What all commands take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Docker's data root [default: data-root of /etc/docker/daemon.json, else /var/lib/docker]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Graph driver, where the data root has stores of several, or to make one of (overlay2, vfs, btrfs, …)
    #[arg(long, global = true, value_name = "NAME")]
    pub driver: Option<String>,
    /// Print one JSON document, with a schema number, instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only what was asked for: no notes, no progress; with ls, only IDs
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Tell more: with df, each image; twice: whatever is being worked on
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Use colours: auto (on a terminal, NO_COLOR and CLICOLOR are heeded), always or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    #[arg(hide_possible_values = true, hide_default_value = true)]
    pub color: When,
    /// Show progress on standard error: auto (on a terminal), always or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    #[arg(hide_possible_values = true, hide_default_value = true)]
    pub progress: When,
}

/// When to do something that suits a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal
    Auto,
    /// Also when it goes to a file or a pipe
    Always,
    /// Never
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(alias = "images")]
    Ls(LsArgs),
    Inspect(InspectArgs),
    Why(WhyArgs),
    Graph(GraphArgs),
    Df(DfArgs),
    Save(SaveArgs),
    Load(LoadArgs),
    Copy(CopyArgs),
    Gc(GcArgs),
    Verify(VerifyArgs),
    Repair(RepairArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// List images, of the store or of an archive
///
/// Shows what `docker image ls` shows, newest image first. An image that Docker hides, because another was
/// built from it, is shown with --all. An image whose layers are damaged is shown too, with a note:
/// dockerd drops it without a word.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack ls                      all images
  dockpack ls nginx                all tags of nginx
  dockpack ls 'ghcr.io/*/*' -q     IDs of all images of a host
  dockpack ls -i backup.tar.zst    what an archive holds
  dockpack ls --root /mnt/disk/var/lib/docker")]
pub struct LsArgs {
    /// Show only these: a repository, a reference, a pattern (`me/*:1.*`), or an ID
    #[arg(value_name = "REF")]
    pub refs: Vec<String>,
    /// Show images too that others were built from
    #[arg(short, long)]
    pub all: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// Show whole IDs
    #[arg(long)]
    pub no_trunc: bool,
    /// List an archive instead of the store; - is standard input
    #[arg(short, long, value_name = "ARCHIVE")]
    pub input: Option<PathBuf>,
}

/// Show all that is behind a name: tag, image, layers, directories
///
/// Follows the chain that leads from a tag over the image ID, its configuration, the diff IDs and chain IDs of
/// its layers and their cache-ids to the directories of the graph driver, and shows every file on the way. Marks
/// what is missing. Works from any point of the chain, and for containers.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack inspect nginx:alpine                        an image, by reference
  dockpack inspect 0ae090dba3ab                        by ID, or the beginning of it
  dockpack inspect web                                 a container, by name or ID
  dockpack inspect sha256:9f8566ee5135…                a layer, by chain ID or diff ID
  dockpack inspect /var/lib/docker/overlay2/94cb6c62…  a directory, or any path below it
  dockpack inspect l/ABCDEFGHIJKLMNOPQRSTUVWXYZ        a short name from a mount's options")]
pub struct InspectArgs {
    /// A reference, an ID or its beginning, the name of a container, or a path
    #[arg(value_name = "REF|ID|DIR", required = true)]
    pub things: Vec<String>,
}

/// Say what keeps a directory, layer or image; or that nothing does
///
/// Shows each tag, container and build record that keeps it, and the way from there. What nothing keeps is
/// garbage that no Docker command finds.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack why /var/lib/docker/overlay2/94cb6c62…   whose directory is this
  dockpack why 0ae090dba3ab                         why is this image still there
  du -s /var/lib/docker/overlay2/* | sort -n | tail -5 | cut -f2 | xargs dockpack why")]
pub struct WhyArgs {
    /// A path below the data root, an ID or its beginning, a reference, or the name of a container
    #[arg(value_name = "DIR|ID|CHAIN", required = true)]
    pub things: Vec<String>,
}

/// Write the whole store as a graph
///
/// Nodes are tags, digests, images, layers, containers, mounts, build records and directories. What is missing
/// is dashed, what nothing keeps is red.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack graph | dot -Tsvg > store.svg
  dockpack graph --format mermaid -o store.mmd
  dockpack graph --format json | jq -r '.nodes[] | select(.kind == \"dir\" and (.kept | not)) | .id'")]
pub struct GraphArgs {
    /// How to write it: dot (Graphviz), mermaid or json
    #[arg(long, value_name = "FORMAT", default_value = "dot", hide_possible_values = true)]
    pub format: GraphFormat,
    /// Write to a file; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
}

/// How to write a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GraphFormat {
    /// Graphviz
    Dot,
    /// Mermaid
    Mermaid,
    /// JSON
    Json,
}

/// Show what takes how much, and what of it could go
///
/// Measures every directory of the graph driver: blocks on disk, a file with several names once. Kinds overlap:
/// the layers of an image count under both. RECLAIMABLE is what the disk gains if all that is not active goes.
/// -v shows for each image what other images share with it, and what no other has.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack df
  dockpack df -v
  dockpack df --json | jq '.rows[] | select(.kind == \"unreferenced-directories\").reclaimable.disk'")]
pub struct DfArgs {}

/// Save images to an archive
///
/// Reads the layers straight from their directories and proves each against its diff ID on the way. The archive is
/// an OCI image layout in a tar: docker load, podman load and skopeo read it as it is. A repository without a
/// tag means all its tags; an image named by its ID keeps all its references.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack save nginx:alpine -o nginx.tar.zst          one image
  dockpack save app:1 app:2 app:3 -o app.tar.zst       several: what they share is stored once
  dockpack save --all -o /backup/images.tar.zst        everything
  dockpack save app:3 -o - | ssh host dockpack load    to another host
  dockpack save app:3 -o app.tar.gz                    for docker load of Docker 20.10 and older
  dockpack --root /mnt/var/lib/docker save --all --partial -o rescued.tar.zst
                                                       what is whole on a damaged disk

The name of FILE says how it is compressed: .tar.zst, .tar.gz, .tar; standard output is .tar.zst.
A window of more than 27 is used only where it saves something; zstd wants to be told then: zstd -d
--long=28. Docker since 23, podman and skopeo take up to 29.
A name that ends in / or begins with oci: is a directory, which becomes an OCI image layout.")]
pub struct SaveArgs {
    /// Images: references, IDs, or beginnings of IDs
    #[arg(value_name = "REF", required_unless_present = "all", conflicts_with = "all")]
    pub refs: Vec<String>,
    /// Save every image, tagged or not
    #[arg(long)]
    pub all: bool,
    /// Where to write it; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Prove all layers first, and leave out images of which one is damaged; exit status 3 where any is left out
    #[arg(long)]
    pub partial: bool,
    /// zstd's level, 1 (fast) to 19 (small)
    #[arg(long, value_name = "N", default_value_t = ZSTD_LEVEL, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub level: i32,
    /// Most bytes that repeated content may lie apart, as a power of two; less is used where that does [default: 28]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(20..=29))]
    pub window: Option<u32>,
    /// Threads that compress [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,
}

/// Load images from an archive
///
/// Rebuilds the layers' directories exactly, skips layers that are there, and makes the images visible only when
/// everything is proved. Docker must not run on the store. In an empty directory a new store is made.
///
/// Archives that `docker save`, skopeo, podman, buildah and buildx wrote are loaded as `docker load` would: their layers
/// are unpacked as Docker unpacks them. Such an archive that is compressed or comes from a pipe is kept unpacked on the
/// store's disk until it is loaded.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack load -i images.tar.zst                      all images of the archive
  dockpack load -i images.tar.zst app:3                only this one
  dockpack load -i images.tar.zst --dry-run            what would be done
  docker save app:3 | dockpack load                    what other tools write is read too
  dockpack --root /mnt/disk/var/lib/docker load -i images.tar.zst")]
pub struct LoadArgs {
    /// Load only these: references, IDs, or beginnings of IDs [default: all]
    #[arg(value_name = "REF")]
    pub refs: Vec<String>,
    /// The archive [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Of images for several platforms load this one [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,
    /// Show what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Copy images between stores and archives
///
/// Copying between two stores writes no archive: the layers are read from the directories of one store, verified
/// against their diff IDs, and built in the other. The two may have different storage drivers. Layers that are already
/// present are skipped. With an archive on one side, copy does what save or load does. Docker must be stopped on the
/// store that is written.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack copy store:/var/lib/docker store:/mnt/disk/docker             all images, to another disk
  dockpack copy store:/var/lib/docker store:/mnt/disk/docker app:3       only this one
  dockpack copy store:/var/lib/docker store:vfs@/srv/docker              to another graph driver
  dockpack copy store:/mnt/old/var/lib/docker archive:images.tar.zst     as save --all does
  dockpack copy archive:images.tar.zst store:/var/lib/docker             as load does

FROM and TO are store:ROOT or store:DRIVER@ROOT, archive:FILE, oci:DIR, or - for standard input or
output. An empty ROOT becomes a new store of the same storage driver, or of DRIVER.")]
pub struct CopyArgs {
    /// Where images come from
    #[arg(value_name = "FROM")]
    pub from: Spot,
    /// Where they go
    #[arg(value_name = "TO")]
    pub to: Spot,
    /// Copy only these: references, IDs, or ID prefixes [default: all]
    #[arg(value_name = "REF")]
    pub refs: Vec<String>,
    /// Show what a store would get and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Find what nothing reaches, and remove it
///
/// Docker forgets directories when it is killed, when a removal fails, and by bugs; none of its commands finds them
/// again. This does: it follows every reference, container, mount and build record to all that they need, and what is
/// left is garbage. Shows the plan and asks; Docker must not run when it goes on.
///
/// What is removed goes to a trash on the same disk and stays there for --keep, so that --undo can bring it back; then the
/// next gc deletes it. --purge deletes at once: on a full disk, `gc -y --purge` needs no room. Only what containers wrote
/// goes to the trash even then. Ctrl-C leaves in the trash what has moved; a run that crashed is finished by the next one.
/// What cannot be read, and what depends on it, is kept and reported; where a part of the store is lost or not mounted,
/// nothing is removed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack gc --dry-run                      what would be removed; also beside a running Docker
  dockpack gc                                the same, and asks
  dockpack gc -y --older-than 24h            from a timer, while Docker is stopped; see --keep
  dockpack gc --plan gc.json                 write the plan; look at it; then:
  dockpack gc --apply gc.json                remove what is in it and still garbage
  dockpack gc --undo                         bring back what the last run removed
  dockpack gc --purge                        delete what is in the trash, and so free its space
  dockpack gc -y --purge                     delete at once, for good; works on a full disk

Kinds: untagged-images, image-metadata, unreferenced-layers, broken-layers, removing-layers,
write-sets, dead-mounts, dead-containers, orphan-directories, self-tests, dangling-links,
temp-files, old-temp. Only where --only asks for them: leaked-build-cache, distribution-records,
stale-driver. Where Docker has moved to containerd's image store,
gc --driver overlayfs --only stale-driver removes the store that it used before.

Exit status 1 also means that something was kept that should be looked at.")]
pub struct GcArgs {
    /// Show what would be removed, and remove nothing
    #[arg(long, conflicts_with_all = ["apply", "undo", "purge", "yes"])]
    pub dry_run: bool,
    /// Write the plan to a file as JSON, and remove nothing; - is standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["apply", "undo", "purge", "yes"])]
    pub plan: Option<PathBuf>,
    /// Remove what a plan file says; what has changed or is in use by now is skipped and named
    #[arg(long, value_name = "FILE", conflicts_with_all = ["undo", "older_than", "only", "skip", "also"])]
    pub apply: Option<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// How long what was removed stays in the trash, for --undo; the first gc after that frees its disk space
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
    #[arg(conflicts_with_all = ["undo", "purge"])]
    pub keep: std::time::Duration,
    /// Put back what is in the trash: the last removal, or the one of this name
    #[arg(long, value_name = "TXN", num_args = 0..=1, conflicts_with_all = ["purge", "older_than", "only", "skip"])]
    pub undo: Option<Option<String>>,
    /// Delete what is in the trash, for good; with -y or --apply, also what this run removes, but for what containers wrote
    #[arg(long)]
    pub purge: bool,
    /// Take only what was last written to longer ago (30m, 24h, 7days)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub older_than: Option<std::time::Duration>,
    /// Take only this kind of garbage; may be given several times
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub only: Vec<GcKind>,
    /// Do not take this kind of garbage; may be given several times
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub skip: Vec<GcKind>,
    /// Remove this too, a path below the data root, although no engine gives such a name; may be given several times
    #[arg(long, value_name = "PATH")]
    pub also: Vec<String>,
}

/// Prove a store or an archive bit by bit, and name what is damaged
///
/// Proves each image's configuration and each layer against their digests, each file of a layer against the headers of
/// the layer's tar, and everything that Docker keeps around them. Says of each thing that is damaged what is wrong
/// with it, which file in it, and which images and containers break by it. Exits with 3 where anything is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack verify                      the whole store
  dockpack verify nginx:alpine         one image with all its layers
  dockpack verify --quick              how things are tied together; no file of a layer is read
  dockpack verify -i backup.tar.zst    an archive
  dockpack verify -i b.tar.zst app:3   one image of it: only what it needs is read
  dockpack verify --json | jq -r '.findings[].breaks[].images[].references[]' | sort -u")]
pub struct VerifyArgs {
    /// Verify only these images: references, IDs, or beginnings of IDs [default: everything]
    #[arg(value_name = "REF")]
    pub refs: Vec<String>,
    /// Look only at how things are tied together, and at no file of a layer
    #[arg(long, conflicts_with = "input")]
    pub quick: bool,
    /// Verify an archive instead of the store; - is standard input
    #[arg(short, long, value_name = "ARCHIVE")]
    pub input: Option<PathBuf>,
}

/// Repair damage found by verify
///
/// Verifies the store, shows what can be repaired and what cannot, and asks; Docker must not run. What the rest of the
/// store says is rewritten: entries of layerdb, short names, parents, repositories.json. Modes, owners, times and extended
/// attributes come back from the headers of the layers' tars. What is lost comes from --from: configurations, and whole
/// layers, which are rebuilt in place, so that all images and containers that depend on them work again. An image of which
/// the configuration and all names are gone comes back, with the names that it has there, where the layers of the store
/// still tell of it: its topmost one is whole, with all below, and belongs to no other image, container or build. What the
/// store tells of no more is no damage: `dockpack load` brings it.
///
/// Everything is verified before it replaces what was there, and once more afterwards. What was there stays in the trash:
/// --undo brings it back, `dockpack gc --purge` deletes it. An interrupted run is finished by the next one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack repair --dry-run                        what would be done, and what is needed for the rest
  dockpack repair                                  the same, and asks
  dockpack repair --from backup.tar.zst            with an archive that dockpack save, docker save or skopeo wrote
  dockpack repair --from /mnt/disk/var/lib/docker  with the store of another host
  dockpack repair --undo                           as it was before

Exit status 3 means that something is still damaged.")]
pub struct RepairArgs {
    /// Show what would be done, and change nothing
    #[arg(long, conflicts_with_all = ["undo", "yes"])]
    pub dry_run: bool,
    /// Take layers, configurations and names from an archive or from another store's data root
    #[arg(long, value_name = "ARCHIVE|DIR", conflicts_with = "undo")]
    pub from: Option<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Put back what was there: before the last repair, or the one of this name
    #[arg(long, value_name = "TXN", num_args = 0..=1)]
    pub undo: Option<Option<String>>,
}

/// Print shell completions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack completions bash > /usr/share/bash-completion/completions/dockpack
  dockpack completions zsh > /usr/share/zsh/vendor-completions/_dockpack
  dockpack completions fish > /usr/share/fish/vendor_completions.d/dockpack.fish")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Print a manual page
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dockpack man | man -l -
  dockpack man save > dockpack-save.1")]
pub struct ManArgs {
    /// The command that the page is about [default: dockpack itself]
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}
