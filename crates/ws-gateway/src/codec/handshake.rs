use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Version};
use sha1::{Digest as _, Sha1};

/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_BYTES: usize = 16;

/// Says why a request does not begin a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWebSocket {
    #[error("a WebSocket handshake is a GET request of HTTP/1.1")]
    Method,
    #[error("the headers connection: upgrade and upgrade: websocket are missing")]
    NoUpgrade,
    #[error("sec-websocket-version must be 13")]
    Version,
    #[error("sec-websocket-key must be 16 bytes in base64")]
    Key,
}

/// Checks the request of a handshake (RFC 6455, section 4.2.1) and returns the value of `Sec-WebSocket-Accept`.
///
/// # Errors
/// Names the first thing that is missing.
pub fn check_request(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Result<HeaderValue, NotWebSocket> {
    if method != Method::GET || version != Version::HTTP_11 {
        return Err(NotWebSocket::Method);
    }
    if !has_token(headers, &CONNECTION, "upgrade") || !has_token(headers, &UPGRADE, "websocket") {
        return Err(NotWebSocket::NoUpgrade);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(NotWebSocket::Version);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(NotWebSocket::Key)?.as_bytes();
    if STANDARD.decode(key).is_ok_and(|key| key.len() == KEY_BYTES) {
        Ok(HeaderValue::try_from(accept_key(key)).expect("base64 may stand in a header"))
    } else {
        Err(NotWebSocket::Key)
    }
}

/// Returns what a server answers to a client's key (RFC 6455, section 4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// Looks for one element of the comma-separated lists of a header, whatever its case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|element| element.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(changes: &[(&'static str, &str)]) -> Result<HeaderValue, NotWebSocket> {
        let mut headers = HeaderMap::new();
        let good = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in good.iter().chain(changes) {
            if value.is_empty() {
                headers.remove(*name);
            } else {
                headers.insert(*name, value.parse().unwrap());
            }
        }
        check_request(&Method::GET, Version::HTTP_11, &headers)
    }

    #[test]
    fn the_example_of_the_rfc_is_answered_as_it_says() {
        assert_eq!(check(&[]).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn handshakes_are_read_as_the_rfc_says() {
        let short = STANDARD.encode([0; 15]);
        for (changes, problem) in [
            (&[("connection", "keep-alive, UPGRADE")][..], None),
            (&[("upgrade", "h2c, WebSocket")], None),
            (&[("connection", "")], Some(NotWebSocket::NoUpgrade)),
            (&[("connection", "upgraded")], Some(NotWebSocket::NoUpgrade)),
            (&[("upgrade", "h2c")], Some(NotWebSocket::NoUpgrade)),
            (&[("sec-websocket-version", "")], Some(NotWebSocket::Version)),
            (&[("sec-websocket-version", "8")], Some(NotWebSocket::Version)),
            (&[("sec-websocket-key", "")], Some(NotWebSocket::Key)),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ")], Some(NotWebSocket::Key)),
            (&[("sec-websocket-key", &short)], Some(NotWebSocket::Key)),
        ] {
            assert_eq!(check(changes).err(), problem, "{changes:?}");
        }
        let headers = HeaderMap::new();
        for (method, version) in [(Method::POST, Version::HTTP_11), (Method::GET, Version::HTTP_10)] {
            assert_eq!(check_request(&method, version, &headers), Err(NotWebSocket::Method));
        }
    }
}
