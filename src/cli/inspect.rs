//! `dockpack inspect`.

use std::fmt::Display;

use jiff::Timestamp;

use super::args::InspectArgs;
use super::failure::{Exit, Failure};
use super::run::{Place, find_all};
use super::text;
use super::tree::{BAD, DIM, STRONG, Tree};
use super::ui::Ui;
use crate::graph::{Edge, State};
use crate::ops::inspect::{
    ContainerTrace, DirTrace, Directory, ImageTrace, LayerTrace, Named, OtherTrace, Tie, Trace, View,
};

pub(super) fn inspect(args: &InspectArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let (store, snapshot) = place.look(ui)?;
    let view = View::new(&store, &snapshot);
    let (things, exit) = find_all(&view, &args.things, ui);
    let traces = view.trace(things);
    if ui.json() {
        ui.print_json(&traces)?;
        return Ok(exit);
    }
    let draw = Drawing { ui, now: Timestamp::now(), root: &view.root().display().to_string() };
    ui.print(|out| {
        for (at, trace) in traces.objects.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            draw.trace(trace).write(out)?;
        }
        Ok(())
    })?;
    Ok(exit)
}

/// Draws traces as trees.
struct Drawing<'u> {
    ui: &'u Ui,
    now: Timestamp,
    root: &'u str,
}

