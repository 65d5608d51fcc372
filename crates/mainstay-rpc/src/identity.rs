//! Who asks, and the secrets that prove it.

use http::HeaderMap;
use tonic::Request;

mod secret;

pub use secret::Secret;

use crate::percent;

const SUBJECT: &str = "x-mainstay-subject";
const ROLE: &str = "x-mainstay-role";
const SCOPES: &str = "x-mainstay-scopes";

/// Names who a request is made for, as the edge established it.
///
/// It travels in request metadata and is believed, because only holders of the service token (or of a client
/// certificate) get as far as a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Stable id of the person or key, e.g. a JWT's `sub`.
    pub subject: String,
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// What the credential is limited to; empty means no limit beyond the role.
    pub scopes: Vec<String>,
}

impl Caller {
    /// Reads the caller of a request; none when a service asks on its own behalf.
    pub fn of<T>(request: &Request<T>) -> Option<Self> {
        Self::from_headers(request.metadata().as_ref())
    }

    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let scopes = text(SCOPES).unwrap_or_default();
        Some(Self {
            subject: percent::decode(text(SUBJECT)?)?,
            role: percent::decode(text(ROLE).unwrap_or_default())?,
            scopes: scopes.split_ascii_whitespace().map(percent::decode).collect::<Option<_>>()?,
        })
    }

    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let scopes: Vec<_> = self.scopes.iter().map(|scope| percent::encode(scope)).collect();
        headers.insert(SUBJECT, percent::header(&percent::encode(&self.subject)));
        headers.insert(ROLE, percent::header(&percent::encode(&self.role)));
        if !scopes.is_empty() {
            headers.insert(SCOPES, percent::header(&scopes.join(" ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_without_a_subject_has_no_caller() {
        let mut request = Request::new(());
        request.metadata_mut().insert(ROLE, "admin".parse().unwrap());
        assert_eq!(Caller::of(&request), None);
    }

    proptest! {
        #[test]
        fn any_caller_survives_the_headers(
            subject in ".{0,40}",
            role in ".{0,20}",
            scopes in prop::collection::vec(".{1,20}", 0..5),
        ) {
            let caller = Caller { subject, role, scopes };
            let mut headers = HeaderMap::new();
            caller.write(&mut headers);
            prop_assert_eq!(Caller::from_headers(&headers), Some(caller));
        }
    }
}
