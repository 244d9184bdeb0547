//! The graph of random stores against slow ways to the same answers.

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;

use super::*;

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
            let record =
                BuildRecord { layers, dirs: vec![dir(&format!("extra-{at}"))], owned, ..BuildRecord::default() };
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
        let all = Roots::default();
        let roots = Roots { untagged_images: untagged, build_records: owned, leaked_build_records: leaked, ..all };
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
