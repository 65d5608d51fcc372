//! Where a key lies: a URL with `{namespace}` and `{key}` in it.

use http::Uri;

use crate::key::Key;

/// A URL with places for the namespace and the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    text: String,
    /// The URL of a harmless key: for what no key changes.
    example: Uri,
}

/// Says why a text is no template, or a key has no place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidUrl {
    #[error(
        "must be an http or https URL with a host, such as https://shop.internal/v1/{{namespace}}/{{key}}"
    )]
    NotAUrl,
    #[error("must have {{key}} in its path or query")]
    NoKey,
    #[error("must have no other braces than {{namespace}} and {{key}}, and none before the path")]
    Braces,
    #[error("must not hold credentials; use `authorization`")]
    Credentials,
    #[error("a key \".\" or \"..\" would leave its place in the URL")]
    DotSegment,
}

impl Template {
    pub(crate) fn try_new(text: &str) -> Result<Self, InvalidUrl> {
        let place = |namespace: &str, key: &str| text.replace("{namespace}", namespace).replace("{key}", key);
        let (example, other) = (place("n", "k"), place("m", "j"));
        if example.contains(['{', '}']) {
            return Err(InvalidUrl::Braces);
        }
        let parse = |text: &str| text.parse::<Uri>().map_err(|_| InvalidUrl::NotAUrl);
        let (example, other) = (parse(&example)?, parse(&other)?);
        let has_scheme = matches!(example.scheme_str(), Some("http" | "https"));
        let authority = example.authority().filter(|_| has_scheme).ok_or(InvalidUrl::NotAUrl)?;
        if authority.as_str().contains('@') {
            return Err(InvalidUrl::Credentials);
        }
        if other.authority() != Some(authority) || other.scheme() != example.scheme() {
            return Err(InvalidUrl::Braces);
        }
        if !text.contains("{key}") {
            return Err(InvalidUrl::NoKey);
        }
        Ok(Self { text: text.to_owned(), example })
    }

    /// Returns scheme and host, which are the same for all keys.
    pub(super) fn example(&self) -> &Uri {
        &self.example
    }

    /// Returns the URL of a key. Whatever the key holds, it stays in its place: everything but letters, digits, `-`, `_`,
    /// `.` and `~` is escaped.
    pub(super) fn url(&self, key: &Key) -> Result<Uri, InvalidUrl> {
        let name = escaped(key.name());
        let text = self.text.replace("{namespace}", key.namespace()).replace("{key}", &name);
        let url: Uri = text.parse().map_err(|_| InvalidUrl::NotAUrl)?;
        if url.path().split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(InvalidUrl::DotSegment);
        }
        Ok(url)
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte.into()),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                escaped.push('%');
                escaped.push(HEX[usize::from(byte >> 4)].into());
                escaped.push(HEX[usize::from(byte & 15)].into());
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_that_is_no_template_is_refused() {
        for (text, wrong) in [
            ("", InvalidUrl::NotAUrl),
            ("/v1/{key}", InvalidUrl::NotAUrl),
            ("ftp://h/{key}", InvalidUrl::NotAUrl),
            ("http://h/{namespace}", InvalidUrl::NoKey),
            ("http://h/{id}/{key}", InvalidUrl::Braces),
            ("http://{namespace}.h/{key}", InvalidUrl::Braces),
            ("http://u:p@h/{key}", InvalidUrl::Credentials),
        ] {
            assert_eq!(Template::try_new(text), Err(wrong), "{text:?}");
        }
    }

    #[test]
    fn a_key_is_escaped_into_its_place() {
        let template = Template::try_new("http://h:80/v1/{namespace}/{key}?of={key}").unwrap();
        let url = |key: &str| template.url(&Key::try_new("users", key).unwrap()).map(|url| url.to_string());
        assert_eq!(url("a/b?c").unwrap(), "http://h:80/v1/users/a%2Fb%3Fc?of=a%2Fb%3Fc");
        assert_eq!(url("\u{e4}").unwrap(), "http://h:80/v1/users/%C3%A4?of=%C3%A4");
        assert_eq!(url(".."), Err(InvalidUrl::DotSegment));
    }

    proptest! {
        /// No key changes host, depth of the path, or makes a query.
        #[test]
        fn no_key_leaves_its_place(name in "\\PC{1,60}") {
            let template = Template::try_new("http://h/v1/{namespace}/{key}").unwrap();
            let Ok(key) = Key::try_new("n", &name) else { return Ok(()) };
            if let Ok(url) = template.url(&key) {
                prop_assert_eq!(url.host(), Some("h"));
                prop_assert_eq!(url.query(), None);
                prop_assert_eq!(url.path().split('/').count(), 4);
            } else {
                prop_assert!(matches!(name.as_str(), "." | ".."));
            }
        }
    }
}
