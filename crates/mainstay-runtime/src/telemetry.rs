mod error_groups;
mod event;
mod export;
mod log;

use std::str::FromStr as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{FilterFn, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::component::ComponentKind;
use crate::config::TelemetryConfig;
use crate::context::Context;
use crate::identity::Identity;
use crate::lifecycle::panic_text;
pub(crate) use error_groups::{ErrorGroup, ErrorGroups};

/// Writes logs and sends spans, from [`Telemetry::start`] until [`Telemetry::flush`].
pub(crate) struct Telemetry {
    provider: SdkTracerProvider,
}

/// Spans waiting to be sent; when it is full, new ones are dropped and the process goes on.
const SPAN_QUEUE: usize = 8192;
/// How long one batch may take to send.
const EXPORT_WITHIN: Duration = Duration::from_secs(3);
/// How long the last batch may hold up the end of the process.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

impl Telemetry {
    /// Installs logs, spans, error groups and the panic hook for the whole process; once, inside the tokio runtime.
    pub(crate) fn start(cx: &Context, settings: &TelemetryConfig) -> anyhow::Result<Self> {
        let provider = tracer_provider(cx, settings)?;
        cx.inner.records_spans.store(!settings.otlp_endpoint.is_empty(), Ordering::Relaxed);
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());

        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("mainstay"))
            // These would put the build machine's paths and thread names on every span.
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(exported(cx.identity()));
        let levels = Targets::from_str(&settings.log).context("telemetry.log cannot be read")?;
        tracing_subscriber::registry()
            .with(spans)
            .with(cx.inner.errors.layer().with_filter(LevelFilter::ERROR))
            .with(log::LogLayer::to_stdout(settings.log_format, cx).with_filter(levels))
            .try_init()
            .context("telemetry was started before")?;
        log_panics();
        Ok(Self { provider })
    }

    /// Sends what is left, within a bound.
    pub(crate) async fn flush(self) {
        // The exporter blocks its caller, and needs the runtime's threads to get anywhere.
        let flush = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(FLUSH_WITHIN));
        if !matches!(tokio::time::timeout(FLUSH_WITHIN, flush).await, Ok(Ok(Ok(())))) {
            tracing::warn!("the last spans could not be sent");
        }
    }
}

fn tracer_provider(cx: &Context, settings: &TelemetryConfig) -> anyhow::Result<SdkTracerProvider> {
    let Identity { service, instance, version } = cx.identity();
    let resource = Resource::builder_empty()
        .with_service_name(*service)
        .with_attribute(KeyValue::new("service.instance.id", instance.clone()))
        .with_attribute(KeyValue::new("service.version", *version))
        .build();
    let builder = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio))));
    if settings.otlp_endpoint.is_empty() {
        // Trace ids are made and passed on all the same.
        return Ok(builder.build());
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&settings.otlp_endpoint)
        .with_timeout(EXPORT_WITHIN)
        .build()
        .context("telemetry.otlp_endpoint cannot be used")?;
    let component = cx.component("otlp", ComponentKind::Upstream, false);
    component.attribute("endpoint", &settings.otlp_endpoint);
    let exporter = export::WatchedExporter::new(exporter, component, &cx.inner.runtime_metrics);
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(SPAN_QUEUE)
        .with_scheduled_delay(settings.export_every)
        .build();
    Ok(builder
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(config).build())
        .build())
}

/// Lets through the spans of our own crates from INFO up, and warnings and errors inside them, whatever the log shows.
fn exported(identity: &Identity) -> FilterFn<impl Fn(&Metadata<'_>) -> bool + use<>> {
    let service = identity.service.replace('-', "_");
    let ours = move |metadata: &Metadata<'_>| {
        let target = metadata.target();
        let least = if metadata.is_span() { LevelFilter::INFO } else { LevelFilter::WARN };
        *metadata.level() <= least && (target.starts_with("mainstay") || target.starts_with(&service))
    };
    FilterFn::new(ours).with_max_level_hint(LevelFilter::INFO)
}

/// Makes a panic a log line like any other, with the place where it happened; who catches it tells what it meant.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        tracing::error!(panic = panic_text(panic.payload()), location, thread, "panicked");
    }));
}
