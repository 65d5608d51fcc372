use proptest::prelude::*;

use super::*;

/// Applies a patch as the format says, without trusting it.
fn apply(old: &str, patch: &str) -> String {
    let mut patch = patch.as_bytes();
    let (len, b'\n') = number(&mut patch) else { panic!("the length is missing") };
    let mut new = Vec::new();
    loop {
        match number(&mut patch) {
            (n_bytes, b'@') => {
                let (from, b',') = number(&mut patch) else { panic!("a copy without its end") };
                new.extend_from_slice(&old.as_bytes()[from..from + n_bytes]);
            }
            (n_bytes, b':') => new.extend_from_slice(patch.split_off(..n_bytes).expect("enough bytes")),
            (sum, b';') => {
                assert_eq!(sum, checksum(&new) as usize, "the sum is wrong");
                assert_eq!(new.len(), len);
                assert!(patch.is_empty(), "something follows the end");
                return String::from_utf8(new).unwrap();
            }
            (_, sign) => panic!("unknown sign {:?}", sign as char),
        }
    }
}

/// Reads a number and the sign after it.
fn number(patch: &mut &[u8]) -> (usize, u8) {
    let mut value = 0;
    loop {
        let byte = *patch.split_off_first().expect("a sign after a number");
        match DIGITS.iter().position(|digit| *digit == byte) {
            Some(digit) => value = value << 6 | digit,
            None => return (value, byte),
        }
    }
}

#[test]
fn a_small_change_makes_a_small_patch() {
    let old = format!(r#"{{"orders":[{}],"total":1}}"#, "17,".repeat(300));
    let new = old.replace(r#""total":1"#, r#""total":22"#).replacen("17", "18", 1);
    let patch = patch(&old, &new).unwrap();
    assert!(patch.len() < 60, "{patch}");
    assert_eq!(apply(&old, &patch), new);
}

#[test]
fn pieces_that_moved_are_found() {
    let (a, b) = ("abcdefghijklmnopqrstuvwxyz0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ9876543210");
    let (old, new) = (format!("{a}-{b}"), format!("<{b}+{a}>"));
    let patch = patch(&old, &new).unwrap();
    assert!(patch.len() < 40, "{patch}");
    assert_eq!(apply(&old, &patch), new);
}

#[test]
fn texts_with_nothing_in_common_have_no_patch() {
    for (old, new) in
        [("", "abc"), ("abc", ""), ("", ""), ("aaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbb")]
    {
        assert_eq!(patch(old, new), None, "{old} {new}");
    }
}

#[test]
fn the_same_text_is_one_copy() {
    let text = "the same text again and again";
    assert_eq!(patch(text, text).unwrap(), format!("T\nT@0,{};", digits(checksum(text.as_bytes()))));
}

fn digits(number: u32) -> String {
    let mut text = String::new();
    put_number(number as usize, &mut text);
    text
}

#[test]
fn numbers_and_sums_are_those_of_the_format() {
    for (number, text) in
        [(0, "0"), (63, "~"), (64, "10"), (4_095, "~~"), (4_096, "100"), (u32::MAX, "3~~~~~")]
    {
        assert_eq!(digits(number), text);
    }
    assert_eq!(checksum(b"abcde"), 0x6162_6364_u32.wrapping_add(0x6500_0000));
    assert_eq!(checksum(b"\xff\xff\xff\xff\x00\x00\x00\x02"), 1);
}

/// Texts made of pieces of a few kinds, so that two of them have much in common; some characters have several bytes.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\"temperature\":21.5,".to_owned()),
        Just("äöüßé".to_owned()),
        Just("日本語のテキスト".to_owned()),
        Just("😀😁😂".to_owned()),
        Just("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned()),
        ".{0,6}",
        "[a-f]{0,40}",
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_patch_makes_the_new_text_from_the_old(old in text(), new in text()) {
        if let Some(patch) = patch(&old, &new) {
            prop_assert!(patch.len() < new.len());
            prop_assert_eq!(apply(&old, &patch), new);
        }
    }

    #[test]
    fn a_changed_text_is_made_too(old in text(), from in 0_usize..200, len in 0_usize..40, piece in ".{0,8}") {
        let from = old.floor_char_boundary(from);
        let until = old.floor_char_boundary(from + len).max(from);
        let new = format!("{}{piece}{}", &old[..from], &old[until..]);
        if let Some(patch) = patch(&old, &new) {
            prop_assert_eq!(apply(&old, &patch), new);
        }
    }
}
