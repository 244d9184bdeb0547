use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;

use super::*;
use crate::driver::DriverDir;
use crate::id::DiffId;
use crate::store::{BrokenLayer, BuildRecord, Container, Image, Layer, Mount, Snapshot, Stray, StrayKind};

fn hash(name: &str) -> crate::id::Sha256 {
    crate::id::Sha256::of(name.as_bytes())
}

fn diff(name: &str) -> DiffId {
    DiffId(hash(name))
}

fn image_id(name: &str) -> ImageId {
    ImageId(hash(name))
}

fn dir(name: &str) -> CacheId {
    CacheId::parse(name.as_bytes()).expect("a name")
}

fn container_id(name: &str) -> ContainerId {
    ContainerId::parse(name.as_bytes()).expect("a name")
}

/// A snapshot written by hand. Layers are named by their diffs; the directory of layer `x` is `dir-x`.
#[derive(Debug, Default)]
struct Store(Snapshot);

impl Store {
    fn layers(mut self, stack: &[&str]) -> Self {
        let diffs: Vec<DiffId> = stack.iter().map(|name| diff(name)).collect();
        let mut parent = None;
        let mut lower: Vec<CacheId> = Vec::new();
        for (chain, name) in ChainId::of_stack(&diffs).into_iter().zip(stack) {
            let cache_id = dir(&format!("dir-{name}"));
            let layer = Layer { parent, diff: diff(name), cache_id: cache_id.clone(), size: 1, has_tar_split: true };
            self.0.layers.insert(chain, layer);
            self.0.driver_dirs.insert(cache_id.clone(), DriverDir { lower: lower.clone(), ..DriverDir::default() });
            lower.insert(0, cache_id);
            parent = Some(chain);
        }
        self
    }

    fn image(mut self, name: &str, stack: &[&str], tags: &[&str], parent: Option<&str>) -> Self {
        let image = Image {
            config: Vec::new(),
            diff_ids: stack.iter().map(|name| diff(name)).collect(),
            created: None,
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            parent: parent.map(image_id),
            last_updated: None,
            built_locally: None,
        };
        self.0.images.insert(image_id(name), image);
        for tag in tags {
            self.0.references.insert((*tag).to_owned(), image_id(name));
        }
        self
    }

    fn container(mut self, name: &str, image: &str, stack: &[&str]) -> Self {
        let container =
            Container { readable: true, name: name.to_owned(), image: Some(image_id(image)), ..Container::default() };
        self.0.containers.insert(container_id(name), container);
        self.mount(name, stack)
    }

    fn mount(mut self, name: &str, stack: &[&str]) -> Self {
        let mount =
            Mount { mount_id: Some(dir(name)), init_id: Some(dir(&format!("{name}-init"))), parent: top(stack) };
        self.0.mounts.insert(container_id(name), mount);
        let mut lower: Vec<CacheId> = stack.iter().rev().map(|name| dir(&format!("dir-{name}"))).collect();
        for id in [dir(&format!("{name}-init")), dir(name)] {
            self.0.driver_dirs.insert(id.clone(), DriverDir { lower: lower.clone(), ..DriverDir::default() });
            lower.insert(0, id);
        }
        self
    }

    fn graph(&self) -> Graph {
        Graph::of(&self.0)
    }
}

fn top(stack: &[&str]) -> Option<ChainId> {
    ChainId::of_stack(&stack.iter().map(|name| diff(name)).collect::<Vec<_>>()).pop()
}

fn place(graph: &Graph, node: Node) -> Id {
    graph.find(&node).expect("the node is there")
}

fn codes(graph: &Graph) -> Vec<&str> {
    graph.findings().iter().map(|finding| finding.code).collect()
}

/// The keepers of a node, as text.
fn kept_by(graph: &Graph, node: Node) -> Vec<String> {
    let roots = graph.roots(Roots::default());
    let keepers = graph.keepers(place(graph, node), &roots);
    keepers
        .iter()
        .map(|keeper| {
            let way: Vec<&str> = keeper.way.iter().map(|(edge, _)| edge.name()).collect();
            format!("{} {} {}", graph.node(keeper.root).kind(), graph.node(keeper.root).short(), way.join(" "))
        })
        .collect()
}

