use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::Role;

/// What a token says; times are in seconds since the Unix epoch.
///
/// Covers access tokens for the REST surface and the connection and subscription tokens of the Centrifuge client
/// protocol. Claims that are absent or null take their default; unknown claims are passed over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// Who the token is about; empty for anonymous connections.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub sub: String,
    /// From this time on the token is refused.
    #[serde(deserialize_with = "numeric_date", skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// Until this time the token is refused.
    #[serde(deserialize_with = "numeric_date", skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// When it was made.
    #[serde(deserialize_with = "numeric_date", skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// For whom it was made; one text or a list.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub aud: Vec<String>,
    /// Its own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The role on the REST surface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Rights beside the role; a list, or one text with spaces between (RFC 8693, section 4.2).
    #[serde(alias = "scope", deserialize_with = "scopes", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// When the connection or subscription ends, where that is not `exp`; 0 means never.
    #[serde(deserialize_with = "numeric_date", skip_serializing_if = "Option::is_none")]
    pub expire_at: Option<u64>,
    /// Shown to other clients in presence and join messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Value>,
    /// The same as bytes in base64, for clients that do not speak JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64info: Option<String>,
    /// Kept with the connection, never shown to clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<Value>,
    /// Channels the connection is subscribed to from the start.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// The same with options for each of them.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub subs: BTreeMap<String, SubscriptionClaims>,
    /// The one channel of a subscription token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// What holds for that channel against its namespace.
    #[serde(
        rename = "override",
        deserialize_with = "or_default",
        skip_serializing_if = "Overrides::is_empty"
    )]
    pub overrides: Overrides,
    /// Which publications of that channel the holder may see: a filter by tags in the form of the client protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tf: Option<Value>,
}

/// What a connection token says of one of its channels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscriptionClaims {
    /// Shown to other clients of the channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Value>,
    /// The same as bytes in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64info: Option<String>,
    /// What holds for the channel against its namespace.
    #[serde(
        rename = "override",
        deserialize_with = "or_default",
        skip_serializing_if = "Overrides::is_empty"
    )]
    pub overrides: Overrides,
    /// Which of its publications the holder may see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tf: Option<Value>,
}

/// Options of a channel that a token sets for one subscription; those that are absent stay as the namespace has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    force_recovery: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force_positioning: Option<Switch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force_push_join_leave: Option<Switch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Switch {
    value: bool,
}

impl Overrides {
    /// Sets what is given.
    pub fn of(
        force_recovery: Option<bool>,
        force_positioning: Option<bool>,
        force_push_join_leave: Option<bool>,
    ) -> Self {
        let switch = |value: Option<bool>| value.map(|value| Switch { value });
        Self {
            force_recovery: switch(force_recovery),
            force_positioning: switch(force_positioning),
            force_push_join_leave: switch(force_push_join_leave),
        }
    }

    /// Says whether the subscription is recoverable, asked for or not.
    pub fn force_recovery(self) -> Option<bool> {
        self.force_recovery.map(|switch| switch.value)
    }

    /// Says whether the client is told its position, asked for or not.
    pub fn force_positioning(self) -> Option<bool> {
        self.force_positioning.map(|switch| switch.value)
    }

    /// Says whether the client is told who comes and goes, asked for or not.
    pub fn force_push_join_leave(self) -> Option<bool> {
        self.force_push_join_leave.map(|switch| switch.value)
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Claims {
    /// Tells whether this token is for subscribing to one channel, and for nothing else.
    pub fn is_subscription(&self) -> bool {
        self.channel.is_some()
    }

    /// Returns when a connection or subscription made with this token ends; none means never.
    pub fn ends_at(&self) -> Option<u64> {
        match self.expire_at {
            Some(0) => None,
            Some(at) => Some(at),
            None => self.exp,
        }
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// RFC 7519 allows fractions of a second.
fn numeric_date<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumericDate {
        Whole(u64),
        Fraction(f64),
    }
    match Option::deserialize(from)? {
        None => Ok(None),
        Some(NumericDate::Whole(seconds)) => Ok(Some(seconds)),
        Some(NumericDate::Fraction(seconds)) if seconds >= 0.0 => Ok(Some(seconds as u64)),
        Some(NumericDate::Fraction(_)) => Err(D::Error::custom("a time before 1970")),
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match Option::deserialize(from)? {
        None => Vec::new(),
        Some(OneOrMany::One(text)) => vec![text],
        Some(OneOrMany::Many(texts)) => texts,
    })
}

fn scopes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match Option::deserialize(from)? {
        None => Vec::new(),
        Some(OneOrMany::One(text)) => text.split_whitespace().map(str::to_owned).collect(),
        Some(OneOrMany::Many(texts)) => texts,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(claims: Value) -> Result<Claims, serde_json::Error> {
        serde_json::from_value(claims)
    }

    #[test]
    fn connection_claims_are_read() {
        let claims = read(json!({
            "sub": "42", "exp": 1_700_000_000.9, "iat": 1_600_000_000, "expire_at": 0,
            "info": {"name": "Ann"}, "meta": {"plan": "pro"}, "channels": ["news", "user#42"], "future": [1],
        }))
        .unwrap();
        assert_eq!((claims.sub.as_str(), claims.exp), ("42", Some(1_700_000_000)));
        assert_eq!(claims.channels, ["news", "user#42"]);
        assert_eq!(claims.info, Some(json!({"name": "Ann"})));
        assert_eq!(claims.ends_at(), None);
        assert!(!claims.is_subscription());
    }

    #[test]
    fn absent_and_null_are_the_same() {
        let nulls =
            json!({"sub": null, "exp": null, "aud": null, "role": null, "scopes": null, "channels": null});
        assert_eq!(read(nulls).unwrap(), Claims::default());
        assert_eq!(read(json!({})).unwrap(), Claims::default());
        assert_eq!(serde_json::to_string(&Claims::default()).unwrap(), "{}");
    }

    #[test]
    fn lists_may_be_written_in_two_ways() {
        assert_eq!(read(json!({"aud": "a"})).unwrap().aud, ["a"]);
        assert_eq!(read(json!({"aud": ["a", "b"]})).unwrap().aud, ["a", "b"]);
        assert_eq!(read(json!({"scope": "a  b"})).unwrap().scopes, ["a", "b"]);
        assert_eq!(read(json!({"scopes": ["a b"]})).unwrap().scopes, ["a b"]);
    }

    #[test]
    fn claims_of_the_wrong_type_are_refused() {
        for wrong in [
            json!({"exp": "tomorrow"}),
            json!({"exp": -1}),
            json!({"nbf": []}),
            json!({"sub": 42}),
            json!({"role": "root"}),
            json!({"channels": "news"}),
            json!({"aud": [1]}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_end_of_a_connection_is_expire_at_or_else_exp() {
        let ends = |exp, expire_at| Claims { exp, expire_at, ..Claims::default() }.ends_at();
        assert_eq!(ends(Some(5), None), Some(5));
        assert_eq!(ends(Some(5), Some(9)), Some(9));
        assert_eq!(ends(Some(5), Some(0)), None);
        assert_eq!(ends(None, None), None);
    }
}
