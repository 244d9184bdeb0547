//! Sizes, times and IDs as people read them.

use bytesize::ByteSize;
use jiff::Timestamp;

pub(super) use crate::count::count;
use crate::graph::Node;
use crate::ops::inspect::Named;

/// What stands for a name that there is not, as in Docker.
pub(super) const NONE: &str = "<none>";

/// Writes a number of bytes in decimal units, as Docker does (`54.3 MB`).
pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

/// Writes how long ago a time was (`2 weeks ago`); `N/A` for none, and for Go's zero time.
pub(super) fn ago(time: Option<&str>, now: Timestamp) -> String {
    let Some(time) = time.and_then(|text| text.parse::<Timestamp>().ok()).filter(|time| time.as_second() >= 0) else {
        return "N/A".to_owned();
    };
    match std::time::Duration::try_from(now.duration_since(time)) {
        Ok(passed) => timeago::Formatter::new().convert(passed),
        Err(_) => "in the future".to_owned(),
    }
}

/// Writes a time without its parts of a second, and how long ago it was.
pub(super) fn when(time: &str, now: Timestamp) -> String {
    let shown = time.parse::<Timestamp>().map_or_else(|_| time.to_owned(), |time| time.strftime("%FT%TZ").to_string());
    format!("{shown} ({})", ago(Some(time), now))
}

/// Writes a thing as one would say it: kind, name where it has one, short ID.
pub(super) fn named(thing: &Named) -> String {
    let kind = match &thing.node {
        Node::Dir(_) => "directory",
        Node::BuildRecord(_) => "build record",
        node => node.kind(),
    };
    match (&thing.node, &thing.name) {
        (Node::Container(_) | Node::Image(_), Some(name)) => format!("{kind} {name} ({})", thing.node.short()),
        (Node::BuildRecord(_), Some(what)) => format!("{kind} {} ({})", thing.node.short(), one_line(what)),
        (node, _) => format!("{kind} {}", node.short()),
    }
}

/// Returns the first part of a command, without Docker's and BuildKit's own words around it, that fits beside an ID.
pub(super) fn one_line(command: &str) -> String {
    let mut command = command.strip_suffix(" # buildkit").unwrap_or(command);
    for words in ["mount / from exec ", "RUN ", "/bin/sh -c ", "#(nop) "] {
        command = command.strip_prefix(words).unwrap_or(command);
    }
    let words: Vec<&str> = command.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Writes a span of time in the largest units in which it is whole (`7 days`, `24 h`, `1 h 30 min`).
pub(super) fn span(time: std::time::Duration) -> String {
    const HOUR: u64 = 3600;
    let seconds = time.as_secs();
    if seconds >= 48 * HOUR && seconds.is_multiple_of(24 * HOUR) {
        return format!("{} days", seconds / (24 * HOUR));
    }
    let parts = [(seconds / HOUR, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let parts: Vec<String> =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number} {unit}")).collect();
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_writes_them() {
        assert_eq!(size(54_300_418), "54.3 MB");
        assert_eq!(size(4_803_385), "4.8 MB");
        assert_eq!(size(0), "0 B");
        let now: Timestamp = "2017-03-16T10:00:00Z".parse().expect("a time");
        assert_eq!(ago(Some("2017-03-03T22:03:01.815836512Z"), now), "1 week ago");
        assert_eq!(ago(Some("0001-01-01T00:00:00Z"), now), "N/A");
        assert_eq!(ago(Some("1970-01-01T00:00:00Z"), now), "47 years ago");
        assert_eq!(ago(Some("2018-01-01T00:00:00Z"), now), "in the future");
        assert_eq!(ago(None, now), "N/A");
        assert_eq!(one_line("RUN /bin/sh -c echo  a\t&& b # buildkit"), "echo a && b");
        assert_eq!(one_line("/bin/sh -c #(nop) CMD [\"x\"]"), "CMD [\"x\"]");
        assert_eq!(one_line(&"ü".repeat(70)), format!("{}…", "ü".repeat(60)));
        let spans = [(0, "0 s"), (90, "1 min 30 s"), (24 * 3600, "24 h"), (48 * 3600, "2 days"), (49 * 3600, "49 h")];
        spans.iter().for_each(|(seconds, said)| assert_eq!(span(std::time::Duration::from_secs(*seconds)), *said));
        assert_eq!(when("2017-03-03T22:03:01.815836512Z", now), "2017-03-03T22:03:01Z (1 week ago)");
    }
}
