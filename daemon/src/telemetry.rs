//! Structured logs on standard error, and spans to a collector where one is named.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use http::Uri;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::ParseError, fmt, layer::SubscriberExt as _, registry,
    util::SubscriberInitExt,
};

use crate::{
    supervisor::chain,
    traces::{self, BoxedLayer, Traces, TracesError},
};

/// What libraries tell of each frame and request, and the spans that are for the collector; whoever wants them names them
/// in the filter.
const QUIET: &str = "h2=info,hyper=info,hyper_util=info,rustls=info,tonic=info,tower=info,otel=off";

/// The flags of every program for logs and traces.
#[derive(Debug, Clone, Args)]
pub struct Telemetry {
    /// What to log: a level, or directives such as "info,clone8s_kubelet=debug"
    #[arg(
        long,
        global = true,
        env = "CLONE8S_LOG",
        default_value = "info",
        value_parser = checked,
        value_name = "FILTER",
        help_heading = "Logging"
    )]
    pub log: String,
    /// How to write logs
    #[arg(
        long,
        global = true,
        default_value = "text",
        value_name = "FORMAT",
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,
    /// OpenTelemetry collector that gets traces by OTLP over gRPC, such as http://10.0.0.9:4317 [default: no traces]
    #[arg(
        long,
        global = true,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_parser = collector,
        value_name = "URL",
        help_heading = "Traces"
    )]
    pub otlp_endpoint: Option<String>,
    /// The same for traces alone, where other signals go elsewhere
    #[arg(
        long,
        global = true,
        env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        value_parser = collector,
        value_name = "URL",
        help_heading = "Traces"
    )]
    pub otlp_traces_endpoint: Option<String>,
}

impl Telemetry {
    /// An empty variable is one that is not set (OpenTelemetry specification, §environment variables).
    fn collector(&self) -> Option<&str> {
        let named = |url: &&String| !url.is_empty();
        let url = self.otlp_traces_endpoint.as_ref().filter(named);
        url.or(self.otlp_endpoint.as_ref().filter(named))
            .map(String::as_str)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

/// Installs the process's log writer and, where a collector is named, what sends it spans. Harmless when called again.
///
/// To be called within the process's runtime, which the connection to the collector lives on.
pub fn init(telemetry: &Telemetry) -> Traces {
    let filter = filter(&telemetry.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let writer = match telemetry.log_format {
        LogFormat::Text => fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed(),
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
    };
    match spans(telemetry) {
        Ok(Some((spans, traces))) => {
            install(registry().with(vec![writer.with_filter(filter).boxed(), spans]));
            traces
        }
        // Without the collector's layer the filter is for everything: what it leaves out costs least so.
        Ok(None) => {
            install(registry().with(writer).with(filter));
            Traces::default()
        }
        Err(error) => {
            install(registry().with(writer).with(filter));
            tracing::warn!(error = chain(&error), "no traces");
            Traces::default()
        }
    }
}

/// Installs what sends spans, where a collector is named, and no logs: for programs that write for people. Called as
/// [`init`] is.
pub fn init_traces(telemetry: &Telemetry) -> Result<Traces, TracesError> {
    Ok(spans(telemetry)?.map_or_else(Traces::default, |(spans, traces)| {
        install(registry().with(spans));
        traces
    }))
}

fn spans(telemetry: &Telemetry) -> Result<Option<(BoxedLayer, Traces)>, TracesError> {
    telemetry.collector().map(traces::layer).transpose()
}

fn install(subscriber: impl SubscriberInitExt) {
    // An error only says that one is installed already.
    let _ = subscriber.try_init();
}

/// An empty one names none.
fn collector(url: &str) -> Result<String, &'static str> {
    let scheme = url
        .parse::<Uri>()
        .ok()
        .and_then(|uri| uri.scheme_str().map(str::to_owned));
    match scheme.as_deref() {
        Some("http" | "https") => Ok(url.to_owned()),
        _ if url.is_empty() => Ok(url.to_owned()),
        _ => Err("must be http://HOST:PORT or https://HOST:PORT"),
    }
}

/// Of two directives for the same target the later one counts.
fn filter(words: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("{QUIET},{words}"))
}

fn checked(words: &str) -> Result<String, ParseError> {
    filter(words).map(|_| words.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rstest::rstest;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        telemetry: Telemetry,
    }

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let shown = filter("debug").unwrap().to_string();
        assert!(shown.contains("h2=info") && shown.contains("debug"), "{shown}");
        let shown = filter("info,h2=trace").unwrap().to_string();
        assert!(
            shown.contains("h2=trace") && !shown.contains("h2=info"),
            "{shown}"
        );
    }

    #[test]
    fn a_filter_that_is_none_is_refused_by_its_flag() {
        let error = Program::try_parse_from(["program", "--log", "info,kubelet=loud"]).unwrap_err();
        assert!(error.to_string().contains("--log"), "{error}");
        let program = Program::try_parse_from(["program", "--log", "clone8s_kubelet=debug"]).unwrap();
        assert_eq!(program.telemetry.log, "clone8s_kubelet=debug");
    }

    #[rstest]
    #[case::neither(&[], None)]
    #[case::for_all_signals(&["--otlp-endpoint", "http://a:4317"], Some("http://a:4317"))]
    #[case::for_traces_first(&["--otlp-endpoint", "http://a:4317", "--otlp-traces-endpoint", "https://b"], Some("https://b"))]
    #[case::an_empty_one_is_none(&["--otlp-endpoint", "http://a:4317", "--otlp-traces-endpoint", ""], Some("http://a:4317"))]
    #[case::two_empty_ones(&["--otlp-endpoint", "", "--otlp-traces-endpoint", ""], None)]
    fn traces_go_where_they_are_told_to(#[case] flags: &[&str], #[case] collector: Option<&str>) {
        let program = Program::try_parse_from([&["program"], flags].concat()).unwrap();
        assert_eq!(program.telemetry.collector(), collector);
    }

    #[rstest]
    #[case("collector:4317")]
    #[case("grpc://collector:4317")]
    #[case("/run/collector.sock")]
    fn a_collector_that_cannot_be_reached_by_otlp_is_refused_by_its_flag(#[case] url: &str) {
        let error = Program::try_parse_from(["program", "--otlp-endpoint", url]).unwrap_err();
        assert!(error.to_string().contains("--otlp-endpoint"), "{error}");
        assert!(error.to_string().contains("must be http://"), "{error}");
    }
}
