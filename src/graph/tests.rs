mod properties;

use super::*;
use crate::driver::{Driver, DriverDir, Sizes};
use crate::finding::Code;
use crate::fsx::{Dir, Size};
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

fn codes(graph: &Graph) -> Vec<Code> {
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
    assert_eq!(codes(&example().graph()), []);
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
            Code::ReferenceWithoutImage,
            Code::ContainerWithoutMount,
            Code::LayerDirectoryMissing,
            Code::MountDirectoryMissing,
            Code::MountLayerMissing,
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
    assert_eq!(codes(&graph), [Code::ImageLayerMissing]);
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
            BuildRecord {
                layers: top(&["base"]).into_iter().collect(),
                dirs: vec![dir(name)],
                owned,
                ..BuildRecord::default()
            },
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
    let sizes = Sizes::measure(
        Driver::named("overlay"),
        &Dir::open_root(home.path()).expect("opens"),
        store.0.driver_dirs.keys(),
        &(),
    );
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
