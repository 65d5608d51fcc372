//! What every request passes through, outermost first: [`envelope`], then [`authorize`] where a path needs a role.

pub(crate) mod authorize;
pub(crate) mod deprecation;
pub(crate) mod envelope;
pub(crate) mod idempotency;
pub(crate) mod web;

use mainstay_runtime::Context;

use crate::config::EdgeConfig;

/// Says once, at start, what kind of door this is.
pub(crate) fn announce(cx: &Context, config: &EdgeConfig) {
    let (jwt, api_keys) = (config.auth.takes_tokens(), config.auth.api_keys.len());
    if !jwt && api_keys == 0 {
        tracing::warn!(
            "no credentials are configured: only public paths will answer; set auth.jwt_secret, auth.jwt_public_keys, auth.jwks or auth.api_keys"
        );
    }
    tracing::info!(
        listen = %config.http.listen,
        instance = cx.identity().instance,
        bearer_tokens = jwt,
        api_keys,
        "rest door open"
    );
}
