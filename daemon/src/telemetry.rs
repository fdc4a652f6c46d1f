//! Structured logs on standard error.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The logging flags of every program.
#[derive(Debug, Clone, Args)]
pub struct Telemetry {
    /// What to log: a level, or directives such as "info,clone8s_kubelet=debug"
    #[arg(
        long,
        global = true,
        env = "CLONE8S_LOG",
        default_value = "info",
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
    let filter = EnvFilter::try_new(&telemetry.log).unwrap_or_else(|_| EnvFilter::new("info"));
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
