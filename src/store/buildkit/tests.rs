use super::*;
use crate::driver::DriverDir;
use crate::id::{DiffId, Sha256};
use crate::store::bolt::tests::real;
use crate::store::{Layer, Snapshot as Store};

fn key(name: &str) -> Key {
    name.as_bytes().to_vec()
}

fn dir(name: &str) -> CacheId {
    CacheId::parse(name.as_bytes()).expect("a name")
}

fn chain(name: &str) -> ChainId {
    ChainId(Sha256::of(name.as_bytes()))
}

/// A store with these driver directories, of which those of `layers` are layers named like them.
fn store(dirs: &[&str], layers: &[&str]) -> Store {
    let driver_dirs = dirs.iter().map(|name| (dir(name), DriverDir::default())).collect();
    let mut store = Store { driver_dirs, ..Store::default() };
    for name in layers {
        let diff = DiffId(Sha256::of(name.as_bytes()));
        let layer = Layer { parent: None, diff, cache_id: dir(name), size: 0, has_tar_split: true };
        store.layers.insert(chain(name), layer);
    }
    store
}

/// BuildKit's records: snapshots as (key, parent, committed, chain), and keys in use.
fn build_kit(snapshots: &[(&str, &str, &str, &str)], kept: &[&str]) -> BuildKit {
    let some = |text: &str| (!text.is_empty()).then(|| key(text));
    let snapshots: BTreeMap<Key, Snapshot> = snapshots
        .iter()
        .map(|(name, parent, committed, of)| {
            let chain = (!of.is_empty()).then(|| chain(of));
            (key(name), Snapshot { parent: some(parent), committed: some(committed), chain })
        })
        .collect();
    let names = snapshots.values().filter_map(|snapshot| snapshot.committed.clone()).collect();
    let kept = kept.iter().map(|name| (key(name), format!("is {name}"))).collect();
    BuildKit { snapshots, names, kept, supposed: HashSet::new() }
}

fn root_with(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temp directory");
    std::fs::create_dir(root.path().join("buildkit")).expect("a directory");
    for (name, bytes) in files {
        std::fs::write(root.path().join("buildkit").join(name), bytes).expect("a file");
    }
    root
}

fn read_root(root: &tempfile::TempDir) -> (BuildKit, Notes) {
    read(&Dir::open_root(root.path()).expect("opens"))
}

#[test]
fn snapshots_that_are_layers_keep_the_layer_alone() {
    let build = build_kit(
        &[("top", "", "dir-top", "dir-top"), ("dir-top", "low", "", ""), ("low", "", "dir-low", "dir-low")],
        &["top"],
    );
    let records = build.records(&store(&["dir-top", "dir-low"], &["dir-top", "dir-low"]));
    let (layers, description) = (vec![chain("dir-top")], "is top".to_owned());
    let expected = BuildRecord { layers, description, owned: true, ..BuildRecord::default() };
    assert_eq!(records.into_iter().collect::<Vec<_>>(), [("top".to_owned(), expected)]);
}

#[test]
fn snapshots_that_are_no_layers_keep_their_directories_down_to_one() {
    let image = chain("image").to_string();
    let build =
        build_kit(&[("top", "", "dir-top", ""), ("dir-top", "mid", "", ""), ("mid", &image, "", "")], &["top", &image]);
    let mut store = store(&["dir-top", "mid", "image"], &["image"]);
    store.driver_dirs.insert(dir("unrelated"), DriverDir::default());
    let records = build.records(&store);
    assert_eq!(records["top"].layers, [chain("image")]);
    assert_eq!(records["top"].dirs, [dir("dir-top"), dir("mid")]);
    assert_eq!(records[&image].layers, [chain("image")]);
    assert_eq!(records.len(), 2);
}

#[test]
fn a_lost_layer_does_not_hide_what_is_below() {
    let build = build_kit(&[("top", "low", "", "lost"), ("low", "", "", "dir-low")], &["top"]);
    let records = build.records(&store(&["top"], &["dir-low"]));
    assert_eq!(records["top"].layers, [chain("lost"), chain("dir-low")]);
    assert_eq!(records["top"].dirs, [dir("top")]);
}

