//! Lets in who shows good credentials of a sufficient role.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use mainstay_auth::{Credential, Principal, Role};

use super::envelope::Subject;
use super::idempotency::once;
use crate::error::Problem;
use crate::limits::{Class, Standing};
use crate::state::App;

/// What a group of paths asks for.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) app: Arc<App>,
    pub(crate) role: Role,
}

/// Authenticates the caller, compares roles and counts the request; handlers find the [`Principal`] in the extensions.
pub(crate) async fn authorize(
    State(gate): State<Gate>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let principal = match admit(&gate, request.headers(), peer.ip()) {
        Ok(principal) => principal,
        Err(problem) => return refuse(&gate, problem),
    };
    let app = &gate.app;
    let subject = app.access_log.then(|| Subject(principal.subject.clone()));
    let standing = app.limiter.count(&app.upstreams, Class::of(gate.role), &principal).await;
    let refusal = standing.as_ref().and_then(Standing::refusal);
    let mut response = match refusal {
        Some(problem) => problem.into_response(),
        None => {
            request.extensions_mut().insert(principal.clone());
            once(app, &principal, gate.role, request, next).await
        }
    };
    if let Some(standing) = standing {
        standing.stamp(response.headers_mut());
    }
    if let Some(subject) = subject {
        response.extensions_mut().insert(subject);
    }
    response
}

fn admit(gate: &Gate, headers: &HeaderMap, peer: IpAddr) -> Result<Principal, Problem> {
    let credential = credential(headers)?;
    let limiter = &gate.app.limiter;
    if let Some(wait) = limiter.guesses_wait(peer) {
        gate.app.figures.limited("refused");
        let detail = "too many bad credentials from this address";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_BAD_CREDENTIALS", detail);
        return Err(problem.retry_after(wait));
    }
    let now = gate.app.cx.clock().unix_s();
    let principal = gate.app.authenticator.authenticate(credential, now).map_err(|error| {
        limiter.guessed(peer);
        Problem::new(StatusCode::UNAUTHORIZED, "CREDENTIALS_REFUSED", error.to_string())
    })?;
    if principal.role < gate.role {
        let detail = format!("this needs the role {}, the credentials carry {}", gate.role, principal.role);
        return Err(Problem::new(StatusCode::FORBIDDEN, "ROLE_TOO_LOW", detail));
    }
    Ok(principal)
}

fn credential(headers: &HeaderMap) -> Result<Credential<'_>, Problem> {
    let refused = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, "CREDENTIALS_REFUSED", detail);
    if headers.get_all(AUTHORIZATION).iter().count() + headers.get_all("x-api-key").iter().count() > 1 {
        return Err(refused("send one credential: either authorization or x-api-key, once"));
    }
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().map(Credential::ApiKey).map_err(|_| refused("x-api-key is not text"));
    }
    let Some(value) = headers.get(AUTHORIZATION) else {
        let detail = "send `authorization: Bearer <token>` or `x-api-key: <key>`";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "CREDENTIALS_MISSING", detail));
    };
    let value = value.to_str().map_err(|_| refused("authorization is not text"))?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            Ok(Credential::Bearer(token.trim()))
        }
        _ => Err(refused("authorization must be of the form `Bearer <token>`")),
    }
}

fn refuse(gate: &Gate, problem: Problem) -> Response {
    let unauthorized = problem.status() == StatusCode::UNAUTHORIZED;
    if unauthorized {
        gate.app.figures.unauthorized.inc();
    }
    let mut response = problem.into_response();
    if unauthorized {
        let challenge = HeaderValue::from_static("Bearer realm=\"mainstay\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn credentials_are_read_from_one_header_only() {
        let table: &[(&[(&'static str, &'static str)], &str)] = &[
            (&[("authorization", "Bearer abc")], "bearer abc"),
            (&[("authorization", "bearer  abc ")], "bearer abc"),
            (&[("x-api-key", "k1")], "key k1"),
            (&[], "CREDENTIALS_MISSING"),
            (&[("authorization", "Basic abc")], "CREDENTIALS_REFUSED"),
            (&[("authorization", "abc")], "CREDENTIALS_REFUSED"),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer b")], "CREDENTIALS_REFUSED"),
            (&[("authorization", "Bearer a"), ("x-api-key", "k1")], "CREDENTIALS_REFUSED"),
        ];
        for (sent, expected) in table {
            let seen = match credential(&headers(sent)) {
                Ok(Credential::Bearer(token)) => format!("bearer {token}"),
                Ok(Credential::ApiKey(key)) => format!("key {key}"),
                Err(problem) => problem.code().to_owned(),
            };
            assert_eq!(&seen, expected, "{sent:?}");
        }
    }
}
