//! Lets in who shows good credentials of a sufficient role.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts as _, MatchedPath, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{AUTHORIZATION, USER_AGENT, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use mainstay_auth::scope::Action;
use mainstay_auth::{Credential, Principal, Role};

use super::envelope::{MAX_AGENT_CHARS, RequestId, Subject};
use super::idempotency::once;
use crate::audit::{Asked, Ended};
use crate::error::Problem;
use crate::figures::method_label;
use crate::limits::{Class, Standing};
use crate::scope;
use crate::state::App;

/// What a group of paths asks for.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) app: Arc<App>,
    pub(crate) role: Role,
}

/// Authenticates the caller, compares roles and scopes, counts the request and puts changes on record; handlers find the
/// [`Principal`] in the extensions.
pub(crate) async fn authorize(
    State(gate): State<Gate>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let app = &gate.app;
    let principal = match recognize(app, request.headers(), peer.ip()) {
        Ok(principal) => principal,
        Err(problem) => return refuse(app, problem),
    };
    let subject = app.access_log.then(|| Subject(principal.subject.clone()));
    let mut response = admitted(&gate, peer.ip(), principal, request, next).await;
    if let Some(subject) = subject {
        response.extensions_mut().insert(subject);
    }
    response
}

async fn admitted(gate: &Gate, peer: IpAddr, principal: Principal, request: Request, next: Next) -> Response {
    let app = &gate.app;
    let is_read = gate.role == Role::Viewer || matches!(*request.method(), Method::GET | Method::HEAD);
    let (mut parts, body) = request.into_parts();
    let entry = (!is_read).then(|| Entry::new(app, &principal, &parts, peer));
    if let Err(problem) = allowed(gate, &principal, &mut parts, is_read).await {
        let response = problem.into_response();
        if let Some(entry) = entry {
            entry.ended(&response, true);
        }
        return response;
    }
    let (response, is_over_limit) = counted(gate, &principal, async {
        parts.extensions.insert(principal.clone());
        once(app, &principal, gate.role, Request::from_parts(parts, body), next).await
    })
    .await;
    match entry {
        // Not put on record: it would be as many lines as there are requests, and they are limited for being too many.
        Some(entry) if is_over_limit => entry.forget(),
        Some(entry) => entry.ended(&response, false),
        None => {}
    }
    response
}

/// Answers a read of one path without a router; `parameter` gives what the path names.
pub(crate) async fn admit_read<Fut: Future<Output = Response>>(
    gate: &Gate,
    peer: SocketAddr,
    headers: &HeaderMap,
    (route, parameter): (&str, impl Fn(&str) -> Option<String>),
    run: impl FnOnce(&Principal) -> Fut,
) -> Response {
    let app = &gate.app;
    let principal = match recognize(app, headers, peer.ip()) {
        Ok(principal) => principal,
        Err(problem) => return refuse(app, problem),
    };
    let allowed = has_role(gate, &principal).and_then(|()| {
        let is_limited = mainstay_auth::scope::are_limiting(&principal.scopes);
        if is_limited { scope::check(&principal.scopes, route, Action::Read, parameter) } else { Ok(()) }
    });
    let mut response = match allowed {
        Ok(()) => counted(gate, &principal, run(&principal)).await.0,
        Err(problem) => problem.into_response(),
    };
    if app.access_log {
        response.extensions_mut().insert(Subject(principal.subject));
    }
    response
}

/// Counts a request and runs it, or says that it is over its limit.
async fn counted(
    gate: &Gate,
    principal: &Principal,
    run: impl Future<Output = Response>,
) -> (Response, bool) {
    let app = &gate.app;
    let standing = app.limiter.count(&app.upstreams, Class::of(gate.role), principal).await;
    let refusal = standing.as_ref().and_then(Standing::refusal);
    let is_over_limit = refusal.is_some();
    let mut response = match refusal {
        Some(problem) => problem.into_response(),
        None => run.await,
    };
    if let Some(standing) = standing {
        standing.stamp(response.headers_mut());
    }
    (response, is_over_limit)
}

fn recognize(app: &App, headers: &HeaderMap, peer: IpAddr) -> Result<Principal, Problem> {
    let credential = credential(headers)?;
    let limiter = &app.limiter;
    if let Some(wait) = limiter.guesses_wait(peer) {
        app.figures.limited("refused");
        let detail = "too many bad credentials from this address";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_BAD_CREDENTIALS", detail);
        return Err(problem.retry_after(wait));
    }
    app.authenticator.authenticate(credential, app.cx.clock().unix_s()).map_err(|error| {
        limiter.guessed(peer);
        Problem::new(StatusCode::UNAUTHORIZED, "CREDENTIALS_REFUSED", error.to_string())
    })
}

/// Compares what the path needs with what the credentials carry.
async fn allowed(
    gate: &Gate,
    principal: &Principal,
    parts: &mut Parts,
    is_read: bool,
) -> Result<(), Problem> {
    has_role(gate, principal)?;
    if !mainstay_auth::scope::are_limiting(&principal.scopes) {
        return Ok(());
    }
    // What is not UTF-8 is refused by the handler, as without scopes; here it names nothing.
    let parameters = RawPathParams::from_request_parts(parts, &()).await.ok();
    let parameter = |wanted: &str| {
        let mut found = parameters.iter().flatten().filter(|(name, _)| *name == wanted);
        found.next().map(|(_, value)| value.to_owned())
    };
    let action = if is_read { Action::Read } else { Action::Write };
    scope::check(&principal.scopes, template(parts), action, parameter)
}

fn has_role(gate: &Gate, principal: &Principal) -> Result<(), Problem> {
    if principal.role < gate.role {
        let detail = format!("this needs the role {}, the credentials carry {}", gate.role, principal.role);
        return Err(Problem::new(StatusCode::FORBIDDEN, "ROLE_TOO_LOW", detail));
    }
    Ok(())
}

fn template(parts: &Parts) -> &str {
    parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str)
}

/// A change that is put on record once it has ended, also when nobody waits for its answer any more.
struct Entry {
    app: Arc<App>,
    who: Principal,
    asked: Option<Asked>,
}

impl Entry {
    fn new(app: &Arc<App>, who: &Principal, parts: &Parts, peer: IpAddr) -> Self {
        let agent = parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
        let asked = Asked {
            verb: method_label(&parts.method),
            route: template(parts).to_owned(),
            path: parts.uri.path().to_owned(),
            address: peer.to_string(),
            agent: agent.chars().take(MAX_AGENT_CHARS).collect(),
            request_id: request_id.unwrap_or_default(),
        };
        Self { app: Arc::clone(app), who: who.clone(), asked: Some(asked) }
    }

    fn ended(mut self, response: &Response, at_door: bool) {
        let code = response.extensions().get::<Problem>().map_or("", Problem::code);
        self.note(&Ended { status: response.status().as_u16(), code, at_door });
    }

    fn forget(mut self) {
        self.asked = None;
    }

    fn note(&mut self, ended: &Ended<'_>) {
        if let Some(asked) = self.asked.take() {
            self.app.auditor.note(&self.app.cx, &self.who, asked, ended);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.note(&Ended { status: 0, code: "NOT_FINISHED", at_door: false });
    }
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

fn refuse(app: &App, problem: Problem) -> Response {
    let unauthorized = problem.status() == StatusCode::UNAUTHORIZED;
    if unauthorized {
        app.figures.unauthorized.inc();
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
