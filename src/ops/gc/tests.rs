use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::driver::{DriverDir, USUAL};
use crate::fsx::{Footprint, Kind, Size, Time};
use crate::graph::Graph;
use crate::id::{CacheId, ChainId, ContainerId, DiffId, ImageId, LinkId, Sha256};
use crate::ops::trash::Identity;
use crate::store::{BrokenLayer, BuildRecord, Container, Image, Layer, Mount, Snapshot, Stray, StrayKind};

fn hash(kind: &str, number: u8) -> Sha256 {
    Sha256::of(format!("{kind} {number}").as_bytes())
}

fn image_id(number: u8) -> ImageId {
    ImageId(hash("image", number))
}

fn diff(number: u8) -> DiffId {
    DiffId(hash("diff", number))
}

/// A name as engines draw it, which stands for one that can be read.
fn drawn(name: &str) -> String {
    let (name, init) = name.strip_suffix("-init").map_or((name, ""), |name| (name, "-init"));
    format!("{}{init}", Sha256::of(name.as_bytes()).hex())
}

fn cache(name: &str) -> CacheId {
    CacheId::parse(drawn(name).as_bytes()).expect("a name")
}

fn container_id(name: &str) -> ContainerId {
    ContainerId::parse(drawn(name).as_bytes()).expect("a name")
}

/// The stack of layer `top`: the one below `n` is `n / 2`.
fn stack(top: u8) -> Vec<DiffId> {
    let mut numbers: Vec<u8> = std::iter::successors(Some(top), |n| (*n > 0).then_some(n / 2)).collect();
    numbers.reverse();
    numbers.into_iter().map(diff).collect()
}

fn chain(top: u8) -> ChainId {
    *ChainId::of_stack(&stack(top)).last().expect("because a stack has a layer")
}

/// How a layer is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Whole,
    Broken,
    Missing,
    Removing,
}

#[derive(Debug, Clone)]
struct Case {
    snapshot: Snapshot2,
}

/// A snapshot can be neither cloned nor printed in a few lines: what it is made of can.
#[derive(Debug, Clone)]
struct Snapshot2 {
    layers: BTreeMap<u8, (Shape, bool)>,
    images: Vec<(u8, Option<u8>, bool)>,
    containers: Vec<(u8, u8, u8)>,
    records: Vec<(u8, u8, bool)>,
    dirs: Vec<(u8, Vec<u8>)>,
    write_sets: Vec<Option<u8>>,
    /// Directories of layers that are stacked on another directory, as `lower` says.
    lower: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = prop_oneof![
        8 => Just(Shape::Whole),
        1 => Just(Shape::Broken),
        1 => Just(Shape::Missing),
        1 => Just(Shape::Removing)
    ];
    let layers = prop::collection::btree_map(0..16_u8, (shape, any::<bool>()), 0..16);
    let images = prop::collection::vec((0..16_u8, prop::option::of(0..8_u8), any::<bool>()), 0..8);
    let containers = prop::collection::vec((0..16_u8, 0..10_u8, 0..6_u8), 0..6);
    let records = prop::collection::vec((0..16_u8, 0..12_u8, any::<bool>()), 0..4);
    let dirs = prop::collection::vec((0..12_u8, prop::collection::vec(0..12_u8, 0..3)), 0..12);
    let write_sets = prop::collection::vec(prop::option::of(0..12_u8), 0..3);
    (layers, images, containers, records, dirs, write_sets, any::<bool>()).prop_map(
        |(layers, images, containers, records, dirs, write_sets, lower)| Case {
            snapshot: Snapshot2 { layers, images, containers, records, dirs, write_sets, lower },
        },
    )
}

