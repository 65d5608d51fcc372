//! Which statements have names, and who may run what.

use std::collections::{BTreeMap, HashSet};

use mainstay_auth::{
    Role,
    scope::{self, Action, Need},
};
use mainstay_rpc::{Caller, ErrorCode, Failure};

use crate::config::{NamedConfig, NamedKind, StatementsConfig};

/// Decides without I/O.
///
/// A service that asks on its own behalf has no subject, role or scopes: it may run every named statement, and texts
/// of its own unless nobody may.
pub(crate) struct Statements {
    only_named: bool,
    only_named_for: HashSet<String>,
    named: BTreeMap<String, NamedConfig>,
}

impl Statements {
    pub(crate) fn new(config: &StatementsConfig) -> Self {
        Self {
            only_named: config.only_named,
            only_named_for: config.only_named_for.iter().cloned().collect(),
            named: config.named.clone(),
        }
    }

    /// Tells whether there is anybody who may run named statements only.
    pub(crate) fn bind_anybody(&self) -> bool {
        self.only_named || !self.only_named_for.is_empty()
    }

    /// Tells whether a caller may run named statements only.
    pub(crate) fn is_bound(&self, caller: Option<&Caller>) -> bool {
        self.only_named || caller.is_some_and(|caller| self.only_named_for.contains(&caller.subject))
    }

    /// Refuses a text of his own to who may run named statements only.
    pub(crate) fn allow_text(&self, caller: Option<&Caller>) -> Result<(), Failure> {
        if self.is_bound(caller) {
            return Err(not_allowed("only named statements are legal here: statements.only_named"));
        }
        Ok(())
    }

    /// Tells whether a name stands for a statement.
    pub(crate) fn know(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// Finds a statement that a caller may run.
    pub(crate) fn find(&self, name: &str, caller: Option<&Caller>) -> Result<&NamedConfig, Failure> {
        let unknown = || {
            Failure::new(ErrorCode::NotFound, "UNKNOWN_STATEMENT", "no statement of this name is configured")
        };
        let named = self.named.get(name).ok_or_else(unknown)?;
        if let Some(caller) = caller {
            refusal(name, named, caller).map_or(Ok(()), |why| Err(not_allowed(why)))?;
        }
        Ok(named)
    }

    /// Lists the statements that a caller may run, by name.
    pub(crate) fn of<'a>(
        &'a self,
        caller: Option<&'a Caller>,
    ) -> impl Iterator<Item = (&'a String, &'a NamedConfig)> {
        let legal = move |(name, named): &(&String, &NamedConfig)| {
            caller.is_none_or(|caller| refusal(name, named, caller).is_none())
        };
        self.named.iter().filter(legal)
    }
}

/// Says why a caller may not run a statement.
fn refusal(name: &str, named: &NamedConfig, caller: &Caller) -> Option<String> {
    let role = caller.role.parse::<Role>().ok();
    if role.is_none_or(|role| role < named.role()) {
        return Some(format!("this statement is for the role {}, and above", named.role()));
    }
    if !named.callers.is_empty() && !named.callers.contains(&caller.subject) {
        return Some("this statement is for other callers: statements.named.<name>.callers".to_owned());
    }
    let action = match named.kind {
        NamedKind::Query => Action::Read,
        NamedKind::Execute => Action::Write,
    };
    let scope = format!("named/{name}");
    let need = Need { area: "database", action, name: Some(&scope) };
    (!scope::allow(&caller.scopes, need))
        .then(|| format!("the credentials have scopes, and none that gives {need}"))
}

fn not_allowed(why: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::PermissionDenied, "STATEMENT_NOT_ALLOWED", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(subject: &str, role: &str, scopes: &[&str]) -> Caller {
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        Caller { subject: subject.to_owned(), role: role.to_owned(), scopes }
    }

    fn statements() -> Statements {
        let named = |kind, role, callers: &[&str]| NamedConfig {
            sql: "SELECT 1".to_owned(),
            kind,
            role,
            callers: callers.iter().map(|&caller| caller.to_owned()).collect(),
            ..NamedConfig::default()
        };
        Statements::new(&StatementsConfig {
            only_named: false,
            only_named_for: vec!["shop".to_owned()],
            named: BTreeMap::from([
                ("orders".to_owned(), named(NamedKind::Query, None, &[])),
                ("orders.add".to_owned(), named(NamedKind::Execute, Some(Role::Operator), &["shop"])),
                ("orders.end".to_owned(), named(NamedKind::Execute, None, &[])),
            ]),
        })
    }

    #[test]
    fn role_caller_and_scope_must_all_agree() {
        let statements = statements();
        for (name, who, allowed) in [
            ("orders", caller("a", "viewer", &[]), true),
            ("orders", caller("a", "viewer", &["openid"]), true),
            ("orders", caller("a", "viewer", &["database.read:named/orders"]), true),
            ("orders", caller("a", "viewer", &["database:named/*"]), true),
            ("orders", caller("a", "admin", &["database.write:named/orders"]), false),
            ("orders", caller("a", "admin", &["database:select"]), false),
            ("orders", caller("a", "nobody", &[]), false),
            ("orders.end", caller("shop", "operator", &[]), false),
            ("orders.end", caller("shop", "admin", &[]), true),
            ("orders.add", caller("shop", "operator", &[]), true),
            ("orders.add", caller("shop", "viewer", &[]), false),
            ("orders.add", caller("other", "admin", &[]), false),
            ("orders.add", caller("shop", "admin", &["database.read:named/*"]), false),
        ] {
            let found = statements.find(name, Some(&who));
            assert_eq!(found.is_ok(), allowed, "{name} by {who:?}");
            assert_eq!(statements.of(Some(&who)).any(|(known, _)| known == name), allowed);
            if let Err(failure) = found {
                assert_eq!(failure.reason(), "STATEMENT_NOT_ALLOWED");
            }
        }
        let unknown = statements.find("nothing", None).unwrap_err();
        assert_eq!((unknown.code(), unknown.reason()), (ErrorCode::NotFound, "UNKNOWN_STATEMENT"));
        assert!(statements.find("orders.add", None).is_ok());
    }

    #[test]
    fn who_is_bound_to_names_sends_no_text() {
        let mut statements = statements();
        assert!(statements.allow_text(Some(&caller("shop", "admin", &[]))).is_err());
        assert!(statements.allow_text(Some(&caller("other", "viewer", &[]))).is_ok());
        assert!(statements.allow_text(None).is_ok());
        statements.only_named = true;
        for who in [None, Some(caller("other", "admin", &[]))] {
            let failure = statements.allow_text(who.as_ref()).unwrap_err();
            assert_eq!(
                (failure.code(), failure.reason()),
                (ErrorCode::PermissionDenied, "STATEMENT_NOT_ALLOWED")
            );
        }
    }
}
