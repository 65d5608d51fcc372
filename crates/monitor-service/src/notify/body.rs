//! What the services that people use want to be told, as JSON.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::message::{Bundle, line};
use crate::alert::{Alert, AlertState, Record, Severity};
use crate::config::ChannelConfig;

/// Longest texts that they take, in characters.
const DISCORD_MAX: usize = 2_000;
const TELEGRAM_MAX: usize = 4_096;
const PAGERDUTY_MAX: usize = 1_024;
/// Of 4,096 bytes; a letter may take several.
const NTFY_MAX: usize = 2_000;
/// An alert is over in an Alertmanager when nobody has spoken of it for so long: it is told once, so for long.
const ALERTMANAGER_HOLDS: Duration = Duration::from_hours(24 * 7);

/// Writes an execution of a Discord webhook. Nobody is mentioned, whatever a label says.
pub(super) fn discord(bundle: &Bundle<'_>) -> String {
    json!({ "content": cut(&bundle.lines(), DISCORD_MAX), "allowed_mentions": { "parse": [] } }).to_string()
}

/// Writes `sendMessage` of the Telegram Bot API.
pub(super) fn telegram(bundle: &Bundle<'_>, config: &ChannelConfig) -> String {
    let chat = config.to.first().map(String::as_str).unwrap_or_default();
    let text = cut(&bundle.paragraphs(), TELEGRAM_MAX);
    json!({ "chat_id": chat, "text": text, "link_preview_options": { "is_disabled": true } }).to_string()
}

/// Writes a message as ntfy takes it at its root.
pub(super) fn ntfy(bundle: &Bundle<'_>, config: &ChannelConfig) -> String {
    let topic = config.to.first().map(String::as_str).unwrap_or_default();
    let worst = bundle.records.iter().filter(|record| record.alert.state != AlertState::Resolved);
    let (priority, tag) = match worst.map(|record| record.alert.severity).max() {
        None => (3, "white_check_mark"),
        Some(Severity::Critical) => (5, "rotating_light"),
        Some(Severity::Warning) => (4, "warning"),
        Some(Severity::Info) => (3, "information_source"),
    };
    let key = &bundle.newest.alert.key;
    let title =
        if bundle.records.len() == 1 { format!("{} {}", key.source, key.rule) } else { bundle.title() };
    let message = cut(&bundle.each_line(), NTFY_MAX);
    json!({ "topic": topic, "title": title, "message": message, "priority": priority, "tags": [tag] })
        .to_string()
}

/// Writes an event of PagerDuty's Events API v2; the id of the alert makes its events one incident.
pub(super) fn pagerduty(record: &Record, config: &ChannelConfig) -> String {
    let alert = &record.alert;
    let action = if alert.state == AlertState::Resolved { "resolve" } else { "trigger" };
    json!({
        "routing_key": config.token.expose(),
        "event_action": action,
        // Another monitor may tell that it is over.
        "dedup_key": alert.fingerprint().unwrap_or_else(|| alert.id.to_string()),
        "client": "mainstay",
        "payload": {
            "summary": cut(&line(record), PAGERDUTY_MAX),
            "source": if alert.key.endpoint.is_empty() { &alert.key.source } else { &alert.key.endpoint },
            "severity": alert.severity.as_str(),
            "timestamp": stamp(record.at),
            "component": alert.key.subject,
            "group": alert.key.source,
            "class": alert.key.rule,
            "custom_details": { "value": alert.value, "threshold": alert.threshold, "labels": alert.labels },
        },
    })
    .to_string()
}

/// Writes `POST /api/v2/alerts` of an Alertmanager. There a severity is a label and labels are the identity: when ours has
/// risen, the alert of the lower severity is ended.
pub(super) fn alertmanager(record: &Record) -> String {
    let alert = &record.alert;
    let entry = |severity: Severity, ends_at: SystemTime| {
        json!({
            "labels": labels(alert, severity),
            "annotations": { "summary": alert.summary, "alert_id": alert.id },
            "startsAt": stamp(alert.fired_at.unwrap_or(alert.started_at)),
            "endsAt": stamp(ends_at),
        })
    };
    let is_over = alert.state == AlertState::Resolved;
    let ends_at =
        if is_over { alert.resolved_at.unwrap_or(record.at) } else { record.at + ALERTMANAGER_HOLDS };
    let lower =
        Severity::ALL.into_iter().filter(|lower| *lower < alert.severity && record.change == "raised");
    let ended = lower.map(|lower| entry(lower, record.at));
    let all: Vec<Value> = ended.chain([entry(alert.severity, ends_at)]).collect();
    Value::Array(all).to_string()
}

fn labels(alert: &Alert, severity: Severity) -> Map<String, Value> {
    let own = alert.labels.iter().map(|(name, value)| (legal(name), value.clone()));
    let key = &alert.key;
    let fixed = [
        ("alertname", key.rule.to_string()),
        ("severity", severity.as_str().to_owned()),
        ("service", key.source.clone()),
        ("endpoint", key.endpoint.clone()),
        ("subject", key.subject.clone()),
    ];
    let fixed = fixed.into_iter().map(|(name, value)| (name.to_owned(), value));
    // An empty label is none there.
    let all = own.chain(fixed).filter(|(_, value)| !value.is_empty());
    all.map(|(name, value)| (name, Value::String(value))).collect()
}