impl Case {
    fn snapshot(&self) -> Snapshot {
        let mut s = Snapshot::default();
        let Snapshot2 { layers, images, containers, records, dirs, write_sets, lower } = &self.snapshot;
        for (number, below) in dirs {
            let lower = below.iter().map(|below| cache(&format!("extra-{below}"))).collect();
            let names = vec![LinkId::parse(format!("EXTRA{number}").as_bytes()).expect("a name")];
            s.driver_dirs.insert(cache(&format!("extra-{number}")), DriverDir { lower, names, ..DriverDir::default() });
        }
        for (number, (shape, has_dir)) in layers {
            let id = cache(&format!("layer-{number}"));
            let parent = (*number > 0).then(|| chain(number / 2));
            let loads = |n: u8| layers.get(&n).is_some_and(|(shape, _)| *shape == Shape::Whole);
            let all_below = std::iter::successors(Some(*number), |n| (*n > 0).then_some(n / 2)).all(loads);
            if *has_dir {
                let below =
                    if *lower && *number > 0 { vec![cache(&format!("layer-{}", number / 2))] } else { Vec::new() };
                s.driver_dirs.insert(id.clone(), DriverDir { lower: below, ..DriverDir::default() });
            }
            let broken =
                |removing| BrokenLayer { cache_id: Some(id.clone()), parent, reason: "x".to_owned(), removing };
            match shape {
                Shape::Whole if all_below => {
                    let layer = Layer { parent, diff: diff(*number), cache_id: id, size: 1, has_tar_split: true };
                    s.layers.insert(chain(*number), layer);
                }
                Shape::Whole | Shape::Broken => {
                    s.broken_layers.insert(chain(*number).hex(), broken(false));
                }
                Shape::Removing => {
                    let name = format!("{}-{}-removing", chain(*number).hex(), "0".repeat(64));
                    s.broken_layers.insert(name, broken(true));
                }
                Shape::Missing => {}
            }
        }
        for (at, (top, parent, tagged)) in images.iter().enumerate() {
            let at = u8::try_from(at).expect("few");
            let image = Image {
                config: Vec::new(),
                diff_ids: stack(*top),
                created: None,
                architecture: String::new(),
                os: String::new(),
                parent: parent.map(image_id),
                last_updated: Some(b"2020-01-01T00:00:00Z".to_vec()),
                built_locally: None,
            };
            s.images.insert(image_id(at), image);
            if *tagged {
                s.references.insert(format!("tag:{at}"), image_id(at));
            }
        }
        for (at, (top, image, form)) in containers.iter().enumerate() {
            let name = format!("c{at}");
            let id = container_id(&name);
            // 0, 1: a container; 2: only its mount; 3: no configuration, never run; 4: only its directory; 5: a container
            // that mounts another image.
            if *form != 2 {
                let missing = matches!(form, 3 | 4);
                let image = Some(image_id(*image)).filter(|_| !missing);
                let mounted = container_id(&format!("image-mount-{at}"));
                let image_mounts: Vec<_> = (*form == 5).then_some(mounted).into_iter().collect();
                for id in &image_mounts {
                    let mount_id = cache(&format!("{name}-image"));
                    s.driver_dirs.insert(mount_id.clone(), DriverDir::default());
                    let parent = Some(chain(*top / 3));
                    s.mounts.insert(id.clone(), Mount { mount_id: Some(mount_id), init_id: None, parent });
                }
                let readable = !missing;
                let container =
                    Container { readable, config_missing: missing, image, image_mounts, ..Container::default() };
                s.containers.insert(id.clone(), container);
            }
            if *form != 4 {
                let (mount_id, init_id) = (cache(&name), cache(&format!("{name}-init")));
                for id in [&mount_id, &init_id] {
                    s.driver_dirs.insert(id.clone(), DriverDir::default());
                }
                let parent = Some(chain(*top));
                s.mounts.insert(id, Mount { mount_id: Some(mount_id), init_id: Some(init_id), parent });
            }
        }
        for (at, (layer, dir, owned)) in records.iter().enumerate() {
            let layers = if *owned { vec![chain(*layer)] } else { Vec::new() };
            let record = BuildRecord {
                layers,
                dirs: vec![cache(&format!("extra-{dir}"))],
                owned: *owned,
                ..BuildRecord::default()
            };
            s.build_records.insert(format!("record-{at}"), record);
        }
        for (at, dir) in write_sets.iter().enumerate() {
            let path = format!("image/overlay2/layerdb/tmp/write-set-{at}");
            let cache_id = dir.map(|dir| cache(&format!("extra-{dir}")));
            s.strays.push(Stray { kind: StrayKind::WriteSet, path, cache_id });
        }
        s
    }
}

/// Every path that a store of these snapshots has, and what it is.
fn survey(snapshot: &Snapshot) -> Survey {
    let mut survey = Survey::default();
    let graph = Graph::of(snapshot);
    let candidates = Candidates::find(snapshot, &graph, USUAL);
    for (at, path) in candidates.paths_to_survey(&[]).into_iter().enumerate() {
        let target = path
            .strip_prefix("overlay2/l/EXTRA")
            .map(|number| format!("../{}/diff", drawn(&format!("extra-{number}"))));
        let kind = match () {
            () if target.is_some() => Kind::Symlink,
            () if path.contains("/imagedb/content/") => Kind::File,
            () => Kind::Directory,
        };
        let modified = Time { seconds: 1000, nanos: 0 };
        let identity = Identity { kind, inode: at as u64, subvolume: None, modified, target };
        let footprint = Footprint { alone: Size { disk: 1, content: 0, inodes: 1 }, ..Footprint::default() };
        survey.facts.insert(path, Facts { identity, footprint });
    }
    survey
}

