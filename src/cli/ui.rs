//! Where a command's words go: data to standard output, all else to standard error.

use std::borrow::Cow;
use std::io::{self, BufRead as _, BufWriter, IsTerminal as _, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::args::{Global, When};
use super::bars::{Bars, Draw};
use super::failure::Failure;
use super::sanitize::sanitized;
use crate::error::Error;
use crate::progress::Observer;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const DONE: Style = AnsiColor::Green.on_default().bold();
const NOTE: Style = AnsiColor::Cyan.on_default().bold();

/// What a command talks through.
#[derive(Debug)]
pub(super) struct Ui {
    json: bool,
    quiet: bool,
    verbose: bool,
    colour: ColorChoice,
    bars: Bars,
    /// What the user said of the store, as options: commands that are told of are for the same.
    store: String,
}

impl Ui {
    /// Prepares to talk as the user asked for.
    pub(super) fn new(global: &Global) -> Self {
        let colour = match global.color {
            When::Auto => ColorChoice::Auto,
            When::Always => ColorChoice::Always,
            When::Never => ColorChoice::Never,
        };
        let draw = match global.progress {
            _ if global.json || global.quiet => Draw::Nothing,
            When::Never => Draw::Nothing,
            When::Auto | When::Always if io::stderr().is_terminal() => Draw::Bars,
            When::Auto => Draw::Nothing,
            When::Always => Draw::Lines,
        };
        let bars = Bars::new(draw, global.verbose > 1, colour);
        let root = global.root.as_ref().map(|root| format!("--root {} ", quoted(&root.to_string_lossy())));
        let driver = global.driver.as_ref().map(|driver| format!("--driver {} ", quoted(driver)));
        let store = [root, driver].into_iter().flatten().collect();
        Self { json: global.json, quiet: global.quiet, verbose: global.verbose > 0, colour, bars, store }
    }

    /// Tells whether a JSON document was asked for.
    pub(super) fn json(&self) -> bool {
        self.json
    }

    /// Tells whether only what was asked for is to be said.
    pub(super) fn quiet(&self) -> bool {
        self.quiet
    }

    /// Tells whether more is to be said.
    pub(super) fn verbose(&self) -> bool {
        self.verbose
    }

    /// Tells whether standard output is a terminal: no place for an archive.
    pub(super) fn out_is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Returns what draws the progress of an operation.
    pub(super) fn observer(&self) -> &dyn Observer {
        &self.bars
    }

    /// Makes a name from a store or archive fit for standard output.
    pub(super) fn clean<'t>(&self, name: &'t str) -> Cow<'t, str> {
        sanitized(name, self.out_is_terminal())
    }

    /// Writes to standard output, at once and whole. Styles are left out where they do not belong.
    ///
    /// # Errors
    /// Standard output takes no more.
    pub(super) fn print(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        let mut out = BufWriter::new(AutoStream::new(io::stdout().lock(), self.colour));
        write(&mut out).and_then(|()| out.flush()).map_err(Failure::Output)
    }

    /// Fails where nobody is there who could be asked.
    ///
    /// # Errors
    /// Standard input is no terminal, or a document was asked for.
    pub(super) fn expect_someone(&self) -> Result<(), Failure> {
        if io::stdin().is_terminal() && !self.json {
            return Ok(());
        }
        let text = "cannot ask for confirmation (stdin is not a terminal): use -y, or --dry-run to preview".to_owned();
        Err(Error::Usage(text).into())
    }

    /// Asks whether to go on.
    ///
    /// # Errors
    /// Standard output takes no more, or standard input cannot be read.
    pub(super) fn ask(&self, question: &str) -> Result<bool, Failure> {
        self.print(|out| write!(out, "{}? [y/N] ", self.for_store(question)))?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(Failure::Output)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// Standard output takes no more.
    pub(super) fn print_text(&self, text: &str) -> Result<(), Failure> {
        self.print(|out| out.write_all(text.as_bytes()))
    }

    /// Writes a document as JSON.
    ///
    /// # Errors
    /// Standard output takes no more.
    pub(super) fn print_json(&self, document: &impl Serialize) -> Result<(), Failure> {
        self.print(|out| {
            serde_json::to_writer_pretty(&mut *out, document)?;
            writeln!(out)
        })
    }

    /// Says something that is good to know. Not said with `--quiet`.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            self.bars.say("note", NOTE, &self.for_store(text));
        }
    }

    /// Says in one line what was done. Not said with `--quiet`.
    pub(super) fn sum_up(&self, what: &str, text: &str) {
        self.bars.clear();
        if !self.quiet {
            self.bars.say(what, DONE, &self.for_store(text));
        }
    }

    /// Says something that may be wrong.
    pub(super) fn warn(&self, text: &str) {
        self.bars.say("warning", WARNING, &self.for_store(text));
    }

    /// Says why a command failed, and what to do.
    pub(super) fn fail(&self, text: &str, hints: &[String]) {
        self.bars.clear();
        self.bars.say("dockpack", ERROR, text);
        for (at, hint) in hints.iter().enumerate() {
            if at == 0 {
                self.bars.blank();
            }
            self.bars.say("hint", NOTE, &self.for_store(hint));
        }
    }

    /// Lets the commands in a text be for the store that this one is for.
    fn for_store(&self, text: &str) -> String {
        text.replace("`dockpack ", &format!("`dockpack {}", self.store))
    }
}

/// Writes a word so that a shell reads it as one.
pub(super) fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@%=,".contains(letter);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', "'\\''")).into(),
    }
}
