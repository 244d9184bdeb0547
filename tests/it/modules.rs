//! The order of the modules that ARCHITECTURE.md states, held against what they use; and what only one of them knows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dockpack::driver::DRIVERS;

/// What stands before each of the lists in ARCHITECTURE.md, and the module that those of the list are in.
const LISTS: [(&str, &[&str]); 2] =
    [("A module uses only those before it in this list:", &[]), ("So it is with those of `ops`:", &["ops"])];

/// A path from the root of the crate.
type ModulePath = Vec<String>;

/// An order of modules: each uses only those before it.
struct Order {
    /// The module that they are in.
    within: ModulePath,
    names: Vec<String>,
}

impl Order {
    /// Reads the list that stands behind a sentence. A line has names, two spaces, and what they are about; lines that are
    /// indented further go on with that.
    fn read(document: &str, sentence: &str, within: &[&str]) -> Self {
        let (_, list) = document.split_once(sentence).unwrap_or_else(|| panic!("ARCHITECTURE.md says {sentence:?}"));
        let lines = list.trim_start_matches('\n').lines().map_while(|line| line.strip_prefix("    "));
        let entries = lines.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split("  ").next());
        let names = entries.flat_map(|names| names.split(", ")).map(str::to_owned).collect();
        Self { within: within.iter().map(|part| (*part).to_owned()).collect(), names }
    }

    /// Returns which of the modules a path leads into.
    fn inner<'p>(&self, path: &'p [String]) -> Option<&'p str> {
        path.strip_prefix(&self.within[..])?.first().map(String::as_str)
    }

    /// Says what is wrong with a use of `used` in the module `own`.
    fn judge(&self, own: &[String], used: &[String]) -> Option<String> {
        let (from, to) = (self.inner(own)?, self.inner(used)?);
        let place = |name: &str| self.names.iter().position(|known| known == name);
        let wrong = match (place(from), place(to)) {
            _ if from == to => return None,
            (Some(from), Some(to)) if to < from => return None,
            (_, None) => "is no module of the list",
            _ => "does not come before it",
        };
        Some(format!("{} uses {}, which {wrong}", own.join("::"), used.join("::")))
    }
}

/// Splits source text into words, `::` and other characters, without comments, strings and characters in quotes.
fn tokens(source: &str) -> Vec<&str> {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut tokens = Vec::new();
    let mut rest = source.trim_start();
    while let Some(first) = rest.chars().next() {
        let comment = rest.starts_with("//").then(|| rest.find('\n').unwrap_or(rest.len()));
        let length = comment.or_else(|| quoted(rest)).unwrap_or_else(|| {
            let length = match first {
                _ if is_word(first) => rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()),
                _ if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            tokens.push(&rest[..length]);
            length
        });
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Returns the length of a string or of a character in quotes that text begins with.
fn quoted(text: &str) -> Option<usize> {
    let raw = text.strip_prefix("br").or_else(|| text.strip_prefix('r'));
    if let Some(raw) = raw.filter(|raw| raw.trim_start_matches('#').starts_with('"')) {
        let end = format!("\"{}", &raw[..raw.find('"')?]);
        let start = text.len() - raw.len() + end.len();
        return Some(start + text[start..].find(&end)? + end.len());
    }
    let quote = text.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => drop(letters.next()),
            _ if letter == quote => return Some(at + 1),
            // A lifetime.
            _ if quote == '\'' && !text[at + letter.len_utf8()..].starts_with('\'') => return Some(1),
            _ => {}
        }
    }
    None
}

/// Reads which modules one uses.
struct Reader<'s> {
    tokens: Vec<&'s str>,
    at: usize,
    /// Where it is: the module, with those that stand in the same file.
    module: ModulePath,
    /// How many braces are open, and how many there were before each module in the file.
    open: usize,
    inline: Vec<usize>,
    used: BTreeSet<ModulePath>,
    /// Files that are only there for tests.
    only_tests: Vec<String>,
}

impl<'s> Reader<'s> {
    fn of(source: &'s str, module: ModulePath) -> Self {
        let tokens = tokens(source);
        let mut reader =
            Self { tokens, at: 0, module, open: 0, inline: Vec::new(), used: BTreeSet::new(), only_tests: Vec::new() };
        while reader.at < reader.tokens.len() {
            reader.step();
        }
        reader
    }

