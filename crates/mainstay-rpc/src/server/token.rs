//! Whether the process that asks belongs to the house.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::config::ServerConfig;
use super::methods;
use crate::code::ErrorCode;
use crate::failure::Failure;
use crate::identity::Secret;

/// Reason of the answer to a request without the right service token.
pub(crate) const TOKEN_REFUSED: &str = "SERVICE_TOKEN_REFUSED";

pub(super) struct TokenCheck {
    token: Secret,
    reflection_is_open: bool,
}

impl TokenCheck {
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self { token: config.token.clone(), reflection_is_open: config.listen.ip().is_loopback() }
    }

    pub(super) fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Failure> {
        let open = self.token.is_empty()
            || methods::is_health(path)
            || (self.reflection_is_open && methods::is_reflection(path));
        let shown = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        if open || shown.is_some_and(|token| self.token.matches(token)) {
            return Ok(());
        }
        let message = if shown.is_some() { "wrong service token" } else { "a service token is needed" };
        Err(Failure::new(ErrorCode::Unauthenticated, TOKEN_REFUSED, message))
    }
}

fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}
