//! References: names of images as people and Docker write them.
//!
//! The grammar is that of `distribution/reference`: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`. A name has a
//! *canonical* form, which always says the host (`docker.io/library/nginx:alpine`), and a *familiar* one,
//! which Docker shows and keeps in `repositories.json` (`nginx:alpine`). [`Reference`] knows both, so that
//! all ways to write a name compare equal.

use std::fmt;
use std::str::FromStr;

use crate::error::ParseError;
use crate::id::BlobDigest;

/// Host of a name that says none.
const DEFAULT_HOST: &str = "docker.io";
/// What old clients called [`DEFAULT_HOST`].
const OLD_DEFAULT_HOST: &str = "index.docker.io";
/// First component of a name on [`DEFAULT_HOST`] that has only one.
const OFFICIAL: &str = "library/";
/// Tag of a name that says neither a tag nor a digest.
pub const DEFAULT_TAG: &str = "latest";
/// Repository in which Docker makes no references (moby refstore/store.go `addReference`).
const AMBIGUOUS: &str = "sha256";
/// Longest canonical name of a repository, in bytes.
const MAX_NAME: usize = 255;
/// Longest tag, in bytes.
const MAX_TAG: usize = 128;

/// The name of a repository, without tag and digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    host: String,
    path: String,
}

impl Repository {
    /// Returns the name with its host (`docker.io/library/nginx`).
    #[must_use]
    pub fn canonical(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// Returns the name as Docker shows it (`nginx`).
    #[must_use]
    pub fn familiar(&self) -> String {
        if self.host != DEFAULT_HOST {
            return self.canonical();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.familiar())
    }
}

impl FromStr for Repository {
    type Err = ParseError;

    /// Parses a name without tag and digest, familiar or canonical.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |expected: &str| ParseError::new(expected, text.as_bytes());
        // Docker refuses such names, because they could not be told from image IDs.
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad("a name that is not an image ID"));
        }
        let (host, path) = split_host(text);
        let name = Self { host: host.to_owned(), path };
        if !is_host(&name.host) {
            return Err(bad("a host name with an optional port before the first slash"));
        }
        if !name.path.split('/').all(is_component) {
            return Err(bad("a repository name of lower-case letters, digits and single . _ - between them"));
        }
        if name.canonical().len() > MAX_NAME {
            return Err(bad("a repository name of at most 255 bytes"));
        }
        Ok(name)
    }
}

/// A reference to an image: a repository with a tag or a digest, or both, or neither.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The repository.
    pub repository: Repository,
    /// The tag, where one is said.
    pub tag: Option<String>,
    /// The digest of a registry's manifest, where one is said.
    pub digest: Option<BlobDigest>,
}

impl Reference {
    /// Adds the tag `latest` where neither a tag nor a digest is said, as Docker does.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Tells whether only the repository is said.
    #[must_use]
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// Returns the text under which `repositories.json` keeps this reference: familiar, and of tag and digest
    /// only the digest.
    #[must_use]
    pub fn key(&self) -> String {
        let repository = self.repository.familiar();
        match (&self.tag, &self.digest) {
            (_, Some(digest)) => format!("{repository}@{digest}"),
            (Some(tag), None) => format!("{repository}:{tag}"),
            (None, None) => repository,
        }
    }

    /// Tells whether text is a key that dockerd may have written to `repositories.json`: a familiar name with a tag or a
    /// digest, not in a repository `sha256`, which could be taken for an image's ID. It passes over all others.
    #[must_use]
    pub fn is_key(text: &str) -> bool {
        text.parse::<Self>().is_ok_and(|reference| {
            let is_ambiguous = reference.repository.familiar() == AMBIGUOUS;
            !reference.is_name_only() && !is_ambiguous && reference.key() == text
        })
    }

    /// Returns the whole reference with its host (`docker.io/library/nginx:alpine`).
    #[must_use]
    pub fn canonical(&self) -> String {
        self.written(&self.repository.canonical())
    }

    fn written(&self, repository: &str) -> String {
        let mut text = repository.to_owned();
        if let Some(tag) = &self.tag {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = &self.digest {
            text = format!("{text}@{digest}");
        }
        text
    }
}

/// Writes the familiar form.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(&self.repository.familiar()))
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    /// Parses a reference, familiar or canonical. No tag is added: see [`Reference::or_latest`].
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon before a slash belongs to a port.
        let colon = rest.rfind(':').filter(|at| !rest[*at..].contains('/'));
        let (name, tag) = match colon {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ParseError::new("a tag of letters, digits and . _ -, at most 128", text.as_bytes()));
        }
        Ok(Self { repository: name.parse()?, tag: tag.map(str::to_owned), digest })
    }
}

