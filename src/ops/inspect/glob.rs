//! Patterns as `docker image ls` takes them: Go's `path.Match`.

/// Tells whether `text` is of the form `pattern`: `*` is any run without a slash, `?` one character but a slash,
/// `[a-z]` and `[^a-z]` one of some, `\` takes the next character as it is. A pattern that is none matches nothing.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // Where to go on when a star must take one character more.
    let mut retry: Option<(usize, usize)> = None;
    let (mut at, mut here) = (0, 0);
    loop {
        let step = match (pattern.get(at), text.get(here)) {
            (None, None) => return true,
            (Some('*'), _) => {
                retry = Some((at, here));
                at += 1;
                continue;
            }
            (Some(_), Some(letter)) => one(&pattern[at..], *letter),
            _ => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                at += length;
                here += 1;
            }
            (None, Some((star, from))) if text.get(from).is_some_and(|letter| *letter != '/') => {
                retry = Some((star, from + 1));
                (at, here) = (star + 1, from + 1);
            }
            _ => return false,
        }
    }
}

/// Matches one character, and tells how long the part of the pattern is that did.
fn one(pattern: &[char], letter: char) -> Option<usize> {
    match pattern[0] {
        '?' => (letter != '/').then_some(1),
        '\\' => (pattern.get(1) == Some(&letter)).then_some(2),
        '[' => {
            let end = pattern.iter().skip(2).position(|part| *part == ']')? + 2;
            let (negated, set) = match pattern[1] {
                '^' => (true, &pattern[2..end]),
                _ => (false, &pattern[1..end]),
            };
            let mut found = false;
            let mut rest = set;
            while let Some((first, after)) = rest.split_first() {
                let (last, after) = match after {
                    ['-', last, after @ ..] => (last, after),
                    _ => (first, after),
                };
                found |= (*first..=*last).contains(&letter);
                rest = after;
            }
            (found != negated && letter != '/').then_some(end + 1)
        }
        plain => (plain == letter).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_does() {
        for (pattern, text, expected) in [
            ("nginx", "nginx", true),
            ("nginx", "nginx:1", false),
            ("ng*", "nginx", true),
            ("ng*", "ng/x", false),
            ("*/*:1", "me/app:1", true),
            ("*:*", "nginx:alpine", true),
            ("*a*a*", "banana", true),
            ("*a*b", "banana", false),
            ("n?inx", "nginx", true),
            ("n[a-h]inx", "nginx", true),
            ("n[^a-h]inx", "nginx", false),
            ("n[g", "ng", false),
            ("\\*", "*", true),
            ("", "", true),
            ("*", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
