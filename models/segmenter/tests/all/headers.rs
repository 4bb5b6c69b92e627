//! Headers as archives and writers leave them: stored as UN, or encoded otherwise than they say. The image is the same.

use crate::written::{
    As, BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, INTERCEPT, PRIVATE, ROWS, SLOPE, assert_same,
    data_set, element, file, image, item, open_item, open_sequence, parts, scan,
};

#[test]
fn every_attribute_is_read_from_un() {
    for how in [As::Explicit, As::BigEndian] {
        let syntax = if how == As::Explicit {
            EXPLICIT
        } else {
            BIG_ENDIAN
        };
        let un =
            |(tag, _, value): (u32, &[u8; 2], Vec<u8>)| (tag, element(how, tag, b"UN", &value));
        for part in parts(how) {
            let name = format!("{:08x} as UN", part.0);
            assert_same(&name, &file(syntax, &data_set(how, &[un(part)])));
        }
        let all: Vec<_> = parts(how).into_iter().map(un).collect();
        assert_same("all as UN", &file(syntax, &data_set(how, &all)));
    }
}

/// PixelMeasures and PixelValueTransformation of the only frame, as items of one way within items of another.
fn groups(how: As, inner: As, is_open: bool) -> Vec<u8> {
    let un = |how, tag, items: Vec<u8>| {
        if is_open {
            open_sequence(how, tag, b"UN", &open_item(&items))
        } else {
            element(how, tag, b"UN", &item(&items))
        }
    };
    let spacing = element(inner, 0x0028_0030, b"DS", b"1.5\\1.5 ");
    let rescale = [
        element(inner, INTERCEPT, b"DS", b"5 "),
        element(inner, SLOPE, b"DS", b"-1"),
    ];
    let frame = [
        un(inner, 0x0028_9110, spacing),
        un(inner, 0x0028_9145, rescale.concat()),
    ];
    un(how, 0x5200_9230, frame.concat())
}

#[test]
fn functional_groups_are_read_from_un_however_they_are_encoded_inside() {
    for outer in [As::Explicit, As::BigEndian] {
        for inner in [As::Implicit, As::Explicit] {
            for is_open in [false, true] {
                let syntax = if outer == As::Explicit {
                    EXPLICIT
                } else {
                    BIG_ENDIAN
                };
                let changed = [
                    (0x5200_9230, groups(outer, inner, is_open)),
                    (0x0028_0030, Vec::new()),
                    (INTERCEPT, Vec::new()),
                    (SLOPE, Vec::new()),
                ];
                let scan = scan(&file(syntax, &data_set(outer, &changed)));
                assert_eq!(scan.spacing.common(), Some([1.5, 1.5]));
                assert_eq!(scan.frames[0].data, [5.0, 4.0, 3.0, 2.0, 1.0, -4090.0]);
            }
        }
    }
}

#[test]
fn private_sequences_as_un_cost_nothing() {
    let text = element(As::Implicit, 0x0029_1011, b"", b"philips ");
    let deeper = open_sequence(As::Implicit, 0x0029_1012, b"", &open_item(&text));
    for (name, items) in [
        ("empty", Vec::new()),
        ("items of known length", item(&text).repeat(2)),
        ("open items", open_item(&[text.clone(), deeper].concat())),
        (
            "explicit inside",
            open_item(&element(As::Explicit, 0x0029_1011, b"LO", b"ge")),
        ),
        (
            "an item without end",
            [&item(&text)[..4], &[0xff; 4], &text].concat(),
        ),
    ] {
        let open = open_sequence(As::Explicit, PRIVATE, b"UN", &items);
        assert_same(name, &image(&[(PRIVATE, open)]));
        let closed = element(As::Explicit, PRIVATE, b"UN", &items);
        assert_same(name, &image(&[(PRIVATE, closed)]));
        let implicit = open_sequence(As::Implicit, PRIVATE, b"", &items);
        let bytes = data_set(As::Implicit, &[(PRIVATE, implicit)]);
        assert_same(name, &file(IMPLICIT, &bytes));
        let big = open_sequence(As::BigEndian, PRIVATE, b"UN", &items);
        let bytes = data_set(As::BigEndian, &[(PRIVATE, big)]);
        assert_same(name, &file(BIG_ENDIAN, &bytes));
    }
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    // Stored blocks (RFC 1951 3.2.4).
    let length = bytes.len() as u16;
    [
        &[1][..],
        &length.to_le_bytes(),
        &(!length).to_le_bytes(),
        bytes,
    ]
    .concat()
}

#[test]
fn the_data_set_says_itself_how_it_is_encoded() {
    let how = [As::Explicit, As::Implicit, As::BigEndian];
    for stated in [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED] {
        for (index, how) in how.into_iter().enumerate() {
            assert_same(
                &format!("{stated} {index}"),
                &file(stated, &data_set(how, &[])),
            );
        }
        let bytes = deflated(&data_set(As::Explicit, &[]));
        assert_same(stated, &file(stated, &bytes));
    }
}

#[test]
fn file_meta_information_may_be_odd_or_missing() {
    let plain = data_set(As::Explicit, &[]);
    let whole = file(EXPLICIT, &plain);
    let meta = |how, uid: &[u8]| {
        let meta = element(how, 0x0002_0010, b"UI", uid);
        [&[0; 128], &b"DICM"[..], &meta, &plain].concat()
    };
    for (name, bytes) in [
        ("no meta", [&[0; 128], &b"DICM"[..], &plain].concat()),
        ("spaces", meta(As::Explicit, b"1.2.840.10008.1.2.1  ")),
        ("no uid", meta(As::Explicit, b"")),
        (
            "implicit meta",
            meta(As::Implicit, b"1.2.840.10008.1.2.1\0"),
        ),
        (
            "meta of big endian",
            meta(As::BigEndian, b"1.2.840.10008.1.2.1\0"),
        ),
        ("a file within a file", file(IMPLICIT, &whole)),
        ("meta within a file", file(IMPLICIT, &whole[132..])),
        ("bare", plain.clone()),
    ] {
        assert_same(name, &bytes);
    }
}