/// Two images on one base, a container on the first, and a layer and a directory that nothing keeps.
fn example() -> Store {
    let mut store = Store::default()
        .layers(&["base", "one"])
        .layers(&["base", "two"])
        .layers(&["base", "lost"])
        .image("one", &["base", "one"], &["one:latest", "one@sha256:00"], None)
        .image("two", &["base", "two"], &["two:latest"], Some("between"))
        .image("between", &["base"], &[], None)
        .container("web", "one", &["base", "one"]);
    store.0.driver_dirs.insert(dir("orphan"), DriverDir::default());
    store
}

#[test]
fn a_whole_store_has_no_findings() {
    assert_eq!(codes(&example().graph()), Vec::<&str>::new());
}

#[test]
fn who_keeps_what() {
    let graph = example().graph();
    assert_eq!(
        kept_by(&graph, Node::Dir(dir("dir-one"))),
        [
            "tag one:latest names top cache-id",
            "digest one@sha256:00 names top cache-id",
            "container web made-from top cache-id",
        ]
    );
    assert_eq!(
        kept_by(&graph, Node::Image(image_id("between"))),
        ["tag two:latest names built-from"],
        "an image that another was built from is kept as docker image prune keeps it"
    );
    assert_eq!(kept_by(&graph, Node::Dir(dir("dir-lost"))), Vec::<String>::new());
    assert_eq!(kept_by(&graph, Node::Dir(dir("orphan"))), Vec::<String>::new());
    let lost = graph.tops(place(&graph, Node::Dir(dir("dir-lost"))));
    assert_eq!(lost.len(), 1);
    assert_eq!(graph.node(lost[0].root), &Node::Layer(top(&["base", "lost"]).expect("a layer")));
}

#[test]
fn untagged_images_stay_only_by_default() {
    let store = Store::default()
        .layers(&["base", "one"])
        .image("old", &["base", "one"], &[], None)
        .image("circle-a", &["base"], &[], Some("circle-b"))
        .image("circle-b", &["base"], &[], Some("circle-a"));
    let graph = store.graph();
    let images = ["old", "circle-a", "circle-b"].map(|name| place(&graph, Node::Image(image_id(name))));
    let reached = graph.reach(&graph.roots(Roots::default()));
    assert!(images.iter().all(|image| reached.has(*image)));
    let strict = Roots { untagged_images: false, ..Roots::default() };
    let reached = graph.reach(&graph.roots(strict));
    assert!(!images.iter().any(|image| reached.has(*image)));
}

#[test]
fn lower_edges_are_not_repeated() {
    let stack: Vec<String> = (0..100).map(|number| format!("layer-{number}")).collect();
    let stack: Vec<&str> = stack.iter().map(String::as_str).collect();
    let mut store = Store::default().layers(&stack);
    let edges = |store: &Store| store.graph().inner.edge_weights().filter(|edge| **edge == Edge::Lower).count();
    assert_eq!(edges(&store), 99);
    // A directory that skips one must name all the rest itself.
    let odd = store.0.driver_dirs.get_mut(&dir("dir-layer-50")).expect("the directory");
    odd.lower.remove(3);
    assert_eq!(edges(&store), 99 - 2 + 49 + 51);
}

#[test]
fn what_is_missing_is_a_node_and_a_finding() {
    let mut store = example();
    store.0.references.insert("gone:1".to_owned(), image_id("gone"));
    store.0.driver_dirs.remove(&dir("dir-two"));
    store.0.driver_dirs.remove(&dir("web"));
    store.0.mounts.get_mut(&container_id("web")).expect("the mount").parent = top(&["nowhere"]);
    store.0.containers.insert(container_id("old"), Container { readable: true, ..Container::default() });
    let graph = store.graph();
    assert_eq!(
        codes(&graph),
        [
            "reference-without-image",
            "container-without-mount",
            "layer-directory-missing",
            "mount-directory-missing",
            "mount-layer-missing",
        ]
    );
    let gone = place(&graph, Node::Image(image_id("gone")));
    assert_eq!(graph.state(gone), &State::Missing);
}

