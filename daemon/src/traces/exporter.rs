//! OTLP over gRPC, and a word in the log when it does not work.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry_otlp::{ExporterBuildError, RetryPolicy, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};
use tonic::transport::ClientTlsConfig;

/// Connects on first use, and again after every break; with https, to who is certified by one of the system's roots.
pub(super) fn to(collector: &str) -> Result<impl SpanExporter + use<>, ExporterBuildError> {
    let mut builder = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(collector)
        // A batch that is lost is worth less than a program that ends at once.
        .with_retry_policy(RetryPolicy::disabled());
    if collector.starts_with("https://") {
        builder = builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    Ok(Told {
        exporter: builder.build()?,
        collector: collector.to_owned(),
        is_failing: AtomicBool::new(false),
    })
}

/// Says once that spans do not arrive, and once that they do again.
#[derive(Debug)]
struct Told<E> {
    exporter: E,
    collector: String,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Told<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(outcome.is_err(), Ordering::Relaxed);
        let collector = &self.collector;
        match &outcome {
            Err(error) if !was_failing => {
                tracing::warn!(collector, %error, "spans do not reach the collector; they are dropped until they do");
            }
            Ok(()) if was_failing => tracing::info!(collector, "spans reach the collector again"),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
