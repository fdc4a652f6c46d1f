//! The controllers as a program of their own.

use std::process::ExitCode;

use clap::Parser;
use clone8s_controllers::Config;
use clone8s_daemon::{endpoint::Endpoint, process, telemetry::Telemetry};

/// Places pods on nodes, and looks after nodes that fall silent
#[derive(Debug, Parser)]
#[command(name = "controllers", version)]
struct Args {
    #[command(flatten)]
    endpoint: Endpoint,
    #[command(flatten)]
    telemetry: Telemetry,
}

fn main() -> ExitCode {
    let args = Args::parse();
    process::run(&args.telemetry, async |shutdown| -> anyhow::Result<()> {
        let channel = args.endpoint.channel()?;
        tracing::info!(server = args.endpoint.server, "starting");
        clone8s_controllers::run(Config { channel }, shutdown).await?;
        Ok(())
    })
}