    fn rest(&self) -> &[&'s str] {
        &self.tokens[self.at..]
    }

    fn step(&mut self) {
        match self.rest() {
            ["#", "[", "cfg", "(", "test", ")", "]", ..] => return self.skip_item(),
            ["mod", name, "{", ..] => {
                self.module.push((*name).to_owned());
                self.inline.push(self.open);
                self.at += 1;
            }
            ["{", ..] => self.open += 1,
            ["}", ..] => {
                self.open -= 1;
                if self.inline.pop_if(|before| *before == self.open).is_some() {
                    self.module.pop();
                }
            }
            ["crate" | "super", "::", ..] => return self.path(&self.module.clone()),
            _ => {}
        }
        self.at += 1;
    }

    /// Goes past an item that is only there in tests.
    fn skip_item(&mut self) {
        if let Some(at) = self.rest().iter().position(|token| *token == "mod").filter(|at| *at < 12)
            && let [_, name, ";", ..] = self.rest()[at..]
        {
            self.only_tests.push(name.to_owned());
        }
        let mut open = 0;
        while let [token, ..] = self.rest() {
            let token = *token;
            self.at += 1;
            match token {
                "{" => open += 1,
                "}" if open == 1 => return,
                "}" => open -= 1,
                ";" if open == 0 => return,
                _ => {}
            }
        }
    }

    /// Reads a path, and those in braces behind it, from the module `from`.
    fn path(&mut self, from: &[String]) {
        let mut path = from.to_vec();
        loop {
            match self.rest() {
                ["crate", ..] => path.clear(),
                ["super", ..] => drop(path.pop()),
                ["self", ..] => {}
                ["{", ..] => {
                    self.at += 1;
                    while !matches!(self.rest(), ["}", ..] | []) {
                        self.path(&path);
                        self.at += usize::from(matches!(self.rest(), [",", ..]));
                    }
                    self.at += 1;
                    return;
                }
                [name, ..] => path.push((*name).to_owned()),
                [] => return,
            }
            self.at += 1;
            let ["::", next, ..] = self.rest() else { break };
            if *next == "<" {
                break;
            }
            self.at += 1;
        }
        if let ["as", _, ..] = self.rest() {
            self.at += 2;
        }
        self.used.insert(path);
    }
}

/// Reads a file and all below its module; gives each module with what it uses.
fn read_all(dir: &Path, module: &[String], found: &mut Vec<(ModulePath, BTreeSet<ModulePath>)>) {
    let own = match module {
        [] => dir.join("lib.rs"),
        _ if dir.is_dir() => dir.join("mod.rs"),
        _ => dir.with_extension("rs"),
    };
    let own = if own.exists() { own } else { dir.with_extension("rs") };
    let source = fs::read_to_string(&own).unwrap_or_else(|error| panic!("{}: {error}", own.display()));
    let reader = Reader::of(&source, module.to_vec());
    found.push((module.to_vec(), reader.used));
    for name in modules(dir) {
        if !reader.only_tests.contains(&name) {
            read_all(&dir.join(&name), &[module, &[name]].concat(), found);
        }
    }
}

/// Lists the modules that lie in a directory.
fn modules(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("an entry"));
    let names = entries.filter_map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => entry.file_name().into_string().ok(),
        _ => entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned),
    });
    names.filter(|name| !matches!(name.as_str(), "lib" | "main" | "mod" | "snapshots")).collect()
}

