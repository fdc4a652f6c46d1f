//! Measures Clone8s beside what does the same work without it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Clone8s beside what does the same work without it; run it with --release and as root
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From CreatePod to the container running, beside `ctr run` of the same image
    Create(clone8s_bench::create::Args),
    /// Two CRI servers side by side: our runtime-shim and containerd's own CRI plugin, or any two sockets
    Cri(clone8s_bench::cri::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Create(args) => clone8s_bench::create::run(&args).await,
        Command::Cri(args) => clone8s_bench::cri::run(&args).await,
    };
    match outcome {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
