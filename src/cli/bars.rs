//! The progress of an operation, drawn.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::interrupt;
use super::sanitize::sanitized;
use super::text;
use crate::progress::{Event, Observer};

/// What ends sooner is not drawn.
const DELAY: Duration = Duration::from_millis(250);
/// Most drawings in a second.
const RATE: u8 = 30;
/// How often a bar moves by itself.
const TICK: Duration = Duration::from_millis(100);
/// Time between two lines where no bar can be drawn.
const LINES: Duration = Duration::from_secs(2);

/// What a bar looks like on a terminal of at least so many columns: a line that is too long would be drawn again and again.
const BARS: [(u16, &str); 4] = [
    (
        88,
        "{prefix} [{bar:24}] {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left  {wide_msg:.dim}",
    ),
    (75, "{prefix} [{bar:10}] {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left"),
    (40, "{prefix} {percent}%, {decimal_bytes_per_sec}, {eta} left"),
    (0, "{prefix} {percent}%"),
];
/// The same where nobody knows the end.
const SPINNERS: [(u16, &str); 2] = [
    (40, "{prefix} {spinner} {decimal_bytes}, {decimal_bytes_per_sec}  {wide_msg:.dim}"),
    (0, "{prefix} {decimal_bytes}"),
];

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Draw {
    /// Nothing.
    Nothing,
    /// A bar on the terminal.
    Bars,
    /// A line now and then.
    Lines,
}

/// Draws one phase at a time, and is the only one who writes to standard error while it does.
#[derive(Debug)]
pub(super) struct Bars {
    draw: Draw,
    verbose: bool,
    colour: ColorChoice,
    phase: Mutex<Option<Phase>>,
}

#[derive(Debug)]
struct Phase {
    what: String,
    began: Instant,
    total: Option<u64>,
    done: u64,
    object: String,
    /// There once the phase has lasted for a while.
    bar: Option<ProgressBar>,
    /// What the bar looks like.
    template: &'static str,
    said: Instant,
}

impl Bars {
    pub(super) fn new(draw: Draw, verbose: bool, colour: ColorChoice) -> Self {
        Self { draw, verbose, colour, phase: Mutex::new(None) }
    }

    /// Writes a line to standard error, above the bar.
    pub(super) fn say(&self, kind: &str, style: Style, text: &str) {
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(phase.as_ref(), &format!("{style}{kind}:{style:#} {}", clean(text)));
    }

    /// Writes an empty line to standard error.
    pub(super) fn blank(&self) {
        self.write(None, "");
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if let Some(phase) = self.phase.lock().unwrap_or_else(PoisonError::into_inner).take() {
            phase.end();
        }
    }

    fn write(&self, phase: Option<&Phase>, line: &str) {
        let write = || {
            // Nobody is left to tell that standard error is gone.
            let _ = writeln!(AutoStream::new(io::stderr().lock(), self.colour), "{line}");
        };
        match phase.and_then(|phase| phase.bar.as_ref()) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn advance(&self, phase: &mut Phase, bytes: u64) {
        phase.done = phase.done.saturating_add(bytes);
        match self.draw {
            Draw::Nothing => {}
            Draw::Bars => phase.show(),
            Draw::Lines if phase.said.elapsed() >= LINES => {
                phase.said = Instant::now();
                self.write(None, &phase.line());
            }
            Draw::Lines => {}
        }
    }
}

impl Observer for Bars {
    fn wants_stop(&self) -> bool {
        interrupt::was_asked_for()
    }

    fn on(&self, event: Event<'_>) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Begin { what, total } => {
                if let Some(before) = phase.replace(Phase::new(what, total)) {
                    before.end();
                }
            }
            Event::Object(name) => {
                if self.verbose {
                    let dim = AnsiColor::BrightBlack.on_default();
                    let what = phase.as_ref().map_or("", |phase| &phase.what);
                    self.write(phase.as_ref(), &format!("{dim}{what} {}{dim:#}", clean(name)));
                }
                if let Some(phase) = phase.as_mut() {
                    phase.object = clean(name);
                    self.advance(phase, 0);
                }
            }
            Event::Advance(bytes) => {
                if let Some(phase) = phase.as_mut() {
                    self.advance(phase, bytes);
                }
            }
            Event::End => {
                if let Some(phase) = phase.take() {
                    phase.end();
                }
            }
            Event::Warning(text) => {
                let style = AnsiColor::Yellow.on_default().bold();
                self.write(phase.as_ref(), &format!("{style}warning:{style:#} {}", clean(text)));
            }
        }
    }
}

impl Phase {
    fn new(what: &str, total: Option<u64>) -> Self {
        let now = Instant::now();
        let (what, object) = (what.to_owned(), String::new());
        Self { what, began: now, total, done: 0, object, bar: None, template: "", said: now }
    }

    /// Brings the bar up to date, once there is to be one.
    fn show(&mut self) {
        if self.bar.is_none() && self.began.elapsed() < DELAY {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let target = ProgressDrawTarget::stderr_with_hz(RATE);
            let bar = ProgressBar::with_draw_target(self.total, target);
            bar.set_prefix(self.what.clone());
            // The rate is that of the whole phase, not of the part that is seen.
            bar.set_elapsed(self.began.elapsed());
            bar.enable_steady_tick(TICK);
            bar
        });
        let template = template(self.total.is_some(), columns());
        if self.template != template {
            self.template = template;
            let style = ProgressStyle::with_template(template).expect("because the templates are constants");
            bar.set_style(style.progress_chars("=> "));
        }
        if bar.message() != self.object {
            bar.set_message(self.object.clone());
        }
        bar.set_position(self.done);
    }

    fn line(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rate = text::size((self.done as f64 / seconds) as u64);
        let done = text::size(self.done);
        match self.total {
            Some(total) => format!("{}: {done} of {}, {rate}/s", self.what, text::size(total)),
            None => format!("{}: {done}, {rate}/s", self.what),
        }
    }

    fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Returns the width of the terminal that standard error is.
fn columns() -> u16 {
    rustix::termios::tcgetwinsize(io::stderr()).map_or(80, |size| size.ws_col)
}

fn template(has_end: bool, columns: u16) -> &'static str {
    let templates = if has_end { &BARS[..] } else { &SPINNERS };
    templates.iter().find(|(least, _)| columns >= *least).map_or("", |(_, template)| template)
}

fn clean(text: &str) -> String {
    sanitized(text, io::stderr().is_terminal()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fits_the_terminal_it_is_drawn_on() {
        // The longest that each may become.
        let longest = |template: &str| {
            [
                ("{prefix}", "verifying"),
                ("{bar:24}", &"=".repeat(24)),
                ("{bar:10}", &"=".repeat(10)),
                ("{decimal_bytes}", "999.99 MB"),
                ("{decimal_total_bytes}", "999.99 MB"),
                ("{decimal_bytes_per_sec}", "999.99 MB/s"),
                ("{eta}", "59m"),
                ("{percent}", "100"),
                ("{spinner}", "x"),
                ("{wide_msg:.dim}", ""),
            ]
            .iter()
            .fold(template.to_owned(), |text, (key, value)| text.replace(key, value))
        };
        for (least, template) in BARS.into_iter().chain(SPINNERS).filter(|(least, _)| *least > 0) {
            let longest = longest(template);
            assert!(longest.len() < usize::from(least) && !longest.contains('{'), "{least}: {longest}");
        }
        assert_eq!(template(true, 40), BARS[2].1);
        assert_eq!(template(true, 20), BARS[3].1);
        assert_eq!(template(false, 39), SPINNERS[1].1);
    }
}
