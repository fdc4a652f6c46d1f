//! The command line: one variant of [`Command`] for each subcommand, its arguments beside its code.

use clap::{Parser, Subcommand};
use clone8s_daemon::telemetry::Telemetry;

use crate::completions::CompletionsArgs;

/// Clone8s: pods on containerd hosts, driven over gRPC
#[derive(Debug, Parser)]
#[command(
    name = "c8s",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Args {
    #[command(flatten)]
    pub telemetry: Telemetry,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the completions of a shell, to be sourced by it
    Completions(CompletionsArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
