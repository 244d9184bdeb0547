//! What dockpack says of real stores is what the engines that made them said.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::cli::Lab;

const STORES: [&str; 3] = ["20-overlay", "20-overlay2", "28-overlay2"];

fn expected(store: &str) -> Value {
    let path = format!("{}/fixtures/stores/{store}.expected.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("the description")).expect("JSON")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn texts(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("an array").iter()
}

#[test]
fn images_are_those_that_docker_lists() {
    for store in STORES {
        let lab = Lab::unpack(store);
        let expected = expected(store);
        let rows: BTreeSet<[&str; 4]> = each(&expected["images"])
            .map(|row| ["Repository", "Tag", "Digest", "ID"].map(|column| text(&row[column])))
            .collect();
        let listed = lab.stdout(&["ls", "-a", "--digests", "--no-trunc"]);
        let found: BTreeSet<[&str; 4]> = listed
            .lines()
            .skip(1)
            .map(|line| {
                let mut cells = line.split("   ").map(str::trim).filter(|cell| !cell.is_empty());
                [(); 4].map(|()| cells.next().expect("a cell"))
            })
            .collect();
        assert_eq!(found, rows, "{store}");

        let images = lab.json(&["ls", "-a"]);
        let by_id: BTreeMap<&str, &Value> = each(&images["images"]).map(|image| (text(&image["id"]), image)).collect();
        for (id, inspected) in expected["inspect"].as_object().expect("an object") {
            let image = by_id[id.as_str()];
            assert_eq!(image["size"], inspected["Size"], "{store} {id}");
            assert_eq!(texts(&image["tags"]), texts(&inspected["RepoTags"]), "{store} {id}");
            assert_eq!(texts(&image["digests"]), texts(&inspected["RepoDigests"]), "{store} {id}");
            assert_eq!(text(&image["created"]), text(&inspected["Created"]), "{store} {id}");
            assert_eq!((&image["lost_layers"], &image["lost_directories"]), (&Value::from(0), &Value::from(0)));
        }
        let newest_first = each(&images["images"]).map(|image| text(&image["created"]));
        assert!(newest_first.is_sorted_by(|one, other| one >= other), "{store}");
        assert_eq!(lab.stdout(&["ls", "-q"]).lines().count(), expected["df"]["Images"].as_array().map_or(0, Vec::len));
    }
}

#[test]
fn traces_are_what_docker_inspects() {
    for store in STORES {
        let lab = Lab::unpack(store);
        let expected = expected(store);
        for (id, inspected) in expected["inspect"].as_object().expect("an object") {
            let trace = &lab.json(&["inspect", id])["objects"][0];
            assert_eq!(trace["kind"], "image");
            let layers: Vec<&str> = each(&trace["layers"]).map(|layer| text(&layer["diff"])).collect();
            let docker: Vec<&str> = each(&inspected["RootFS"]["Layers"]).map(text).collect();
            assert_eq!(layers, docker, "{store} {id}");
            assert_eq!(trace["parent"].as_str().unwrap_or(""), inspected["Parent"].as_str().unwrap_or(""));
            assert_eq!(texts(&trace["command"]), texts(&inspected["Config"]["Cmd"]));
            for layer in each(&trace["layers"]) {
                let directory = &layer["directory"];
                assert_eq!(directory["present"], true, "{store} {id}");
                assert!(lab.root().join(text(&directory["path"])).is_dir());
                assert!(lab.root().join(text(&layer["entry"])).join("tar-split.json.gz").is_file());
            }
            assert!(lab.root().join(text(&trace["config"])).is_file());
        }
        for container in each(&expected["containers"]) {
            let trace = &lab.json(&["inspect", text(&container["ID"])])["objects"][0];
            assert_eq!((&trace["kind"], &trace["name"]), (&Value::from("container"), &container["Names"]), "{store}");
            assert_eq!(trace["state"], container["State"]);
            let by_name = &lab.json(&["inspect", &format!("/{}", text(&container["Names"]))])["objects"][0];
            assert_eq!(trace, by_name);
            for part in ["directory", "init"] {
                assert!(lab.root().join(text(&trace["mount"][part]["path"])).is_dir());
            }
        }
    }
}

/// Every short name that a mount's options may say leads to its directory.
#[test]
fn short_names_lead_to_directories() {
    let lab = Lab::unpack("20-overlay2");
    for entry in std::fs::read_dir(lab.root().join("overlay2/l")).expect("the directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("text");
        let target = std::fs::read_link(entry.path()).expect("a link");
        let id = target.iter().nth(1).and_then(|id| id.to_str()).expect("../<id>/diff");
        assert_eq!(lab.json(&["inspect", &format!("l/{name}")])["objects"][0]["id"], id);
    }
}

/// Clean stores hold no garbage: images, containers and BuildKit keep all directories.
#[test]
fn everything_is_kept_by_something() {
    for store in STORES {
        let lab = Lab::unpack(store);
        let graph = lab.json(&["graph"]);
        for node in each(&graph["nodes"]).filter(|node| node["kind"] == "dir") {
            let id = text(&node["id"]);
            assert_eq!(node["state"], "present", "{store} {id}");
            assert_eq!(node["kept"], true, "{store} {id}");
            let why = &lab.json(&["why", id])["answers"][0];
            assert_eq!((&why["kept"], &why["certain"]), (&Value::from(true), &Value::from(true)), "{store} {id}");
        }
    }
}

#[test]
fn usage_counts_what_docker_counts() {
    for store in STORES {
        let lab = Lab::unpack(store);
        let expected = expected(store);
        let usage = lab.json(&["df", "-v"]);
        let docker: BTreeMap<&str, &str> =
            each(&expected["df"]["Images"]).map(|image| (text(&image["ID"]), text(&image["Containers"]))).collect();
        let found: Vec<(&str, String)> =
            each(&usage["images"]).map(|image| (text(&image["id"]), image["containers"].to_string())).collect();
        assert_eq!(found.len(), docker.len(), "{store}");
        for (id, containers) in &found {
            assert_eq!(containers, docker[id], "{store} {id}");
        }
        let row = |at: usize| (usage["rows"][at]["total"].as_u64(), usage["rows"][at]["active"].as_u64());
        let active = docker.values().filter(|containers| **containers != "0").count();
        assert_eq!(row(0), (Some(docker.len() as u64), Some(active as u64)), "{store}");
        assert_eq!(row(1), (expected["containers"].as_array().map(|all| all.len() as u64), Some(0)), "{store}");
        let records = expected["df"]["BuildCache"].as_array().map(|all| all.len() as u64);
        assert!(row(3).0 >= records, "{store}: {:?} {records:?}", row(3));
        assert_eq!(row(4), (Some(0), Some(0)), "{store}");
        let sum = |part: &str| each(&usage["images"]).map(|image| image[part].as_u64().unwrap_or(0)).sum::<u64>();
        assert!(sum("unique") <= usage["rows"][0]["size"]["disk"].as_u64().expect("a number"), "{store}");
        assert!(sum("reclaimable") <= sum("unique"), "{store}");
        let on_disk = du(&lab);
        assert_eq!(usage["total"]["disk"].as_u64(), Some(on_disk), "{store}");
    }
}

/// What `du` says of all directories of the driver together.
fn du(lab: &Lab) -> u64 {
    let home = ["overlay", "overlay2"].map(|driver| lab.root().join(driver)).into_iter().find(|home| home.is_dir());
    let entries = std::fs::read_dir(home.expect("a home")).expect("the directory");
    let dirs = entries.map(|entry| entry.expect("an entry").path()).filter(|path| !path.ends_with("l"));
    let output =
        std::process::Command::new("du").args(["-s", "-c", "--block-size=1"]).args(dirs).output().expect("du runs");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().last().and_then(|line| line.split('\t').next()?.parse().ok()).expect("a total")
}
