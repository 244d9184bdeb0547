//! `dockpack graph`.

use std::io::{BufWriter, Write as _};
use std::path::Path;

use super::args::{GraphArgs, GraphFormat};
use super::failure::{Exit, Failure};
use super::run::Place;
use super::ui::Ui;
use crate::error::Error;
use crate::fsx::OutputFile;
use crate::graph::{Format, Graph, Roots};

pub(super) fn graph(args: &GraphArgs, place: &Place, ui: &Ui) -> Result<Exit, Failure> {
    let format = match args.format {
        _ if ui.json() => Format::Json,
        GraphFormat::Dot => Format::Dot,
        GraphFormat::Mermaid => Format::Mermaid,
        GraphFormat::Json => Format::Json,
    };
    let (_, snapshot) = place.look(ui)?;
    let graph = Graph::of(&snapshot);
    let roots = graph.roots(Roots::default());
    if args.output == Path::new("-") {
        ui.print(|out| graph.write(format, &roots, out))?;
        return Ok(Exit::Done);
    }
    let mut file = OutputFile::create(&args.output)?;
    let mut out = BufWriter::new(&mut file);
    graph
        .write(format, &roots, &mut out)
        .and_then(|()| out.flush())
        .map_err(|source| Error::Output { name: args.output.display().to_string(), source })?;
    drop(out);
    file.publish()?;
    Ok(Exit::Done)
}