/// Of a broken chain, what is left is kept: an archive may bring back the rest.
#[test]
fn a_broken_chain_keeps_what_is_left() {
    let mut store = Store::default().layers(&["a", "b", "c", "d"]).image("x", &["a", "b", "c", "d"], &["x:1"], None);
    let chains = store.0.images[&image_id("x")].chain_ids();
    for chain in &chains[1..] {
        store.0.layers.remove(chain);
    }
    let broken = BrokenLayer {
        cache_id: Some(dir("dir-c")),
        parent: Some(chains[1]),
        reason: "its diff is missing".to_owned(),
        removing: false,
    };
    store.0.broken_layers.insert(chains[2].hex(), broken);
    let removing = BrokenLayer {
        cache_id: Some(dir("dir-d")),
        parent: None,
        reason: "dockerd was removing it".to_owned(),
        removing: true,
    };
    store.0.broken_layers.insert(format!("{}-{}-removing", chains[3].hex(), chains[3].hex()), removing);
    let graph = store.graph();
    let states: Vec<&State> = chains.iter().map(|chain| graph.state(place(&graph, Node::Layer(*chain)))).collect();
    let broken = State::Broken("its diff is missing".to_owned());
    assert_eq!(states, [&State::Present, &State::Missing, &broken, &State::Missing]);
    assert_eq!(codes(&graph), ["image-layer-missing"]);
    assert!(graph.findings()[0].evidence.contains("and with it 2 above it"), "{:?}", graph.findings());
    assert_eq!(kept_by(&graph, Node::Dir(dir("dir-a"))).len(), 1);
    assert_eq!(kept_by(&graph, Node::Dir(dir("dir-c"))), ["tag x:1 names top parent-layer cache-id"]);
    // dockerd was removing the topmost layer: its directory is garbage, and no layer says otherwise.
    assert_eq!(kept_by(&graph, Node::Dir(dir("dir-d"))), Vec::<String>::new());
}

#[test]
fn mounts_stay_only_with_an_owner() {
    let mut store = Store::default().layers(&["base"]).mount("leaked", &["base"]).mount("image", &["base"]);
    let buildkit = "a".repeat(25);
    store = store.mount(&buildkit, &["base"]);
    store.0.containers.insert(
        container_id("web"),
        Container { readable: true, image_mounts: vec![container_id("image")], ..Container::default() },
    );
    let graph = store.graph();
    let kept = |graph: &Graph, name: &str| {
        let roots = graph.roots(Roots::default());
        graph.reach(&roots).has(place(graph, Node::Mount(container_id(name))))
    };
    assert!(!kept(&graph, "leaked"));
    assert!(kept(&graph, "image") && kept(&graph, &buildkit));
    // What an unreadable container mounts is unknown: every mount stays.
    store.0.containers.insert(container_id("dark"), Container::default());
    assert!(kept(&store.graph(), "leaked"));
}

#[test]
fn build_records_keep_what_they_name() {
    let mut store = Store::default().layers(&["base", "step"]);
    for (name, owned) in [("kept", true), ("leak", false)] {
        store.0.driver_dirs.insert(dir(name), DriverDir { lower: vec![dir("dir-step")], ..DriverDir::default() });
        store.0.build_records.insert(
            name.to_owned(),
            BuildRecord { layers: top(&["base"]).into_iter().collect(), dirs: vec![dir(name)], owned },
        );
    }
    let graph = store.graph();
    let reached = |roots: Roots| {
        let reach = graph.reach(&graph.roots(roots));
        ["kept", "leak", "dir-step", "dir-base"].map(|name| reach.has(place(&graph, Node::Dir(dir(name)))))
    };
    let all = Roots::default();
    assert_eq!(reached(all), [true, true, true, true]);
    assert_eq!(reached(Roots { leaked_build_records: false, ..all }), [true, false, true, true]);
    assert_eq!(reached(Roots { leaked_build_records: false, build_records: false, ..all }), [false; 4]);
}

