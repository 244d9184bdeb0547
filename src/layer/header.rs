//! One 512-byte tar header, as Go's `archive/tar` reads it: V7, ustar, PAX, GNU and STAR.

use super::member::TarError;

/// Size of a block.
pub(super) const BLOCK: usize = 512;

/// Fields of a header block, before PAX records and GNU long names are put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) type_flag: u8,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: i64,
    pub(super) atime: Option<i64>,
    pub(super) device: (i64, i64),
}

impl Header {
    /// Parses a block that is not all zeros.
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        let checksum = number(&block[148..156]).ok_or(TarError::Header("checksum"))?;
        let sums = [sum(block, i64::from), sum(block, |byte| i64::from(byte.cast_signed()))];
        if !sums.contains(&checksum) {
            return Err(TarError::Header("checksum"));
        }
        let field = |range: std::ops::Range<usize>, name| number(&block[range]).ok_or(TarError::Header(name));
        let mut header = Self {
            name: text(&block[..100]),
            link: text(&block[157..257]),
            type_flag: block[156],
            mode: field(100..108, "mode")?,
            uid: field(108..116, "uid")?,
            gid: field(116..124, "gid")?,
            size: field(124..136, "size")?,
            mtime: field(136..148, "mtime")?,
            atime: None,
            device: (0, 0),
        };
        let dialect = Dialect::of(block);
        if dialect != Dialect::V7 {
            header.device = (field(329..337, "device major")?, field(337..345, "device minor")?);
        }
        let prefix = header.prefix(dialect, block)?;
        if !prefix.is_empty() {
            header.name = [&prefix[..], b"/", &header.name].concat();
        }
        Ok(header)
    }

    /// Reads what stands at byte 345: the front of the name, or GNU's times.
    fn prefix(&mut self, dialect: Dialect, block: &[u8; BLOCK]) -> Result<Vec<u8>, TarError> {
        let field = |range: std::ops::Range<usize>, name| number(&block[range]).ok_or(TarError::Header(name));
        Ok(match dialect {
            Dialect::V7 => Vec::new(),
            Dialect::Ustar => text(&block[345..500]),
            Dialect::Star => {
                self.atime = Some(field(476..488, "time")?);
                field(488..500, "time")?;
                text(&block[345..476])
            }
            Dialect::Gnu => {
                let times = [&block[345..357], &block[357..369]].map(|time| (time[0] != 0).then(|| number(time)));
                if times.contains(&Some(None)) {
                    // Go before 1.8 wrote ustar's prefix into GNU headers.
                    let prefix = text(&block[345..500]);
                    return Ok(if prefix.is_ascii() { prefix } else { Vec::new() });
                }
                self.atime = times[0].flatten();
                Vec::new()
            }
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Dialect {
    /// The two bytes of the version are looked at in GNU's form alone: Go before 1.8 wrote GNU's ones behind the magic of
    /// ustar, so layers of old Docker with large user IDs and long names have those.
    fn of(block: &[u8; BLOCK]) -> Self {
        match &block[257..265] {
            [b'u', b's', b't', b'a', b'r', 0, ..] if &block[508..512] == b"tar\0" => Self::Star,
            [b'u', b's', b't', b'a', b'r', 0, ..] => Self::Ustar,
            b"ustar  \0" => Self::Gnu,
            _ => Self::V7,
        }
    }
}

fn sum(block: &[u8; BLOCK], value: impl Fn(u8) -> i64) -> i64 {
    block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { value(*byte) }).sum()
}

fn text(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|byte| *byte != 0).collect()
}

/// Reads a number in octal digits, or in base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

fn base256(field: &[u8]) -> Option<i64> {
    // Two's complement; the second bit of the field is the sign.
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = match (at, negative) {
            (0, true) => byte | 0x80,
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        value = value << 8 | i128::from(byte);
        i64::try_from(value).ok()?;
    }
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<i64> {
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !padding(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !padding(byte)).map_or(start, |last| last + 1);
    // What follows an embedded NUL does not count.
    let digits = text(&field[start..end]);
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of a name with a prefix and of a device, with this magic and version, and its own sum.
    fn block(magic: &[u8; 8], trailer: &[u8; 4]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"name");
        put(156, b"3");
        put(257, magic);
        put(329, b"0000001\0");
        put(337, b"0000003\0");
        put(345, b"prefix");
        put(508, trailer);
        let sum = sum(&block, i64::from);
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn the_version_of_ustar_does_not_matter() {
        let parse = |magic, trailer| {
            let header = Header::parse(&block(magic, trailer)).expect("a header");
            (String::from_utf8(header.name).expect("text"), header.device)
        };
        for magic in [b"ustar\x0000", b"ustar\0 \0", b"ustar\0\0\0", b"ustar\0xx"] {
            for trailer in [b"\0\0\0\0", b"tar\0"] {
                assert_eq!(parse(magic, trailer), ("prefix/name".to_owned(), (1, 3)), "{}", magic.escape_ascii());
            }
        }
        for magic in [b"ustar 00", b"ustar  0", b"USTAR\x0000", b"\0\0\0\0\0\0\0\0"] {
            assert_eq!(parse(magic, b"\0\0\0\0"), ("name".to_owned(), (0, 0)), "{}", magic.escape_ascii());
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"00006x4\0"), None);
        assert_eq!(number(b"\x80\0\0\0\x80\0\0\0"), Some(1 << 31));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xae\x80"), Some(-86400));
        assert_eq!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
    }
}
