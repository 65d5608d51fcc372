//! Entity tags: what a client already has need not be sent again (RFC 9110, 8.8.3 and 13.1.2).

use http::HeaderValue;

/// Says whether `If-None-Match` names the current tag; comparison is weak, as the RFC asks for reads.
pub(crate) fn matches(if_none_match: &HeaderValue, current: &HeaderValue) -> bool {
    let (Ok(known), Ok(current)) = (if_none_match.to_str(), current.to_str()) else { return false };
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    known.split(',').any(|tag| tag.trim() == "*" || strong(tag) == strong(current))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_several_tags_may_match_weakly() {
        let table = [
            ("\"7\"", true),
            ("W/\"7\"", true),
            ("\"6\", \"7\"", true),
            ("*", true),
            ("\"6\"", false),
            ("", false),
            ("7", false),
        ];
        for (sent, expected) in table {
            let sent = HeaderValue::from_static(sent);
            assert_eq!(matches(&sent, &HeaderValue::from_static("\"7\"")), expected, "{sent:?}");
        }
    }
}
