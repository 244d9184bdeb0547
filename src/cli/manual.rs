//! `dockpack completions` and `dockpack man`.

use clap::CommandFactory as _;

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::failure::{Exit, Failure};
use super::ui::Ui;
use crate::error::Error;

pub(super) fn completions(args: &CompletionsArgs, ui: &Ui) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dockpack", &mut text);
    ui.print(|out| out.write_all(&text))?;
    Ok(Exit::Done)
}

pub(super) fn man(args: &ManArgs, ui: &Ui) -> Result<Exit, Failure> {
    let mut program = Cli::command();
    // What the program hands down to its commands stands in their pages too.
    program.build();
    let command = match &args.command {
        None => program,
        Some(name) => {
            let found = program.find_subcommand(name).cloned();
            found.ok_or_else(|| Error::Usage(format!("there is no command {name}")))?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text).map_err(Failure::Output)?;
    ui.print(|out| out.write_all(&text))?;
    Ok(Exit::Done)
}
