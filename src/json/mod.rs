//! JSON as Go's `encoding/json` reads it, for documents of which dockerd's reading decides: those of archives, and the
//! records of a store.
//!
//! What Go does, and other readers do not:
//!
//! - **Keys** match a field in any case (`RootFS` is `rootfs`; also `ſ` for `s` and the Kelvin sign for `k`). One that is
//!   exactly a field's name is that field's alone.
//! - **All keys count, in their order.** Of two for one field the last one wins; where both are objects or lists, the
//!   second is read into what the first has left.
//! - **`null`** leaves a plain value as it is, and empties a list, a map and what may be missing.
//! - **A value of another type** than the field's is an error, and the document is taken for unreadable. A number that is
//!   to be whole has no fraction and no exponent. What is no field is passed over, whatever it is: a number may be too
//!   large, a list 10,000 deep.
//! - **Text** that is not UTF-8, and half of a surrogate pair, become U+FFFD.
//! - A document is checked as a whole before anything is read. `Decoder`, which reads files, does not look behind the
//!   first value ([`first`]).
//!
//! A document in which keys differ from their fields in case, or stand twice, says one thing to Go and another to whoever
//! else looks at it. [`Read::odd`] tells of it: nobody may conclude from such a record that something is not needed.

mod scan;
mod types;

pub(crate) use types::{GoTime, Nothing, Raw, Words, is_time};

use std::collections::BTreeMap;

use scan::{Kind, Members};

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    /// It is no JSON.
    #[error("no JSON: {0} at byte {1}")]
    Syntax(&'static str, usize),
    /// A value is of another type.
    #[error("{}expected {expected}, found {found}", place(.at))]
    Type {
        /// Names of the fields that lead to it.
        at: Vec<String>,
        /// What is to be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}

fn place(at: &[String]) -> String {
    if at.is_empty() { String::new() } else { format!("{}: ", at.join(".")) }
}

/// A document that was read.
#[derive(Debug)]
pub(crate) struct Read<T> {
    /// What Go has of it.
    pub(crate) value: T,
    /// A key that Go takes for a field whose name it is not, or for one that was there before.
    pub(crate) odd: Option<String>,
}

impl<T> Read<T> {
    /// Returns the value, where there is only one way to read it.
    pub(crate) fn plain(self) -> Result<T, String> {
        match self.odd {
            None => Ok(self.value),
            Some(odd) => Err(odd),
        }
    }
}

/// Reads a document that is one value, as `Unmarshal` does.
pub(crate) fn read<T: FromGo + Default>(text: &[u8]) -> Result<Read<T>, JsonError> {
    let value = scan::whole(text)?;
    take(Value(value))
}

/// Reads the first value of a document, as a `Decoder` does: what is behind it does not count.
pub(crate) fn first<T: FromGo + Default>(text: &[u8]) -> Result<T, JsonError> {
    let value = scan::first(text)?;
    Ok(take(Value(value))?.value)
}

fn take<T: FromGo + Default>(value: Value<'_>) -> Result<Read<T>, JsonError> {
    let (mut read, mut reading) = (T::default(), Reading::default());
    read.fill(value, &mut reading)?;
    Ok(Read { value: read, odd: reading.odd })
}

/// Where in a document the reader is, and what it has seen.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    at: Vec<String>,
    odd: Option<String>,
}

impl Reading {
    fn within<R>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> R) -> R {
        self.at.push(name.to_owned());
        let read = read(self);
        self.at.pop();
        read
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.odd.is_none() {
            self.odd = Some(format!("{}{}", place(&self.at), what()));
        }
    }
}

/// What can be read.
pub(crate) trait FromGo {
    /// Reads a value into what is there already.
    fn fill(&mut self, value: Value<'_>, reading: &mut Reading) -> Result<(), JsonError>;
}

/// A value of a document that was checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    fn kind(self) -> Kind {
        Kind::of(self.0)
    }

    fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    fn mismatch<T>(self, expected: &'static str, reading: &Reading) -> Result<T, JsonError> {
        let found = match self.kind() {
            Kind::Number => String::from_utf8_lossy(&self.0[..self.0.len().min(40)]).into_owned(),
            Kind::Text => format!("\"{}\"", scan::text(self.0).chars().take(40).collect::<String>().escape_debug()),
            kind => kind.name().to_owned(),
        };
        Err(JsonError::Type { at: reading.at.clone(), expected, found })
    }

    /// Gives each member that is one of these fields to `field`, by the field's name, in the document's order.
    pub(crate) fn fields(
        self,
        names: &[&'static str],
        reading: &mut Reading,
        mut field: impl FnMut(&'static str, Value<'a>, &mut Reading) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        match self.kind() {
            Kind::Null => return Ok(()),
            Kind::Object => {}
            _ => return self.mismatch("an object", reading),
        }
        let mut seen = vec![false; names.len()];
        for (key, value) in Members::of(self.0) {
            let key = scan::text(key);
            let exact = names.iter().position(|name| *name == key);
            let Some(index) = exact.or_else(|| names.iter().position(|name| is_folded(name, &key))) else { continue };
            let name = names[index];
            if exact.is_none() {
                reading.note(|| format!("the key {key:?} stands for {name:?}"));
            }
            if std::mem::replace(&mut seen[index], true) {
                reading.note(|| format!("the key {name:?} is there twice"));
            }
            reading.within(name, |reading| field(name, Value(value), reading))?;
        }
        Ok(())
    }
}

