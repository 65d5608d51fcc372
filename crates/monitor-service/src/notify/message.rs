//! What is sent.

use std::time::SystemTime;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

use crate::alert::{AlertState, Record, Severity};
use crate::analysis::words::number;

/// Holds what one message tells of: one event, or those of one group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bundle<'b> {
    /// Oldest first.
    pub(super) records: &'b [Record],
    /// The last of them.
    pub(super) newest: &'b Record,
    /// What they agree in; none where the channel tells of each event by itself.
    pub(super) group: Option<&'b Vec<(&'b str, &'b str)>>,
}

impl Bundle<'_> {
    /// Says it in one line.
    pub(super) fn title(&self) -> String {
        if self.records.len() == 1 { line(self.newest) } else { self.heading() }
    }

    /// Says it in one line, and one for each event where there are several.
    pub(super) fn lines(&self) -> String {
        let heading = (self.records.len() > 1).then(|| format!("{}\n", self.heading()));
        format!("{}{}", heading.unwrap_or_default(), self.each_line())
    }

    /// Says each event in one line.
    pub(super) fn each_line(&self) -> String {
        self.records.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Says it in a few lines for each event.
    pub(super) fn paragraphs(&self) -> String {
        let heading = (self.records.len() > 1).then(|| format!("{}\n\n", self.heading()));
        let each = self.records.iter().map(paragraph).collect::<Vec<_>>().join("\n\n");
        format!("{}{each}", heading.unwrap_or_default())
    }

    fn n_resolved(&self) -> usize {
        self.records.iter().filter(|record| record.alert.state == AlertState::Resolved).count()
    }

    /// Counts what happened, the worst first, and says what it has in common.
    fn heading(&self) -> String {
        let of = |severity| {
            let fires = |record: &&Record| record.alert.state != AlertState::Resolved;
            self.records.iter().filter(fires).filter(|record| record.alert.severity == severity).count()
        };
        let severities = Severity::ALL.into_iter().rev().map(|severity| (of(severity), severity.as_str()));
        let counts = severities.chain([(self.n_resolved(), "resolved")]).filter(|(n, _)| *n > 0);
        let counts: Vec<String> = counts.map(|(n, what)| format!("{n} {}", what.to_uppercase())).collect();
        let common = self.group.into_iter().flatten().filter(|(_, value)| !value.is_empty());
        let common: Vec<String> = common.map(|(name, value)| format!("{name}={value}")).collect();
        format!("[{}] {}", counts.join(", "), common.join(" ")).trim_end().to_owned()
    }
}

/// Writes the body of a webhook: an event, or where the channel groups what the group is and its events.
pub(super) fn webhook(bundle: &Bundle<'_>) -> String {
    let Some(group) = bundle.group else { return event(bundle.newest).to_string() };
    let labels: serde_json::Map<String, serde_json::Value> =
        group.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    let n_resolved = bundle.n_resolved();
    json!({
        "event": bundle.newest.id,
        "at": stamp(bundle.newest.at),
        "group": labels,
        "firing": bundle.records.len() - n_resolved,
        "resolved": n_resolved,
        "events": bundle.records.iter().map(event).collect::<Vec<_>>(),
    })
    .to_string()
}

fn event(record: &Record) -> serde_json::Value {
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
            "fingerprint": alert.fingerprint(),
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
}

/// Writes what Slack, and what is compatible with it, shows.
pub(super) fn slack(bundle: &Bundle<'_>) -> String {
    // What could be read as a link or a mention there is written so that it is not.
    let text = bundle.lines().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    json!({ "text": text }).to_string()
}

/// Says it in one line.
pub(super) fn line(record: &Record) -> String {
    let alert = &record.alert;
    let what = if record.change == "resolved" { "RESOLVED" } else { alert.severity.as_str() };
    let flapping = if alert.flapping { " (flapping)" } else { "" };
    let still = if record.change == "repeated" { " (still)" } else { "" };
    let (source, rule, summary) = (&alert.key.source, &alert.key.rule, &alert.summary);
    format!("[{}] {source} {rule}: {summary}{flapping}{still}", what.to_uppercase())
}

/// Says it in a few lines.
fn paragraph(record: &Record) -> String {
    let alert = &record.alert;
    let mut text = line(record);
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("\n{name}: {value}"));
        }
    };
    add("subject", &alert.key.subject);
    add("endpoint", &alert.key.endpoint);
    add("value", &format!("{} (level {})", number(alert.value), number(alert.threshold)));
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
