//! The controllers as a program of their own.

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use clone8s_controllers::{Config, NODE_GRACE_PERIOD};
use clone8s_daemon::{endpoint::Endpoint, process, telemetry::Telemetry};

/// Places pods on nodes, and looks after nodes that fall silent
#[derive(Debug, Parser)]
#[command(name = "controllers", version)]
struct Args {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Seconds without a heartbeat after which a node counts as silent, and without its object as lost
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = NODE_GRACE_PERIOD.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    node_monitor_grace_period: u64,
    #[command(flatten)]
    telemetry: Telemetry,
}

fn main() -> ExitCode {
    let args = Args::parse();
    process::run(&args.telemetry, async |shutdown| -> anyhow::Result<()> {
        let channel = args.endpoint.channel()?;
        tracing::info!(server = args.endpoint.server, "starting");
        let config = Config {
            channel,
            node_grace_period: Duration::from_secs(args.node_monitor_grace_period),
        };
        clone8s_controllers::run(config, shutdown).await?;
        Ok(())
    })
}
