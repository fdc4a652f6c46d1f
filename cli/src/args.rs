//! The command line: one variant of [`Command`] for each subcommand, its arguments beside its code.

use clap::{Parser, Subcommand};
use clone8s_daemon::telemetry::Telemetry;

use crate::{
    apply::ApplyArgs, attach::AttachArgs, backup::BackupArgs, completions::CompletionsArgs,
    connection::ConnectionArgs, cordon::NodesArgs, cp::CpArgs, debug::DebugArgs, delete::DeleteArgs,
    describe::DescribeArgs, diff::DiffArgs, down::DownArgs, drain::DrainArgs, exec::ExecArgs, get::GetArgs,
    image::ImageArgs, logs::LogsArgs, migrate::MigrateArgs, port_forward::PortForwardArgs, push::PushArgs,
    restore::RestoreArgs, token::TokenArgs, top::TopArgs, up::UpArgs, wait::WaitArgs, watch::WatchArgs,
};

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
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster on this machine, in one process
    Up(Box<UpArgs>),
    /// Stop the cluster of `c8s up` and remove its pods, network and processes
    Down(DownArgs),
    #[command(flatten)]
    Call(Call),
    /// Make images without a registry
    Image(ImageArgs),
    /// Print the completions of a shell, to be sourced by it
    Completions(CompletionsArgs),
    /// Print the version
    Version,
}

/// The commands that make a few calls to a server and end.
#[derive(Debug, Subcommand)]
pub enum Call {
    /// Make the cluster hold what manifests declare
    Apply(ApplyArgs),
    /// Show what an apply would change, and which containers it would restart
    Diff(DiffArgs),
    /// Show objects
    Get(GetArgs),
    /// Show everything about an object, with its events
    Describe(DescribeArgs),
    /// Delete objects and wait until they are gone
    Delete(DeleteArgs),
    /// Give nodes no new pods
    #[command(after_help = "Examples:
  c8s cordon node-1

The pods that run there go on; `c8s uncordon` takes it back.")]
    Cordon(NodesArgs),
    /// Give nodes new pods again
    #[command(after_help = "Examples:
  c8s uncordon node-1")]
    Uncordon(NodesArgs),
    /// Empty nodes: give them no new pods, and evict those that they run
    Drain(DrainArgs),
    /// Show what a container wrote
    Logs(LogsArgs),
    /// Run a command in a container
    Exec(ExecArgs),
    /// Join what a container reads and writes
    Attach(AttachArgs),
    /// Look into a running pod with a container of another image
    Debug(DebugArgs),
    /// Reach ports of a pod on this machine's loopback
    PortForward(PortForwardArgs),
    /// Copy files and folders to and from a container
    Cp(CpArgs),
    /// Show what nodes and pods use
    Top(TopArgs),
    /// Wait until objects are as they are to be
    Wait(WaitArgs),
    /// Show objects as they change
    Watch(WatchArgs),
    /// Make the tokens that nodes join with
    Token(TokenArgs),
    /// Send pods to a kubelet's queue, without any apiserver
    Push(PushArgs),
    /// Write all that the cluster's store holds into a file, while the cluster goes on
    Backup(BackupArgs),
    /// Put a backup back, into a store that no cluster uses
    Restore(RestoreArgs),
    /// Move a stopped cluster from the embedded store into an etcd
    Migrate(MigrateArgs),
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
