//! The text of JSON: its grammar, and where values begin and end. Nothing here calls itself, however deep a document is.

use super::JsonError;

/// How deep lists and objects may lie in one another, as for Go.
const DEPTH_LIMIT: usize = 10_000;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    Text,
    List,
    Object,
}

impl Kind {
    /// Tells what a value is that was checked.
    pub(super) fn of(value: &[u8]) -> Self {
        match value.first() {
            Some(b'n') => Self::Null,
            Some(b't' | b'f') => Self::Bool,
            Some(b'"') => Self::Text,
            Some(b'[') => Self::List,
            Some(b'{') => Self::Object,
            _ => Self::Number,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "text",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }
}

/// Checks a document that is one value, and returns the value.
pub(super) fn whole(text: &[u8]) -> Result<&[u8], JsonError> {
    let (value, mut scanner) = value(text)?;
    scanner.space();
    match scanner.at == text.len() {
        true => Ok(value),
        false => Err(JsonError::Syntax("there is more behind its end", scanner.at)),
    }
}

/// Checks the first value of a text, and returns it.
pub(super) fn first(text: &[u8]) -> Result<&[u8], JsonError> {
    Ok(value(text)?.0)
}

fn value(text: &[u8]) -> Result<(&[u8], Scanner<'_>), JsonError> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.space();
    let start = scanner.at;
    scanner.value()?;
    Ok((&text[start..scanner.at], scanner))
}

/// Reads text from its front.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn bad<T>(&self, what: &'static str) -> Result<T, JsonError> {
        Err(JsonError::Syntax(if self.at >= self.text.len() { "it ends early" } else { what }, self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Passes over one byte, where it is this one.
    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    /// Passes over a value with all that is in it.
    fn value(&mut self) -> Result<(), JsonError> {
        // The ends of the lists and objects that are open.
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            match self.peek() {
                Some(opening @ (b'[' | b'{')) => {
                    self.at += 1;
                    let closing = if opening == b'[' { b']' } else { b'}' };
                    self.space();
                    if open.len() == DEPTH_LIMIT {
                        return Err(JsonError::Syntax("it is too deep", self.at));
                    }
                    if !self.take(closing) {
                        open.push(closing);
                        self.key(closing)?;
                        continue;
                    }
                }
                Some(b'"') => self.text()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ => self.word()?,
            }
            loop {
                let Some(closing) = open.last().copied() else { return Ok(()) };
                self.space();
                if self.take(b',') {
                    self.key(closing)?;
                    break;
                }
                if !self.take(closing) {
                    return self.bad("expected a comma or the end of a list or object");
                }
                open.pop();
            }
        }
    }

    /// Passes over a key, where what is open is an object.
    fn key(&mut self, closing: u8) -> Result<(), JsonError> {
        if closing == b']' {
            return Ok(());
        }
        self.space();
        if self.peek() != Some(b'"') {
            return self.bad("expected a key");
        }
        self.text()?;
        self.space();
        if self.take(b':') { Ok(()) } else { self.bad("expected a colon") }
    }

    fn text(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                        Some(b'u') => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                                    return self.bad("expected four hexadecimal digits");
                                }
                                self.at += 1;
                            }
                        }
                        _ => return self.bad("unknown escape in text"),
                    }
                }
                Some(0x20..) => self.at += 1,
                _ => return self.bad("control character in text"),
            }
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return self.bad("expected a digit");
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        self.take(b'-');
        // No digits follow a zero in front.
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn word(&mut self) -> Result<(), JsonError> {
        let word = [&b"null"[..], b"true", b"false"].into_iter().find(|word| self.text[self.at..].starts_with(word));
        match word {
            Some(word) => self.at += word.len(),
            None => return self.bad("expected a value"),
        }
        Ok(())
    }
}

/// The members of an object or list that was checked: keys, which those of a list do not have, and values.
pub(super) struct Members<'a> {
    scanner: Scanner<'a>,
    is_object: bool,
}

