//! Names come from stores and archives that anyone may have made. On a terminal, a control character in one
//! could move the cursor or rename the window, and a bidirectional one could show it in another order.

use std::borrow::Cow;

/// Escapes what is not safe to show. Without a terminal only what ends a line is: other programs get names as
/// they are, but each on one line.
pub(super) fn sanitized(text: &str, terminal: bool) -> Cow<'_, str> {
    let bad = |letter: char| if terminal { is_active(letter) } else { matches!(letter, '\n' | '\r') };
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match bad(letter) {
            true => out.extend(letter.escape_default()),
            false => out.push(letter),
        }
    }
    Cow::Owned(out)
}

/// Tells whether a terminal acts on a character, or lets it change how others are shown.
fn is_active(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_no_control_characters() {
        for (text, terminal, piped) in [
            ("nginx:alpine", "nginx:alpine", "nginx:alpine"),
            ("a\u{1b}]0;x\u{7}b", "a\\u{1b}]0;x\\u{7}b", "a\u{1b}]0;x\u{7}b"),
            ("a\u{202e}b", "a\\u{202e}b", "a\u{202e}b"),
            ("a\u{9b}2Jb", "a\\u{9b}2Jb", "a\u{9b}2Jb"),
            ("two\nlines", "two\\nlines", "two\\nlines"),
            ("größe 大", "größe 大", "größe 大"),
        ] {
            assert_eq!(sanitized(text, true), terminal);
            assert_eq!(sanitized(text, false), piped);
        }
    }
}