/// Makes a name of a label that Prometheus takes.
fn legal(name: &str) -> String {
    let mut legal: String =
        name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    if legal.starts_with(|first: char| first.is_ascii_digit()) {
        legal.insert(0, '_');
    }
    legal
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

fn stamp(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::{Key, Notice};
    use crate::roster::tests::at;

    fn record(change: &'static str, state: AlertState) -> Record {
        let key = Key {
            rule: "host_disk".into(),
            source: "host".to_owned(),
            endpoint: String::new(),
            subject: "mount=/".to_owned(),
        };
        let alert = Alert {
            number: 1,
            id: uuid::Uuid::nil(),
            key,
            severity: Severity::Critical,
            state,
            summary: "disk in use at /: 0.97 @everyone".to_owned(),
            value: 0.97,
            threshold: 0.95,
            labels: [("mount".to_owned(), "/".to_owned()), ("9 lives".to_owned(), "x".to_owned())].into(),
            started_at: at(10),
            fired_at: Some(at(20)),
            resolved_at: (state == AlertState::Resolved).then(|| at(50)),
            acknowledgement: None,
            notice: Notice::Sent,
            flapping: false,
            version: 0,
            escalated: Vec::new(),
            told_at: None,
            repeated: Vec::new(),
        };
        Record { id: 7, at: at(60), change: change.into(), by: String::new(), alert }
    }

    fn of(record: &Record) -> Bundle<'_> {
        Bundle { records: std::slice::from_ref(record), newest: record, group: None }
    }

    #[test]
    fn message_about_a_group_tells_of_all_and_of_the_worst_first() {
        let config = ChannelConfig { to: vec!["42".to_owned()], ..ChannelConfig::default() };
        let records = [record("fired", AlertState::Firing), record("resolved", AlertState::Resolved)];
        let group = vec![("source", "host"), ("region", "")];
        let bundle = Bundle { records: &records, newest: &records[1], group: Some(&group) };
        let chat = read(&discord(&bundle));
        let lines: Vec<&str> = chat["content"].as_str().unwrap().lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[0], "[1 CRITICAL, 1 RESOLVED] source=host");
        let push = read(&ntfy(&bundle, &config));
        assert_eq!((&push["priority"], &push["title"]), (&json!(5), &json!(lines[0])));
    }

    fn read(body: &str) -> Value {
        serde_json::from_str(body).unwrap()
    }

    #[test]
    fn alert_in_alertmanager_ends_where_ours_does() {
        let fired = read(&alertmanager(&record("fired", AlertState::Firing)));
        assert_eq!(fired.as_array().unwrap().len(), 1);
        assert_eq!(
            fired[0]["labels"],
            json!({
                "alertname": "host_disk", "severity": "critical", "service": "host", "subject": "mount=/",
                "mount": "/", "_9_lives": "x",
            })
        );
        assert_eq!(fired[0]["endsAt"], stamp(at(60) + ALERTMANAGER_HOLDS));
        let raised = read(&alertmanager(&record("raised", AlertState::Firing)));
        let ends: Vec<(&str, &str)> = raised
            .as_array()
            .unwrap()
            .iter()
            .map(|alert| (alert["labels"]["severity"].as_str().unwrap(), alert["endsAt"].as_str().unwrap()))
            .collect();
        let (now, later) = (stamp(at(60)), stamp(at(60) + ALERTMANAGER_HOLDS));
        assert_eq!(ends, [("info", now.as_str()), ("warning", now.as_str()), ("critical", later.as_str())]);
        let over = read(&alertmanager(&record("resolved", AlertState::Resolved)));
        assert_eq!(over[0]["endsAt"], stamp(at(50)));
    }

    #[test]
    fn every_service_is_told_in_its_words() {
        let config =
            ChannelConfig { to: vec!["42".to_owned()], token: "key".into(), ..ChannelConfig::default() };
        let (fired, over) = (record("fired", AlertState::Firing), record("resolved", AlertState::Resolved));
        let page = read(&pagerduty(&fired, &config));
        assert_eq!((&page["event_action"], &page["routing_key"]), (&json!("trigger"), &json!("key")));
        assert_eq!(read(&pagerduty(&over, &config))["event_action"], "resolve");
        assert_eq!(page["dedup_key"], read(&pagerduty(&over, &config))["dedup_key"]);
        assert_eq!(read(&discord(&of(&fired)))["allowed_mentions"], json!({ "parse": [] }));
        assert_eq!(read(&telegram(&of(&fired), &config))["chat_id"], "42");
        let (loud, calm) = (read(&ntfy(&of(&fired), &config)), read(&ntfy(&of(&over), &config)));
        assert_eq!(
            (&loud["topic"], &loud["priority"], &calm["priority"]),
            (&json!("42"), &json!(5), &json!(3))
        );
    }
}