fn planned(snapshot: &Snapshot, options: &Options) -> BTreeSet<String> {
    let graph = Graph::of(snapshot);
    let candidates = Candidates::find(snapshot, &graph, USUAL);
    let plan = GcPlan::new(&candidates, &survey(snapshot), Vec::new(), options);
    let paths: Vec<String> = plan.parts().map(|part| part.path.clone()).collect();
    let unique: BTreeSet<String> = paths.iter().cloned().collect();
    assert_eq!(paths.len(), unique.len(), "a path twice");
    unique
}

/// What must stay, found by repeating one step on the snapshot's own maps until nothing is added. Written apart from
/// the graph: it knows only of names.
fn naively_kept(s: &Snapshot) -> BTreeSet<String> {
    let mut kept: BTreeSet<String> = s.references.values().map(|id| format!("image {}", id.hex())).collect();
    for (id, container) in &s.containers {
        if container.config_missing {
            continue;
        }
        kept.insert(format!("container {id}"));
    }
    for record in s.build_records.values() {
        kept.extend(record.layers.iter().filter(|_| record.owned).map(|layer| format!("layer {}", layer.hex())));
        // What BuildKit leaked is only taken where it is asked for.
        kept.extend(record.dirs.iter().map(|dir| format!("dir {dir}")));
    }
    loop {
        let mut more = BTreeSet::new();
        for (id, image) in s.images.iter().filter(|(id, _)| kept.contains(&format!("image {}", id.hex()))) {
            let _ = id;
            more.extend(image.parent.map(|parent| format!("image {}", parent.hex())));
            more.extend(ChainId::of_stack(&image.diff_ids).into_iter().map(|chain| format!("layer {}", chain.hex())));
        }
        for (id, container) in s.containers.iter().filter(|(id, _)| kept.contains(&format!("container {id}"))) {
            more.insert(format!("mount {id}"));
            more.extend(container.image_mounts.iter().map(|id| format!("mount {id}")));
            more.extend(container.image.map(|image| format!("image {}", image.hex())));
        }
        for (id, mount) in s.mounts.iter().filter(|(id, _)| kept.contains(&format!("mount {id}"))) {
            let _ = id;
            more.extend([&mount.mount_id, &mount.init_id].into_iter().flatten().map(|dir| format!("dir {dir}")));
            more.extend(mount.parent.map(|parent| format!("layer {}", parent.hex())));
        }
        for (chain, layer) in s.layers.iter().filter(|(chain, _)| kept.contains(&format!("layer {}", chain.hex()))) {
            let _ = chain;
            more.insert(format!("dir {}", layer.cache_id));
            more.extend(layer.parent.map(|parent| format!("layer {}", parent.hex())));
        }
        for (name, layer) in s.broken_layers.iter().filter(|(name, _)| kept.contains(&format!("layer {name}"))) {
            let _ = name;
            more.extend(layer.cache_id.iter().map(|dir| format!("dir {dir}")));
            more.extend(layer.parent.map(|parent| format!("layer {}", parent.hex())));
        }
        for (id, dir) in s.driver_dirs.iter().filter(|(id, _)| kept.contains(&format!("dir {id}"))) {
            let _ = id;
            more.extend(dir.lower.iter().map(|lower| format!("dir {lower}")));
        }
        // Of a layer that is gone, the images still tell what was below.
        let is_there = |chain: &ChainId| s.layers.contains_key(chain) || s.broken_layers.contains_key(&chain.hex());
        for chains in s.images.values().map(Image::chain_ids) {
            let pairs = chains.windows(2).filter(|pair| !is_there(&pair[1]));
            let below = pairs.filter(|pair| kept.contains(&format!("layer {}", pair[1].hex())));
            more.extend(below.map(|pair| format!("layer {}", pair[0].hex())));
        }
        let before = kept.len();
        kept.extend(more);
        if kept.len() == before {
            return kept;
        }
    }
}