#[test]
fn no_module_uses_one_behind_it() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(project.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut found = Vec::new();
    read_all(&project.join("src"), &[], &mut found);
    assert!(found.len() > 100, "{} modules", found.len());
    for (sentence, within) in LISTS {
        let order = Order::read(&document, sentence, within);
        let listed: BTreeSet<String> = order.names.iter().cloned().collect();
        assert_eq!(listed.len(), order.names.len(), "a module stands twice in {:?}", order.names);
        assert_eq!(listed, modules(&project.join("src").join(within.join("/"))), "the list and the modules there are");
        let uses = found.iter().flat_map(|(own, used)| used.iter().map(move |used| (own, used)));
        let wrong: Vec<String> = uses.filter_map(|(own, used)| order.judge(own, used)).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// Reads the lines of all sources but those in the directory `own` of `src`, without comments and tests: each with the path of
/// its file below `src`.
fn lines_outside(own: &str) -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut lines = Vec::new();
    for entry in walkdir::WalkDir::new(&source) {
        let entry = entry.expect("an entry");
        let is_exempt = entry.path().starts_with(source.join(own)) || entry.path().ends_with("tests.rs");
        if is_exempt || entry.path().extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let path = entry.path().strip_prefix(&source).expect("below src").display().to_string();
        let text = fs::read_to_string(entry.path()).expect("a source");
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        lines.extend(code.map(|line| (path.clone(), line.to_owned())));
    }
    assert!(lines.len() > 10_000, "{} lines", lines.len());
    lines
}

/// Where records lie, only the store knows (`src/store/places.rs`); tests say it in their own words.
#[test]
fn only_the_store_knows_where_records_lie() {
    let places = ["layerdb/", "imagedb/", "distribution/", "repositories.json"];
    let mut lines = lines_outside("store");
    lines.retain(|(_, line)| places.iter().any(|place| line.contains(place)));
    assert!(lines.is_empty(), "{lines:#?}");
}

/// Lines outside of `src/driver` that have what is spelled as the name of a graph driver, each with why it is none.
const NO_DRIVERS: [(&str, &str); 2] = [
    // Kinds of file systems, as the kernel calls them.
    ("store/mountinfo.rs", r#"let is_stack = kind == b"aufs" || kind.windows(7).any(|part| part == b"overlay");"#),
    // The program that serves a mount, as the kernel calls the process.
    ("store/live.rs", r#"if name == "fuse-overlayfs" {"#),
];

/// What follows from which graph driver it is, only the drivers know (`src/driver`): all else asks the value. A name that was
/// stored, in an archive's index or a journal, is read from there and looked up, so not even the formats spell one.
#[test]
fn only_the_drivers_know_their_names() {
    let spelled = DRIVERS.map(|driver| [format!("\"{driver}\""), format!("\"{driver}/")]);
    let mut lines = lines_outside("driver");
    lines.retain(|(_, line)| spelled.iter().flatten().any(|name| line.contains(name)));
    lines.sort();
    let mut known = NO_DRIVERS.map(|(path, line)| (path.to_owned(), line.to_owned()));
    known.sort();
    assert_eq!(lines, known);
}

#[test]
fn what_a_module_uses_is_read_from_its_text() {
    let source = r##"
        //! crate::comment
        use crate::{a::{self, b}, c as d, super_c};
        use super::{e, super::f::*};
        #[cfg(test)]
        mod told;
        const TEXT: &str = "crate::string \" crate::string";
        fn g<'a>(_: &'a str) -> crate::h::I<crate::j::K> { r#"crate::"raw""#; 'x'; '\''; '"'; crate::l::<super::m>() }
        mod inner { fn n() { super::o::p() } }
        use super::q;
        #[cfg(test)]
        #[allow(unused)]
        mod tests { use crate::only; fn x() {} }
        use crate::last;
    "##;
    let module = ["own", "part"].map(str::to_owned).to_vec();
    let reader = Reader::of(source, module);
    let used: Vec<String> = reader.used.iter().map(|path| path.join("::")).collect();
    let expected = "a, a::b, c, f::*, h::I, j::K, l, last, own::e, own::m, own::part::o::p, own::q, super_c";
    assert_eq!(used.join(", "), expected);
    assert_eq!(reader.only_tests, ["told"]);

    let order =
        Order::read("Uses:\n\n    a, b  both\n          more\n    c     last\n\n    d     other\n", "Uses:", &["x"]);
    assert_eq!(order.names, ["a", "b", "c"]);
    let judge = |own: &str, used: &str| {
        let path = |text: &str| text.split("::").map(str::to_owned).collect::<ModulePath>();
        order.judge(&path(own), &path(used))
    };
    assert_eq!(judge("x::b::y", "x::a"), None);
    assert_eq!(judge("x::b", "c"), None);
    assert_eq!(judge("x::b::y", "x::c").expect("up"), "x::b::y uses x::c, which does not come before it");
    assert_eq!(judge("x::b", "x::D").expect("unknown"), "x::b uses x::D, which is no module of the list");
}
