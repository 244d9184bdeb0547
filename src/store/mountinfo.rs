//! Parses `/proc/<pid>/mountinfo` (Linux `Documentation/filesystems/proc.rst` 3.5).
//!
//! ```text
//! 61 60 0:50 /root /point rw,relatime shared:1 - overlay overlay rw,lowerdir=l/BB:l/CC,upperdir=aa/diff
//! id    device                                   kind            options of the file system
//! ```
//!
//! `root` is the path within the file system of what is mounted, as it is named now: it follows renames. `point` is
//! relative to the root directory of the process.

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Its number.
    pub(super) id: u64,
    /// Major and minor number of the file system; one for all subvolumes of a btrfs.
    pub(super) device: String,
    /// What of the file system is mounted.
    pub(super) root: String,
    /// Where it is mounted.
    pub(super) point: String,
    /// Paths of the directories that an overlay is made of, as whoever mounted it wrote them.
    pub(super) parts: Vec<String>,
}

/// Parses the text of a `mountinfo`. A line that makes no sense is none of the kernel's.
pub(super) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [id, _, device, root, point, _, rest @ ..] = &fields[..] else { return None };
    let text = |field: &[u8]| String::from_utf8_lossy(&unescaped(field)).into_owned();
    let path = |field: &[u8]| text(field.strip_suffix(b"//deleted").unwrap_or(field));
    let mut rest = rest.iter().skip_while(|field| **field != b"-").skip(1);
    let (kind, options) = (rest.next().copied().unwrap_or_default(), rest.nth(1).copied().unwrap_or_default());
    let is_stack = kind == b"aufs" || kind.windows(7).any(|part| part == b"overlay");
    Some(Mount {
        id: std::str::from_utf8(id).ok()?.parse().ok()?,
        device: text(device),
        root: path(root),
        point: path(point),
        parts: if is_stack { parts(options) } else { Vec::new() },
    })
}

/// Finds the directories in the options of an overlay.
fn parts(options: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    // A comma in a path is escaped, as the kernel does it for all of these.
    for option in options.split(|byte| *byte == b',') {
        let Some(equals) = option.iter().position(|byte| *byte == b'=') else { continue };
        let (key, value) = (&option[..equals], unescaped(&option[equals + 1..]));
        let key = key.strip_suffix(b"+").unwrap_or(key);
        if matches!(key, b"lowerdir" | b"datadir" | b"upperdir" | b"workdir" | b"br") {
            let paths = split(&value).into_iter().map(|path| String::from_utf8_lossy(&path).into_owned());
            // aufs writes the rights on a branch behind it.
            found.extend(paths.map(|path| match path.rsplit_once('=') {
                Some((branch, _)) if key == b"br" => branch.to_owned(),
                _ => path,
            }));
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

/// Splits a list of directories at its colons. Overlay's own escape is a backslash.
fn split(value: &[u8]) -> Vec<Vec<u8>> {
    let mut found = vec![Vec::new()];
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => found.push(Vec::new()),
            b'\\' => found.last_mut().expect("because it begins with one").extend(bytes.next()),
            byte => found.last_mut().expect("because it begins with one").push(byte),
        }
    }
    found
}

/// Undoes the octal escapes of `/proc`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let code = rest.get(1..4).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) if *first == b'\\' => {
                text.push(code);
                rest = &rest[4..];
            }
            _ => {
                text.push(*first);
                rest = more;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
61 60 0:50 / /d/overlay2/aa/merged rw - overlay overlay rw,lowerdir=/d/l/BB:/d/l/CC,upperdir=/d/a=a/diff,workdir=/d/aa/work,index=off
62 25 0:51 / / rw shared:2 master:3 - overlay overlay rw,lowerdir+=l/DD,lowerdir+=l/EE,datadir+=l/FF
63 25 254:0 /c\\040c//deleted /c\\040c/shm//deleted rw - ext4 /dev/vda rw,upperdir=x
64 25 0:54 / /e rw - overlay overlay rw,lowerdir=/a\\134:b:/c\\054d:/e\\040f
65 25 0:55 / /f rw - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0
66 25 0:56 / /g rw - aufs none rw,si=1,br=/x=rw:/y=ro
nonsense
67 25 0:57 /
";

    #[test]
    fn lines_of_the_kernel() {
        let mounts = parse(TEXT.as_bytes());
        let seen = |at: usize| {
            let Mount { id, device, root, point, parts } = &mounts[at];
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            (*id, device.as_str(), root.as_str(), point.as_str(), parts)
        };
        assert_eq!(mounts.len(), 7);
        assert_eq!(seen(0), (25, "254:0", "/", "/", vec![]));
        let parts = vec!["/d/l/BB", "/d/l/CC", "/d/a=a/diff", "/d/aa/work"];
        assert_eq!(seen(1), (61, "0:50", "/", "/d/overlay2/aa/merged", parts));
        assert_eq!(seen(2), (62, "0:51", "/", "/", vec!["l/DD", "l/EE", "l/FF"]));
        assert_eq!(seen(3), (63, "254:0", "/c c", "/c c/shm", vec![]));
        assert_eq!(seen(4), (64, "0:54", "/", "/e", vec!["/a:b", "/c,d", "/e f"]));
        assert_eq!(seen(5), (65, "0:55", "/", "/f", vec![]));
        assert_eq!(seen(6), (66, "0:56", "/", "/g", vec!["/x", "/y"]));
    }
}
