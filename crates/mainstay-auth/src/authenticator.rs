use std::fmt;

use crate::api_key::{ApiKeys, StoredKeys};
use crate::jwt::{TokenError, Verifier};
use crate::{Method, Principal};

/// Turns a credential into a principal.
#[derive(Debug, Clone, Default)]
pub struct Authenticator {
    verifier: Option<Verifier>,
    keys: ApiKeys,
    stored: StoredKeys,
}

impl Authenticator {
    /// Accepts tokens if there is a verifier, and the given API keys.
    pub fn new(verifier: Option<Verifier>, keys: ApiKeys) -> Self {
        Self { verifier, keys, stored: StoredKeys::default() }
    }

    /// Accepts these API keys too; of two with the same text the one given first counts.
    #[must_use]
    pub fn with_stored(self, stored: StoredKeys) -> Self {
        Self { stored, ..self }
    }

    /// Checks a credential at `now_unix_s`, in seconds since the Unix epoch.
    ///
    /// A token needs a `sub` and a `role`, and must not be a subscription token (see the crate's invariants).
    pub fn authenticate(&self, credential: Credential<'_>, now_unix_s: u64) -> Result<Principal, AuthError> {
        match credential {
            Credential::ApiKey(key) => {
                self.keys.verify(key).map_or_else(|| self.stored.verify(key, now_unix_s), Ok)
            }
            Credential::Bearer(token) => self.authenticate_token(token, now_unix_s),
        }
    }

    fn authenticate_token(&self, token: &str, now_unix_s: u64) -> Result<Principal, AuthError> {
        let verifier = self.verifier.as_ref().ok_or(AuthError::TokensNotAccepted)?;
        let claims = verifier.verify(token, now_unix_s).map_err(AuthError::Token)?;
        if claims.is_subscription() {
            return Err(AuthError::SubscriptionToken);
        }
        if claims.sub.is_empty() {
            return Err(AuthError::NoSubject);
        }
        let role = claims.role.ok_or(AuthError::NoRole)?;
        Ok(Principal {
            subject: claims.sub,
            role,
            scopes: claims.scopes,
            method: Method::Jwt,
            expires_at: claims.exp,
        })
    }
}

/// What a caller presents to say who it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// A JSON Web Token.
    Bearer(&'a str),
    /// An API key in clear.
    ApiKey(&'a str),
}

impl<'a> Credential<'a> {
    /// Reads the value of an `Authorization` header; none unless its scheme is `Bearer` (RFC 6750).
    pub fn from_authorization(value: &'a str) -> Option<Self> {
        let (scheme, token) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| Self::Bearer(token.trim_start()))
    }
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer([redacted])",
            Self::ApiKey(_) => "ApiKey([redacted])",
        })
    }
}

/// Says why a credential names nobody.
///
/// Which reason it was is for logs and metrics; a caller learns little more than that it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The token itself is no good.
    #[error("bearer token is refused")]
    Token(#[source] TokenError),
    /// No verification key is configured.
    #[error("bearer tokens are not accepted here")]
    TokensNotAccepted,
    /// The token is for one realtime channel only.
    #[error("bearer token is a subscription token")]
    SubscriptionToken,
    /// The token says nobody's name.
    #[error("bearer token has no subject")]
    NoSubject,
    /// The token is genuine but gives no access to this surface.
    #[error("bearer token has no role")]
    NoRole,
    /// Nobody has this key.
    #[error("api key is unknown")]
    UnknownApiKey,
    /// The key was good once.
    #[error("api key has expired")]
    ApiKeyExpired,
}

impl AuthError {
    /// Returns a short name for metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token(error) => error.as_str(),
            Self::TokensNotAccepted => "tokens_not_accepted",
            Self::SubscriptionToken => "subscription_token",
            Self::NoSubject => "no_subject",
            Self::NoRole => "no_role",
            Self::UnknownApiKey => "unknown_api_key",
            Self::ApiKeyExpired => "api_key_expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;
    use crate::api_key::{self, ApiKey};
    use crate::jwt::{Claims, VerifierConfig, sign_hs256};

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn authenticator() -> Authenticator {
        let config = VerifierConfig { hs256_secrets: vec![SECRET.to_vec()], ..VerifierConfig::default() };
        let entry = ApiKey {
            id: "script".into(),
            sha256: api_key::hash("letmein"),
            role: Role::Viewer,
            scopes: vec!["sql:write".into()],
        };
        let keys = ApiKeys::try_new([entry]).unwrap();
        Authenticator::new(Some(Verifier::try_new(config).unwrap()), keys)
    }

    fn claims() -> Claims {
        Claims { sub: "ann".into(), exp: Some(2_000), role: Some(Role::Admin), ..Claims::default() }
    }

    #[test]
    fn a_token_becomes_a_principal() {
        let claims = Claims { scopes: vec!["a".into(), "b".into()], ..claims() };
        let token = sign_hs256(&claims, SECRET).unwrap();
        let principal = authenticator().authenticate(Credential::Bearer(&token), 1_000).unwrap();
        let expected = Principal {
            subject: "ann".into(),
            role: Role::Admin,
            scopes: vec!["a".into(), "b".into()],
            method: Method::Jwt,
            expires_at: Some(2_000),
        };
        assert_eq!(principal, expected);
    }

    #[test]
    fn an_api_key_becomes_a_principal() {
        let principal = authenticator().authenticate(Credential::ApiKey("letmein"), 0).unwrap();
        assert_eq!((principal.subject.as_str(), principal.method), ("script", Method::ApiKey));
        assert!(principal.has_scope("sql:write"));
        let wrong = authenticator().authenticate(Credential::ApiKey("letmeout"), 0);
        assert_eq!(wrong, Err(AuthError::UnknownApiKey));
    }

    #[test]
    fn genuine_tokens_for_other_purposes_are_refused() {
        let table = [
            (Claims { role: None, ..claims() }, AuthError::NoRole),
            (Claims { sub: String::new(), ..claims() }, AuthError::NoSubject),
            (Claims { channel: Some("news".into()), ..claims() }, AuthError::SubscriptionToken),
            (Claims { exp: Some(900), ..claims() }, AuthError::Token(TokenError::Expired)),
        ];
        for (claims, expected) in table {
            let token = sign_hs256(&claims, SECRET).unwrap();
            let refused = authenticator().authenticate(Credential::Bearer(&token), 1_000);
            assert_eq!(refused, Err(expected), "{claims:?}");
        }
    }

    #[test]
    fn without_a_verifier_no_token_is_accepted() {
        let token = sign_hs256(&claims(), SECRET).unwrap();
        let refused = Authenticator::default().authenticate(Credential::Bearer(&token), 1_000);
        assert_eq!(refused, Err(AuthError::TokensNotAccepted));
    }

    #[test]
    fn only_the_bearer_scheme_is_read() {
        for (value, expected) in [
            ("Bearer abc", Some(Credential::Bearer("abc"))),
            ("bearer  abc ", Some(Credential::Bearer("abc"))),
            ("Basic abc", None),
            ("abc", None),
            ("", None),
        ] {
            assert_eq!(Credential::from_authorization(value), expected, "{value:?}");
        }
    }

    #[test]
    fn debug_output_shows_no_credential() {
        let shown = format!(
            "{:?} {:?} {:?}",
            authenticator(),
            Credential::ApiKey("letmein"),
            Credential::Bearer("a.b.c")
        );
        let secret = format!("{SECRET:?}");
        for hidden in ["letmein", "a.b.c", "0123456789abcdef", secret.trim_matches(['[', ']'])] {
            assert!(!shown.contains(hidden), "{hidden} in {shown}");
        }
    }
}