/// Every path there is, with the name that the naive walk has for it.
fn everything(s: &Snapshot) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for id in s.images.keys() {
        for part in ["content", "metadata"] {
            let path = format!("image/overlay2/imagedb/{part}/sha256/{}", id.hex());
            all.push((format!("image {}", id.hex()), path));
        }
    }
    let layers = s.layers.keys().map(ChainId::hex).chain(s.broken_layers.keys().cloned());
    all.extend(layers.map(|name| (format!("layer {name}"), format!("image/overlay2/layerdb/sha256/{name}"))));
    all.extend(s.mounts.keys().map(|id| (format!("mount {id}"), format!("image/overlay2/layerdb/mounts/{id}"))));
    all.extend(s.containers.keys().map(|id| (format!("container {id}"), format!("containers/{id}"))));
    for (id, dir) in &s.driver_dirs {
        all.push((format!("dir {id}"), format!("overlay2/{id}")));
        all.extend(dir.names.iter().map(|name| (format!("dir {id}"), format!("overlay2/l/{name}"))));
    }
    all.extend(s.strays.iter().map(|stray| ("stray".to_owned(), stray.path.clone())));
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases_wanted(3000), failure_persistence: None, ..ProptestConfig::default() })]

    /// A plan is what a naive walk does not reach: nothing else, and nothing less.
    #[test]
    fn a_plan_is_what_a_naive_walk_does_not_reach(case in cases()) {
        let snapshot = case.snapshot();
        let kept = naively_kept(&snapshot);
        let all = everything(&snapshot).into_iter();
        let garbage: BTreeSet<String> = all.filter(|(name, _)| !kept.contains(name)).map(|(_, path)| path).collect();
        prop_assert_eq!(planned(&snapshot, &Options::default()), garbage);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases_wanted(1000), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is left out of a plan keeps all that it needs, and every record its directories.
    #[test]
    fn what_is_skipped_keeps_what_it_needs(case in cases(), skip in prop::collection::btree_set(0..16_usize, 0..8)) {
        let snapshot = case.snapshot();
        let skip = skip.into_iter().map(|at| GcKind::ALL[at]).collect();
        let options = Options { skip, ..Options::default() };
        let gone = planned(&snapshot, &options);
        prop_assert!(gone.is_subset(&planned(&snapshot, &Options::default())));
        let is_gone = |path: String| gone.contains(&path);
        for (chain, layer) in &snapshot.layers {
            if !is_gone(format!("image/overlay2/layerdb/sha256/{}", chain.hex())) {
                let path = format!("overlay2/{}", layer.cache_id);
                    prop_assert!(!is_gone(path));
                let parent = layer.parent.map(|parent| format!("image/overlay2/layerdb/sha256/{}", parent.hex()));
                prop_assert!(!parent.is_some_and(is_gone));
            }
        }
        for (id, image) in &snapshot.images {
            if !is_gone(format!("image/overlay2/imagedb/content/sha256/{}", id.hex())) {
                for chain in image.chain_ids() {
                    let path = format!("image/overlay2/layerdb/sha256/{}", chain.hex());
                    prop_assert!(!is_gone(path));
                }
            }
        }
        for (id, mount) in &snapshot.mounts {
            if !is_gone(format!("image/overlay2/layerdb/mounts/{id}")) {
                for dir in [&mount.mount_id, &mount.init_id].into_iter().flatten() {
                    let path = format!("overlay2/{dir}");
                    prop_assert!(!is_gone(path));
                }
                let parent = mount.parent.map(|parent| format!("image/overlay2/layerdb/sha256/{}", parent.hex()));
                prop_assert!(!parent.is_some_and(is_gone));
            }
        }
        for (id, dir) in &snapshot.driver_dirs {
            if !is_gone(format!("overlay2/{id}")) {
                for lower in &dir.lower {
                    let path = format!("overlay2/{lower}");
                    prop_assert!(!is_gone(path));
                }
            }
        }
    }

    /// A plan that is checked against the store it was made from is the same plan; after a change it is what both have.
    #[test]
    fn a_plan_checked_again(case in cases(), later in cases()) {
        let (snapshot, later) = (case.snapshot(), later.snapshot());
        let graph = Graph::of(&snapshot);
        let candidates = Candidates::find(&snapshot, &graph, USUAL);
        let plan = GcPlan::new(&candidates, &survey(&snapshot), Vec::new(), &Options::default());
        let (again, skipped) = plan.again(&candidates, &survey(&snapshot), Vec::new());
        prop_assert_eq!(&again.entries, &plan.entries);
        prop_assert!(skipped.is_empty());
        let graph = Graph::of(&later);
        let candidates = Candidates::find(&later, &graph, USUAL);
        let (again, skipped) = plan.again(&candidates, &survey(&later), Vec::new());
        let reached = naively_kept(&later);
        let gone: BTreeSet<&str> = again.parts().map(|part| part.path.as_str()).collect();
        for (_, path) in everything(&later).iter().filter(|(name, _)| reached.contains(name)) {
            prop_assert!(!gone.contains(path.as_str()));
        }
        for part in plan.parts() {
            let is_skipped = skipped.iter().any(|skipped| skipped.path == part.path);
            prop_assert_eq!(gone.contains(part.path.as_str()), !is_skipped);
        }
    }
}

/// `DOCKPACK_GC_CASES` asks for more.
fn cases_wanted(usual: u32) -> u32 {
    std::env::var("DOCKPACK_GC_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