impl Drawing<'_> {
    fn clean(&self, text: impl Display) -> String {
        self.ui.clean(&text.to_string()).into_owned()
    }

    fn trace(&self, trace: &Trace) -> Tree {
        match trace {
            Trace::Image(image) => self.image(image),
            Trace::Container(container) => self.container(container),
            Trace::Layer(layer) => self.layer(layer),
            Trace::Dir(dir) => self.dir(dir),
            Trace::Other(other) => self.other(other),
        }
    }

    fn head(&self, kind: &str, name: impl Display) -> Tree {
        Tree::new(format!("{kind} {STRONG}{}{STRONG:#}  {DIM}in {}{DIM:#}", self.clean(name), self.clean(self.root)))
    }

    fn image(&self, image: &ImageTrace) -> Tree {
        let name = image.tags.first().or(image.digests.first()).map_or_else(|| image.id.short(), String::clone);
        let mut tree = self.head("image", name);
        for tag in &image.tags {
            tree.field("tag", self.clean(tag));
        }
        for digest in &image.digests {
            tree.field("digest", self.clean(digest));
        }
        tree.field("ID", image.id.to_string());
        if !image.present {
            tree.field("config", format!("{} {BAD}missing{BAD:#}", self.clean(&image.config)));
        } else {
            tree.field("config", self.clean(&image.config));
            self.configuration(image, &mut tree);
        }
        if let Some(parent) = &image.parent {
            tree.field("parent", parent.to_string());
        }
        for child in &image.children {
            tree.field("child", self.clean(text::named(child)));
        }
        let layers = text::count(image.layers.len(), "layer", "layers");
        let mut stack = Tree::new(format!("{layers}, {}, bottom first", text::size(image.size)));
        for layer in &image.layers {
            stack.push(self.stacked(layer));
        }
        tree.push(stack);
        self.used(&mut tree, &[], &image.containers, &image.build_records);
        tree
    }

    fn configuration(&self, image: &ImageTrace, tree: &mut Tree) {
        if let Some(created) = &image.created {
            tree.field("created", self.clean(text::when(created, self.now)));
        }
        tree.field("platform", self.clean(&image.platform));
        for (name, words) in [("entry", &image.entrypoint), ("command", &image.command)] {
            if !words.is_empty() {
                tree.field(name, self.clean(format!("{words:?}")));
            }
        }
    }

    /// Draws a layer within a chain.
    fn stacked(&self, layer: &LayerTrace) -> Tree {
        let mut line = format!("layer {STRONG}{}{STRONG:#}", layer.chain.short());
        if let Some(bytes) = layer.size {
            line += &format!("  {}", text::size(bytes));
        }
        if let Some(command) = &layer.created_by {
            line += &format!("  {DIM}{}{DIM:#}", self.clean(text::one_line(command)));
        }
        let mut tree = Tree::new(line);
        self.layer_fields(layer, &mut tree);
        tree
    }

    fn layer(&self, layer: &LayerTrace) -> Tree {
        let mut tree = self.head("layer", layer.chain.short());
        if let Some(bytes) = layer.size {
            tree.field("size", text::size(bytes));
        }
        self.layer_fields(layer, &mut tree);
        if let Some(parent) = &layer.parent {
            tree.field("parent", parent.to_string());
        }
        self.used(&mut tree, &layer.images, &layer.containers, &layer.build_records);
        tree
    }

    fn layer_fields(&self, layer: &LayerTrace, tree: &mut Tree) {
        if let Some(diff) = &layer.diff {
            tree.field("diff ID", diff.to_string());
        }
        tree.field("chain ID", layer.chain.to_string());
        let state = match &layer.state {
            State::Present if layer.tar_split => String::new(),
            State::Present => format!(" {BAD}without tar-split.json.gz{BAD:#}"),
            State::Missing => format!(" {BAD}missing{BAD:#}"),
            State::Broken(reason) => format!(" {BAD}dockerd does not take it: {}{BAD:#}", self.clean(reason)),
        };
        tree.field("entry", format!("{}{state}", self.clean(&layer.entry)));
        if let Some(directory) = &layer.directory {
            tree.field("cache-id", directory.id.to_string());
            self.directory("directory", directory, tree);
        }
        for blob in &layer.blobs {
            let from = blob.repository.as_deref().map(|from| format!(" from {from}")).unwrap_or_default();
            tree.field("blob", self.clean(format!("{}{from}", blob.digest)));
        }
    }

    fn directory(&self, name: &str, directory: &Directory, tree: &mut Tree) {
        let state = if directory.present { String::new() } else { format!(" {BAD}missing{BAD:#}") };
        let link = directory.link.as_ref().map(|link| format!("  {DIM}l/{link}{DIM:#}")).unwrap_or_default();
        tree.field(name, format!("{}{link}{state}", self.clean(&directory.path)));
    }

    fn container(&self, container: &ContainerTrace) -> Tree {
        let name = if container.name.is_empty() { container.id.as_str() } else { &container.name };
        let mut tree = self.head("container", name);
        tree.field("ID", container.id.to_string());
        tree.field("state", self.clean(&container.state));
        tree.field("path", self.clean(&container.path));
        if let Some(image) = &container.image {
            let state = if container.image_present { String::new() } else { format!(" {BAD}missing{BAD:#}") };
            let name = image.name.as_deref().map(|name| format!("{name}  ")).unwrap_or_default();
            tree.field("image", format!("{}{state}", self.clean(format!("{name}{}", image.node.id()))));
        }
        match &container.mount {
            None => {
                tree.add(format!("{BAD}no writable layer{BAD:#}"));
            }
            Some(mount) => {
                let mut top = Tree::new("writable layer");
                top.field("entry", self.clean(&mount.entry));
                if let Some(directory) = &mount.directory {
                    self.directory("directory", directory, &mut top);
                }
                if let Some(init) = &mount.init {
                    self.directory("init", init, &mut top);
                }
                tree.push(top);
            }
        }
        let mut stack =
            Tree::new(format!("{} below, bottom first", text::count(container.layers.len(), "layer", "layers")));
        for layer in &container.layers {
            stack.push(self.stacked(layer));
        }
        tree.push(stack);
        tree
    }

    fn dir(&self, dir: &DirTrace) -> Tree {
        let mut tree = self.head("directory", &dir.directory.id);
        self.directory("path", &dir.directory, &mut tree);
        for tie in &dir.named_by {
            tree.field("is", self.clean(format!("{} {}", role(tie.edge), text::named(&tie.named))));
        }
        if dir.named_by.is_empty() {
            tree.add(format!("{BAD}nothing names it{BAD:#}"));
        }
        if !dir.lower.is_empty() {
            let mut stack = Tree::new(format!(
                "stacked on {}, nearest first",
                text::count(dir.lower.len(), "directory", "directories")
            ));
            for lower in &dir.lower {
                self.directory("directory", lower, &mut stack);
            }
            tree.push(stack);
        }
        for link in &dir.lost {
            tree.field("stacked", format!("on l/{link} {BAD}missing{BAD:#}"));
        }
        self.used(&mut tree, &dir.images, &dir.containers, &[]);
        tree
    }

    fn other(&self, other: &OtherTrace) -> Tree {
        let mut tree = self.head(other.what.kind(), other.what.id());
        if let Some(path) = &other.path {
            tree.field("path", self.clean(path));
        }
        let line = |tie: &Tie| {
            let state = if tie.present { String::new() } else { format!(" {BAD}missing{BAD:#}") };
            format!("{}{state}", self.clean(text::named(&tie.named)))
        };
        for tie in &other.from {
            tree.field("from", line(tie));
        }
        for tie in &other.to {
            tree.field("to", line(tie));
        }
        tree
    }

    fn used(&self, tree: &mut Tree, images: &[Named], containers: &[Named], build_records: &[Named]) {
        if images.is_empty() && containers.is_empty() && build_records.is_empty() {
            return;
        }
        let mut used = Tree::new("used by");
        for user in images.iter().chain(containers).chain(build_records) {
            used.add(self.clean(text::named(user)));
        }
        tree.push(used);
    }
}

/// Says what a directory is to what names it.
fn role(edge: Edge) -> &'static str {
    match edge {
        Edge::CacheId => "the directory of",
        Edge::MountId => "the writable layer of",
        Edge::InitId => "the init layer of",
        Edge::Snapshot => "kept for",
        _ => "named by",
    }
}