/// Tells whether Go takes a key for the field of this name, which is of ASCII.
fn is_folded(name: &str, key: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(key.chars().map(fold))
}

/// Has a struct read as Go reads one: `fields!(Type { "key" => field, … })`.
macro_rules! fields {
    ($type:ident { $($key:literal => $($field:ident).+),* $(,)? }) => {
        impl $crate::json::FromGo for $type {
            fn fill(
                &mut self,
                value: $crate::json::Value<'_>,
                reading: &mut $crate::json::Reading,
            ) -> Result<(), $crate::json::JsonError> {
                value.fields(&[$($key),*], reading, |name, value, reading| match name {
                    $($key => self.$($field).+.fill(value, reading),)*
                    _ => Ok(()),
                })
            }
        }
    };
}
pub(crate) use fields;

impl FromGo for String {
    fn fill(&mut self, value: Value<'_>, reading: &mut Reading) -> Result<(), JsonError> {
        match value.kind() {
            Kind::Null => {}
            Kind::Text => *self = scan::text(value.0),
            _ => return value.mismatch("text", reading),
        }
        Ok(())
    }
}

impl FromGo for bool {
    fn fill(&mut self, value: Value<'_>, reading: &mut Reading) -> Result<(), JsonError> {
        match value.kind() {
            Kind::Null => {}
            Kind::Bool => *self = value.0 == b"true",
            _ => return value.mismatch("true or false", reading),
        }
        Ok(())
    }
}

/// Has a whole number read, which has no fraction and no exponent.
macro_rules! whole_numbers {
    ($($type:ty => $expected:literal),* $(,)?) => {$(
        impl FromGo for $type {
            fn fill(&mut self, value: Value<'_>, reading: &mut Reading) -> Result<(), JsonError> {
                if value.is_null() {
                    return Ok(());
                }
                let number = std::str::from_utf8(value.0).ok().filter(|_| value.kind() == Kind::Number);
                match number.and_then(|digits| digits.parse().ok()) {
                    Some(number) => *self = number,
                    None => return value.mismatch($expected, reading),
                }
                Ok(())
            }
        }
    )*};
}

whole_numbers! {
    i64 => "a whole number of 64 bits",
    u64 => "a whole number of 64 bits without a sign",
    u32 => "a whole number of 32 bits without a sign",
    u16 => "a whole number of 16 bits without a sign",
}

impl<T: FromGo + Default> FromGo for Option<T> {
    fn fill(&mut self, value: Value<'_>, reading: &mut Reading) -> Result<(), JsonError> {
        if value.is_null() {
            *self = None;
            return Ok(());
        }
        self.get_or_insert_default().fill(value, reading)
    }
}

impl<T: FromGo + Default> FromGo for Vec<T> {
    fn fill(&mut self, value: Value<'_>, reading: &mut Reading) -> Result<(), JsonError> {
        match value.kind() {
            Kind::Null => self.clear(),
            Kind::List => {
                let mut length = 0;
                for (number, (_, item)) in Members::of(value.0).enumerate() {
                    if number == self.len() {
                        self.push(T::default());
                    }
                    reading.within(&number.to_string(), |reading| self[number].fill(Value(item), reading))?;
                    length = number + 1;
                }
                self.truncate(length);
            }
            _ => return value.mismatch("a list", reading),
        }
        Ok(())
    }
}

