use std::fmt;
use std::str::FromStr;

/// One right: `<area>[.read|.write]:<name>`, like `cache:orders`, `realtime.write:news:*` or `database:insert`.
///
/// Without an action it is good for both. A name that ends with `*` stands for all that begin so, `*` alone for the
/// whole area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    area: String,
    action: Option<Action>,
    name: String,
}

/// What is done with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Looks at it.
    Read,
    /// Changes it.
    Write,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need<'a> {
    /// Which part of the house.
    pub area: &'a str,
    /// What is done.
    pub action: Action,
    /// With what there; none for the whole area, which only `*` gives.
    pub name: Option<&'a str>,
}

/// Says what a text must be to give a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be <area>[.read|.write]:<name>, with an area of {} and a name that may end with *",
    AREAS.join(", ")
)]
pub struct InvalidScope;

/// Parts of the house that rights are given for.
pub const AREAS: [&str; 10] = [
    "cache",
    "realtime",
    "database",
    "sessions",
    "locks",
    "counters",
    "limits",
    "monitoring",
    "keys",
    "audit",
];

/// Scopes that every OpenID provider gives; they say nothing about this house.
const FOREIGN: [&str; 6] = ["openid", "profile", "email", "address", "phone", "offline_access"];

/// Tells whether a credential with these scopes reaches no more than they name.
///
/// One without any is limited by its role alone. Words that nobody understands limit too: a right that was misspelt
/// must not become all rights.
pub fn are_limiting(scopes: &[String]) -> bool {
    scopes.iter().any(|scope| !FOREIGN.contains(&scope.as_str()))
}

/// Tells whether a credential with these scopes may do what is needed, as far as scopes go.
pub fn allow(scopes: &[String], need: Need<'_>) -> bool {
    !are_limiting(scopes) || held(scopes).any(|scope| scope.grants(need))
}

/// Tells whether who holds these scopes may give those to somebody else: nobody gives more than he has.
pub fn may_give(held_by_giver: &[String], given: &[String]) -> bool {
    if !are_limiting(held_by_giver) {
        return true;
    }
    let covered = |scope: &Scope| held(held_by_giver).any(|own| own.covers(scope));
    are_limiting(given) && given.iter().all(|text| text.parse().is_ok_and(|scope| covered(&scope)))
}

fn held(scopes: &[String]) -> impl Iterator<Item = Scope> {
    scopes.iter().filter_map(|text| text.parse().ok())
}

impl Scope {
    fn grants(&self, need: Need<'_>) -> bool {
        let action = self.action.is_none_or(|action| action == need.action);
        self.area == need.area && action && need.name.map_or(self.name == "*", |name| self.matches(name))
    }

    fn covers(&self, other: &Self) -> bool {
        let action = self.action.is_none() || self.action == other.action;
        // A pattern is covered by what matches all that it matches: itself with its star is the shortest of them.
        let name = other.name.strip_suffix('*').map_or_else(
            || self.matches(&other.name),
            |prefix| self.name.strip_suffix('*').is_some_and(|own| prefix.starts_with(own)),
        );
        self.area == other.area && action && name
    }

    fn matches(&self, name: &str) -> bool {
        self.name.strip_suffix('*').map_or(self.name == name, |prefix| name.starts_with(prefix))
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let (what, name) = text.split_once(':').ok_or(InvalidScope)?;
        let (area, action) = match what.split_once('.') {
            None => (what, None),
            Some((area, "read")) => (area, Some(Action::Read)),
            Some((area, "write")) => (area, Some(Action::Write)),
            Some(_) => return Err(InvalidScope),
        };
        let inner_star = name.strip_suffix('*').unwrap_or(name).contains('*');
        if !AREAS.contains(&area) || name.is_empty() || inner_star || name.contains(char::is_whitespace) {
            return Err(InvalidScope);
        }
        Ok(Self { area: area.to_owned(), action, name: name.to_owned() })
    }
}

impl fmt::Display for Need<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Read => "read",
            Action::Write => "write",
        };
        write!(f, "{}.{action}:{}", self.area, self.name.unwrap_or("*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn need<'a>(area: &'a str, action: Action, name: &'a str) -> Need<'a> {
        Need { area, action, name: (!name.is_empty()).then_some(name) }
    }

    #[test]
    fn a_scope_allows_what_it_names_and_nothing_else() {
        use Action::{Read, Write};
        let table: &[(&[&str], Need<'_>, bool)] = &[
            (&[], need("cache", Write, "orders"), true),
            (&["openid", "profile"], need("cache", Write, "orders"), true),
            (&["cache:orders"], need("cache", Read, "orders"), true),
            (&["cache:orders"], need("cache", Write, "orders"), true),
            (&["cache:orders"], need("cache", Read, "orders2"), false),
            (&["cache:orders"], need("cache", Read, ""), false),
            (&["cache:orders"], need("realtime", Read, "orders"), false),
            (&["cache.read:orders"], need("cache", Read, "orders"), true),
            (&["cache.read:orders"], need("cache", Write, "orders"), false),
            (&["cache.write:orders"], need("cache", Read, "orders"), false),
            (&["cache:shop-*"], need("cache", Write, "shop-a"), true),
            (&["cache:shop-*"], need("cache", Write, "shop"), false),
            (&["cache:*"], need("cache", Write, ""), true),
            (&["realtime:news:*"], need("realtime", Write, "news:sport"), true),
            (&["realtime:news:*"], need("realtime", Write, "news"), false),
            (&["cache:a", "openid", "cache:b"], need("cache", Write, "b"), true),
            // What nobody understands gives nothing, and limits.
            (&["cahce:orders"], need("cache", Read, "orders"), false),
            (&["cache"], need("cache", Read, "orders"), false),
            (&["*"], need("cache", Read, "orders"), false),
            (&["cache:or*ers"], need("cache", Read, "orders"), false),
        ];
        for (held, needed, expected) in table {
            assert_eq!(allow(&scopes(held), *needed), *expected, "{held:?} for {needed}");
        }
    }

    #[test]
    fn nobody_gives_more_than_he_has() {
        let table: &[(&[&str], &[&str], bool)] = &[
            (&[], &[], true),
            (&[], &["cache:orders"], true),
            (&["keys:*"], &[], false),
            (&["keys:*"], &["openid"], false),
            (&["keys:*", "cache:*"], &["cache:orders"], true),
            (&["cache:shop-*"], &["cache:shop-a"], true),
            (&["cache:shop-*"], &["cache:shop-a*"], true),
            (&["cache:shop-*"], &["cache:sh*"], false),
            (&["cache:shop"], &["cache:shop*"], false),
            (&["cache.read:shop"], &["cache:shop"], false),
            (&["cache:shop"], &["cache.write:shop"], true),
            (&["cache:*"], &["cache:a", "realtime:b"], false),
        ];
        for (held, given, expected) in table {
            assert_eq!(may_give(&scopes(held), &scopes(given)), *expected, "{held:?} gives {given:?}");
        }
    }

    #[test]
    fn needs_are_told_as_a_scope_that_would_do() {
        for needed in [need("cache", Action::Write, "orders"), need("database", Action::Read, "")] {
            assert!(allow(&[needed.to_string()], needed), "{needed}");
        }
    }
}
