use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde_json::Value as Json;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context as LayerContext;

use super::event::{EventFields, current_trace};
use crate::clock::Clock;
use crate::fingerprint::Fingerprint;

/// Counts errors that were logged, by where and what.
pub(crate) struct ErrorGroups {
    by_fingerprint: Mutex<HashMap<u64, ErrorGroup>>,
    clock: Clock,
}

/// Errors that differ only in their variable parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ErrorGroup {
    pub(crate) fingerprint: String,
    pub(crate) code: String,
    pub(crate) target: String,
    pub(crate) message: String,
    pub(crate) count: u64,
    pub(crate) first_seen_at: SystemTime,
    pub(crate) last_seen_at: SystemTime,
    pub(crate) trace_id: String,
}

/// Groups kept; beyond it the one not seen for longest makes room.
const MAX_GROUPS: usize = 1000;
/// Longest message kept.
const MAX_MESSAGE_CHARS: usize = 1000;

impl ErrorGroups {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { by_fingerprint: Mutex::default(), clock })
    }

    /// Returns the layer that sees the errors; filter it to level ERROR.
    pub(super) fn layer(self: &Arc<Self>) -> ErrorLayer {
        ErrorLayer { groups: Arc::clone(self) }
    }

    /// Returns up to `limit` groups, the latest seen first.
    pub(crate) fn newest(&self, limit: usize) -> Vec<ErrorGroup> {
        let mut groups: Vec<_> = self.by_fingerprint.lock().values().cloned().collect();
        groups.sort_by(|a, b| {
            b.last_seen_at.cmp(&a.last_seen_at).then_with(|| a.fingerprint.cmp(&b.fingerprint))
        });
        groups.truncate(limit);
        groups
    }

    fn count(&self, target: &str, code: String, message: String, trace_id: String) {
        let parts = [target, &code, &template(&message)];
        let fingerprint = parts.iter().fold(Fingerprint::new(), |f, part| f.part(part.as_bytes()));
        let now = self.clock.now();
        let mut groups = self.by_fingerprint.lock();
        if let Some(group) = groups.get_mut(&fingerprint.value()) {
            group.count += 1;
            group.last_seen_at = now;
            group.message = message;
            if !trace_id.is_empty() {
                group.trace_id = trace_id;
            }
            return;
        }
        if groups.len() >= MAX_GROUPS {
            let oldest = groups.iter().min_by_key(|(_, group)| group.last_seen_at).map(|(key, _)| *key);
            oldest.map(|key| groups.remove(&key));
        }
        let group = ErrorGroup {
            fingerprint: fingerprint.hex(),
            code,
            target: target.to_owned(),
            message,
            count: 1,
            first_seen_at: now,
            last_seen_at: now,
            trace_id,
        };
        groups.insert(fingerprint.value(), group);
    }
}

/// Feeds error events into [`ErrorGroups`].
pub(super) struct ErrorLayer {
    groups: Arc<ErrorGroups>,
}

impl<S: Subscriber> Layer<S> for ErrorLayer {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let EventFields { mut message, fields } = EventFields::of(event);
        let text = |wanted: &str| {
            let field = fields.iter().find(|(name, _)| *name == wanted);
            field.map(|(_, value)| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let code = text("code").unwrap_or_else(|| "INTERNAL".to_owned());
        // What failed says the message; the task or the cause tells two failures of one kind apart.
        for (name, value) in &fields {
            if ["task", "error", "panic", "reason"].contains(name) {
                message.push_str(&format!(
                    " {name}={}",
                    value.as_str().map_or_else(|| Json::to_string(value), str::to_owned)
                ));
            }
        }
        let message = message.chars().take(MAX_MESSAGE_CHARS).collect();
        let trace_id = current_trace().map(|span| span.trace_id().to_string()).unwrap_or_default();
        self.groups.count(event.metadata().target(), code, message, trace_id);
    }
}

/// Replaces what varies between occurrences: every word with a digit in it, and what is quoted.
fn template(message: &str) -> String {
    let mut template = String::with_capacity(message.len());
    let mut quoted = false;
    for (n, piece) in message.split('"').enumerate() {
        quoted = n % 2 == 1;
        if quoted {
            template.push('#');
            continue;
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let mut rest = piece;
        while let Some(first) = rest.chars().next() {
            let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
            let (word, tail) = rest.split_at(end);
            template.push_str(if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word });
            rest = tail;
        }
    }
    if quoted {
        template.push('"');
    }
    template
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn template_drops_what_varies() {
        for (message, expected) in [
            ("request failed", "request failed"),
            ("connect to 10.0.0.7:6379 failed", "connect to #.#.#.#:# failed"),
            ("no key \"user 7\" in cache", "no key # in cache"),
            ("trace 4bf92f3577b34da6 lost", "trace # lost"),
            ("an open \"quote", "an open #\""),
        ] {
            assert_eq!(template(message), expected);
        }
    }

    #[test]
    fn errors_that_differ_in_figures_only_are_one_group() {
        let (clock, hand) = Clock::fixed(UNIX_EPOCH);
        let groups = ErrorGroups::new(clock);
        let subscriber = tracing_subscriber::registry().with(groups.layer());
        tracing::subscriber::with_default(subscriber, || {
            for port in [1, 2, 3] {
                tracing::error!(code = "UNAVAILABLE", error = %format!("port {port} refused"), "call failed");
                hand.advance(Duration::from_secs(1));
            }
            tracing::error!("another");
        });
        let seen = groups.newest(10);
        let short: Vec<_> = seen.iter().map(|g| (g.message.as_str(), g.code.as_str(), g.count)).collect();
        assert_eq!(
            short,
            [("another", "INTERNAL", 1), ("call failed error=port 3 refused", "UNAVAILABLE", 3)]
        );
        assert_eq!(seen[1].first_seen_at, UNIX_EPOCH);
        assert_eq!(seen[1].last_seen_at, UNIX_EPOCH + Duration::from_secs(2));
    }

    #[test]
    fn the_group_not_seen_for_longest_makes_room() {
        let (clock, hand) = Clock::fixed(UNIX_EPOCH);
        let groups = ErrorGroups::new(clock);
        let words: Vec<String> =
            ('a'..='z').flat_map(|a| ('a'..='z').map(move |b| format!("{a}{b}"))).collect();
        let names = words.iter().flat_map(|word| [format!("first {word}"), format!("second {word}")]);
        for name in names.take(MAX_GROUPS + 1) {
            groups.count("target", "INTERNAL".into(), name, String::new());
            hand.advance(Duration::from_secs(1));
        }
        let kept = groups.newest(usize::MAX);
        assert_eq!(kept.len(), MAX_GROUPS);
        assert!(!kept.iter().any(|group| group.message == "first aa"));
    }
}