impl<'a> Members<'a> {
    pub(super) fn of(value: &'a [u8]) -> Self {
        Self { scanner: Scanner { text: value, at: 1 }, is_object: value.first() == Some(&b'{') }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let scanner = &mut self.scanner;
        scanner.space();
        scanner.take(b',');
        scanner.space();
        if matches!(scanner.peek(), None | Some(b']' | b'}')) {
            return None;
        }
        let mut key = &b""[..];
        if self.is_object {
            let start = scanner.at;
            scanner.text().ok()?;
            key = &scanner.text[start..scanner.at];
            scanner.space();
            scanner.take(b':');
            scanner.space();
        }
        let start = scanner.at;
        scanner.value().ok()?;
        Some((key, &scanner.text[start..scanner.at]))
    }
}

/// Returns what a text in quotation marks says, which was checked.
pub(super) fn text(quoted: &[u8]) -> String {
    let mut out = String::with_capacity(quoted.len());
    let mut left = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    while let Some(next) = left.first() {
        if *next == b'\\' {
            let (letter, length) = unescape(left);
            out.push(letter);
            left = left.get(length..).unwrap_or_default();
            continue;
        }
        let plain = left.iter().position(|byte| *byte == b'\\').unwrap_or(left.len());
        push_lossy(&mut out, &left[..plain]);
        left = &left[plain..];
    }
    out
}

/// Reads one escape; also tells how long it is.
fn unescape(text: &[u8]) -> (char, usize) {
    match text.get(1) {
        Some(b'b') => ('\u{8}', 2),
        Some(b'f') => ('\u{c}', 2),
        Some(b'n') => ('\n', 2),
        Some(b'r') => ('\r', 2),
        Some(b't') => ('\t', 2),
        Some(b'u') => match (unit(text), text.get(6..).and_then(unit_of_escape)) {
            (first @ 0xd800..0xdc00, Some(second @ 0xdc00..0xe000)) => {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
            }
            (first, _) => (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
        },
        Some(byte) => (char::from(*byte), 2),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}

/// Reads the four digits of an escape.
fn unit(escape: &[u8]) -> u32 {
    let digits = escape.get(2..6).unwrap_or_default();
    digits.iter().fold(0, |code, digit| code << 4 | char::from(*digit).to_digit(16).unwrap_or(0))
}

fn unit_of_escape(text: &[u8]) -> Option<u32> {
    text.starts_with(b"\\u").then(|| unit(text))
}

/// Adds bytes; each that is no UTF-8 becomes a character of its own.
fn push_lossy(out: &mut String, mut bytes: &[u8]) {
    while let Err(error) = std::str::from_utf8(bytes) {
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        out.push_str(std::str::from_utf8(valid).unwrap_or_default());
        out.push(char::REPLACEMENT_CHARACTER);
        bytes = &rest[1..];
    }
    out.push_str(std::str::from_utf8(bytes).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents() {
        for good in
            ["1", " -0.5e+7 ", "[]", "{}", "[1, {\"a\" :[]}]", "\"\\u00e4\\n\"", "null", "[true,false]", "1e400"]
        {
            assert!(whole(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "",
            " ",
            "01",
            "1.",
            "-",
            "1e",
            ".5",
            "+1",
            "[1,]",
            "[,1]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\":1,}",
            "[1}",
            "{]",
            "[",
            "\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\n\"",
            "nul",
            "nullx",
            "[1] 2",
            "\u{feff}1",
            "'a'",
            "[1 2]",
        ] {
            assert!(whole(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        assert!(whole(deep(10_000).as_bytes()).is_ok());
        assert!(whole(deep(10_001).as_bytes()).is_err());
        assert!(whole("[".repeat(1 << 20).as_bytes()).is_err());
    }

    #[test]
    fn texts() {
        for (quoted, said) in [
            (&b"\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\""[..], "a\"\\/\u{8}\u{c}\n\r\t"),
            (b"\"\\u00e4\\ud83d\\ude00\"", "\u{e4}\u{1f600}"),
            (b"\"\\ud83dx\\ude00\"", "\u{fffd}x\u{fffd}"),
            (b"\"\\ud83d\\ud83d\\ude00\"", "\u{fffd}\u{1f600}"),
            (b"\"a\xe4\xf0\x9f\"", "a\u{fffd}\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(text(quoted), said, "{}", quoted.escape_ascii());
        }
    }
}
