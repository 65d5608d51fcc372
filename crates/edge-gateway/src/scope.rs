//! Which scope a path asks for, beside its role. What a scope means is said in mainstay-auth.

use mainstay_auth::scope::{self, Action, Need};

use crate::error::Problem;

/// How the thing is found that a path does something with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// By a parameter of the path.
    Parameter { area: &'static str, parameter: &'static str },
    /// It is all of an area.
    Whole(&'static str),
    /// By its place below `/monitoring/`.
    Place,
    /// Only the body tells: the handler asks by [`demand`].
    Body,
    /// The service behind asks, for the scopes travel with the caller.
    Upstream,
}

/// Checks what the path tells; `parameter` gives its parameters by name.
pub(crate) fn check(
    scopes: &[String],
    template: &str,
    action: Action,
    parameter: impl Fn(&str) -> Option<String>,
) -> Result<(), Problem> {
    if !scope::are_limiting(scopes) {
        return Ok(());
    }
    match rule(template) {
        Some(Rule::Parameter { area, parameter: name }) => {
            let name = parameter(name);
            demand(scopes, Need { area, action, name: name.as_deref() })
        }
        Some(Rule::Whole(area)) => demand(scopes, Need { area, action, name: None }),
        Some(Rule::Place) => {
            let place = template.strip_prefix("/monitoring/");
            demand(scopes, Need { area: "monitoring", action, name: place })
        }
        Some(Rule::Body | Rule::Upstream) => Ok(()),
        None => Err(missing("a scope that does not exist")),
    }
}

/// Refuses what the scopes of a credential do not name.
pub(crate) fn demand(scopes: &[String], need: Need<'_>) -> Result<(), Problem> {
    if scope::allow(scopes, need) { Ok(()) } else { Err(missing(&need.to_string())) }
}

/// Refuses a statement whose first word the scopes of a credential do not name: `database.write:insert`.
pub(crate) fn demand_sql(scopes: &[String], action: Action, sql: &str) -> Result<(), Problem> {
    if !scope::are_limiting(scopes) {
        return Ok(());
    }
    demand(scopes, Need { area: "database", action, name: Some(&first_word(sql)) })
}

/// Refuses channels that the scopes of a credential do not name.
pub(crate) fn demand_channels<'a>(
    scopes: &[String],
    channels: impl IntoIterator<Item = &'a String>,
) -> Result<(), Problem> {
    let need = |channel: &'a String| Need { area: "realtime", action: Action::Write, name: Some(channel) };
    channels.into_iter().try_for_each(|channel| demand(scopes, need(channel)))
}

fn missing(scope: &str) -> Problem {
    let detail = format!("the credentials have scopes, and none that gives {scope}");
    Problem::new(http::StatusCode::FORBIDDEN, "SCOPE_MISSING", detail).extension("scope", scope)
}

/// Names what each path that needs a role does something with; a test finds those that are forgotten.
fn rule(template: &str) -> Option<Rule> {
    let named = |area, parameter| Some(Rule::Parameter { area, parameter });
    let mut parts = template.trim_start_matches('/').split('/');
    match parts.next()? {
        "cache" if template.contains("{namespace}") => named("cache", "namespace"),
        "cache" => Some(Rule::Whole("cache")),
        "realtime" if template.contains("{channel}") => named("realtime", "channel"),
        "realtime" => match template {
            "/realtime/publish"
            | "/realtime/broadcast"
            | "/realtime/batch"
            | "/realtime/users/{user}/subscribe"
            | "/realtime/users/{user}/unsubscribe" => Some(Rule::Body),
            _ => Some(Rule::Whole("realtime")),
        },
        "database" => match template {
            "/database/query" | "/database/execute" | "/database/transaction" => Some(Rule::Body),
            // Whether a statement reads or writes is known to replica-service only, and so are those who may run it.
            "/database/statements" | "/database/statements/{name}" => Some(Rule::Upstream),
            _ => Some(Rule::Whole("database")),
        },
        "sessions" | "users" => Some(Rule::Whole("sessions")),
        "locks" => named("locks", "name"),
        "counters" => named("counters", "name"),
        "rate-limits" => Some(Rule::Whole("limits")),
        "monitoring" => Some(Rule::Place),
        "api-keys" if template.contains("{name}") => named("keys", "name"),
        "api-keys" => Some(Rule::Whole("keys")),
        "audit" => Some(Rule::Whole("audit")),
        _ => None,
    }
}

