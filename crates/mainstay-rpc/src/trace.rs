//! W3C trace context (`traceparent`, `tracestate`) over HTTP headers, which are also gRPC metadata.
//!
//! Format: <https://www.w3.org/TR/trace-context/>. Baggage is not carried.

use http::{HeaderMap, HeaderValue};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

pub(crate) const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Reads the caller's span; an empty context when there is none or it is malformed.
pub fn extract(headers: &HeaderMap) -> Context {
    match remote_span(headers) {
        Some(span) => Context::new().with_remote_span_context(span),
        None => Context::new(),
    }
}

/// Writes the current span, if it has an identity; without a tracer it has none and nothing is written.
pub fn inject(headers: &mut HeaderMap) {
    inject_span(&Span::current(), headers);
}

/// Returns the current span as a `traceparent` value, e.g. for an SQL comment or a message header.
pub fn traceparent() -> Option<String> {
    span_context(&Span::current()).as_ref().map(format)
}

/// Tells whether the current trace is recorded, as far as was decided.
pub fn is_sampled() -> bool {
    span_context(&Span::current()).is_some_and(|context| context.is_sampled())
}

/// Returns the current trace id as 32 hex digits.
pub fn trace_id() -> Option<String> {
    span_context(&Span::current()).map(|context| context.trace_id().to_string())
}

/// Tells whether a method only asks how the service is: health and introspection, called every second by probes.
pub(crate) fn is_routine(method: &str) -> bool {
    method.starts_with("grpc.health.") || method.starts_with("mainstay.introspect.")
}

/// Tells whether the caller has decided that this trace is not recorded.
pub(crate) fn is_left_out(headers: &HeaderMap) -> bool {
    headers.contains_key(TRACEPARENT) && remote_span(headers).is_some_and(|span| !span.is_sampled())
}

pub(crate) fn inject_span(span: &Span, headers: &mut HeaderMap) {
    let Some(context) = span_context(span) else { return };
    if let Ok(value) = HeaderValue::try_from(format(&context)) {
        headers.insert(TRACEPARENT, value);
    }
    let state = context.trace_state().header();
    if !state.is_empty()
        && let Ok(value) = HeaderValue::try_from(state)
    {
        headers.insert(TRACESTATE, value);
    }
}

fn span_context(span: &Span) -> Option<SpanContext> {
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

fn format(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8() & 1)
}

fn remote_span(headers: &HeaderMap) -> Option<SpanContext> {
    let mut parts = headers.get(TRACEPARENT)?.to_str().ok()?.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = lower_hex(version, 2).and_then(|v| u8::from_str_radix(v, 16).ok())?;
    // A later version may append fields; ours has exactly four, and ff is forbidden.
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let trace = TraceId::from_hex(lower_hex(trace, 32)?).ok()?;
    let span = SpanId::from_hex(lower_hex(span, 16)?).ok()?;
    let flags = u8::from_str_radix(lower_hex(flags, 2)?, 16).ok()?;
    let state = headers.get(TRACESTATE).and_then(|value| value.to_str().ok());
    let state = state.and_then(|value| value.parse::<TraceState>().ok()).unwrap_or_default();
    let context = SpanContext::new(trace, span, TraceFlags::new(flags & 1), true, state);
    context.is_valid().then_some(context)
}

fn lower_hex(text: &str, digits: usize) -> Option<&str> {
    let legal = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    legal.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_looks_at_the_service_itself_are_routine() {
        assert!(is_routine("grpc.health.v1.Health/Check"));
        assert!(is_routine("mainstay.introspect.v1.Introspection/Components"));
        assert!(!is_routine("mainstay.cache.v1.CacheService/Get"));
    }

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn with(traceparent: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(TRACEPARENT),
            HeaderValue::from_str(traceparent).unwrap(),
        )])
    }

    #[test]
    fn a_valid_parent_is_read_and_written_unchanged() {
        let context = remote_span(&with(VALID)).unwrap();
        assert!(context.is_remote() && context.is_sampled());
        assert_eq!(format(&context), VALID);
    }

    #[test]
    fn a_malformed_parent_is_no_parent() {
        let cases = [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
        ];
        for case in cases {
            assert!(remote_span(&with(case)).is_none(), "{case}");
        }
    }

    #[test]
    fn a_later_version_with_more_fields_is_understood() {
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(remote_span(&with(later)).is_some());
    }

    #[test]
    fn without_a_tracer_nothing_is_written() {
        let mut headers = HeaderMap::new();
        inject(&mut headers);
        assert!(headers.is_empty());
        assert_eq!(traceparent(), None);
        assert_eq!(trace_id(), None);
    }
}
