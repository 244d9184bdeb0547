//! Platforms, and which of several is wanted.

use std::fmt;
use std::str::FromStr;

use crate::error::ParseError;

/// For what an image was built: `os/architecture[/variant]`, in Go's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// Operating system (`linux`).
    pub os: String,
    /// Architecture (`amd64`).
    pub architecture: String,
    /// Its variant (`v7`); empty where it has none.
    pub variant: String,
}

impl Platform {
    /// Returns the platform of this host.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: String::new() }
    }

    /// Tells whether images for it run on Linux; Docker reads the name in any case.
    pub(super) fn is_linux(&self) -> bool {
        self.os().eq_ignore_ascii_case("linux")
    }

    /// Tells whether it says that there is none.
    pub(super) fn is_unknown(&self) -> bool {
        self.os == "unknown"
    }

    /// Says how well an image of platform `found` fits: the smaller the better; nothing where it does not.
    pub(super) fn distance(&self, found: &Self) -> Option<u32> {
        if (self.os(), &self.architecture) != (found.os(), &found.architecture) {
            return None;
        }
        match (self.level(), found.level()) {
            (wanted, found) if wanted == found => Some(0),
            // Each level of an architecture runs what was built for a lower one.
            (wanted, found) if self.variant.is_empty() => Some(1 + wanted.abs_diff(found)),
            (wanted, found) if found < wanted => Some(wanted - found),
            _ => None,
        }
    }

    fn os(&self) -> &str {
        if self.os.is_empty() { "linux" } else { &self.os }
    }

    /// Number of the variant; what is left out is what the architecture began with, or what Docker takes it for.
    fn level(&self) -> u32 {
        match (&self.architecture[..], self.variant.trim_start_matches('v').parse()) {
            (_, Ok(level)) => level,
            ("arm64", _) => 8,
            ("arm", _) => 7,
            _ => 1,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os(), self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl FromStr for Platform {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] if !variant.is_empty() => (os, architecture, variant),
            _ => return Err(ParseError::new("os/architecture or os/architecture/variant", text.as_bytes())),
        };
        if os.is_empty() || architecture.is_empty() {
            return Err(ParseError::new("os/architecture or os/architecture/variant", text.as_bytes()));
        }
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_wanted() {
        let distance = |wanted: &str, found: &str| {
            wanted.parse::<Platform>().expect("a platform").distance(&found.parse().expect("a platform"))
        };
        for (wanted, found, expected) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/x86_64", "linux/amd64", Some(0)),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/amd64", "linux/amd64/v3", Some(3)),
            ("linux/amd64", "linux/arm64", None),
            ("linux/amd64", "windows/amd64", None),
        ] {
            assert_eq!(distance(wanted, found), expected, "{wanted} {found}");
        }
    }

    #[test]
    fn texts_that_are_none() {
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        assert_eq!("linux/arm/v7".parse::<Platform>().expect("one").to_string(), "linux/arm/v7");
    }
}
