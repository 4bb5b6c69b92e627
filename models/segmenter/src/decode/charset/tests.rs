use super::{Charset, Text};

fn decoded(set: &str, hex: &str) -> Text {
    Charset::named(set.as_bytes()).decode(&hex::decode(hex).unwrap(), true)
}

/// Bytes and text by pydicom 3.0.2:
/// `sets = convert_encodings(set.split("\\")); PersonName(text, sets).encode(sets).hex()`
const BY_PYDICOM: [(&str, &str, &str); 20] = [
    ("ISO_IR 100", "Äneas^Rüdiger", "c46e6561735e52fc6469676572"),
    ("ISO_IR 101", "Wałęsa^Łukasz", "5761b3ea73615ea3756b61737a"),
    ("ISO_IR 109", "Ĉapelo^Ħal", "c66170656c6f5ea1616c"),
    ("ISO_IR 110", "Āboliņš^Jānis", "c0626f6c69f1b95e4ae06e6973"),
    ("ISO_IR 144", "Люкceмбypг", "bbeeda6365dcd17970d3"),
    ("ISO_IR 127", "قباني^لنزار", "e2c8c7e6ea5ee4e6d2c7d1"),
    ("ISO_IR 126", "Διονυσιος", "c4e9efedf5f3e9eff2"),
    ("ISO_IR 138", "שרון^דבורה", "f9f8e5ef5ee3e1e5f8e4"),
    ("ISO_IR 148", "Çavuşoğlu", "c7617675fe6ff06c75"),
    ("ISO_IR 166", "นามสกุล", "b9d2c1caa1d8c5"),
    ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ", "d4cfc0de5ec0dbb3"),
    (
        "ISO_IR 192",
        "Wang^XiaoDong=王^小东",
        "57616e675e5869616f446f6e673de78e8b5ee5b08fe4b89c",
    ),
    (
        "GB18030",
        "Wang^XiaoDong=王^小东",
        "57616e675e5869616f446f6e673dcdf55ed0a1b6ab",
    ),
    (
        "GBK",
        "Wang^XiaoDong=王^小东",
        "57616e675e5869616f446f6e673dcdf55ed0a1b6ab",
    ),
    (
        "\\ISO 2022 IR 149",
        "Hong^Gildong=洪^吉洞=홍^길동",
        "486f6e675e47696c646f6e673d1b242943fbf35e1b242943d1ced4d73d1b242943c8ab5e1b242943b1e6b5bf",
    ),
    (
        "\\ISO 2022 IR 87",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "59616d6164615e5461726f753d1b24423b3345441b28425e1b244242404f3a1b28423d1b24422464245e24401b28425e1b2442243f246d24261b2842",
    ),
    (
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        "d4cfc0de5ec0dbb33d1b24423b3345441b284a5e1b244242404f3a1b284a3d1b24422464245e24401b284a5e1b2442243f246d24261b284a",
    ),
    (
        "\\ISO 2022 IR 87\\ISO 2022 IR 159",
        "丂^侄",
        "1b24284430211b28425e1b242844307e1b2842",
    ),
    (
        "ISO 2022 IR 100\\ISO 2022 IR 144",
        "Ärger Люк",
        "1b2d41c472676572201b2d4cbbeeda",
    ),
    ("ISO 2022 IR 6\\ISO 2022 IR 101", "Łuk", "1b2d42a3756b"),
];

#[test]
fn names_in_every_character_set_are_those_of_pydicom() {
    for (set, text, bytes) in BY_PYDICOM {
        assert_eq!(decoded(set, bytes), Text::Known(text.into()), "{set}");
        // As some write it.
        let spelled = set.replace('_', " ").to_lowercase();
        assert_eq!(decoded(&spelled, bytes), Text::Known(text.into()), "{set}");
    }
}

/// PS3.5 K.2 and J.3: GB2312 as G1, which pydicom leaves as it stands.
#[test]
fn chinese_with_code_extensions() {
    let bytes = "5a68616e675e5869616f446f6e673d1b242941d5c55e1b242941d0a1b6ab";
    let text = Text::Known("Zhang^XiaoDong=张^小东".into());
    assert_eq!(decoded("\\ISO 2022 IR 58", bytes), text);
}

#[test]
fn a_delimiter_within_a_letter_is_none() {
    // The second byte of the letter is that of a backslash, of `^` and of `=`.
    for (set, bytes, text) in [
        ("GBK", "815c", "乗"),
        ("GB18030", "815e5c41", "乛\\A"),
        ("\\ISO 2022 IR 87", "1b2442305c1b2842", "移"),
        ("\\ISO 2022 IR 87", "1b2442305e1b28425e41", "緯^A"),
        ("\\ISO 2022 IR 87", "1b2442303d1b2842", "綾"),
    ] {
        assert_eq!(decoded(set, bytes), Text::Known(text.into()), "{set}");
    }
}

#[test]
fn a_set_that_no_escape_sequence_designates_is_the_only_one() {
    let text = Text::Known("洪^吉洞".into());
    for set in ["\\ISO 2022 IR 149", "ISO 2022 IR 149", "ISO_IR 149"] {
        assert_eq!(decoded(set, "fbf35ed1ced4d7"), text, "{set}");
    }
    // The sequence says itself what it designates, whatever is named or not.
    for set in ["", "ISO_IR 100", "ISO_IR 192", "KLINGON"] {
        let japanese = decoded(set, "1b24423b3345441b2842");
        assert_eq!(japanese, Text::Known("山田".into()), "{set}");
    }
}

#[test]
fn what_cannot_be_told_is_guessed_or_left_out() {
    assert_eq!(decoded("", "c3a4"), Text::Guessed("ä".into()));
    assert_eq!(decoded("ISO_IR 6", "e4"), Text::Guessed("ä".into()));
    assert_eq!(decoded("KLINGON", "c3a4"), Text::Guessed("ä".into()));
    for (set, bytes) in [
        ("KLINGON", "e4"),
        ("ISO_IR 192", "e4"),
        ("GB18030", "ff"),
        ("\\ISO 2022 IR 87", "e4"),
        ("\\ISO 2022 IR 87", "1b24423b"),
        ("\\ISO 2022 IR 149", "1b242943fb"),
        ("ISO_IR 100", "411b2a42"),
        ("", "1b"),
    ] {
        assert_eq!(decoded(set, bytes), Text::Unreadable, "{set} {bytes}");
    }
    assert_eq!(decoded("KLINGON", "41"), Text::Known("A".into()));
}
