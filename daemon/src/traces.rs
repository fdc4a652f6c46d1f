//! Spans to an OpenTelemetry collector, where one is named.
//!
//! Spans for the collector are apart from those of the logs: their names and fields are OpenTelemetry's, and nobody has to
//! read them in a log. They have a target of their own, [`TARGET`], and the level TRACE. Without a collector nothing wants
//! that target, so that a place in the code that makes such a span costs one comparison.
//!
//! ```text
//! span ends ─► the SDK's queue (2,048 spans; what comes while it is full is dropped) ─► its thread ─► OTLP over gRPC
//! ```

mod exporter;
pub(crate) mod rpc;
pub mod server;

use std::time::Duration;

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::task::spawn_blocking;
use tracing::Level;
use tracing_subscriber::{Layer, Registry, filter::Targets};

/// The target of the spans that are for the collector.
pub const TARGET: &str = "otel";

/// What is still in the queue may take this long to reach the collector when a program ends.
const FLUSH: Duration = Duration::from_secs(2);

/// The way of a program's spans to the collector; none where no collector is named.
#[derive(Debug, Default)]
#[must_use = "what the queue holds at the end is lost unless it is flushed"]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Sends what the queue still holds, for two seconds at most; spans that end later are dropped.
    pub async fn flush(self) {
        let Some(provider) = self.0 else { return };
        // It waits for the queue's thread, whose calls need this runtime. Its error says no more than the exporter did.
        let _ = spawn_blocking(move || provider.shutdown_with_timeout(FLUSH)).await;
    }
}

/// Why no spans can be sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot send traces to {collector}: correct it, or the OTEL_… variable that is named")]
pub struct TracesError {
    collector: String,
    #[source]
    cause: ExporterBuildError,
}

pub(crate) type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The layer that sends spans to the collector at this URL, and what flushes it. Everything but the URL is said by the
/// `OTEL_…` variables that the SDK reads.
pub(crate) fn layer(collector: &str) -> Result<(BoxedLayer, Traces), TracesError> {
    let exporter = exporter::to(collector).map_err(|cause| TracesError {
        collector: collector.to_owned(),
        cause,
    })?;
    let provider = SdkTracerProvider::builder()
        .with_resource(resource(&program()))
        .with_batch_exporter(exporter)
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("clone8s"))
        // Parents are known from the spans themselves.
        .with_context_activation(false)
        .with_location(false)
        .with_threads(false)
        .with_level(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target(TARGET, Level::TRACE));
    Ok((layer.boxed(), Traces(Some(provider))))
}

/// What the environment says of this process, which has its program's name where no other is given.
fn resource(program: &str) -> Resource {
    /// The SDK's, for a process that nobody has named.
    const UNNAMED: &str = "unknown_service";
    const SERVICE_NAME: &str = "service.name";
    let told = Resource::builder().build();
    let is_named = told
        .get(&SERVICE_NAME.into())
        .is_some_and(|name| !name.as_str().starts_with(UNNAMED));
    if is_named {
        return told;
    }
    let name = KeyValue::new(SERVICE_NAME, program.to_owned());
    Resource::builder().with_attribute(name).build()
}

fn program() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_nobody_has_named_has_its_programs_name() {
        let resource = resource("kubelet");
        assert_eq!(
            resource.get(&"service.name".into()).map(|name| name.to_string()),
            Some("kubelet".to_owned())
        );
    }
}
