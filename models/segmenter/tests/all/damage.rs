//! What is damaged where nobody looks costs nothing; elsewhere the refusal names the element and repeats no value.

use segmenter::decode::{Limits, decode};

use crate::written::{
    As, IMPLICIT, OPEN, PIXELS, PRIVATE, ROWS, SLOPE, assert_same, claimed, data_set, element,
    file, image, item, open_item, open_sequence, scan, sequence_end, words,
};

#[test]
fn an_attribute_that_nobody_needs_costs_nothing() {
    let explicit = |tag, vr: &[u8], value: &[u8]| (tag, element(As::Explicit, tag, vr, value));
    let no_item = [0x28, 0, 0x10, 0, 1, 2, 3, 4, 5];
    for (name, changed) in [
        ("FD of six bytes", explicit(0x0018_9074, b"FD", &[1; 6])),
        ("UL of three bytes", explicit(0x0018_6012, b"UL", &[1; 3])),
        ("AT of two bytes", explicit(0x0028_0009, b"AT", &[1; 2])),
        ("OW of odd length", explicit(0x0018_9810, b"OW", &[1; 5])),
        ("text of odd length", explicit(0x0008_1030, b"LO", b"abc")),
        (
            "text of no character set",
            explicit(0x0008_1030, b"LO", &[0xe4, 0xff]),
        ),
        (
            "a date that is none",
            explicit(0x0008_0020, b"DA", b"yesterday"),
        ),
        (
            "a window that is none",
            explicit(0x0028_1050, b"DS", b"wide"),
        ),
        ("overlays", explicit(0x6000_3000, b"OB", &[1; 3])),
        (
            "a plane of grey pixels",
            explicit(0x0028_0006, b"US", b"one"),
        ),
        (
            "a group length",
            explicit(0x0028_0000, b"UL", &[9, 9, 9, 9]),
        ),
        (
            "a sequence without items",
            explicit(0x0008_1140, b"SQ", &no_item),
        ),
        (
            "a known sequence as text",
            explicit(0x0008_1140, b"LO", b"none"),
        ),
        (
            "an item longer than its sequence",
            explicit(
                0x0008_1140,
                b"SQ",
                &claimed(As::Implicit, 0xfffe_e000, b"", 99, b"abcd"),
            ),
        ),
        (
            "an element longer than its item",
            explicit(
                0x0008_1140,
                b"SQ",
                &item(&claimed(As::Explicit, 0x0008_1150, b"UI", 99, b"1.2")),
            ),
        ),
        (
            "an open sequence with no item in it",
            (
                0x0008_1140,
                open_sequence(As::Explicit, 0x0008_1140, b"SQ", &no_item),
            ),
        ),
        (
            "a private sequence with no item in it",
            (
                PRIVATE,
                open_sequence(As::Explicit, PRIVATE, b"UN", &no_item),
            ),
        ),
        (
            "a sequence without its end",
            (
                0x0008_1140,
                claimed(As::Explicit, 0x0008_1140, b"SQ", OPEN, &open_item(b"")),
            ),
        ),
        (
            "ends that are not open",
            (
                0x0008_1140,
                [
                    element(As::Explicit, 0x0008_1140, b"SQ", &item(b"")),
                    sequence_end(),
                ]
                .concat(),
            ),
        ),
    ] {
        assert_same(name, &image(&[changed]));
    }
}

#[test]
fn what_stands_behind_the_pixels_costs_nothing() {
    let whole = image(&[]);
    for (name, behind) in [
        ("block padding", vec![0; 512]),
        ("0xff", vec![0xff; 512]),
        (
            "data set trailing padding",
            element(As::Explicit, 0xfffc_fffc, b"OB", &[0; 64]),
        ),
        (
            "padding that is cut",
            claimed(As::Explicit, 0xfffc_fffc, b"OB", 999, &[0; 64]),
        ),
        (
            "a signature of broken items",
            open_sequence(As::Explicit, 0xfffa_fffa, b"SQ", &[7; 99]),
        ),
        ("noise", (1..=255).collect()),
        ("an end", sequence_end()),
    ] {
        assert_same(name, &[&whole[..], &behind].concat());
        let implicit = file(IMPLICIT, &data_set(As::Implicit, &[]));
        assert_same(name, &[&implicit[..], &behind].concat());
    }
}

