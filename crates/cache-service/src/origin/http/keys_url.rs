//! Where the keys of a namespace are listed.

use http::Uri;

use super::Template;

/// A URL with a place for the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeysUrl(String);

/// Says why a text is no such URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a URL of the same scheme and host as url, with no other braces than {{namespace}}")]
pub(crate) struct InvalidKeysUrl;

impl KeysUrl {
    /// Returns none for an empty text.
    pub(crate) fn try_new(text: &str, entries: &Template) -> Result<Option<Self>, InvalidKeysUrl> {
        if text.is_empty() {
            return Ok(None);
        }
        let url = Self(text.to_owned());
        let (one, other) = (url.parse("n")?, url.parse("m")?);
        let same = |url: &Uri| {
            url.scheme() == entries.example().scheme() && url.authority() == entries.example().authority()
        };
        if text.replace("{namespace}", "").contains(['{', '}']) || !same(&one) || !same(&other) {
            return Err(InvalidKeysUrl);
        }
        Ok(Some(url))
    }

    /// Returns the URL of a namespace.
    pub(super) fn of(&self, namespace: &str) -> Uri {
        self.parse(namespace)
            .expect("letters, digits, _ and - are as legal there as those that were tried first")
    }

    fn parse(&self, namespace: &str) -> Result<Uri, InvalidKeysUrl> {
        self.0.replace("{namespace}", namespace).parse().map_err(|_| InvalidKeysUrl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_by_the_host_that_has_the_entries() {
        let entries = Template::try_new("https://shop.internal/v1/{namespace}/{key}").unwrap();
        let listed = KeysUrl::try_new("https://shop.internal/v1/{namespace}?hot", &entries).unwrap().unwrap();
        assert_eq!(listed.of("users").to_string(), "https://shop.internal/v1/users?hot");
        assert_eq!(KeysUrl::try_new("", &entries), Ok(None));
        for wrong in [
            "http://shop.internal/v1/{namespace}",
            "https://other.internal/{namespace}",
            "https://{namespace}/keys",
            "https://shop.internal/{key}",
            "/keys",
        ] {
            assert_eq!(KeysUrl::try_new(wrong, &entries), Err(InvalidKeysUrl), "{wrong}");
        }
    }
}
