use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Value as Json, json};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context as LayerContext;

use super::event::{EventFields, current_trace};
use crate::clock::Clock;
use crate::config::LogFormat;
use crate::context::Context;

/// Writes each event as one line, with the trace it belongs to.
pub(super) struct LogLayer {
    format: LogFormat,
    clock: Clock,
    service: &'static str,
    instance: String,
    write: Box<dyn Fn(&str) + Send + Sync>,
}

impl LogLayer {
    pub(super) fn to_stdout(format: LogFormat, cx: &Context) -> Self {
        // Nobody is left to tell when standard output is gone.
        Self::new(format, cx, Box::new(|line| drop(std::io::stdout().lock().write_all(line.as_bytes()))))
    }

    fn new(format: LogFormat, cx: &Context, write: Box<dyn Fn(&str) + Send + Sync>) -> Self {
        let identity = cx.identity();
        let (clock, service, instance) = (cx.clock().clone(), identity.service, identity.instance.clone());
        Self { format, clock, service, instance, write }
    }

    fn human(&self, event: &Event<'_>) -> String {
        let EventFields { message, fields } = EventFields::of(event);
        let metadata = event.metadata();
        let at = humantime::format_rfc3339_millis(self.clock.now());
        let mut line =
            format!("{at} {:>5} {}: {}", metadata.level().as_str(), metadata.target(), in_one_line(&message));
        let mut put = |name: &str, value: &str| {
            write!(line, " {name}={value}").expect("writing to a string does not fail");
        };
        for (name, value) in &fields {
            put(
                name,
                &match value {
                    Json::String(text) => quoted(text),
                    other => other.to_string(),
                },
            );
        }
        if let Some(span) = current_trace() {
            put("trace_id", &span.trace_id().to_string());
        }
        line.push('\n');
        line
    }

    fn json(&self, event: &Event<'_>) -> String {
        let EventFields { message, fields } = EventFields::of(event);
        let metadata = event.metadata();
        let mut line = json!({
            "timestamp": humantime::format_rfc3339_micros(self.clock.now()).to_string(),
            "level": metadata.level().as_str(),
            "target": metadata.target(),
            "message": message,
            "service": self.service,
            "instance": self.instance,
        });
        if !fields.is_empty() {
            line["fields"] = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        }
        if let Some(span) = current_trace() {
            line["trace_id"] = span.trace_id().to_string().into();
            line["span_id"] = span.span_id().to_string().into();
        }
        format!("{line}\n")
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let line = match self.format {
            LogFormat::Human => self.human(event),
            LogFormat::Json => self.json(event),
        };
        (self.write)(&line);
    }
}

/// Quotes a text that would not read as one word.
fn quoted(text: &str) -> String {
    let plain = !text.is_empty()
        && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && !"\"=\\".contains(c));
    if plain { text.to_owned() } else { Json::from(text).to_string() }
}

/// Keeps whoever chose a text from writing lines, or to the terminal, of their own.
fn in_one_line(text: &str) -> String {
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use parking_lot::Mutex;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn lines_of(format: LogFormat, work: impl FnOnce()) -> Vec<String> {
        let (clock, _) = Clock::fixed(UNIX_EPOCH + Duration::from_millis(1500));
        let cx = Context::for_test_at("cache-service", clock);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let layer = LogLayer::new(format, &cx, Box::new(move |line| sink.lock().push(line.to_owned())));
        let tracer = SdkTracerProvider::builder().build().tracer("test");
        let subscriber = tracing_subscriber::registry()
            .with(tracing_opentelemetry::layer().with_tracer(tracer))
            .with(layer);
        tracing::subscriber::with_default(subscriber, work);
        Arc::try_unwrap(lines).expect("the subscriber is gone").into_inner()
    }

    #[test]
    fn human_line_is_one_line_whatever_the_text() {
        let lines = lines_of(LogFormat::Human, || {
            tracing::warn!(key = "a b\nINFO fake", port = 4010, plain = "word", "two\nlines");
        });
        assert_eq!(
            lines,
            [concat!(
                "1970-01-01T00:00:01.500Z  WARN mainstay_runtime::telemetry::log::tests: two\\nlines ",
                "key=\"a b\\nINFO fake\" port=4010 plain=word\n"
            )]
        );
    }

    #[test]
    fn json_line_inside_a_request_carries_its_trace() {
        let lines = lines_of(LogFormat::Json, || {
            let cause = std::io::Error::other("disk full");
            let error = anyhow::Error::new(cause).context("cannot save");
            tracing::info!("outside");
            let _entered = tracing::info_span!("request").entered();
            tracing::error!(error = &*error as &(dyn std::error::Error + 'static), "inside");
        });
        let [outside, inside]: [Json; 2] =
            [0, 1].map(|line: usize| serde_json::from_str(&lines[line]).expect("a line is JSON"));
        assert_eq!(outside.get("trace_id"), None);
        assert_eq!(inside["trace_id"].as_str().map(str::len), Some(32));
        assert_eq!(inside["span_id"].as_str().map(str::len), Some(16));
        assert_eq!(inside["fields"]["error"], "cannot save: disk full");
        assert_eq!(inside["service"], "cache-service");
    }
}
