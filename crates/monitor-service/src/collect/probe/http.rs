//! GET, and what the answer must be like.

use ::http::StatusCode;
use serde_json::Value;

use super::super::dial::{Dialer, InvalidAddress};
use super::super::http::{Getter, Got, headers};
use super::super::one_line;
use super::Failure;
use crate::config::ProbeConfig;

/// Asks over HTTP/1.1.
pub(super) struct HttpProbe {
    getter: Getter,
    config: ProbeConfig,
}

/// Longest answer that is looked at.
const MAX_BYTES: usize = 1024 * 1024;

impl HttpProbe {
    pub(super) fn try_new(url: &str, config: ProbeConfig) -> Result<Self, InvalidAddress> {
        let headers = headers(&config.token, &config.user, &config.password);
        Ok(Self { getter: Getter::try_new(url, &config.tls, headers, MAX_BYTES)?, config })
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.getter.dialer
    }

    pub(super) async fn look(&self) -> (Result<(), Failure>, Option<u16>) {
        match self.getter.get().await {
            Ok(got) => {
                let status = got.status.as_u16();
                (judge(&got, &self.config).map_err(Failure::Wrong), Some(status))
            }
            Err(error) => {
                let reason = one_line(&error);
                let failure =
                    if error.is_reached() { Failure::Wrong(reason) } else { Failure::Silent(reason) };
                (Err(failure), None)
            }
        }
    }
}

/// Looks at one condition after the other; the first that does not hold is told.
fn judge(got: &Got, config: &ProbeConfig) -> Result<(), String> {
    judge_status(got.status, &config.statuses)?;
    for (name, wanted) in &config.headers {
        let found = got.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let fits = |value: &str| match wanted.strip_suffix('*') {
            Some(start) => value.starts_with(start),
            None => value == wanted,
        };
        if !found.into_iter().any(fits) {
            return Err(format!("header {name} is not {wanted:?}"));
        }
    }
    if !config.contains.is_empty() && !contains(&got.body, config.contains.as_bytes()) {
        return Err(format!("body does not contain {:?}", config.contains));
    }
    if config.json.is_empty() {
        return Ok(());
    }
    let body: Value =
        serde_json::from_slice(&got.body).map_err(|error| format!("body is not JSON: {error}"))?;
    for (pointer, wanted) in &config.json {
        match body.pointer(pointer) {
            Some(found) if found == wanted => {}
            Some(found) => return Err(format!("{pointer} is {}, not {wanted}", shortened(found))),
            None => return Err(format!("{pointer} is missing, not {wanted}")),
        }
    }
    Ok(())
}

fn judge_status(status: StatusCode, wanted: &[u16]) -> Result<(), String> {
    let fits = if wanted.is_empty() { status.is_success() } else { wanted.contains(&status.as_u16()) };
    if fits { Ok(()) } else { Err(format!("status is {}", status.as_u16())) }
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    body.windows(wanted.len()).any(|window| window == wanted)
}

/// What is found may be as long as the body.
fn shortened(found: &Value) -> String {
    const LONGEST: usize = 100;
    let text = found.to_string();
    if text.chars().count() <= LONGEST { text } else { text.chars().take(LONGEST).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderMap;

    #[test]
    fn first_condition_that_does_not_hold_is_told() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json; charset=utf-8".parse().unwrap());
        let body = r#"{"status":"ok","checks":[{"up":true}],"n":3}"#;
        let got = Got { status: StatusCode::OK, headers, body: body.into() };
        let config = |toml: &str| toml::from_str::<ProbeConfig>(toml).unwrap();
        let cases = [
            ("", Ok(())),
            ("statuses = [200, 204]", Ok(())),
            ("statuses = [404]", Err("status is 200")),
            ("headers = { Content-Type = \"application/json*\" }", Ok(())),
            ("headers = { content-type = \"*\" }", Ok(())),
            ("headers = { content-type = \"text/*\" }", Err("header content-type is not \"text/*\"")),
            ("headers = { etag = \"*\" }", Err("header etag is not \"*\"")),
            ("contains = \"ok\"", Ok(())),
            ("contains = \"OK\"", Err("body does not contain \"OK\"")),
            ("json = { \"/status\" = \"ok\", \"/checks/0/up\" = true, \"/n\" = 3 }", Ok(())),
            ("json = { \"/status\" = \"down\" }", Err("/status is \"ok\", not \"down\"")),
            ("json = { \"/checks/1/up\" = true }", Err("/checks/1/up is missing, not true")),
        ];
        for (toml, expected) in cases {
            assert_eq!(judge(&got, &config(toml)), expected.map_err(str::to_owned), "{toml}");
        }
        let empty = Got { status: StatusCode::NO_CONTENT, headers: HeaderMap::new(), body: "".into() };
        assert_eq!(judge(&empty, &config("")), Ok(()));
        assert!(judge(&empty, &config("contains = \"a\"")).is_err());
        assert!(judge(&empty, &config("json = { \"\" = 1 }")).unwrap_err().starts_with("body is not JSON"));
    }
}
