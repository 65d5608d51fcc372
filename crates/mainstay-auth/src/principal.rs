use serde::{Deserialize, Serialize};

use crate::Role;

/// Says who is calling, as established by a checked credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Names the caller: the `sub` of a token, the id of an API key, the name of a service.
    pub subject: String,
    /// The highest role the caller has.
    pub role: Role,
    /// Rights beside the role, free text from the credential.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// How the caller was recognised.
    pub method: Method,
    /// End of the credential, in seconds since the Unix epoch.
    #[serde(default)]
    pub expires_at: Option<u64>,
}

impl Principal {
    /// Makes the principal of a caller without credentials, where configuration grants such callers a role.
    pub fn anonymous(role: Role) -> Self {
        Self::unlimited("anonymous", role, Method::Anonymous)
    }

    /// Makes the principal of a service that proved itself by its service token or certificate.
    pub fn service(name: &str, role: Role) -> Self {
        Self::unlimited(name, role, Method::Service)
    }

    /// Tells whether the caller has this role or a higher one.
    pub fn has_role(&self, needed: Role) -> bool {
        self.role >= needed
    }

    /// Tells whether the credential carries this scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| held == scope)
    }

    fn unlimited(subject: &str, role: Role, method: Method) -> Self {
        Self { subject: subject.into(), role, scopes: Vec::new(), method, expires_at: None }
    }
}

/// Says how a caller was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By a signed token.
    Jwt,
    /// By an API key.
    ApiKey,
    /// Not at all.
    Anonymous,
    /// By a service token or a client certificate.
    Service,
}

impl Method {
    /// Returns `jwt`, `api_key`, `anonymous` or `service`, as used in metric labels and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::ApiKey => "api_key",
            Self::Anonymous => "anonymous",
            Self::Service => "service",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_covers_itself_and_smaller_ones() {
        let operator = Principal::service("monitor-service", Role::Operator);
        assert!(operator.has_role(Role::Viewer) && operator.has_role(Role::Operator));
        assert!(!operator.has_role(Role::Admin));
    }

    #[test]
    fn a_principal_survives_the_way_through_json() {
        let mut principal = Principal::anonymous(Role::Viewer);
        principal.scopes = vec!["sql:write".into()];
        principal.expires_at = Some(7);
        let json = serde_json::to_string(&principal).unwrap();
        assert_eq!(serde_json::from_str::<Principal>(&json).unwrap(), principal);
        assert!(principal.has_scope("sql:write") && !principal.has_scope("sql"));
    }

    #[test]
    fn methods_are_called_the_same_in_json_and_in_labels() {
        for method in [Method::Jwt, Method::ApiKey, Method::Anonymous, Method::Service] {
            assert_eq!(serde_json::to_value(method).unwrap(), method.as_str());
        }
    }
}
