//! Any text as a header value: percent-encoded, so that no name of a person can break a header.

use http::HeaderValue;

pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | b',' => push_escaped(&mut encoded, byte),
            0x21..=0x7e => encoded.push(char::from(byte)),
            _ => push_escaped(&mut encoded, byte),
        }
    }
    encoded
}

/// Returns none for what [`encode`] cannot have written.
pub(crate) fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return None };
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

/// Makes a header value of encoded text.
pub(crate) fn header(encoded: &str) -> HeaderValue {
    HeaderValue::from_str(encoded).expect("encoded text is visible ASCII and spaces")
}

fn push_escaped(encoded: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    encoded.push('%');
    encoded.push(char::from(HEX[usize::from(byte >> 4)]));
    encoded.push(char::from(HEX[usize::from(byte & 15)]));
}

fn digit(hex: u8) -> Option<u8> {
    char::from(hex).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn broken_escapes_are_refused() {
        for broken in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn any_text_survives(text in "(?s).{0,60}") {
            let encoded = encode(&text);
            prop_assert!(encoded.bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
            header(&encoded);
            prop_assert_eq!(decode(&encoded), Some(text));
        }
    }
}