#[test]
fn what_would_go_with_what() {
    let store = example();
    let graph = store.graph();
    let home = tempfile::tempdir().expect("a temp directory");
    for name in store.0.driver_dirs.keys() {
        std::fs::create_dir(home.path().join(name.as_str())).expect("a directory");
        std::fs::write(home.path().join(name.as_str()).join("file"), [1; 100]).expect("a file");
    }
    std::fs::hard_link(home.path().join("dir-base/file"), home.path().join("dir-two/base")).expect("a link");
    let sizes = Sizes::measure("overlay", home.path(), store.0.driver_dirs.keys(), &());
    let holdings = Holdings::of(&graph, &sizes, &graph.roots(Roots::default()));
    let with = |node: Node| holdings.with(place(&graph, node)).content;
    assert_eq!(with(Node::Tag("two:latest".to_owned())), 100, "the base stays with the other image");
    assert_eq!(with(Node::Tag("one:latest".to_owned())), 0, "the digest and the container keep it");
    assert_eq!(with(Node::Container(container_id("web"))), 200);
    assert_eq!(with(Node::Layer(top(&["base", "lost"]).expect("a layer"))), 100);
    assert_eq!(with(Node::Dir(dir("orphan"))), 100);
    assert_eq!(sizes.union(|_| true).content, 700);
    let images = ["one", "two"].map(|name| place(&graph, Node::Image(image_id(name))));
    let among = Holdings::among(&graph, &sizes, &images);
    assert_eq!(images.map(|image| among.with(image).content), [100, 100], "containers and tags do not count");
}

#[test]
fn exports_say_the_same_every_time() {
    let mut store = example();
    store.0.references.insert("evil\"\n\\#<b>:1".to_owned(), image_id("gone"));
    store.0.strays.push(Stray { kind: StrayKind::WriteSet, path: "tmp/x".to_owned(), cache_id: Some(dir("orphan")) });
    for format in [Format::Dot, Format::Mermaid, Format::Json] {
        let write = || {
            let graph = store.graph();
            let mut out = Vec::new();
            graph.write(format, &graph.roots(Roots::default()), &mut out).expect("writes to memory");
            String::from_utf8(out).expect("text")
        };
        let text = write();
        assert_eq!(text, write());
        insta::assert_snapshot!(format!("{format:?}"), text);
    }
}

/// A random store as numbers: what each number leads to is given by the strategy.
fn random_store() -> impl Strategy<Value = Store> {
    let images = prop::collection::vec((0..12_u8, 0..12_u8, any::<bool>(), 0..3_u8), 0..12);
    let containers = prop::collection::vec((0..14_u8, 0..14_u8), 0..6);
    let dirs = prop::collection::vec((0..30_u8, prop::collection::vec(0..30_u8, 0..3)), 0..30);
    let records = prop::collection::vec((0..14_u8, 0..30_u8, any::<bool>()), 0..6);
    (images, containers, dirs, records).prop_map(|(images, containers, dirs, records)| {
        let mut store = Store::default();
        let stack = |top: u8| -> Vec<String> {
            // A tree of layers: the parent of n is n / 2.
            let mut names: Vec<u8> = std::iter::successors(Some(top), |name| (*name > 0).then_some(name / 2)).collect();
            names.reverse();
            names.iter().map(|name| format!("layer-{name}")).collect()
        };
        for (at, (layer, parent, tagged, references)) in images.into_iter().enumerate() {
            let names = stack(layer);
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            if layer % 5 != 4 {
                store = store.layers(&names);
            }
            let tags: Vec<String> = (0..references).map(|number| format!("t{at}:{number}")).collect();
            let tags: Vec<&str> = if tagged { tags.iter().map(String::as_str).collect() } else { Vec::new() };
            let parent = format!("image-{parent}");
            store = store.image(&format!("image-{at}"), &names, &tags, (layer % 2 == 0).then_some(parent.as_str()));
        }
        for (at, (layer, image)) in containers.into_iter().enumerate() {
            let names = stack(layer);
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let (name, image) = (format!("c{at}"), format!("image-{image}"));
            store = if layer % 3 == 0 { store.mount(&name, &names) } else { store.container(&name, &image, &names) };
        }
        for (at, lower) in dirs {
            let lower = lower.into_iter().map(|at| dir(&format!("extra-{at}"))).collect();
            store.0.driver_dirs.insert(dir(&format!("extra-{at}")), DriverDir { lower, ..DriverDir::default() });
        }
        for (layer, at, owned) in records {
            let names = stack(layer);
            let layers = top(&names.iter().map(String::as_str).collect::<Vec<_>>()).into_iter().collect();
            let record = BuildRecord { layers, dirs: vec![dir(&format!("extra-{at}"))], owned };
            store.0.build_records.insert(format!("record-{at}"), record);
        }
        store
    })
}

