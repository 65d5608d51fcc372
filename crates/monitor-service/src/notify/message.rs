//! What is sent.

use std::time::SystemTime;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

use crate::alert::Record;

/// Writes the body of a webhook.
pub(super) fn webhook(record: &Record) -> String {
    let alert = &record.alert;
    let acknowledged = alert
        .acknowledgement
        .as_ref()
        .map(|by| json!({"by": by.by, "at": stamp(by.at), "comment": by.comment}));
    json!({
        "event": record.id,
        "change": record.change,
        "at": stamp(record.at),
        "alert": {
            "id": alert.id,
            "rule": alert.key.rule,
            "severity": alert.severity.as_str(),
            "state": alert.state.as_str(),
            "source": alert.key.source,
            "endpoint": alert.key.endpoint,
            "subject": alert.key.subject,
            "summary": alert.summary,
            "value": alert.value,
            "threshold": alert.threshold,
            "labels": alert.labels,
            "startedAt": stamp(alert.started_at),
            "firedAt": alert.fired_at.map(stamp),
            "resolvedAt": alert.resolved_at.map(stamp),
            "flapping": alert.flapping,
            "acknowledgement": acknowledged,
        },
    })
    .to_string()
}

/// Writes what Slack, and what is compatible with it, shows.
pub(super) fn slack(record: &Record) -> String {
    // What could be read as a link or a mention there is written so that it is not.
    let text = line(record).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    json!({ "text": text }).to_string()
}

/// Says it in one line.
pub(super) fn line(record: &Record) -> String {
    let alert = &record.alert;
    let what = if record.change == "resolved" { "RESOLVED" } else { alert.severity.as_str() };
    let flapping = if alert.flapping { " (flapping)" } else { "" };
    format!("[{}] {} {}: {}{flapping}", what.to_uppercase(), alert.key.source, alert.key.rule, alert.summary)
}

/// Says it in a few lines.
pub(super) fn paragraph(record: &Record) -> String {
    let alert = &record.alert;
    let mut text = line(record);
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("\n{name}: {value}"));
        }
    };
    add("subject", &alert.key.subject);
    add("endpoint", &alert.key.endpoint);
    add("value", &format!("{} (level {})", alert.value, alert.threshold));
    add("since", &stamp(alert.started_at));
    add("over", &alert.resolved_at.map(stamp).unwrap_or_default());
    for (name, value) in alert.labels.iter().filter(|(name, _)| *name != "endpoint") {
        add(name, value);
    }
    add("alert", &alert.id.to_string());
    text
}

/// Signs a body: HMAC-SHA256 over the second and the body, so that neither can be changed nor sent again much later.
pub(super) fn signature(secret: &str, at: SystemTime, body: &str) -> String {
    let second = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{second}.{body}").as_bytes());
    format!("t={second},v1={}", hex::encode(mac.finalize().into_bytes()))
}

fn stamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
