//! The `grpc-timeout` header: the time a caller is still willing to wait.
//!
//! Format: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, `TimeoutValue TimeoutUnit`.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

const NAME: &str = "grpc-timeout";
const MAX_DIGITS: usize = 8;

/// Reads the header; none when it is absent or malformed.
pub(crate) fn read(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(NAME)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3_600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// Writes the header, in the finest unit that eight digits can hold.
pub(crate) fn write(headers: &mut HeaderMap, timeout: Duration) {
    const LIMIT: u128 = 10_u128.pow(MAX_DIGITS as u32);
    let micros = timeout.as_micros().max(1);
    let text = if micros < LIMIT {
        format!("{micros}u")
    } else if timeout.as_millis() < LIMIT {
        format!("{}m", timeout.as_millis())
    } else {
        format!("{}S", u128::from(timeout.as_secs()).min(LIMIT - 1))
    };
    headers.insert(NAME, HeaderValue::try_from(text).expect("digits and a letter are visible ASCII"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(NAME, HeaderValue::from_str(text).unwrap());
        read(&headers)
    }

    #[test]
    fn all_units_are_read() {
        let cases = [
            ("2H", Duration::from_hours(2)),
            ("3M", Duration::from_mins(3)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("7n", Duration::from_nanos(7)),
            ("99999999H", Duration::from_secs(99_999_999 * 3_600)),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn malformed_values_are_ignored() {
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1 S", "123456789S", "1\u{e9}"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_no_longer_and_hardly_shorter(nanos in 0_u64..=u64::MAX) {
            let timeout = Duration::from_nanos(nanos);
            let mut headers = HeaderMap::new();
            write(&mut headers, timeout);
            let read = read(&headers).unwrap();
            prop_assert!(read <= timeout.max(Duration::from_micros(1)) || timeout.as_secs() >= 99_999_999);
            if timeout.as_secs() < 99_999_999 {
                prop_assert!(read.as_secs_f64() >= timeout.as_secs_f64() * 0.999 - 1e-6);
            }
        }
    }
}