/// What stays, found on the snapshot itself by doing the same step until nothing is added.
fn naively_kept(snapshot: &Snapshot, roots: Roots) -> BTreeSet<Node> {
    let mut kept: BTreeSet<Node> = BTreeSet::new();
    kept.extend(snapshot.references.keys().map(|key| build::reference_node(key)));
    kept.extend(snapshot.containers.keys().map(|id| Node::Container(id.clone())));
    let records = snapshot.build_records.iter();
    let wanted =
        records.filter(|(_, record)| if record.owned { roots.build_records } else { roots.leaked_build_records });
    kept.extend(wanted.map(|(key, _)| Node::BuildRecord(key.clone())));
    if roots.untagged_images {
        kept.extend(snapshot.images.keys().map(|id| Node::Image(*id)));
    }
    loop {
        let mut more: BTreeSet<Node> = BTreeSet::new();
        for node in &kept {
            match node {
                Node::Tag(key) | Node::Digest(key) => more.extend([Node::Image(snapshot.references[key])]),
                Node::Container(id) => {
                    more.extend(snapshot.mounts.contains_key(id).then(|| Node::Mount(id.clone())));
                    more.extend(snapshot.containers[id].image.map(Node::Image));
                }
                Node::Image(id) => {
                    if let Some(image) = snapshot.images.get(id) {
                        more.extend(image.parent.map(Node::Image));
                        more.extend(image.chain_ids().into_iter().map(Node::Layer));
                    }
                }
                Node::Mount(id) => {
                    let mount = &snapshot.mounts[id];
                    more.extend(mount.parent.map(Node::Layer));
                    more.extend(mount.mount_id.iter().chain(&mount.init_id).cloned().map(Node::Dir));
                }
                Node::Layer(chain) => {
                    if let Some(layer) = snapshot.layers.get(chain) {
                        more.extend(layer.parent.map(Node::Layer));
                        more.insert(Node::Dir(layer.cache_id.clone()));
                    } else {
                        // Of a layer that is gone, the images still tell what was below.
                        let chains = snapshot.images.values().map(Image::chain_ids);
                        let below =
                            chains.filter_map(|ids| Some(ids[ids.iter().position(|id| id == chain)?.checked_sub(1)?]));
                        more.extend(below.map(Node::Layer));
                    }
                }
                Node::Dir(id) => {
                    let lower = snapshot.driver_dirs.get(id).into_iter().flat_map(|dir| dir.lower.iter().cloned());
                    more.extend(lower.map(Node::Dir));
                }
                Node::BuildRecord(key) => {
                    let record = &snapshot.build_records[key];
                    more.extend(record.layers.iter().copied().map(Node::Layer));
                    more.extend(record.dirs.iter().cloned().map(Node::Dir));
                }
                Node::Stray(_) => {}
            }
        }
        let before = kept.len();
        kept.extend(more);
        if kept.len() == before {
            return kept;
        }
    }
}

