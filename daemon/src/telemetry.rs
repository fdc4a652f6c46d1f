//! Structured logs on standard error.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::{
    EnvFilter, filter::ParseError, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// What libraries tell of each frame and request; whoever wants it names them in the filter.
const QUIET: &str = "h2=info,hyper=info,hyper_util=info,rustls=info,tonic=info,tower=info";

/// The logging flags of every program.
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

/// Installs the process's log writer; harmless when called again.
pub fn init(telemetry: &Telemetry) {
    let filter = filter(&telemetry.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // An error only says that a writer is installed already.
    let _ = match telemetry.log_format {
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_ansi(std::io::stderr().is_terminal()),
            )
            .try_init(),
        LogFormat::Json => registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    };
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
}
