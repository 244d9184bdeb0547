//! Identities, one type for each role.
//!
//! Four of Docker's identities are SHA-256 digests and must never be mixed up; the other three are
//! names that Docker draws at random. `Display` always prints the whole identity as Docker writes it
//! (digests with `sha256:`); [`Sha256::short`] is what tables show.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::error::ParseError;

/// A SHA-256 digest, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// Computes the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Takes the state of a running hash.
    #[must_use]
    pub fn finish(hasher: sha2::Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// Parses exactly 64 lower-case hexadecimal digits, as Docker names its files.
    ///
    /// # Errors
    /// Anything else.
    pub fn from_hex(hex: &[u8]) -> Result<Self, ParseError> {
        let bad = || ParseError::new("a digest of 64 lower-case hexadecimal digits", hex);
        if hex.len() != 64 {
            return Err(bad());
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(bad());
            };
            *byte = high << 4 | low;
        }
        Ok(Self(out))
    }

    /// Takes the 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
    }

    /// Returns the first twelve digits, as `docker image ls` shows them.
    #[must_use]
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256 {
    type Err = ParseError;

    /// Parses `sha256:` and 64 digits.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or_else(|| ParseError::new("a digest that begins with sha256:", text.as_bytes()))?;
        Self::from_hex(hex.as_bytes())
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Stamps out a digest type for one role, so that digests of two roles never compare.
macro_rules! digest_roles {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Sha256);

        impl $name {
            /// Parses the 64 hexadecimal digits that name a file of this role.
            ///
            /// # Errors
            /// Anything but 64 lower-case hexadecimal digits.
            pub fn from_hex(hex: &[u8]) -> Result<Self, ParseError> {
                Sha256::from_hex(hex).map(Self)
            }

            /// Returns the 64 hexadecimal digits, without `sha256:`.
            #[must_use]
            pub fn hex(&self) -> String {
                self.0.hex()
            }

            /// Returns the first twelve digits.
            #[must_use]
            pub fn short(&self) -> String {
                self.0.short()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                text.parse().map(Self)
            }
        }
    )*};
}

digest_roles! {
    /// Identity of an image: the digest of its configuration, byte for byte.
    ImageId;
    /// Identity of a layer's content: the digest of its uncompressed tar.
    DiffId;
    /// Identity of a layer with all its parents; names the entry in layerdb.
    ChainId;
    /// Digest of a registry's manifest or of a compressed blob.
    BlobDigest;
}

impl ChainId {
    /// Puts a layer on top of `parent` (OCI image spec, `identity/chainid.go`).
    #[must_use]
    pub fn stack(parent: Option<Self>, diff: DiffId) -> Self {
        match parent {
            None => Self(diff.0),
            Some(parent) => Self(Sha256::of(format!("{parent} {diff}").as_bytes())),
        }
    }

    /// Returns the chain IDs of a stack of layers, bottom first.
    #[must_use]
    pub fn of_stack(diff_ids: &[DiffId]) -> Vec<Self> {
        let mut parent = None;
        diff_ids.iter().map(|diff| *parent.insert(Self::stack(parent, *diff))).collect()
    }
}

/// Tells whether a name is one of a container or mount: a relative path without `.` and `..`.
fn is_mount_name(name: &[u8]) -> bool {
    let is_part = |part: &[u8]| {
        let is_plain = part.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.:@+[]".contains(c));
        is_plain && matches!(part.len(), 1..=255) && !part.iter().all(|c| *c == b'.')
    };
    name.len() <= 1024 && name.split(|c| *c == b'/').all(is_part)
}

