//! Two CRI servers side by side: pods, memory, logs and commands, in turn, so that whatever else the machine does
//! meets both.

mod account;
mod client;
mod floor;
mod load;
mod memory;
mod output;
mod report;
mod sides;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clone8s_integration::Sandbox;

use self::{report::Report, sides::Pair};
use crate::machine;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The CRI socket to measure (path); without it, a containerd and our runtime-shim on it are started
    #[arg(long, requires = "versus")]
    socket: Option<PathBuf>,
    /// The CRI socket to compare it with (path); without it, a containerd with its own CRI plugin is started
    #[arg(long, requires = "socket")]
    versus: Option<PathBuf>,
    /// Image of the pods, with a shell and sleep in it; both sockets must know it (needed with --socket)
    #[arg(long, requires = "socket")]
    image: Option<String>,
    /// Pods of each side for each kind of network and each number at a time
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pods: u32,
    /// How many pods at a time (repeatable, or separated by commas)
    #[arg(long, value_delimiter = ',', default_values_t = [1, 5, 10])]
    at_a_time: Vec<u32>,
    /// How many pods there are when the servers' memory is read (separated by commas, rising; none: 0)
    #[arg(long, value_delimiter = ',', default_values_t = [50, 200])]
    memory_at: Vec<u32>,
    /// Output of one container for the log's throughput (MB; none: 0)
    #[arg(long, default_value_t = 256)]
    log_megabytes: u64,
    /// ExecSync round trips of each side
    #[arg(long, default_value_t = 50)]
    execs: u32,
    /// Folder of our programs (path); without it they are built, in the bench's own profile
    #[arg(long, conflicts_with = "socket")]
    programs: Option<PathBuf>,
    /// Leave out the floors: containerd's own API and the OCI runtime alone
    #[arg(long)]
    no_floor: bool,
}

/// Which network the pods have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Host,
    Pod,
}

/// Measures, and gives a report in Markdown.
pub async fn run(args: &Args) -> anyhow::Result<String> {
    let sandbox = Sandbox::new();
    let pair = match (&args.socket, &args.versus) {
        (Some(socket), Some(versus)) => {
            let image = args
                .image
                .as_deref()
                .context("--image: needed for sockets that this program has not started")?;
            Pair::given(&sandbox, socket, versus, image).await?
        }
        _ => Pair::started(&sandbox, args.programs.as_deref()).await?,
    };
    let outcome = Box::pin(measure(args, &pair, &sandbox)).await;
    for side in pair.sides() {
        side.remove_everything().await;
    }
    outcome
}

async fn measure(args: &Args, pair: &Pair, sandbox: &Sandbox) -> anyhow::Result<String> {
    if args.at_a_time.contains(&0) {
        bail!("--at-a-time: 0 pods at a time is no load");
    }
    let mut report = Report::new(pair.sides().map(|side| side.name.clone()), &machine::describe());
    note("warm-up");
    for side in pair.sides() {
        for network in [Network::Host, Network::Pod] {
            load::round(side, network, 2, 1).await?;
        }
    }
    if !args.memory_at.iter().all(|&pods| pods == 0) {
        note("memory");
        report.memory(memory::measure(pair, &args.memory_at).await?);
    }
    for network in [Network::Host, Network::Pod] {
        for &at_a_time in &args.at_a_time {
            note(&format!("{network:?} network, {at_a_time} at a time"));
            let loads = load::measure(pair, network, args.pods, at_a_time).await?;
            report.load(network, at_a_time, &loads);
        }
    }
    if args.log_megabytes > 0 {
        note("log throughput");
        report.logs(output::logs(pair, sandbox, args.log_megabytes).await?);
    }
    if args.execs > 0 {
        note("ExecSync");
        report.execs(&Box::pin(output::execs(pair, args.execs)).await?);
    }
    if let (false, Some(containerd)) = (args.no_floor, pair.containerd()) {
        note("floors");
        report.floors(&floor::measure(containerd, sandbox, args.pods.min(50)).await?);
    }
    Ok(report.finish())
}

/// For whoever waits: the report itself goes to standard output.
fn note(step: &str) {
    eprintln!("bench cri: {step}");
}