#[test]
fn records_that_share_a_snapshot_have_no_directory_and_lost_ones_are_said() {
    let build = build_kit(&[("lost", "", "dir-lost", "")], &["sharing", "lost"]);
    let records = build.records(&store(&[], &[]));
    assert_eq!(records.keys().collect::<Vec<_>>(), ["lost"]);
    assert_eq!(records["lost"].dirs, [dir("dir-lost")]);
    assert_eq!(records["lost"].lost, [dir("dir-lost")]);
}

/// Of what is kept each directory that BuildKit made must be there; of what is supposed to be kept it may be removed.
#[test]
fn directories_that_are_gone() {
    let snapshots =
        [("top", "low", "", ""), ("low", "image", "", ""), ("image", "", "", "image"), ("there", "", "", "")];
    let mut build = build_kit(&snapshots, &["top", "there", "sharing"]);
    let records = build.records(&store(&["there"], &[]));
    assert_eq!(records.keys().collect::<Vec<_>>(), ["there", "top"]);
    assert_eq!((&records["top"].lost[..], &records["there"].lost[..]), (&[dir("top"), dir("low")][..], &[][..]));
    build.supposed.insert(key("top"));
    assert_eq!(build.records(&store(&["there"], &[])).get("top").map_or(0, |top| top.lost.len()), 0);
}

#[test]
fn what_only_snapshots_db_names_is_leaked_once() {
    let build = build_kit(
        &[
            ("kept", "base", "", ""),
            ("base", "", "", ""),
            ("leak", "", "dir-leak", ""),
            ("dir-leak", "base", "", ""),
            ("stale", "", "layer", "layer"),
            ("gone", "", "", ""),
        ],
        &["kept"],
    );
    let records = build.records(&store(&["kept", "base", "dir-leak", "layer"], &["layer"]));
    assert_eq!(records.keys().collect::<Vec<_>>(), ["kept", "leak"]);
    assert_eq!(records["kept"].dirs, [dir("kept"), dir("base")]);
    assert_eq!(records["leak"], BuildRecord { dirs: vec![dir("dir-leak")], ..BuildRecord::default() });
}

#[test]
fn snapshots_that_are_their_own_ancestors_end() {
    let build = build_kit(&[("a", "b", "", ""), ("b", "a", "", "")], &["a", "b"]);
    assert_eq!(build.records(&store(&["a", "b"], &[]))["a"].dirs, [dir("a"), dir("b")]);
}

#[test]
fn databases_of_real_daemons() {
    for (engine, leases, records, snapshots) in [("20.10.24", 8, 11, 12), ("28.5.2", 8, 8, 24)] {
        let file = |name: &str| real(&format!("{engine}-{name}"));
        let count = |bytes: &[u8]| bolt::read(bytes, parse_leases).expect("reads").len();
        assert_eq!(count(&file("containerdmeta")), leases, "{engine}");
        assert_eq!(bolt::read(&file("metadata_v2")[..], parse_records).expect("reads").len(), records, "{engine}");
        assert_eq!(bolt::read(&file("snapshots")[..], parse_snapshots).expect("reads").len(), snapshots, "{engine}");
    }
}

#[test]
fn without_leases_every_snapshot_is_in_use() {
    for leases in [None, Some(("containerdmeta.db", vec![]))] {
        let files: Vec<_> = [("snapshots.db", real("20.10.24-snapshots"))].into_iter().chain(leases).collect();
        let (build, notes) = read_root(&root_with(&files));
        assert!(build.kept.keys().eq(build.snapshots.keys()));
        assert!(notes.unreadable.is_empty());
    }
}

#[test]
fn what_cannot_be_read_is_said() {
    let metadata = || ("metadata_v2.db", real("20.10.24-metadata_v2"));
    for (snapshots, code) in [
        (Some(("snapshots.db", vec![1; 9000])), Code::BuildkitUnreadable),
        (Some(("snapshots.db", Vec::new())), Code::BuildCacheLost),
        (None, Code::BuildCacheLost),
    ] {
        let files: Vec<_> = [metadata()].into_iter().chain(snapshots).collect();
        let (_, notes) = read_root(&root_with(&files));
        let codes: Vec<_> = notes.findings.iter().map(|found| found.code).collect();
        assert_eq!(codes, [code]);
        let unreadable: Vec<_> = notes.unreadable.iter().map(|u| (u.what, u.path.as_str())).collect();
        assert_eq!(unreadable, [(Unknown::BuildKit, "buildkit/snapshots.db")]);
    }
    let root = tempfile::tempdir().expect("a temp directory");
    assert!(read_root(&root).1.unreadable.is_empty());
}