#[test]
fn single_elements_may_be_encoded_otherwise() {
    let implicit = |tag, value: &[u8]| element(As::Implicit, tag, b"", value);
    let odd = |tag: u32, vr: &[u8], length: &[u8], value: &[u8]| {
        let header = [&implicit(tag, b"")[..4], vr, length].concat();
        [header, value.to_vec()].concat()
    };
    for (name, changed) in [
        (
            "private without VR",
            (PRIVATE, implicit(PRIVATE, b"private value ")),
        ),
        (
            "two of them",
            (
                PRIVATE,
                [
                    implicit(PRIVATE, b"a "),
                    implicit(PRIVATE + 1, b"long value"),
                ]
                .concat(),
            ),
        ),
        ("rows without VR", (ROWS, implicit(ROWS, &[2, 0]))),
        (
            "zeros, short",
            (PRIVATE, odd(PRIVATE, &[0, 0], &[4, 0], b"abcd")),
        ),
        (
            "zeros, long",
            (PRIVATE, odd(PRIVATE, &[0, 0], &[0, 0, 4, 0, 0, 0], b"abcd")),
        ),
        ("spaces, short", (ROWS, odd(ROWS, b"  ", &[2, 0], &[2, 0]))),
        (
            "question marks",
            (PRIVATE, odd(PRIVATE, b"??", &[4, 0], b"abcd")),
        ),
        (
            "a VR of the future",
            (PRIVATE, odd(PRIVATE, b"ZZ", &[0, 0, 4, 0, 0, 0], b"abcd")),
        ),
        (
            "a VR of the past",
            (PRIVATE, odd(PRIVATE, b"ZZ", &[4, 0], b"abcd")),
        ),
        (
            "a short UN",
            (PRIVATE, odd(PRIVATE, b"UN", &[4, 0], b"abcd")),
        ),
        (
            "a short OB",
            (
                SLOPE,
                [
                    odd(SLOPE, b"DS", &[2, 0], b"2 "),
                    odd(0x0028_1201, b"OW", &[2, 0], &[0, 0]),
                ]
                .concat(),
            ),
        ),
    ] {
        assert_same(name, &image(&[changed]));
    }
    let explicit = element(As::Explicit, SLOPE, b"DS", b"2 ");
    let private = element(As::Explicit, PRIVATE, b"LO", b"ge");
    let bytes = data_set(As::Implicit, &[(SLOPE, explicit), (PRIVATE, private)]);
    assert_same("VRs in an implicit data set", &file(IMPLICIT, &bytes));
}

#[test]
fn numbers_of_another_vr_are_the_same_numbers() {
    let explicit = |tag, vr: &[u8], value: &[u8]| (tag, element(As::Explicit, tag, vr, value));
    for changed in [
        explicit(ROWS, b"IS", b"2 "),
        explicit(ROWS, b"DS", b"2.0 "),
        explicit(ROWS, b"LO", b" 2"),
        explicit(ROWS, b"UL", &[2, 0, 0, 0]),
        explicit(ROWS, b"SS", &[2, 0]),
        explicit(ROWS, b"OB", &[2, 0]),
        explicit(ROWS, b"OW", &[2, 0]),
        explicit(ROWS, b"FD", &2f64.to_le_bytes()),
        explicit(ROWS, b"US", &[2, 0, 2, 0]),
        explicit(0x0028_0008, b"IS", b"1.0 "),
        explicit(0x0028_0008, b"IS", b"1\0"),
        explicit(SLOPE, b"FD", &2f64.to_le_bytes()),
        explicit(SLOPE, b"LO", b"2.000000000000000000"),
        explicit(SLOPE, b"DS", b"2\\2 "),
        explicit(0x0028_0004, b"LO", b"monochrome2\0"),
        explicit(0x0008_0018, b"UI", b"1.2.3.4 "),
        explicit(0x0020_0013, b"IS", b"1,0 "),
    ] {
        let name = format!("{:?}", String::from_utf8_lossy(&changed.1));
        assert_same(&name, &image(&[changed]));
    }
}

#[test]
fn signed_pixels_have_a_signed_table() {
    // Three entries from -1 on, 16 bits.
    let descriptor = [3, 0, 0xff, 0xff, 16, 0];
    let data = [10, 0, 20, 0, 30, 0];
    for (how, vr) in [
        (As::Explicit, b"US"),
        (As::Explicit, b"SS"),
        (As::Implicit, b"US"),
    ] {
        let table = [
            element(how, 0x0028_3002, vr, &descriptor),
            element(how, 0x0028_3006, b"OW", &data),
        ];
        let changed = [
            (0x0028_0103, element(how, 0x0028_0103, b"US", &[1, 0])),
            (
                0x0028_3000,
                element(how, 0x0028_3000, b"SQ", &item(&table.concat())),
            ),
        ];
        let syntax = if how == As::Explicit {
            EXPLICIT
        } else {
            IMPLICIT
        };
        let scan = scan(&file(syntax, &data_set(how, &changed)));
        assert_eq!(scan.frames[0].data, [20.0, 30.0, 30.0, 30.0, 30.0, 10.0]);
    }
}
