//! The graph as text for other programs. The same graph gives the same bytes.

use std::io::{self, Write};

use serde::Serialize;

use super::{Edge, Graph, Id, Node, Reach, State};

/// A way to write a graph down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Graphviz.
    Dot,
    /// Mermaid, as code hosts draw it.
    Mermaid,
    /// JSON: `{"schema":1,"nodes":[…],"edges":[…]}`.
    Json,
}

#[derive(Serialize)]
struct JsonGraph<'g> {
    schema: u32,
    nodes: Vec<JsonNode<'g>>,
    edges: Vec<JsonEdge>,
}

#[derive(Serialize)]
struct JsonNode<'g> {
    /// What edges name it by.
    key: String,
    #[serde(flatten)]
    node: &'g Node,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'g str>,
    /// Whether it stays by itself.
    root: bool,
    /// Whether a root keeps it.
    kept: bool,
}

#[derive(Serialize)]
struct JsonEdge {
    from: String,
    to: String,
    kind: Edge,
    keeps: bool,
}

impl Graph {
    /// Writes the graph. Nodes that `roots` do not keep are marked.
    ///
    /// # Errors
    /// `out` does not take it.
    pub fn write(&self, format: Format, roots: &[Id], out: &mut dyn Write) -> io::Result<()> {
        let reached = self.reach(roots);
        match format {
            Format::Dot => self.write_dot(&reached, out),
            Format::Mermaid => self.write_mermaid(&reached, out),
            Format::Json => self.write_json(roots, &reached, out),
        }
    }

    /// Returns all nodes sorted by what they are: those that are missing too.
    fn sorted(&self) -> Vec<Id> {
        let mut ids: Vec<Id> = self.ids().collect();
        ids.sort_by(|one, other| self.node(*one).cmp(self.node(*other)));
        ids
    }

    fn write_dot(&self, reached: &Reach, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "digraph store {{")?;
        writeln!(out, "  rankdir=LR;")?;
        writeln!(out, "  node [fontname=\"monospace\", fontsize=10];")?;
        writeln!(out, "  edge [fontname=\"monospace\", fontsize=8];")?;
        for id in self.sorted() {
            let (shape, colour) = match self.node(id) {
                Node::Tag(_) | Node::Digest(_) => ("cds", "lightblue"),
                Node::Container(_) => ("box3d", "palegreen"),
                Node::BuildRecord(_) => ("component", "khaki"),
                Node::Image(_) => ("ellipse", "lightskyblue"),
                Node::Mount(_) => ("house", "honeydew"),
                Node::Layer(_) => ("box", "white"),
                Node::Dir(_) => ("folder", "whitesmoke"),
                Node::Stray(_) => ("note", "mistyrose"),
            };
            let style = match self.state(id) {
                State::Present if reached.has(id) => format!("style=filled, fillcolor={colour}"),
                State::Present => "style=filled, fillcolor=mistyrose, color=red".to_owned(),
                State::Missing => "style=dashed, color=red, fontcolor=red".to_owned(),
                State::Broken(_) => format!("style=\"filled,dashed\", fillcolor={colour}, color=red"),
            };
            let label = format!("{}\\n{}", self.node(id).kind(), escaped(&self.node(id).short()));
            writeln!(out, "  {} [label=\"{label}\", shape={shape}, {style}];", self.quoted(id))?;
        }
        for id in self.sorted() {
            for (edge, to) in self.from(id) {
                let style = match edge {
                    Edge::Marks | Edge::BuiltFrom => ", style=dashed",
                    Edge::Lower => ", style=dotted",
                    _ => "",
                };
                let (from, to) = (self.quoted(id), self.quoted(to));
                writeln!(out, "  {from} -> {to} [label=\"{}\"{style}];", edge.name())?;
            }
        }
        writeln!(out, "}}")
    }

    fn quoted(&self, id: Id) -> String {
        format!("\"{}\"", escaped(&self.key(id)))
    }

    fn write_mermaid(&self, reached: &Reach, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "flowchart LR")?;
        let sorted = self.sorted();
        for id in &sorted {
            let label = format!("{} {}", self.node(*id).kind(), entities(&self.node(*id).short()));
            let (open, close) = match self.node(*id) {
                Node::Tag(_) | Node::Digest(_) => (">", "]"),
                Node::Container(_) | Node::Mount(_) => ("[[", "]]"),
                Node::Image(_) => ("([", "])"),
                Node::Dir(_) => ("[(", ")]"),
                _ => ("[", "]"),
            };
            let class = match self.state(*id) {
                State::Present if reached.has(*id) => "",
                State::Present => ":::unkept",
                State::Missing => ":::missing",
                State::Broken(_) => ":::broken",
            };
            writeln!(out, "  n{}{open}\"{label}\"{close}{class}", id.index())?;
        }
        for id in &sorted {
            for (edge, to) in self.from(*id) {
                let arrow = if matches!(edge, Edge::Marks | Edge::BuiltFrom | Edge::Lower) { "-.->" } else { "-->" };
                writeln!(out, "  n{} {arrow}|{}| n{}", id.index(), edge.name(), to.index())?;
            }
        }
        writeln!(out, "  classDef unkept fill:#fdd,stroke:#d00")?;
        writeln!(out, "  classDef missing stroke:#d00,stroke-dasharray:4,color:#d00")?;
        writeln!(out, "  classDef broken fill:#fed,stroke:#d00,stroke-dasharray:4")
    }

    fn write_json(&self, roots: &[Id], reached: &Reach, out: &mut dyn Write) -> io::Result<()> {
        let mut is_root = vec![false; self.len()];
        for root in roots {
            is_root[root.index()] = true;
        }
        let sorted = self.sorted();
        let node = |id: &Id| JsonNode {
            key: self.key(*id),
            node: self.node(*id),
            state: match self.state(*id) {
                State::Present => "present",
                State::Missing => "missing",
                State::Broken(_) => "broken",
            },
            reason: match self.state(*id) {
                State::Broken(reason) => Some(reason),
                _ => None,
            },
            root: is_root[id.index()],
            kept: reached.has(*id),
        };
        let edges = sorted.iter().flat_map(|id| self.from(*id).into_iter().map(|(edge, to)| (*id, edge, to)));
        let graph = JsonGraph {
            schema: 1,
            nodes: sorted.iter().map(node).collect(),
            edges: edges
                .map(|(from, kind, to)| JsonEdge { from: self.key(from), to: self.key(to), kind, keeps: kind.keeps() })
                .collect(),
        };
        serde_json::to_writer_pretty(&mut *out, &graph)?;
        writeln!(out)
    }

    /// Returns a text that is the node's alone.
    fn key(&self, id: Id) -> String {
        let node = self.node(id);
        format!("{}:{}", node.kind(), node.id())
    }
}

/// Escapes what ends a string in Graphviz. Names are text of the store, so control characters go as well.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => out.extend(letter.escape_unicode().flat_map(|part| match part {
                '\\' => vec!['\\', '\\'],
                part => vec![part],
            })),
            letter => out.push(letter),
        }
    }
    out
}

/// Escapes what ends a string in Mermaid.
fn entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '#' | '&' | '<' | '>' | '`' => out.push_str(&format!("#{};", u32::from(letter))),
            letter if letter.is_control() => out.extend(letter.escape_unicode()),
            letter => out.push(letter),
        }
    }
    out
}