#[test]
fn elements_out_of_order_and_twice() {
    let rows = element(As::Explicit, ROWS, b"US", &[2, 0]);
    let other = element(As::Explicit, ROWS, b"US", &[3, 0]);
    let set = element(As::Explicit, 0x0008_0005, b"CS", b"ISO_IR 192");
    assert_same(
        "out of order",
        &image(&[(ROWS, Vec::new()), (PIXELS + 1, rows.clone())]),
    );
    assert_same("character set last", &image(&[(PIXELS + 1, set)]));
    assert_same(
        "twice",
        &image(&[
            (ROWS + 1, [rows.clone(), rows.clone()].concat()),
            (ROWS, Vec::new()),
            (
                0x0028_0012,
                element(As::Explicit, 0x0028_0011, b"US", &[3, 0]),
            ),
        ]),
    );
    let found = words(&image(&[(ROWS, [rows, other].concat())]));
    assert!(found.contains("(0028,0010) Rows stands twice"), "{found}");
    let study = element(As::Explicit, 0x0008_1030, b"LO", b"one ");
    let another = element(As::Explicit, 0x0008_1030, b"LO", b"two ");
    assert_same(
        "twice, not needed",
        &image(&[(0x0008_1030, [study, another].concat())]),
    );
}

#[test]
fn a_refusal_names_the_element_and_repeats_no_value() {
    let explicit = |tag, vr: &[u8], value: &[u8]| (tag, element(As::Explicit, tag, vr, value));
    let secret = b"SECRET";
    let broken = item(&claimed(As::Explicit, 0x0028_9110, b"SQ", 99, secret));
    for (changed, expected) in [
        (
            explicit(ROWS, b"LO", secret),
            "(0028,0010) Rows is no number",
        ),
        (
            explicit(ROWS, b"DS", b"2.5 "),
            "(0028,0010) Rows is no whole number",
        ),
        (
            explicit(ROWS, b"US", &[2, 0, 3, 0]),
            "(0028,0010) Rows has several values",
        ),
        (
            explicit(ROWS, b"US", &[2, 0, 0]),
            "(0028,0010) Rows is no number",
        ),
        (explicit(ROWS, b"SQ", secret), "(0028,0010) Rows"),
        ((ROWS, Vec::new()), "(0028,0010) Rows is missing"),
        (
            explicit(SLOPE, b"DS", b"1,5 "),
            "(0028,1053) RescaleSlope is no number",
        ),
        (
            explicit(SLOPE, b"DS", b"1\\2 "),
            "(0028,1053) RescaleSlope has several values",
        ),
        (
            explicit(SLOPE, b"FD", &[0; 6]),
            "(0028,1053) RescaleSlope is no number",
        ),
        (
            explicit(0x0028_0004, b"US", &[1, 0, 0]),
            "(0028,0004) PhotometricInterpretation",
        ),
        (
            explicit(0x0028_3000, b"SQ", secret),
            "(0028,3000) ModalityLUTSequence",
        ),
        (
            explicit(0x5200_9230, b"SQ", &broken),
            "(0028,9110) PixelMeasuresSequence has a length",
        ),
        (
            (PRIVATE, claimed(As::Explicit, PRIVATE, b"UN", 9999, secret)),
            "(0029,1010) has a length that runs past the end of the file",
        ),
        (
            (PRIVATE, claimed(As::Explicit, PRIVATE, b"UN", OPEN, secret)),
            "(0029,1010) holds something else where an item is due",
        ),
    ] {
        let found = words(&image(&[changed]));
        assert!(found.contains(expected), "{found}");
        assert!(found.contains("correct"), "{found}");
        assert!(
            !found.contains("SECRET") && !found.contains("too early"),
            "{found}"
        );
    }
}

#[test]
fn ends_too_early_is_said_of_what_does() {
    let whole = image(&[]);
    for length in (140..whole.len()).step_by(3) {
        let error = decode(&whole[..length], &Limits::STANDARD).unwrap_err();
        let kinds = ["truncated", "no_pixel_data"];
        assert!(kinds.contains(&error.kind()), "{length}: {error}");
    }
    let cut = words(&whole[..whole.len() - 4]);
    assert!(cut.contains("ends too early; send it again"), "{cut}");
    // One byte short of an even length that was rounded up.
    let pixels = [0; 13];
    let rounded = claimed(As::Explicit, PIXELS, b"OB", 14, &pixels);
    scan(&image(&[(PIXELS, rounded)]));
}
