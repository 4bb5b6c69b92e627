//! Text in the character sets of PS3.3 C.12.1.1.2, with code extensions (ISO/IEC 2022, PS3.5 6.1.2), to Unicode.
//!
//! A value is decoded whole or not at all: text that lost letters may name another patient.

use encoding_rs::{
    EUC_JP, EUC_KR, Encoding, GB18030, GBK, ISO_8859_2, ISO_8859_3, ISO_8859_4, ISO_8859_5,
    ISO_8859_6, ISO_8859_7, ISO_8859_8, ISO_8859_15, SHIFT_JIS, UTF_8, WINDOWS_874, WINDOWS_1252,
    WINDOWS_1254,
};

const ESCAPE: u8 = 0x1b;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Charset {
    /// None is named, or ASCII alone.
    Absent,
    /// One that is not known here.
    Unknown,
    /// Without code extensions: no byte of a letter is to be taken for a delimiter.
    Whole(&'static Encoding),
    /// What bytes above 127 are at the beginning of a value, and behind its delimiters.
    Extended(Option<Set>),
}

/// A set of characters beside ASCII.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Set {
    /// One byte each.
    Single(&'static Encoding),
    /// JIS X 0201: half-width katakana.
    Katakana,
    /// Two bytes each: as EUC has them, with the high bits set.
    Double(&'static Encoding),
    /// JIS X 0208.
    Kanji,
    /// JIS X 0212, the third set of EUC-JP.
    MoreKanji,
}

/// Final bytes of the sets of one byte that are designated as G1 by `ESC -`.
const SINGLE: [(u16, u8, &Encoding); 12] = [
    (100, b'A', WINDOWS_1252),
    (101, b'B', ISO_8859_2),
    (109, b'C', ISO_8859_3),
    (110, b'D', ISO_8859_4),
    (126, b'F', ISO_8859_7),
    (127, b'G', ISO_8859_6),
    (138, b'H', ISO_8859_8),
    (144, b'L', ISO_8859_5),
    (148, b'M', WINDOWS_1254),
    (166, b'T', WINDOWS_874),
    (203, b'b', ISO_8859_15),
    (6, b'@', WINDOWS_1252),
];

/// How a text came out.
#[derive(Debug, PartialEq)]
pub(super) enum Text {
    Known(String),
    /// No character set was named that says what its bytes mean.
    Guessed(String),
    Unreadable,
}

/// One term of SpecificCharacterSet.
enum Term {
    Ascii,
    Whole(&'static Encoding),
    Set(Option<Set>),
    Unknown,
}

impl Term {
    /// Spelled as the standard does, or nearly so.
    fn read(word: &str) -> Self {
        let word = word.trim_matches(['\0', ' ']).to_ascii_uppercase();
        let spelled: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
        let number = spelled
            .strip_prefix("ISO2022")
            .or(spelled.strip_prefix("ISO"))
            .map(|rest| rest.strip_prefix("IR").unwrap_or(rest));
        match (spelled.as_str(), number.unwrap_or_default()) {
            ("", _) | (_, "6") => Self::Ascii,
            ("GB18030", _) => Self::Whole(GB18030),
            ("GBK", _) => Self::Whole(GBK),
            ("UTF8", _) | (_, "192") => Self::Whole(UTF_8),
            (_, "13") => Self::Set(Some(Set::Katakana)),
            // Designated as G0, by an escape sequence alone.
            (_, "87" | "159") => Self::Set(None),
            (_, "58") => Self::Set(Some(Set::Double(GBK))),
            (_, "149") => Self::Set(Some(Set::Double(EUC_KR))),
            (_, number) => {
                let number = number.parse().unwrap_or(0_u16);
                let single = SINGLE.iter().find(|single| single.0 == number);
                single.map_or(Self::Unknown, |single| {
                    Self::Set(Some(Set::Single(single.2)))
                })
            }
        }
    }
}

impl Charset {
    /// Of the value of SpecificCharacterSet (0008,0005).
    pub(super) fn named(value: &[u8]) -> Self {
        let words = String::from_utf8_lossy(value);
        let mut terms = words.split('\\').map(Term::read);
        let first = terms.next().unwrap_or(Term::Ascii);
        let mut others = terms.peekable();
        match first {
            Term::Whole(encoding) => Self::Whole(encoding),
            Term::Unknown => Self::Unknown,
            Term::Ascii if others.peek().is_none() => Self::Absent,
            Term::Set(Some(set)) => Self::Extended(Some(set)),
            // Some writers leave out the sequence that designates the only set there is.
            Term::Ascii | Term::Set(None) => Self::Extended(others.find_map(|term| match term {
                Term::Set(set) => set,
                _ => None,
            })),
        }
    }

    /// `is_name`: `^` and `=` are delimiters, too.
    pub(super) fn decode(&self, bytes: &[u8], is_name: bool) -> Text {
        let has_escape = bytes.contains(&ESCAPE);
        if bytes.is_ascii() && !has_escape {
            return Text::Known(String::from_utf8_lossy(bytes).into_owned());
        }
        let known = |text: Option<String>| text.map_or(Text::Unreadable, Text::Known);
        match self {
            Self::Whole(encoding) if !has_escape => known(strict(encoding, bytes)),
            Self::Extended(set) => known(extended(bytes, *set, is_name)),
            // Escape sequences say themselves what they designate.
            _ if has_escape => known(extended(bytes, None, is_name)),
            _ => match (std::str::from_utf8(bytes), self) {
                (Ok(text), _) => Text::Guessed(text.to_owned()),
                (Err(_), Self::Absent) => {
                    strict(WINDOWS_1252, bytes).map_or(Text::Unreadable, Text::Guessed)
                }
                (Err(_), _) => Text::Unreadable,
            },
        }
    }
}

fn strict(encoding: &'static Encoding, bytes: &[u8]) -> Option<String> {
    let text = encoding.decode_without_bom_handling_and_without_replacement(bytes);
    text.map(std::borrow::Cow::into_owned)
}

/// What a set is designated as by an escape sequence, and the sequence's length.
fn designation(bytes: &[u8]) -> Option<(Designation, usize)> {
    use Designation::{G0, G1};
    let single = |last: u8| {
        let single = SINGLE.iter().find(|single| single.1 == last)?;
        Some(Set::Single(single.2))
    };
    Some(match bytes {
        [b'$', b'@' | b'B', ..] => (G0(Some(Set::Kanji)), 2),
        [b'$', b'(', b'@' | b'B', ..] => (G0(Some(Set::Kanji)), 3),
        [b'$', b'(', b'D', ..] => (G0(Some(Set::MoreKanji)), 3),
        [b'$', b'A', ..] => (G0(Some(Set::Double(GBK))), 2),
        [b'$', b'(', b'A', ..] => (G0(Some(Set::Double(GBK))), 3),
        [b'$', b'(', b'C', ..] => (G0(Some(Set::Double(EUC_KR))), 3),
        [b'$', b')', b'A', ..] => (G1(Set::Double(GBK)), 3),
        [b'$', b')', b'C', ..] => (G1(Set::Double(EUC_KR)), 3),
        [b'(', b'B' | b'J', ..] => (G0(None), 2),
        [b'(', b'I', ..] => (G0(Some(Set::Katakana)), 2),
        [b')', b'I', ..] => (G1(Set::Katakana), 2),
        [b'-', last, ..] => (G1(single(*last)?), 2),
        _ => return None,
    })
}

enum Designation {
    G0(Option<Set>),
    G1(Set),
}

fn extended(bytes: &[u8], first: Option<Set>, is_name: bool) -> Option<String> {
    let (mut g0, mut g1) = (None, first);
    let mut text = String::new();
    let mut rest = bytes;
    while let Some((&byte, behind)) = rest.split_first() {
        if byte == ESCAPE {
            let (designated, length) = designation(behind)?;
            match designated {
                Designation::G0(set) => g0 = set,
                Designation::G1(set) => g1 = Some(set),
            }
            rest = &behind[length..];
            continue;
        }
        let is_printable = (0x21..=0x7e).contains(&byte);
        let set = match byte {
            0x80.. => Some(g1?),
            _ if is_printable => g0,
            _ => None,
        };
        let Some(set) = set else {
            let is_delimiter = matches!(byte, b'\\' | b'\t' | b'\n' | b'\r' | 0x0c)
                || is_name && matches!(byte, b'^' | b'=');
            if is_delimiter {
                (g0, g1) = (None, first);
            }
            text.push(char::from(byte));
            rest = behind;
            continue;
        };
        let length = set.width();
        text.push_str(&set.letter(rest.get(..length)?)?);
        rest = &rest[length..];
    }
    Some(text)
}

impl Set {
    fn width(self) -> usize {
        match self {
            Self::Single(_) | Self::Katakana => 1,
            Self::Double(_) | Self::Kanji | Self::MoreKanji => 2,
        }
    }

    fn letter(self, bytes: &[u8]) -> Option<String> {
        let high: Vec<u8> = bytes.iter().map(|byte| byte | 0x80).collect();
        let text = match self {
            Self::Single(encoding) | Self::Double(encoding) => strict(encoding, &high),
            Self::Katakana => strict(SHIFT_JIS, &high),
            Self::Kanji => jis(&high).or_else(|| strict(EUC_JP, &high)),
            Self::MoreKanji => strict(EUC_JP, &[&[0x8f], &high[..]].concat()),
        };
        text.filter(|text| text.chars().count() == 1)
    }
}

/// Letters of JIS X 0208 that `encoding_rs` has as Windows does: here they are those of the standard's own table.
fn jis(pair: &[u8]) -> Option<String> {
    let letter = match pair {
        [0xa1, 0xc1] => '\u{301c}',
        [0xa1, 0xc2] => '\u{2016}',
        [0xa1, 0xdd] => '\u{2212}',
        [0xa1, 0xf1] => '\u{a2}',
        [0xa1, 0xf2] => '\u{a3}',
        [0xa2, 0xcc] => '\u{ac}',
        _ => return None,
    };
    Some(letter.into())
}

#[cfg(test)]
mod tests;