/// Stamps out a name that Docker draws at random; `$check` says which texts are of that kind.
macro_rules! random_names {
    ($($(#[$doc:meta])* $name:ident, $what:literal, $check:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes a name as Docker wrote it, without white space around it.
            ///
            /// # Errors
            /// Text that cannot be a name of this kind: it is never used as a path.
            pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
                let check: fn(&[u8]) -> bool = $check;
                match std::str::from_utf8(text) {
                    Ok(name) if check(text) => Ok(Self(name.to_owned())),
                    _ => Err(ParseError::new($what, text)),
                }
            }

            /// Returns the name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the first twelve characters.
            #[must_use]
            pub fn short(&self) -> &str {
                self.0.get(..12).unwrap_or(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(text.as_bytes()).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

random_names! {
    /// Name of a graph driver's directory: 64 hexadecimal digits (`-init` may follow), or 25 base-36
    /// characters when BuildKit made it. dockerd since 17.05 demands only that it is not empty, so
    /// every plain file name is accepted.
    CacheId, "the name of a layer directory (letters, digits, - and _)",
        |name| matches!(name.len(), 1..=255) && name.iter().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(c));
    /// Short name of an `overlay2` layer below `l/`: 26 characters of A-Z and 2-7; dockerd takes any unique one.
    LinkId, "the short name of a layer (letters and digits)",
        |name| matches!(name.len(), 1..=255) && name.iter().all(u8::is_ascii_alphanumeric);
    /// Name of a container's directory, and of its entry in `layerdb/mounts`: 64 hexadecimal digits, or 25
    /// base-36 characters for BuildKit's own mounts. An image mount (28.0+) is `<container>-<reference>`, so it
    /// may lie several directories deep.
    ContainerId, "the name of a container or mount", is_mount_name;
}

/// Tells whether an engine may have drawn this name for a directory, a container or a mount: 64 hexadecimal digits, which
/// `-init` or the rest of an image mount's name may follow, or 25 base-36 characters of BuildKit's. What has another name
/// was made by somebody else.
#[must_use]
pub fn is_drawn(name: &str) -> bool {
    let is_digest = |text: &str| Sha256::from_hex(text.as_bytes()).is_ok();
    let is_base_36 = |c: u8| c.is_ascii_digit() || c.is_ascii_lowercase();
    match name.split_once('-') {
        Some((digits, _)) => is_digest(digits),
        None => is_digest(name) || (name.len() == BUILDKIT_NAME && name.bytes().all(is_base_36)),
    }
}

/// Length of the names that BuildKit draws.
pub(crate) const BUILDKIT_NAME: usize = 25;

impl CacheId {
    /// Tells whether dockerd gives such a name to what it prepares for a container before the container starts: the
    /// directory of its init layer.
    #[must_use]
    pub(crate) fn is_init(&self) -> bool {
        self.as_str().ends_with("-init")
    }
}

impl LinkId {
    /// Makes a short name in Docker's alphabet (A-Z, 2-7) out of hexadecimal digits.
    #[must_use]
    pub(crate) fn of_hex(hex: &[u8]) -> Option<Self> {
        let letters: Vec<u8> = hex.iter().map(|digit| nibble(*digit).map_or(b'A', |value| b'A' + value)).collect();
        Self::parse(&letters).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stack of nginx:alpine in the article the project began with; the chain ID is the one that
    /// the article's container names as its parent.
    #[test]
    fn the_articles_chain_id() {
        let stack: Vec<DiffId> = [
            "sha256:9f8566ee5135862dd980160c27bd7721448a6f7f385bbb81f7f001f1b78a5fbf",
            "sha256:d4930e247b4962e14642f6017cf578fe965514784ca99dc2550373471c45fec8",
            "sha256:c0ab80890b7ffee1f40a8d33e66b5cc9e63e8c10fec1866384d21d4a8529b816",
            "sha256:4a8d9a67e458d2c8fe42c5aa2a2a35303c7484df30207e233fcf03ab7bb9ffec",
        ]
        .map(|text| text.parse().expect("a digest"))
        .to_vec();
        let chain = ChainId::of_stack(&stack);
        assert_eq!(chain[0].0, stack[0].0);
        assert_eq!(chain[3].hex(), "1da0e48557625a4d36d61f73e19171eafed4d7f983fb0f733598abdb67a05ebf");
    }

    #[test]
    fn digests_are_strict() {
        for bad in ["", "sha256:", "9f85", "sha256:9F8566EE5135862dd980160c27bd7721448a6f7f385bbb81f7f001f1b78a5fbf"] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_engines_draw() {
        let hex = "f9ddcc38d33be0dad43ab740692d3431fcc92d90a97bbc2b22dcdec44bcceacb";
        for drawn in [hex, &format!("{hex}-init"), &format!("{hex}-foo/bar:1"), "0a1b2c3d4e5f6g7h8i9j0k1l2"] {
            assert!(is_drawn(drawn), "{drawn}");
        }
        for other in ["", "backup", "lost+found", "keep-init", &hex[1..], "0A1b2c3d4e5f6g7h8i9j0k1l2", "@eaDir"] {
            assert!(!is_drawn(other), "{other}");
        }
    }

    #[test]
    fn names_never_leave_their_directory() {
        for bad in [&b""[..], b"..", b"a/b", b"../../etc", b"a\n", b"\xff"] {
            assert!(CacheId::parse(bad).is_err());
            assert!(LinkId::parse(bad).is_err());
        }
        for bad in [&b""[..], b"..", b"a/../b", b"/a", b"a/", b"a//b", b"./a", b"a\n"] {
            assert!(ContainerId::parse(bad).is_err());
        }
        assert!(ContainerId::parse(b"c0ffee-[::1]:5000/a/b.c:1@sha256:beef").is_ok());
        assert!(CacheId::parse(b"f9ddcc38d33be0dad43ab740692d3431fcc92d90a97bbc2b22dcdec44bcceacb-init").is_ok());
    }
}
