use std::error::Error;
use std::fmt;

use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use serde_json::Value as Json;
use tracing::field::{Field, Visit};

/// The message and the fields of one log event.
#[derive(Default)]
pub(super) struct EventFields {
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Json)>,
}

impl EventFields {
    pub(super) fn of(event: &tracing::Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn put(&mut self, field: &Field, value: Json) {
        match (field.name(), value) {
            ("message", Json::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for EventFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        // Our errors do not repeat their source in their text.
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        self.put(field, text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

/// Returns the span that is entered on this thread, if it is part of a trace. It asks OpenTelemetry and not `tracing`,
/// which must not be asked from inside one of its layers.
pub(super) fn current_trace() -> Option<SpanContext> {
    opentelemetry::Context::map_current(|cx| {
        let span = cx.span().span_context().clone();
        span.is_valid().then_some(span)
    })
}