/// Splits a name into its host and its path, and fills in what a familiar name leaves out.
fn split_host(name: &str) -> (&str, String) {
    let (host, path) = match name.split_once('/') {
        Some((first, path)) if names_a_host(first) => (first, path),
        _ => (DEFAULT_HOST, name),
    };
    let host = if host == OLD_DEFAULT_HOST { DEFAULT_HOST } else { host };
    if host == DEFAULT_HOST && !path.contains('/') {
        return (host, format!("{OFFICIAL}{path}"));
    }
    (host, path.to_owned())
}

/// Tells whether the first component of a name is a host: only a host has a dot, a port or a capital.
fn names_a_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, after)) => {
            if address.is_empty() || !address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':') {
                return false;
            }
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None => return after.is_empty(),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let is_label = |label: &str| {
        let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        edge(label.bytes().next())
            && edge(label.bytes().next_back())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.is_none_or(|host| host.split('.').all(is_label))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Tells whether `text` is `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_edge = |byte: Option<u8>| byte.is_some_and(is_word);
    if !is_edge(text.bytes().next()) || !is_edge(text.bytes().next_back()) {
        return false;
    }
    text.split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit())
        .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().next().is_some_and(is_word)
        && text.len() <= MAX_TAG
        && text.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:aa0daf2b17c370a1da371a767110a43b390a9db90b90d2d1b07862dc81754d61";

    #[test]
    fn familiar_and_canonical() {
        for (written, familiar, canonical) in [
            ("nginx", "nginx", "docker.io/library/nginx"),
            ("nginx:alpine", "nginx:alpine", "docker.io/library/nginx:alpine"),
            ("docker.io/library/nginx:alpine", "nginx:alpine", "docker.io/library/nginx:alpine"),
            ("index.docker.io/nginx:alpine", "nginx:alpine", "docker.io/library/nginx:alpine"),
            ("library/nginx", "nginx", "docker.io/library/nginx"),
            ("library/a/b", "library/a/b", "docker.io/library/a/b"),
            ("me/app:1", "me/app:1", "docker.io/me/app:1"),
            ("ghcr.io/a/b:1", "ghcr.io/a/b:1", "ghcr.io/a/b:1"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("localhost:5000/app", "localhost:5000/app", "localhost:5000/app"),
            ("[::1]:5000/app:x", "[::1]:5000/app:x", "[::1]:5000/app:x"),
            ("Host/app", "Host/app", "Host/app"),
            ("a__b-c---d.e_f:V1.0-rc_2", "a__b-c---d.e_f:V1.0-rc_2", "docker.io/library/a__b-c---d.e_f:V1.0-rc_2"),
        ] {
            let reference: Reference = written.parse().expect("a reference");
            assert_eq!(reference.to_string(), familiar, "{written}");
            assert_eq!(reference.canonical(), canonical, "{written}");
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag_in_the_store() {
        let reference: Reference = format!("nginx:alpine@{DIGEST}").parse().expect("a reference");
        assert_eq!(reference.key(), format!("nginx@{DIGEST}"));
        assert_eq!(reference.to_string(), format!("nginx:alpine@{DIGEST}"));
    }

    #[test]
    fn latest_is_for_names_alone() {
        let key = |text: &str| text.parse::<Reference>().expect("a reference").or_latest().key();
        assert_eq!(key("nginx"), "nginx:latest");
        assert_eq!(key("nginx:1"), "nginx:1");
        assert_eq!(key(&format!("nginx@{DIGEST}")), format!("nginx@{DIGEST}"));
    }

    #[test]
    fn keys_that_docker_does_not_make() {
        for key in ["nginx:1", "sha256/x:1", "x/sha256:1", "sha:256"] {
            assert!(Reference::is_key(key), "{key}");
        }
        for text in ["nginx", "sha256:16ccba7e2273", "docker.io/library/nginx:1", &format!("sha256@{DIGEST}")] {
            assert!(!Reference::is_key(text), "{text}");
        }
    }

    #[test]
    fn what_docker_refuses() {
        let long = "a".repeat(300);
        let hex = "0".repeat(64);
        for bad in [
            "",
            ":",
            "nginx:",
            ":tag",
            "Nginx",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a//b",
            "/a",
            "a/",
            "nginx@",
            "nginx@sha256:12",
            "nginx:-x",
            "host:port/app",
            "ho_st.x/app",
            "a b",
            "ü",
            "a:b:c",
            "[]:5/app",
            "[::1]x/app",
            "a\u{202e}",
            &long,
            &hex,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// Every way to write a reference leads to the same one, and nothing panics.
        #[test]
        fn forms_agree(text in "([a-zA-Z0-9.:-]{1,6}/)?[a-z0-9._/-]{1,12}(:[a-zA-Z0-9_.-]{1,6})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.canonical().parse::<Reference>().expect("canonical parses"), reference.clone());
                prop_assert_eq!(reference.to_string().parse::<Reference>().expect("familiar parses"), reference);
            }
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "\\PC*") {
            let _ = text.parse::<Reference>();
        }
    }
}