/// Returns the word a statement begins with, past blanks and comments; `other` where that is no word.
fn first_word(sql: &str) -> String {
    let mut rest = sql.trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after).trim_start();
        } else if rest.starts_with("/*") {
            rest = past_comment(rest).trim_start();
        } else {
            break;
        }
    }
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    if letters == 0 { "other".to_owned() } else { rest[..letters].to_ascii_lowercase() }
}

/// Comments of PostgreSQL nest; one without an end takes all that is left.
fn past_comment(text: &str) -> &str {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        match rest {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            // Behind the slash of an end: never inside a letter.
            return &text[at..];
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router;

    #[test]
    fn every_path_that_needs_a_role_has_a_rule() {
        let mut seen = 0;
        for (path, role) in router::map().roles() {
            if role.is_some() {
                assert!(rule(path).is_some(), "{path} is refused to whoever has scopes");
                seen += 1;
            }
        }
        assert!(seen > 60, "{seen}");
    }

    #[test]
    fn paths_ask_for_the_thing_they_name() {
        let value = |name: &str| Some(format!("the-{name}"));
        let table = [
            ("/cache/{namespace}/{key}", Action::Read, "cache.read:the-namespace"),
            ("/cache/{namespace}/batch", Action::Write, "cache.write:the-namespace"),
            ("/cache/namespaces/{namespace}", Action::Write, "cache.write:the-namespace"),
            ("/cache/stats", Action::Read, "cache.read:*"),
            ("/realtime/channels/{channel}/history", Action::Read, "realtime.read:the-channel"),
            ("/realtime/channels/{channel}/history", Action::Write, "realtime.write:the-channel"),
            ("/realtime/users/{user}/disconnect", Action::Write, "realtime.write:*"),
            ("/database/nodes/{node}/drain", Action::Write, "database.write:*"),
            ("/users/{user}/sessions", Action::Read, "sessions.read:*"),
            ("/locks/{name}/acquire", Action::Write, "locks.write:the-name"),
            ("/monitoring/alerts/rules/{name}", Action::Write, "monitoring.write:alerts/rules/{name}"),
            ("/api-keys", Action::Write, "keys.write:*"),
            ("/nowhere", Action::Read, "a scope that does not exist"),
        ];
        for (path, action, expected) in table {
            let held = ["audit:nothing".to_owned()];
            let problem = check(&held, path, action, value).expect_err(path);
            assert_eq!((problem.status().as_u16(), problem.code()), (403, "SCOPE_MISSING"), "{path}");
            assert!(problem.detail().ends_with(expected), "{path}: {}", problem.detail());
            assert!(check(&[], path, action, value).is_ok(), "the role alone decides without scopes");
            let granted = check(&[expected.to_owned()], path, action, value);
            assert_eq!(granted.is_ok(), path != "/nowhere", "{path}");
        }
    }

    #[test]
    fn statements_are_named_by_their_first_word() {
        for (sql, word) in [
            ("select 1", "select"),
            ("  INSERT into t", "insert"),
            ("-- note\n delete from t", "delete"),
            ("/* a /* nested */ b */update t", "update"),
            ("/* delete */", "other"),
            ("/* without end delete", "other"),
            ("-- only a note", "other"),
            ("(select 1)", "other"),
            ("with x as (delete from t) select 1", "with"),
            ("/* \u{e4} */\u{e4}", "other"),
            ("", "other"),
        ] {
            assert_eq!(first_word(sql), word, "{sql}");
        }
    }
}
