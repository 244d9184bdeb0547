//! `dockpack why`.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::args::WhyArgs;
use super::failure::{Exit, Failure};
use super::run::{Place, find_all};
use super::text;
use super::tree::{BAD, DIM, STRONG};
use super::ui::Ui;
use crate::finding::Code;
use crate::graph::{Edge, Node, State};
use crate::ops::inspect::{Answer, KeptBy, Named, View};

pub(super) fn why(args: &WhyArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let (store, snapshot) = place.look(ui)?;
    let view = View::new(&store, &snapshot);
    let (things, exit) = find_all(&view, &args.things, ui);
    let why = view.why(things);
    if ui.json() {
        ui.print_json(&why)?;
        return Ok(exit);
    }
    ui.print(|out| {
        for (at, answer) in why.answers.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            write_answer(answer, ui, out)?;
        }
        Ok(())
    })?;
    if why.answers.iter().any(|answer| !answer.certain) {
        // What could not be read was said when the store was.
        for unknown in why.unknowns.iter().filter(|unknown| unknown.code != Code::Unreadable) {
            ui.warn(&format!("what {} keeps is unknown: {}", unknown.object, unknown.evidence));
        }
    }
    Ok(exit)
}

fn write_answer(answer: &Answer, ui: &Ui, out: &mut dyn Write) -> io::Result<()> {
    let path = answer.path.as_deref().map(|path| format!("  {DIM}{}{DIM:#}", ui.clean(path))).unwrap_or_default();
    writeln!(out, "{STRONG}{}{STRONG:#}{path}", ui.clean(&text::named(&answer.thing)))?;
    match &answer.state {
        State::Present => {}
        State::Missing => writeln!(out, "  {BAD}is missing{BAD:#}")?,
        State::Broken(reason) => writeln!(out, "  {BAD}dockerd does not take it{BAD:#}: {}", ui.clean(reason))?,
    }
    for keeper in &answer.keepers {
        match keeper.way.is_empty() {
            true => writeln!(out, "  {}", by_itself(&keeper.root.node))?,
            false => writeln!(out, "  kept by {}", ui.clean(&way(keeper, &answer.thing)))?,
        }
    }
    match (answer.kept, answer.certain) {
        (true, _) => {}
        (false, true) => writeln!(out, "  {BAD}nothing keeps it{BAD:#}")?,
        (false, false) => writeln!(out, "  {BAD}nothing that can be read keeps it{BAD:#}")?,
    }
    for named in &answer.named_by {
        writeln!(out, "  named by {}", ui.clean(&way(named, &answer.thing)))?;
    }
    Ok(())
}

/// Says why a thing stays that nothing leads to.
fn by_itself(node: &Node) -> &'static str {
    match node {
        Node::Image(_) => "stays by itself: dockerd keeps images without a reference",
        Node::Container(_) => "stays by itself: it is a container",
        Node::BuildRecord(_) => "stays by itself: BuildKit keeps it",
        Node::Mount(_) => "stays by itself: something uses this writable layer",
        _ => "stays by itself: it is a reference",
    }
}

/// Writes a way in one line. Steps of one kind are counted, and where they lead to is told of the last alone.
fn way(kept: &KeptBy, thing: &Named) -> String {
    let mut line = text::named(&kept.root);
    let mut steps = kept.way.iter().peekable();
    while let Some(step) = steps.next() {
        let mut times = 1;
        let mut last = step;
        while let Some(next) = steps.next_if(|next| next.edge == step.edge) {
            times += 1;
            last = next;
        }
        let to = match last.to.node == thing.node {
            true => "it".to_owned(),
            false => text::named(&Named { node: last.to.node.clone(), name: None }),
        };
        // Writing to a string cannot fail.
        let _ = match times {
            1 => write!(line, " ─{}→ {to}", label(step.edge)),
            _ => write!(line, " ─{} ×{times}→ {to}", label(step.edge)),
        };
    }
    line
}

/// Returns what Docker's files call an edge.
fn label(edge: Edge) -> &'static str {
    match edge {
        Edge::Names => "is",
        Edge::Top => "top layer",
        Edge::BuiltFrom => "built from",
        Edge::ParentLayer => "parent",
        Edge::CacheId => "cache-id",
        Edge::Lower => "lower",
        Edge::Writes => "writes to",
        Edge::MadeFrom => "made from",
        Edge::ImageMount => "mounts",
        Edge::MountParent => "parent",
        Edge::MountId => "mount-id",
        Edge::InitId => "init-id",
        Edge::Snapshot => "snapshot",
        Edge::Marks => "names",
    }
}