proptest! {
    /// The graph keeps exactly what a walk over the snapshot's own maps keeps.
    #[test]
    fn reach_is_what_a_naive_walk_finds(store in random_store(), untagged: bool, owned: bool, leaked: bool) {
        let roots = Roots { untagged_images: untagged, build_records: owned, leaked_build_records: leaked, ..Roots::default() };
        let graph = store.graph();
        let reach = graph.reach(&graph.roots(roots));
        let kept: BTreeSet<Node> = graph.ids().filter(|id| reach.has(*id)).map(|id| graph.node(id).clone()).collect();
        prop_assert_eq!(kept, naively_kept(&store.0, roots));
    }

    /// A node has keepers just when it is reached, and each way leads from the keeper to the node.
    #[test]
    fn keepers_are_those_from_whom_it_is_reached(store in random_store()) {
        let graph = store.graph();
        let roots = graph.roots(Roots::default());
        let reach = graph.reach(&roots);
        for id in graph.ids() {
            let keepers = graph.keepers(id, &roots);
            prop_assert_eq!(reach.has(id), !keepers.is_empty());
            for keeper in keepers {
                let mut at = keeper.root;
                for (edge, to) in keeper.way {
                    prop_assert!(graph.from(at).contains(&(edge, to)));
                    at = to;
                }
                prop_assert_eq!(at, id);
            }
        }
    }

    /// What would go with a node is what is no longer reached when its edges are cut.
    #[test]
    fn dominators_tell_what_would_go(store in random_store()) {
        let graph = store.graph();
        let roots = graph.roots(Roots::default());
        let reach = graph.reach(&roots);
        let weights = vec![Count(1); graph.len()];
        let held = graph.dominated(&roots, &weights, &[]);
        for id in graph.ids().filter(|id| reach.has(*id)) {
            let mut without = graph.clone();
            without.inner.retain_edges(|inner, edge| {
                let (from, to) = inner.edge_endpoints(edge).expect("an edge");
                from != id && to != id
            });
            let left: Vec<Id> = roots.iter().copied().filter(|root| *root != id).collect();
            let after = without.reach(&left);
            let gone: HashSet<Id> = graph.ids().filter(|other| reach.has(*other) && !after.has(*other)).collect();
            prop_assert_eq!(held[id.index()].0, gone.len(), "{}", graph.node(id));
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Count(usize);

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

/// 10,000 images of 40 layers each, 20,000 layers in all. Prints what it takes; a debug build is some ten times
/// slower than a release build, so the bound is wide.
#[test]
#[expect(clippy::print_stderr, reason = "the times are what one wants to see")]
fn a_large_store_takes_no_time() {
    let mut store = Store::default();
    for image in 0..10_000 {
        let base: Vec<String> = (0..38).map(|layer| format!("base-{}-{layer}", image / 5000)).collect();
        let mut stack: Vec<&str> = base.iter().map(String::as_str).collect();
        let own = [format!("own-{image}-1"), format!("own-{image}-2")];
        stack.extend(own.iter().map(String::as_str));
        if image % 5000 == 0 {
            store = store.layers(&stack);
        } else {
            let parent = top(&stack[..38]);
            let first = top(&stack[..39]).expect("a layer");
            let last = top(&stack).expect("a layer");
            for (chain, parent, name) in [(first, parent, &own[0]), (last, Some(first), &own[1])] {
                let cache_id = dir(&format!("dir-{name}"));
                let lower = stack[..38].iter().rev().map(|name| dir(&format!("dir-{name}"))).collect::<Vec<_>>();
                let lower = if chain == last { [vec![dir(&format!("dir-{}", own[0]))], lower].concat() } else { lower };
                store.0.driver_dirs.insert(cache_id.clone(), DriverDir { lower, ..DriverDir::default() });
                let layer = Layer { parent, diff: diff(name), cache_id, size: 1, has_tar_split: true };
                store.0.layers.insert(chain, layer);
            }
        }
        store = store.image(&format!("image-{image}"), &stack, &[&format!("app:{image}")], None);
    }
    let started = std::time::Instant::now();
    let graph = store.graph();
    let built = started.elapsed();
    let roots = graph.roots(Roots::default());
    let reach = graph.reach(&roots);
    let reached = started.elapsed();
    let holdings = Holdings::of(&graph, &Sizes::default(), &roots);
    let held = started.elapsed();
    eprintln!("{} nodes: built {built:?}, reached {reached:?}, dominators {held:?}", graph.len());
    assert_eq!(graph.findings(), []);
    assert!(graph.ids().all(|id| reach.has(id)));
    assert_eq!(holdings.with(roots[0]), Size::default());
    assert!(held.as_secs() < 20, "{held:?}");
}