impl<T: FromGo + Default> FromGo for BTreeMap<String, T> {
    fn fill(&mut self, value: Value<'_>, reading: &mut Reading) -> Result<(), JsonError> {
        match value.kind() {
            Kind::Null => self.clear(),
            Kind::Object => {
                let before = std::mem::take(self);
                for (key, value) in Members::of(value.0) {
                    let key = scan::text(key);
                    let mut inner = T::default();
                    reading.within(&key, |reading| inner.fill(Value(value), reading))?;
                    if self.insert(key.clone(), inner).is_some() {
                        reading.note(|| format!("the key {key:?} is there twice"));
                    }
                }
                for (key, value) in before {
                    self.entry(key).or_insert(value);
                }
            }
            _ => return value.mismatch("an object", reading),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Inner {
        kind: String,
        skip: i64,
    }
    fields!(Inner { "kind" => kind, "sKip" => skip });

    #[derive(Debug, Default)]
    struct Outer {
        name: String,
        inner: Option<Inner>,
        list: Option<Vec<Inner>>,
        map: BTreeMap<String, Option<String>>,
    }
    fields!(Outer { "name" => name, "Inner" => inner, "list" => list, "map" => map });

    fn outer(text: &str) -> Outer {
        read(text.as_bytes()).expect("it is read").value
    }

    fn odd(text: &str) -> Option<String> {
        read::<Outer>(text.as_bytes()).expect("it is read").odd
    }

    #[test]
    fn keys_of_any_case() {
        for key in ["name", "NAME", "Name", "n\\u0061me"] {
            assert_eq!(outer(&format!("{{\"{key}\":\"x\"}}")).name, "x", "{key}");
        }
        for key in ["\u{17f}kip", "s\u{212a}ip", "SKIP", "sKip"] {
            let read = outer(&format!("{{\"inner\":{{\"{key}\":7}}}}"));
            assert_eq!(read.inner.expect("one").skip, 7, "{key}");
        }
        assert_eq!(outer(r#"{"nam":"x","names":"y","":"z"}"#).name, "");
    }

    #[test]
    fn the_last_one_wins_and_what_it_lacks_stays() {
        let read = outer(
            r#"{"Inner":{"kind":"a","skip":1},"name":"1","NAME":"2","inner":{"KIND":"b"},"name":null,
                "list":[{"kind":"x","sKip":1},{"kind":"y"}],"List":[{"sKip":2}],"map":{"a":"1","b":"2"},"MAP":{"b":null}}"#,
        );
        assert_eq!((read.name.as_str(), read.inner), ("2", Some(Inner { kind: "b".to_owned(), skip: 1 })));
        assert_eq!(read.list, Some(vec![Inner { kind: "x".to_owned(), skip: 2 }]));
        assert_eq!(read.map, BTreeMap::from([("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None)]));
    }

    #[test]
    fn null_leaves_or_empties() {
        let read = outer(r#"{"name":"x","name":null,"list":[{}],"list":null,"inner":{},"inner":null,"map":null}"#);
        assert_eq!((read.name.as_str(), read.list, read.inner), ("x", None, None));
        assert!(read.map.is_empty());
        assert_eq!(outer("null").name, "");
    }

    #[test]
    fn other_types_are_errors() {
        for (text, said) in [
            ("[]", "expected an object, found a list"),
            (r#"{"name":1}"#, "name: expected text, found 1"),
            (r#"{"inner":"x"}"#, "Inner: expected an object, found \"x\""),
            (r#"{"list":[{"kind":true}]}"#, "list.0.kind: expected text, found true or false"),
            (r#"{"inner":{"sKip":1.0}}"#, "Inner.sKip: expected a whole number of 64 bits, found 1.0"),
            (r#"{"inner":{"sKip":1e2}}"#, "Inner.sKip: expected a whole number of 64 bits, found 1e2"),
            (r#"{"inner":{"sKip":9223372036854775808}}"#, "found 9223372036854775808"),
            (r#"{"map":{"a":{}}}"#, "map.a: expected text, found an object"),
        ] {
            let error = read::<Outer>(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        let deep = format!(r#"{{"x":{}1e400{},"name":"y"}}"#, "[".repeat(9998), "]".repeat(9998));
        assert_eq!(outer(&deep).name, "y");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_told() {
        assert_eq!(odd(r#"{"name":"x","other":1,"Other":2,"map":{"a":"","A":""}}"#), None);
        assert_eq!(odd(r#"{"Name":"x"}"#).as_deref(), Some("the key \"Name\" stands for \"name\""));
        assert_eq!(odd(r#"{"name":"x","name":"x"}"#).as_deref(), Some("the key \"name\" is there twice"));
        assert_eq!(odd(r#"{"map":{"a":"","a":""}}"#).as_deref(), Some("map: the key \"a\" is there twice"));
        assert_eq!(odd(r#"{"list":[{"Kind":"x"}]}"#).as_deref(), Some("list.0: the key \"Kind\" stands for \"kind\""));
    }

    #[test]
    fn behind_the_first_value() {
        assert_eq!(first::<String>(b" \"x\" rest").expect("a value"), "x");
        assert!(read::<String>(b"\"x\" rest").is_err());
        assert!(first::<String>(b"").is_err());
    }

    proptest! {
        /// What other readers take is taken, text for text; nothing panics.
        #[test]
        fn as_others_where_they_agree(text in "\\PC*", bytes: Vec<u8>, json in "[\\[\\]{}:,\"\\\\abntu0-9.eE+ -]{0,24}") {
            prop_assert_eq!(scan::whole(json.as_bytes()).is_ok(), serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok());
            let json = serde_json::to_vec(&serde_json::json!({"name": text, "map": {text.clone(): text.clone()}})).expect("JSON");
            let read = read::<Outer>(&json).expect("JSON").value;
            prop_assert_eq!(&read.name, &text);
            prop_assert_eq!(read.map.get(&text), Some(&Some(text.clone())));
            let _ = super::first::<Outer>(&bytes);
        }
    }
}
