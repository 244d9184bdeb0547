//! Types of Docker's that read themselves.

use super::scan::{Kind, text};
use super::{FromGo, JsonError, Reading, Value};

/// A time in the form of RFC 3339, as text: Go takes no other (`time.Time`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GoTime(pub(crate) String);

impl GoTime {
    /// Writes it as Go does: at most nine digits of a fraction and no zeros at its end, and `Z` where the offset is none.
    pub(crate) fn as_go(&self) -> String {
        let (front, rest) = self.0.split_at_checked(19).unwrap_or((&self.0, ""));
        let digits = rest.strip_prefix('.').map_or(0, |rest| 1 + rest.bytes().take_while(u8::is_ascii_digit).count());
        let (fraction, zone) = rest.split_at(digits);
        let fraction = fraction[..digits.min(10)].trim_end_matches('0').trim_end_matches('.');
        let zone = if matches!(zone, "+00:00" | "-00:00") { "Z" } else { zone };
        format!("{front}{fraction}{zone}")
    }
}

/// A value as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl FromGo for Raw {
    fn fill(&mut self, value: Value<'_>, _: &mut Reading) -> Result<(), JsonError> {
        self.0 = value.0.to_vec();
        Ok(())
    }
}

impl FromGo for GoTime {
    fn fill(&mut self, value: Value<'_>, reading: &mut Reading) -> Result<(), JsonError> {
        match value.kind() {
            Kind::Null => return Ok(()),
            // Go looks at the text as it stands, with its escapes.
            Kind::Text => self.0 = String::from_utf8_lossy(&value.0[1..value.0.len() - 1]).into_owned(),
            _ => {}
        }
        match value.kind() == Kind::Text && is_time(self.0.as_bytes()) {
            true => Ok(()),
            false => value.mismatch("a time as 2006-01-02T15:04:05Z", reading),
        }
    }
}

/// Tells whether text is a time as Go reads it from JSON.
pub(crate) fn is_time(text: &[u8]) -> bool {
    let Some((front, mut rest)) = text.split_at_checked(19) else { return false };
    let number = |text: &[u8]| {
        let digits = text.iter().all(u8::is_ascii_digit);
        digits.then(|| text.iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0')))
    };
    let is_below = |text: &[u8], limit: u32| number(text).is_some_and(|number| number < limit);
    let (Some(year), Some(month), Some(day)) = (number(&front[..4]), number(&front[5..7]), number(&front[8..10]))
    else {
        return false;
    };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    let separators = [front[4], front[7], front[10], front[13], front[16]];
    let is_front = separators == *b"--T::"
        && (1..=days).contains(&day)
        && is_below(&front[11..13], 24)
        && is_below(&front[14..16], 60)
        && is_below(&front[17..19], 60);
    if let [b'.', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        rest = &fraction[digits..];
    }
    let is_zone = match rest {
        b"Z" => true,
        [b'+' | b'-', zone @ ..] => {
            zone.len() == 5 && zone[2] == b':' && is_below(&zone[..2], 24) && is_below(&zone[3..], 60)
        }
        _ => false,
    };
    is_front && is_zone
}

/// Words of a command: a list, or a text that is the only one (`strslice.StrSlice`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) Option<Vec<String>>);

impl FromGo for Words {
    fn fill(&mut self, value: Value<'_>, reading: &mut Reading) -> Result<(), JsonError> {
        // It is read anew, whatever was there.
        self.0 = None;
        match value.kind() {
            Kind::Text => self.0 = Some(vec![text(value.0)]),
            _ => self.0.fill(value, reading)?,
        }
        Ok(())
    }
}

/// An object of which nothing is read (`struct{}`): maps that are sets have such values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Nothing;

impl FromGo for Nothing {
    fn fill(&mut self, value: Value<'_>, reading: &mut Reading) -> Result<(), JsonError> {
        value.fields(&[], reading, |_, _, _| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for good in [
            "2020-01-02T03:04:05Z",
            "0001-01-01T00:00:00Z",
            "2020-02-29T23:59:59.123456789123+14:00",
            "1970-01-01T00:00:00-00:00",
        ] {
            assert!(is_time(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "2020-01-02 03:04:05Z",
            "2020-01-02T03:04:05",
            "2020-01-02T3:04:05Z",
            "2020-13-02T03:04:05Z",
            "2019-02-29T03:04:05Z",
            "2020-01-00T03:04:05Z",
            "2020-01-02T24:04:05Z",
            "2020-01-02T03:04:60Z",
            "2020-01-02T03:04:05,1Z",
            "2020-01-02T03:04:05.Z",
            "2020-01-02T03:04:05z",
            "2020-01-02T03:04:05+1:00",
            "2020-01-02T03:04:05+24:00",
            "2020-01-02T03:04:05+01:60",
            "2020-01-02T03:04:05Zx",
            "\u{e9}\u{e9}20-01-02T03:04:05Z",
        ] {
            assert!(!is_time(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn times_as_go_writes_them() {
        for (read, written) in [
            ("2015-09-08T10:00:00.120300Z", "2015-09-08T10:00:00.1203Z"),
            ("2015-09-08T10:00:00.000+01:00", "2015-09-08T10:00:00+01:00"),
            ("2015-09-08T10:00:00Z", "2015-09-08T10:00:00Z"),
            ("2015-09-08T10:00:00.1234567899+00:00", "2015-09-08T10:00:00.123456789Z"),
            ("", ""),
        ] {
            assert_eq!(GoTime(read.to_owned()).as_go(), written);
        }
    }

    #[test]
    fn words_and_sets() {
        let words = |text: &str| super::super::read::<Words>(text.as_bytes()).map(|read| read.value.0).ok();
        assert_eq!(words("\"x y\""), Some(Some(vec!["x y".to_owned()])));
        assert_eq!(words("[\"x\",null]"), Some(Some(vec!["x".to_owned(), String::new()])));
        assert_eq!(words("[]"), Some(Some(vec![])));
        assert_eq!(words("null"), Some(None));
        assert_eq!(words("[1]"), None);
        assert_eq!(words("1"), None);
        let set = |text: &str| super::super::read::<Nothing>(text.as_bytes()).is_ok();
        assert!(set("{\"x\":1}") && set("null"));
        assert!(!set("\"\"") && !set("[]"));
    }
}
