//! `c8s drain`: empties nodes, so that they can be stopped.
//!
//! ```text
//! cordon ─► watch the node's pods ─► evict each that is there ─► until none is
//! ```
//! The watch goes on to the end, so that a pod which was on its way to the node is met too.

mod node;

use std::{io::Write, time::Duration};

use anyhow::Result;
use clap::Args;
use clone8s_daemon::channel::Channel;

use self::node::Draining;
use crate::{
    cordon::{self, Taking},
    status::none_failed,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s drain node-1
  c8s drain node-1 --dry-run
  c8s drain node-1 -l app=web --grace-period 5 --timeout 60

The node takes no new pods from then on; `c8s uncordon` takes it back. Pods that no program makes anew elsewhere are gone for \
good. Pods of the node's manifest folder and of its queue are its own: they are named, and run on.")]
pub struct DrainArgs {
    /// The nodes
    #[arg(value_name = "NODE", required = true)]
    names: Vec<String>,
    /// Evict only the pods with these labels, such as "app=web,tier in (a,b)"
    #[arg(
        short = 'l',
        long = "selector",
        value_name = "SELECTOR",
        default_value = "",
        hide_default_value = true
    )]
    label_selector: String,
    /// Seconds between a pod's stop signal and the kill [default: the pod's own]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i32).range(0..))]
    grace_period: Option<i32>,
    /// How long each node may take, in seconds; 0 means as long as it takes
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Say which pods would be evicted, and let the server try it, without doing it
    #[arg(long)]
    dry_run: bool,
}

impl DrainArgs {
    fn timeout(&self) -> Option<Duration> {
        (self.timeout > 0).then(|| Duration::from_secs(self.timeout))
    }
}

/// Goes through all nodes even when some fail, then fails with what failed.
pub async fn run(args: &DrainArgs, channel: &Channel, out: &mut impl Write) -> Result<()> {
    let mut errors = Vec::new();
    for name in &args.names {
        if let Err(error) = drain(args, channel, name, out).await {
            errors.push(format!("node/{name}: {error:#}"));
        }
    }
    none_failed(&errors)
}

async fn drain(args: &DrainArgs, channel: &Channel, name: &str, out: &mut impl Write) -> Result<()> {
    if args.dry_run {
        node::check(channel, name).await?;
        writeln!(out, "node/{name} cordoned (dry run)")?;
        return node::try_evictions(args, channel, name, out).await;
    }
    cordon::set(channel, name, Taking::NoPods).await?;
    writeln!(out, "node/{name} cordoned")?;
    out.flush()?;
    let mut draining = Draining::new(args, channel, name);
    let drained = match args.timeout() {
        Some(limit) => tokio::time::timeout(limit, draining.run(out)).await,
        None => Ok(draining.run(out).await),
    };
    match drained {
        Ok(drained) => drained?,
        Err(_) => return Err(draining.late(args.timeout)),
    }
    writeln!(out, "node/{name} drained")?;
    Ok(())
}
